// A log of two topics, what was acknowledged of it, and what is left of both after damage.
#pragma once

#include <filesystem>
#include <fstream>
#include <set>

#include "base/file.h"
#include "base/limits.h"
#include "storage/log.h"
#include "storage/recovery/recovery.h"
#include "storage/recovery/salvager.h"
#include "tests/support.h"

namespace wayside::test {

namespace fs = std::filesystem;

class RecoveryTest : public testing::Test {
 protected:
  RecoveryTest() { options.path = dir / "wayside.db", options.segment_rows = 200; }

  std::vector<TopicSpec> topics() const {
    return {{"a", 3, kForever, kUnbounded, {}}, {"b", 2, 7 * 86'400'000LL, kUnbounded, {}}};
  }
  // What Log::open does, with the engine in the hand: damage that is met is set aside.
  std::unique_ptr<Engine> open() {
    for (EngineOptions with = options;; with.damage = "met at the start") {
      auto engine = must(Engine::open(with, clock, logger));
      const auto made = engine->ensure_topics(topics());
      if (made) return engine;
      if (made.error().code != ErrorCode::corrupt || !with.damage.empty()) (void)must(made);
      engine->recovery().end_sidecar();
    }
  }
  // Appends, and remembers what was acknowledged.
  void append(Engine& engine, int n) {
    std::vector<TpId> tps;
    for (const Topic& t : engine.catalog().topics()) {
      for (const Partition& p : t.partitions) {
        if (t.name == "a" || t.name == "b") tps.push_back(p.tp);
      }
    }
    for (int i = 0; i < n; ++i) {
      clock.advance(10);
      std::string value = "value " + std::to_string(acked.size());
      if (i % 50 == 7) value.resize(large_bytes, 'x');  // overflow pages
      Append a = reading(tps[static_cast<std::size_t>(i) % tps.size()], "k", value);
      a.source = std::make_shared<Source>(Source{"truck", "t", 0});
      Batch batch = batch_of({a});
      must(commit(engine, batch));
      const auto& stored = std::get<Append>(batch.ops.front());
      acked[{stored.tp, stored.offset}] = value;
      must(engine.roll_full_segments());
    }
  }
  // As if it were killed: files stay as they are, with their WAL.
  void kill(std::unique_ptr<Engine> engine) {
    const std::string copy = dir / "copy";
    fs::create_directory(copy);
    for (const auto& e : fs::directory_iterator(dir.path())) {
      if (e.is_regular_file()) fs::copy(e.path(), copy + "/" + e.path().filename().string());
    }
    engine.reset();
    for (const auto& e : fs::directory_iterator(dir.path())) {
      if (e.is_regular_file() && e.path() != options.path) fs::remove(e.path());
    }
    // The database in place: another file would be a copy.
    for (const auto& e : fs::directory_iterator(copy)) {
      if (e.path().extension() == ".db-shm") continue;
      fs::copy(e.path(), dir.path() + "/" + e.path().filename().string(),
               fs::copy_options::overwrite_existing);
    }
    fs::remove_all(copy);
    fs::remove(options.path + "-shm");
  }
  void overwrite(const std::string& path, std::int64_t at, std::int64_t bytes, char with) {
    std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(at);
    const std::string garbage(static_cast<std::size_t>(bytes), with);
    f.write(garbage.data(), static_cast<std::streamsize>(bytes));
  }
  // Salvages in the foreground, then compares: every acknowledged record is there or named as lost,
  // no other is, and the arithmetic is right. Returns how many are lost. `drops`: the oldest of a
  // partition may have been dropped.
  std::int64_t examine(bool drops = false) {
    {
      auto log = must(Log::open(options, {}, topics(), clock, logger));
      Salvager salvager(*log, logger);
      must(salvager.wait());
    }
    LogReader reader = must(LogReader::open(options.path));
    EXPECT_EQ(must(reader.number("SELECT count(*) FROM pragma_integrity_check WHERE"
                                 " integrity_check='ok'")),
              1);
    std::map<std::pair<TpId, Offset>, std::string> stored;
    const Catalog catalog = must(reader.catalog());
    for (const char* name : {"a", "b"}) {
      for (const StoredRecord& r : all_records(options.path, name)) {
        EXPECT_EQ(record_crc(r.tp, r.offset, r.append_ms, r.record), r.crc);
        EXPECT_TRUE(stored.emplace(std::pair{r.tp, r.offset}, *r.record.value).second);
      }
      for (const LogReader::Counted& c : must(reader.count_rows(*catalog.find(name)))) {
        EXPECT_EQ(c.rows, c.marks.live()) << name << c.marks.partition;
        EXPECT_EQ(c.marks.missing(0, INT64_MAX, GapKind::salvaging), 0);
        if (!drops) continue;
        std::erase_if(acked, [&](const auto& a) {
          return a.first.first == c.marks.tp && a.first.second < c.marks.log_start;
        });
      }
    }
    std::int64_t lost = 0;
    for (const auto& [at, value] : acked) {
      const auto it = stored.find(at);
      if (it != stored.end()) {
        EXPECT_EQ(it->second, value);
        continue;
      }
      ++lost;
      bool named = false;
      for (const Missing& m : must(reader.missing())) {
        named = named ||
                (m.tp == at.first && m.gap.from <= at.second.value && at.second.value < m.gap.to);
      }
      EXPECT_TRUE(named) << "tp " << at.first.value << " offset " << at.second.value;
    }
    EXPECT_EQ(stored.size() + static_cast<std::size_t>(lost), acked.size());
    return lost;
  }
  // What comes now has offsets beyond all that were given.
  void go_on() {
    std::map<TpId, std::int64_t> end;
    for (const auto& [at, value] : acked) end[at.first] = std::max(end[at.first], at.second.value);
    auto engine = open();
    for (const auto& [tp, last] : end) EXPECT_GT(engine->next_offset(tp).value, last);
    try {
      append(*engine, 30);
    } catch (const std::runtime_error&) {  // damage that only a write meets
      engine->recovery().end_sidecar();
      engine.reset();
      options.damage = "met while appending";
      engine = open();
      options.damage.clear();
      append(*engine, 30);
    }
  }

  TempDir dir;
  std::size_t large_bytes = 9000;  // of every 50th record
  EngineOptions options;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
  std::map<std::pair<TpId, Offset>, std::string> acked;
};

}  // namespace wayside::test
