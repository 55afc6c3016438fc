// Text: the few helpers that every folder needs. Thread: pure functions.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace wayside {

inline void append_text(std::string& out, std::string_view s) {
  out.append(s);
}
inline void append_text(std::string& out, char c) {
  out.push_back(c);
}
template <class N>
requires std::is_arithmetic_v<N>
void append_text(std::string& out, N n) {
  std::array<char, 40> buf;
  const auto r = std::to_chars(buf.data(), buf.data() + buf.size(), n);
  out.append(buf.data(), r.ptr);
}

// cat("a", 1, 'b') == "a1b".
template <class... A>
[[nodiscard]] std::string cat(const A&... parts) {
  std::string out;
  (append_text(out, parts), ...);
  return out;
}

[[nodiscard]] bool is_valid_utf8(std::string_view s);
// UTF-8 as MQTT wants it [MQTT-1.5.4-1/2]: valid, no U+0000, no surrogates.
[[nodiscard]] bool is_mqtt_utf8(std::string_view s);
// Its first `most` bytes, and fewer where those would end within a character.
[[nodiscard]] std::string_view utf8_beginning(std::string_view s, std::size_t most);

// Appends `s` as a JSON string with its quotes. REQUIRES: s is valid UTF-8.
void append_json_string(std::string& out, std::string_view s);
// Appends text as a JSON string, other bytes as {"base64":"…"}: the one record form everywhere.
void append_json_bytes(std::string& out, std::string_view bytes);
[[nodiscard]] std::string base64(std::string_view bytes);
// A terminal's safety: broken UTF-8, controls, and characters that are not seen, break the line or
// turn its direction, as \xNN for each byte.
[[nodiscard]] std::string printable(std::string_view s);
// What printable() gave, cut to so many characters, the last of them "…".
[[nodiscard]] std::string shortened(std::string_view printable_text, std::size_t most);
// How many columns `s` takes on a terminal, one per code point.
[[nodiscard]] std::size_t display_width(std::string_view s);

// "250ms", "10s", "5m", "2h", "7d", "0" -> milliseconds.
[[nodiscard]] std::optional<std::int64_t> parse_duration_ms(std::string_view s);
// "64MiB", "10KB", "4096", "2GiB" -> bytes.
[[nodiscard]] std::optional<std::int64_t> parse_bytes(std::string_view s);
[[nodiscard]] std::optional<std::int64_t> parse_int(std::string_view s);
// 604800000 -> "7d"; 1500 -> "1500ms".
[[nodiscard]] std::string format_duration(std::int64_t ms);
// 1536 -> "1.5 KiB".
[[nodiscard]] std::string format_bytes(std::int64_t bytes);
// 2026-11-22T09:23:13.123Z
[[nodiscard]] std::string format_time_utc(std::int64_t ms);
// RFC 3339 date-time (offset or Z) -> milliseconds since 1970 UTC.
[[nodiscard]] std::optional<std::int64_t> parse_rfc3339_ms(std::string_view s);

[[nodiscard]] std::vector<std::string_view> split(std::string_view s, char separator);
// The candidate nearest to `word` (edit distance ≤ 1/3 of its length), for "did you mean".
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);
// A random version-4 UUID in its usual form, from getrandom(2).
[[nodiscard]] std::string random_uuid();
// 128 random bits as 32 hexadecimal digits, from getrandom(2).
[[nodiscard]] std::string random_128();

}  // namespace wayside
