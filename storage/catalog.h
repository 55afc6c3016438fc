// Topics and partitions as they are in the database: an immutable picture, made anew when they
// change. Thread: a const Catalog may be read from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

inline constexpr std::int64_t kForever = -1;    // retention_ms
inline constexpr std::int64_t kUnbounded = -1;  // retention_bytes

// When there is no room, segments of a lower priority go first.
inline constexpr std::int64_t kNormalPriority = 1;

// What the configuration wants of a topic.
struct TopicSpec {
  std::string name;
  std::int32_t partitions = 1;
  std::int64_t retention_ms = 7 * 86'400'000LL;
  std::int64_t retention_bytes = kUnbounded;
  std::optional<std::vector<std::string>> columns;  // none: learnt from the data
  std::int64_t priority = kNormalPriority;
  std::vector<std::string> keep_for = {};  // groups that must have read a record before it goes
};

struct Partition {
  TpId tp;
  std::int32_t partition = 0;
};

struct Topic {
  TopicId id;
  std::string uuid;
  std::string name;
  ChainId chain;
  std::int64_t retention_ms = kForever;
  std::int64_t retention_bytes = kUnbounded;
  std::optional<std::vector<std::string>> columns;
  std::vector<std::string> learnt_columns;
  std::vector<Partition> partitions;  // in order, from 0
  std::int64_t priority = kNormalPriority;
  std::vector<std::string> keep_for;
};

class Catalog {
 public:
  [[nodiscard]] static Result<Catalog> load(Database& db);

  // As they would be in a new database: for trying things without one.
  [[nodiscard]] static Catalog of(std::span<const TopicSpec> specs);

  // Names are matched as in SQL: not minding case.
  [[nodiscard]] const Topic* find(std::string_view name) const;
  [[nodiscard]] const Topic* find(TpId tp) const;
  [[nodiscard]] std::int32_t partition_of(TpId tp) const;
  [[nodiscard]] const std::vector<Topic>& topics() const { return topics_; }
  // "no topic x; did you mean y?", as an error.
  [[nodiscard]] Error unknown_topic(std::string_view name) const;

 private:
  struct Place {
    std::size_t topic;
    std::int32_t partition;
  };
  std::vector<Topic> topics_;
  std::unordered_map<TpId, Place> by_tp_;
};

// A topic's name: letters, digits, '.', '_' and '-', at most 249, as in Kafka, and neither
// "_ws_…" nor "sqlite_…", which are the database's own.
[[nodiscard]] Status check_topic_name(std::string_view name);

// ["a","b"] of plain strings, as the database keeps column names.
[[nodiscard]] std::string json_array(const std::vector<std::string>& strings);

}  // namespace wayside
