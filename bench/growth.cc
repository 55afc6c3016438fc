// How the log grows: appends to each of the given sizes, and at each measures what must not depend
// on it: append, rolls, start, a record by its offset and by time, one partition, the latest of
// each key, memory; at last the drop of a whole day while appends go on.
//   bench_growth DIRECTORY ROWS[,ROWS…]
// Prints a JSON object a line. 500 records a commit while it grows, 50 when latencies are taken.
#include "bench/log.h"

namespace {

using namespace wayside;
using namespace wayside::bench;

class Growth {
 public:
  explicit Growth(const std::string& dir) : log_(dir) {}

  void grow_to(std::int64_t rows) {
    log_.roll_most_ms_ = log_.upkeep_most_ms_ = 0;
    const auto start = Steady::now();
    const std::int64_t before = log_.rows();
    log_.grow_to(rows);
    const double grown_s = seconds_since(start);
    const double roll_most_ms = log_.roll_most_ms_, index_most_ms = log_.upkeep_most_ms_;
    const std::vector<double> commits = commit_ms(400, false);
    log_.close();
    const auto opening = Steady::now();
    log_.open();
    const double open_ms = ms_since(opening);
    LogReader reader = must(LogReader::open(log_.path()));
    const Catalog catalog = must(reader.catalog());
    const Topic& topic = *catalog.find("truck_gps");
    (void)must(reader.marks(topic));
    const std::vector<double> by_offset = timed(200, [&] {
      const Partition& p = topic.partitions[random_() % topic.partitions.size()];
      const auto offset = static_cast<std::int64_t>(
          random_() % static_cast<std::uint32_t>(log_.engine().next_offset(p.tp).value));
      const auto seq = must(reader.seq_of(topic.chain, p.tp, Offset(offset)));
      (void)must(reader.read(topic.chain, *seq, {{p.tp}}, {1, SIZE_MAX}));
    });
    const std::vector<double> by_time = timed(50, [&] {
      const auto back = static_cast<std::int64_t>(random_()) % (log_.rows() * 10);
      (void)must(reader.seq_at(topic.chain, log_.tps(), log_.clock().wall_ms() - back));
    });
    const std::vector<double> latest =
        timed(1, [&] { (void)must(reader.latest(topic, log_.clock().wall_ms() - 3'600'000)); });
    std::printf(
        "{\"rows\":%lld,\"append_s\":%.0f,\"commit_p50_ms\":%.2f,\"commit_p99_ms\":%.2f,"
        "\"roll_most_ms\":%.1f,\"index_most_ms\":%.1f,"
        "\"open_ms\":%.0f,\"offset_p50_ms\":%.2f,\"offset_p99_ms\":%.2f,\"time_p50_ms\":%.2f,"
        "\"time_p99_ms\":%.2f,\"latest_1h_ms\":%.1f,\"rss_kib\":%ld}\n",
        static_cast<long long>(log_.rows()), static_cast<double>(log_.rows() - before) / grown_s,
        quantile(commits, 0.5), quantile(commits, 0.99), roll_most_ms, index_most_ms, open_ms,
        quantile(by_offset, 0.5), quantile(by_offset, 0.99), quantile(by_time, 0.5),
        quantile(by_time, 0.99), latest[0], rss_kib());
    std::fflush(stdout);
  }

  // The oldest day expires while the writer goes on.
  void drop_a_day() {
    const std::int64_t day_rows = kDayMs / 10;
    if (log_.rows() < day_rows * 2) return;
    const std::vector<double> before = commit_ms(1000, true);
    const std::int64_t start = first_row();
    log_.clock().advance(kRetentionMs - log_.rows() * 10 + kDayMs);
    std::vector<double> during;
    const auto began = Steady::now();
    for (std::int64_t gone = 0, last = -1; gone != last || gone == 0;) {
      last = gone;
      for (const double ms : commit_ms(20, true)) during.push_back(ms);
      log_.clock().advance(1000);
      gone = first_row() - start;
    }
    std::printf(
        "{\"day_rows\":%lld,\"dropped\":%lld,\"took_ms\":%.0f,\"before_p50_ms\":%.2f,"
        "\"before_p99_ms\":%.2f,\"during_p50_ms\":%.2f,\"during_p99_ms\":%.2f,"
        "\"during_most_ms\":%.1f}\n",
        static_cast<long long>(day_rows), static_cast<long long>(first_row() - start),
        ms_since(began), quantile(before, 0.5), quantile(before, 0.99), quantile(during, 0.5),
        quantile(during, 0.99), quantile(during, 1));
  }

 private:
  std::int64_t first_row() {
    LogReader reader = must(LogReader::open(log_.path()));
    return must(reader.number("SELECT sum(log_start) FROM _ws_partitions"));
  }
  // Of one commit of 50; with `upkeep` of what the writer does between two, as well.
  std::vector<double> commit_ms(int commits, bool upkeep) {
    return timed(commits, [&] {
      log_.append(50);
      if (upkeep) (void)log_.maintain();
    });
  }
  template <class Work>
  static std::vector<double> timed(int times, Work work) {
    std::vector<double> out;
    for (int i = 0; i < times; ++i) {
      const auto t = Steady::now();
      work();
      out.push_back(ms_since(t));
    }
    return out;
  }

  FilledLog log_;
  std::mt19937 random_{42};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  Growth growth(argv[1]);
  for (const auto rows : split(argv[2], ',')) growth.grow_to(parse_int(rows).value_or(0));
  growth.drop_a_day();
  return 0;
}
