// A small JSON tree, for requests, answers and payloads that are looked into deeply: text (RFC
// 8259) and CBOR (RFC 8949) come in, text goes out. Nesting is bounded, so no input can exhaust
// the stack. Thread: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace wayside {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;
  // A CBOR byte string.
  struct Bytes {
    std::string bytes;
  };
  using Value = std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string,
                             Bytes, Array, Object>;

  Json() : value(nullptr) {}
  explicit Json(Value v) : value(std::move(v)) {}

  // An error says at which byte it is no JSON (no CBOR), or that it is nested too deeply.
  [[nodiscard]] static Result<Json> parse(std::string_view text);
  [[nodiscard]] static Result<Json> parse_cbor(std::string_view bytes);

  // A member of an object; null when it is none, or has no such.
  [[nodiscard]] const Json* find(std::string_view name) const;
  // A child by a token of a JSON pointer: a member, or an element by its index.
  [[nodiscard]] const Json* child(std::string_view token) const;
  // What stands at a JSON pointer (RFC 6901), given by its tokens; null when there is nothing.
  [[nodiscard]] const Json* at(const std::vector<std::string>& pointer) const;
  // Members as they are mostly wanted; the fallback when missing or of another type.
  [[nodiscard]] std::string text(std::string_view name, std::string_view fallback = "") const;
  [[nodiscard]] std::int64_t number(std::string_view name, std::int64_t fallback = 0) const;
  [[nodiscard]] bool flag(std::string_view name) const;
  [[nodiscard]] const Array& list(std::string_view name) const;  // empty when there is none

  // As text; bytes as {"base64":"…"}, numbers that JSON has not (NaN) as null.
  [[nodiscard]] std::string dump() const;
  [[nodiscard]] std::string dump_cbor() const;

  Value value;
};

}  // namespace wayside
