// The gateway's state as Prometheus text (exposition format 0.0.4), and how fast the disk fills.
// Names: wayside_<noun>_<unit>, _total for counters, base units. docs/OPERATIONS.md lists them.
// Thread: each class has one owner: main the gauge of growth, the HTTP server's thread the metrics.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "bridge/bridge.h"
#include "gateway/plan.h"
#include "gateway/subscriber.h"
#include "storage/log.h"
#include "storage/reader.h"

namespace wayside {

// What only the running parts know, as main sees it.
struct LiveState {
  Config config;
  WriterStats writer;
  std::int64_t started_ms = 0, now_ms = 0;
  bool clock_trusted = false;
  std::optional<double> seconds_to_full;
  std::size_t connections = 0;
  std::size_t strangers_bytes = 0, strangers_bytes_most = 0;
  std::vector<std::pair<std::string, BridgeStatus>> bridges;
  std::vector<std::pair<std::string, SubscriberStatus>> subscriptions;
};

class Metrics {
 public:
  [[nodiscard]] Result<std::string> text(const LiveState& live);

 private:
  std::optional<LogReader> reader_;  // kept: what it has scanned need not be scanned again
};

class Growth {
 public:
  // Looks at the size of the log now and then; cheap.
  void sample(const std::string& database_path, const Clock& clock);
  // At the speed of the last hour; none: it does not grow.
  [[nodiscard]] std::optional<double> seconds_to_full(const Config& config) const;

 private:
  struct Sample {
    std::int64_t steady_ms, bytes;
  };
  std::deque<Sample> samples_;
};

}  // namespace wayside
