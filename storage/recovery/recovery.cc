#include "storage/recovery/recovery.h"

#include <fcntl.h>

#include <algorithm>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"
#include "storage/recovery/raw_file.h"

namespace wayside {
namespace {

constexpr std::int64_t kSidecarRetryMs = 1000;
// The sidecar's share of the ranges that are missing: the newest that were left out. It is a small
// file; and what is called lost is better looked for once more.
constexpr const char* kLostSql =
    "SELECT tp, from_offset, to_offset, kind, why FROM _ws_lost WHERE kind='skipped'"
    " ORDER BY found_ms DESC LIMIT 1000";

}  // namespace

// --- going on ----------------------------------------------------------------------------------

Result<std::string> Recovery::resume(const FilesFound& found) {
  Engine& e = engine_;
  bool behind = false;
  WS_ASSIGN(const Identity identity, read_identity(e.db_));
  // A renewal changes the log's uuid, and keeps the gateway's id: what is put back from before it
  // is older than the sidecar, too.
  const bool ours = found.sidecar && (found.sidecar->identity.log_uuid == identity.log_uuid ||
                                      found.sidecar->identity.gateway_id == identity.gateway_id);
  if (ours) {
    const Sidecar& s = *found.sidecar;
    written_seq_ = std::min(s.next_seq, e.positions_.next_seq);
    behind = s.next_seq > e.positions_.next_seq || s.identity.epoch > identity.epoch;
    for (const Topic& t : s.topics) {
      for (const Partition& p : t.partitions) {
        const auto tp = static_cast<std::size_t>(p.tp.value);
        const Topic* known = e.catalog_.find(p.tp);
        if (known != nullptr && known->uuid == t.uuid) {
          behind = behind || s.marks.at(p.tp).next_offset > e.positions_.next_offset.at(tp);
        } else if (e.db_
                       .number(cat("SELECT log_start FROM _ws_partitions WHERE tp=", p.tp.value),
                               -1)
                       .value_or(-1) < s.marks.at(p.tp).next_offset) {
          // Partitions of a deleted topic leave their row, with the log start at their end.
          return cat("it is older than its sidecar, and does not know topic ", t.name);
        }
      }
    }
  } else if (found.sidecar) {
    e.logger_.warning("the sidecar is of another gateway and says nothing about this log");
  }
  must_check_ = !found.wal_gone.empty();
  WS_ASSIGN(const std::string copied, why_a_copy(found));
  if (!behind && found.wal_gone.empty() && copied.empty()) return std::string();
  std::string why = found.wal_gone;
  if (behind && why.empty()) {
    why =
        "the database is older than its sidecar: a copy was put back, or the disk lost what it "
        "had confirmed";
  }
  if (why.empty()) why = copied;
  const bool is_copy = behind || !copied.empty();
  const std::string told = cat(why, "; offsets go on beyond all that may have been given",
                               is_copy ? ", under a new identity of the log" : "");
  if (behind || !found.wal_gone.empty()) {
    e.logger_.error(told);  // records may be missing
  } else {
    e.logger_.warning(told);
  }
  WS_TRY(go_beyond(ours ? &*found.sidecar : nullptr, why, is_copy));
  return std::string();
}

Result<std::string> Recovery::why_a_copy(const FilesFound& found) {
  Engine& e = engine_;
  WS_ASSIGN(const auto restored, read_fact(e.db_, kRestored));
  if (restored) return std::string("it was put back from a copy, as 'wayside restored' was told");
  WS_ASSIGN(const auto noted, read_fact(e.db_, kPlace));
  if (!noted) return std::string();  // of a version that did not note it
  std::string why = why_copied(parse_place(*noted), found.place);
  if (!why.empty() || !found.sidecar) return why;
  // What the end in order of that same run has noted, if there was one.
  WS_ASSIGN(const Identity identity, read_identity(e.db_));
  const Identity& closed = found.sidecar->identity;
  if (closed.log_uuid != identity.log_uuid || closed.epoch != identity.epoch) return why;
  return why_copied(found.sidecar->place, found.place);
}

// Within a transaction. Records that are there keep the identity that they were stored under.
Status Recovery::take_new_identity(const std::string& why) {
  Engine& e = engine_;
  const std::string uuid = random_uuid();
  WS_ASSIGN(Statement log, e.db_.prepare("INSERT OR REPLACE INTO _ws_logs VALUES(?1,?2,?3,?4,0)"));
  log.bind(1, e.positions_.next_seq).bind_text(2, uuid).bind(3, e.clock_.wall_ms());
  WS_TRY(log.bind_text(4, why).run());
  WS_TRY(e.db_.exec(cat("UPDATE _ws_meta SET value='", uuid, "' WHERE name='log_uuid'")));
  return e.db_.exec(cat("DELETE FROM _ws_meta WHERE name='", kRestored, "'"));
}

// Within a transaction.
Status Recovery::note_place() {
  Engine& e = engine_;
  // A simulated disk is somewhere else each time.
  Place lasting = e.options_.vfs.empty() ? place_of(e.options_.path, e.options_.board) : Place{};
  lasting.changed_ns = 0;  // it changes while the log is written
  WS_ASSIGN(Statement s, e.db_.prepare("INSERT OR REPLACE INTO _ws_meta VALUES(?1, ?2)"));
  const std::string text = dump_place(lasting);
  return s.bind_text(1, kPlace).bind_text(2, text).run();
}

Status Recovery::note_restored() {
  Engine& e = engine_;
  return e.transaction([&] {
    return e.db_.exec(cat("INSERT OR REPLACE INTO _ws_meta VALUES('", kRestored, "', 1)"));
  });
}

Status Recovery::go_beyond(const Sidecar* sidecar, const std::string& why, bool is_copy) {
  Engine& e = engine_;
  const auto go = [&]() -> Status {
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
    if (is_copy) {
      WS_TRY(take_new_identity(why));
      // Cut off before its epoch began, it is no other copy at the next start.
      WS_TRY(note_place());
      // One event tells of it, and not one for each partition.
      WS_TRY(e.db_.exec("UPDATE _ws_lost SET told=1 WHERE told=0 AND kind='skipped'"));
    }
    // What groups had committed since, as far as the sidecar knows.
    WS_ASSIGN(
        Statement commit,
        e.db_.prepare("UPDATE _ws_consumer_offsets SET committed_offset = max(committed_offset,"
                      " ?3) WHERE group_id=?1 AND tp=?2"));
    for (const CommitOffset& o :
         sidecar == nullptr ? std::vector<CommitOffset>{} : sidecar->offsets) {
      WS_TRY(commit.bind_text(1, o.group).bind(2, o.tp.value).bind(3, o.next.value).run());
    }
    return {};
  };
  return with_room(e, [&]() -> Status {
    Status status = e.transaction(go);
    WS_TRY(e.load());  // as it is now, or still is
    return status;
  });
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
  WS_TRY(note_salt());
  keep_sidecar(true);
  return {};
}

void Recovery::keep_note() {
  // Open, because this is asked at each commit; Engine::begin sees when it is another file.
  if (!wal_.valid() || wal_inode_ != engine_.inodes_.wal) {
    wal_ = UniqueFd(::open((engine_.options_.path + "-wal").c_str(), O_RDONLY | O_CLOEXEC));
    wal_inode_ = engine_.inodes_.wal;
  }
  const std::int64_t salt = wal_.valid() ? wal_salt(wal_.get()) : -1;
  if (salt < 0 || static_cast<std::uint32_t>(salt - noted_) < kWalRestartsMost) return;
  // Another program emptied the WAL, and whoever wrote first then began it with a random number.
  if (auto noted = note_salt(); !noted) {
    engine_.logger_.repeated(LogLevel::error, "salt", noted.error().text());
  }
}

Status Recovery::note_salt() {
  Engine& e = engine_;
  const std::int64_t salt = wal_salt(e.options_.path + "-wal");
  if (salt < 0) return {};
  WS_TRY(e.transaction([&] {
    return e.db_.exec(
        cat("UPDATE _ws_epochs SET wal_salt=", salt, " WHERE epoch=", e.identity_.epoch));
  }));
  noted_ = salt;
  // A reader may keep it from being copied whole: then the last start's note stands.
  (void)e.db_.number("PRAGMA wal_checkpoint(PASSIVE)");
  return {};
}

void Recovery::note_end() {
  buckets_.clear();
  if (engine_.identity_.epoch == 0 || ended_) return;
  // Who looks with SQL while the gateway is stopped sees all of it.
  if (engine_.upkeep_.views_stale && !engine_.must_open_anew()) (void)engine_.refresh_views();
  keep_sidecar(true);
  (void)engine_.db_.exec(
      cat("UPDATE _ws_epochs SET wal_salt=NULL WHERE epoch=", engine_.identity_.epoch));
}

// What is noted last: when the closed file was changed. Whatever changes it from now on is not us.
void Recovery::note_closed() {
  Engine& e = engine_;
  if (e.identity_.epoch == 0 || ended_ || !e.options_.vfs.empty()) return;
  auto last = read_sidecar(e.options_.path);
  if (!last || last->identity.epoch != e.identity_.epoch) return;
  // SQLite syncs the file's bytes, and its times may still be lost in a power cut.
  if (!sync_file(e.options_.path)) return;
  last->place = place_of(e.options_.path, e.options_.board);
  ++last->serial;
  // Without it the next start has less to go by, and that is all.
  (void)write_sidecar(e.options_.path, *last);
}

// --- the sidecar -------------------------------------------------------------------------------

Result<Sidecar> Recovery::sidecar_now() {
  Engine& e = engine_;
  Sidecar s;
  s.identity = e.identity_;
  s.next_seq = e.positions_.next_seq;
  s.topics = e.catalog_.topics();
  for (const auto& c : e.chains_) {
    s.chains.push_back({c.id, c.retention_ms, c.retention_bytes, c.segment_rows, c.segment});
  }
  const auto rows = [&](const char* sql, auto use) -> Status {
    WS_ASSIGN(Statement found, e.db_.prepare(sql));
    for (;;) {
      WS_ASSIGN(const bool row, found.step());
      if (!row) return {};
      use(found);
    }
  };
  WS_TRY(rows("SELECT tp, log_start FROM _ws_partitions", [&](Statement& r) {
    const TpId tp(static_cast<std::int32_t>(r.integer(0)));
    const auto at = static_cast<std::size_t>(r.integer(0));
    if (at < e.positions_.next_offset.size()) {
      s.marks[tp] = {r.integer(1), e.positions_.next_offset[at]};
    }
  }));
  WS_TRY(rows("SELECT group_id, tp, committed_offset FROM _ws_consumer_offsets", [&](Statement& r) {
    s.offsets.push_back({std::string(r.bytes(0)), TpId(static_cast<std::int32_t>(r.integer(1))),
                         Offset(r.integer(2)), ""});
  }));
  WS_TRY(
      rows("SELECT name, value FROM _ws_meta WHERE name LIKE 'bridge.%' OR name LIKE 'subscribe.%'",
           [&](Statement& r) { s.facts.emplace_back(r.bytes(0), r.bytes(1)); }));
  WS_TRY(rows("SELECT name, value FROM _ws_counters",
              [&](Statement& r) { s.counters.emplace_back(r.bytes(0), r.integer(1)); }));
  WS_TRY(rows(kLostSql, [&](Statement& r) {
    s.lost.push_back({TpId(static_cast<std::int32_t>(r.integer(0))), r.integer(1), r.integer(2),
                      std::string(r.bytes(3)), std::string(r.bytes(4))});
  }));
  return s;
}

void Recovery::keep_sidecar(bool changed) {
  Engine& e = engine_;
  const std::int64_t now = e.clock_.steady_ms();
  stale_ = stale_ || changed;
  if (ended_ || (!changed && now < retry_ms_)) return;
  if (!stale_ && e.positions_.next_seq - written_seq_ < limits::kSidecarRecords / 2 &&
      now - written_ms_ < limits::kSidecarMs) {
    return;
  }
  sidecar_status_ = write_sidecar_now(now);
  stale_ = !sidecar_status_;
  retry_ms_ = stale_ ? now + kSidecarRetryMs : 0;
  if (stale_) e.logger_.repeated(LogLevel::error, "sidecar", sidecar_status_.error().text());
}

Status Recovery::write_sidecar_now(std::int64_t now) {
  Engine& e = engine_;
  WS_ASSIGN(Sidecar s, sidecar_now());       // half of it would be worse than the last one
  if (s.next_seq < written_seq_) return {};  // never backwards
  std::string same = dump_sidecar(s);
  if (same != written_) {
    s.written_ms = e.clock_.wall_ms();
    if (serial_ == 0) {  // the first of this run: it follows whatever is there
      if (const auto last = read_sidecar(e.options_.path)) serial_ = last->serial;
    }
    s.serial = serial_ + 1;
    // What cannot be read back (a name that is garbage) is no better than none.
    WS_ASSIGN([[maybe_unused]] const Sidecar back, parse_sidecar(dump_sidecar(s)));
    WS_TRY(write_sidecar(e.options_.path, s));
    ++serial_;
    written_ = std::move(same);
  }
  written_seq_ = s.next_seq, written_ms_ = now;
  return {};
}

Status Recovery::check_sidecar() {
  // One more commit, however large, stays within the gap.
  if (engine_.positions_.next_seq - written_seq_ < limits::kResumeGap / 2) return {};
  if (ended_) return fail(ErrorCode::io, "the sidecar cannot be written", "restart the gateway");
  keep_sidecar(false);
  if (sidecar_status_) return {};
  // Not "no space": dropping records would not help.
  return fail(ErrorCode::io,
              cat("no more readings are taken until the sidecar can be written: ",
                  sidecar_status_.error().what),
              sidecar_status_.error().hint);
}

}  // namespace wayside
