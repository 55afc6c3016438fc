// From the configuration to what runs: topics, routes and bridges, with every contradiction
// between them reported at once. Thread: plain values.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "devices/route.h"
#include "storage/catalog.h"
#include "storage/log.h"

namespace wayside {

struct Plan {
  Config config;
  std::vector<TopicSpec> topics;  // the quarantine among them
  std::vector<Route> routes;
};

// Adds to `problems` what is wrong between keys: unknown topics, overlapping routes, bad patterns.
[[nodiscard]] Plan make_plan(const Config& config, std::vector<Problem>& problems);

// Loads the file and makes the plan; any problem is an error whose text is the whole report.
[[nodiscard]] Result<Plan> load_plan(const std::string& path);

// What the log is opened with.
[[nodiscard]] EngineOptions engine_options(const Config& config);
[[nodiscard]] CommitPolicy commit_policy(const Config& config);

// "mqtt://host:port" as Paho wants it: "tcp://host:port", or "ssl://…" for mqtts.
[[nodiscard]] Result<std::string> parse_broker(std::string_view text);

}  // namespace wayside
