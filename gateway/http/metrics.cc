#include "gateway/http/metrics.h"

#include <algorithm>
#include <fstream>

#include "base/file.h"
#include "base/text.h"
#include "base/version.h"
#include "gateway/plan/ingest.h"
#include "storage/account.h"
#include "storage/bridge_ops.h"

namespace wayside {
namespace {

// A number behind "name:" in a file of /proc.
std::int64_t proc_number(const char* path, std::string_view name) {
  std::ifstream in(path);
  for (std::string word; in >> word;) {
    std::int64_t n = 0;
    if (word == name && in >> n) return n;
  }
  return 0;
}

// Writes families of samples: HELP and TYPE once, then a line for each.
class Writer {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    out += cat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
  }
  using Labels = std::vector<std::pair<std::string_view, std::string>>;
  template <class N>
  void add(N value, const Labels& labels = {}, std::string_view suffix = "") {
    out += cat(name_, suffix);
    for (std::size_t i = 0; i < labels.size(); ++i) {
      out += cat(i == 0 ? "{" : ",", labels[i].first, "=\"");
      for (const char c : printable(labels[i].second)) {
        if (c == '"' || c == '\\') out.push_back('\\');
        out.push_back(c);
      }
      out += "\"";
    }
    out += cat(labels.empty() ? " " : "} ", value, "\n");
  }
  template <class N>
  void one(std::string_view name, std::string_view type, std::string_view help, N value) {
    family(name, type, help);
    add(value);
  }
  std::string out;

 private:
  std::string name_;
};

double seconds(std::int64_t ms) {
  return static_cast<double>(ms) / 1000;
}

void commits(Writer& w, const WriterStats& s) {
  w.one("wayside_commits_total", "counter", "Commits, each synced.", s.commits);
  w.one("wayside_commit_failures_total", "counter",
        "Commits that failed; nothing was acknowledged.", s.failed_commits);
  w.one("wayside_committed_records_total", "counter", "Records committed since the start.",
        s.records);
  w.one("wayside_waiting_operations", "gauge", "What waits for its commit.",
        s.queued_ops + s.committing_ops);
  w.family("wayside_commit_seconds", "histogram", "How long commits took, with their sync.");
  std::int64_t below = 0;
  for (std::size_t i = 0; i < s.commit_counts.size(); ++i) {
    below += s.commit_counts[i];
    w.add(below, {{"le", i < kCommitBoundsMs.size() ? cat(seconds(kCommitBoundsMs[i])) : "+Inf"}},
          "_bucket");
  }
  w.add(static_cast<double>(s.commit_us) / 1e6, {}, "_sum");
  w.add(below, {}, "_count");
}

Status records(Writer& w, LogReader& reader, const Catalog& catalog) {
  std::vector<std::pair<std::string, Account>> topics;
  for (const Topic& t : catalog.topics()) {
    WS_ASSIGN(const auto marks, reader.marks(t));
    topics.emplace_back(t.name, account_of(marks));
  }
  w.family("wayside_records_stored_total", "counter", "Records ever stored, by topic.");
  for (const auto& [name, n] : topics) w.add(n.stored, {{"topic", name}});
  w.family("wayside_records_expired_total", "counter", "Records that retention dropped.");
  for (const auto& [name, n] : topics) w.add(n.expired, {{"topic", name}});
  w.family("wayside_records_live", "gauge", "Records that can be read.");
  for (const auto& [name, n] : topics) w.add(n.live, {{"topic", name}});
  w.family("wayside_records_lost_total", "counter",
           "Records that a damaged file did not give back.");
  for (const auto& [name, n] : topics) w.add(n.lost, {{"topic", name}});
  WS_ASSIGN(const auto damaged, reader.damaged());
  w.family("wayside_damaged_files_total", "counter", "Database files that were set aside.");
  w.add(static_cast<double>(damaged.size()));
  WS_ASSIGN(const auto counters, reader.counters());
  w.family("wayside_discards_total", "counter",
           "What was quarantined, refused, dropped, deleted or expired unsent, by reason.");
  for (const auto& [name, n] : counters) {
    if (!name.starts_with("time.")) w.add(n, {{"reason", name}});
  }
  w.family("wayside_device_times_ignored_total", "counter",
           "Times of devices that could not be read, or are not believed.");
  for (const auto& [name, n] : counters) {
    for (const std::string_view kind : {kUnreadableTimes, kImplausibleTimes}) {
      if (!name.starts_with(kind)) continue;
      w.add(n, {{"topic", name.substr(kind.size())},
                {"reason", kind == kUnreadableTimes ? "unreadable" : "implausible"}});
    }
  }
  return {};
}

Status lags(Writer& w, LogReader& reader, const Catalog& catalog, const LiveState& live) {
  const std::int64_t now = live.now_ms;
  w.family("wayside_bridge_unsent_records", "gauge", "Records a bridge has yet to forward.");
  std::vector<Lag> found;
  for (const BridgeConfig& b : live.config.bridges) {
    WS_ASSIGN(Lag lag, lag_of(reader, catalog, bridge_group(b.name), b.topics));
    w.add(lag.records, {{"bridge", b.name}});
    found.push_back(std::move(lag));
  }
  w.family("wayside_bridge_oldest_unsent_seconds", "gauge", "Age of the oldest of them.");
  for (std::size_t i = 0; i < found.size(); ++i) {
    const std::int64_t at = found[i].oldest_append_ms;
    w.add(at == 0 ? 0.0 : seconds(std::max<std::int64_t>(now - at, 0)),
          {{"bridge", live.config.bridges[i].name}});
  }
  w.family("wayside_bridge_sent_records_total", "counter", "Records delivered since the start.");
  for (const auto& [name, s] : live.bridges) w.add(s.records_sent, {{"bridge", name}});
  w.family("wayside_bridge_failed_tries_total", "counter", "Requests that failed.");
  for (const auto& [name, s] : live.bridges) w.add(s.tries_failed, {{"bridge", name}});
  w.family("wayside_bridge_paused", "gauge", "1: a technician paused it.");
  for (const auto& [name, s] : live.bridges) w.add(s.paused ? 1 : 0, {{"bridge", name}});

  WS_ASSIGN(const auto positions, reader.positions(""));
  w.family("wayside_group_lag_records", "gauge", "Records a group has yet to read.");
  std::map<std::pair<std::string, std::string>, bool> groups;
  for (const GroupPosition& p : positions) {
    const Topic* topic = catalog.find(p.tp);
    if (topic != nullptr && !p.group.starts_with("bridge.")) groups[{p.group, topic->name}] = true;
  }
  for (const auto& [key, ignored] : groups) {
    WS_ASSIGN(const Lag lag, lag_of(reader, catalog, key.first, {key.second}));
    for (const PartitionLag& p : lag.partitions) {
      w.add(p.records, {{"group", key.first}, {"topic", p.topic}, {"partition", cat(p.partition)}});
    }
  }
  w.family("wayside_subscription_connected", "gauge", "1: connected to its broker.");
  for (const SubscriptionState& s : live.subscriptions) {
    w.add(s.connected ? 1 : 0, {{"client_id", s.client_id}});
  }
  w.family("wayside_subscription_readings_total", "counter", "Readings taken since the start.");
  for (const SubscriptionState& s : live.subscriptions) {
    w.add(s.received, {{"client_id", s.client_id}});
  }
  return {};
}

}  // namespace

