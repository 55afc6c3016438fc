// Sessions, names of senders and QoS 2 identifiers have room of their own: whoever makes them up
// costs no reading, and nobody else his.
#include <algorithm>

#include "base/limits.h"
#include "storage/engine/engine.h"
#include "storage/engine/sessions.h"
#include "storage/engine/space.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

constexpr std::int64_t kHour = 3'600'000, kDay = 24 * kHour, kMiB = 1 << 20;

class OwnRoomTest : public testing::Test {
 protected:
  void SetUp() override { open(); }
  void open() {
    engine.reset();
    options.path = dir / "wayside.db";
    options.budget_bytes = 40 * kMiB;  // 24 of it for the database
    options.segment_rows = 1000;
    engine = must(Engine::open(options, clock, logger));
    must(engine->ensure_topics(std::vector<TopicSpec>{{"a", 1, 7 * kDay, kUnbounded, {}}}));
  }
  TpId tp() { return engine->catalog().find("a")->partitions.at(0).tp; }
  OpenSession session(const std::string& id, std::uint64_t origin, bool close = true) {
    Batch b = batch_of({OpenSession{id, false, 0xFFFFFFFF, {}, {}, {}, origin}});
    must(commit(*engine, b));
    const auto opened = std::get<OpenSession>(b.ops.front());
    if (close && opened.session_id > 0) {
      must(commit(*engine, {CloseSession{opened.session_id, 0xFFFFFFFF}}));
    }
    return opened;
  }
  std::shared_ptr<Source> source(const std::string& id, const std::string& topic,
                                 std::uint64_t origin) {
    auto s = std::make_shared<Source>(Source{id, topic});
    s->origin = origin;
    return s;
  }
  void send(const std::shared_ptr<Source>& s, int n = 1, std::size_t size = 20) {
    std::vector<Op> ops;
    for (int i = 0; i < n; ++i) {
      Append a = reading(tp(), "k", std::string(size, 'x'));
      a.source = s;
      ops.emplace_back(std::move(a));
    }
    must(commit(*engine, ops));
    must(engine->roll_full_segments());
  }
  void maintain(std::int64_t ms) {
    for (const std::int64_t end = clock.steady_ms() + ms; clock.steady_ms() < end;) {
      clock.advance(std::max<std::int64_t>(1001, ms / 30));
      for (int i = 0; i < 1000 && must(engine->maintain()); ++i) {
      }
    }
  }
  std::int64_t number(const std::string& sql) {
    LogReader reader = must(LogReader::open(options.path));
    return must(reader.number(sql));
  }

  TempDir dir;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
  EngineOptions options;
  std::unique_ptr<Engine> engine;
};

TEST_F(OwnRoomTest, ReadingsAreNotPaidForSessions) {
  send(source("device", "t", 1), 500, 20'000);  // 10 MB
  maintain(5000);
  ASSERT_EQ(number("SELECT log_start FROM _ws_partitions"), 0);
  int kept = 0;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    kept += session(std::to_string(i) + std::string(1000, 'x'), 2 + i % 500).not_kept ? 0 : 1;
    if (i % 64 == 0) must(engine->roll_full_segments());
    if (i % 20 == 0) clock.advance(500);
  }
  maintain(5000);
  EXPECT_EQ(number("SELECT log_start FROM _ws_partitions"), 0) << "no reading went";
  EXPECT_GT(kept, 1000) << "those that never sent anything went first";
  EXPECT_LE(number("SELECT sum(length(client_id)) FROM _ws_sessions"),
            engine->sessions().bytes_most());
  EXPECT_FALSE(session("device", 3).not_kept) << "it has stored a reading";
  EXPECT_TRUE(session("device", 3).present);
}

