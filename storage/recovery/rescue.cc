#include "storage/recovery/rescue.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/reader.h"
#include "storage/recovery/raw_file.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {
namespace {

// A header and a frame: once it has been noted, a WAL gets no shorter.
constexpr std::int64_t kShortestWal = 32 + 24 + 4096;
// A start that was cut off before it could note its WAL has committed no more than this.
constexpr std::int64_t kCommitsOfAStart = 2;
constexpr std::size_t kWalRecordsLookedAt = 2000;
constexpr std::size_t kReadVersionAt = 19, kApplicationIdAt = 68;  // fileformat2.html, section 1.3
constexpr std::string_view kMagic("SQLite format 3\0", 16);

// The number at the end of "….damaged-<n>"; 0: it is no such name.
std::int64_t damaged_number(std::string_view name, std::string_view database) {
  const std::string prefix = cat(database, ".damaged-");
  if (!name.starts_with(prefix)) return 0;
  return parse_int(name.substr(prefix.size())).value_or(0);
}

// A copy that SQLite made of a running log (VACUUM INTO) is in no WAL mode, and whole without one.
bool is_in_wal_mode(const std::string& path) {
  const auto head = read_head(path, kReadVersionAt + 1);
  return head && head->size() > kReadVersionAt && (*head)[kReadVersionAt] == 2;
}

// The salt that the database itself noted, as its last checkpoint left it, without its WAL.
std::optional<std::int64_t> noted_salt(const std::string& path) {
  auto db = Database::open(path, OpenMode::immutable);
  if (!db) return std::nullopt;
  const auto salt = db->number("SELECT wal_salt FROM _ws_epochs ORDER BY epoch DESC LIMIT 1", -1);
  return salt && *salt >= 0 ? std::optional(*salt) : std::nullopt;
}

// Whether this WAL was left behind when its database was renamed to `damaged`, and that was cut off
// before the WAL's turn.
bool is_wal_of(const std::string& damaged, const std::string& wal) {
  if (damaged.empty() || file_exists(damaged + "-wal")) return false;
  const auto noted = noted_salt(damaged);
  const std::int64_t salt = wal_salt(wal);
  return !noted || salt < 0 ||
         static_cast<std::uint32_t>(salt) - static_cast<std::uint32_t>(*noted) <= kWalRestartsMost;
}

// The seq of the next record, as the database has it without its WAL.
Result<std::int64_t> next_seq_of(LogReader& reader) {
  WS_ASSIGN(std::int64_t next,
            reader.number("SELECT max(ifnull((SELECT max(next_seq) FROM _ws_epochs), 0),"
                          " ifnull((SELECT value FROM _ws_meta WHERE name='next_seq'), 0),"
                          " ifnull((SELECT max(max(first_seq, ifnull(last_seq, 0) + 1)) FROM"
                          " _ws_segments), 0))"));
  WS_ASSIGN(Statement open, reader.database().prepare("SELECT chain, segment FROM _ws_segments"
                                                      " WHERE last_seq IS NULL"));
  for (;;) {
    WS_ASSIGN(const bool row, open.step());
    if (!row) return next;
    const ChainId chain(static_cast<std::int32_t>(open.integer(0)));
    WS_ASSIGN(const std::int64_t end,
              reader.number(cat("SELECT ifnull(max(seq) + 1, 0) FROM ",
                                segment_table(chain, open.integer(1)))));
    next = std::max(next, end);
  }
}

// What the records of a WAL say of the database that it lies beside. A seq is given once: so two
// whole records of one seq prove that they are of two logs; and a WAL that has records of the
// database again, and whose first new one is the very next, was written behind it.
enum class Relation { unknown, contradicts, continues };
Relation compare_wal(const std::string& path, std::int64_t frames) {
  auto reader = LogReader::open_as(path, OpenMode::immutable);
  const auto catalog = reader ? reader->catalog() : tl::unexpected<Error>(reader.error());
  const auto next_seq = catalog ? next_seq_of(*reader)
                                : Result<std::int64_t>(tl::unexpected<Error>(catalog.error()));
  if (!next_seq) return Relation::unknown;  // damage is found elsewhere
  bool contradicts = false, has_records = false;
  std::int64_t first_new = INT64_MAX;
  std::size_t looked = 0;
  const auto each = [&](StoredRecord&& r) -> Status {
    const Topic* topic = catalog->find(r.tp);
    if (r.seq.value >= *next_seq) {
      has_records = true;
      first_new = std::min(first_new, r.seq.value);
    } else if (topic != nullptr && looked < kWalRecordsLookedAt) {
      ++looked;
      const auto page = reader->read(topic->chain, r.seq, {{r.tp}}, {1, SIZE_MAX}, r.seq);
      if (page && !page->records.empty()) {
        has_records = true;
        contradicts = page->records.front().offset != r.offset ||
                      page->records.front().crc != r.crc;
      }
    }
    return contradicts ? Status(fail(ErrorCode::out_of_range, "enough")) : Status{};
  };
  (void)scan_wal_records(path, frames, each);
  if (contradicts) return Relation::contradicts;
  const bool next = first_new == INT64_MAX || first_new == *next_seq;
  return has_records && next ? Relation::continues : Relation::unknown;
}

// Whether another process holds a lock on these bytes of a file. REQUIRES: this process has no
// connection to the database, whose locks would go with the descriptor.
bool is_locked_by_another(const std::string& path, off_t from, off_t bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = from;
  lock.l_len = bytes;
  return fd.valid() && ::fcntl(fd.get(), F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// Whether a program has this database open now, and its WAL: SQLite holds a lock on a byte of the
// -shm file ("dead man switch"), and a shared one on the database (fileformat2.html, 1.3: locks).
bool is_in_use(const std::string& path) {
  constexpr off_t kDeadManSwitch = 128, kSharedFirst = 0x40000002, kSharedBytes = 510;
  return is_locked_by_another(path + "-shm", kDeadManSwitch, 1) &&
         is_locked_by_another(path, kSharedFirst, kSharedBytes);
}

// Whether the WAL is not this database's. `noted`: the salt that it noted; none for a log that was
// stopped in order, or whose start was cut off: beside it a WAL may be right, too, and the database
// torn without it, so that only two records of one seq are a proof.
bool is_foreign(const std::string& path, const WalLook& wal, std::optional<std::int64_t> noted) {
  if (noted && wal.salt - static_cast<std::uint32_t>(*noted) <= kWalRestartsMost) return false;
  const Relation relation = compare_wal(path, wal.frames);
  if (relation == Relation::contradicts) return true;
  return noted && relation != Relation::continues && !is_in_use(path);
}

// What stands where a file of ours belongs, and is none (a directory, a link), is renamed.
void clear_the_way(const std::string& path, Logger& logger) {
  struct stat st {};
  const auto is_there = [&](const std::string& name) { return ::lstat(name.c_str(), &st) == 0; };
  if (!is_there(path) || S_ISREG(st.st_mode)) return;
  std::string aside;
  for (int n = 1; aside.empty() || is_there(aside); ++n) aside = cat(path, ".odd-", n);
  logger.warning(cat(path, " is no file; it is set aside as ", aside));
  if (auto renamed = rename_file(path, aside); !renamed) logger.error(renamed.error().text());
}

}  // namespace

bool is_damage(const Error& error) {
  return error.code == ErrorCode::corrupt || (error.code == ErrorCode::invalid_argument &&
                                              error.what.find("(SQLite ") != std::string::npos);
}

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

Result<FilesFound> examine_files(const EngineOptions& options) {
  FilesFound found;
  const std::string& path = options.path;
  found.place = place_of(path, options.board);
  auto sidecar = read_sidecar(path);
  if (sidecar) {
    found.sidecar = std::move(*sidecar);
  } else if (sidecar.error().code != ErrorCode::not_found) {
    found.sidecar_error = sidecar.error().text();
  }
  const std::string wal_path = path + "-wal";
  if (file_size(path) <= 1) {  // SQLite takes one byte for none
    const bool was_there = found.sidecar.has_value() || !damaged_files(path).empty() ||
                           file_size(wal_path) >= kShortestWal;
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
  const WalLook wal = look_at_wal(wal_path, options.still_opening);
  const auto more = read_head(path, kApplicationIdAt + 4);
  if (found.sidecar && wal.commits == 0 && more && more->size() == kApplicationIdAt + 4 &&
      more->substr(kApplicationIdAt) != "WAYS") {
    found.damage = "wayside.db does not say that it is a log, as its sidecar does";
    return found;
  }
  const auto noted = noted_salt(path);
  const bool filled = wal.bytes > 4096;
  if (filled && wal.header_valid && is_foreign(path, wal, noted)) {
    // Copied here beside it, or the rest of a start that was cut off.
    found.foreign_wal = wal.salt;
    if (wal.commits > kCommitsOfAStart || wal.commits_behind > 0) {
      found.wal_gone = "the WAL beside it is of another database";
    }
    return found;
  }
  if (filled && (!wal.header_valid || wal.commits_behind >= 2)) {
    found.damage = cat("its WAL is damaged: SQLite would see ", wal.commits,
                       " transactions of it and leave out ", wal.commits_behind, " behind them");
  } else if (noted && wal.bytes < kShortestWal && is_in_wal_mode(path)) {
    found.wal_gone = wal.exists ? "the gateway did not stop in order, and its WAL is empty"
                                : "the gateway did not stop in order, and its WAL is gone";
  }
  return found;
}

Result<FilesFound> look_at_files(const EngineOptions& options, Logger& logger) {
  const std::string& path = options.path;
  for (const char* tail : {"-wal", "-shm", "-journal", ".new", ".new-wal", ".new-shm",
                           ".new-journal", ".sidecar", ".sidecar.new", ".ballast"}) {
    clear_the_way(path + tail, logger);
  }
  // The database itself may be a link to another disk.
  if (file_exists(path) && !is_regular_file(path)) clear_the_way(path, logger);
  WS_ASSIGN(FilesFound found, examine_files(options));
  if (!found.sidecar_error.empty()) {
    logger.warning(cat(sidecar_path(path), ": ", found.sidecar_error));
  }
  if (found.foreign_wal) {
    const std::string aside = cat(path, "-wal.foreign-", std::int64_t{*found.foreign_wal});
    WS_TRY(rename_file(path + "-wal", aside));
    if (!found.wal_gone.empty()) {
      found.wal_gone = cat("the WAL was of another database, and is set aside as ", aside);
    }
  }
  return found;
}

Status renew_database(const EngineOptions& options, const std::string& why,
                      const std::optional<Sidecar>& sidecar, const Clock& clock, Logger& logger) {
  const std::string& path = options.path;
  if (!options.damage.empty() && !file_exists(path) && !sidecar && damaged_files(path).empty()) {
    return fail(ErrorCode::io, cat(path, " and all beside it is gone"),
                "is the disk mounted? It is tried again");
  }
  const auto others = damaged_files(path);
  std::string damaged = others.empty() ? "" : others.back();
  // A WAL that was left alone has records, too. SQLite would remove it beside a database without
  // bytes, and reads it beside one of a page, whatever that page holds.
  const bool wal_alone = would_lose_wal(path) && !is_wal_of(damaged, path + "-wal");
  if (wal_alone) WS_TRY(write_file_synced(path, std::string(4096, '\0')));
  if (file_exists(path)) {  // also when its size cannot be told, or it is no file at all
    const std::string base = path.substr(path.rfind('/') + 1);
    const std::int64_t last =
        damaged.empty() ? 0 : damaged_number(damaged.substr(damaged.rfind('/') + 1), base);
    damaged = cat(path, ".damaged-", last + 1);
    WS_TRY(rename_file(path, damaged));
  }
  // Also what a cut left here of the renaming before.
  if (!damaged.empty() && file_exists(path + "-wal") && !file_exists(damaged + "-wal")) {
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
  WS_TRY(build_fresh_database(options, fresh, damaged, why, sidecar, clock, logger));
  return rename_file(fresh, path);
}

}  // namespace wayside
