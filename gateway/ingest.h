// A reading's way from its MQTT topic to a partition: route, decode, key, partition; or, when
// one of these fails, to quarantine with its reason. Thread: the I/O thread's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "devices/route.h"
#include "storage/batch.h"
#include "storage/catalog.h"

namespace wayside {

class Ingest {
 public:
  struct Target;  // a route with its topic's partitions
  // What a topic name alone decides; a connection remembers it.
  struct Resolved {
    Target* target = nullptr;  // none: no route takes it
    std::string key;
    bool has_key = false;
    TpId tp;  // of a key that the topic decides
    std::shared_ptr<Source> source;
  };
  struct Made {
    Append append;
    const char* quarantined = nullptr;  // the reason's name; none: the route took it
  };

  // REQUIRES: every route's topic, and the quarantine, are in the catalog.
  Ingest(const std::vector<Route>& routes, const Catalog& catalog, const Clock& clock);
  ~Ingest();

  [[nodiscard]] Resolved resolve(std::string_view mqtt_topic, const std::string& client_id);
  [[nodiscard]] Made make(const Resolved& resolved, std::string_view payload, bool retain);

 private:
  [[nodiscard]] Made quarantine(const Resolved& resolved, std::string_view payload,
                                const char* name, std::string_view reason) const;
  [[nodiscard]] TpId partition_for(Target& target, const std::optional<std::string>& key);

  std::vector<std::unique_ptr<Target>> targets_;
  TpId quarantine_;
  const Clock& clock_;
};

}  // namespace wayside
