// The fresh database that takes the place of a damaged one.
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/limits.h"
#include "base/text.h"
#include "storage/recovery/raw_file.h"
#include "storage/recovery/rescue.h"
#include "storage/sqlite/schema.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {
namespace {

// Builds the fresh database: what can be read of the small tables, and what the sidecar knows.
class Renewal {
 public:
  Renewal(const EngineOptions& options, const std::string& path, const std::string& damaged,
          const std::string& why, const std::optional<Sidecar>& sidecar, const Clock& clock,
          Logger& logger)
      : options_(options),
        path_(path),
        damaged_(damaged),
        why_(why),
        sidecar_(sidecar),
        clock_(clock),
        logger_(logger) {}

  Status run() {
    file_ = damaged_.substr(damaged_.rfind('/') + 1);
    if (!damaged_.empty()) why_ += cat(" (", file_, ")");  // two may have the same reason
    for (const char* tail : {"", "-wal", "-shm", "-journal"}) ::unlink((path_ + tail).c_str());
    WS_ASSIGN(db_, Database::open(path_, OpenMode::read_write_create));
    for (const char* pragma : {"page_size=4096", "auto_vacuum=NONE", "synchronous=FULL"}) {
      WS_TRY(db_.exec(cat("PRAGMA ", pragma)));
    }
    WS_TRY(ensure_schema(db_, clock_));
    if (auto old = Database::open(damaged_, OpenMode::read_only)) old_ = std::move(*old);
    forget_a_strangers_sidecar();
    WS_TRY(db_.exec("BEGIN"));
    WS_TRY(copy_catalog());
    for (const char* table :
         {"_ws_sources", "_ws_consumer_offsets", "_ws_sessions", "_ws_qos2", "_ws_sealed",
          "_ws_resend", "_ws_logs", "_ws_counters", "_ws_quarantine_settled", "_ws_lost",
          "_ws_damaged", "_ws_epochs"}) {
      if (copy(table)) continue;
      logger_.warning(cat(table, " cannot be read whole; the sidecar fills in"));
      if (std::string_view(table) == "_ws_lost") lost_whole_ = false;
    }
    WS_TRY(copy_meta());
    if (sidecar_) WS_TRY(add_sidecar());
    if (!sidecar_ && !damaged_.empty()) WS_TRY(scan_ends());
    WS_TRY(ends_of_segments());
    WS_TRY(go_beyond());
    WS_TRY(identities());
    if (old_ && !copy_sequences()) logger_.warning("which ids were used cannot be read");
    if (!catalog_whole_) WS_TRY(leave_ids_out());
    return db_.exec("COMMIT");
  }

 private:
  // Where the damaged file can still say whose it is.
  void forget_a_strangers_sidecar() {
    if (!old_ || !sidecar_) return;
    const auto gateway = read_fact(*old_, "gateway_id"), uuid = read_fact(*old_, "log_uuid");
    if (!gateway || !*gateway || **gateway == sidecar_->identity.gateway_id) return;
    if (uuid && *uuid && **uuid == sidecar_->identity.log_uuid) return;
    logger_.warning("the sidecar is of another gateway and says nothing about this log");
    sidecar_.reset();
  }

  // Every row that can be read; false: not all of them could.
  bool copy(const std::string& table) {
    if (!old_) return false;
    std::string columns, marks;
    int n = 0;
    {
      auto info =
          old_->prepare(cat("SELECT name FROM pragma_table_info(", quoted_text(table), ")"));
      if (!info) return false;
      for (auto row = info->step(); row && *row; row = info->step()) {
        columns += cat(n == 0 ? "" : ",", quoted_identifier(info->bytes(0)));
        ++n;
        marks += cat(n == 1 ? "?" : ",?", n);
      }
    }
    if (n == 0) return false;
    auto from = old_->prepare(cat("SELECT ", columns, " FROM ", table));
    auto to =
        db_.prepare(cat("INSERT OR REPLACE INTO ", table, "(", columns, ") VALUES(", marks, ")"));
    if (!from || !to) return false;
    for (bool whole = true;;) {
      const auto row = from->step();
      if (!row) return false;
      if (!*row) return whole;
      for (int i = 0; i < n; ++i) to->bind_column(i + 1, *from, i);
      if (!to->run()) whole = false;  // this row alone
    }
  }

