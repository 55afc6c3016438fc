// Appending, without MQTT: records/s and device bytes of the log, beside a raw file that is
// preallocated, written in place and synced (fdatasync) once per commit: the limit.
//   bench_append DIRECTORY RECORDS_PER_COMMIT TOPICS PARTITIONS_EACH SECONDS [DEVICE]
// DEVICE is a block device (loop0) that holds nothing but DIRECTORY; with it device bytes are read
// from its statistics. Prints one JSON object.
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "bench/common.h"
#include "storage/engine/engine.h"
#include "storage/sqlite/sqlite.h"

namespace {

using namespace wayside;
using namespace wayside::bench;

constexpr std::int64_t kWarmUp = 30'000;  // records, so that the WAL has its steady size

struct Figures {
  double records_per_s = 0, bytes_per_payload_byte = 0;
};

Figures run_log(const std::string& dir, std::size_t b, int topics, int partitions, double seconds,
                const std::string& device) {
  EngineOptions options;
  options.path = dir + "/wayside.db";
  const SystemClock clock(ClockTrust::always);
  Logger logger(LogLevel::error);
  auto engine = must(Engine::open(options, clock, logger));
  std::vector<TopicSpec> specs;
  for (int t = 0; t < topics; ++t) {
    specs.push_back({cat("topic", t), partitions, kForever, kUnbounded, {}});
  }
  (void)must(engine->ensure_topics(specs));
  std::vector<TpId> tps;
  for (const Topic& t : engine->catalog().topics()) {
    for (const Partition& p : t.partitions) tps.push_back(p.tp);
  }
  Readings readings(tps);
  std::int64_t payload = 0, records = 0;
  const auto commit_one = [&](std::size_t n) {
    std::vector<Batch> group(1);
    for (std::size_t i = 0; i < n; ++i) {
      Append a = readings.next();
      payload += a.record.payload_bytes();
      group[0].ops.emplace_back(std::move(a));
    }
    must(engine->begin());
    must(engine->commit(group));
    must(engine->roll_full_segments());
    records += static_cast<std::int64_t>(n);
  };
  while (records < kWarmUp) commit_one(500);
  const std::int64_t device_before = device_bytes(device);
  payload = records = 0;
  const auto start = Steady::now();
  std::int64_t commits = 0;
  for (double spent = 0; spent < seconds; spent = seconds_since(start)) {
    commit_one(b);
    // What the writer does in idle moments belongs to the cost: indexes, views, retention.
    if (++commits % 100 != 0) continue;
    while (must(engine->maintain())) {
    }
  }
  Figures r;
  r.records_per_s = static_cast<double>(records) / seconds_since(start);
  if (!device.empty()) {
    r.bytes_per_payload_byte =
        static_cast<double>(device_bytes(device) - device_before) / static_cast<double>(payload);
  }
  return r;
}

Figures run_raw(const std::string& dir, std::size_t b, double seconds, const std::string& device) {
  constexpr std::size_t kFile = 64 << 20;
  const std::string path = dir + "/raw";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  const std::string zeros(1 << 20, '\0');
  for (std::size_t at = 0; at < kFile; at += zeros.size()) {
    if (::write(fd, zeros.data(), zeros.size()) < 0) std::exit(1);
  }
  ::fsync(fd);
  Readings readings({TpId(1)});
  const std::int64_t device_before = device_bytes(device);
  std::int64_t payload = 0, records = 0;
  std::size_t at = 0;
  const auto start = Steady::now();
  std::string buffer;
  for (double spent = 0; spent < seconds; spent = seconds_since(start)) {
    buffer.clear();
    for (std::size_t i = 0; i < b; ++i) {
      const Append& a = readings.next();
      payload += a.record.payload_bytes();
      buffer += *a.record.key;
      buffer += *a.record.value;
    }
    if (at + buffer.size() > kFile) at = 0;
    if (::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(at)) < 0) std::exit(1);
    ::fdatasync(fd);
    at += buffer.size();
    records += static_cast<std::int64_t>(b);
  }
  Figures r;
  r.records_per_s = static_cast<double>(records) / seconds_since(start);
  if (!device.empty()) {
    r.bytes_per_payload_byte =
        static_cast<double>(device_bytes(device) - device_before) / static_cast<double>(payload);
  }
  ::close(fd);
  ::unlink(path.c_str());
  return r;
}

// What one would write first: one table, PRIMARY KEY(partition, offset), in the same WAL with FULL.
Figures run_naive(const std::string& dir, std::size_t b, int partitions, double seconds,
                  const std::string& device) {
  const std::string path = dir + "/naive.db";
  Database db = must(Database::open(path, OpenMode::read_write_create));
  for (const char* sql :
       {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
        "CREATE TABLE records(partition INTEGER, offset INTEGER, ts INTEGER, key TEXT, value TEXT,"
        " PRIMARY KEY(partition, offset)) WITHOUT ROWID"}) {
    must(db.exec(sql));
  }
  Statement insert = must(db.prepare("INSERT INTO records VALUES(?1,?2,?3,?4,?5)", true));
  std::vector<TpId> tps;
  for (int p = 1; p <= partitions; ++p) tps.emplace_back(p);
  Readings readings(tps);
  std::vector<std::int64_t> next(static_cast<std::size_t>(partitions) + 1, 0);
  std::int64_t payload = 0, records = 0;
  const auto commit_one = [&](std::size_t n) {
    must(db.exec("BEGIN IMMEDIATE"));
    for (std::size_t i = 0; i < n; ++i) {
      const Append& a = readings.next();
      payload += a.record.payload_bytes();
      insert.bind(1, a.tp.value).bind(2, next[static_cast<std::size_t>(a.tp.value)]++);
      insert.bind(3, 1795000000000).bind_text(4, *a.record.key).bind_text(5, *a.record.value);
      must(insert.run());
    }
    must(db.exec("COMMIT"));
    records += static_cast<std::int64_t>(n);
  };
  while (records < kWarmUp) commit_one(500);
  const std::int64_t device_before = device_bytes(device);
  payload = records = 0;
  const auto start = Steady::now();
  while (seconds_since(start) < seconds) commit_one(b);
  Figures r;
  r.records_per_s = static_cast<double>(records) / seconds_since(start);
  if (!device.empty()) {
    r.bytes_per_payload_byte =
        static_cast<double>(device_bytes(device) - device_before) / static_cast<double>(payload);
  }
  return r;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  const std::string dir = argv[1], device = argc > 6 ? argv[6] : "";
  const auto b = static_cast<std::size_t>(std::atol(argv[2]));
  const double seconds = std::atof(argv[5]);
  const Figures raw = run_raw(dir, b, seconds, device);
  const Figures log = run_log(dir, b, std::atoi(argv[3]), std::atoi(argv[4]), seconds, device);
  const Figures naive = run_naive(dir, b, std::atoi(argv[3]) * std::atoi(argv[4]), seconds, device);
  std::printf(
      "{\"naive_records_s\":%.0f,\"naive_device\":%.2f,"
      "\"b\":%zu,\"raw_records_s\":%.0f,\"log_records_s\":%.0f,\"ratio\":%.3f,"
      "\"raw_device\":%.2f,\"log_device\":%.2f}\n",
      naive.records_per_s, naive.bytes_per_payload_byte, b, raw.records_per_s, log.records_per_s,
      log.records_per_s / raw.records_per_s, raw.bytes_per_payload_byte,
      log.bytes_per_payload_byte);
  return 0;
}
