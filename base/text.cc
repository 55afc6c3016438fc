#include "base/text.h"

#include <sys/random.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace wayside {
namespace {

// The length of the UTF-8 sequence at s[i], or 0 when it is broken (overlong, surrogate, torn).
std::size_t utf8_length(std::string_view s, std::size_t i, std::uint32_t* code_point = nullptr) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(s[k]); };
  const unsigned char b = byte(i);
  std::size_t n = 0;
  std::uint32_t cp = 0;
  if (b < 0x80) {
    n = 1, cp = b;
  } else if (b >= 0xC2 && b <= 0xDF) {
    n = 2, cp = b & 0x1F;
  } else if (b >= 0xE0 && b <= 0xEF) {
    n = 3, cp = b & 0x0F;
  } else if (b >= 0xF0 && b <= 0xF4) {
    n = 4, cp = b & 0x07;
  } else {
    return 0;
  }
  if (i + n > s.size()) return 0;
  for (std::size_t k = 1; k < n; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
    cp = cp << 6 | (byte(i + k) & 0x3F);
  }
  if (n == 3 && (cp < 0x800 || (cp >= 0xD800 && cp <= 0xDFFF))) return 0;
  if (n == 4 && (cp < 0x10000 || cp > 0x10FFFF)) return 0;
  if (code_point != nullptr) *code_point = cp;
  return n;
}

template <class Bad>
bool every_code_point(std::string_view s, Bad bad) {
  for (std::size_t i = 0; i < s.size();) {
    // Most text is ASCII: eight bytes at a time, none of them 0.
    for (std::uint64_t word = 0; i + sizeof word <= s.size(); i += sizeof word) {
      std::memcpy(&word, s.data() + i, sizeof word);
      if (((word | (word - 0x0101010101010101U)) & 0x8080808080808080U) != 0) break;
    }
    if (i == s.size()) break;
    std::uint32_t cp = 0;
    const std::size_t n = utf8_length(s, i, &cp);
    if (n == 0 || bad(cp)) return false;
    i += n;
  }
  return true;
}

struct Unit {
  std::string_view name;
  std::int64_t factor;
};

std::optional<std::int64_t> parse_with_unit(std::string_view s, std::span<const Unit> units) {
  std::int64_t number = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), number);
  if (r.ec != std::errc{} || number < 0) return std::nullopt;
  std::string_view unit(r.ptr, static_cast<std::size_t>(s.data() + s.size() - r.ptr));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  for (const Unit& u : units) {
    std::int64_t product = 0;
    if (u.name == unit && !__builtin_mul_overflow(number, u.factor, &product)) return product;
  }
  return std::nullopt;
}

constexpr std::int64_t kDayMs = 86'400'000;

// Days since 1970 of a proleptic Gregorian date (H. Hinnant's days_from_civil).
std::int64_t days_from_civil(std::int64_t y, unsigned m, unsigned d) {
  y -= m <= 2;
  const std::int64_t era = (y >= 0 ? y : y - 399) / 400;
  const auto yoe = static_cast<unsigned>(y - era * 400);
  const unsigned doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
  const unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
  return era * 146097 + static_cast<std::int64_t>(doe) - 719468;
}

}  // namespace

bool is_valid_utf8(std::string_view s) {
  return every_code_point(s, [](std::uint32_t) { return false; });
}

std::string_view utf8_beginning(std::string_view s, std::size_t most) {
  if (s.size() <= most) return s;
  while (most > 0 && (static_cast<unsigned char>(s[most]) & 0xC0) == 0x80) --most;
  return s.substr(0, most);
}

bool is_mqtt_utf8(std::string_view s) {
  return every_code_point(s, [](std::uint32_t cp) { return cp == 0; });
}

void append_json_string(std::string& out, std::string_view s) {
  out.push_back('"');
  for (const char c : s) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
          std::array<char, 8> buf;
          std::snprintf(buf.data(), buf.size(), "\\u%04x", static_cast<unsigned>(c));
          out += buf.data();
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

void append_json_bytes(std::string& out, std::string_view bytes) {
  if (is_valid_utf8(bytes)) return append_json_string(out, bytes);
  out += "{\"base64\":\"";
  out += base64(bytes);
  out += "\"}";
}

std::string base64(std::string_view bytes) {
  static constexpr char kAlphabet[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t v = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      v = v << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      out.push_back(k <= n ? kAlphabet[v >> (18 - 6 * k) & 63] : '=');
    }
  }
  return out;
}

