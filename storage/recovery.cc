#include "storage/recovery.h"

#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/raw_file.h"
#include "storage/space.h"
#include "storage/transaction.h"

namespace wayside {
namespace {

constexpr std::int64_t kBytesOfARecordLeast = 40;

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

// --- going on ----------------------------------------------------------------------------------

std::string Recovery::resume(const FilesFound& found) {
  Engine& e = engine_;
  bool behind = false;
  const auto identity = read_identity(e.db_);
  if (!identity) return identity.error().what;
  const bool ours = found.sidecar && found.sidecar->identity.log_uuid == identity->log_uuid;
  if (ours) {
    const Sidecar& s = *found.sidecar;
    behind = s.next_seq > e.positions_.next_seq || s.identity.epoch > identity->epoch;
    for (const Topic& t : s.topics) {
      for (const Partition& p : t.partitions) {
        const auto tp = static_cast<std::size_t>(p.tp.value);
        const Topic* known = e.catalog_.find(p.tp);
        if (known != nullptr && known->uuid == t.uuid) {
          behind = behind || s.marks.at(p.tp).next_offset > e.positions_.next_offset.at(tp);
        } else if (e.db_.number(cat("SELECT count(*) FROM _ws_partitions WHERE tp=", p.tp.value))
                       .value_or(0) == 0) {
          // Partitions of a deleted topic leave their row.
          return cat("it is older than its sidecar, and does not know topic ", t.name);
        }
      }
    }
  } else if (found.sidecar) {
    const auto renewed = read_fact(e.db_, "renewed_from");
    if (!renewed || *renewed != found.sidecar->identity.log_uuid) {
      e.logger_.warning("the sidecar is of another log and says nothing about this one");
    }
  }
  if (!behind && found.wal_gone.empty()) return {};
  std::string why = found.wal_gone;
  if (behind && why.empty()) {
    why =
        "the database is older than its sidecar: a copy was put back, or the disk lost what it "
        "had confirmed";
  }
  e.logger_.error(cat(why, "; offsets go on beyond all that may have been given"));
  const Status done = go_beyond(ours ? &*found.sidecar : nullptr, why);
  return done ? std::string() : done.error().what;
}

Status Recovery::go_beyond(const Sidecar* sidecar, const std::string& why) {
  Engine& e = engine_;
  const auto before = e.positions_;
  Status status = e.transaction([&]() -> Status {
    e.positions_.next_seq =
        std::max(e.positions_.next_seq, sidecar == nullptr ? 0 : sidecar->next_seq) +
        limits::kResumeGap;
    for (const Topic& t : e.catalog_.topics()) {
      for (const Partition& p : t.partitions) {
        std::int64_t& next = e.positions_.next_offset.at(static_cast<std::size_t>(p.tp.value));
        std::int64_t known = next;
        if (sidecar != nullptr) {
          const auto m = sidecar->marks.find(p.tp);
          if (m != sidecar->marks.end()) known = std::max(known, m->second.next_offset);
        }
        WS_TRY(add_lost(p.tp, next, known, "lost", why));
        next = known + limits::kResumeGap;
        WS_TRY(add_lost(p.tp, known, next, "skipped", why));
      }
    }
    for (std::size_t i = 0; i < e.chains_.size(); ++i) WS_TRY(start_at_next(i));
    return {};
  });
  if (!status) {
    e.positions_ = before;
    return status;
  }
  return e.load();
}

// Within a transaction: the chain's next segment begins with the offsets as they are now.
Status Recovery::start_at_next(std::size_t place) {
  Engine& e = engine_;
  engine_state::Chain& chain = e.chains_[place];
  const auto& stats = e.positions_.open[place];
  const std::string where = cat(" WHERE chain=", chain.id.value, " AND segment=", chain.segment);
  if (stats.rows == 0) {
    for (const char* table : {"_ws_segment_starts", "_ws_segments"}) {
      WS_TRY(e.db_.exec(cat("DELETE FROM ", table, where)));
    }
    chain.insert = Statement();
    WS_TRY(e.db_.exec("DROP TABLE " + segment_table(chain.id, chain.segment)));
  } else {
    WS_ASSIGN(const std::int64_t last,
              e.db_.number(cat("SELECT max(seq) FROM ", segment_table(chain.id, chain.segment))));
    WS_TRY(e.close_segment(place, last));
  }
  return e.open_segment(chain.id, chain.segment + 1);
}

Status Recovery::add_lost(TpId tp, std::int64_t from, std::int64_t to, std::string_view kind,
                          std::string_view why) {
  if (from >= to) return {};
  WS_ASSIGN(Statement s,
            engine_.db_.prepare("INSERT OR REPLACE INTO _ws_lost VALUES(?1,?2,?3,?4,?5,?6,0)"));
  s.bind(1, tp.value).bind(2, from).bind(3, to).bind_text(4, kind).bind_text(5, why);
  return s.bind(6, engine_.append_ms_).run();
}

// The database itself notes which WAL is its own, so that another one is not taken for it.
Status Recovery::note_start() {
  Engine& e = engine_;
  const WalLook wal = look_at_wal(e.options_.path + "-wal");
  if (wal.header_valid) {
    WS_TRY(e.transaction([&] {
      return e.db_.exec(cat("UPDATE _ws_epochs SET wal_salt=", static_cast<std::int64_t>(wal.salt),
                            " WHERE epoch=", e.identity_.epoch));
    }));
    // A reader may keep it from being copied whole: then the last start's note stands.
    (void)e.db_.number("PRAGMA wal_checkpoint(PASSIVE)");
  }
  keep_sidecar(true);
  return {};
}

void Recovery::note_end() {
  if (engine_.identity_.epoch == 0) return;
  keep_sidecar(true);
  (void)engine_.db_.exec(
      cat("UPDATE _ws_epochs SET wal_salt=NULL WHERE epoch=", engine_.identity_.epoch));
}

// --- the sidecar -------------------------------------------------------------------------------

Sidecar Recovery::sidecar_now() {
  Engine& e = engine_;
  Sidecar s;
  s.identity = e.identity_;
  s.next_seq = e.positions_.next_seq;
  s.topics = e.catalog_.topics();
  for (const auto& c : e.chains_) {
    s.chains.push_back({c.id, c.retention_ms, c.retention_bytes, c.segment_rows, c.segment});
  }
  const auto rows = [&](const char* sql, auto use) {
    auto found = e.db_.prepare(sql);
    for (auto row = found ? found->step() : Result<bool>(false); row && *row; row = found->step()) {
      use(*found);
    }
  };
  rows("SELECT tp, log_start FROM _ws_partitions", [&](Statement& r) {
    const TpId tp(static_cast<std::int32_t>(r.integer(0)));
    s.marks[tp] = {r.integer(1), e.next_offset(tp).value};
  });
  rows("SELECT group_id, tp, committed_offset FROM _ws_consumer_offsets", [&](Statement& r) {
    s.offsets.push_back({std::string(r.bytes(0)), TpId(static_cast<std::int32_t>(r.integer(1))),
                         Offset(r.integer(2)), ""});
  });
  rows("SELECT name, value FROM _ws_meta WHERE name LIKE 'bridge.%' OR name LIKE 'subscribe.%'",
       [&](Statement& r) { s.facts.emplace_back(r.bytes(0), r.bytes(1)); });
  rows("SELECT name, value FROM _ws_counters",
       [&](Statement& r) { s.counters.emplace_back(r.bytes(0), r.integer(1)); });
  return s;
}

void Recovery::keep_sidecar(bool changed) {
  Engine& e = engine_;
  const std::int64_t now = e.clock_.steady_ms();
  stale_ = stale_ || changed;
  if (!stale_ && e.positions_.next_seq - written_seq_ < limits::kSidecarRecords / 2 &&
      now - written_ms_ < limits::kSidecarMs) {
    return;
  }
  Sidecar s = sidecar_now();
  written_seq_ = s.next_seq, written_ms_ = now;
  const std::string same = dump_sidecar(s);
  stale_ = false;
  if (same == written_) return;
  s.written_ms = e.clock_.wall_ms();
  if (auto kept = write_file_synced(sidecar_path(e.options_.path), dump_sidecar(s)); !kept) {
    stale_ = true;  // tried again with the next commit
    e.logger_.repeated(LogLevel::error, "sidecar", kept.error().text());
    return;
  }
  written_ = same;
}

// --- salvage -----------------------------------------------------------------------------------

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
                                       " WHERE kind IN ('salvaging', 'skipped') ORDER BY tp,"
                                       " from_offset"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return {};
    const TpId tp(static_cast<std::int32_t>(s.integer(0)));
    const bool skipped = s.bytes(3) == "skipped";
    if (skipped && s.bytes(4) != why_) continue;  // of something else
    missing_[tp].push_back({s.integer(1), s.integer(2), skipped});
  }
}

