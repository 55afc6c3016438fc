#include <algorithm>
#include <cstdio>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/csv.h"
#include "gateway/verbs.h"

namespace wayside {
namespace {

std::string cell_json(const Statement& s, int c) {
  if (s.is_null(c)) return "null";
  if (s.is_number(c)) return std::string(s.bytes(c));
  std::string out;
  append_json_bytes(out, s.bytes(c));
  return out;
}

Status query(const QueryArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  Database& db = log.reader.database();
  db.stop_after(args.timeout_ms);
  for (const Topic& t : log.catalog.topics()) {
    const auto& routes = log.plan.routes;
    const bool cbor = std::any_of(routes.begin(), routes.end(), [&](const Route& r) {
      return r.payload == PayloadKind::cbor && r.topic == t.name;
    });
    if (cbor) WS_TRY(log.reader.show_cbor(t));
  }
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
  Table table(names);
  // Printed when the snapshot has ended: a reader that pauses (less) must not pin it.
  std::string out = args.format == Format::csv ? csv_line(names) + "\n" : "";
  std::size_t rows = 0;
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    if (++rows > limits::kQueryRowsMax) {
      return fail(ErrorCode::refused, cat("more than ", limits::kQueryRowsMax, " rows"),
                  "ask for less, for example with LIMIT, or read the records with 'wayside read'");
    }
    std::vector<std::string> cells;
    std::string json = "{";
    for (int c = 0; c < s.columns(); ++c) {
      const std::string text(s.bytes(c));
      if (args.format == Format::json) {
        json += c == 0 ? "" : ",";
        append_json_string(json, names[static_cast<std::size_t>(c)]);
        json += ":" + cell_json(s, c);
      } else if (args.format == Format::csv) {
        cells.push_back(is_valid_utf8(text) ? text : base64(text));
      } else {
        cells.push_back(s.is_null(c) ? "-" : printable(text));
      }
    }
    if (args.format == Format::json) out += json + "}\n";
    if (args.format == Format::csv) out += csv_line(cells) + "\n";
    if (args.format == Format::table) table.add(std::move(cells));
  }
  s.reset();
  std::fputs(out.c_str(), stdout);
  if (args.format == Format::table) table.print();
  return {};
}

}  // namespace

int cmd_query(const QueryArgs& args) {
  const Status s = query(args);
  if (s) return kExitOk;
  Error e = s.error();
  if (e.code == ErrorCode::timeout) {
    e.what = cat("the query took longer than ", format_duration(args.timeout_ms));
    e.hint = "ask for less, for example WHERE seq > …, or raise --timeout";
  }
  return report(e);
}

}  // namespace wayside
