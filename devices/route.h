// Routes: which MQTT topics go to which topic of the log, and under which key.
// Pattern: "fleet/{truck}/gps", "site/{room}/#"; {name} captures one level, a last # takes the
// rest. Key: "" (none), a template of captures ("{truck}-{room}"), or a JSON pointer ("/vin").
// Source: MQTT 5.0 section 4.7 for levels, RFC 6901 for pointers. Thread: immutable once made.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "devices/time_zone.h"

namespace wayside {

class TopicPattern {
 public:
  [[nodiscard]] static Result<TopicPattern> parse(std::string_view text);

  // The captured levels, in the order of names(); nothing when the topic does not match.
  [[nodiscard]] std::optional<std::vector<std::string_view>> match(std::string_view topic) const;
  // Whether some topic would match both.
  [[nodiscard]] bool overlaps(const TopicPattern& other) const;
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::vector<std::optional<std::string>> levels_;  // none: a capture
  std::vector<std::string> names_;
  bool rest_ = false;  // ends with #
};

// The tokens of a JSON pointer (RFC 6901).
using JsonPointer = std::vector<std::string>;
[[nodiscard]] Result<JsonPointer> parse_json_pointer(std::string_view text);

class KeyRule {
 public:
  // `pattern` says which captures there are.
  [[nodiscard]] static Result<KeyRule> parse(std::string_view text, const TopicPattern& pattern);

  [[nodiscard]] bool none() const { return parts_.empty() && !pointer_; }
  // Of a key that lies in the payload.
  [[nodiscard]] const std::optional<JsonPointer>& pointer() const { return pointer_; }
  // Of a key that the topic alone decides.
  [[nodiscard]] std::string render(const std::vector<std::string_view>& captures) const;

 private:
  struct Part {
    std::string literal;
    std::optional<std::size_t> capture;
  };
  std::vector<Part> parts_;
  std::optional<JsonPointer> pointer_;
};

enum class PayloadKind { json, cbor, raw };
enum class TimeUnit { automatic, s, ms, us, ns };

// A condition on a field of the payload: "/type" (it is there and not null), "/type == \"gps\"",
// "/speed > 0"; with ==, !=, <, <=, >, >= against a number, a string, true, false or null.
class Condition {
 public:
  [[nodiscard]] static Result<Condition> parse(std::string_view text);
  // A missing field, or one of another type, makes every comparison but != false.
  [[nodiscard]] bool holds(const Json& payload) const;
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  enum class Op { present, eq, ne, lt, le, gt, ge };
  std::string text_;
  JsonPointer at_;
  Op op_ = Op::present;
  Json operand_;
};

struct Route {
  TopicPattern pattern;
  std::string topic;
  KeyRule key;
  std::optional<JsonPointer> time;
  TimeUnit time_unit = TimeUnit::automatic;
  std::optional<TimeZone> time_zone;  // of local times; none: they are not read
  PayloadKind payload = PayloadKind::json;
  std::optional<Condition> when;     // none: every payload
  std::optional<JsonPointer> split;  // an array: each element is a record of its own
  std::optional<JsonPointer> value;  // what is stored: what stands there, not the whole
  int line = 0;                      // in the configuration file
};

}  // namespace wayside