Status Recovery::begin_salvage(const std::string& file, std::int64_t file_bytes) {
  Engine& e = engine_;
  buckets_.clear();
  found_.clear();
  salvaged_ = 0;
  WS_TRY(drop_strays());
  WS_ASSIGN(Statement s, e.db_.prepare("SELECT why, before_seq, before_source FROM _ws_damaged"
                                       " WHERE file=?1"));
  WS_ASSIGN(const bool row, s.bind_text(1, file).step());
  if (!row) return fail(ErrorCode::not_found, cat(file, " is no file that was set aside"));
  file_ = file, why_ = s.bytes(0), before_seq_ = s.integer(1), before_source_ = s.integer(2);
  s.reset();
  // All its records fit into so many segments of so many rows, however small they are.
  const auto chains = static_cast<std::int64_t>(std::max<std::size_t>(e.chains_.size(), 1));
  const std::int64_t segments =
      std::clamp<std::int64_t>(limits::kSegmentsMax / 2 / chains, 1, limits::kSalvageSegmentsMax);
  first_segment_.clear();
  for (const auto& c : e.chains_) {
    first_segment_[c.id] = c.closed.empty() ? c.segment : c.closed.front().segment;
  }
  bucket_rows_ =
      std::max(e.options_.segment_rows, file_bytes / kBytesOfARecordLeast / segments + 1);
  return load_missing();
}

