// Random operations on the engine beside a model in memory: append, failed commits, read, roll,
// retention, jumps of the clock, restarts. After each step the log is what the model says.
#include <deque>

#include "tests/crash/workload.h"

namespace wayside::test {
namespace {

constexpr std::int64_t kHour = 3'600'000;

class Model {
 public:
  explicit Model(std::uint32_t s) : random_(s), vfs_(s) {
    options_.path = dir_ / "wayside.db";
    options_.vfs = vfs_.name();
    options_.segment_rows = 40;
    open();
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      const auto what = random_() % 100;
      if (what < 55) {
        append(false);
      } else if (what < 62) {
        append(true);
      } else if (what < 72) {
        compare();
      } else if (what < 82) {
        for (int n = 0; n < 3; ++n) must(engine_->maintain());
      } else if (what < 90) {
        move_clock();
      } else if (what < 94) {
        engine_.reset();
        open();
      } else if (what < 96) {
        kill();
      } else {
        must(engine_->roll_full_segments());
      }
    }
    compare();
  }
  std::int64_t appended = 0;

 private:
  struct Kept {
    std::int64_t offset, append_ms;
    bool trusted;
    std::string value;
  };

  static std::vector<TopicSpec> topics() {
    return {{"forever", 2, kForever, kUnbounded, {}},
            {"day", 2, 24 * kHour, kUnbounded, {}},
            {"hour", 1, kHour, kUnbounded, {}},
            {"small", 1, kForever, 20'000, {}}};
  }

  void open() {
    engine_ = must(Engine::open(options_, clock_, logger_));
    (void)must(engine_->ensure_topics(topics()));
    tps_.clear();
    for (const Topic& t : engine_->catalog().topics()) {
      for (const Partition& p : t.partitions) {
        tps_.push_back(p.tp);
        const auto& kept = model_[p.tp];
        const std::int64_t end = kept.empty() ? next_[p.tp] : kept.back().offset + 1;
        ASSERT_EQ(engine_->next_offset(p.tp).value, end) << t.name;
      }
    }
  }

  // The program dies, the machine does not.
  void kill() {
    vfs_.kill();
    engine_.reset();
    vfs_.revive();
    open();
  }

  void append(bool fails) {
    Batch batch;
    const auto n = 1 + random_() % 12;
    for (std::uint32_t i = 0; i < n; ++i) {
      std::string value = std::to_string(counter_++);
      value.resize(10 + random_() % 600, '.');
      batch.ops.emplace_back(reading(tps_[random_() % tps_.size()], "k", value));
    }
    if (fails) {
      vfs_.fail_calls(random_() % 2 == 0 ? FaultVfs::Call::sync : FaultVfs::Call::write, 1, 1,
                      10 /* SQLITE_IOERR */);
    }
    clock_.advance(random_() % 2000);
    const std::int64_t now = clock_.wall_ms();
    const Status status = commit(*engine_, batch);
    vfs_.fail_calls(FaultVfs::Call::sync, 0, 0, 0);
    if (!status) {
      // Nothing of it is there, and the next ones get the offsets it would have had. After a failed
      // sync the program does not know; a start that settles it is what makes it true.
      for (const TpId tp : tps_) ASSERT_EQ(engine_->next_offset(tp).value, next_[tp]);
      return append(false);  // and is overwritten; a kill before would have found it committed
    }
    for (const Op& op : batch.ops) {
      const auto& a = std::get<Append>(op);
      ASSERT_EQ(a.offset.value, next_[a.tp]++);
      model_[a.tp].push_back({a.offset.value, now, clock_.trusted(), *a.record.value});
      ++appended;
    }
    must(engine_->roll_full_segments());
  }

  void move_clock() {
    clock_.advance(1001);  // a step of maintenance lies between two jumps
    must(engine_->maintain());
    switch (random_() % 6) {
      case 0:
        clock_.advance(6 * kHour);
        break;
      case 1:
        // A wrong 2036 for some hours, which the kernel believes, and back.
        clock_.set_wall(clock_.wall_ms() + 10LL * 365 * 24 * kHour);
        for (int n = 0; n < 30; ++n) {
          clock_.advance(random_() % (20 * 60'000));
          must(engine_->maintain());
        }
        clock_.set_wall(kNow + clock_.steady_ms());
        must(engine_->maintain());
        break;
      case 2:
        clock_.set_wall(kNow + clock_.steady_ms());  // right again
        break;
      case 3:
        clock_.set_wall(1000);  // 1970
        clock_.set_trusted(false);
        break;
      case 4:
        clock_.set_trusted(true);
        clock_.set_wall(kNow + clock_.steady_ms());
        break;
      default:
        clock_.advance(20 * 60'000);
        break;
    }
  }

  // What the log holds is an end of what was appended; what is gone was old by a right clock, or
  // went for the bound in bytes.
  void compare() {
    LogReader reader = must(LogReader::open(options_.path));
    const Catalog catalog = must(reader.catalog());
    for (const Topic& t : catalog.topics()) {
      std::map<TpId, std::vector<StoredRecord>> records;
      for (StoredRecord& r : all_records(options_.path, t.name)) {
        records[r.tp].push_back(std::move(r));
      }
      for (const PartitionMarks& m : must(reader.marks(t))) {
        ASSERT_EQ(m.log_end.value, next_[m.tp]) << t.name;
        auto& kept = model_[m.tp];
        while (!kept.empty() && kept.front().offset < m.log_start.value) {
          const Kept& gone = kept.front();
          const std::int64_t truth = kNow + clock_.steady_ms();
          if (t.retention_bytes == kUnbounded && gone.trusted && gone.append_ms <= truth) {
            const std::int64_t most = t.retention_ms;
            ASSERT_NE(most, kForever) << "a record of a topic that keeps for ever is gone";
            ASSERT_GT(truth - gone.append_ms, most) << t.name << ": dropped too early";
          }
          kept.pop_front();
        }
        std::size_t i = 0;
        for (const StoredRecord& r : records[m.tp]) {
          if (r.offset < m.log_start) continue;
          ASSERT_LT(i, kept.size());
          ASSERT_EQ(r.offset.value, kept[i].offset);
          ASSERT_EQ(*r.record.value, kept[i].value);
          ++i;
        }
        ASSERT_EQ(i, kept.size()) << t.name << ": a record is missing";
      }
    }
  }

  TempDir dir_;
  Random random_;
  FaultVfs vfs_;
  ManualClock clock_{kNow};
  Logger logger_{LogLevel::error};
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
  std::vector<TpId> tps_;
  std::map<TpId, std::deque<Kept>> model_;
  std::map<TpId, std::int64_t> next_;
  std::int64_t counter_ = 0;
};

TEST(Model, RandomOperationsAreAsInMemory) {
  const std::uint32_t s = seed();
  std::int64_t appended = 0;
  for (std::uint32_t i = 0; i < rounds(15) && !HasFailure(); ++i) {
    SCOPED_TRACE("round " + std::to_string(i) + " of SEED=" + std::to_string(s));
    Model model(s + i);
    model.run(400);
    appended += model.appended;
  }
  tell("random operations beside a model", rounds(15), appended);
}

}  // namespace
}  // namespace wayside::test
