// Topics that change while the log lives, and offsets that grow old.
#include "base/file.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

constexpr std::int64_t kDay = 86'400'000;

class TopicsTest : public testing::Test {
 protected:
  void open() {
    engine.reset();
    options.path = dir / "wayside.db";
    engine = must(Engine::open(options, clock, logger));
  }
  void want(std::vector<TopicSpec> topics) { (void)must(engine->ensure_topics(topics)); }
  TpId tp(const std::string& topic, std::size_t partition = 0) {
    return engine->catalog().find(topic)->partitions.at(partition).tp;
  }
  void append(const std::string& topic, int n) {
    for (int i = 0; i < n; ++i) must(commit(*engine, {reading(tp(topic), "k", "v")}));
  }
  void settle() {
    for (int i = 0; i < 100; ++i) {
      clock.advance(1001);
      if (!must(engine->maintain())) return;
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

TEST_F(TopicsTest, OneOfAChainIsDeletedAndTheOthersGoOn) {
  open();
  want({{"a", 2, 7 * kDay, kUnbounded, {}}, {"b", 2, 7 * kDay, kUnbounded, {}}});
  append("a", 3);
  append("b", 5);
  must(commit(*engine, {CommitOffset{"g", tp("b"), Offset(2), ""}}));
  const TpId gone = tp("b", 1);
  must(engine->delete_topic("b"));
  settle();
  EXPECT_EQ(engine->catalog().find("b"), nullptr);
  EXPECT_FALSE(engine->delete_topic("b"));
  append("a", 1);
  open();  // the highest partition is nobody's, its records are still in the segment
  append("a", 1);
  EXPECT_EQ(all_records(options.path, "a").size(), 5U);
  EXPECT_EQ(number("SELECT count(*) FROM __consumer_offsets"), 0);
  LogReader reader = must(LogReader::open(options.path));
  EXPECT_EQ(must(reader.deleted()).stored, 5);
  EXPECT_EQ(must(reader.deleted()).live, 5);
  EXPECT_EQ(number("SELECT count(*) FROM sqlite_schema WHERE name='b'"), 0);
  // One of the same name is another one, and begins at 0.
  want({{"b", 1, 7 * kDay, kUnbounded, {}}});
  EXPECT_GT(tp("b"), gone);
  append("b", 1);
  EXPECT_EQ(all_records(options.path, "b").at(0).offset, Offset(0));
}

TEST_F(TopicsTest, AChainOfItsOwnGoesWholeAndSequencesNeverComeBack) {
  open();
  options.segment_rows = 100;
  open();
  want({{"a", 1, kDay, kUnbounded, {}}, {"own", 1, kDay, 1 << 20, {}}});
  append("a", 1);
  for (int i = 0; i < 150; ++i) {
    append("own", 1);
    must(engine->roll_full_segments());
  }
  EXPECT_EQ(number("SELECT count(*) FROM _ws_segments"), 3);
  must(engine->delete_topic("own"));
  settle();
  EXPECT_EQ(number("SELECT count(*) FROM _ws_segments"), 1);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_chains"), 1);
  EXPECT_EQ(number("SELECT count(*) FROM sqlite_schema WHERE name GLOB '_ws_seg_[0-9]*'"), 1);
  open();
  append("a", 1);
  // The seq of a bridge's batch is part of its idempotency key.
  EXPECT_GE(all_records(options.path, "a").at(1).seq, Seq(151));
}

TEST_F(TopicsTest, WhatIsForADeletedTopicGoesNowhere) {
  open();
  want({{"a", 1, 7 * kDay, kUnbounded, {}}, {"b", 1, kForever, kUnbounded, {}}});
  append("a", 1);
  append("b", 2);
  const TpId gone = tp("b");
  must(engine->delete_topic("b"));
  EXPECT_FALSE(commit(*engine, {reading(gone, "k", "late")})) << "not acknowledged";
  must(commit(*engine, {CommitOffset{"g", gone, Offset(1), ""}}));
  EXPECT_EQ(number("SELECT count(*) FROM _ws_consumer_offsets"), 0);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_segments"), 1);
  append("a", 1);
  EXPECT_EQ(all_records(options.path, "a").size(), 2U);
}

TEST_F(TopicsTest, AChainKeepsWhatItsLongestTopicWantsOfThoseThatAreLeft) {
  open();
  want({{"a", 1, 7 * kDay, kUnbounded, {}}, {"b", 1, 7 * kDay, kUnbounded, {}}});
  want({{"b", 1, kForever, kUnbounded, {}}});
  EXPECT_EQ(number("SELECT retention_ms FROM _ws_chains"), kForever);
  must(engine->delete_topic("b"));
  EXPECT_EQ(number("SELECT retention_ms FROM _ws_chains"), 7 * kDay);
}

TEST_F(TopicsTest, AReadingIsSettledOnce) {
  open();
  want({{"a", 1, kDay, kUnbounded, {}}, {"quarantine", 1, kDay, kUnbounded, {}}});
  append("quarantine", 1);
  const auto retry = [&] {
    Batch batch = batch_of({SettleQuarantined{Offset(0), "retried"}, reading(tp("a"), "k", "v"),
                            Count{"quarantine.retried", 1}});
    must(commit(*engine, batch));
    return std::get<SettleQuarantined>(batch.ops.front()).already;
  };
  EXPECT_FALSE(retry());
  EXPECT_TRUE(retry());
  EXPECT_EQ(all_records(options.path, "a").size(), 1U);
  EXPECT_EQ(number("SELECT value FROM _ws_counters"), 1);
}

TEST_F(TopicsTest, PartitionsAreBounded) {
  open();
  want({{"a", 1, kDay, kUnbounded, {}}, {"b", 600, kDay, kUnbounded, {}}});
  const auto refused = [&](const TopicSpec& spec) {
    return !engine->ensure_topics(std::vector<TopicSpec>{spec});
  };
  EXPECT_TRUE(refused({"a", 401, kDay, kUnbounded, {}})) << "1001 in all";
  EXPECT_TRUE(refused({"c", 0, kDay, kUnbounded, {}}));
  EXPECT_TRUE(refused({"c", -5, kDay, kUnbounded, {}}));
  want({{"a", 400, kDay, kUnbounded, {}}});
}

TEST_F(TopicsTest, AllTopicsOrNone) {
  open();
  want({{"a", 1, kDay, kUnbounded, {}}});
  const std::vector<TopicSpec> bad = {{"new", 3, kDay, kUnbounded, {}},
                                      {"a", 5, kDay, kUnbounded, {}},
                                      {"huge", 100'000, kDay, kUnbounded, {}}};
  EXPECT_FALSE(engine->ensure_topics(bad));
  EXPECT_EQ(engine->catalog().find("new"), nullptr);
  EXPECT_EQ(engine->catalog().find("a")->partitions.size(), 1U);
  EXPECT_EQ(number("SELECT count(*) FROM _ws_topics"), 1);
  append("a", 2);  // what was in memory is as it was
  open();
  append("a", 1);
  EXPECT_EQ(all_records(options.path, "a").size(), 3U);
}

TEST_F(TopicsTest, OffsetsThatNobodyReadsExpireByTrustedTimeOnly) {
  options.offset_retention_ms = 30 * kDay;
  clock.set_trusted(false);
  clock.set_wall(1000);  // 1970
  open();
  want({{"a", 2, kForever, kUnbounded, {}}});
  append("a", 1);
  must(commit(*engine, {CommitOffset{"g", tp("a"), Offset(1), ""},
                        CommitOffset{"bridge.cloud", tp("a"), Offset(1), ""}}));
  const auto left = [&] { return number("SELECT count(*) FROM __consumer_offsets"); };
  clock.set_wall(kNow);  // a wrong clock may be in 2026, too
  settle();
  EXPECT_EQ(left(), 2);
  clock.set_trusted(true);
  clock.advance(3'600'000);
  settle();
  EXPECT_EQ(left(), 2) << "its age counts from now on";
  const auto pass = [&](int days) {
    for (int i = 0; i < days; ++i) {
      clock.advance(kDay);
      settle();
    }
  };
  pass(29);
  EXPECT_EQ(left(), 2);
  must(commit(*engine, {TouchGroup{"g"}}));  // it is being read, though nothing comes
  pass(29);
  EXPECT_EQ(left(), 2);
  // A partition that is quiet does not expire while another one of its group is read.
  must(commit(*engine, {CommitOffset{"g", tp("a", 1), Offset(0), ""}}));
  pass(20);
  EXPECT_EQ(left(), 3);
  pass(12);
  EXPECT_EQ(left(), 1) << "the bridge's never expires";
  EXPECT_EQ(number("SELECT count(*) FROM __consumer_offsets WHERE group_id='bridge.cloud'"), 1);
}

TEST_F(TopicsTest, SmallFactsAndSettledReadingsAreKept) {
  open();
  want({{"quarantine", 1, kDay, kUnbounded, {}}});
  append("quarantine", 2);
  must(commit(*engine, {SetFact{"x", "1"}, SettleQuarantined{Offset(1), "dropped"}}));
  must(commit(*engine, {SetFact{"x", "2"}, SettleQuarantined{Offset(1), "retried"}}));
  open();
  LogReader reader = must(LogReader::open(options.path));
  EXPECT_EQ(must(reader.fact("x")), "2");
  EXPECT_EQ(must(reader.settled()), (std::map<std::int64_t, std::string>{{1, "dropped"}}));
  must(commit(*engine, {SetFact{"x", std::nullopt}}));
  EXPECT_EQ(must(reader.fact("x")), std::nullopt);
}

}  // namespace
}  // namespace wayside::test
