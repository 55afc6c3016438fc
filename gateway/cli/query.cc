// query: SQL that a person typed, or a program on the site. It may be any SQL, so what it takes is
// bounded: memory, time, output, and what it may do at all.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/cli/csv.h"
#include "gateway/cli/verbs.h"

namespace wayside {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

Error took_too_long(std::int64_t timeout_ms) {
  return {ErrorCode::timeout, cat("the query took longer than ", format_duration(timeout_ms)),
          "ask for less, for example WHERE seq > …, or raise --timeout"};
}

// SQLite looks at the time between two steps of its program, not within a function. A call that
// does not end ends with the whole program, which changes nothing and has printed nothing yet.
class LastDeadline {
 public:
  explicit LastDeadline(std::int64_t timeout_ms)
      : thread_([this, timeout_ms](std::stop_token stop) {
          std::unique_lock lock(mutex_);
          wake_.wait_for(lock, stop, milliseconds(timeout_ms) + kGrace, [] { return false; });
          if (stop.stop_requested()) return;
          report(took_too_long(timeout_ms));
          std::fflush(stderr);
          std::_Exit(kExitTimeout);
        }) {}

 private:
  static constexpr auto kGrace = milliseconds(1000);
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;
};

// The technician's query must not take the memory that the gateway needs.
void limit_memory() {
  Database::limit_memory(limits::kQueryHeapBytesMax);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  rlimit most{};
  if (::getrlimit(RLIMIT_DATA, &most) != 0) return;
  most.rlim_cur = std::min(static_cast<rlim_t>(limits::kQueryDataBytesMax), most.rlim_max);
  ::setrlimit(RLIMIT_DATA, &most);
#endif
}

std::string cell_json(const Statement& s, int c) {
  if (s.is_null(c)) return "null";
  if (s.is_number(c)) {  // JSON has no infinity; so SQLite's own functions write it
    const std::string_view text = s.bytes(c);
    return text == "Inf" ? "9e999" : text == "-Inf" ? "-9e999" : std::string(text);
  }
  std::string out;
  append_json_bytes(out, s.bytes(c));
  return out;
}

// The rows as they will be printed, within the bounds.
class Output {
 public:
  Output(const QueryArgs& args, std::vector<std::string> names)
      : args_(args), names_(std::move(names)), table_(names_) {
    if (args.format == Format::csv) text_ = csv_line(names_) + "\n";
  }

  Status add(const Statement& s) {
    std::vector<std::string> cells;
    std::string json = "{";
    std::size_t bytes = 0;
    for (int c = 0; c < s.columns(); ++c) {
      if (args_.format == Format::json) {
        json += c == 0 ? "" : ",";
        append_json_string(json, names_[static_cast<std::size_t>(c)]);
        json += ":" + cell_json(s, c);
        continue;
      }
      const std::string_view text = s.bytes(c);
      cells.push_back(args_.format == Format::csv
                          ? is_valid_utf8(text) ? std::string(text) : base64(text)
                      : s.is_null(c) ? "-"
                                     : printable(text));
      bytes += cells.back().size();
      // One row alone may have thousands of large columns.
      if (bytes > static_cast<std::size_t>(args_.output_bytes)) return too_much();
    }
    if (args_.format == Format::json) bytes = json.size();
    bytes_ += bytes;
    cells_ += args_.format == Format::table ? cells.size() : 0;
    if (bytes_ > static_cast<std::size_t>(args_.output_bytes)) return too_much();
    if (cells_ > limits::kQueryCellsMax) {
      return fail(ErrorCode::refused,
                  cat("more than ", limits::kQueryCellsMax, " cells of a table"),
                  "ask for less, for example with LIMIT, or take --json or --format csv");
    }
    if (args_.format == Format::json) text_ += json + "}\n";
    if (args_.format == Format::csv) text_ += csv_line(cells) + "\n";
    if (args_.format == Format::table) table_.add(std::move(cells));
    return {};
  }

  void print() const {
    std::fwrite(text_.data(), 1, text_.size(), stdout);
    if (args_.format == Format::table) table_.print();
  }

 private:
  [[nodiscard]] Status too_much() const {
    return fail(ErrorCode::refused,
                cat("more than --max-output = ", format_bytes(args_.output_bytes), " of output"),
                "ask for less, for example with LIMIT, raise --max-output, or read the records "
                "with 'wayside read'");
  }
  const QueryArgs& args_;
  const std::vector<std::string> names_;
  Table table_;
  std::string text_;
  std::size_t bytes_ = 0, cells_ = 0;
};

Status query(const QueryArgs& args) {
  const auto until = steady_clock::now() + milliseconds(args.timeout_ms);
  std::optional<LastDeadline> deadline;
  deadline.emplace(args.timeout_ms);
  limit_memory();
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  Database& db = log.reader.database();
  db.stop_after(args.timeout_ms);
  WS_TRY(db.exec("PRAGMA temp_store=MEMORY"));  // what is sorted is bounded, too, not the card's
  for (const Topic& t : log.catalog.topics()) {
    const auto& routes = log.plan.routes;
    const bool cbor = std::any_of(routes.begin(), routes.end(), [&](const Route& r) {
      return r.payload == PayloadKind::cbor && r.topic == t.name;
    });
    if (cbor) WS_TRY(log.reader.show_cbor(t));
  }
  db.add_headers_function();
  db.forbid_changes();
  auto prepared = db.prepare(args.sql);
  if (!prepared) {
    Error e = std::move(prepared).error();
    if (e.hint.empty()) {
      e.hint =
          "each topic is a view of its name; its columns are learnt within a second "
          "of its first readings. Try: SELECT name FROM sqlite_schema WHERE type='view'";
    }
    return tl::unexpected<Error>(std::move(e));
  }
  Statement& s = *prepared;
  std::vector<std::string> names;
  for (int c = 0; c < s.columns(); ++c) names.push_back(s.column_name(c));
  // Printed when the snapshot has ended: a reader that pauses (less) must not pin it.
  Output out(args, std::move(names));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    WS_TRY(out.add(s));
    WS_TRY(db.memory_status());
    if (steady_clock::now() > until) return tl::unexpected<Error>(took_too_long(args.timeout_ms));
  }
  s.reset();
  deadline.reset();  // what is printed is bounded, and waits for whoever reads it
  out.print();
  return {};
}

}  // namespace

int cmd_query(const QueryArgs& args) {
  try {
    const Status s = query(args);
    if (s) return kExitOk;
    return report(s.error().code == ErrorCode::timeout ? took_too_long(args.timeout_ms)
                                                       : s.error());
  } catch (const std::bad_alloc&) {
    return report({ErrorCode::refused,
                   cat("the query needs more than ", format_bytes(limits::kQueryDataBytesMax),
                       " of memory"),
                   "ask for less, for example with LIMIT"});
  }
}

}  // namespace wayside
