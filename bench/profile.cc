// Where each microsecond and each byte of an append goes: the same readings through one layer more
// at a time. Each line minus the one before it is what that layer costs.
//   bench_profile DIRECTORY RECORDS_PER_COMMIT SECONDS_PER_LAYER [DEVICE]
// Prints one JSON object a layer: µs of time and of CPU per record, device bytes per payload byte.
#include <ctime>
#include <functional>

#include "base/clock.h"
#include "base/text.h"
#include "bench/common.h"
#include "storage/engine/engine.h"
#include "storage/sqlite/schema.h"
#include "storage/sqlite/sqlite.h"

namespace {

using namespace wayside;
using namespace wayside::bench;

double cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

class Profile {
 public:
  Profile(std::string dir, std::size_t per_commit, double seconds, std::string device)
      : dir_(std::move(dir)), per_commit_(per_commit), seconds_(seconds), device_(device) {
    for (int p = 1; p <= 240; ++p) tps_.emplace_back(p);
  }

  // `commit` stores a group of `per_commit` readings.
  void layer(const char* name, const std::function<void(std::vector<Batch>&)>& commit) {
    Readings readings(tps_);
    const auto one = [&] {
      std::vector<Batch> group(1);
      group[0].ops.reserve(per_commit_);
      for (std::size_t i = 0; i < per_commit_; ++i) {
        Append a = readings.next();
        payload_ += a.record.payload_bytes();
        group[0].ops.emplace_back(std::move(a));
      }
      commit(group);
      records_ += static_cast<std::int64_t>(per_commit_);
    };
    for (records_ = 0; records_ < 30'000;) one();  // the WAL has its steady size, caches are warm
    const std::int64_t device_before = device_bytes(device_);
    const double cpu_before = cpu_seconds();
    payload_ = records_ = 0;
    const auto start = Steady::now();
    while (seconds_since(start) < seconds_) one();
    const auto n = static_cast<double>(records_);
    const double took = seconds_since(start), cpu = cpu_seconds() - cpu_before;
    const auto written = static_cast<double>(device_bytes(device_) - device_before);
    std::printf(
        "{\"layer\":\"%s\",\"b\":%zu,\"us\":%.3f,\"cpu_us\":%.3f,\"device\":%.2f,"
        "\"commit_ms\":%.3f}\n",
        name, per_commit_, took / n * 1e6, cpu / n * 1e6, written / static_cast<double>(payload_),
        took / n * static_cast<double>(per_commit_) * 1000);
    std::fflush(stdout);
  }

  // The log's own table and settings, without the engine. `path` may be ":memory:".
  void table(const char* name, const std::string& path, const std::vector<std::string>& settings) {
    Database db = must(Database::open(path, OpenMode::read_write_create));
    for (const std::string& sql : settings) must(db.exec(sql));
    must(db.exec(create_segment_sql(ChainId(1), 1)));
    Statement insert = must(prepare_insert(db, ChainId(1), 1));
    std::int64_t seq = 0;
    layer(name, [&](std::vector<Batch>& group) {
      must(db.exec("BEGIN IMMEDIATE"));
      for (Op& op : group[0].ops) {
        auto& a = std::get<Append>(op);
        ++seq;
        a.record.timestamp_ms = 1'795'000'000'000;
        const Offset offset(seq / 240);
        bind_record(insert, Seq(seq), a.tp, offset, a.record.timestamp_ms, a.record, 0,
                    record_crc(a.tp, offset, a.record.timestamp_ms, a.record));
        must(insert.run());
      }
      must(db.exec("COMMIT"));
    });
  }

  void run() {
    layer("a reading in memory", [](std::vector<Batch>&) {});
    layer("+ CRC-32C", [](std::vector<Batch>& group) {
      for (Op& op : group[0].ops) {
        auto& a = std::get<Append>(op);
        a.record.attributes =
            static_cast<std::int32_t>(record_crc(a.tp, Offset(1), 1'795'000'000'000, a.record));
      }
    });
    table("+ SQLite's insert, in memory", ":memory:", {"PRAGMA page_size=4096"});
    const std::vector<std::string> wal = {"PRAGMA page_size=4096", "PRAGMA journal_mode=WAL",
                                          "PRAGMA secure_delete=OFF", "PRAGMA cache_size=-4096"};
    auto settings = wal;
    settings.insert(settings.end(), {"PRAGMA synchronous=OFF", "PRAGMA wal_autocheckpoint=1000"});
    table("+ WAL and checkpoints, never synced", dir_ + "/off.db", settings);
    settings = wal;
    settings.emplace_back("PRAGMA synchronous=FULL");
    table("+ a sync a commit", dir_ + "/full.db", settings);
    engine();
  }

 private:
  void engine() {
    EngineOptions options;
    options.path = dir_ + "/wayside.db";
    const SystemClock clock(ClockTrust::always);
    Logger logger(LogLevel::error);
    auto engine = must(Engine::open(options, clock, logger));
    std::vector<TopicSpec> specs;
    for (int t = 0; t < 20; ++t) specs.push_back({cat("topic", t), 12, kForever, kUnbounded, {}});
    (void)must(engine->ensure_topics(specs));
    std::int64_t commits = 0;
    layer("+ the engine: offsets, rolls, indexes, views, sidecar", [&](std::vector<Batch>& group) {
      must(engine->begin());
      must(engine->commit(group));
      must(engine->roll_full_segments());
      if (++commits % 100 != 0) return;
      while (must(engine->maintain())) {
      }
    });
  }

  std::string dir_;
  std::size_t per_commit_;
  double seconds_;
  std::string device_;
  std::vector<TpId> tps_;
  std::int64_t payload_ = 0, records_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  Profile(argv[1], static_cast<std::size_t>(std::atol(argv[2])), std::atof(argv[3]),
          argc > 4 ? argv[4] : "")
      .run();
  return 0;
}
