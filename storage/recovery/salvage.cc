// Taking back what the salvager finds in damaged files.
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"
#include "storage/recovery/recovery.h"

namespace wayside {
namespace {

constexpr std::int64_t kBytesOfARecordLeast = 100;

// Adds [at, at+1) to ranges that do not touch each other.
void add_to(std::map<std::int64_t, std::int64_t>& ranges, std::int64_t at) {
  auto next = ranges.upper_bound(at);
  if (next != ranges.begin()) {
    const auto before = std::prev(next);
    if (before->second > at) return;
    if (before->second == at) {
      before->second = at + 1;
      if (next != ranges.end() && next->first == at + 1) {
        before->second = next->second;
        ranges.erase(next);
      }
      return;
    }
  }
  if (next != ranges.end() && next->first == at + 1) {
    const std::int64_t to = next->second;
    ranges.erase(next);
    ranges[at] = to;
    return;
  }
  ranges[at] = at + 1;
}

}  // namespace

// Segment tables that no segment row names: of a try that was cut off.
Status Recovery::drop_strays() {
  Engine& e = engine_;
  std::vector<std::string> strays;
  WS_ASSIGN(Statement s,
            e.db_.prepare("SELECT name FROM sqlite_schema WHERE type='table' AND"
                          " name GLOB '_ws_seg_[0-9]*' AND name NOT IN (SELECT"
                          " '_ws_seg_' || chain || '_' || segment FROM _ws_segments)"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    strays.emplace_back(s.bytes(0));
  }
  for (const std::string& name : strays) {
    WS_TRY(e.transaction([&] { return e.db_.exec("DROP TABLE " + quoted_identifier(name)); }));
  }
  return {};
}

Status Recovery::load_missing() {
  Engine& e = engine_;
  missing_.clear();
  WS_ASSIGN(Statement s, e.db_.prepare("SELECT tp, from_offset, to_offset, kind, why FROM _ws_lost"
                                       " WHERE kind IN ('salvaging', 'skipped')"
                                       " ORDER BY tp, from_offset"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return {};
    const TpId tp(static_cast<std::int32_t>(s.integer(0)));
    missing_[tp].push_back(
        {s.integer(1), s.integer(2), s.bytes(3) == "skipped", std::string(s.bytes(4))});
  }
}

Status Recovery::begin_salvage(std::int64_t all_bytes) {
  Engine& e = engine_;
  buckets_.clear();
  found_.clear();
  salvaged_of_.clear();
  salvaged_ = 0;
  strangers_ = false;
  WS_TRY(drop_strays());
  // All their records fit into so many segments of so many rows, however small they are.
  const auto chains = static_cast<std::int64_t>(std::max<std::size_t>(e.chains_.size(), 1));
  const std::int64_t segments =
      std::clamp<std::int64_t>(limits::kSegmentsMax / 2 / chains, 1, limits::kSalvageSegmentsMax);
  oldest_.clear();
  WS_ASSIGN(Statement s, e.db_.prepare("SELECT chain, min(segment), min(first_seq) FROM"
                                       " _ws_segments GROUP BY chain"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    oldest_[ChainId(static_cast<std::int32_t>(s.integer(0)))] = {s.integer(1), s.integer(2)};
  }
  bucket_rows_ = std::max(e.options_.segment_rows, all_bytes / kBytesOfARecordLeast / segments + 1);
  return load_missing();
}

Result<Recovery::Bucket*> Recovery::bucket_of(ChainId chain, std::int64_t seq) {
  Engine& e = engine_;
  const Oldest& oldest = oldest_[chain];
  const std::int64_t back =
      std::min((oldest.first_seq - 1 - seq) / bucket_rows_, limits::kSalvageSegmentsMax - 1);
  const std::int64_t segment = std::max<std::int64_t>(oldest.segment - 1 - back, 1);
  const auto [it, fresh] = buckets_.try_emplace({chain, segment});
  Bucket& bucket = it->second;
  if (fresh) {
    auto prepared = [&]() -> Status {
      WS_TRY(e.db_.exec(create_segment_sql(chain, segment)));
      WS_ASSIGN(bucket.insert, prepare_insert(e.db_, chain, segment, true));
      return {};
    }();
    if (!prepared) {
      buckets_.erase(it);
      return tl::unexpected<Error>(prepared.error());
    }
  }
  return &bucket;
}

Status Recovery::use_file(const std::string& file) {
  file_ = file;
  WS_ASSIGN(Statement s,
            engine_.db_.prepare("SELECT before_source FROM _ws_damaged WHERE file=?1"));
  WS_ASSIGN(const bool row, s.bind_text(1, file).step());
  if (!row) return fail(ErrorCode::not_found, cat(file, " is no file that was set aside"));
  before_source_ = s.integer(0);
  salvaged_of_[file_] += 0;
  return {};
}

bool Recovery::is_found(TpId tp, std::int64_t offset) const {
  const auto of = found_.find(tp);
  if (of == found_.end()) return false;
  const auto next = of->second.upper_bound(offset);
  return next != of->second.begin() && std::prev(next)->second > offset;
}

Status Recovery::add_salvaged(std::span<const StoredRecord> records) {
  Engine& e = engine_;
  if (engine_.space_->room_bytes() == 0) {
    return fail(ErrorCode::no_space, "there is no room for more");
  }
  std::map<std::pair<TpId, std::int64_t>, std::pair<const StoredRecord*, Bucket*>> added;
  std::set<std::pair<ChainId, std::int64_t>> known;
  for (const auto& [key, bucket] : buckets_) known.insert(key);
  Status status = e.transaction([&]() -> Status {
    for (const StoredRecord& r : records) {
      const auto tp = static_cast<std::size_t>(r.tp.value);
      // Of a partition that nobody knows any more: then the file is not done with.
      if (tp >= e.chain_of_.size() || e.chain_of_[tp] == Engine::kNoChain) strangers_ = true;
      const auto missing = missing_.find(r.tp);
      if (missing == missing_.end() || tp >= e.chain_of_.size() ||
          e.chain_of_[tp] == Engine::kNoChain || is_found(r.tp, r.offset.value) ||
          added.contains({r.tp, r.offset.value})) {
        continue;
      }
      const ChainId chain = e.chains_[e.chain_of_[tp]].id;
      // Segments are in the order of seq: one that was salvaged before is not added to.
      if (r.seq.value >= oldest_[chain].first_seq) continue;
      const bool wanted =
          std::any_of(missing->second.begin(), missing->second.end(), [&](const Range& range) {
            return r.offset.value >= range.from && r.offset.value < range.to;
          });
      if (!wanted) continue;
      WS_ASSIGN(Bucket* const bucket, bucket_of(chain, r.seq.value));
      bind_record(bucket->insert, r.seq, r.tp, r.offset, r.append_ms, r.record,
                  r.source < before_source_ ? r.source : 0, r.crc);
      WS_TRY(bucket->insert.run());
      if (e.db_.changes() > 0) added[{r.tp, r.offset.value}] = {&r, bucket};
    }
    return {};
  });
  if (!status) {  // and so the tables it had made
    std::erase_if(buckets_, [&](const auto& b) { return !known.contains(b.first); });
    return status;
  }
  for (const auto& [at, what] : added) {
    const StoredRecord& r = *what.first;
    Bucket& bucket = *what.second;
    add_to(found_[r.tp], r.offset.value);
    const std::int64_t first_seq =
        bucket.stats.rows == 0 ? r.seq.value : std::min(bucket.stats.first_seq, r.seq.value);
    bucket.stats.add(r.record.timestamp_ms, r.append_ms, r.record.payload_bytes());
    bucket.stats.first_seq = first_seq;
    bucket.last_seq = std::max(bucket.last_seq, r.seq.value);
    const auto first = bucket.first_offset.try_emplace(r.tp, r.offset.value).first;
    first->second = std::min(first->second, r.offset.value);
    if ((r.record.attributes & kClockUntrusted) != 0) bucket.clock_trusted = false;
  }
  salvaged_ += static_cast<std::int64_t>(added.size());
  salvaged_of_[file_] += static_cast<std::int64_t>(added.size());
  return {};
}

Status Recovery::finish_salvage(bool whole) {
  Engine& e = engine_;
  WS_TRY(e.transaction([&]() -> Status {
    // Newest first: where a partition has nothing in a segment, it starts as in the next one.
    std::map<ChainId, std::map<TpId, std::int64_t>> starts;
    for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
      const auto [chain, segment] = it->first;
      if (chain_at(chain) == nullptr) continue;  // its topics were deleted meanwhile
      auto& of_chain = starts[chain];
      if (of_chain.empty()) {
        WS_ASSIGN(Statement s, e.db_.prepare("SELECT tp, min(next_offset) FROM _ws_segment_starts"
                                             " WHERE chain=?1 GROUP BY tp"));
        s.bind(1, chain.value);
        for (;;) {
          WS_ASSIGN(const bool row, s.step());
          if (!row) break;
          of_chain[TpId(static_cast<std::int32_t>(s.integer(0)))] = s.integer(1);
        }
      }
      WS_TRY(close_bucket(chain, segment, it->second, of_chain));
    }
    for (const auto& [tp, ranges] : missing_) WS_TRY(name_lost(tp, ranges));
    WS_ASSIGN(Statement s,
              e.db_.prepare("UPDATE _ws_damaged SET state=?2, records=records+?3, finished_ms=?4"
                            " WHERE file=?1"));
    for (const auto& [file, records] : salvaged_of_) {
      s.bind_text(1, file)
          .bind_text(2, !whole       ? "no room"
                        : strangers_ ? "kept"
                                     : "salvaged")
          .bind(3, records);
      WS_TRY(s.bind(4, e.append_ms_).run());
    }
    return {};
  }));
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    engine_state::Chain* const chain = chain_at(it->first.first);
    if (chain == nullptr) continue;
    const Bucket& b = it->second;
    chain->closed.insert(chain->closed.begin(),
                         {it->first.second, b.stats.bytes, b.stats.max_append_ms, b.stats.rows,
                          b.clock_trusted, false});
  }
  buckets_.clear();
  found_.clear();
  missing_.clear();
  e.upkeep_.views_stale = true;
  keep_sidecar(true);
  return {};
}

engine_state::Chain* Recovery::chain_at(ChainId id) {
  const auto it = std::find_if(engine_.chains_.begin(), engine_.chains_.end(),
                               [&](const engine_state::Chain& c) { return c.id == id; });
  return it == engine_.chains_.end() ? nullptr : &*it;
}

Status Recovery::close_bucket(ChainId chain, std::int64_t segment, Bucket& bucket,
                              std::map<TpId, std::int64_t>& starts) {
  Engine& e = engine_;
  WS_ASSIGN(Statement row,
            e.db_.prepare("INSERT INTO _ws_segments VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
                          "?13,?14,0)"));
  row.bind(1, chain.value).bind(2, segment).bind(3, kSegmentFormat).bind(4, e.identity_.epoch);
  row.bind(5, bucket.stats.min_append_ms).bind(6, bucket.clock_trusted ? 1 : 0);
  row.bind(7, bucket.stats.first_seq).bind(8, bucket.last_seq).bind(9, bucket.stats.rows);
  row.bind(10, bucket.stats.bytes).bind(11, bucket.stats.min_ts).bind(12, bucket.stats.max_ts);
  row.bind(13, bucket.stats.min_append_ms).bind(14, bucket.stats.max_append_ms);
  WS_TRY(row.run());
  WS_ASSIGN(Statement start, e.db_.prepare("INSERT INTO _ws_segment_starts VALUES(?1,?2,?3,?4)"));
  for (auto& [tp, next] : starts) {
    const auto first = bucket.first_offset.find(tp);
    if (first != bucket.first_offset.end()) next = std::min(next, first->second);
    WS_TRY(start.bind(1, chain.value).bind(2, segment).bind(3, tp.value).bind(4, next).run());
  }
  return {};
}

// What was looked for and not found. Of offsets that were perhaps never given, those below a record
// that was found among them are lost; the others stay skipped.
Status Recovery::name_lost(TpId tp, const std::vector<Range>& ranges) {
  const auto& found = found_[tp];
  for (const Range& range : ranges) {
    std::int64_t lost_to = range.skipped ? range.from : range.to;
    for (const auto& [from, to] : found) {
      if (to > range.from && from < range.to) lost_to = std::max(lost_to, std::min(to, range.to));
    }
    WS_ASSIGN(Statement gone,
              engine_.db_.prepare("DELETE FROM _ws_lost WHERE tp=?1 AND from_offset=?2"));
    WS_TRY(gone.bind(1, tp.value).bind(2, range.from).run());
    std::int64_t at = range.from;
    for (const auto& [from, to] : found) {
      if (to <= range.from || from >= range.to) continue;
      WS_TRY(add_lost(tp, at, std::min(from, lost_to), "lost", range.why));
      at = std::max(at, to);
    }
    WS_TRY(add_lost(tp, at, lost_to, "lost", range.why));
    if (range.skipped) {
      WS_TRY(add_lost(tp, std::max(at, lost_to), range.to, "skipped", range.why));
    }
  }
  return {};
}

Status Recovery::give_up_salvage() {
  return engine_.transaction([&]() -> Status {
    WS_TRY(engine_.db_.exec("UPDATE _ws_lost SET kind='lost' WHERE kind='salvaging'"));
    return engine_.db_.exec("UPDATE _ws_damaged SET state='failed' WHERE state='waiting'");
  });
}

Status Recovery::retry_salvage() {
  return engine_.transaction([&]() -> Status {
    WS_TRY(
        engine_.db_.exec("UPDATE _ws_lost SET kind='salvaging', told=0 WHERE kind='lost' AND why IN"
                         " (SELECT why FROM _ws_damaged WHERE state IN ('no room', 'failed'))"));
    return engine_.db_.exec(
        "UPDATE _ws_damaged SET state='waiting' WHERE state IN ('no room',"
        " 'failed')");
  });
}

Status Recovery::retry_with_room() {
  Engine& e = engine_;
  std::int64_t bytes = 0;
  {
    WS_ASSIGN(Statement s, e.db_.prepare("SELECT file FROM _ws_damaged"
                                         " WHERE state IN ('no room', 'failed')"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      const std::string file = beside_the_database(s.bytes(0));
      bytes += file_size(file) + file_size(file + "-wal");
    }
  }
  if (bytes == 0 || e.space_->room_bytes() < bytes) return {};
  e.logger_.info("what was left of the damaged files is looked for once more");
  return retry_salvage();
}

Status Recovery::note_told(std::int64_t ranges) {
  return engine_.transaction([&]() -> Status {
    WS_TRY(engine_.db_.exec("UPDATE _ws_logs SET told=1"));
    return engine_.db_.exec(
        cat("UPDATE _ws_lost SET told=1 WHERE (tp, from_offset) IN (SELECT tp, from_offset FROM"
            " _ws_lost WHERE told=0 AND kind<>'salvaging' ORDER BY tp, from_offset LIMIT ",
            ranges, ")"));
  });
}

std::string Recovery::beside_the_database(std::string_view file) const {
  const std::string& path = engine_.options_.path;
  return cat(path.substr(0, path.rfind('/') + 1), file);
}

bool Recovery::give_up_damaged_file() {
  Engine& e = engine_;
  auto s = e.db_.prepare("SELECT file FROM _ws_damaged WHERE state='salvaged'");
  for (auto row = s ? s->step() : Result<bool>(false); row && *row; row = s->step()) {
    const std::string path = beside_the_database(s->bytes(0));
    ::unlink((path + "-wal").c_str());
    ::unlink((path + "-shm").c_str());
    if (::unlink(path.c_str()) != 0) continue;
    e.logger_.warning(cat(path, ", whose records were salvaged, is deleted: the disk is full"));
    return true;
  }
  return false;
}

}  // namespace wayside
