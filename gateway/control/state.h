// What the running gateway is and does at one moment, for all who show it: status, metrics, health;
// and how fast the disk fills. Thread: main's; a LiveState is a value that may be handed on.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "bridge/bridge.h"
#include "config/config.h"
#include "storage/log.h"

namespace wayside {

// Of a subscription to another broker.
struct SubscriptionState {
  std::string client_id;
  bool connected = false;
  std::int64_t received = 0;  // readings, since the start
};

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
  std::vector<SubscriptionState> subscriptions;
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
