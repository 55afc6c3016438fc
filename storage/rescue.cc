#include "storage/rescue.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/raw_file.h"
#include "storage/snapshot.h"

namespace wayside {
namespace {

// A start that was cut off before it could note its WAL has committed no more than this.
constexpr std::int64_t kCommitsOfAStart = 2;
// A WAL's first salt counts up by one each time it starts anew.
constexpr std::uint32_t kWalRestartsMost = 1U << 24;
constexpr std::string_view kMagic("SQLite format 3\0", 16);

// The number at the end of "….damaged-<n>"; 0: it is no such name.
std::int64_t damaged_number(std::string_view name, std::string_view database) {
  const std::string prefix = cat(database, ".damaged-");
  if (!name.starts_with(prefix)) return 0;
  return parse_int(name.substr(prefix.size())).value_or(0);
}

// The salt that the database itself noted, as its last checkpoint left it, without its WAL.
std::optional<std::int64_t> noted_salt(const std::string& path) {
  auto db = Database::open(path, OpenMode::immutable);
  if (!db) return std::nullopt;
  const auto salt = db->number("SELECT wal_salt FROM _ws_epochs ORDER BY epoch DESC LIMIT 1", -1);
  return salt && *salt >= 0 ? std::optional(*salt) : std::nullopt;
}

// Builds the fresh database: what can be read of the small tables, and what the sidecar knows.
class Renewal {
 public:
  Renewal(const std::string& path, const std::string& damaged, const std::string& why,
          const std::optional<Sidecar>& sidecar, const Clock& clock, Logger& logger)
      : path_(path),
        damaged_(damaged),
        why_(why),
        sidecar_(sidecar),
        clock_(clock),
        logger_(logger) {}

  Status run() {
    for (const char* tail : {"", "-wal", "-shm", "-journal"}) ::unlink((path_ + tail).c_str());
    WS_ASSIGN(db_, Database::open(path_, OpenMode::read_write_create));
    for (const char* pragma : {"page_size=4096", "auto_vacuum=NONE", "synchronous=FULL"}) {
      WS_TRY(db_.exec(cat("PRAGMA ", pragma)));
    }
    WS_TRY(ensure_schema(db_, clock_));
    if (auto old = Database::open(damaged_, OpenMode::read_only)) old_ = std::move(*old);
    WS_TRY(db_.exec("BEGIN"));
    WS_TRY(copy_catalog());
    for (const char* table :
         {"_ws_sources", "_ws_consumer_offsets", "_ws_sessions", "_ws_qos2", "_ws_sealed",
          "_ws_counters", "_ws_quarantine_settled", "_ws_lost", "_ws_damaged", "_ws_epochs"}) {
      if (!copy(table)) logger_.warning(cat(table, " cannot be read whole; the sidecar fills in"));
    }
    WS_TRY(copy_meta());
    if (sidecar_) WS_TRY(add_sidecar());
    if (!sidecar_ && !damaged_.empty()) WS_TRY(scan_ends());
    WS_TRY(ends_of_segments());
    WS_TRY(go_beyond());
    return db_.exec("COMMIT");
  }

 private:
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
    for (;;) {
      const auto row = from->step();
      if (!row) return false;
      if (!*row) return true;
      for (int i = 0; i < n; ++i) to->bind_column(i + 1, *from, i);
      if (!to->run()) return false;
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
      (void)copy_sequences();
    }
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
    WS_ASSIGN(
        Statement topic,
        db_.prepare("INSERT INTO _ws_topics(topic_id, uuid, name, chain, retention_ms,"
                    " retention_bytes, columns, created_ms) VALUES(?1,?2,?3,?4,?5,?6,?7,?8)"));
    WS_ASSIGN(Statement partition,
              db_.prepare("INSERT INTO _ws_partitions(tp, topic_id, partition) VALUES(?1,?2,?3)"));
    for (const Topic& t : sidecar_->topics) {
      const std::string columns = t.columns ? json_array(*t.columns) : "";
      topic.bind(1, t.id.value).bind_text(2, t.uuid).bind_text(3, t.name).bind(4, t.chain.value);
      topic.bind(5, t.retention_ms).bind(6, t.retention_bytes).bind(8, clock_.wall_ms());
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

  Status copy_sequences() {
    WS_ASSIGN(Statement s, old_->prepare("SELECT name, seq FROM sqlite_sequence"));
    WS_ASSIGN(Statement raise,
              db_.prepare("UPDATE sqlite_sequence SET seq=max(seq, ?2) WHERE name=?1"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) return {};
      WS_TRY(raise.bind_column(1, s, 0).bind_column(2, s, 1).run());
    }
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
        } else if (name.starts_with("bridge.") || name.starts_with("subscribe.")) {
          facts.emplace_back(name, value);
        } else if (name == "next_seq") {
          next_seq_ = std::max(next_seq_, s->integer(1));
        }
      }
    }
    facts.emplace_back("renewed_from", log_uuid);
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
              db_.prepare("INSERT OR IGNORE INTO _ws_consumer_offsets"
                          "(group_id, tp, committed_offset, commit_ms) VALUES(?1,?2,?3,?4)"));
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
    WS_ASSIGN(const std::int64_t epochs,
              db_.number("SELECT ifnull(max(epoch), 0) FROM _ws_epochs"));
    if (epochs >= sidecar_->identity.epoch) return {};
    return db_.exec(cat(
        "INSERT INTO _ws_epochs(epoch, started_ms, clock_trusted, next_seq) VALUES(",
        sidecar_->identity.epoch, ", ", sidecar_->written_ms, ", 0, ", sidecar_->next_seq, ")"));
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
    if (auto scanned = scan_records(damaged_, each); !scanned) {
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
      auto& end = known_end_[s.integer(0)];
      end = std::max(end, s.integer(1));
    });
    raise("SELECT max(max(first_seq), ifnull(max(last_seq)+1, 0)) FROM _ws_segments",
          [&](Statement& s) { next_seq_ = std::max(next_seq_, s.integer(0)); });
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
      WS_TRY(db_.exec(cat("INSERT INTO sqlite_sequence VALUES('_ws_partitions', ",
                          known_end_.rbegin()->first, ")")));
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
    const std::string name = damaged_.substr(damaged_.rfind('/') + 1);
    return file.bind_text(1, name).bind_text(2, why_).bind(3, now).bind(4, before_seq).run();
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

  const std::string path_, damaged_, why_;
  const std::optional<Sidecar>& sidecar_;
  const Clock& clock_;
  Logger& logger_;
  Database db_;
  std::optional<Database> old_;
  std::int64_t next_seq_ = 0;
  std::map<std::int64_t, std::int64_t> known_end_;  // by tp
  std::map<std::int64_t, std::int64_t> segment_;    // by chain, the newest known
};

}  // namespace

