#include "storage/views.h"

#include <strings.h>

#include <algorithm>
#include <array>

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/reader.h"
#include "storage/schema.h"
#include "storage/transaction.h"

namespace wayside {
namespace {

// Columns that every topic's view has.
constexpr std::array<std::string_view, 9> kBuiltIn = {
    "partition", "offset", "time", "timestamp", "append_ms", "key", "value", "headers", "seq"};

bool same_name(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0;
}

Status replace_view(Database& db, const std::string& name, const std::string& select) {
  WS_TRY(db.exec("DROP VIEW IF EXISTS " + quoted_identifier(name)));
  return db.exec(cat("CREATE VIEW ", quoted_identifier(name), " AS ", select));
}

// Adds the fields of the newest readings of these partitions in a segment.
Status add_fields(Database& db, const std::string& table, const std::string& tps,
                  std::vector<std::string>& columns) {
  WS_ASSIGN(Statement s,
            db.prepare(cat("SELECT DISTINCT j.key FROM (SELECT value FROM ", table,
                           " WHERE +tp IN (", tps,
                           ") AND typeof(value) = 'text' ORDER BY seq DESC LIMIT 100) r,"
                           " json_each(CASE WHEN json_valid(r.value) THEN r.value ELSE '{}' END) j"
                           " WHERE typeof(j.key) = 'text'")));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return {};
    const std::string field(s.bytes(0));
    const bool known = std::any_of(columns.begin(), columns.end(),
                                   [&](const auto& c) { return same_name(c, field); });
    if (!known && can_be_learnt(field) && columns.size() < limits::kLearntColumnsMax) {
      columns.push_back(field);
    }
  }
}

}  // namespace

bool can_be_learnt(std::string_view field) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !field.empty() && field.size() <= 64 && letter(field.front()) &&
         std::all_of(field.begin(), field.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9'); }) &&
         std::none_of(kBuiltIn.begin(), kBuiltIn.end(),
                      [&](std::string_view b) { return same_name(b, field); });
}

Status write_chain_view(Database& db, ChainId chain) {
  std::string select;
  WS_ASSIGN(Statement s,
            db.prepare("SELECT segment FROM _ws_segments WHERE chain=?1 ORDER BY segment"));
  s.bind(1, chain.value);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    if (!select.empty()) select += " UNION ALL ";
    select += "SELECT * FROM " + segment_table(chain, s.integer(0));
  }
  return replace_view(db, chain_view(chain), select);
}

// What a topic's view selects; `value` is what stands for the value.
std::string topic_select(const Topic& topic, const std::vector<std::string>& columns,
                         const std::string& value) {
  std::string partition = "CASE tp", tps;
  for (const Partition& p : topic.partitions) {
    partition += cat(" WHEN ", p.tp.value, " THEN ", p.partition);
    tps += cat(tps.empty() ? "" : ",", p.tp.value);
  }
  std::string select = cat("SELECT ", partition,
                           " END AS \"partition\", \"offset\","
                           " strftime('%Y-%m-%dT%H:%M:%fZ', ts/1000.0, 'unixepoch') AS \"time\","
                           " ts AS \"timestamp\", append_ms, key, ",
                           value == "value" ? "value" : value + " AS value");
  std::vector<std::string> shown;
  for (const std::string& c : columns) {
    const bool taken =
        std::any_of(shown.begin(), shown.end(), [&](const auto& s) { return same_name(s, c); }) ||
        std::any_of(kBuiltIn.begin(), kBuiltIn.end(), [&](auto b) { return same_name(b, c); });
    if (taken || c.find('"') != std::string::npos) continue;
    shown.push_back(c);
    // One value that is not JSON must not fail a query: SQLite's JSON functions refuse BLOBs and
    // broken text, so they are asked only about text that is valid.
    select +=
        cat(", CASE WHEN typeof(", value, ") = 'text' THEN CASE WHEN json_valid(", value, ") THEN ",
            value, " ->> ", quoted_text("$.\"" + c + "\""), " END END AS ", quoted_identifier(c));
  }
  return cat(select, ", headers, seq FROM ", chain_view(topic.chain), " WHERE tp IN (", tps, ")");
}

Status write_topic_view(Database& db, const Topic& topic) {
  return replace_view(
      db, topic.name,
      topic_select(topic, topic.columns ? *topic.columns : topic.learnt_columns, "value"));
}

