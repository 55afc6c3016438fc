// Opening the database and committing to it. Segments and retention are in segments.cc, topics in
// topics.cc, MQTT sessions in sessions.cc, views in views.cc.
#include "storage/engine/engine.h"

#include <unistd.h>

#include <algorithm>

#include "base/check.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/sessions.h"
#include "storage/engine/sources.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"
#include "storage/engine/views.h"
#include "storage/recovery/recovery.h"
#include "storage/recovery/rescue.h"
#include "storage/snapshot.h"

namespace wayside {
namespace {

constexpr std::int64_t kShmBytes = 32 * 1024;  // of the -shm file of a WAL that is not long

}  // namespace

Engine::Engine(const EngineOptions& options, const Clock& clock, Logger& logger)
    : options_(options),
      clock_(clock),
      logger_(logger),
      recovery_(std::make_unique<Recovery>(*this)),
      space_(std::make_unique<Space>(*this)),
      sessions_(std::make_unique<Sessions>(*this)),
      sources_(std::make_unique<Sources>(*this)) {}

Engine::~Engine() {
  recovery_->note_end();
  sources_.reset();
  sessions_.reset();
  for (Statement* s : {&begin_, &commit_, &rollback_, &commit_offset_, &count_}) {
    *s = Statement();
  }
  chains_.clear();  // their statements, too: what is left open keeps the database open
  db_ = Database();
  recovery_->note_closed();
}

// Data never keeps it from starting: what cannot be opened is set aside. But once only: a fresh
// database that cannot be opened either is a disk that does not work.
Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& options, const Clock& clock,
                                             Logger& logger) {
  WS_ASSIGN(const FilesFound found, look_at_files(options, logger));
  std::string damage = options.damage.empty() ? found.damage : options.damage;
  if (damage.empty()) {
    auto engine = open_sound(options, clock, logger);
    Status resumed;
    if (engine) {
      auto why = (*engine)->recovery_->resume(found);
      if (why && why->empty()) {
        WS_TRY((*engine)->start_epoch());
        return engine;
      }
      damage = why ? *why : "";
      if (!why) resumed = tl::unexpected<Error>(why.error());
    } else {
      resumed = tl::unexpected<Error>(engine.error());
    }
    // What is no damage (a lock, a full disk) is no reason to set anything aside.
    if (!resumed && !is_damage(resumed.error())) return tl::unexpected<Error>(resumed.error());
    if (!resumed) damage = resumed.error().what;
  }
  WS_TRY(renew_database(options, damage, found.sidecar, clock, logger));
  WS_ASSIGN(auto engine, open_sound(options, clock, logger));
  WS_TRY(engine->start_epoch());
  return engine;
}

// As it is, or an error: corrupt when it must be set aside.
Result<std::unique_ptr<Engine>> Engine::open_sound(const EngineOptions& options, const Clock& clock,
                                                   Logger& logger) {
  std::unique_ptr<Engine> engine(new Engine(options, clock, logger));
  WS_TRY(engine->open_database());
  WS_TRY(ensure_schema(engine->db_, clock));
  WS_TRY(engine->prepare_statements());
  WS_TRY(engine->load());
  return engine;
}

Status Engine::open_database() {
  if (options_.vfs.empty()) {
    // At zero free bytes SQLite can do nothing, not even open: the ballast makes room.
    const auto disk = disk_space(options_.path);
    const std::string ballast = options_.path + ".ballast";
    if (disk && file_exists(ballast) && disk->free_bytes < limits::kBallastBytes / 8) {
      ::unlink(ballast.c_str());
      logger_.warning("the disk is full; the ballast file is given up to be able to start");
    }
    // SQLite maps this file, and a page of it that the disk has no block for ends the program.
    const auto left = disk_space(options_.path);
    if (left && left->free_bytes < 2 * kShmBytes && file_size(options_.path + "-shm") < kShmBytes) {
      return fail(ErrorCode::no_space,
                  cat("the disk is full: ", format_bytes(left->free_bytes), " are free, and to ",
                      "open ", options_.path, " takes ", format_bytes(2 * kShmBytes)),
                  "make some room on it; nothing of the log was changed");
    }
  }
  const bool had_wal = file_exists(options_.path + "-wal");
  WS_TRY(connect());
  // An empty WAL beside a database that notes one is a WAL that was lost: so the note goes first,
  // with all that the WAL has. One that is gone already is somebody else's to deal with.
  WS_ASSIGN(
      const std::int64_t notes,
      db_.number("SELECT count(*) FROM pragma_table_info('_ws_epochs') WHERE name='wal_salt'"));
  if (notes > 0 && had_wal) {
    const Status cleared =
        db_.exec("UPDATE _ws_epochs SET wal_salt=NULL WHERE wal_salt IS NOT NULL");
    const bool may_wait = !cleared && (cleared.error().code == ErrorCode::no_space ||
                                       cleared.error().code == ErrorCode::busy);
    if (!may_wait) WS_TRY(cleared);
  }
  WS_ASSIGN(const bool settled, settle_wal());
  if (!settled) return {};
  // A connection that has not checkpointed yet begins its WAL with a random number, by which it is
  // told from another's.
  db_ = Database();
  return connect();
}

