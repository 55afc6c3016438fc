// Looking into a JSON payload: whether it is one, and what lies below two pointers. The payload
// itself is never rewritten. nlohmann/json is included in payload.cc alone.
// Thread: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

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

// Seconds or milliseconds since 1970 (told apart by size), or RFC 3339; nothing for all else.
[[nodiscard]] std::optional<std::int64_t> device_time_ms(const JsonScalar& value);

}  // namespace wayside