// Of the newest records, as the columns of JSON are learnt.
Result<std::vector<std::string>> LogReader::cbor_columns(const Topic& topic) {
  std::vector<std::string> columns;
  std::string tps;
  for (const Partition& p : topic.partitions) tps += cat(tps.empty() ? "" : ",", p.tp.value);
  WS_ASSIGN(const auto all, segments(topic.chain, Seq(0)));
  const std::size_t looked_at = std::min<std::size_t>(all.size(), 2);  // as for JSON
  for (auto g = all.rbegin(); g != all.rbegin() + static_cast<std::ptrdiff_t>(looked_at); ++g) {
    WS_ASSIGN(Statement s,
              db_.prepare(cat("SELECT value FROM ", segment_table(topic.chain, g->segment),
                              " WHERE +tp IN (", tps, ") AND attrs & ", static_cast<int>(kCbor),
                              " ORDER BY seq DESC LIMIT 100")));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      const auto tree = Json::parse_cbor(s.bytes(0));
      const auto* object = tree ? std::get_if<Json::Object>(&tree->value) : nullptr;
      for (const auto& member : object == nullptr ? Json::Object{} : *object) {
        const std::string& name = member.first;
        const bool known = std::any_of(columns.begin(), columns.end(),
                                       [&](const auto& c) { return same_name(c, name); });
        if (!known && can_be_learnt(name) && columns.size() < limits::kLearntColumnsMax) {
          columns.push_back(name);
        }
      }
    }
  }
  return columns;
}

// A temporary view of the topic's name, which this connection finds first.
Status LogReader::show_cbor(const Topic& topic) {
  WS_ASSIGN(const auto learnt, cbor_columns(topic));
  db_.add_cbor_function("_ws_cbor_json");
  const std::string value = cat("CASE WHEN attrs & ", static_cast<int>(kCbor),
                                " THEN _ws_cbor_json(value) ELSE value END");
  return db_.exec(cat("CREATE TEMP VIEW ", quoted_identifier(topic.name), " AS ",
                      topic_select(topic, topic.columns ? *topic.columns : learnt, value)));
}

Result<bool> Engine::refresh_views() {
  upkeep_.views_stale = false;
  const auto status = transaction([&]() -> Status {
    for (const Chain& c : chains_) WS_TRY(write_chain_view(db_, c.id));
    // A topic's view names its chain's, so a roll does not change it.
    if (!upkeep_.topic_views_stale) return {};
    for (const Topic& t : catalog_.topics()) WS_TRY(write_topic_view(db_, t));
    return {};
  });
  if (status) upkeep_.topic_views_stale = false;
  if (!status) {
    upkeep_.views_stale = true;  // tried again with the next round of maintenance, not in a loop
    upkeep_.views_not_before_ms = clock_.steady_ms() + 1000;
    logger_.repeated(LogLevel::warning, "views",
                     cat("the views for sqlite3 could not be renewed: ", status.error().text()));
  }
  return true;
}

// Columns are learnt from the newest readings of a topic, when its number of records has grown
// fourfold since the last time.
Result<bool> Engine::learn_columns() {
  for (const Topic& t : catalog_.topics()) {
    if (t.columns || t.learnt_columns.size() >= limits::kLearntColumnsMax) continue;
    std::int64_t records = 0;
    std::string tps;
    for (const Partition& p : t.partitions) {
      records += next_offset(p.tp).value;
      tps += cat(tps.empty() ? "" : ",", p.tp.value);
    }
    std::int64_t& at = upkeep_.learn_at.try_emplace(t.id, 1).first->second;
    if (records < at) continue;
    at = records * 4;
    const auto chain = std::find_if(chains_.begin(), chains_.end(),
                                    [&](const Chain& c) { return c.id == t.chain; });
    std::vector<std::string> columns = t.learnt_columns;
    WS_TRY(add_fields(db_, segment_table(chain->id, chain->segment), tps, columns));
    if (columns.empty() && !chain->closed.empty()) {  // it has just been rolled
      WS_TRY(add_fields(db_, segment_table(chain->id, chain->closed.back().segment), tps, columns));
    }
    if (columns == t.learnt_columns) continue;
    Topic learnt = t;
    learnt.learnt_columns = columns;
    WS_TRY(transaction([&]() -> Status {
      WS_ASSIGN(Statement s,
                db_.prepare("UPDATE _ws_topics SET learnt_columns=?2 WHERE topic_id=?1"));
      const std::string json = json_array(columns);
      WS_TRY(s.bind(1, t.id.value).bind_text(2, json).run());
      return write_topic_view(db_, learnt);
    }));
    WS_ASSIGN(catalog_, Catalog::load(db_));
    return true;
  }
  return false;
}

}  // namespace wayside
