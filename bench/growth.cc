// How the log grows: appends to each of the given sizes, and at each measures what must not depend
// on it: append, start, a record by its offset, the tail, one partition, the latest of each key,
// the drop of a segment while appends go on, memory.
//   bench_growth DIRECTORY ROWS[,ROWS…]
// Prints a JSON object a line. 12 partitions, 500 keys, about 128 bytes, 500 records a commit.
#include "base/clock.h"
#include "base/text.h"
#include "bench/common.h"
#include "storage/engine.h"
#include "storage/reader.h"

namespace {

using namespace wayside;
using namespace wayside::bench;

class Growth {
 public:
  explicit Growth(const std::string& dir) : logger_(LogLevel::error) {
    options_.path = dir + "/wayside.db";
    for (int i = 0; i < 8192; ++i) {
      const auto truck = static_cast<unsigned>(random_() % 500);
      Append a;
      a.record.key = cat("truck_", 1000 + truck);
      a.record.value = cat("{\"ts\":", 1795000000000 + i, ",\"lat\":49.", random_() % 1000000,
                           ",\"lon\":11.", random_() % 1000000, ",\"speed\":", random_() % 90,
                           ",\"heading\":", random_() % 360, ",\"engine\":\"on\"}");
      made_.push_back(std::move(a));
    }
    open();
  }

  void grow_to(std::int64_t rows) {
    const auto start = Steady::now();
    const std::int64_t before = rows_;
    while (rows_ < rows) append(500);
    const double grown_ms = ms_since(start);
    std::vector<double> tail_ms = latencies(400);
    const auto close = Steady::now();
    engine_.reset();
    const double close_ms = ms_since(close);
    const auto opening = Steady::now();
    open();
    const double open_ms = ms_since(opening);
    LogReader reader = must(LogReader::open(options_.path));
    const Catalog catalog = must(reader.catalog());
    const Topic& topic = *catalog.find("truck_gps");
    (void)must(reader.marks(topic));
    std::vector<double> lookups;
    for (int i = 0; i < 200; ++i) {
      const Partition& p = topic.partitions[random_() % topic.partitions.size()];
      const auto offset = static_cast<std::int64_t>(
          random_() % static_cast<std::uint32_t>(engine_->next_offset(p.tp).value));
      const auto t = Steady::now();
      const auto seq = must(reader.seq_of(topic.chain, p.tp, Offset(offset)));
      (void)must(reader.read(topic.chain, *seq, {{p.tp}}, {1, SIZE_MAX}));
      lookups.push_back(ms_since(t));
    }
    std::vector<TpId> all;
    for (const Partition& p : topic.partitions) all.push_back(p.tp);
    const auto scan = [&](std::vector<TpId> tps, std::int64_t most) {
      std::int64_t n = 0;
      const auto t = Steady::now();
      for (Seq next(std::max<std::int64_t>(0, rows_ / 2)); n < most;) {
        auto page = must(reader.read(topic.chain, next, tps, {5000, 8 << 20}));
        n += static_cast<std::int64_t>(page.records.size());
        next = page.next;
        if (page.at_end) break;
      }
      return static_cast<double>(n) / ms_since(t) * 1000;
    };
    const double all_s = scan(all, 1'000'000), one_s = scan({all[3]}, 50'000);
    auto t = Steady::now();
    const auto latest = must(reader.latest(topic, clock_.wall_ms() - 3'600'000));
    const double latest_ms = ms_since(t);
    std::printf(
        "{\"rows\":%lld,\"append_s\":%.0f,\"commit_p50_ms\":%.2f,\"commit_p99_ms\":%.2f,"
        "\"close_ms\":%.0f,\"open_ms\":%.0f,\"lookup_p50_ms\":%.2f,\"lookup_p99_ms\":%.2f,"
        "\"read_all_s\":%.0f,\"read_one_s\":%.0f,\"latest_1h_ms\":%.1f,\"keys\":%zu,"
        "\"rss_kib\":%ld}\n",
        static_cast<long long>(rows_), static_cast<double>(rows_ - before) / grown_ms * 1000,
        quantile(tail_ms, 0.5), quantile(tail_ms, 0.99), close_ms, open_ms, quantile(lookups, 0.5),
        quantile(lookups, 0.99), all_s, one_s, latest_ms, latest.size(), rss_kib());
    std::fflush(stdout);
  }

 private:
  void open() {
    engine_ = must(Engine::open(options_, clock_, logger_));
    const TopicSpec spec{"truck_gps", 12, 7 * 86'400'000LL, kUnbounded, {}};
    (void)must(engine_->ensure_topics({&spec, 1}));
    tps_.clear();
    for (const Partition& p : engine_->catalog().find("truck_gps")->partitions) {
      tps_.push_back(p.tp);
    }
  }
  void append(std::size_t n) {
    std::vector<Batch> group(1);
    for (std::size_t i = 0; i < n; ++i) {
      Append a = made_[at_++ % made_.size()];
      a.tp = tps_[at_ * 7 % tps_.size()];
      group[0].ops.emplace_back(std::move(a));
    }
    must(engine_->begin());
    must(engine_->commit(group));
    must(engine_->roll_full_segments());
    rows_ += static_cast<std::int64_t>(n);
    clock_.advance(static_cast<std::int64_t>(n));  // 1000 records a second
    if (++commits_ % 50 == 0) (void)must(engine_->maintain());
  }
  std::vector<double> latencies(int commits) {
    std::vector<double> out;
    for (int i = 0; i < commits; ++i) {
      const auto t = Steady::now();
      append(50);
      out.push_back(ms_since(t));
    }
    return out;
  }

  EngineOptions options_;
  ManualClock clock_{1'795'000'000'000};
  Logger logger_;
  std::mt19937 random_{42};
  std::unique_ptr<Engine> engine_;
  std::vector<TpId> tps_;
  std::vector<Append> made_;
  std::size_t at_ = 0;
  std::int64_t rows_ = 0, commits_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  Growth growth(argv[1]);
  for (const auto rows : split(argv[2], ',')) growth.grow_to(parse_int(rows).value_or(0));
  return 0;
}