std::vector<std::string> damaged_files(const std::string& database) {
  const std::size_t slash = database.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : database.substr(0, slash);
  const std::string base = database.substr(slash == std::string::npos ? 0 : slash + 1);
  std::map<std::int64_t, std::string> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()), ::closedir);
  for (const dirent* e = dir ? ::readdir(dir.get()) : nullptr; e != nullptr;
       e = ::readdir(dir.get())) {
    if (const auto n = damaged_number(e->d_name, base); n > 0) {
      found[n] = cat(directory, "/", static_cast<const char*>(e->d_name));
    }
  }
  std::vector<std::string> out;
  for (auto& [n, path] : found) out.push_back(std::move(path));
  return out;
}

Result<FilesFound> look_at_files(const EngineOptions& options, Logger& logger) {
  FilesFound found;
  const std::string& path = options.path;
  auto sidecar = read_sidecar(path);
  if (sidecar) {
    found.sidecar = std::move(*sidecar);
  } else if (sidecar.error().code != ErrorCode::not_found) {
    logger.warning(cat(sidecar_path(path), ": ", sidecar.error().text()));
  }
  const bool was_there = found.sidecar.has_value() || !damaged_files(path).empty();
  if (file_size(path) == 0) {
    if (was_there) found.damage = file_exists(path) ? "wayside.db is empty" : "wayside.db is gone";
    return found;
  }
  const auto head = read_head(path, kMagic.size());
  if (!head && head.error().code != ErrorCode::corrupt) {
    return tl::unexpected<Error>(head.error());
  }
  if (!head || *head != kMagic) {
    found.damage = head ? "wayside.db does not begin as a database does" : head.error().what;
    return found;
  }
  const std::string wal_path = path + "-wal";
  const WalLook wal = look_at_wal(wal_path);
  const auto noted = noted_salt(path);
  const bool filled = wal.bytes > 4096;
  if (filled && wal.header_valid && noted &&
      wal.salt - static_cast<std::uint32_t>(*noted) > kWalRestartsMost) {
    // Copied here beside it, or the rest of a start that was cut off.
    if (wal.commits <= kCommitsOfAStart) {
      ::unlink(wal_path.c_str());
      return found;
    }
    const std::string aside = cat(wal_path, ".foreign-", static_cast<std::int64_t>(wal.salt));
    WS_TRY(rename_file(wal_path, aside));
    found.wal_gone = cat("the WAL was of another database, and is set aside as ", aside);
    return found;
  }
  if (filled && (!wal.header_valid || wal.commits_behind >= 2)) {
    found.damage = cat("its WAL is damaged: SQLite would see ", wal.commits,
                       " transactions of it and leave out ", wal.commits_behind, " behind them");
  } else if (!wal.exists && noted) {
    found.wal_gone = "the gateway did not stop in order, and its WAL is gone";
  }
  return found;
}

Status renew_database(const EngineOptions& options, const std::string& why,
                      const std::optional<Sidecar>& sidecar, const Clock& clock, Logger& logger) {
  const std::string& path = options.path;
  const auto others = damaged_files(path);
  std::string damaged = others.empty() ? "" : others.back();
  // A WAL that was left alone has records, too.
  const bool wal_alone = file_size(path) == 0 && file_size(path + "-wal") > 0 &&
                         (damaged.empty() || file_exists(damaged + "-wal"));
  if (wal_alone) WS_TRY(write_file_synced(path, ""));
  if (file_size(path) > 0 || wal_alone) {
    const std::string base = path.substr(path.rfind('/') + 1);
    const std::int64_t last =
        damaged.empty() ? 0 : damaged_number(damaged.substr(damaged.rfind('/') + 1), base);
    damaged = cat(path, ".damaged-", last + 1);
    WS_TRY(rename_file(path, damaged));
  }
  // Also what a cut left here of the renaming before.
  if (file_exists(path + "-wal") && !damaged.empty() && !file_exists(damaged + "-wal")) {
    WS_TRY(rename_file(path + "-wal", damaged + "-wal"));
  }
  ::unlink((path + "-shm").c_str());
  if (damaged.empty()) {
    logger.error(cat(why, "; a fresh log goes on beyond its offsets"));
  } else {
    logger.error(cat("the log is damaged (", why, "): it is set aside as ", damaged,
                     ", and a fresh one takes readings; what can be read comes back from it"));
  }
  const std::string fresh = path + ".new";
  WS_TRY(Renewal(fresh, damaged, why, sidecar, clock, logger).run());
  return rename_file(fresh, path);
}

}  // namespace wayside
