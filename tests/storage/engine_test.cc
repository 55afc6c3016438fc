#include "storage/engine/engine.h"

#include <set>

#include "base/file.h"
#include "base/limits.h"
#include "storage/engine/space.h"
#include "storage/place.h"
#include "storage/recovery/recovery.h"
#include "tests/crash/fault_vfs.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

constexpr std::int64_t kHour = 3'600'000, kDay = 24 * kHour;

class EngineTest : public testing::Test {
 protected:
  void open(std::vector<TopicSpec> topics = {{"a", 3, 7 * kDay, kUnbounded, {}}}) {
    engine.reset();
    options.path = dir / "wayside.db";
    engine = must(Engine::open(options, clock, logger));
    warnings = must(engine->ensure_topics(topics));
  }
  TpId tp(const std::string& topic = "a", std::size_t partition = 0) {
    return engine->catalog().find(topic)->partitions.at(partition).tp;
  }
  // Appends n readings and does what the writer would do after each commit.
  void append(int n, const std::string& topic = "a", std::size_t size = 20) {
    for (int i = 0; i < n; ++i) {
      must(commit(*engine, {reading(tp(topic), "k", std::string(size, 'x'))}));
      must(engine->roll_full_segments());
    }
  }
  void settle() {
    for (int i = 0; i < 1000; ++i) {
      clock.advance(1001);
      if (!must(engine->maintain())) return;
    }
  }
  std::int64_t number(const std::string& sql) {
    LogReader reader = must(LogReader::open(options.path));
    return must(reader.number(sql));
  }
  std::int64_t log_start(const std::string& topic = "a") {
    LogReader reader = must(LogReader::open(options.path));
    const Catalog catalog = must(reader.catalog());
    return must(reader.marks(*catalog.find(topic))).front().log_start.value;
  }

  TempDir dir;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
  EngineOptions options;
  std::unique_ptr<Engine> engine;
  std::vector<std::string> warnings;
};

TEST_F(EngineTest, KeepsBytesAsTheyCame) {
  open();
  const std::string binary("\xFF\x00\x01", 3), nul("a\0b", 3);
  must(commit(*engine, {reading(tp(), "k", "{\"a\": 1 }"), reading(tp(), binary, binary),
                        reading(tp(), "", nul), Append{tp(), {}, {}, {}}}));
  const auto all = all_records(options.path, "a");
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[0].record.value, "{\"a\": 1 }");
  EXPECT_EQ(all[1].record.key, binary);
  EXPECT_EQ(all[1].record.value, binary);
  EXPECT_EQ(all[2].record.key, "");
  EXPECT_EQ(all[2].record.value, nul);
  EXPECT_EQ(all[3].record.key, std::nullopt);
  EXPECT_EQ(all[3].record.value, std::nullopt);
  for (const StoredRecord& r : all) {
    EXPECT_EQ(r.crc, record_crc(r.tp, r.offset, r.append_ms, r.record));
  }
}

TEST_F(EngineTest, AFailedCommitPutsMemoryBackToo) {
  FaultVfs vfs(1);
  options.vfs = vfs.name();
  open();
  must(commit(*engine, {reading(tp(), "k", "first")}));
  auto source = std::make_shared<Source>(Source{"client", "topic"});
  vfs.fail_sync_after(1);
  Append lost = reading(tp(), "k", "lost");
  lost.source = source;
  EXPECT_FALSE(commit(*engine, {lost}));
  EXPECT_EQ(source->id, 0) << "its row was rolled back";
  EXPECT_EQ(engine->next_offset(tp()).value, 1);
  Append second = reading(tp(), "k", "second");
  second.source = source;
  must(commit(*engine, {second}));
  options.vfs.clear();
  engine.reset();
  const auto all = all_records(options.path, "a");
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[1].record.value, "second");
  EXPECT_EQ(all[1].offset.value, 1);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sources"), 1);
}

TEST_F(EngineTest, OffsetsGoOnAfterARestartAlsoOverRolls) {
  options.segment_rows = 10;
  open();
  append(25);
  open();
  append(5);
  EXPECT_EQ(engine->next_offset(tp()).value, 30);
  const auto all = all_records(options.path, "a");
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].offset.value, static_cast<std::int64_t>(i));
    EXPECT_EQ(all[i].seq.value, static_cast<std::int64_t>(i));
  }
  EXPECT_EQ(number("SELECT count(*) FROM _ws_segments"), 4);
  EXPECT_EQ(engine->identity().epoch, 2);
}