  // Topics, partitions and chains belong together: all of the old ones, or the sidecar's.
  Status copy_catalog() {
    bool whole = copy("_ws_chains");
    whole = copy("_ws_topics") && whole;
    whole = copy("_ws_partitions") && whole;
    if (whole) {
      const auto catalog = Catalog::load(db_);
      whole = catalog.has_value() && is_sound(*catalog);
    }
    catalog_whole_ = whole;
    if (whole) return {};
    for (const char* table : {"_ws_partitions", "_ws_topics", "_ws_chains"}) {
      WS_TRY(db_.exec(cat("DELETE FROM ", table)));
    }
    if (!sidecar_) return {};
    WS_ASSIGN(Statement chain,
              db_.prepare("INSERT INTO _ws_chains(chain, retention_ms, retention_bytes,"
                          " segment_rows) VALUES(?1,?2,?3,?4)"));
    for (const Sidecar::Chain& c : sidecar_->chains) {
      chain.bind(1, c.id.value).bind(2, c.retention_ms).bind(3, c.retention_bytes);
      WS_TRY(chain.bind(4, c.segment_rows).run());
    }
    WS_ASSIGN(Statement topic,
              db_.prepare("INSERT INTO _ws_topics(topic_id, uuid, name, chain, retention_ms,"
                          " retention_bytes, columns, created_ms, learnt_columns)"
                          " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)"));
    WS_ASSIGN(Statement partition,
              db_.prepare("INSERT INTO _ws_partitions(tp, topic_id, partition) VALUES(?1,?2,?3)"));
    for (const Topic& t : sidecar_->topics) {
      const std::string columns = t.columns ? json_array(*t.columns) : "";
      const std::string learnt = json_array(t.learnt_columns);
      topic.bind(1, t.id.value).bind_text(2, t.uuid).bind_text(3, t.name).bind(4, t.chain.value);
      topic.bind(5, t.retention_ms).bind(6, t.retention_bytes).bind(8, clock_.wall_ms());
      topic.bind_text(9, learnt);
      if (t.columns) {
        topic.bind_text(7, columns);
      } else {
        topic.bind_null(7);
      }
      WS_TRY(topic.run());
      for (const Partition& p : t.partitions) {
        WS_TRY(partition.bind(1, p.tp.value).bind(2, t.id.value).bind(3, p.partition).run());
      }
    }
    return {};
  }

  // What the sidecar knows must be there: a copy that is older than it is not the last word.
  bool is_sound(const Catalog& catalog) {
    const auto most = db_.number("SELECT ifnull(max(tp), 0) FROM _ws_partitions");
    if (!most || *most > limits::kIdsMost) return false;
    for (const Topic& t : catalog.topics()) {
      if (!check_topic_name(t.name)) return false;
      const auto chain =
          db_.number(cat("SELECT count(*) FROM _ws_chains WHERE chain=", t.chain.value));
      if (!chain || *chain != 1) return false;
    }
    if (!sidecar_) return true;
    for (const Topic& t : sidecar_->topics) {
      for (const Partition& p : t.partitions) {
        const Topic* known = catalog.find(p.tp);
        if (known == nullptr || known->uuid != t.uuid) return false;
      }
    }
    return true;
  }

  // What comes back keeps the identity that it was stored under; what is new has its own.
  Status identities() {
    WS_ASSIGN(const Identity fresh, read_identity(db_));
    WS_ASSIGN(Statement add,
              db_.prepare("INSERT OR REPLACE INTO _ws_logs VALUES(?1, ?2, ?3, ?4, 1)"));
    WS_ASSIGN(const std::int64_t others,
              db_.number(cat("SELECT count(*) FROM _ws_logs WHERE log_uuid<>",
                             quoted_text(fresh.log_uuid))));
    if (others == 0 && !log_before_.empty()) {
      add.bind(1, 0).bind_text(2, log_before_).bind(3, 0).bind_text(4, "");
      WS_TRY(add.run());
    }
    add.bind(1, next_seq_ + limits::kResumeGap).bind_text(2, fresh.log_uuid);
    return add.bind(3, clock_.wall_ms()).bind_text(4, why_).run();
  }

