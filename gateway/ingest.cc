#include "gateway/ingest.h"

#include "base/check.h"
#include "base/checksum.h"
#include "base/limits.h"
#include "base/text.h"
#include "gateway/plan.h"

namespace wayside {

struct Ingest::Target {
  Route route;
  std::vector<TpId> partitions;
  std::size_t next = 0;  // of readings without a key, which are spread in turn
};

Ingest::Ingest(const std::vector<Route>& routes, const Catalog& catalog, const Clock& clock)
    : clock_(clock) {
  for (const Route& route : routes) {
    const Topic* topic = catalog.find(route.topic);
    WS_CHECK(topic != nullptr);
    auto target = std::make_unique<Target>();
    target->route = route;
    for (const Partition& p : topic->partitions) target->partitions.push_back(p.tp);
    targets_.push_back(std::move(target));
  }
  const Topic* quarantine = catalog.find(kQuarantineTopic);
  WS_CHECK(quarantine != nullptr);
  quarantine_ = quarantine->partitions.front().tp;
}

Ingest::~Ingest() = default;

Ingest::Resolved Ingest::resolve(std::string_view mqtt_topic, const std::string& client_id) {
  Resolved r;
  r.source = std::make_shared<Source>(Source{client_id, std::string(mqtt_topic)});
  for (const auto& target : targets_) {
    const auto captures = target->route.pattern.match(mqtt_topic);
    if (!captures) continue;
    Candidate c;
    c.target = target.get();
    const KeyRule& rule = target->route.key;
    if (!rule.none() && !rule.pointer()) {
      c.key = rule.render(*captures);
      c.has_key = true;
      c.tp = partition_for(*target, c.key);
    }
    r.candidates.push_back(std::move(c));
    if (!target->route.when) break;
  }
  return r;
}

TpId Ingest::partition_for(Target& target, const std::optional<std::string>& key) {
  const auto n = static_cast<std::int32_t>(target.partitions.size());
  if (!key) return target.partitions[target.next++ % target.partitions.size()];
  return target.partitions[static_cast<std::size_t>(kafka_partition(*key, n))];
}

Ingest::Outcome Ingest::make(const Resolved& resolved, std::string_view payload, bool retain,
                             std::vector<Op>& ops) {
  Failure failure{"no_route", resolved.candidates.empty()
                                  ? "no [[route]] takes this MQTT topic"
                                  : "the condition of no [[route]] for this MQTT topic holds"};
  std::optional<Result<Json>> parsed;  // once, for all routes of one kind of payload
  PayloadKind parsed_as = PayloadKind::raw;
  for (const Candidate& candidate : resolved.candidates) {
    const Route& route = candidate.target->route;
    const Json* tree = nullptr;
    // Most payloads are looked through once and never become a tree.
    if (route.when || route.split || route.value || route.payload == PayloadKind::cbor) {
      if (!parsed || parsed_as != route.payload) {
        parsed = parse_payload(payload, route.payload);
        parsed_as = route.payload;
      }
      if (!*parsed) {
        failure = {route.payload == PayloadKind::cbor ? "not_cbor" : "not_json",
                   parsed->error().what};
        continue;
      }
      tree = &**parsed;
      if (route.when && !route.when->holds(*tree)) continue;
    }
    const std::size_t before = ops.size();
    auto failed = append_all(candidate, tree, payload, retain, resolved, ops);
    if (!failed) return {nullptr, &route};
    ops.resize(before);  // all of a message or none
    quarantine(resolved, payload, *failed, ops);
    return {failed->name, &route};
  }
  quarantine(resolved, payload, failure, ops);
  return {failure.name, nullptr};
}

std::optional<Ingest::Failure> Ingest::append_all(const Candidate& candidate, const Json* tree,
                                                  std::string_view payload, bool retain,
                                                  const Resolved& resolved, std::vector<Op>& ops) {
  const Route& route = candidate.target->route;
  if (tree != nullptr) {
    auto parts = take_apart(*tree, payload, route);
    if (!parts) return Failure{"no_value", parts.error().what};
    for (Part& part : *parts) {
      if (auto failed = append(candidate, std::move(part), retain, resolved, ops)) return failed;
    }
    return std::nullopt;
  }
  Part part;
  if (route.payload == PayloadKind::json) {
    auto json = inspect_json(payload, route.key.pointer() ? &*route.key.pointer() : nullptr,
                             route.time ? &*route.time : nullptr);
    if (!json) return Failure{"not_json", json.error().what};
    part.key = std::move(json->key);
    part.time = std::move(json->time);
  }
  part.value = std::string(payload);
  return append(candidate, std::move(part), retain, resolved, ops);
}

std::optional<Ingest::Failure> Ingest::append(const Candidate& candidate, Part&& part, bool retain,
                                              const Resolved& resolved, std::vector<Op>& ops) {
  const Route& route = candidate.target->route;
  Append made;
  Record& record = made.record;
  if (candidate.has_key) record.key = candidate.key;
  if (route.key.pointer()) {
    if (!part.key || part.key->kind == JsonScalar::Kind::null) {
      return Failure{"no_key", "the key's field is missing or null"};
    }
    if (part.key->kind == JsonScalar::Kind::structure) {
      return Failure{"no_key", "the key's field is an object or a list"};
    }
    record.key = std::move(part.key->text);
  }
  const auto device_ms = part.time ? device_time_ms(*part.time, route.time_unit) : std::nullopt;
  // An implausible time is not the reading's fault: the append time stands for it.
  if (device_ms && *device_ms >= limits::kPlausibleFromMs &&
      (!clock_.trusted() || *device_ms <= clock_.wall_ms() + limits::kPlausibleAheadMs)) {
    record.timestamp_ms = *device_ms;
    record.attributes |= kDeviceTime;
  }
  if (!route.key.none() && record.key->empty()) return Failure{"no_key", "the key is empty"};
  if (record.key && record.key->size() > limits::kKeyBytesMax) {
    return Failure{"key_too_long", cat("the key has ", record.key->size(), " bytes; the limit is ",
                                       limits::kKeyBytesMax)};
  }
  if (retain) record.attributes |= kRetained;
  if (route.payload == PayloadKind::cbor) record.attributes |= kCbor;
  record.value = std::move(part.value);
  made.tp = candidate.has_key ? candidate.tp : partition_for(*candidate.target, record.key);
  made.source = resolved.source;
  ops.emplace_back(std::move(made));
  return std::nullopt;
}

void Ingest::quarantine(const Resolved& resolved, std::string_view payload, const Failure& failure,
                        std::vector<Op>& ops) const {
  Append made;
  made.tp = quarantine_;
  made.source = resolved.source;
  made.record.key = resolved.source->client_id;
  made.record.value = std::string(payload);
  made.record.headers = encode_headers({{"reason", failure.name},
                                        {"detail", failure.reason},
                                        {"mqtt.topic", resolved.source->mqtt_topic},
                                        {"mqtt.client_id", resolved.source->client_id}});
  ops.emplace_back(std::move(made));
}

}  // namespace wayside
