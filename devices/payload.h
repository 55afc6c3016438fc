// Looking into a JSON payload: whether it is one, and what lies below two pointers. The payload
// itself is never rewritten. nlohmann/json is included in payload.cc alone.
// Thread: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "devices/route.h"

namespace wayside {

struct JsonScalar {
  enum class Kind { null, text, number, boolean, structure } kind = Kind::null;
  std::string text;  // of a number: as it was written, or the shortest form that means the same
};

struct InspectedJson {
  std::optional<JsonScalar> key;
  std::optional<JsonScalar> time;
};

// Walks the whole payload once. An error says where it is not JSON.
[[nodiscard]] Result<InspectedJson> inspect_json(std::string_view payload, const JsonPointer* key,
                                                 const JsonPointer* time);

// One record of a payload.
struct Part {
  std::string value;
  std::optional<JsonScalar> key, time;
};
// The records of a payload that is looked into as a tree, by the route's split, value, key and
// time; key and time are looked for in the part, then in the payload. Parts of JSON are cut out of
// its text, byte for byte; parts of CBOR are encoded anew. An error says what is missing. REQUIRES:
// `tree` is `payload` parsed.
[[nodiscard]] Result<std::vector<Part>> take_apart(const Json& tree, std::string_view payload,
                                                   const Route& route);
[[nodiscard]] Result<Json> parse_payload(std::string_view payload, PayloadKind kind);

}  // namespace wayside
