// A reading's way from its MQTT topic to a partition: route, decode, key, partition; or, when
// one of these fails, to quarantine with its reason. Thread: one owner (the I/O thread; each
// subscription has its own).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "devices/payload.h"
#include "devices/route.h"
#include "storage/batch.h"
#include "storage/catalog.h"
#include "storage/quarantine.h"

namespace wayside {

// Counters of device times that were not taken, by topic: the name goes on with the topic's.
inline constexpr std::string_view kUnreadableTimes = "time.unreadable.";
inline constexpr std::string_view kImplausibleTimes = "time.implausible.";

class Ingest {
 public:
  struct Target;  // a route with its topic's partitions
  // What a topic name alone decides; a connection remembers it.
  struct Candidate {
    Target* target = nullptr;
    std::string key;
    bool has_key = false;
    TpId tp;  // of a key that the topic decides
  };
  struct Resolved {
    std::vector<Candidate> candidates;  // in the order of the routes; the last has no condition
    std::shared_ptr<Source> source;
  };
  struct Outcome {
    const char* quarantined = nullptr;  // the reason's name; none: a route took it
    const Route* route = nullptr;       // which one
    // Times of the device that were not taken: of so many records, and why of the last one.
    std::int64_t unreadable_times = 0, implausible_times = 0;
    std::string time_fault;
    std::int64_t dropped_headers = 0;
    // What of it is counted.
    [[nodiscard]] std::vector<Count> counts() const;
  };

  // REQUIRES: every route's topic, and the quarantine, are in the catalog.
  Ingest(const std::vector<Route>& routes, const Catalog& catalog, const Clock& clock);
  ~Ingest();

  [[nodiscard]] Resolved resolve(std::string_view mqtt_topic, const std::string& client_id);
  // What MQTT 5 says about a payload.
  struct Extra {
    std::string_view headers;  // as encode_headers writes them, for each of its records
    bool must_be_text = false;
  };
  // Adds the records that the message makes: one, several when its route splits it, or the one
  // that goes to quarantine.
  [[nodiscard]] Outcome make(const Resolved& resolved, std::string_view payload, bool retain,
                             std::vector<Op>& ops, const Extra& extra);
  [[nodiscard]] Outcome make(const Resolved& resolved, std::string_view payload, bool retain,
                             std::vector<Op>& ops) {
    return make(resolved, payload, retain, ops, {});
  }
  // Adds the record, in quarantine, of a message that cannot be taken whole.
  void set_aside(const std::shared_ptr<Source>& source, std::string_view payload_beginning,
                 QuarantineNote note, std::vector<Op>& ops) const;

 private:
  struct Failure {
    const char* name;
    std::string reason;
  };
  // The parts of the payload as records; or why not.
  [[nodiscard]] std::optional<Failure> append(const Candidate& candidate, Part&& part, bool retain,
                                              const Resolved& resolved, Outcome& outcome,
                                              std::vector<Op>& ops);
  [[nodiscard]] std::optional<Failure> append_all(const Candidate& candidate, const Json* tree,
                                                  std::string_view payload, bool retain,
                                                  const Resolved& resolved, Outcome& outcome,
                                                  std::vector<Op>& ops);
  void take_time(const Route& route, const JsonScalar& time, Record& record,
                 Outcome& outcome) const;
  void quarantine(const Resolved& resolved, std::string_view payload, const Failure& failure,
                  const Extra& extra, std::vector<Op>& ops) const;
  [[nodiscard]] TpId partition_for(Target& target, const std::optional<std::string>& key);

  std::vector<std::unique_ptr<Target>> targets_;
  TpId quarantine_;
  const Clock& clock_;
};

}  // namespace wayside