Status Engine::connect() {
  WS_ASSIGN(db_, Database::open(options_.path, OpenMode::read_write_create, options_.vfs));
  WS_TRY(db_.exec("PRAGMA busy_timeout=1000"));
  WS_TRY(db_.exec("PRAGMA page_size=4096"));
  WS_TRY(db_.exec("PRAGMA auto_vacuum=NONE"));
  // Before anything is written: a database of a newer version is left as it is.
  // One without tables was cut off when it was made; it is made again.
  WS_ASSIGN(const std::int64_t tables, db_.number("SELECT count(*) FROM sqlite_schema"));
  if (tables > 0) WS_TRY(check_schema(db_));
  WS_TRY(db_.exec("PRAGMA journal_mode=WAL"));
  WS_TRY(db_.exec("PRAGMA synchronous=FULL"));
  // Debian's SQLite overwrites dropped pages with zeros; through the WAL a drop would cost as
  // much as it frees.
  WS_TRY(db_.exec("PRAGMA secure_delete=OFF"));
  WS_TRY(db_.exec(cat("PRAGMA wal_autocheckpoint=", limits::kWalAutocheckpointPages)));
  WS_TRY(db_.exec(cat("PRAGMA journal_size_limit=", limits::kJournalSizeLimitBytes)));
  WS_TRY(db_.exec("PRAGMA temp_store=MEMORY"));
  WS_TRY(db_.exec("PRAGMA cache_size=-4096"));
  // What a start must write has the room there is; its epoch stands before the log is limited.
  return identity_.epoch == 0 ? Status{} : space_->set_page_limit();
}

// After a failed sync the kernel may show WAL bytes that are not on the disk, and an append behind
// them would be lost with them. So before the first acknowledgement everything the WAL shows is
// copied into the database, synced, and the WAL is emptied. False: it is synced as it is.
Result<bool> Engine::settle_wal() {
  const auto busy = db_.number("PRAGMA wal_checkpoint(TRUNCATE)");
  if (busy && *busy == 0) return true;
  const bool full = !busy && busy.error().code == ErrorCode::no_space;
  if (!busy && !full) return tl::unexpected<Error>(busy.error());
  if (!options_.vfs.empty()) return false;
  // Somebody reads an old snapshot, or the disk is full. The same bytes written again are dirty
  // again, and synced.
  logger_.warning(full ? "the disk is full while the log opens; its WAL is synced in place"
                       : "another program reads the database; its WAL is synced in place");
  WS_TRY(rewrite_in_place_and_sync(options_.path + "-wal"));
  return false;
}

Status Engine::prepare_statements() {
  const auto keep = [&](Statement& s, std::string_view sql) -> Status {
    WS_ASSIGN(s, db_.prepare(sql, true));
    return {};
  };
  WS_TRY(keep(commit_, "COMMIT"));
  WS_TRY(keep(rollback_, "ROLLBACK"));
  WS_TRY(keep(commit_offset_,
              "INSERT OR REPLACE INTO _ws_consumer_offsets"
              "(group_id, tp, committed_offset, metadata, commit_ms, age_from_ms)"
              " VALUES(?1, ?2, ?3, ?4, ?5, ?6)"));
  WS_TRY(keep(count_,
              "INSERT INTO _ws_counters VALUES(?1, ?2) "
              "ON CONFLICT(name) DO UPDATE SET value = value + excluded.value"));
  return keep(begin_, "BEGIN IMMEDIATE");  // the last: with it they are all there
}