  Status copy_sequences() {
    WS_ASSIGN(Statement s, old_->prepare("SELECT name, seq FROM sqlite_sequence"));
    WS_ASSIGN(Statement raise,
              db_.prepare("UPDATE sqlite_sequence SET seq=max(seq, ?2) WHERE name=?1"));
    WS_ASSIGN(Statement add, db_.prepare("INSERT INTO sqlite_sequence VALUES(?1, ?2)"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) return {};
      if (s.integer(1) > limits::kIdsMost) continue;
      WS_TRY(raise.bind_column(1, s, 0).bind_column(2, s, 1).run());
      if (db_.changes() == 0) WS_TRY(add.bind_column(1, s, 0).bind_column(2, s, 1).run());
    }
  }

  // Ids that the old catalog may have given, and that nobody can read any more, are not given
  // again.
  Status leave_ids_out() {
    const std::int64_t tp = known_end_.empty() ? 0 : known_end_.rbegin()->first;
    for (const char* table : {"_ws_partitions", "_ws_topics", "_ws_chains"}) {
      WS_ASSIGN(const std::int64_t most,
                db_.number(cat("SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name='",
                               table, "'")));
      WS_TRY(db_.exec(cat("DELETE FROM sqlite_sequence WHERE name='", table, "'")));
      WS_TRY(db_.exec(cat("INSERT INTO sqlite_sequence VALUES('", table, "', ",
                          std::max(most, tp) + limits::kPartitionsMax, ")")));
    }
    return {};
  }

  Status copy_meta() {
    std::string gateway_id, log_uuid;
    std::vector<std::pair<std::string, std::string>> facts;
    if (sidecar_) {
      gateway_id = sidecar_->identity.gateway_id, log_uuid = sidecar_->identity.log_uuid;
      facts = sidecar_->facts;
    }
    auto s = old_ ? old_->prepare("SELECT name, value FROM _ws_meta")
                  : Result<Statement>(fail(ErrorCode::not_found, ""));
    if (s) {
      for (auto row = s->step(); row && *row; row = s->step()) {
        const std::string name(s->bytes(0)), value(s->bytes(1));
        if (name == "gateway_id") {
          gateway_id = value;
        } else if (name == "log_uuid") {
          log_uuid = value;
        } else if (name.starts_with("bridge.") || name.starts_with("subscribe.") ||
                   name == kClockDoubt) {
          facts.emplace_back(name, value);
        } else if (name == "next_seq") {
          next_seq_ = std::max(next_seq_, s->integer(1));
        }
      }
    }
    facts.emplace_back("renewed_from", log_uuid);
    log_before_ = log_uuid;
    if (!gateway_id.empty()) facts.emplace_back("gateway_id", gateway_id);
    WS_ASSIGN(Statement put, db_.prepare("INSERT OR REPLACE INTO _ws_meta VALUES(?1, ?2)"));
    for (const auto& [name, value] : facts) {
      WS_TRY(put.bind_text(1, name).bind_text(2, value).run());
    }
    return db_.exec("UPDATE _ws_epochs SET wal_salt=NULL");
  }