namespace {

// Controls of a terminal (C1 are as dangerous as C0), and what changes the order of other
// characters, breaks the line, or is not seen at all: with it a line can look like another one.
bool deceives(std::uint32_t cp) {
  if (cp >= 0x20 && cp < 0x7F) return false;
  static constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 21> kRanges = {{
      {0x00, 0x1F},       {0x7F, 0x9F},       {0xAD, 0xAD},       {0x34F, 0x34F},
      {0x61C, 0x61C},     {0x115F, 0x1160},   {0x17B4, 0x17B5},   {0x180B, 0x180F},
      {0x200B, 0x200F},   {0x2028, 0x202E},   {0x2060, 0x206F},   {0x3164, 0x3164},
      {0xD800, 0xDFFF},   {0xFE00, 0xFE0F},   {0xFEFF, 0xFEFF},   {0xFFA0, 0xFFA0},
      {0xFFF0, 0xFFFB},   {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF},
      {0x10FFFE, 0x10FFFF},
  }};
  return std::any_of(kRanges.begin(), kRanges.end(),
                     [&](const auto& r) { return cp >= r.first && cp <= r.second; });
}

}  // namespace

std::string printable(std::string_view s) {
  std::string out;
  for (std::size_t i = 0; i < s.size();) {
    std::uint32_t cp = 0;
    const std::size_t n = utf8_length(s, i, &cp);
    if (n == 0 || deceives(cp)) {
      std::array<char, 8> buf;
      for (std::size_t k = 0; k < std::max<std::size_t>(n, 1); ++k) {
        std::snprintf(buf.data(), buf.size(), "\\x%02x", static_cast<unsigned char>(s[i + k]));
        out += buf.data();
      }
    } else {
      out.append(s.substr(i, n));
    }
    i += std::max<std::size_t>(n, 1);
  }
  return out;
}

std::string shortened(std::string_view printable_text, std::size_t most) {
  if (display_width(printable_text) <= most) return std::string(printable_text);
  std::size_t at = 0;
  for (std::size_t n = 0; n + 1 < most; ++n) {
    do ++at;
    while (at < printable_text.size() && (printable_text[at] & 0xC0) == 0x80);
  }
  return cat(printable_text.substr(0, at), "…");
}