// Somebody removed the WAL (a script that cleans up). What it has is only in the file that this
// connection still holds: that goes into the database, and whoever owns this opens it anew.
Status Engine::check_wal() {
  const std::string wal = options_.path + "-wal";
  if (!options_.vfs.empty() || file_inode(wal) == inodes_.wal) return {};
  if (!inodes_.must_open_anew) {
    // The next one begins with a number of its own, which is not the one that is noted.
    WS_TRY(db_.exec("UPDATE _ws_epochs SET wal_salt=NULL WHERE wal_salt IS NOT NULL"));
    WS_ASSIGN(const std::int64_t busy, db_.number("PRAGMA wal_checkpoint(TRUNCATE)"));
    if (busy != 0) {
      return fail(ErrorCode::io, cat(wal, " was removed, and another program reads the database"),
                  "end the other program; until then nothing is acknowledged");
    }
    inodes_.must_open_anew = true;
  }
  return fail(ErrorCode::io, cat(wal, " was removed under the gateway; what it had is safe"));
}

Status Engine::load() {
  chains_.clear();
  positions_ = Positions{};
  // Records of a chain that was dropped whole have left no trace but this.
  WS_ASSIGN(positions_.next_seq,
            db_.number("SELECT max(ifnull((SELECT max(next_seq) FROM _ws_epochs), 0),"
                       " ifnull((SELECT value FROM _ws_meta WHERE name='next_seq'), 0))"));
  WS_TRY(refresh());
  WS_TRY(sessions_->prepare());
  return sources_->prepare();
}

// Topics and chains as they are in the database now. What is known of a chain stays: only new ones
// are read. An error leaves everything as it was.
Status Engine::refresh() {
  WS_ASSIGN(Catalog catalog, Catalog::load(db_));
  // Those of deleted topics, too: their records may still be in shared segments.
  WS_ASSIGN(const std::int64_t most, db_.number("SELECT ifnull(max(tp), 0) FROM _ws_partitions"));
  WS_ASSIGN(const std::int64_t least, db_.number("SELECT ifnull(min(tp), 1) FROM _ws_partitions"));
  // Ids count up from one; what a damaged page says is no index.
  if (least < 1 || most > limits::kIdsMost) {
    return fail(ErrorCode::corrupt,
                cat("_ws_partitions names partition ", least < 1 ? least : most));
  }
  const auto size = std::max(positions_.next_offset.size(), static_cast<std::size_t>(most) + 1);
  positions_.next_offset.resize(size, 0);
  std::vector<Chain> found;
  Statement s;
  WS_ASSIGN(s, db_.prepare("SELECT chain, retention_ms, retention_bytes, segment_rows, priority "
                           "FROM _ws_chains ORDER BY chain"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    Chain c;
    c.id = ChainId(static_cast<std::int32_t>(s.integer(0)));
    c.retention_ms = s.integer(1);
    c.retention_bytes = s.integer(2);
    c.segment_rows = s.integer(3);
    c.priority = s.integer(4);
    found.push_back(std::move(c));
  }
  std::vector<SegmentStats> open(found.size());
  std::vector<Chain*> known(found.size(), nullptr);
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (std::size_t k = 0; k < chains_.size(); ++k) {
      if (chains_[k].id == found[i].id) known[i] = &chains_[k], open[i] = positions_.open[k];
    }
    if (known[i] == nullptr) WS_TRY(load_chain(found[i], open[i]));
    if (known[i] == nullptr || known[i]->insert.valid()) continue;
    WS_ASSIGN(known[i]->insert, prepare_insert(db_, known[i]->id, known[i]->segment));
  }
  std::vector<std::size_t> chain_of(size, kNoChain);
  for (const Topic& t : catalog.topics()) {
    const auto it =
        std::find_if(found.begin(), found.end(), [&](const Chain& c) { return c.id == t.chain; });
    if (it == found.end()) return fail(ErrorCode::corrupt, cat("topic ", t.name, " has no chain"));
    for (const Partition& p : t.partitions) {
      chain_of[static_cast<std::size_t>(p.tp.value)] = static_cast<std::size_t>(it - found.begin());
    }
  }
  // From here on nothing fails.
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (known[i] == nullptr) continue;
    known[i]->retention_ms = found[i].retention_ms;
    known[i]->retention_bytes = found[i].retention_bytes;
    known[i]->priority = found[i].priority;
    found[i] = std::move(*known[i]);
  }
  chains_ = std::move(found);
  positions_.open = std::move(open);
  chain_of_ = std::move(chain_of);
  catalog_ = std::move(catalog);
  return {};
}

