// Reading: all partitions, one partition, by time, one key, the latest of each key; warm, cold (the
// kernel's cache is dropped before: needs root), and while a writer appends as fast as it can.
//   bench_read DIRECTORY ROWS
// Prints a JSON object a line: {"how","state","records_s" or "ms","writer_s"}.
#include <atomic>
#include <functional>
#include <thread>

#include "bench/log.h"

namespace {

using namespace wayside;
using namespace wayside::bench;

bool drop_caches() {
  ::sync();
  std::ofstream out("/proc/sys/vm/drop_caches");
  return static_cast<bool>(out << 3 << std::flush);
}

class Reading {
 public:
  Reading(const std::string& dir, std::int64_t rows) : log_(dir), rows_(rows) {
    log_.grow_to(rows);
    while (must(log_.engine().maintain())) {
    }
  }

  void run() {
    measure("warm", [] { return true; });
    measure("cold", drop_caches);
    std::atomic<bool> stop = false;
    std::atomic<std::int64_t> written = 0;
    std::thread writer([&] {
      for (int commits = 1; !stop; ++commits) {
        log_.append(500);
        written += 500;
        if (commits % 50 == 0) (void)log_.maintain();
      }
    });
    written_ = &written;
    measure("beside a saturating writer", [] { return true; });
    stop = true;
    writer.join();
  }

 private:
  void measure(const char* state, const std::function<bool()>& prepare) {
    const auto one = [&](const char* how, const std::function<std::int64_t(LogReader&)>& work) {
      std::vector<double> speeds, times;
      double writer_s = 0;
      for (int i = 0; i < 3; ++i) {
        if (!prepare()) return;
        LogReader reader = must(LogReader::open(log_.path()));
        const std::int64_t before = written_ != nullptr ? written_->load() : 0;
        const auto t = Steady::now();
        const std::int64_t n = work(reader);
        const double s = seconds_since(t);
        speeds.push_back(static_cast<double>(n) / s);
        times.push_back(s * 1000);
        if (written_ != nullptr) {
          writer_s = static_cast<double>(written_->load() - before) / s;
        }
      }
      std::printf(
          "{\"how\":\"%s\",\"state\":\"%s\",\"records_s\":%.0f,\"ms\":%.1f,\"writer_s\":%.0f}\n",
          how, state, quantile(speeds, 0.5), quantile(times, 0.5), writer_s);
      std::fflush(stdout);
    };
    one("all partitions, 1 M from the middle",
        [&](LogReader& r) { return scan(r, log_.tps(), 1'000'000); });
    one("one partition, 50 k from the middle",
        [&](LogReader& r) { return scan(r, {log_.tps()[3]}, 50'000); });
    one("the newest 10 k", [&](LogReader& r) {
      const Topic topic = topic_of(r);
      std::int64_t n = 0;
      for (Seq next(rows_at(r) - 10'000);;) {
        auto page = must(r.read(topic.chain, next, log_.tps(), {5000, 8 << 20}));
        n += static_cast<std::int64_t>(page.records.size());
        next = page.next;
        if (page.at_end || n >= 10'000) return n;
      }
    });
    one("500 from a time on", [&](LogReader& r) {
      const Topic topic = topic_of(r);
      const auto seq = must(r.seq_at(topic.chain, log_.tps(), log_.clock().wall_ms() - rows_ * 4));
      return static_cast<std::int64_t>(
          must(r.read(topic.chain, *seq, log_.tps(), {500, SIZE_MAX})).records.size());
    });
    one("one key, of 200 k of its partition", [&](LogReader& r) {
      const Topic topic = topic_of(r);
      std::int64_t n = 0, found = 0;
      for (Seq next(rows_ / 2); n < 200'000;) {
        auto page = must(r.read(topic.chain, next, {{log_.tps()[3]}}, {5000, 8 << 20}));
        for (const StoredRecord& record : page.records) {
          found += record.record.key == "truck_0007" ? 1 : 0;
        }
        n += static_cast<std::int64_t>(page.records.size());
        next = page.next;
        if (page.at_end) break;
      }
      return found > 0 ? n : 0;
    });
    one("latest of each key, last hour (360 k)", [&](LogReader& r) {
      return static_cast<std::int64_t>(
          must(r.latest(topic_of(r), log_.clock().wall_ms() - 3'600'000)).size());
    });
  }
  Topic topic_of(LogReader& r) { return *must(r.catalog()).find("truck_gps"); }
  std::int64_t rows_at(LogReader& r) {
    const std::int64_t open =
        must(r.number("SELECT max(segment) FROM _ws_segments WHERE last_seq IS NULL"));
    return must(r.number(cat("SELECT max(seq) FROM ", segment_table(ChainId(1), open))));
  }
  std::int64_t scan(LogReader& r, const std::vector<TpId>& tps, std::int64_t most) {
    const Topic topic = topic_of(r);
    std::int64_t n = 0;
    for (Seq next(rows_ / 2); n < most;) {
      auto page = must(r.read(topic.chain, next, tps, {5000, 8 << 20}));
      n += static_cast<std::int64_t>(page.records.size());
      next = page.next;
      if (page.at_end) break;
    }
    return n;
  }

  FilledLog log_;
  const std::int64_t rows_;  // before the writer of the last state goes on
  std::atomic<std::int64_t>* written_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  Reading(argv[1], parse_int(argv[2]).value_or(0)).run();
  return 0;
}
