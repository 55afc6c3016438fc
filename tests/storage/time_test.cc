// Honest time: a clock that boots in 1970, becomes trusted late, jumps years ahead and back, drifts
// by hours. What is asked by time is compared with all records, one by one.
#include <algorithm>
#include <set>

#include "tests/support.h"

namespace wayside::test {
namespace {

struct Appended {
  std::string key;
  std::int64_t append_ms = 0;
};

class TimeTest : public testing::Test {
 protected:
  TimeTest() {
    options.path = dir / "wayside.db", options.segment_rows = 40;
    clock.set_wall(1000);  // no battery: 1970
    clock.set_trusted(false);
    open();
  }
  void open() {
    engine.reset();
    engine = must(Engine::open(options, clock, logger));
    const TopicSpec spec{"t", 2, kForever, kUnbounded, {}};
    (void)must(engine->ensure_topics({&spec, 1}));
  }
  void append(Random& random, int n) {
    const auto& partitions = engine->catalog().find("t")->partitions;
    for (int i = 0; i < n; ++i) {
      const std::string key = "k" + std::to_string(random() % 5);
      Batch batch = batch_of({reading(partitions[random() % 2].tp, key, "v")});
      must(commit(*engine, batch));
      all.push_back({key, clock.wall_ms()});
      must(engine->roll_full_segments());
      clock.advance(random() % 2000);
    }
    settle();
  }
  // A turn a second.
  void settle() {
    for (int i = 0; i < 12; ++i) {
      (void)must(engine->maintain());
      clock.advance(1000);
    }
  }
  // As 'wayside read t @from:to' does it.
  std::multiset<std::int64_t> read(std::int64_t from, std::int64_t to) {
    LogReader reader = must(LogReader::open(options.path));
    const Catalog catalog = must(reader.catalog());
    const Topic& topic = *catalog.find("t");
    const std::vector<TpId> tps = {topic.partitions[0].tp, topic.partitions[1].tp};
    std::multiset<std::int64_t> found;
    const auto first = must(reader.seq_at(topic.chain, tps, from));
    for (Seq next = first.value_or(Seq(INT64_MAX - 1)); first;) {
      const auto page = must(reader.read(topic.chain, next, tps, {}));
      for (const StoredRecord& r : page.records) {
        if (r.append_ms >= from && r.append_ms < to) found.insert(r.append_ms);
      }
      next = page.next;
      if (page.at_end) break;
    }
    return found;
  }