  Status add_sidecar() {
    next_seq_ = std::max(next_seq_, sidecar_->next_seq);
    for (const auto& [tp, marks] : sidecar_->marks) {
      known_end_[tp.value] = marks.next_offset;
      WS_TRY(db_.exec(cat("UPDATE _ws_partitions SET log_start=max(log_start, ", marks.log_start,
                          ") WHERE tp=", tp.value)));
    }
    WS_ASSIGN(Statement offset,
              db_.prepare("INSERT INTO _ws_consumer_offsets"
                          "(group_id, tp, committed_offset, commit_ms) VALUES(?1,?2,?3,?4)"
                          " ON CONFLICT(group_id, tp) DO UPDATE SET"
                          " committed_offset = max(committed_offset, excluded.committed_offset)"));
    for (const CommitOffset& o : sidecar_->offsets) {
      offset.bind_text(1, o.group).bind(2, o.tp.value).bind(3, o.next.value);
      WS_TRY(offset.bind(4, sidecar_->written_ms).run());
    }
    WS_ASSIGN(Statement count, db_.prepare("INSERT INTO _ws_counters VALUES(?1, ?2) ON"
                                           " CONFLICT(name) DO UPDATE SET"
                                           " value = max(value, excluded.value)"));
    for (const auto& [name, value] : sidecar_->counters) {
      WS_TRY(count.bind_text(1, name).bind(2, value).run());
    }
    if (!lost_whole_) WS_TRY(add_sidecars_lost());
    WS_ASSIGN(const std::int64_t epochs,
              db_.number("SELECT ifnull(max(epoch), 0) FROM _ws_epochs"));
    if (epochs >= sidecar_->identity.epoch) return {};
    return db_.exec(cat(
        "INSERT INTO _ws_epochs(epoch, started_ms, clock_trusted, next_seq) VALUES(",
        sidecar_->identity.epoch, ", ", sidecar_->written_ms, ", 0, ", sidecar_->next_seq, ")"));
  }

  // Offsets that were left out stay so: what was never given is not looked for, nor called lost.
  Status add_sidecars_lost() {
    WS_ASSIGN(Statement s,
              db_.prepare("INSERT INTO _ws_lost SELECT ?1,?2,?3,?4,?5,?6,1 WHERE NOT EXISTS (SELECT"
                          " 1 FROM _ws_lost WHERE tp=?1 AND from_offset < ?3 AND to_offset > ?2)"));
    for (const Sidecar::Lost& l : sidecar_->lost) {
      if (l.kind != "skipped" || l.from >= l.to) continue;
      s.bind(1, l.tp.value).bind(2, l.from).bind(3, l.to).bind_text(4, l.kind).bind_text(5, l.why);
      WS_TRY(s.bind(6, sidecar_->written_ms).run());
    }
    return {};
  }

  // Without a sidecar the records themselves say how far it had come. Slow, and right.
  Status scan_ends() {
    logger_.warning(
        "there is no sidecar: the damaged file is read whole before readings are taken");
    const auto each = [&](StoredRecord&& r) -> Status {
      next_seq_ = std::max(next_seq_, r.seq.value + 1);
      auto& end = known_end_[r.tp.value];
      end = std::max(end, r.offset.value + 1);
      return {};
    };
    const auto progress = [&](std::int64_t) -> Status {
      if (options_.still_opening) options_.still_opening();
      return {};
    };
    if (auto scanned = scan_records(damaged_, each, progress); !scanned) {
      logger_.warning(scanned.error().text());
    }
    return {};
  }

