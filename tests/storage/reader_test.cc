#include "storage/reader.h"

#include <thread>

#include "storage/log.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

TEST(Headers, AreKafkasEncodingAndComeBack) {
  const std::vector<Header> headers = {
      {"a", "1"}, {"", std::nullopt}, {"long", std::string(300, 'x')}};
  EXPECT_EQ(must(decode_headers(encode_headers(headers))), headers);
  EXPECT_EQ(encode_headers({{"a", "1"}}), std::string("\x02\x02"
                                                      "a"
                                                      "\x02"
                                                      "1",
                                                      5));
  const std::string whole = encode_headers(headers);
  for (std::size_t n = 1; n < whole.size(); ++n) {
    EXPECT_FALSE(decode_headers(whole.substr(0, n))) << n;
  }
}

TEST(RecordJson, TextIsTextAndBytesAreBase64) {
  Record r;
  r.timestamp_ms = 5;
  r.key = "k";
  r.value = "\xFF";
  r.headers = encode_headers({{"h", "v"}});
  std::string out;
  append_record_json(out, "t", 2, Offset(7), r);
  EXPECT_EQ(out, R"({"topic":"t","partition":2,"offset":7,"timestamp":5,"key":"k",)"
                 R"("value":{"base64":"/w=="},"headers":{"h":"v"}})");
}

class ReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    options.path = dir / "wayside.db";
    options.segment_rows = 10;
    engine = must(Engine::open(options, clock, logger));
    (void)must(engine->ensure_topics(std::vector<TopicSpec>{{"a", 2, kForever, kUnbounded, {}},
                                                            {"b", 1, kForever, kUnbounded, {}}}));
    a = *engine->catalog().find("a");
    b = *engine->catalog().find("b");
    // 50 readings over three partitions in turn, a second apart: five segments and an open one.
    const std::vector<TpId> tps = {a.partitions[0].tp, a.partitions[1].tp, b.partitions[0].tp};
    for (int i = 0; i < 50; ++i) {
      clock.advance(1000);
      must(
          commit(*engine, {reading(tps[static_cast<std::size_t>(i) % 3], "k", std::to_string(i))}));
      must(engine->roll_full_segments());
    }
  }
  std::vector<std::string> values(std::span<const TpId> tps, Seq from, ReadLimits limits = {}) {
    std::vector<std::string> out;
    for (const auto& r : must(reader().read(a.chain, from, tps, limits)).records) {
      out.push_back(*r.record.value);
    }
    return out;
  }
  LogReader reader() { return must(LogReader::open(options.path)); }

  TempDir dir;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
  EngineOptions options;
  std::unique_ptr<Engine> engine;
  Topic a, b;
};

TEST_F(ReaderTest, OneCursorReadsAllPartitionsInArrivalOrder) {
  const std::vector<TpId> all = {a.partitions[0].tp, a.partitions[1].tp, b.partitions[0].tp};
  const auto got = values(all, Seq(0));
  ASSERT_EQ(got.size(), 50U);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], std::to_string(i));
}

TEST_F(ReaderTest, APageEndsAtItsLimitsAndGoesOn) {
  const std::vector<TpId> one = {b.partitions[0].tp};
  LogReader r = reader();
  const auto page = must(r.read(a.chain, Seq(0), one, {5, 1 << 20}));
  EXPECT_EQ(page.records.size(), 5U);
  EXPECT_FALSE(page.at_end);
  const auto next = must(r.read(a.chain, page.next, one, {100, 1 << 20}));
  EXPECT_EQ(next.records.size(), 11U);
  EXPECT_TRUE(next.at_end);
  EXPECT_EQ(next.next.value, 50) << "what belongs to others need not be read again";
  EXPECT_EQ(must(r.read(a.chain, Seq(0), one, {100, 1})).records.size(), 1U)
      << "one record is given even if it is larger than the limit";
}