  TempDir dir;
  EngineOptions options;
  ManualClock clock{0};
  Logger logger{LogLevel::error};
  std::unique_ptr<Engine> engine;
  std::vector<Appended> all;  // in order of arrival
};

TEST_F(TimeTest, RangesAndTheLatestOfEachKeyUnderAnyClock) {
  const std::uint32_t s = seed();
  Random random(s);
  constexpr std::int64_t kHour = 3'600'000, kYear = 365 * 24 * kHour;
  for (std::uint32_t round = 0; round < rounds(12); ++round) {
    append(random, static_cast<int>(random() % 60));
    switch (random() % 6) {
      case 0:
        clock.set_trusted(random() % 2 == 0);
        break;
      case 1:
        clock.set_wall(kNow);
        break;
      case 2:
        clock.set_wall(clock.wall_ms() + 10 * kYear);
        break;
      case 3:
        clock.set_wall(std::max<std::int64_t>(clock.wall_ms() - 10 * kYear, 0));
        break;
      case 4:
        clock.set_wall(clock.wall_ms() + (random() % 2 == 0 ? 3 : -3) * kHour);
        break;
      default:
        open();
    }
  }
  ASSERT_FALSE(all.empty());
  LogReader reader = must(LogReader::open(options.path));
  const Catalog catalog = must(reader.catalog());
  for (int i = 0; i < 200; ++i) {
    const std::int64_t about = all[random() % all.size()].append_ms;
    const std::int64_t from = about - static_cast<std::int64_t>(random() % 5000);
    const std::int64_t to = from + static_cast<std::int64_t>(random() % 100'000);
    std::multiset<std::int64_t> wanted;
    std::set<std::string> keys;
    for (const Appended& a : all) {
      if (a.append_ms >= from && a.append_ms < to) wanted.insert(a.append_ms);
      if (a.append_ms >= from) keys.insert(a.key);
    }
    ASSERT_EQ(read(from, to), wanted) << "SEED=" << s << " from " << from << " to " << to;
    std::set<std::string> found;
    for (const StoredRecord& r : must(reader.latest(*catalog.find("t"), from))) {
      ASSERT_GE(r.append_ms, from);
      found.insert(*r.record.key);
    }
    ASSERT_EQ(found, keys) << "SEED=" << s << " since " << from;
  }
}

TEST_F(TimeTest, TheLatestIsTheLastThatArrivedWhateverItsTime) {
  Random random(1);
  clock.set_trusted(true);
  clock.set_wall(kNow + 300 * 86'400'000LL);  // far ahead
  append(random, 50);
  clock.set_wall(kNow);
  append(random, 50);
  std::map<std::string, std::int64_t> last;
  for (const Appended& a : all) last[a.key] = a.append_ms;
  LogReader reader = must(LogReader::open(options.path));
  const Catalog catalog = must(reader.catalog());
  const auto found = must(reader.latest(*catalog.find("t"), INT64_MIN));
  ASSERT_EQ(found.size(), last.size());
  for (const StoredRecord& r : found) {
    EXPECT_EQ(r.append_ms, last.at(*r.record.key));
  }
}

TEST_F(TimeTest, RetentionWaitsForATimeThatIsTrustedAndSteady) {
  Random random(1);
  constexpr std::int64_t kDay = 86'400'000;
  const TopicSpec week{"t", 2, 7 * kDay, kUnbounded, {}};
  (void)must(engine->ensure_topics({&week, 1}));
  const auto live = [&] {
    LogReader reader = must(LogReader::open(options.path));
    std::int64_t n = 0;
    const Catalog catalog = must(reader.catalog());
    for (const PartitionMarks& m : must(reader.marks(*catalog.find("t")))) n += m.live();
    return n;
  };
  append(random, 100);   // of 1970, not trusted
  clock.set_wall(kNow);  // a date from somewhere, still not trusted
  append(random, 100);
  EXPECT_EQ(live(), 200);
  clock.set_trusted(true);  // late
  append(random, 100);
  clock.set_wall(kNow + 3650 * kDay);  // 2036
  append(random, 100);
  EXPECT_EQ(live(), 400) << "a jump expires nothing";
  clock.set_wall(kNow + kDay);  // and back
  append(random, 100);
  EXPECT_EQ(live(), 500);
  for (int day = 0; day < 9; ++day) {  // time passes, and is believed again
    clock.advance(kDay);
    append(random, 1);
  }
  EXPECT_LT(live(), 200) << "what is a week old by any time that can be believed is gone";
}

TEST_F(TimeTest, ADoubtOutlivesARestart) {
  Random random(1);
  constexpr std::int64_t kDay = 86'400'000;
  clock.set_trusted(true);
  clock.set_wall(kNow);
  const TopicSpec hour{"t", 2, 3'600'000, kUnbounded, {}};
  for (const std::int64_t ahead : {3650 * kDay, 3 * kDay, kDay * 5 / 6}) {
    (void)must(engine->ensure_topics({&hour, 1}));
    append(random, 100);
    clock.set_wall(clock.wall_ms() + ahead);
    settle();
    append(random, 50);  // of the wrong time: it must not be the witness
    for (int starts = 0; starts < 2; ++starts) {
      open();
      (void)must(engine->ensure_topics({&hour, 1}));
      append(random, 1);
      settle();
      clock.advance(600'000);
      settle();
    }
    LogReader reader = must(LogReader::open(options.path));
    std::int64_t live = 0;
    const Catalog catalog = must(reader.catalog());
    for (const PartitionMarks& m : must(reader.marks(*catalog.find("t")))) live += m.live();
    EXPECT_GE(live, 150) << "ahead by " << ahead;
    clock.set_wall(clock.wall_ms() - ahead);  // right again
    for (int hours = 0; hours < 30; ++hours) clock.advance(3'600'000), settle();
  }
}

}  // namespace
}  // namespace wayside::test
