// The configuration: what wayside.toml says, as plain structs with their defaults. The keys, their
// types, ranges and documentation are one table (keys.h); these structs are what it fills.
// Thread: plain values; not changed after loading.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"

namespace wayside {

inline constexpr std::string_view kDefaultConfigPath = "/etc/wayside/wayside.toml";

struct CommitConfig {
  std::int64_t linger_ms = 0, records = 0, bytes = 0;
};
struct MqttConfig {
  std::string listen;
  std::int64_t max_connections = 0, receive_maximum = 0, max_packet_bytes = 0;
  std::int64_t client_id_bytes_max = 0, max_silent_per_address = 0, max_connections_per_address = 0;
  std::int64_t session_expiry_max_ms = 0, topic_alias_maximum = 0, idle_max_ms = 0;
  bool quarantine_oversized = true, grant_subscriptions = false;
};
struct StorageConfig {
  std::int64_t budget_bytes = 0, keep_free_bytes = 0, segment_rows = 0;
};
struct HttpConfig {
  std::string listen;
};
struct GroupsConfig {
  std::int64_t offset_retention_ms = 0;
};
struct QuarantineConfig {
  std::int64_t retention_ms = 0, retention_bytes = 0;
};
struct TopicConfig {
  std::string name;
  std::int64_t partitions = 0, retention_ms = 0, retention_bytes = 0, priority = 1;
  bool keep_unsent = false;
  std::optional<std::vector<std::string>> columns;
  int line = 0;
};
struct RouteConfig {
  std::string mqtt, topic, key, time, time_unit, time_zone, payload, when, split, value;
  int line = 0;
};
struct SubscribeConfig {
  std::string client_id, broker, filter, user, password_file, ca_file, cert_file, key_file;
  std::int64_t qos = 1;
  int line = 0;
  bool operator==(const SubscribeConfig&) const = default;
};
struct BridgeConfig {
  std::string name;
  std::vector<std::string> topics;
  std::string to, token_file, ca_file;
  std::int64_t batch_records = 0, batch_bytes = 0, linger_ms = 0, timeout_ms = 0, retry_max_ms = 0;
  bool gzip = true;
  int line = 0;
  bool operator==(const BridgeConfig&) const = default;
};

struct Config {
  std::string file;  // where it was read from
  std::string data_dir;
  LogLevel log_level = LogLevel::info;
  ClockTrust clock_trust = ClockTrust::from_kernel;
  CommitConfig commit;
  MqttConfig mqtt;
  StorageConfig storage;
  HttpConfig http;
  GroupsConfig groups;
  QuarantineConfig quarantine;
  std::vector<TopicConfig> topics;
  std::vector<RouteConfig> routes;
  std::vector<BridgeConfig> bridges;
  std::vector<SubscribeConfig> subscriptions;
  // Every key as it is written, defaults too, by its full name ("topic a.partitions"): what a
  // reload compares.
  std::map<std::string, std::string> settings;

  [[nodiscard]] std::string database_path() const { return data_dir + "/wayside.db"; }
};

// One thing that is wrong in a configuration file, where, and what to write instead.
struct Problem {
  int line = 0;  // 0: the file as a whole
  std::string what;
  std::string hint;
};
// "file:line: what; hint", a line each.
[[nodiscard]] std::string problems_text(std::string_view file,
                                        const std::vector<Problem>& problems);

struct LoadedConfig {
  Config config;
  std::vector<Problem> problems;  // all of them; empty: the file is sound so far
};
// Reads and checks keys, types and ranges. An unreadable file is an error; what is wrong in it are
// problems.
[[nodiscard]] Result<LoadedConfig> load_config(const std::string& path);
[[nodiscard]] LoadedConfig parse_config(std::string_view text, const std::string& file);

// The commented default file, and the reference page in Markdown: both from the table of keys.
[[nodiscard]] std::string render_default_config();
[[nodiscard]] std::string render_reference();

}  // namespace wayside
