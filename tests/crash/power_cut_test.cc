// Simulated power cuts: whatever was acknowledged before the cut is in the log after it, every
// offset once, and the log starts. Each test prints its seed.
#include <set>

#include "tests/crash/fault_vfs.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

// What a run of the workload acknowledged.
struct Acked {
  std::vector<std::pair<TpId, std::string>> readings;  // partition and value, in commit order
  std::map<TpId, std::int64_t> committed_offsets;
};

// Commits batches of random size until the disk stops answering or `batches` are done. Values are
// large, so that checkpoints come every few dozen commits; segments are small, so that rolls do.
class Workload {
 public:
  Workload(std::uint32_t workload_seed, Acked& acked) : random_(workload_seed), acked_(acked) {}

  static EngineOptions options(const std::string& path, const std::string& vfs) {
    EngineOptions o;
    o.path = path;
    o.vfs = vfs;
    o.segment_rows = 200;
    return o;
  }

  static std::vector<TopicSpec> topics() {
    TopicSpec a{"a", 3, kForever, kUnbounded, {}};
    TopicSpec b{"b", 2, kForever, kUnbounded, {}};
    return {a, b};
  }

  // Returns whether the engine could be opened.
  bool run(
      const std::string& path, const std::string& vfs, int batches,
      const std::function<bool()>& stop = [] { return false; }) {
    ManualClock clock(kNow);
    Logger logger(LogLevel::error);
    auto opened = Engine::open(options(path, vfs), clock, logger);
    if (!opened) return false;
    Engine& engine = **opened;
    if (!engine.ensure_topics(topics())) return false;
    std::vector<TpId> tps;
    for (const Topic& t : engine.catalog().topics()) {
      for (const Partition& p : t.partitions) tps.push_back(p.tp);
    }
    for (int i = 0; i < batches && !stop(); ++i) {
      clock.advance(10);
      Batch batch;
      const auto n = 1 + random_() % 30;
      for (std::uint32_t k = 0; k < n; ++k) {
        const TpId tp = tps[random_() % tps.size()];
        std::string value = std::to_string(random_()) + "-" + std::to_string(counter_++);
        value.resize(20 + random_() % 2000, 'x');
        batch.ops.emplace_back(reading(tp, "k" + std::to_string(random_() % 50), value));
      }
      const TpId moved = tps[random_() % tps.size()];
      const std::int64_t position = engine.next_offset(moved).value;
      batch.ops.emplace_back(CommitOffset{"g", moved, Offset(position), ""});
      if (commit(engine, batch)) {
        for (const Op& op : batch.ops) {
          if (const auto* a = std::get_if<Append>(&op)) {
            acked_.readings.emplace_back(a->tp, *a->record.value);
          }
        }
        acked_.committed_offsets[moved] = position;
      }
      (void)engine.roll_full_segments();
      if (random_() % 4 == 0) (void)engine.maintain();
    }
    return true;
  }

 private:
  Random random_;
  Acked& acked_;
  std::int64_t counter_ = 0;
};

// Opens the log as it is after the cut and holds it against what was acknowledged. Empty: all is
// well; else what is wrong.
std::string examine(const std::string& directory, const Acked& acked) {
  const std::string path = directory + "/wayside.db";
  if (acked.readings.empty() && !std::filesystem::exists(path)) return {};
  ManualClock clock(kNow);
  Logger logger(LogLevel::error);
  auto engine = Engine::open(Workload::options(path, ""), clock, logger);
  if (!engine) return "does not start: " + engine.error().text();
  if (auto made = (*engine)->ensure_topics(Workload::topics()); !made) return made.error().text();
  LogReader reader = must(LogReader::open(path));
  WS_CHECK(must(reader.number("SELECT count(*) FROM pragma_integrity_check WHERE"
                              " integrity_check='ok'")) == 1);
  std::map<TpId, std::int64_t> next;
  std::map<std::string, TpId> stored;
  for (const std::string topic : {"a", "b"}) {
    for (const StoredRecord& r : all_records(path, topic)) {
      if (r.offset.value != next[r.tp]++) return "offsets are not dense";
      if (r.crc != record_crc(r.tp, r.offset, r.append_ms, r.record))
        return "a record's CRC is wrong";
      if (!stored.emplace(*r.record.value, r.tp).second) return "a record is there twice";
    }
  }
  for (const auto& [tp, end] : next) {
    if ((*engine)->next_offset(tp).value != end) return "a next offset is wrong after recovery";
  }
  for (const auto& [tp, value] : acked.readings) {
    const auto it = stored.find(value);
    if (it == stored.end() || it->second != tp) return "an acknowledged reading is lost";
  }
  for (const GroupPosition& p : must(reader.positions("g"))) {
    const auto it = acked.committed_offsets.find(p.tp);
    if (it != acked.committed_offsets.end() && p.next.value < it->second)
      return "a position is lost";
    if (p.next.value > next[p.tp]) return "a position is ahead of the data";
  }
  return {};
}

