#include "gateway/ingest.h"

#include "base/check.h"
#include "base/checksum.h"
#include "base/limits.h"
#include "base/text.h"
#include "devices/payload.h"
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
    r.target = target.get();
    const KeyRule& rule = target->route.key;
    if (!rule.none() && !rule.pointer()) {
      r.key = rule.render(*captures);
      r.has_key = true;
      r.tp = partition_for(*target, r.key);
    }
    break;
  }
  return r;
}

TpId Ingest::partition_for(Target& target, const std::optional<std::string>& key) {
  const auto n = static_cast<std::int32_t>(target.partitions.size());
  if (!key) return target.partitions[target.next++ % target.partitions.size()];
  return target.partitions[static_cast<std::size_t>(kafka_partition(*key, n))];
}

Ingest::Made Ingest::make(const Resolved& resolved, std::string_view payload, bool retain) {
  if (resolved.target == nullptr) {
    return quarantine(resolved, payload, "no_route", "no [[route]] takes this MQTT topic");
  }
  Target& target = *resolved.target;
  const Route& route = target.route;
  Made made;
  Record& record = made.append.record;
  if (resolved.has_key) record.key = resolved.key;
  if (route.payload == PayloadKind::json) {
    const JsonPointer* key_at = route.key.pointer() ? &*route.key.pointer() : nullptr;
    auto json = inspect_json(payload, key_at, route.time ? &*route.time : nullptr);
    if (!json) return quarantine(resolved, payload, "not_json", json.error().what);
    if (key_at != nullptr) {
      if (!json->key || json->key->kind == JsonScalar::Kind::null) {
        return quarantine(resolved, payload, "no_key", "the key's field is missing or null");
      }
      if (json->key->kind == JsonScalar::Kind::structure) {
        return quarantine(resolved, payload, "no_key", "the key's field is an object or a list");
      }
      record.key = std::move(json->key->text);
    }
    const auto device_ms = json->time ? device_time_ms(*json->time) : std::nullopt;
    // An implausible time is not the reading's fault: the append time stands for it.
    if (device_ms && *device_ms >= limits::kPlausibleFromMs &&
        (!clock_.trusted() || *device_ms <= clock_.wall_ms() + limits::kPlausibleAheadMs)) {
      record.timestamp_ms = *device_ms;
      record.attributes |= kDeviceTime;
    }
  }
  if (!route.key.none() && record.key->empty()) {
    return quarantine(resolved, payload, "no_key", "the key is empty");
  }
  if (record.key && record.key->size() > limits::kKeyBytesMax) {
    return quarantine(
        resolved, payload, "key_too_long",
        cat("the key has ", record.key->size(), " bytes; the limit is ", limits::kKeyBytesMax));
  }
  if (retain) record.attributes |= kRetained;
  record.value = std::string(payload);
  made.append.tp = resolved.has_key ? resolved.tp : partition_for(target, record.key);
  made.append.source = resolved.source;
  return made;
}

Ingest::Made Ingest::quarantine(const Resolved& resolved, std::string_view payload,
                                const char* name, std::string_view reason) const {
  Made made;
  made.quarantined = name;
  made.append.tp = quarantine_;
  made.append.source = resolved.source;
  made.append.record.key = resolved.source->client_id;
  made.append.record.value = std::string(payload);
  made.append.record.headers = encode_headers({{"reason", name},
                                               {"detail", std::string(reason)},
                                               {"mqtt.topic", resolved.source->mqtt_topic},
                                               {"mqtt.client_id", resolved.source->client_id}});
  return made;
}

}  // namespace wayside