Result<std::string> Metrics::text(const LiveState& live) {
  if (!reader_) {
    WS_ASSIGN(LogReader reader, LogReader::open(live.config.database_path()));
    reader_ = std::move(reader);
  }
  WS_ASSIGN(const Catalog catalog, reader_->catalog());
  const std::string path = live.config.database_path();
  Writer w;
  w.family("wayside_build_info", "gauge", "The program's version.");
  w.add(1, {{"version", std::string(kVersion)}});
  w.one("wayside_start_time_seconds", "gauge", "When it started, by its own clock.",
        seconds(live.started_ms));
  w.one("wayside_clock_trusted", "gauge", "1: the clock is synchronised.",
        live.clock_trusted ? 1 : 0);
  w.one("wayside_clock_seconds", "gauge", "The wall clock.", seconds(live.now_ms));
  w.one("wayside_connections", "gauge", "Devices connected.",
        static_cast<std::int64_t>(live.connections));
  w.one("wayside_connections_max", "gauge", "mqtt.max_connections.",
        live.config.mqtt.max_connections);
  w.one("wayside_strangers_memory_bytes", "gauge",
        "Held for connections: unfinished packets, unread output, wills, caches.",
        static_cast<std::int64_t>(live.strangers_bytes));
  w.one("wayside_strangers_memory_max_bytes", "gauge", "What they may hold together.",
        static_cast<std::int64_t>(live.strangers_bytes_most));
  commits(w, live.writer);
  WS_TRY(records(w, *reader_, catalog));
  WS_TRY(lags(w, *reader_, catalog, live));
  WS_ASSIGN(const std::int64_t segments, reader_->number("SELECT count(*) FROM _ws_segments"));
  w.one("wayside_segments", "gauge", "Segment tables.", segments);
  w.one("wayside_database_bytes", "gauge", "Size of wayside.db.", file_size(path));
  w.one("wayside_wal_bytes", "gauge",
        "Size of wayside.db-wal; it grows while somebody holds a "
        "snapshot, whom 'wayside status' names.",
        file_size(path + "-wal"));
  w.one("wayside_budget_bytes", "gauge", "storage.budget; 0: none.",
        live.config.storage.budget_bytes);
  w.one("wayside_disk_free_bytes", "gauge", "Free on the file system of the log.",
        disk_space(live.config.data_dir).value_or(DiskSpace{}).free_bytes);
  const auto full = live.seconds_to_full;
  w.one("wayside_seconds_to_full", "gauge",
        "Until disk or budget are full, at the last hour's speed.",
        full ? cat(*full) : std::string("+Inf"));
  w.one("wayside_device_written_bytes_total", "counter",
        "Bytes this process had written to block devices since its start.",
        proc_number("/proc/self/io", "write_bytes:"));
  w.one("wayside_resident_memory_bytes", "gauge", "Resident set.",
        proc_number("/proc/self/status", "VmRSS:") * 1024);
  return std::move(w.out);
}

}  // namespace wayside
