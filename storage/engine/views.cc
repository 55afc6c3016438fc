#include "storage/engine/views.h"

#include <strings.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/transaction.h"
#include "storage/reader.h"
#include "storage/sqlite/schema.h"

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

// In how many readings of a sample each field stands; in the order of their appearance.
class FieldCounts {
 public:
  void add(std::string_view field, std::int64_t readings) {
    if (!can_be_learnt(field)) return;
    const auto it = find(field);
    if (it != fields_.end()) {
      it->readings += readings;
    } else if (fields_.size() < kFieldsMost) {
      fields_.push_back({std::string(field), readings});
    }
  }
  [[nodiscard]] bool empty() const { return fields_.empty(); }

  // The columns there are, and those that more readings have. One makes room for another that
  // stands in more readings, so what a stranger sent first, or for a while, does not stay.
  [[nodiscard]] std::vector<std::string> columns(std::vector<std::string> known) const {
    const auto readings = [&](const std::string& c) {
      const auto it = std::find_if(fields_.begin(), fields_.end(),
                                   [&](const Field& f) { return same_name(f.name, c); });
      return it == fields_.end() ? 0 : it->readings;
    };
    std::vector<Field> best = fields_;
    std::stable_sort(best.begin(), best.end(),
                     [](const Field& a, const Field& b) { return a.readings > b.readings; });
    for (const Field& f : best) {
      const bool there = std::any_of(known.begin(), known.end(),
                                     [&](const std::string& c) { return same_name(c, f.name); });
      if (there) continue;
      if (known.size() < limits::kLearntColumnsMax) {
        known.push_back(f.name);
        continue;
      }
      const auto rarest = std::min_element(
          known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
            return readings(a) < readings(b);
          });
      if (readings(*rarest) >= f.readings) break;
      *rarest = f.name;
    }
    return known;
  }

 private:
  static constexpr std::size_t kFieldsMost = 1000;
  struct Field {
    std::string name;
    std::int64_t readings;
  };
  std::vector<Field>::iterator find(std::string_view name) {
    return std::find_if(fields_.begin(), fields_.end(),
                        [&](const Field& f) { return same_name(f.name, name); });
  }
  std::vector<Field> fields_;
};

// The fields of the newest readings of these partitions in a segment. Large readings are left out:
// a sample must cost little.
Status count_fields(Database& db, const std::string& table, const std::string& tps,
                    FieldCounts& fields) {
  WS_ASSIGN(Statement s,
            db.prepare(cat("SELECT j.key, count(DISTINCT r.seq) FROM (SELECT seq, value FROM ",
                           table, " WHERE +tp IN (", tps,
                           ") AND typeof(value) = 'text' AND length(value) <= 16384"
                           " ORDER BY seq DESC LIMIT 100) r,"
                           " json_each(CASE WHEN json_valid(r.value) THEN r.value ELSE '{}' END) j"
                           " WHERE typeof(j.key) = 'text' GROUP BY j.key ORDER BY 2 DESC, min(j.id)"
                           " LIMIT 1000")));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return {};
    fields.add(s.bytes(0), s.integer(1));
  }
}

// The columns that the newest readings of a topic give, beside those it has.
Result<std::vector<std::string>> sampled_columns(Database& db, const engine_state::Chain& chain,
                                                 const Topic& topic,
                                                 std::vector<std::string> known) {
  std::string tps;
  for (const Partition& p : topic.partitions) tps += cat(tps.empty() ? "" : ",", p.tp.value);
  FieldCounts fields;
  WS_TRY(count_fields(db, segment_table(chain.id, chain.segment), tps, fields));
  if (fields.empty() && !chain.closed.empty()) {  // it has just been rolled
    WS_TRY(count_fields(db, segment_table(chain.id, chain.closed.back().segment), tps, fields));
  }
  return fields.columns(std::move(known));
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
  FieldCounts fields;
  std::string tps;
  for (const Partition& p : topic.partitions) tps += cat(tps.empty() ? "" : ",", p.tp.value);
  WS_ASSIGN(const auto all, segments(topic.chain, Seq(0)));
  const std::size_t looked_at = std::min<std::size_t>(all.size(), 2);  // as for JSON
  for (auto g = all.rbegin(); g != all.rbegin() + static_cast<std::ptrdiff_t>(looked_at); ++g) {
    WS_ASSIGN(Statement s,
              db_.prepare(cat("SELECT value FROM ", segment_table(topic.chain, g->segment),
                              " WHERE +tp IN (", tps, ") AND attrs & ", static_cast<int>(kCbor),
                              " AND length(value) <= 16384 ORDER BY seq DESC LIMIT 100")));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      const auto tree = Json::parse_cbor(s.bytes(0));
      const auto* object = tree ? std::get_if<Json::Object>(&tree->value) : nullptr;
      if (object == nullptr) continue;
      std::set<std::string> names;  // each once, however often it stands there
      for (const auto& member : *object) {
        if (names.insert(member.first).second) fields.add(member.first, 1);
      }
    }
  }
  return fields.columns({});
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
// fourfold since the last time, or by some thousands.
Result<bool> Engine::learn_columns() {
  for (const Topic& t : catalog_.topics()) {
    if (t.columns) continue;
    std::int64_t records = 0;
    for (const Partition& p : t.partitions) records += next_offset(p.tp).value;
    std::int64_t& at = upkeep_.learn_at.try_emplace(t.id, 1).first->second;
    if (records < at) continue;
    at = std::min(records * 4, records + limits::kLearnAgainRecords);
    WS_ASSIGN(const bool changed, learn_columns(t, t.learnt_columns));
    if (changed) return true;
  }
  return false;
}

// When they differ the catalog is another one.
Result<bool> Engine::learn_columns(const Topic& topic, std::vector<std::string> known) {
  const auto chain = std::find_if(chains_.begin(), chains_.end(),
                                  [&](const Chain& c) { return c.id == topic.chain; });
  WS_ASSIGN(const auto columns, sampled_columns(db_, *chain, topic, std::move(known)));
  if (columns == topic.learnt_columns) return false;
  Topic learnt = topic;
  learnt.learnt_columns = columns;
  WS_TRY(transaction([&]() -> Status {
    WS_ASSIGN(Statement s,
              db_.prepare("UPDATE _ws_topics SET learnt_columns=?2 WHERE topic_id=?1"));
    const std::string json = json_array(columns);
    WS_TRY(s.bind(1, learnt.id.value).bind_text(2, json).run());
    return write_topic_view(db_, learnt);
  }));
  WS_ASSIGN(catalog_, Catalog::load(db_));
  return true;
}

}  // namespace wayside
