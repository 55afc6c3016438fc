// What became of what `publish` or `simulate` sent: an acknowledgement says that a reading is
// stored, not whether a route took it. The log says it, when it is the one of this machine.
// Thread: one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "base/ids.h"
#include "base/result.h"
#include "gateway/plan/plan.h"

namespace wayside {

// A reading in quarantine, as far as it tells whose it is.
struct SetAside {
  std::string client_id, mqtt_topic;
  std::string_view value;  // perhaps its beginning only
};

class QuarantineWatch {
 public:
  // Remembers where the quarantine ends now. None: the log of this configuration is not that of the
  // gateway behind `at`, or may not be read; then nobody here can tell.
  [[nodiscard]] static std::optional<QuarantineWatch> begin(const std::string& config,
                                                            const HostPort& at);
  struct Reason {
    std::string name, detail;  // the detail of the first
    std::int64_t readings = 0;
  };
  // What has come since, and is `mine`, by its reason.
  [[nodiscard]] Result<std::vector<Reason>> look(
      const std::function<bool(const SetAside&)>& mine) const;

 private:
  QuarantineWatch(std::string path, Offset end) : path_(std::move(path)), end_(end) {}
  std::string path_;
  Offset end_;
};

// Prints why readings are in quarantine. Returns the exit code: kExitQuarantined when some are.
[[nodiscard]] int report_quarantined(const std::vector<QuarantineWatch::Reason>& quarantined);

}  // namespace wayside
