// A message's way through the routes: whatever its topic and payload, it becomes the records that
// its route makes of it, or one in quarantine with a reason, and never nothing.
#include "gateway/plan/ingest.h"

#include "base/limits.h"
#include "config/config.h"
#include "gateway/plan/plan.h"
#include "storage/quarantine.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using fuzz::require;

namespace {

constexpr const char* kRoutes = R"(
data_dir = "/nowhere"
[[topic]]
name = "a"
partitions = 5
[[topic]]
name = "b"
[[route]]
mqtt = "j/{id}/x"
topic = "a"
key = "{id}"
time = "/t"
[[route]]
mqtt = "p/{x}"
topic = "a"
key = "/k"
time = "/t"
when = "/v > 0"
[[route]]
mqtt = "s/{id}"
topic = "b"
split = "/l"
key = "/k"
[[route]]
mqtt = "c/#"
topic = "b"
payload = "cbor"
value = "/v"
[[route]]
mqtt = "r/#"
topic = "b"
payload = "raw"
)";
struct Routed {
  ManualClock clock{1'795'000'000'000};
  Plan plan;
  Catalog catalog;
  std::unique_ptr<Ingest> ingest;
  Routed() {
    LoadedConfig loaded = parse_config(kRoutes, "routes");
    plan = make_plan(loaded.config, loaded.problems);
    for (const Problem& p : loaded.problems) require(false, p.what);
    catalog = Catalog::of(plan.topics);
    ingest = std::make_unique<Ingest>(plan.routes, catalog, clock);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Routed routed;
  FuzzedDataProvider in(data, size);
  // Mostly a topic that a route knows.
  const char* prefix = in.PickValueInArray({"j/", "p/", "s/", "c/", "r/", ""});
  const std::string topic = prefix + in.ConsumeRandomLengthString(32);
  const bool retain = in.ConsumeBool();
  const std::string payload = in.ConsumeRemainingBytesAsString();
  const auto resolved = routed.ingest->resolve(topic, "device");
  std::vector<Op> ops;
  const auto outcome = routed.ingest->make(resolved, payload, retain, ops);

  const bool quarantined = outcome.quarantined != nullptr;
  require(quarantined || outcome.route != nullptr, "nothing is dropped");
  const std::string target = quarantined ? kQuarantineTopic : outcome.route->topic;
  if (quarantined) require(ops.size() == 1, "quarantine has the whole, once");
  for (const Op& op : ops) {
    const auto* append = std::get_if<Append>(&op);
    require(append != nullptr, "a message becomes records");
    const Topic* where = routed.catalog.find(append->tp);
    require(where != nullptr && where->name == target, "a record goes where its route says");
    require(decode_headers(append->record.headers).has_value(), "its headers are whole");
    require(append->source->mqtt_topic == topic, "it knows where it came from");
    const bool cut = !quarantined && (outcome.route->split || outcome.route->value);
    require(append->record.value.has_value(), "it has a value");
    require(cut || *append->record.value == payload, "which is the payload, byte for byte");
    const std::int64_t at = append->record.timestamp_ms;
    require(at == kNoTimestamp || at >= limits::kPlausibleFromMs, "and no impossible time");
  }
  // All but an empty array that is split makes a record.
  require(!ops.empty() || (outcome.route != nullptr && outcome.route->split), "nothing is dropped");
  return 0;
}
