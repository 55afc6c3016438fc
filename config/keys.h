// The table of keys: the one place that says which keys there are, of what type, in what range,
// with what default and what they mean. Loading, the default file and the reference come from it.
// Thread: constant data.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace wayside {

enum class KeyType {
  text,
  integer,
  boolean,
  duration,   // "100ms", "10s", "5m", "2h", "7d"
  retention,  // a duration, or "forever"
  bytes,      // 4096, "64KiB", "2GiB"
  strings,    // ["a", "b"]
  choice,     // one of Key::choices
};

struct KeyValue {
  std::string text;
  std::int64_t number = 0;
  bool boolean = false;
  std::vector<std::string> strings;
};

struct Key {
  std::string_view section;  // "": top level; "topic", "route", "bridge": arrays of tables
  std::string_view name;
  KeyType type;
  std::string_view fallback;  // as it is written in the file; "" with `optional`: absent
  bool required;
  std::int64_t least, most;  // of numbers, durations (ms) and bytes
  std::string_view choices;  // "a|b|c"
  std::string_view doc;
  void (*set)(Config& config, const KeyValue& value);
};

[[nodiscard]] std::span<const Key> config_keys();
// Sections in the order of the file; true: an array of tables ([[name]]).
struct Section {
  std::string_view name;
  bool array;
  std::string_view doc;
  std::string_view example;  // of an array: what the default file shows, commented out
};
[[nodiscard]] std::span<const Section> config_sections();
// Reads a value as it is written in the file: for defaults and for the loader.
[[nodiscard]] Result<KeyValue> parse_key_value(const Key& key, std::string_view text);
// `"100ms"`: how a value of this key is written, for hints.
[[nodiscard]] std::string key_form(const Key& key);

}  // namespace wayside
