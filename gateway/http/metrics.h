// The gateway's state as Prometheus text (exposition format 0.0.4).
// Names: wayside_<noun>_<unit>, _total for counters, base units. docs/OPERATIONS.md lists them.
// Thread: the HTTP server's.
#pragma once

#include <optional>
#include <string>

#include "gateway/control/state.h"
#include "storage/reader.h"

namespace wayside {

class Metrics {
 public:
  [[nodiscard]] Result<std::string> text(const LiveState& live);

 private:
  std::optional<LogReader> reader_;  // kept: what it has scanned need not be scanned again
};

}  // namespace wayside
