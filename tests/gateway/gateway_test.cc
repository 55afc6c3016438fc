#include <gtest/gtest.h>

#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "config/keys.h"
#include "gateway/cli/range.h"
#include "gateway/mqtt/hub.h"
#include "gateway/plan/plan.h"
#include "storage/quarantine.h"

namespace wayside {
namespace {

constexpr std::int64_t kLinger = 100'000;  // µs

struct Pace : testing::Test {
  PaceKeeper keeper{kLinger};
  std::shared_ptr<PaceKeeper::Member> a = std::make_shared<PaceKeeper::Member>();
  std::shared_ptr<PaceKeeper::Member> b = std::make_shared<PaceKeeper::Member>();
};

TEST_F(Pace, AFirstReadingWaitsForTheLinger) {
  keeper.reading_came(*a, 0);
  EXPECT_FALSE(keeper.commit_now(1));
}

TEST_F(Pace, ADeviceThatAnswersAtOnceIsNotMadeToWait) {
  keeper.reading_came(*a, 0);
  keeper.all_acknowledged(a, 1000);
  keeper.reading_came(*a, 1500);
  EXPECT_TRUE(keeper.commit_now(1501));
}

TEST_F(Pace, APacedDeviceIsNeverHungry) {
  for (std::int64_t t = 0; t < 10; ++t) {
    keeper.reading_came(*a, t * 1'000'000);
    EXPECT_FALSE(keeper.commit_now(t * 1'000'000 + 1));
    keeper.all_acknowledged(a, t * 1'000'000 + kLinger);
  }
}

TEST_F(Pace, ALongLingerMakesAPacedDeviceNoHungryOne) {
  keeper.set_linger_us(1'000'000);
  for (std::int64_t t = 0; t < 10; ++t) {  // once a second, acknowledged in the middle of it
    keeper.reading_came(*a, t * 1'000'000);
    EXPECT_FALSE(keeper.commit_now(t * 1'000'000 + 1));
    keeper.all_acknowledged(a, t * 1'000'000 + 500'000);
  }
}

TEST_F(Pace, TwoHungryOnesWaitForEachOtherButNotForEver) {
  for (auto* m : {&a, &b}) {
    keeper.reading_came(**m, 0);
    keeper.all_acknowledged(*m, 1000);
    keeper.reading_came(**m, 2000);
    keeper.all_acknowledged(*m, 3000);
  }
  keeper.reading_came(*a, 4000);
  EXPECT_FALSE(keeper.commit_now(4001)) << "b is expected";
  keeper.reading_came(*b, 5000);
  EXPECT_TRUE(keeper.commit_now(5001));
  keeper.all_acknowledged(a, 6000);
  keeper.all_acknowledged(b, 6000);
  keeper.reading_came(*a, 7000);
  EXPECT_FALSE(keeper.commit_now(7001));
  EXPECT_TRUE(keeper.commit_now(6000 + kLinger)) << "b did not come";
}

TEST_F(Pace, OneThatIsGoneIsNotExpected) {
  for (auto* m : {&a, &b}) {
    keeper.reading_came(**m, 0);
    keeper.all_acknowledged(*m, 1000);
    keeper.reading_came(**m, 2000);
    keeper.all_acknowledged(*m, 3000);
  }
  keeper.reading_came(*a, 4000);
  keeper.gone(*b);
  EXPECT_TRUE(keeper.commit_now(4001));
}

struct CountingSink : BatchSink {
  void submit(Batch) override {}
  void flush() override { ++flushes; }
  int flushes = 0;
};

TEST(Hub, TwoHalvesOfAFleetDoNotTakeTurns) {
  CountingSink sink;
  const ManualClock clock(0);
  Logger logger(LogLevel::error);
  Config config;
  config.commit.linger_ms = kLinger / 1000;
  MqttHub hub(config, sink, nullptr, clock, logger);
  const auto a = std::make_shared<PaceKeeper::Member>();
  const auto b = std::make_shared<PaceKeeper::Member>();
  const auto sends = [&](PaceKeeper::Member& m) {
    hub.pace.reading_came(m, steady_us());
    ++hub.outstanding;
    hub.submitted_since_flush = true;
    hub.consider_commit();
  };
  const auto acknowledged = [&](const std::shared_ptr<PaceKeeper::Member>& m) {
    hub.settled();
    hub.pace.all_acknowledged(m, steady_us());
    hub.consider_commit();
  };
  for (const auto& m : {a, b}) sends(*m), acknowledged(m);  // hungry from now on
  sends(*a);
  EXPECT_EQ(sink.flushes, 1);
  sends(*b);
  EXPECT_EQ(sink.flushes, 1) << "a commit is under way";
  acknowledged(a);
  EXPECT_EQ(sink.flushes, 1) << "a will be back";
  sends(*a);
  EXPECT_EQ(sink.flushes, 2) << "both in one commit";
  EXPECT_EQ(hub.in_flight, 2U);
}

TEST(Range, RpksGrammar) {
  using Kind = ReadRange::Kind;
  constexpr std::int64_t now = 1'795'339'391'000;
  EXPECT_EQ(parse_range("", now)->kind, Kind::all);
  EXPECT_EQ(parse_range("end", now)->kind, Kind::end);
  EXPECT_EQ(parse_range("-10", now)->kind, Kind::last_n);
  EXPECT_EQ(parse_range("+10", now)->from, 10);
  EXPECT_EQ(parse_range("100:200", now)->to, 200);
  EXPECT_EQ(parse_range(":200", now)->from, 0);
  EXPECT_EQ(parse_range("100", now)->to, std::nullopt);
  EXPECT_EQ(parse_range("@-1h", now)->from, now - 3'600'000);
  EXPECT_EQ(parse_range("@-2h:-1h", now)->to, now - 3'600'000);
  EXPECT_EQ(parse_range("@2026-11-22T09:00:00Z:2026-11-22T10:00:00Z", now)->to, 1'795'341'600'000);
  EXPECT_EQ(parse_range("@1795339391000", now)->from, now);
  for (const char* bad : {"x", "200:100", "@", "@x", "-x", "1:x", "+", "--1"}) {
    EXPECT_FALSE(parse_range(bad, now)) << bad;
  }
}

std::vector<Problem> problems_of(std::string_view toml) {
  auto loaded = parse_config(toml, "x.toml");
  (void)make_plan(loaded.config, loaded.problems);
  return loaded.problems;
}

TEST(Plan, EverythingWrongIsSaidAtOnceWithItsLine) {
  const auto problems = problems_of(R"(data_dri = "/x"
[commit]
linger = "100"
[mqtt]
max_connections = 0
[[topic]]
name = "truck_gps"
partitions = "12"
[[topic]]
name = "Truck_GPS"
[[route]]
mqtt = "fleet/{truck}/gps"
topic = "truck_gp"
key = "{lorry}"
[[route]]
mqtt = "fleet/7/gps"
topic = "truck_gps"
[[bridge]]
name = "cloud"
topics = ["truck_gps"]
to = "ftp://x"
)");
  std::vector<int> lines;
  for (const Problem& p : problems) lines.push_back(p.line);
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(lines, (std::vector<int>{1, 3, 5, 8, 9, 11, 11, 15, 18}))
      << problems_text("x.toml", problems);
  for (const Problem& p : problems) EXPECT_FALSE(p.hint.empty()) << p.what;
}

TEST(Plan, ASoundFileHasNoProblems) {
  EXPECT_TRUE(problems_of(R"(
[[topic]]
name = "a"
[[route]]
mqtt = "a/#"
topic = "a"
payload = "raw"
)")
                  .empty());
}

TEST(Plan, ThereAreNotMorePartitionsThanALogTakes) {
  const auto of = [](int n) {
    return problems_of(cat("[[topic]]\nname = \"a\"\npartitions = ", n, "\n")).size();
  };
  EXPECT_EQ(of(limits::kPartitionsMax - 1), 0U) << "the quarantine has one";
  EXPECT_EQ(of(limits::kPartitionsMax), 1U);
}

TEST(Plan, TheQuarantineIsAlwaysThere) {
  auto loaded = parse_config("", "x.toml");
  const Plan plan = make_plan(loaded.config, loaded.problems);
  ASSERT_EQ(plan.topics.size(), 1U);
  EXPECT_EQ(plan.topics[0].name, kQuarantineTopic);
  EXPECT_EQ(plan.topics[0].retention_bytes, 64 << 20);
  auto small = parse_config("[storage]\nbudget = \"64MiB\"\n", "x.toml");
  EXPECT_EQ(make_plan(small.config, small.problems).topics[0].retention_bytes, 8 << 20)
      << "strangers fill it, and nobody else pays";
}

}  // namespace
}  // namespace wayside