TEST_F(EngineTest, RetentionByTimeDropsWholeSegmentsAndMovesTheLogStart) {
  options.segment_rows = 10;
  open();
  append(30);
  settle();
  clock.advance(7 * kDay + kHour);
  append(10);
  settle();
  EXPECT_EQ(log_start(), 30);
  EXPECT_EQ(all_records(options.path, "a").size(), 10U);
  open();  // and stays so
  EXPECT_EQ(log_start(), 30);
  EXPECT_EQ(engine->next_offset(tp()).value, 40);
}

TEST_F(EngineTest, AQuietLogExpiresTooBecauseItsSegmentAges) {
  open();
  append(5);
  clock.advance(kDay);
  settle();  // old enough to be closed
  clock.advance(7 * kDay);
  settle();
  EXPECT_EQ(log_start(), 5);
}

TEST_F(EngineTest, AnUntrustedClockDeletesNothing) {
  options.segment_rows = 10;
  open();
  append(30);
  clock.set_trusted(false);
  clock.set_wall(kNow + 3650 * kDay);  // 2036
  append(30);
  settle();
  EXPECT_EQ(log_start(), 0);
  clock.set_wall(kNow + kHour);
  clock.set_trusted(true);
  append(10);
  settle();
  EXPECT_EQ(log_start(), 0);
  // Ten days on all of it is old, whatever the wrong clock has written into it.
  clock.advance(10 * kDay);
  append(20);
  settle();
  EXPECT_EQ(log_start(), 70);
}

TEST_F(EngineTest, AJumpOfATrustedClockIsWatchedBeforeItIsBelieved) {
  options.segment_rows = 10;
  open();
  append(30);
  settle();
  clock.set_wall(kNow + 3650 * kDay);
  settle();
  EXPECT_EQ(log_start(), 0);
  clock.set_wall(kNow + kHour);
  settle();
  EXPECT_EQ(log_start(), 0);
}

TEST_F(EngineTest, AWrongClockAtTheStartIsWatchedToo) {
  options.segment_rows = 10;
  open();
  append(35);
  clock.set_wall(kNow + 3650 * kDay);
  open({{"a", 3, 7 * kDay, kUnbounded, {}}});
  settle();
  EXPECT_EQ(log_start(), 0);
}

TEST_F(EngineTest, ATopicWithAShorterRetentionThanItsChainMovesItsLogStartOnly) {
  options.segment_rows = 10;
  open({{"a", 1, 7 * kDay, kUnbounded, {}}, {"b", 1, 7 * kDay, kUnbounded, {}}});
  open({{"a", 1, kDay, kUnbounded, {}}, {"b", 1, 7 * kDay, kUnbounded, {}}});
  append(10, "a");
  append(10, "b");
  settle();
  clock.advance(2 * kDay);
  settle();
  EXPECT_EQ(log_start("a"), 10);
  EXPECT_EQ(log_start("b"), 0);
  EXPECT_EQ(all_records(options.path, "b").size(), 10U);
}

