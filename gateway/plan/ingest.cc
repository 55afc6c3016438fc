#include "gateway/plan/ingest.h"

#include <iterator>

#include "base/check.h"
#include "base/checksum.h"
#include "base/limits.h"
#include "base/text.h"
#include "devices/device_time.h"
#include "gateway/plan/plan.h"
#include "storage/quarantine.h"

namespace wayside {

struct Ingest::Target {
  Route route;
  std::vector<TpId> partitions;
  std::size_t next = 0;  // of readings without a key, which are spread in turn
};

namespace {

// Each record that a message was split into has its headers, up to a bound of them all. Returns how
// many were dropped.
std::int64_t give_headers(std::string_view headers, std::vector<Op>& ops, std::size_t from) {
  const std::size_t records = ops.size() - from;
  const bool too_many = records > 1 && headers.size() * records > limits::kSplitHeaderBytesMax;
  const std::string given =
      too_many ? encode_headers({{"mqtt.headers_dropped", "all"}}) : std::string(headers);
  for (std::size_t i = from; i < ops.size(); ++i) std::get<Append>(ops[i]).record.headers = given;
  const auto all = too_many ? decode_headers(headers) : Result<std::vector<Header>>();
  return all ? static_cast<std::int64_t>(all->size() * records) : 0;
}

}  // namespace

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
                             std::vector<Op>& ops, const Extra& extra) {
  if (extra.must_be_text && !is_valid_utf8(payload)) {
    const Failure no_text = Failure{"not_utf8", "it is not UTF-8, though its Payload Format "
                                                "Indicator says so"};
    quarantine(resolved, payload, no_text, extra, ops);
    Outcome outcome;
    outcome.quarantined = no_text.name;
    return outcome;
  }
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
    Outcome outcome;
    outcome.route = &route;
    const auto failed = append_all(candidate, tree, payload, retain, resolved, outcome, ops);
    if (!failed) {
      if (!extra.headers.empty()) {
        outcome.dropped_headers = give_headers(extra.headers, ops, before);
      }
      return outcome;
    }
    ops.resize(before);  // all of a message or none
    quarantine(resolved, payload, *failed, extra, ops);
    outcome = {};
    outcome.quarantined = failed->name;
    outcome.route = &route;
    return outcome;
  }
  quarantine(resolved, payload, failure, extra, ops);
  Outcome outcome;
  outcome.quarantined = failure.name;
  return outcome;
}

std::vector<Count> Ingest::Outcome::counts() const {
  std::vector<Count> out;
  if (quarantined != nullptr) out.push_back({cat("quarantined.", quarantined), 1});
  if (unreadable_times > 0) {
    out.push_back({cat(kUnreadableTimes, route->topic), unreadable_times});
  }
  if (implausible_times > 0) {
    out.push_back({cat(kImplausibleTimes, route->topic), implausible_times});
  }
  if (dropped_headers > 0) out.push_back({"dropped.headers", dropped_headers});
  return out;
}

std::optional<Ingest::Failure> Ingest::append_all(const Candidate& candidate, const Json* tree,
                                                  std::string_view payload, bool retain,
                                                  const Resolved& resolved, Outcome& outcome,
                                                  std::vector<Op>& ops) {
  const Route& route = candidate.target->route;
  if (tree != nullptr) {
    auto parts = take_apart(*tree, payload, route);
    if (!parts) return Failure{"no_value", parts.error().what};
    for (Part& part : *parts) {
      if (auto failed = append(candidate, std::move(part), retain, resolved, outcome, ops)) {
        return failed;
      }
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
  return append(candidate, std::move(part), retain, resolved, outcome, ops);
}

// A time that is not taken is not the reading's fault: the append time stands for it.
void Ingest::take_time(const Route& route, const JsonScalar& time, Record& record,
                       Outcome& outcome) const {
  if (time.kind == JsonScalar::Kind::null) return;  // it has none, and says so
  const auto ms =
      read_device_time(time, route.time_unit, route.time_zone ? &*route.time_zone : nullptr);
  if (!ms) {
    ++outcome.unreadable_times;
    outcome.time_fault = ms.error().what;
    return;
  }
  const std::int64_t most = clock_.trusted() ? clock_.wall_ms() + limits::kPlausibleAheadMs
                                             : limits::kPlausibleBeforeMs;
  if (*ms < limits::kPlausibleFromMs || *ms > most) {
    ++outcome.implausible_times;
    outcome.time_fault = cat("'", printable(time.text.substr(0, 48)), "' would be ",
                             format_time_utc(*ms), ", which is not believed");
    return;
  }
  record.timestamp_ms = *ms;
  record.attributes |= kDeviceTime;
}

std::optional<Ingest::Failure> Ingest::append(const Candidate& candidate, Part&& part, bool retain,
                                              const Resolved& resolved, Outcome& outcome,
                                              std::vector<Op>& ops) {
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
  if (part.time) take_time(route, *part.time, record, outcome);
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
                        const Extra& extra, std::vector<Op>& ops) const {
  QuarantineNote note;
  note.reason = failure.name;
  note.detail = failure.reason;
  note.mqtt_topic = resolved.source->mqtt_topic;
  note.client_id = resolved.source->client_id;
  if (auto own = decode_headers(extra.headers)) note.others = std::move(*own);
  set_aside(resolved.source, payload, std::move(note), ops);
}

void Ingest::set_aside(const std::shared_ptr<Source>& source, std::string_view payload_beginning,
                       QuarantineNote note, std::vector<Op>& ops) const {
  Append made;
  made.tp = quarantine_;
  made.source = source;
  made.record.key = source->client_id;
  made.record.value = std::string(payload_beginning);
  made.record.headers = encode_note(std::move(note));
  ops.emplace_back(std::move(made));
}

}  // namespace wayside