// Next offsets are what the open segment started with, plus what a scan of it finds: at most one
// segment is read, however long the log is.
Status Engine::load_chain(Chain& chain, SegmentStats& stats) {
  WS_ASSIGN(Statement s,
            db_.prepare("SELECT segment, opened_ms, clock_trusted, first_seq, last_seq,"
                        " bytes, max_append_ms, indexed, rows FROM _ws_segments"
                        " WHERE chain=?1 ORDER BY segment"));
  s.bind(1, chain.id.value);
  bool open = false;
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    if (s.is_null(4)) {
      open = true;
      chain.segment = s.integer(0);
      chain.opened_ms = s.integer(1);
      chain.clock_trusted = s.integer(2) != 0;
      stats.first_seq = s.integer(3);
    } else {
      chain.closed.push_back({s.integer(0), s.integer(5), s.integer(6), s.integer(8),
                              s.integer(2) != 0, s.integer(7) != 0});
      positions_.next_seq = std::max(positions_.next_seq, s.integer(4) + 1);
    }
  }
  if (!open) return fail(ErrorCode::corrupt, cat("chain ", chain.id.value, " has no open segment"));
  positions_.next_seq = std::max(positions_.next_seq, stats.first_seq);

  const std::string table = segment_table(chain.id, chain.segment);
  const auto place_of = [&](std::int64_t tp) -> Status {
    if (tp >= 0 && tp < static_cast<std::int64_t>(positions_.next_offset.size())) return {};
    return fail(ErrorCode::corrupt, cat(table, " names partition ", tp, ", which does not exist"));
  };
  WS_ASSIGN(Statement starts, db_.prepare("SELECT tp, next_offset FROM _ws_segment_starts "
                                          "WHERE chain=?1 AND segment=?2"));
  starts.bind(1, chain.id.value).bind(2, chain.segment);
  for (;;) {
    WS_ASSIGN(const bool row, starts.step());
    if (!row) break;
    WS_TRY(place_of(starts.integer(0)));
    positions_.next_offset[static_cast<std::size_t>(starts.integer(0))] = starts.integer(1);
  }
  // Row by row, in the order of the table: nothing is sorted, so nothing is held in memory.
  WS_ASSIGN(Statement scan,
            db_.prepare(cat("SELECT seq, tp, \"offset\", ts, append_ms, key, value, headers,"
                            " attrs, src, crc FROM ",
                            table, " ORDER BY seq")));
  for (;;) {
    WS_ASSIGN(const bool row, scan.step());
    if (!row) break;
    const StoredRecord r = record_of(scan);
    WS_TRY(place_of(r.tp.value));
    // A page that was torn may still look like one.
    if (record_crc(r.tp, r.offset, r.append_ms, r.record) != r.crc) {
      return fail_damaged(cat("the CRC of a record in ", table, " is wrong"));
    }
    positions_.next_offset[static_cast<std::size_t>(r.tp.value)] = r.offset.value + 1;
    positions_.next_seq = std::max(positions_.next_seq, r.seq.value + 1);
    stats.add(r.record.timestamp_ms, r.append_ms, r.record.payload_bytes());
  }
  WS_ASSIGN(chain.insert, prepare_insert(db_, chain.id, chain.segment));
  return {};
}

Status Engine::start_epoch() {
  const auto write = [&]() -> Status {
    WS_ASSIGN(Statement s,
              db_.prepare("INSERT INTO _ws_epochs(started_ms, clock_trusted, next_seq) "
                          "VALUES(?1, ?2, ?3)"));
    s.bind(1, clock_.wall_ms()).bind(2, clock_.trusted() ? 1 : 0).bind(3, positions_.next_seq);
    WS_TRY(s.run());
    // The connections that the last run had are gone; a session of expiry 0 went with its own.
    WS_TRY(db_.exec(
        cat("UPDATE _ws_sessions SET disconnected_ms=", clock_.trusted() ? clock_.wall_ms() : 0,
            " WHERE disconnected_ms IS NULL")));
    WS_TRY(db_.exec("DELETE FROM _ws_sessions WHERE expiry_s=0"));
    WS_TRY(recovery_->note_place());
    return db_.exec(
        "DELETE FROM _ws_qos2 WHERE session_id NOT IN "
        "(SELECT session_id FROM _ws_sessions)");
  };
  WS_TRY(with_room(*this, [&] { return transaction(write); }));
  WS_TRY(sessions_->load());
  WS_ASSIGN(identity_, read_identity(db_));
  inodes_ = {file_inode(options_.path), file_inode(options_.path + "-wal")};
  space_->keep_ballast();
  WS_TRY(space_->set_page_limit());
  return recovery_->note_start();
}

