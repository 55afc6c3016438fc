// SQLite behind two small classes; sqlite.cc alone includes sqlite3.h. Everything SQLite answers
// becomes an Error with its extended code. Thread: one owner at a time (opened without mutexes).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace wayside {

// An error that says that the log's file is damaged.
[[nodiscard]] tl::unexpected<Error> fail_damaged(std::string what);

class Statement {
 public:
  Statement() = default;

  // Parameters are numbered from 1. Bound bytes are not copied: they must live until the step.
  Statement& bind(int at, std::int64_t value);
  Statement& bind_text(int at, std::string_view value);
  Statement& bind_blob(int at, std::string_view value);
  Statement& bind_null(int at);
  // TEXT when it is UTF-8 without U+0000, else BLOB; NULL when there is none.
  Statement& bind_bytes(int at, const std::optional<std::string>& value);
  // A column of another statement's row, whatever its type.
  Statement& bind_column(int at, const Statement& from, int column);

  // True: a row stands ready. False: done (and reset).
  [[nodiscard]] Result<bool> step();
  // Steps a statement that returns no rows, and resets it.
  [[nodiscard]] Status run();
  void reset();

  [[nodiscard]] std::int64_t integer(int column) const;
  [[nodiscard]] std::string_view bytes(int column) const;  // valid until the next step
  [[nodiscard]] bool is_null(int column) const;
  [[nodiscard]] bool is_number(int column) const;
  [[nodiscard]] std::optional<std::string> optional_bytes(int column) const;
  [[nodiscard]] int columns() const;
  [[nodiscard]] std::string column_name(int column) const;
  [[nodiscard]] bool valid() const { return stmt_ != nullptr; }

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* s) const;
  };
  std::unique_ptr<sqlite3_stmt, Finalize> stmt_;
};

enum class OpenMode {
  read_write_create,
  read_only,
  immutable,  // read-only, believing that nobody writes: only without a -wal
  untouched,  // the same with a -wal: both are read, and no file is made, changed or locked
};

class Database {
 public:
  // `vfs` names a VFS for tests; empty is the system's. Refused (corrupt) beside a WAL that SQLite
  // would remove: that of a database without bytes.
  [[nodiscard]] static Result<Database> open(const std::string& path, OpenMode mode,
                                             const std::string& vfs = {});
  [[nodiscard]] Status exec(const std::string& sql);
  [[nodiscard]] Result<Statement> prepare(std::string_view sql, bool kept = false);
  // The first column of the first row, as a number; `missing` when there is no row.
  [[nodiscard]] Result<std::int64_t> number(std::string_view sql, std::int64_t missing = 0);
  [[nodiscard]] bool in_transaction() const;
  [[nodiscard]] std::int64_t changes() const;
  // Makes every statement fail with `timeout` after `ms` from now.
  void stop_after(std::int64_t ms);
  // An SQL function of this connection: CBOR as JSON text; what is no CBOR as it is.
  void add_cbor_function(const char* name);
  // headers_json(headers): a record's headers as a JSON object.
  void add_headers_function();
  // Refuses everything but reading this database, with functions that only compute (for SQL that a
  // person typed).
  void forbid_changes();
  // All of SQLite's memory in this program, from now on.
  static void limit_memory(std::int64_t bytes);
  // An error when memory was short since the last step: then a value that was read may be missing.
  [[nodiscard]] Status memory_status() const;

 private:
  struct Close {
    void operator()(sqlite3* db) const;
  };
  std::unique_ptr<sqlite3, Close> db_;
  std::unique_ptr<std::int64_t> deadline_ms_;
};

// Whether SQLite would remove the WAL beside this database, unread, when it opens it.
[[nodiscard]] bool would_lose_wal(const std::string& path);
// `name` as an SQL identifier.
[[nodiscard]] std::string quoted_identifier(std::string_view name);
// `text` as an SQL string literal.
[[nodiscard]] std::string quoted_text(std::string_view text);

}  // namespace wayside
