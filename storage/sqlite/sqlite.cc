#include "storage/sqlite/sqlite.h"

#include <sqlite3.h>

#include <chrono>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/record.h"

namespace wayside {
namespace {

constexpr const char* kDamagedHint =
    "a running gateway sets the file aside when it, or 'wayside read', comes upon it; with the "
    "gateway stopped: wayside repair";
constexpr const char* kWalAloneHint =
    "start the gateway, or with it stopped: wayside repair. It sets both aside, and what the WAL "
    "holds comes back. Do not open it with sqlite3, which would remove the WAL";

Error error_of(sqlite3* db, int rc, std::string_view doing) {
  ErrorCode code = ErrorCode::io;
  std::string hint;
  switch (rc & 0xFF) {
    case SQLITE_FULL:
      code = ErrorCode::no_space;
      hint = "free some space, or lower retention or storage.budget";
      break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      code = ErrorCode::busy;
      hint = "another program holds the database's lock; end its transaction";
      break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT:  // nothing of ours is there twice: a table and its index differ
      code = ErrorCode::corrupt;
      hint = kDamagedHint;
      break;
    case SQLITE_IOERR:
      // What the disk does not give back is damaged like what it gives back wrong.
      if (rc == SQLITE_IOERR_READ || rc == SQLITE_IOERR_CORRUPTFS || rc == SQLITE_IOERR_DATA) {
        code = ErrorCode::corrupt;
        hint = kDamagedHint;
      }
      break;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      hint = "check that the directory exists and that this user may write to it";
      break;
    case SQLITE_INTERRUPT:
      code = ErrorCode::timeout;
      hint = "ask for less, for example a range of seq or a LIMIT";
      break;
    case SQLITE_AUTH:
    case SQLITE_ERROR:
      code = ErrorCode::invalid_argument;
      break;
    case SQLITE_TOOBIG:
      code = ErrorCode::refused;
      hint = cat("one value of it is too large; it has up to ",
                 format_bytes(limits::kQueryValueBytesMax));
      break;
    case SQLITE_NOMEM:
      code = ErrorCode::refused;
      hint = cat("it needs more than the ", format_bytes(limits::kQueryHeapBytesMax),
                 " of memory it may have: ask for less, for example with LIMIT");
      break;
    default:
      break;
  }
  const char* words = db != nullptr ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
  if (std::string_view(words).starts_with("not authorized")) {
    hint = "a query only reads; of functions it may use those of SQL, dates, JSON and mathematics";
  }
  if (std::string_view(words).find("pattern too complex") != std::string_view::npos) {
    hint = cat("a pattern of LIKE or GLOB has up to ", limits::kQueryPatternBytesMax, " bytes");
  }
  return Error{code, cat(doing, ": ", words, " (SQLite ", rc, ")"), std::move(hint),
               code == ErrorCode::corrupt};
}

tl::unexpected<Error> failed(sqlite3* db, int rc, std::string_view doing) {
  return tl::unexpected<Error>(error_of(db, rc, doing));
}

std::int64_t steady_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

// Functions of SQL, of dates, of JSON, of mathematics, aggregates and windows; and ours. A list of
// what may, not of what may not: others read files, load code, or give away addresses.
bool only_computes(std::string_view function) {
  static constexpr std::string_view kAllowed =
      " -> ->> _ws_cbor_json abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char"
      " coalesce concat concat_ws cos cosh count cume_dist current_date current_time"
      " current_timestamp date datetime degrees dense_rank exp first_value floor format glob"
      " group_concat headers_json hex if ifnull iif instr json json_array json_array_length"
      " json_each"
      " json_error_position json_extract json_group_array json_group_object json_insert json_object"
      " json_patch json_pretty json_quote json_remove json_replace json_set json_type json_valid"
      " julianday lag last_value lead length like likelihood likely ln log log10 log2 lower ltrim"
      " max median min mod nth_value ntile nullif octet_length percent_rank percentile pi pow power"
      " printf quote radians random randomblob rank replace round row_number rtrim sign sin sinh"
      " soundex sqlite_version sqrt strftime string_agg substr substring sum tan tanh time timediff"
      " total trim trunc typeof unhex unicode unixepoch unlikely upper zeroblob ";
  const std::string padded = cat(" ", function, " ");
  return function.find(' ') == std::string_view::npos &&
         kAllowed.find(padded) != std::string_view::npos;
}

// A URI path: everything that is special in a URI is escaped.
std::string uri_of(const std::string& path) {
  std::string out = "file:";
  for (const char c : path) {
    if (c == '%' || c == '?' || c == '#') {
      out += c == '%' ? "%25" : c == '?' ? "%3f" : "%23";
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* s) const {
  sqlite3_finalize(s);
}
void Database::Close::operator()(sqlite3* db) const {
  sqlite3_close_v2(db);
}

Statement& Statement::bind(int at, std::int64_t value) {
  WS_CHECK(sqlite3_bind_int64(stmt_.get(), at, value) == SQLITE_OK);
  return *this;
}
Statement& Statement::bind_text(int at, std::string_view value) {
  // A view of nothing may have no address, which SQLite would read as NULL.
  const char* p = value.data() != nullptr ? value.data() : "";
  WS_CHECK(sqlite3_bind_text64(stmt_.get(), at, p, value.size(), SQLITE_STATIC, SQLITE_UTF8) ==
           SQLITE_OK);
  return *this;
}
Statement& Statement::bind_blob(int at, std::string_view value) {
  const char* p = value.data() != nullptr ? value.data() : "";
  WS_CHECK(sqlite3_bind_blob64(stmt_.get(), at, p, value.size(), SQLITE_STATIC) == SQLITE_OK);
  return *this;
}
Statement& Statement::bind_null(int at) {
  WS_CHECK(sqlite3_bind_null(stmt_.get(), at) == SQLITE_OK);
  return *this;
}
Statement& Statement::bind_bytes(int at, const std::optional<std::string>& value) {
  if (!value) return bind_null(at);
  return is_mqtt_utf8(*value) ? bind_text(at, *value) : bind_blob(at, *value);
}
Statement& Statement::bind_column(int at, const Statement& from, int column) {
  WS_CHECK(sqlite3_bind_value(stmt_.get(), at, sqlite3_column_value(from.stmt_.get(), column)) ==
           SQLITE_OK);
  return *this;
}

Result<bool> Statement::step() {
  const int rc = sqlite3_step(stmt_.get());
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) {
    sqlite3_reset(stmt_.get());
    return false;
  }
  sqlite3* db = sqlite3_db_handle(stmt_.get());
  auto error = failed(db, sqlite3_extended_errcode(db), "the database");
  sqlite3_reset(stmt_.get());
  return error;
}

Status Statement::run() {
  WS_ASSIGN(const bool row, step());
  if (row) reset();
  return {};
}

void Statement::reset() {
  sqlite3_reset(stmt_.get());
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(stmt_.get(), column);
}
std::string_view Statement::bytes(int column) const {
  const void* p = sqlite3_column_blob(stmt_.get(), column);
  const int n = sqlite3_column_bytes(stmt_.get(), column);
  if (p == nullptr) return {};
  return {static_cast<const char*>(p), static_cast<std::size_t>(n)};
}
bool Statement::is_null(int column) const {
  return sqlite3_column_type(stmt_.get(), column) == SQLITE_NULL;
}
bool Statement::is_number(int column) const {
  const int type = sqlite3_column_type(stmt_.get(), column);
  return type == SQLITE_INTEGER || type == SQLITE_FLOAT;
}
std::optional<std::string> Statement::optional_bytes(int column) const {
  if (is_null(column)) return std::nullopt;
  return std::string(bytes(column));
}
int Statement::columns() const {
  return sqlite3_column_count(stmt_.get());
}
tl::unexpected<Error> fail_damaged(std::string what) {
  return tl::unexpected<Error>(Error{ErrorCode::corrupt, std::move(what), kDamagedHint, true});
}

std::string Statement::column_name(int column) const {
  const char* name = sqlite3_column_name(stmt_.get(), column);
  return name == nullptr ? "" : name;  // without memory there is none
}
Result<Database> Database::open(const std::string& path, OpenMode mode, const std::string& vfs) {
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  flags |= mode == OpenMode::read_write_create ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
                                               : SQLITE_OPEN_READONLY;
  if (mode != OpenMode::immutable && vfs.empty() && would_lose_wal(path)) {
    return fail(ErrorCode::corrupt,
                cat(path, " has no bytes, and its WAL holds records; nothing of it was touched"),
                kWalAloneHint);
  }
  // SQLite would make a WAL that is not there.
  if (mode == OpenMode::untouched && file_size(path + "-wal") == 0) mode = OpenMode::immutable;
  std::string name = path, use_vfs = vfs;
  if (mode == OpenMode::immutable) name = uri_of(path) + "?immutable=1", flags |= SQLITE_OPEN_URI;
  const bool untouched = mode == OpenMode::untouched;
  if (untouched) use_vfs = "unix-none";  // no locks
  sqlite3* raw = nullptr;
  const int rc =
      sqlite3_open_v2(name.c_str(), &raw, flags, use_vfs.empty() ? nullptr : use_vfs.c_str());
  Database db;
  db.db_.reset(raw);
  if (rc != SQLITE_OK) return failed(raw, rc, cat("opening ", path));
  if (untouched) {
    // The index of the WAL is kept in memory, and the WAL is not copied at the end.
    sqlite3_db_config(raw, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    WS_TRY(db.exec("PRAGMA locking_mode=EXCLUSIVE"));
  }
  return db;
}

// SQLite takes a file of one byte for an empty one, too.
bool would_lose_wal(const std::string& path) {
  return file_size(path) <= 1 && file_size(path + "-wal") > 0;
}

Status Database::exec(const std::string& sql) {
  const int rc = sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) {
    return failed(db_.get(), sqlite3_extended_errcode(db_.get()),
                  std::string_view(sql).substr(0, 60));
  }
  return {};
}

Result<Statement> Database::prepare(std::string_view sql, bool kept) {
  Statement s;
  sqlite3_stmt* raw = nullptr;
  const char* tail = nullptr;
  const int rc = sqlite3_prepare_v3(db_.get(), sql.data(), static_cast<int>(sql.size()),
                                    kept ? SQLITE_PREPARE_PERSISTENT : 0U, &raw, &tail);
  if (rc != SQLITE_OK) return failed(db_.get(), rc, sql.substr(0, 60));
  if (raw == nullptr) return fail(ErrorCode::invalid_argument, "there is no SQL statement");
  s.stmt_.reset(raw);
  const std::string_view rest = sql.substr(static_cast<std::size_t>(tail - sql.data()));
  if (rest.find_first_not_of(" \t\r\n;") != std::string_view::npos) {
    return fail(ErrorCode::invalid_argument, "there is more than one SQL statement",
                "give them one by one");
  }
  return s;
}

Result<std::int64_t> Database::number(std::string_view sql, std::int64_t missing) {
  WS_ASSIGN(Statement s, prepare(sql));
  WS_ASSIGN(const bool row, s.step());
  return row && !s.is_null(0) ? s.integer(0) : missing;
}

bool Database::in_transaction() const {
  return sqlite3_get_autocommit(db_.get()) == 0;
}
std::int64_t Database::changes() const {
  return sqlite3_changes64(db_.get());
}

void Database::stop_after(std::int64_t ms) {
  deadline_ms_ = std::make_unique<std::int64_t>(steady_ms() + ms);
  sqlite3_progress_handler(
      db_.get(), 1000,
      [](void* deadline) noexcept {
        return steady_ms() > *static_cast<std::int64_t*>(deadline) ? 1 : 0;
      },
      deadline_ms_.get());
}

namespace {

// A function of one argument; where `Convert` gives nothing, its argument is its result.
template <std::optional<std::string> (*Convert)(std::string_view)>
void convert(sqlite3_context* context, int, sqlite3_value** arguments) noexcept {
  const auto* bytes = static_cast<const char*>(sqlite3_value_blob(arguments[0]));
  const auto size = static_cast<std::size_t>(sqlite3_value_bytes(arguments[0]));
  try {
    const auto text = Convert({bytes == nullptr ? "" : bytes, size});
    if (!text) return sqlite3_result_value(context, arguments[0]);
    sqlite3_result_text(context, text->data(), static_cast<int>(text->size()), SQLITE_TRANSIENT);
  } catch (const std::exception&) {
    sqlite3_result_error_nomem(context);
  }
}

std::optional<std::string> json_of_cbor(std::string_view bytes) {
  const auto tree = Json::parse_cbor(bytes);
  return tree ? std::optional(tree->dump()) : std::nullopt;
}

std::optional<std::string> json_of_headers(std::string_view bytes) {
  return headers_json(bytes);
}

}  // namespace

void Database::add_cbor_function(const char* name) {
  sqlite3_create_function(db_.get(), name, 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, nullptr,
                          convert<json_of_cbor>, nullptr, nullptr);
}

void Database::add_headers_function() {
  sqlite3_create_function(db_.get(), "headers_json", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, nullptr,
                          convert<json_of_headers>, nullptr, nullptr);
}

void Database::limit_memory(std::int64_t bytes) {
  sqlite3_hard_heap_limit64(bytes);
}

Status Database::memory_status() const {
  if ((sqlite3_errcode(db_.get()) & 0xFF) != SQLITE_NOMEM) return {};
  return failed(db_.get(), SQLITE_NOMEM, "the database");
}

void Database::forbid_changes() {
  sqlite3_limit(db_.get(), SQLITE_LIMIT_LENGTH, limits::kQueryValueBytesMax);
  sqlite3_limit(db_.get(), SQLITE_LIMIT_LIKE_PATTERN_LENGTH, limits::kQueryPatternBytesMax);
  sqlite3_set_authorizer(
      db_.get(),
      [](void*, int action, const char* name, const char* value, const char*,
         const char*) noexcept {
        switch (action) {
          case SQLITE_SELECT:
          case SQLITE_READ:
          case SQLITE_RECURSIVE:
            return SQLITE_OK;
          case SQLITE_FUNCTION:
            return value != nullptr && only_computes(value) ? SQLITE_OK : SQLITE_DENY;
          case SQLITE_PRAGMA: {
            // Pragmas that only tell.
            const std::string_view pragma = name != nullptr ? name : "";
            const bool tells = pragma == "table_info" || pragma == "table_xinfo" ||
                               pragma == "table_list" || pragma == "index_list";
            return tells || (value == nullptr && pragma == "user_version") ? SQLITE_OK
                                                                           : SQLITE_DENY;
          }
          default:
            return SQLITE_DENY;
        }
      },
      nullptr);
}

std::string quoted_identifier(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) out.append(c == '"' ? 2 : 1, c);
  return out + '"';
}

std::string quoted_text(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out.append(c == '\'' ? 2 : 1, c);
  return out + '\'';
}

}  // namespace wayside
