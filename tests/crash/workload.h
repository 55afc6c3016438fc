// A workload on the engine, what it was acknowledged, and the oracle that holds the log against it.
// Thread: the test's.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/limits.h"
#include "storage/engine/space.h"
#include "storage/log.h"
#include "storage/recovery/recovery.h"
#include "storage/recovery/salvager.h"
#include "tests/crash/fault_vfs.h"
#include "tests/support.h"

namespace wayside::test {

// What a run of the workload acknowledged.
struct Acked {
  std::vector<std::pair<TpId, std::string>> readings;       // partition and value, in commit order
  std::map<std::pair<TpId, std::int64_t>, std::string> at;  // the same by offset
  std::string offset_given_twice;
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

  // As the gateway does: damage that is met is set aside by opening anew, at most a few times.
  // Returns whether the engine could be opened.
  bool run(
      const std::string& path, const std::string& vfs, int batches,
      const std::function<bool()>& stop = [] { return false; }) {
    std::string damage;
    for (int opens = 0; opens < 5; ++opens) {
      const bool opened = run_until_damage(path, vfs, batches, stop, damage);
      if (damage.empty() || !opened) return opened;
    }
    return true;
  }

  bool run_until_damage(const std::string& path, const std::string& vfs, int batches,
                        const std::function<bool()>& stop, std::string& damage) {
    ManualClock clock(kNow);
    Logger logger(LogLevel::error);
    EngineOptions with = options(path, vfs);
    with.damage = std::exchange(damage, "");
    auto opened = Engine::open(with, clock, logger);
    if (!opened) return false;
    Engine& engine = **opened;
    const auto met = [&](const Status& status) {
      if (!status && status.error().code == ErrorCode::corrupt) damage = status.error().what;
      return !damage.empty();
    };
    if (const auto made = engine.ensure_topics(topics()); !made) {
      return met(tl::unexpected<Error>(made.error()));
    }
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
      const Status committed = commit(engine, batch);
      if (committed) {
        for (const Op& op : batch.ops) {
          if (const auto* a = std::get_if<Append>(&op)) {
            acked_.readings.emplace_back(a->tp, *a->record.value);
            if (!acked_.at.emplace(std::pair{a->tp, a->offset.value}, *a->record.value).second) {
              acked_.offset_given_twice = "an offset was given twice";
            }
          }
        }
        acked_.committed_offsets[moved] = position;
      }
      if (met(committed) || met(engine.roll_full_segments())) return true;
      if (!committed && committed.error().code == ErrorCode::no_space) {
        (void)engine.space().make_room();
      }
      if (random_() % 4 == 0) {
        const auto more = engine.maintain();
        if (!more && met(tl::unexpected<Error>(more.error()))) return true;
      }
    }
    return true;
  }

 private:
  Random random_;
  Acked& acked_;
  std::int64_t counter_ = 0;
};

// Opens the log as it is after the cut and holds it against what was acknowledged. Empty: all is
// well; else what is wrong. On an honest disk nothing may be set aside (`lost_allowed` is false).
inline std::string examine(const std::string& directory, const Acked& acked,
                           bool lost_allowed = false, bool drop_allowed = false) {
  const std::string path = directory + "/wayside.db";
  if (acked.readings.empty() && !std::filesystem::exists(path)) return {};
  if (!acked.offset_given_twice.empty()) return acked.offset_given_twice;
  ManualClock clock(kNow);
  Logger logger(LogLevel::error);
  std::map<TpId, std::int64_t> next_of;
  {
    auto log = Log::open(Workload::options(path, ""), {}, Workload::topics(), clock, logger);
    if (!log) return "does not start: " + log.error().text();
    Salvager salvager(**log, logger);
    if (auto done = salvager.wait(); !done) return "salvage: " + done.error().text();
  }
  LogReader reader = must(LogReader::open(path));
  if (must(reader.number("SELECT count(*) FROM pragma_integrity_check WHERE"
                         " integrity_check='ok'")) != 1) {
    return "the integrity check fails";
  }
  const Catalog catalog = must(reader.catalog());
  std::map<TpId, std::int64_t> next;
  std::map<std::string, TpId> stored;
  std::int64_t lost = 0;
  std::set<std::string> expired;
  for (const std::string topic : {"a", "b"}) {
    std::map<TpId, PartitionMarks> marks;
    for (const LogReader::Counted& c : must(reader.count_rows(*catalog.find(topic)))) {
      if (c.rows != c.marks.live()) return "the ledger does not reconcile";
      lost += c.marks.missing(0, INT64_MAX, GapKind::lost);
      marks[c.marks.tp] = c.marks;
    }
    for (const StoredRecord& r : all_records(path, topic)) {
      const PartitionMarks& m = marks[r.tp];
      const std::int64_t from = std::max(next[r.tp], m.log_start.value);
      if (r.offset.value < from) return "an offset comes twice, or goes back";
      if (r.offset.value - from != m.missing(from, r.offset.value)) return "offsets are not dense";
      next[r.tp] = r.offset.value + 1;
      if (r.crc != record_crc(r.tp, r.offset, r.append_ms, r.record))
        return "a record's CRC is wrong";
      if (!stored.emplace(*r.record.value, r.tp).second) return "a record is there twice";
      const auto given = acked.at.find({r.tp, r.offset.value});
      if (given != acked.at.end() && given->second != *r.record.value) {
        return "an offset holds another record than the acknowledged one";
      }
    }
    for (const auto& [tp, m] : marks) next_of[tp] = m.log_end.value;
    for (const auto& [at, value] : acked.at) {
      const auto m = marks.find(at.first);
      if (m != marks.end() && at.second < m->second.log_start.value) expired.insert(value);
    }
  }
  for (const auto& [tp, end] : next) {
    if (next_of[tp] < end) return "a log end is before its records";
  }
  std::int64_t gone = 0;
  for (const auto& [tp, value] : acked.readings) {
    const auto it = stored.find(value);
    if (it != stored.end() && it->second == tp) continue;
    if (expired.contains(value)) {
      if (!drop_allowed) return "an acknowledged reading was dropped";
      continue;
    }
    if (!lost_allowed) return "an acknowledged reading is lost: " + value.substr(0, 20);
    ++gone;
  }
  if (gone > lost) return "more acknowledged readings are gone than are named as lost";
  for (const GroupPosition& p : must(reader.positions("g"))) {
    const auto it = acked.committed_offsets.find(p.tp);
    if (!lost_allowed && it != acked.committed_offsets.end() && p.next.value < it->second)
      return "a position is lost";
    if (p.next.value > next_of[p.tp]) return "a position is ahead of the data";
  }
  return {};
}

// The same for a disk that did what it promised: nothing is set aside, and nothing is skipped.
inline std::string examine_honest(const std::string& directory, const Acked& acked,
                                  bool drop_allowed = false) {
  const std::string wrong = examine(directory, acked, false, drop_allowed);
  if (!wrong.empty() || !std::filesystem::exists(directory + "/wayside.db")) return wrong;
  LogReader reader = must(LogReader::open(directory + "/wayside.db"));
  if (!must(reader.damaged()).empty()) return "a sound log was set aside";
  if (!must(reader.missing()).empty()) return "offsets were skipped";
  return {};
}

}  // namespace wayside::test
