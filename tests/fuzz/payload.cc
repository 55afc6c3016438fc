// Payloads: JSON and CBOR as trees, two fields that are looked for, parts that are cut out.
#include "devices/device_time.h"
#include "devices/payload.h"

#include "base/text.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using fuzz::require;

namespace {

JsonPointer pointer(FuzzedDataProvider& in) {
  JsonPointer out;
  for (int n = in.ConsumeIntegralInRange(0, 3); n > 0; --n) {
    out.push_back(in.ConsumeBool() ? std::string(1, in.ConsumeIntegralInRange('0', '9'))
                                   : in.ConsumeRandomLengthString(4));
  }
  return out;
}

void look_for(std::string_view text, const JsonPointer& key, const JsonPointer& time) {
  const auto tree = Json::parse(text);
  const auto inspected = inspect_json(text, &key, &time);
  require(tree.has_value() == inspected.has_value(), "both readers agree on what is JSON");
  if (!inspected) return;
  for (const auto& [at, found] : {std::pair(&key, &inspected->key), {&time, &inspected->time}}) {
    const Json* there = tree->at(*at);
    require((there != nullptr) == found->has_value(), "both find the field, or neither");
    if (there == nullptr || (*found)->kind != JsonScalar::Kind::text) continue;
    const auto* string = std::get_if<std::string>(&there->value);
    require(string != nullptr && *string == (*found)->text, "both find the same text");
  }
  if (inspected->time) {
    for (const TimeUnit unit : {TimeUnit::automatic, TimeUnit::s, TimeUnit::ns}) {
      (void)read_device_time(*inspected->time, unit, nullptr);
    }
  }
}

void take(std::string_view payload, PayloadKind kind, const Route& route) {
  const auto tree = parse_payload(payload, kind);
  if (!tree) return;
  // (-0.0 becomes -0, which is a whole number, and then 0.)
  const auto dumped = Json::parse(tree->dump());
  const auto again = dumped ? Json::parse(dumped->dump()) : dumped;
  require(again && again->dump() == dumped->dump(), "a dumped tree is read as the same");
  const auto parts = take_apart(*tree, payload, route);
  if (!parts) return;
  for (const Part& part : *parts) {
    require(parse_payload(part.value, kind).has_value(), "a part is whole");
    if (kind == PayloadKind::json) {
      require(payload.find(part.value) != std::string_view::npos, "a part of JSON is cut out");
    }
  }
  if (!route.split) {
    require(parts->size() == 1, "without a split there is one part");
    const Json* at = route.value ? tree->at(*route.value) : &*tree;
    require(at != nullptr, "a part stands where the route says");
    require(parse_payload(parts->front().value, kind)->dump() == at->dump(), "and means the same");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider in(data, size);
  const PayloadKind kind = in.ConsumeBool() ? PayloadKind::json : PayloadKind::cbor;
  Route route;
  const JsonPointer key = pointer(in), time = pointer(in);
  if (in.ConsumeBool()) route.split.emplace(pointer(in));
  if (in.ConsumeBool()) route.value.emplace(pointer(in));
  route.time = time;
  route.payload = kind;
  const std::string condition = in.ConsumeRandomLengthString(24);
  const std::string payload = in.ConsumeRemainingBytesAsString();
  look_for(payload, key, time);
  take(payload, kind, route);
  if (const auto when = Condition::parse(condition)) {
    if (const auto tree = parse_payload(payload, kind)) (void)when->holds(*tree);
  }
  return 0;
}