Status Engine::begin() {
  // Into a file that has lost its name one could write for ever, and acknowledge what no start
  // will find again.
  if (options_.vfs.empty() && file_inode(options_.path) != inodes_.database) {
    return fail(ErrorCode::io, cat(options_.path, " was removed or replaced under the gateway"),
                "stop the gateway; put the file back, or let it make a new log at its next start");
  }
  WS_TRY(check_wal());
  WS_TRY(recovery_->check_sidecar());
  trusted_ = clock_.trusted();
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    if (chains_[i].clock_trusted == trusted_) continue;
    if (may_roll(i)) {
      WS_TRY(roll(i));
    } else if (chains_[i].clock_trusted) {
      WS_TRY(mark_untrusted(i));  // at the bound of segments: the whole one is not believed
    }
  }
  append_ms_ = clock_.wall_ms();
  return begin_.run();
}

Status Engine::commit(std::span<Batch> group) {
  const Positions before = positions_;
  sources_->begin();
  sessions_->begin();
  const auto apply_all = [&]() -> Status {
    for (Batch& batch : group) {
      for (Op& op : batch.ops) {
        WS_TRY(std::visit([&](auto& o) { return apply(o); }, op));
        if (ends_batch(op)) break;
      }
    }
    return {};
  };
  Status status = finish(apply_all());
  if (!status) {
    positions_ = before;
    sources_->rolled_back();
    sessions_->rolled_back();
  } else {
    sessions_->committed();
    recovery_->keep_note();  // before anybody is told: a start must know the WAL that has it
  }
  return status;
}

// Commits, or rolls back; an error of either is the transaction's.
Status Engine::finish(Status status) {
  if (status) status = commit_.run();
  // A failed COMMIT may or may not have rolled back by itself.
  if (!status && db_.in_transaction()) {
    if (auto rolled = rollback_.run(); !rolled) logger_.error(rolled.error().text());
  }
  return status;
}

Status Engine::apply(Append& op) {
  const auto tp = static_cast<std::size_t>(op.tp.value);
  WS_CHECK(tp < chain_of_.size());
  const std::size_t place = chain_of_[tp];
  if (place == kNoChain) {
    return fail(ErrorCode::not_found, "the topic was deleted while this reading was on its way");
  }
  Chain& chain = chains_[place];
  SegmentStats& stats = positions_.open[place];
  Record& r = op.record;
  if (op.source) WS_TRY(sources_->resolve(op.source));
  if (r.timestamp_ms == kNoTimestamp) r.timestamp_ms = append_ms_;
  if (!trusted_) r.attributes |= kClockUntrusted;
  op.offset = Offset(positions_.next_offset[tp]++);
  const std::int64_t seq = positions_.next_seq++;
  bind_record(chain.insert, Seq(seq), op.tp, op.offset, append_ms_, r,
              op.source ? op.source->id : 0, record_crc(op.tp, op.offset, append_ms_, r));
  WS_TRY(chain.insert.run());
  stats.add(r.timestamp_ms, append_ms_, r.payload_bytes());
  return {};
}

Status Engine::apply(OpenSession& op) {
  return sessions_->open(op);
}
Status Engine::apply(CloseSession& op) {
  return sessions_->close(op);
}
Status Engine::apply(AddQos2Id& op) {
  return sessions_->add(op);
}
Status Engine::apply(RemoveQos2Id& op) {
  return sessions_->remove(op);
}

Status Engine::apply(Count& op) {
  return count_.bind_text(1, op.name).bind(2, op.n).run();
}

void engine_state::SegmentStats::add(std::int64_t ts, std::int64_t append_ms, std::int64_t size) {
  const bool first = rows++ == 0;
  bytes += size;
  min_ts = first ? ts : std::min(min_ts, ts);
  max_ts = first ? ts : std::max(max_ts, ts);
  min_append_ms = first ? append_ms : std::min(min_append_ms, append_ms);
  max_append_ms = first ? append_ms : std::max(max_append_ms, append_ms);
}

Offset Engine::next_offset(TpId tp) const {
  return Offset(positions_.next_offset.at(static_cast<std::size_t>(tp.value)));
}

}  // namespace wayside