  Status ends_of_segments() {
    const auto raise = [&](const char* sql, auto use) {
      auto s = old_ ? old_->prepare(sql) : Result<Statement>(fail(ErrorCode::not_found, ""));
      if (!s) return;
      for (auto row = s->step(); row && *row; row = s->step()) use(*s);
    };
    raise("SELECT tp, max(next_offset) FROM _ws_segment_starts GROUP BY tp", [&](Statement& s) {
      // More than the sidecar allows for is garbage.
      const auto known = known_end_.find(s.integer(0));
      if (sidecar_ && known == known_end_.end()) return;
      auto& end = known_end_[s.integer(0)];
      const std::int64_t most = sidecar_ ? end + limits::kResumeGap : INT64_MAX / 2;
      if (s.integer(1) <= most) end = std::max(end, s.integer(1));
    });
    raise("SELECT max(max(first_seq), ifnull(max(last_seq)+1, 0)) FROM _ws_segments",
          [&](Statement& s) {
            const std::int64_t most =
                sidecar_ ? sidecar_->next_seq + limits::kResumeGap : INT64_MAX / 2;
            if (s.integer(0) <= most) next_seq_ = std::max(next_seq_, s.integer(0));
          });
    raise("SELECT chain, max(segment) FROM _ws_segments GROUP BY chain", [&](Statement& s) {
      segment_[s.integer(0)] = std::max(segment_[s.integer(0)], s.integer(1));
    });
    if (sidecar_) {
      for (const Sidecar::Chain& c : sidecar_->chains) {
        segment_[c.id.value] = std::max<std::int64_t>(segment_[c.id.value], c.segment);
      }
    }
    WS_ASSIGN(const std::int64_t epochs,
              db_.number("SELECT ifnull(max(next_seq), 0) FROM _ws_epochs"));
    next_seq_ = std::max(next_seq_, epochs);
    WS_ASSIGN(Statement lost, db_.prepare("SELECT tp, max(to_offset) FROM _ws_lost GROUP BY tp"));
    for (;;) {
      WS_ASSIGN(const bool row, lost.step());
      if (!row) return {};
      auto& end = known_end_[lost.integer(0)];
      end = std::max(end, lost.integer(1));
    }
  }

  // Each chain's open segment, and the offsets before it as what they are until they are salvaged.
  Status go_beyond() {
    const std::int64_t now = clock_.wall_ms(), before_seq = next_seq_ + limits::kResumeGap;
    WS_ASSIGN(const Catalog catalog, Catalog::load(db_));
    if (catalog.topics().empty() && !known_end_.empty()) {
      // Nobody knows whose records they were: what is made from now on begins beyond them all.
      std::int64_t first = 0;
      for (const auto& [tp, end] : known_end_) first = std::max(first, end + limits::kResumeGap);
      WS_TRY(db_.exec(cat("INSERT OR REPLACE INTO _ws_meta VALUES('first_offset', ", first, ")")));
      WS_TRY(db_.exec(cat("INSERT OR REPLACE INTO _ws_meta VALUES('next_seq', ", before_seq, ")")));
    }
    WS_ASSIGN(Statement chains, db_.prepare("SELECT chain FROM _ws_chains"));
    std::vector<ChainId> ids;
    for (;;) {
      WS_ASSIGN(const bool row, chains.step());
      if (!row) break;
      ids.emplace_back(static_cast<std::int32_t>(chains.integer(0)));
    }
    WS_ASSIGN(const std::int64_t epoch, db_.number("SELECT ifnull(max(epoch), 0) FROM _ws_epochs"));
    for (const ChainId id : ids) {
      const std::int64_t segment = segment_[id.value] + limits::kSalvageSegmentsMax + 2;
      WS_TRY(db_.exec(create_segment_sql(id, segment)));
      WS_TRY(
          db_.exec(cat("INSERT INTO _ws_segments(chain, segment, format, epoch, opened_ms,"
                       " clock_trusted, first_seq) VALUES(",
                       id.value, ",", segment, ",", kSegmentFormat, ",", epoch, ",", now, ",",
                       clock_.trusted() ? 1 : 0, ",", before_seq, ")")));
      for (const Topic& t : catalog.topics()) {
        if (t.chain != id) continue;
        for (const Partition& p : t.partitions) WS_TRY(partition_beyond(t, p, segment, now));
      }
    }
    WS_TRY(
        db_.exec("UPDATE _ws_consumer_offsets SET committed_offset = min(committed_offset,"
                 " (SELECT max(next_offset) FROM _ws_segment_starts s WHERE"
                 " s.tp=_ws_consumer_offsets.tp)) WHERE tp IN (SELECT tp FROM"
                 " _ws_segment_starts)"));
    WS_TRY(
        db_.exec("DELETE FROM _ws_consumer_offsets WHERE tp NOT IN (SELECT tp FROM"
                 " _ws_segment_starts)"));
    if (damaged_.empty()) {  // nothing is there to salvage from
      return db_.exec("UPDATE _ws_lost SET kind='lost' WHERE kind='salvaging'");
    }
    WS_ASSIGN(Statement file,
              db_.prepare("INSERT OR REPLACE INTO _ws_damaged(file, why, set_aside_ms, before_seq,"
                          " before_source, state) VALUES(?1,?2,?3,?4,"
                          " (SELECT ifnull(max(src), 0)+1 FROM _ws_sources), 'waiting')"));
    // Also what another set-aside left, and nobody has looked into.
    const std::string database = path_.substr(0, path_.size() - 4);  // without ".new"
    for (const std::string& other : damaged_files(database)) {
      const std::string name = other.substr(other.rfind('/') + 1);
      WS_ASSIGN(const std::int64_t known,
                db_.number(cat("SELECT count(*) FROM _ws_damaged WHERE file=", quoted_text(name))));
      if (known > 0 && name != file_) {  // it may have what the newer one has lost
        WS_TRY(db_.exec(cat("UPDATE _ws_damaged SET state='waiting', records=0 WHERE file=",
                            quoted_text(name))));
        continue;
      }
      const std::string why = name == file_ ? why_ : cat("found beside the log (", name, ")");
      file.bind_text(1, name).bind_text(2, why);
      WS_TRY(file.bind(3, now).bind(4, before_seq).run());
    }
    return {};
  }