// A topic with a bound of its own pays for itself, though what others hold is older.
TEST_F(OwnRoomTest, WhatIsOverItsBoundGoesBeforeWhatIsOlder) {
  must(engine->ensure_topics(std::vector<TopicSpec>{
      {"a", 1, 7 * kDay, kUnbounded, {}}, {"bounded", 1, 7 * kDay, 4 * kMiB, {}}}));
  send(source("device", "t", 1), 500, 20'000);  // 10 MB of 24
  const TpId bounded = engine->catalog().find("bounded")->partitions.at(0).tp;
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {  // 60 MB, and no time for retention to act
    if (!commit(*engine, {reading(bounded, "k", std::string(20'000, 'x'))})) {
      ++refused;
      must(engine->space().make_room());
    }
    must(engine->roll_full_segments());
  }
  EXPECT_LT(refused, 300);
  EXPECT_EQ(number("SELECT log_start FROM _ws_partitions JOIN _ws_topics USING (topic_id)"
                   " WHERE name = 'a'"),
            0);
}

TEST_F(OwnRoomTest, OneAddressOpensSoManySessionsAndOthersStillCan) {
  int kept = 0;
  for (int i = 0; i < 600; ++i) {
    kept += session("made-up-" + std::to_string(i), 7).not_kept ? 0 : 1;
  }
  EXPECT_EQ(kept, limits::kNewSessionsOfAddress);
  EXPECT_FALSE(session("new device", 8).not_kept);
  send(source("made-up-599", "t", 7));
  EXPECT_FALSE(session("made-up-599", 7).not_kept) << "it has stored a reading since";
  clock.advance(10 * limits::kNewSessionEveryMs);
  EXPECT_FALSE(session("made-up-598", 7).not_kept);
}

// Nothing is counted for what a transaction did that failed.
TEST_F(OwnRoomTest, WhatFailedIsNotCountedForItsAddress) {
  must(engine->ensure_topics(std::vector<TopicSpec>{{"b", 1, 7 * kDay, kUnbounded, {}}}));
  const TpId gone = engine->catalog().find("b")->partitions.at(0).tp;
  must(engine->delete_topic("b"));
  for (int i = 0; i < 600; ++i) {
    const std::string id = "try-" + std::to_string(i);
    ASSERT_FALSE(commit(*engine, {OpenSession{id, false, 0xFFFFFFFF, {}, {}, {}, 7},
                                  reading(gone, "k", "v")}));
  }
  int kept = 0;
  for (int i = 0; i < 600; ++i) {
    kept += session("made-up-" + std::to_string(i), 7).not_kept ? 0 : 1;
  }
  EXPECT_EQ(kept, limits::kNewSessionsOfAddress);
  Share share;
  share.begin();
  share.add(7, 100);
  share.rolled_back();
  share.begin();
  EXPECT_TRUE(share.allows(7, 100, 800, 1600));
  share.add(7, 100);
  EXPECT_FALSE(share.allows(7, 100, 900, 1600));
}

// Or it would count as connected until the next start, and never expire.
TEST_F(OwnRoomTest, ASessionWhoseCloseFailedIsClosedLater) {
  must(engine->ensure_topics(std::vector<TopicSpec>{{"b", 1, 7 * kDay, kUnbounded, {}}}));
  const TpId gone = engine->catalog().find("b")->partitions.at(0).tp;
  must(engine->delete_topic("b"));
  const auto away = session("away", 1, false), back = session("back", 1, false);
  for (const auto& s : {away, back}) {
    ASSERT_FALSE(
        commit(*engine, {CloseSession{s.session_id, 3600}, reading(gone, "k", "v")}));
  }
  EXPECT_TRUE(session("back", 1, false).present);
  maintain(5000);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sessions WHERE disconnected_ms > 0"), 1);
  maintain(2 * kHour);
  EXPECT_EQ(number("SELECT session_id FROM _ws_sessions"), back.session_id);
}

// Each has stored a reading, so none is a stranger any more.
TEST_F(OwnRoomTest, ClientsThatEachStoredAReadingDoNotKeepNewDevicesOut) {
  const auto stored_one = [&](const std::string& id, std::uint64_t origin) {
    send(source(id, "t", origin));
    return session(id, origin);
  };
  (void)stored_one("old device", 1);
  for (std::uint64_t i = 0; i < 70; ++i) {  // 7 KB each
    (void)stored_one(std::to_string(i) + std::string(1000, 'x'), 10 + i);
    clock.advance(10);
  }
  const auto open = session("holds one", 3, false);
  must(commit(*engine, {AddQos2Id{open.session_id, 9}}));
  must(commit(*engine, {CloseSession{open.session_id, 0xFFFFFFFF}}));
  for (std::uint64_t i = 0; i < 25; ++i) {  // as many as there is room for names
    const std::string id = "more " + std::to_string(i) + std::string(1000, 'x');
    EXPECT_FALSE(stored_one(id, 100 + i).not_kept) << i;
    clock.advance(10);
  }
  EXPECT_FALSE(stored_one("new device", 4).not_kept);
  EXPECT_TRUE(session("new device", 4).present);
  EXPECT_TRUE(session("old device", 1).present);
  EXPECT_EQ(session("holds one", 3).qos2_ids, std::vector<std::uint16_t>{9});
  EXPECT_LE(engine->sessions().bytes(), engine->sessions().bytes_most());
}

TEST_F(OwnRoomTest, ASessionWithAnIdentifierIsNeverEndedForOthers) {
  const auto honest = session("honest", 1, false);
  must(commit(*engine, {AddQos2Id{honest.session_id, 9}}));
  must(commit(*engine, {CloseSession{honest.session_id, 0xFFFFFFFF}}));
  for (std::uint64_t i = 0; i < 1500; ++i) {
    (void)session(std::to_string(i) + std::string(1000, 'x'), 2 + i);
  }
  EXPECT_EQ(session("honest", 1).qos2_ids, std::vector<std::uint16_t>{9});
}

TEST_F(OwnRoomTest, WhatNeverStoredAReadingIsForgottenAfterADay) {
  (void)session("never", 1);
  (void)session("device", 1);
  send(source("device", "t", 1));
  maintain(kHour);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sessions"), 2);
  clock.advance(2 * kDay);
  maintain(kHour);
  EXPECT_FALSE(session("never", 1).present);
  EXPECT_TRUE(session("device", 1).present);
}

TEST_F(OwnRoomTest, NamesOfOneAddressLeaveRoomForOthers) {
  std::shared_ptr<Source> last;
  for (int i = 0; i < 50; ++i) {
    std::vector<Op> ops;
    for (int k = 0; k < 100; ++k) {
      last = source("one", std::to_string(i * 100 + k) + std::string(50, 't'), 7);
      ops.emplace_back(reading(tp(), "k", "v"));
      std::get<Append>(ops.back()).source = last;
    }
    must(commit(*engine, ops));
    must(engine->roll_full_segments());
  }
  EXPECT_EQ(last->id, -1) << "its own name is not kept any more";
  const auto honest = source("honest", "t", 8);
  send(honest);
  EXPECT_GT(honest->id, 0);
}

TEST_F(OwnRoomTest, ANameIsForgottenWithItsLastRecordAndNoIdIsGivenTwice) {
  const auto gone = source("gone", "t", 1), stays = source("stays", "t", 1);
  send(gone, 10);
  send(stays, 10);
  const std::int64_t gone_id = gone->id;
  for (int day = 0; day < 12; ++day) {  // segments of the day it was there expire
    send(stays, 1000);
    clock.advance(kDay);
    maintain(1'300'000);
  }
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sources WHERE client_id='gone'"), 0);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sources WHERE client_id='stays'"), 1);
  send(gone);  // its connection still has the old id
  EXPECT_GT(gone->id, gone_id);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sources WHERE client_id='gone'"), 1);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_chain_1 WHERE src NOT IN (SELECT src FROM"
                   " _ws_sources)"),
            0)
      << "every record names one that is there";
}

TEST_F(OwnRoomTest, ATopicKeptForEverKeepsItsNamesAndNoOthers) {
  must(engine->ensure_topics(std::vector<TopicSpec>{{"a", 1, 7 * kDay, kUnbounded, {}},
                                                    {"f", 1, kForever, kUnbounded, {}}}));
  const TpId for_ever = engine->catalog().find("f")->partitions.at(0).tp;
  const auto old = source("old", "t", 1);
  Append kept = reading(for_ever, "k", "v");
  kept.source = old;
  must(commit(*engine, {kept}));
  std::shared_ptr<Source> last;
  for (int i = 0; last == nullptr || last->id > 0; ++i) {
    std::vector<Op> ops;
    for (int k = 0; k < 100; ++k) {
      last = source("flood", std::to_string(i * 100 + k) + std::string(200, 't'), 0);
      ops.emplace_back(reading(tp(), "k", "v"));
      std::get<Append>(ops.back()).source = last;
    }
    must(commit(*engine, ops));
    must(engine->roll_full_segments());
  }
  const auto device = source("device", std::string(300, 't'), 2);
  send(device);
  EXPECT_EQ(device->id, -1) << "while there is no room";
  for (int day = 0; day < 12; ++day) {
    send(device, 1000);
    clock.advance(kDay);
    maintain(400'000);
  }
  send(device);
  EXPECT_GT(device->id, 0);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sources WHERE client_id='old'"), 1);
  EXPECT_LT(number("SELECT count(*) FROM _ws_sources WHERE client_id='flood'"), 100);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_chain_1 WHERE src NOT IN (SELECT src FROM"
                   " _ws_sources)"),
            0);
}

TEST_F(OwnRoomTest, TheHighestIdStaysSoThatItIsNotGivenAgain) {
  const auto first = source("first", "t", 1);
  send(first, 1000);
  const auto last = source("last", "t", 1);
  send(last, 10);
  for (int day = 0; day < 12; ++day) {
    send(first, 1000);
    clock.advance(kDay);
    maintain(1'300'000);
  }
  const auto next = source("next", "t", 1);
  send(next);
  EXPECT_GT(next->id, last->id);
}

TEST_F(OwnRoomTest, Qos2IdentifiersAreBoundedAndWhoHasFewIsServed) {
  const std::int64_t most = engine->sessions().qos2_bytes_most() / limits::kQos2IdBytes;
  std::int64_t added = 0;
  std::string refused;
  for (std::uint64_t s = 0; refused.empty(); ++s) {
    const auto id = session("flood-" + std::to_string(s), 100 + s, false).session_id;
    ASSERT_GT(id, 0);
    for (int i = 1; i <= 1000 && refused.empty(); i += 50) {
      std::vector<Op> ops;
      for (int k = 0; k < 50; ++k) {
        ops.emplace_back(AddQos2Id{id, static_cast<std::uint16_t>(i + k), 100 + s});
      }
      Batch b = batch_of(ops);
      refused = must(engine->sessions().refusal(b));
      if (refused.empty()) must(commit(*engine, b));
      added += refused.empty() ? 50 : 0;
    }
  }
  EXPECT_GE(added, most / 2 - 1000);
  EXPECT_LE(added, most);
  const auto honest = session("honest", 5, false).session_id;
  Batch one = batch_of({AddQos2Id{honest, 1, 5}});
  EXPECT_EQ(must(engine->sessions().refusal(one)), "");
  Batch release = batch_of({RemoveQos2Id{honest, 1}, AddQos2Id{honest, 2, 5}});
  EXPECT_EQ(must(engine->sessions().refusal(release)), "");
}

TEST_F(OwnRoomTest, Qos2IdentifiersOfOneAddressLeaveRoomForOthers) {
  const std::uint64_t evil = 7;
  int refused = 0;
  for (int s = 0; refused < 100; ++s) {
    const auto id = session("evil-" + std::to_string(s), 1000 + static_cast<std::uint64_t>(s),
                            false).session_id;
    ASSERT_GT(id, 0);
    std::vector<Op> ops;
    for (int k = 1; k <= 60; ++k) {
      ops.emplace_back(AddQos2Id{id, static_cast<std::uint16_t>(k), evil});
    }
    Batch b = batch_of(ops);
    if (must(engine->sessions().refusal(b)).empty()) {
      must(commit(*engine, b));
    } else {
      ++refused;
    }
  }
  EXPECT_LE(engine->sessions().qos2_bytes(), engine->sessions().qos2_bytes_most() * 5 / 8);
  const auto honest = session("honest", 5, false).session_id;
  std::vector<Op> many;  // that it could not have in parts
  for (int k = 1; k <= 200; ++k) {
    many.emplace_back(AddQos2Id{honest, static_cast<std::uint16_t>(k), 5});
  }
  Batch batch = batch_of(many);
  EXPECT_EQ(must(engine->sessions().refusal(batch)), "");
}

}  // namespace
}  // namespace wayside::test