std::string cut_once(
    std::uint32_t s, std::int64_t most_operations, bool in_checkpoint,
    const std::function<void(FaultVfs&)>& prepare = [](FaultVfs&) {}) {
  Random random(s);
  TempDir before, after;
  FaultVfs vfs(random());
  prepare(vfs);
  vfs.cut_after(
      1 + static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(most_operations)),
      in_checkpoint);
  Acked acked;
  int left = 400;  // at the last, if not before; not after closing, which would save everything
  Workload(random(), acked).run(before / "wayside.db", vfs.name(), 1000, [&] {
    if (--left == 0 && !vfs.is_off()) vfs.cut_now();
    return vfs.is_off();
  });
  if (!vfs.is_off()) vfs.cut_now();
  vfs.write_after_cut(after.path());
  return examine(after.path(), acked);
}

TEST(PowerCut, AnywhereLosesNothingAcknowledged) {
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < 60; ++i) {
    ASSERT_EQ(cut_once(s + i, 3000, false), "") << "cut " << i << " of SEED=" << s;
  }
}

TEST(PowerCut, InTheFirstMomentsLeavesALogThatStarts) {
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < 60; ++i) {
    ASSERT_EQ(cut_once(s + i, 60, false), "") << "cut " << i << " of SEED=" << s;
  }
}

TEST(PowerCut, InMidCheckpointLosesNothingAcknowledged) {
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < 30; ++i) {
    ASSERT_EQ(cut_once(s + i, 1500, true), "") << "cut " << i << " of SEED=" << s;
  }
}

TEST(PowerCut, AfterAFailedSyncAndAKillLosesNothingAcknowledged) {
  const std::uint32_t s = seed();
  int failed_syncs = 0;
  for (std::uint32_t i = 0; i < 60; ++i) {
    Random random(s + i);
    TempDir before, after;
    FaultVfs vfs(random());
    Acked acked;
    Workload workload(random(), acked);
    const std::string path = before / "wayside.db";
    vfs.fail_sync_after(2 + static_cast<std::int64_t>(random() % 60));
    // Killed soon after the failed sync, while its bytes can still be read.
    int left = static_cast<int>(random() % 3);
    ASSERT_TRUE(workload.run(path, vfs.name(), 200, [&] {
      if (vfs.sync_has_failed() && left-- == 0) vfs.kill();
      return vfs.sync_has_failed() && left < 0;
    }) || vfs.sync_has_failed());
    failed_syncs += vfs.sync_has_failed() ? 1 : 0;
    vfs.revive();
    // Appends go on behind whatever the WAL shows; then the power goes.
    // Before the log is closed: closing it would copy everything into the database.
    auto more = static_cast<int>(1 + random() % 20);
    workload.run(path, vfs.name(), 100, [&] {
      if (more-- == 0) vfs.cut_now();
      return vfs.is_off();
    });
    vfs.write_after_cut(after.path());
    ASSERT_EQ(examine(after.path(), acked), "") << "cut " << i << " of SEED=" << s;
  }
  EXPECT_GT(failed_syncs, 30);
}

TEST(PowerCut, OfADiskThatIsFullLosesNothingAcknowledged) {
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_EQ(cut_once(s + i, 4000, false,
                       [&](FaultVfs& vfs) { vfs.fill_after(200'000 + (s + i) % 3'000'000); }),
              "")
        << "cut " << i << " of SEED=" << s;
  }
}

// The test of the tests: a disk that ignores syncs (as synchronous=OFF would) must be found out.
TEST(TestOfTheTest, APowerCutFindsIgnoredSyncs) {
  const std::uint32_t s = seed();
  int found = 0;
  for (std::uint32_t i = 0; i < 40; ++i) {
    std::string verdict;
    try {
      verdict = cut_once(s + i, 3000, false, [](FaultVfs& vfs) { vfs.ignore_syncs(); });
    } catch (const std::exception& e) {
      verdict = e.what();
    }
    found += verdict.empty() ? 0 : 1;
  }
  // About every second cut finds something acknowledged gone; the others hit a moment without any.
  EXPECT_GE(found, 10);
}

}  // namespace
}  // namespace wayside::test