TEST_F(EngineTest, RetentionByBytesKeepsAtLeastThatMuch) {
  open({{"a", 1, kForever, 100'000, {}}});
  append(400, "a", 1000);
  settle();
  const auto left = all_records(options.path, "a").size();
  EXPECT_GE(left, 100U);
  EXPECT_LT(left, 130U);
}

TEST_F(EngineTest, ASmallBudgetIsKeptByDroppingTheOldest) {
  options.budget_bytes = 64 << 20;
  open({{"a", 1, kForever, kUnbounded, {}}, {"b", 1, kDay, kUnbounded, {}}});
  // Twice the budget, in records too large to close a segment by their number.
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    Batch batch;
    for (int k = 0; k < 16; ++k)
      batch.ops.emplace_back(reading(tp("a"), "k", std::string(4000, 'x')));
    if (auto done = commit(*engine, batch); !done) {
      ASSERT_EQ(done.error().code, ErrorCode::no_space) << done.error().text();
      ++refused;
      must(engine->space().make_room());
    }
    must(engine->roll_full_segments());
    if (i % 50 == 0) settle();
  }
  EXPECT_LE(file_size(options.path), options.budget_bytes);
  EXPECT_GT(log_start("a"), 0);
  EXPECT_EQ(refused, 0) << "retention should come before the limit does";
}

// A copy that fills what it may have, without one unused page, as VACUUM INTO makes it.
TEST_F(EngineTest, AStartHasRoomForItsNewIdentityAlsoAboveItsBudget) {
  open();
  append(1000, "a", 16 << 10);
  must(engine->recovery().note_restored());
  const std::string before = engine->identity().log_uuid;
  engine.reset();
  must(must(Database::open(options.path, OpenMode::read_write_create)).exec("VACUUM"));
  options.budget_bytes = 24 << 20;  // 8 of it for the database
  ASSERT_GT(file_size(options.path), 16 << 20);
  open();
  EXPECT_NE(engine->identity().log_uuid, before);
}

TEST(PlaceTest, WhatIsNotedIsTheSameWhenItIsReadBack) {
  for (const char* serial : {"10000000abcdef01", "a\xff" "b", "\xe2\x80\xae", "\"\\", ""}) {
    ::setenv("WAYSIDE_BOARD", serial, 1);
    const Place p = place_of("/", board_serial());
    EXPECT_EQ(why_copied(parse_place(dump_place(p)), p), "") << serial;
  }
  ::unsetenv("WAYSIDE_BOARD");
}

TEST_F(EngineTest, AFullDiskIsRefusedAndThenGoesOn) {
  FaultVfs vfs(seed());
  options.vfs = vfs.name();
  options.segment_rows = 50;
  open();
  append(300, "a", 500);
  vfs.fill_after(0);
  EXPECT_EQ(commit(*engine, {reading(tp(), "k", "no room")}).error().code, ErrorCode::no_space);
  EXPECT_EQ(engine->next_offset(tp()).value, 300);
  vfs.fill_after(INT64_MAX);
  append(1);
  EXPECT_EQ(engine->next_offset(tp()).value, 301);
  engine.reset();  // before the VFS it uses
}

TEST_F(EngineTest, TopicsOfOneRetentionShareAChainAndABoundInBytesHasItsOwn) {
  open({{"a", 1, kDay, kUnbounded, {}},
        {"b", 2, kDay, kUnbounded, {}},
        {"c", 1, 2 * kDay, kUnbounded, {}},
        {"d", 1, kDay, 1 << 20, {}}});
  const auto chain = [&](const char* t) { return engine->catalog().find(t)->chain; };
  EXPECT_EQ(chain("a"), chain("b"));
  EXPECT_NE(chain("a"), chain("c"));
  EXPECT_NE(chain("a"), chain("d"));
}

TEST_F(EngineTest, GrowingPartitionsWarnsThatKeysMoveAndShrinkingIsRefused) {
  open({{"a", 2, kDay, kUnbounded, {}}});
  const TpId first = tp("a", 1);
  open({{"a", 4, kDay, kUnbounded, {}}});
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("keys"), std::string::npos);
  EXPECT_EQ(tp("a", 1), first);
  append(1, "a");
  open({{"a", 1, kDay, kUnbounded, {}}});
  EXPECT_EQ(engine->catalog().find("a")->partitions.size(), 4U);
  ASSERT_EQ(warnings.size(), 1U);
}

TEST_F(EngineTest, ATopicThatIsNoLongerWantedKeepsItsRecords) {
  open();
  append(3);
  open({{"b", 1, kDay, kUnbounded, {}}});
  EXPECT_EQ(all_records(options.path, "a").size(), 3U);
}

TEST_F(EngineTest, ViewsShowDeclaredAndLearntColumnsAndSurviveBadValues) {
  options.segment_rows = 2;
  open({{"a", 2, kDay, kUnbounded, {}},
        {"b", 1, kDay, kUnbounded, std::vector<std::string>{"x", "odd name"}}});
  must(commit(*engine, {reading(tp("a"), "t1", R"({"speed":50,"lat":1.5,"key":"no","Bad-Name":1})"),
                        reading(tp("a"), "t2", "not json"), reading(tp("a"), "t3", "\xFF"),
                        reading(tp("a", 1), "t4", R"({"speed":60,"lat":"north"})"),
                        reading(tp("b"), "k", R"({"x":{"y":1},"odd name":2})")}));
  must(engine->roll_full_segments());
  settle();
  must(commit(*engine, {reading(tp("a"), "t5", R"({"speed":70})")}));
  EXPECT_EQ(number("SELECT sum(speed) FROM a"), 180);
  EXPECT_EQ(number("SELECT count(*) FROM a"), 5);
  EXPECT_EQ(number("SELECT count(*) FROM a WHERE lat IS NULL"), 3);
  EXPECT_EQ(number("SELECT \"partition\" FROM a WHERE key='t4'"), 1);
  EXPECT_EQ(number("SELECT \"odd name\" FROM b"), 2);
  EXPECT_EQ(number("SELECT count(*) FROM pragma_table_info('a') WHERE name='Bad-Name'"), 0);
}

TEST_F(EngineTest, ClosedSegmentsGetTheirIndex) {
  options.segment_rows = 10;
  open();
  append(35);
  settle();
  EXPECT_EQ(number("SELECT sum(indexed) FROM _ws_segments"), 3);
}

TEST_F(EngineTest, SessionsAndQos2IdsLiveAndEndAsTheClientSays) {
  open();
  const auto open_session = [&](bool clean, std::uint32_t expiry_s) {
    Batch b = batch_of({OpenSession{"c", clean, expiry_s, {}, {}, {}}});
    must(commit(*engine, b));
    return std::get<OpenSession>(b.ops.front());
  };
  EXPECT_FALSE(open_session(false, 100).present);
  const auto id = open_session(false, 100).session_id;
  must(commit(*engine, {reading(tp(), "k", "v"), AddQos2Id{id, 7}, AddQos2Id{id, 9}}));
  must(commit(*engine, {RemoveQos2Id{id, 9}}));
  open();  // over a restart
  EXPECT_EQ(open_session(false, 100).qos2_ids, std::vector<std::uint16_t>{7});
  EXPECT_FALSE(open_session(true, 100).present) << "a clean start deletes it";
  EXPECT_TRUE(open_session(false, 100).qos2_ids.empty());
  must(commit(*engine, {CloseSession{open_session(false, 100).session_id, 0}}));
  EXPECT_FALSE(open_session(false, 0).present);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sessions"), 0);
}

TEST_F(EngineTest, SessionsExpireByTrustedTimeOnly) {
  open();
  clock.set_trusted(false);
  clock.set_wall(1000);  // 1970, as a Pi starts
  Batch b = batch_of({OpenSession{"c", false, 3600, {}, {}, {}}});
  must(commit(*engine, b));
  must(commit(*engine, {CloseSession{std::get<OpenSession>(b.ops.front()).session_id, 3600}}));
  settle();
  clock.set_wall(kNow);
  clock.set_trusted(true);
  settle();
  clock.advance(limits::kClockJumpHoldMs + 1000);
  settle();
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sessions"), 1) << "an hour has not passed since";
  clock.advance(2 * kHour);  // both clocks
  settle();
  settle();
  EXPECT_EQ(number("SELECT count(*) FROM _ws_sessions"), 0);
}

TEST_F(EngineTest, ConsumerOffsetsKeepTheLatestPerGroupAndPartition) {
  open();
  append(9);
  must(commit(*engine,
              {CommitOffset{"g", tp(), Offset(5), ""}, CommitOffset{"h", tp(), Offset(1), ""}}));
  must(commit(*engine, {CommitOffset{"g", tp(), Offset(10), "note"}}));  // never ahead of the log
  EXPECT_EQ(number("SELECT count(*) FROM __consumer_offsets"), 2);
  EXPECT_EQ(number("SELECT committed_offset FROM __consumer_offsets WHERE group_id='g'"), 9);
  EXPECT_EQ(number("SELECT max(\"offset\") FROM __consumer_offsets"), 3);
}

TEST_F(EngineTest, ADatabaseOfANewerVersionIsLeftUntouched) {
  open();
  engine.reset();
  {
    Database db = must(Database::open(options.path, OpenMode::read_write_create));
    must(db.exec("PRAGMA user_version=99"));
  }
  const auto before = must(read_file(options.path));
  const auto result = Engine::open(options, clock, logger);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::too_new);
  EXPECT_EQ(must(read_file(options.path)), before);
}

TEST_F(EngineTest, NothingIsAcknowledgedIntoAFileThatWasRemoved) {
  open();
  append(1);
  std::filesystem::remove(options.path);
  const auto refused = commit(*engine, {reading(tp(), "k", "v")});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("removed"), std::string::npos);
}

TEST_F(EngineTest, ADatabaseOfAnotherProgramIsLeftUntouched) {
  {
    Database db = must(Database::open(dir / "wayside.db", OpenMode::read_write_create));
    must(db.exec("CREATE TABLE precious(x)"));
  }
  options.path = dir / "wayside.db";
  const auto before = must(read_file(options.path));
  EXPECT_FALSE(Engine::open(options, clock, logger));
  EXPECT_EQ(must(read_file(options.path)), before);
}

}  // namespace
}  // namespace wayside::test