  Status partition_beyond(const Topic& t, const Partition& p, std::int64_t segment,
                          std::int64_t now) {
    const std::int64_t tp = p.tp.value, known = known_end_[tp], beyond = known + limits::kResumeGap;
    WS_TRY(db_.exec(cat("INSERT INTO _ws_segment_starts VALUES(", t.chain.value, ",", segment, ",",
                        tp, ",", beyond, ")")));
    WS_ASSIGN(std::int64_t from,
              db_.number(cat("SELECT log_start FROM _ws_partitions WHERE tp=", tp)));
    // What was lost before stays so; what was being salvaged is looked for again.
    WS_TRY(db_.exec(cat("DELETE FROM _ws_lost WHERE kind='salvaging' AND tp=", tp)));
    WS_ASSIGN(Statement old, db_.prepare("SELECT from_offset, to_offset FROM _ws_lost WHERE tp=?1"
                                         " ORDER BY from_offset"));
    std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
    old.bind(1, tp);
    for (;;) {
      WS_ASSIGN(const bool row, old.step());
      if (!row) break;
      if (old.integer(0) > from) pieces.emplace_back(from, old.integer(0));
      from = std::max(from, old.integer(1));
    }
    pieces.emplace_back(from, known);
    for (const auto& [begin, end] : pieces) WS_TRY(add_lost(tp, begin, end, "salvaging", now));
    return add_lost(tp, std::max(from, known), beyond, "skipped", now);
  }

  Status add_lost(std::int64_t tp, std::int64_t from, std::int64_t to, std::string_view kind,
                  std::int64_t now) {
    if (from >= to) return {};
    WS_ASSIGN(Statement s,
              db_.prepare("INSERT OR REPLACE INTO _ws_lost VALUES(?1,?2,?3,?4,?5,?6,0)"));
    s.bind(1, tp).bind(2, from).bind(3, to).bind_text(4, kind).bind_text(5, why_);
    return s.bind(6, now).run();
  }

  const EngineOptions& options_;
  const std::string path_, damaged_;
  std::string why_, file_, log_before_;
  std::optional<Sidecar> sidecar_;
  const Clock& clock_;
  Logger& logger_;
  Database db_;
  std::optional<Database> old_;
  bool catalog_whole_ = false, lost_whole_ = true;
  std::int64_t next_seq_ = 0;
  std::map<std::int64_t, std::int64_t> known_end_;  // by tp
  std::map<std::int64_t, std::int64_t> segment_;    // by chain, the newest known
};

}  // namespace

Status build_fresh_database(const EngineOptions& options, const std::string& path,
                            const std::string& damaged, const std::string& why,
                            const std::optional<Sidecar>& sidecar, const Clock& clock,
                            Logger& logger) {
  return Renewal(options, path, damaged, why, sidecar, clock, logger).run();
}

}  // namespace wayside