Result<Recovery::Bucket*> Recovery::bucket_of(ChainId chain, std::int64_t seq) {
  Engine& e = engine_;
  const std::int64_t oldest = first_segment_[chain];
  const std::int64_t back =
      std::min((before_seq_ - 1 - seq) / bucket_rows_, limits::kSalvageSegmentsMax - 1);
  const std::int64_t segment = std::max<std::int64_t>(oldest - 1 - back, 1);
  const auto [it, fresh] = buckets_.try_emplace({chain, segment});
  if (fresh) {
    auto prepared = [&]() -> Status {
      WS_TRY(e.db_.exec(create_segment_sql(chain, segment)));
      WS_ASSIGN(it->second.insert,
                e.db_.prepare(cat("INSERT OR IGNORE INTO ", segment_table(chain, segment),
                                  " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)"),
                              true));
      return {};
    }();
    if (!prepared) {
      buckets_.erase(it);
      return tl::unexpected<Error>(prepared.error());
    }
  }
  return &it->second;
}

Status Recovery::add_salvaged(std::span<const StoredRecord> records) {
  Engine& e = engine_;
  if (engine_.space_->room_bytes() == 0)
    return fail(ErrorCode::no_space, "there is no room for more");
  return e.transaction([&]() -> Status {
    for (const StoredRecord& r : records) {
      const auto tp = static_cast<std::size_t>(r.tp.value);
      const auto missing = missing_.find(r.tp);
      if (missing == missing_.end() || r.seq.value >= before_seq_ || tp >= e.chain_of_.size() ||
          e.chain_of_[tp] == Engine::kNoChain) {
        continue;
      }
      const bool wanted =
          std::any_of(missing->second.begin(), missing->second.end(), [&](const Range& range) {
            return r.offset.value >= range.from && r.offset.value < range.to;
          });
      if (!wanted) continue;
      WS_ASSIGN(Bucket* const bucket, bucket_of(e.chains_[e.chain_of_[tp]].id, r.seq.value));
      Statement& s = bucket->insert;
      s.bind(1, r.seq.value).bind(2, r.tp.value).bind(3, r.offset.value);
      s.bind(4, r.record.timestamp_ms).bind(5, r.append_ms);
      s.bind_bytes(6, r.record.key).bind_bytes(7, r.record.value);
      if (r.record.headers.empty()) {
        s.bind_null(8);
      } else {
        s.bind_blob(8, r.record.headers);
      }
      s.bind(9, r.record.attributes);
      if (r.source > 0 && r.source < before_source_) {
        s.bind(10, r.source);
      } else {
        s.bind_null(10);
      }
      WS_TRY(s.bind(11, r.crc).run());
      if (e.db_.changes() == 0) continue;  // found before
      ++salvaged_;
      add_to(found_[r.tp], r.offset.value);
      bucket->stats.add(r.record.timestamp_ms, r.append_ms, r.record.payload_bytes());
      bucket->last_seq = std::max(bucket->last_seq, r.seq.value);
      const auto first = bucket->first_offset.try_emplace(r.tp, r.offset.value).first;
      first->second = std::min(first->second, r.offset.value);
      bucket->stats.first_seq =
          bucket->stats.rows == 1 ? r.seq.value : std::min(bucket->stats.first_seq, r.seq.value);
      if ((r.record.attributes & kClockUntrusted) != 0) bucket->clock_trusted = false;
    }
    return {};
  });
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
    WS_ASSIGN(Statement s, e.db_.prepare("UPDATE _ws_damaged SET state=?2, records=?3,"
                                         " finished_ms=?4 WHERE file=?1"));
    s.bind_text(1, file_).bind_text(2, whole ? "salvaged" : "no room").bind(3, salvaged_);
    return s.bind(4, e.append_ms_).run();
  }));
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    engine_state::Chain* const chain = chain_at(it->first.first);
    if (chain == nullptr) continue;
    const Bucket& b = it->second;
    chain->closed.insert(chain->closed.begin(), {it->first.second, b.stats.bytes,
                                                 b.stats.max_append_ms, b.clock_trusted, false});
  }
  buckets_.clear();
  found_.clear();
  missing_.clear();
  e.upkeep_.views_stale = true;
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
// that was found are lost; the others stay skipped.
Status Recovery::name_lost(TpId tp, const std::vector<Range>& ranges) {
  const auto& found = found_[tp];
  const std::int64_t end = found.empty() ? 0 : std::prev(found.end())->second;
  for (const Range& range : ranges) {
    WS_ASSIGN(Statement gone,
              engine_.db_.prepare("DELETE FROM _ws_lost WHERE tp=?1 AND from_offset=?2"));
    WS_TRY(gone.bind(1, tp.value).bind(2, range.from).run());
    std::int64_t at = range.from;
    const std::int64_t lost_to = range.skipped ? std::clamp(end, range.from, range.to) : range.to;
    for (const auto& [from, to] : found) {
      if (to <= range.from || from >= range.to) continue;
      WS_TRY(add_lost(tp, at, std::min(from, lost_to), "lost", why_));
      at = std::max(at, to);
    }
    WS_TRY(add_lost(tp, at, lost_to, "lost", why_));
    if (range.skipped) {
      WS_TRY(add_lost(tp, std::max(at, lost_to), range.to, "skipped", why_));
    }
  }
  return {};
}

Status Recovery::note_told() {
  return engine_.transaction([&] {
    return engine_.db_.exec("UPDATE _ws_lost SET told=1 WHERE told=0 AND kind<>'salvaging'");
  });
}

bool Recovery::give_up_damaged_file() {
  Engine& e = engine_;
  auto s = e.db_.prepare("SELECT file FROM _ws_damaged WHERE state='salvaged'");
  for (auto row = s ? s->step() : Result<bool>(false); row && *row; row = s->step()) {
    const std::string path =
        cat(e.options_.path.substr(0, e.options_.path.rfind('/') + 1), s->bytes(0));
    ::unlink((path + "-wal").c_str());
    ::unlink((path + "-shm").c_str());
    if (::unlink(path.c_str()) != 0) continue;
    e.logger_.warning(cat(path, ", whose records were salvaged, is deleted: the disk is full"));
    return true;
  }
  return false;
}

}  // namespace wayside