TEST_F(ReaderTest, EveryOffsetIsFoundAlsoAtTheEdgesOfSegments) {
  while (must(engine->maintain())) clock.advance(1001);
  LogReader r = reader();
  for (const Topic* t : {&a, &b}) {
    for (const Partition& p : t->partitions) {
      const auto end = engine->next_offset(p.tp).value;
      for (std::int64_t o = 0; o < end; ++o) {
        const auto seq = must(r.seq_of(t->chain, p.tp, Offset(o)));
        ASSERT_TRUE(seq);
        const std::vector<TpId> one = {p.tp};
        EXPECT_EQ(must(r.read(t->chain, *seq, one, {1, 1})).records.front().offset.value, o);
      }
      EXPECT_FALSE(must(r.seq_of(t->chain, p.tp, Offset(end))));
    }
  }
}

TEST_F(ReaderTest, ATimeIsFoundByWhenItWasAppended) {
  const std::vector<TpId> all = {a.partitions[0].tp, a.partitions[1].tp, b.partitions[0].tp};
  LogReader r = reader();
  EXPECT_EQ(must(r.seq_at(a.chain, all, kNow + 30'000)), Seq(29));
  EXPECT_EQ(must(r.seq_at(a.chain, all, 0)), Seq(0));
  EXPECT_FALSE(must(r.seq_at(a.chain, all, kNow + 51'000)));
}

TEST_F(ReaderTest, MarksFollowAppendsAndRolls) {
  LogReader r = reader();
  EXPECT_EQ(must(r.marks(a)).at(0).log_end.value, 17);
  for (int i = 0; i < 30; ++i) {
    must(commit(*engine, {reading(a.partitions[0].tp, "k", "x")}));
    must(engine->roll_full_segments());
    ASSERT_EQ(must(r.marks(a)).at(0).log_end.value, 18 + i);
  }
}

TEST_F(ReaderTest, ALogOnAReadOnlyDirectoryIsReadWhenItWasClosedCleanly) {
  engine.reset();
  std::filesystem::permissions(
      dir.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  LogReader r = reader();
  EXPECT_EQ(must(r.marks(b)).at(0).log_end.value, 16);
  std::filesystem::permissions(dir.path(), std::filesystem::perms::owner_all);
}

TEST(LogTest, BatchesOfManyThreadsCommitInTheOrderOfEachAndAreToldAfter) {
  TempDir dir;
  const SystemClock clock;
  Logger logger(LogLevel::error);
  EngineOptions options;
  options.path = dir / "wayside.db";
  const std::vector<TopicSpec> topics = {{"a", 4, kForever, kUnbounded, {}}};
  std::atomic<int> told{0};
  {
    auto log = must(Log::open(options, {20, 100, 1 << 20}, topics, clock, logger));
    const Topic a = *log->catalog()->find("a");
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 500; ++i) {
          Batch batch =
              batch_of({reading(a.partitions[t].tp, std::to_string(t), std::to_string(i))});
          batch.done = [&told, i](Batch& b, const Status& status) {
            if (status && std::get<Append>(b.ops.front()).offset.value == i) ++told;
          };
          log->submit(std::move(batch));
        }
      });
    }
  }  // the destructor commits what waits
  EXPECT_EQ(told, 2000);
  EXPECT_EQ(all_records(options.path, "a").size(), 2000U);
}

TEST(LogTest, AFlushNeedsNoLinger) {
  TempDir dir;
  const SystemClock clock;
  Logger logger(LogLevel::error);
  EngineOptions options;
  options.path = dir / "wayside.db";
  const std::vector<TopicSpec> topics = {{"a", 1, kForever, kUnbounded, {}}};
  auto log = must(Log::open(options, {3'600'000, 1000, 1 << 20}, topics, clock, logger));
  log->submit(batch_of({reading(log->catalog()->find("a")->partitions[0].tp, "k", "v")}));
  log->flush();
  EXPECT_EQ(log->wait_for_commit(0, 10'000, {}), 1);
}

}  // namespace
}  // namespace wayside::test
