#include "storage/catalog.h"

#include <strings.h>

#include <algorithm>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

bool same_name(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0;
}

bool starts_with_nocase(std::string_view s, std::string_view prefix) {
  return s.size() >= prefix.size() && same_name(s.substr(0, prefix.size()), prefix);
}

Result<std::vector<std::string>> read_array(Database& db, std::string_view json) {
  std::vector<std::string> out;
  WS_ASSIGN(Statement s, db.prepare("SELECT value FROM json_each(?1)"));
  s.bind_text(1, json);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.emplace_back(s.bytes(0));
  }
}

}  // namespace

Result<Catalog> Catalog::load(Database& db) {
  Catalog catalog;
  // A log of an older format is read as it is.
  WS_ASSIGN(const std::int64_t version, db.number("PRAGMA user_version"));
  WS_ASSIGN(Statement s,
            db.prepare(cat("SELECT topic_id, uuid, name, chain, retention_ms, retention_bytes,"
                           " columns, learnt_columns, tp, partition, ",
                           version < 3 ? "1, '[]'" : "priority, keep_for",
                           " FROM _ws_topics JOIN _ws_partitions"
                           " USING (topic_id) ORDER BY topic_id, partition")));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    const TopicId id(static_cast<std::int32_t>(s.integer(0)));
    if (catalog.topics_.empty() || catalog.topics_.back().id != id) {
      Topic t;
      t.id = id;
      t.uuid = s.bytes(1);
      t.name = s.bytes(2);
      t.chain = ChainId(static_cast<std::int32_t>(s.integer(3)));
      t.retention_ms = s.integer(4);
      t.retention_bytes = s.integer(5);
      if (!s.is_null(6)) {
        WS_ASSIGN(t.columns, read_array(db, s.bytes(6)));
      }
      WS_ASSIGN(t.learnt_columns, read_array(db, s.bytes(7)));
      t.priority = s.integer(10);
      WS_ASSIGN(t.keep_for, read_array(db, s.bytes(11)));
      catalog.topics_.push_back(std::move(t));
    }
    const Partition p{TpId(static_cast<std::int32_t>(s.integer(8))),
                      static_cast<std::int32_t>(s.integer(9))};
    catalog.topics_.back().partitions.push_back(p);
    catalog.by_tp_[p.tp] = {catalog.topics_.size() - 1, p.partition};
  }
  return catalog;
}

Catalog Catalog::of(std::span<const TopicSpec> specs) {
  Catalog catalog;
  std::int32_t tp = 0;
  for (const TopicSpec& spec : specs) {
    Topic t;
    t.name = spec.name;
    for (std::int32_t p = 0; p < spec.partitions; ++p) {
      t.partitions.push_back({TpId(++tp), p});
      catalog.by_tp_[TpId(tp)] = {catalog.topics_.size(), p};
    }
    catalog.topics_.push_back(std::move(t));
  }
  return catalog;
}

const Topic* Catalog::find(std::string_view name) const {
  const auto it = std::find_if(topics_.begin(), topics_.end(),
                               [&](const Topic& t) { return same_name(t.name, name); });
  return it == topics_.end() ? nullptr : &*it;
}

const Topic* Catalog::find(TpId tp) const {
  const auto it = by_tp_.find(tp);
  return it == by_tp_.end() ? nullptr : &topics_[it->second.topic];
}

std::int32_t Catalog::partition_of(TpId tp) const {
  const auto it = by_tp_.find(tp);
  return it == by_tp_.end() ? -1 : it->second.partition;
}

Error Catalog::unknown_topic(std::string_view name) const {
  std::vector<std::string> names;
  for (const Topic& t : topics_) names.push_back(t.name);
  const std::string near = nearest(name, names);
  return Error{ErrorCode::not_found, cat("there is no topic '", printable(name), "'"),
               near.empty() ? "'wayside topics list' shows what there is"
                            : cat("did you mean '", near, "'?")};
}

Status check_topic_name(std::string_view name) {
  const auto bad_char = [](char c) {
    return !((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '.' || c == '_' || c == '-');
  };
  if (name.empty() || name.size() > limits::kTopicNameBytesMax || name == "." || name == ".." ||
      std::any_of(name.begin(), name.end(), bad_char)) {
    return fail(
        ErrorCode::invalid_argument, cat("'", printable(name), "' is no topic name"),
        cat("use 1 to ", limits::kTopicNameBytesMax, " of: letters, digits, '.', '_' and '-'"));
  }
  if (starts_with_nocase(name, "_ws_") || starts_with_nocase(name, "sqlite_") ||
      same_name(name, "__consumer_offsets")) {
    return fail(ErrorCode::invalid_argument, cat("the name '", name, "' is reserved"),
                "names beginning with _ws_ and sqlite_ belong to the database");
  }
  return {};
}

std::string json_array(const std::vector<std::string>& strings) {
  std::string out = "[";
  for (const std::string& s : strings) {
    if (out.size() > 1) out.push_back(',');
    append_json_string(out, s);
  }
  return out + "]";
}

}  // namespace wayside