std::size_t display_width(std::string_view s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::optional<std::int64_t> parse_duration_ms(std::string_view s) {
  static constexpr std::array kUnits = {Unit{"ms", 1},     Unit{"s", 1000},
                                        Unit{"m", 60'000}, Unit{"h", 3'600'000},
                                        Unit{"d", kDayMs}, Unit{"w", 7 * kDayMs}};
  if (s == "0") return 0;
  return parse_with_unit(s, kUnits);
}

std::optional<std::int64_t> parse_bytes(std::string_view s) {
  static constexpr std::array kUnits = {Unit{"", 1},
                                        Unit{"B", 1},
                                        Unit{"KB", 1000},
                                        Unit{"KiB", 1LL << 10},
                                        Unit{"MB", 1'000'000},
                                        Unit{"MiB", 1LL << 20},
                                        Unit{"GB", 1'000'000'000},
                                        Unit{"GiB", 1LL << 30}};
  return parse_with_unit(s, kUnits);
}

std::optional<std::int64_t> parse_int(std::string_view s) {
  std::int64_t v = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
  if (r.ec != std::errc{} || r.ptr != s.data() + s.size()) return std::nullopt;
  return v;
}

std::string format_duration(std::int64_t ms) {
  static constexpr std::array kUnits = {Unit{"d", kDayMs}, Unit{"h", 3'600'000}, Unit{"m", 60'000},
                                        Unit{"s", 1000}};
  for (const Unit& u : kUnits) {
    if (ms != 0 && ms % u.factor == 0) return cat(ms / u.factor, u.name);
  }
  return cat(ms, "ms");
}

std::string format_bytes(std::int64_t bytes) {
  static constexpr std::array kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  double v = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (std::abs(v) >= 1024 && unit + 1 < kNames.size()) v /= 1024, ++unit;
  std::array<char, 32> buf;
  std::snprintf(buf.data(), buf.size(), unit == 0 ? "%.0f %s" : "%.1f %s", v, kNames[unit]);
  return buf.data();
}

std::string format_time_utc(std::int64_t ms) {
  std::int64_t days = ms / kDayMs;
  if (ms % kDayMs < 0) --days;
  const std::int64_t in_day = ms - days * kDayMs;
  // civil_from_days, the inverse of days_from_civil above.
  const std::int64_t z = days + 719468;
  const std::int64_t era = (z >= 0 ? z : z - 146096) / 146097;
  const auto doe = static_cast<unsigned>(z - era * 146097);
  const unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
  const unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
  const unsigned mp = (5 * doy + 2) / 153;
  const unsigned month = mp < 10 ? mp + 3 : mp - 9;
  const std::int64_t year = static_cast<std::int64_t>(yoe) + era * 400 + (month <= 2 ? 1 : 0);
  std::array<char, 48> buf;
  std::snprintf(buf.data(), buf.size(), "%04lld-%02u-%02uT%02d:%02d:%02d.%03dZ",
                static_cast<long long>(year), month, doy - (153 * mp + 2) / 5 + 1,
                static_cast<int>(in_day / 3'600'000), static_cast<int>(in_day / 60'000 % 60),
                static_cast<int>(in_day / 1000 % 60), static_cast<int>(in_day % 1000));
  return buf.data();
}

std::optional<std::int64_t> parse_rfc3339_ms(std::string_view s) {
  const auto number = [&](std::size_t at, std::size_t n) -> std::optional<unsigned> {
    unsigned v = 0;
    if (at + n > s.size()) return std::nullopt;
    for (std::size_t i = at; i < at + n; ++i) {
      if (s[i] < '0' || s[i] > '9') return std::nullopt;
      v = v * 10 + static_cast<unsigned>(s[i] - '0');
    }
    return v;
  };
  const auto is = [&](std::size_t at, std::string_view set) {
    return at < s.size() && set.find(s[at]) != std::string_view::npos;
  };
  const auto year = number(0, 4), month = number(5, 2), day = number(8, 2);
  const auto hour = number(11, 2), minute = number(14, 2), second = number(17, 2);
  if (!year || !month || !day || !hour || !minute || !second || !is(4, "-") || !is(7, "-") ||
      !is(10, "Tt ") || !is(13, ":") || !is(16, ":")) {
    return std::nullopt;
  }
  static constexpr std::array<unsigned, 12> kDays = {31, 29, 31, 30, 31, 30,
                                                     31, 31, 30, 31, 30, 31};
  if (*month < 1 || *month > 12 || *day < 1 || *day > kDays[*month - 1] || *hour > 23 ||
      *minute > 59 || *second > 60) {
    return std::nullopt;
  }
  std::size_t at = 19;
  std::int64_t fraction_ms = 0;
  if (is(at, ".")) {
    std::int64_t scale = 100;
    for (++at; is(at, "0123456789"); ++at, scale /= 10) fraction_ms += (s[at] - '0') * scale;
    if (s[at - 1] == '.') return std::nullopt;
  }
  std::int64_t zone_ms = 0;
  if (is(at, "Zz")) {
    ++at;
  } else if (is(at, "+-")) {
    const auto zone_hour = number(at + 1, 2), zone_minute = number(at + 4, 2);
    if (!zone_hour || !zone_minute || !is(at + 3, ":") || *zone_hour > 23 || *zone_minute > 59) {
      return std::nullopt;
    }
    zone_ms = (*zone_hour * 60 + *zone_minute) * 60'000LL * (s[at] == '-' ? -1 : 1);
    at += 6;
  } else {
    return std::nullopt;
  }
  if (at != s.size()) return std::nullopt;
  return days_from_civil(*year, *month, *day) * kDayMs + *hour * 3'600'000LL + *minute * 60'000LL +
         *second * 1000LL + fraction_ms - zone_ms;
}

std::vector<std::string_view> split(std::string_view s, char separator) {
  std::vector<std::string_view> out;
  for (std::size_t at = 0;;) {
    const std::size_t next = s.find(separator, at);
    out.push_back(s.substr(at, next == std::string_view::npos ? next : next - at));
    if (next == std::string_view::npos) return out;
    at = next + 1;
  }
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  std::size_t best_distance = word.size() / 3 + 2;
  for (const std::string& c : candidates) {
    std::vector<std::size_t> row(c.size() + 1);
    for (std::size_t j = 0; j <= c.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= c.size(); ++j) {
        const std::size_t substitute = diagonal + (word[i - 1] == c[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    if (row[c.size()] < best_distance) best = c, best_distance = row[c.size()];
  }
  return best;
}

namespace {

std::array<unsigned char, 16> random_bytes() {
  std::array<unsigned char, 16> b;
  WS_CHECK(getrandom(b.data(), b.size(), 0) == static_cast<ssize_t>(b.size()));
  return b;
}

void append_hex(std::string& out, unsigned char byte) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  out.push_back(kDigits[byte >> 4]);
  out.push_back(kDigits[byte & 15]);
}

}  // namespace

std::string random_uuid() {
  auto b = random_bytes();
  b[6] = static_cast<unsigned char>((b[6] & 0x0F) | 0x40);
  b[8] = static_cast<unsigned char>((b[8] & 0x3F) | 0x80);
  std::string out;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out.push_back('-');
    append_hex(out, b[i]);
  }
  return out;
}

std::string random_128() {
  std::string out;
  for (const unsigned char byte : random_bytes()) append_hex(out, byte);
  return out;
}

}  // namespace wayside
