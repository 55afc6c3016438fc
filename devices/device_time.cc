#include "devices/device_time.h"

#include <date/tz.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/text.h"

namespace wayside {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::int64_t kMinuteMs = 60'000, kHourMs = 60 * kMinuteMs;
constexpr std::size_t kShownBytes = 48;

// Goes through a text; each step takes something, or leaves all as it is and says so.
class Cursor {
 public:
  explicit Cursor(std::string_view s) : s_(s) {}

  // A number of `least` to `most` digits, and no further digit behind it.
  std::optional<unsigned> number(std::size_t least, std::size_t most) {
    std::size_t n = 0;
    while (n < s_.size() && is_digit(s_[n])) ++n;
    if (n < least || n > most) return std::nullopt;
    return digits(n);
  }
  // So many digits, whatever is behind them.
  std::optional<unsigned> digits(std::size_t n) {
    unsigned v = 0;
    if (n > s_.size()) return std::nullopt;
    for (std::size_t i = 0; i < n; ++i) {
      if (!is_digit(s_[i])) return std::nullopt;
      v = v * 10 + static_cast<unsigned>(s_[i] - '0');
    }
    s_.remove_prefix(n);
    return v;
  }
  [[nodiscard]] bool digit_next() const { return !s_.empty() && is_digit(s_.front()); }
  // One character of this set; 0: none.
  char one_of(std::string_view set) {
    if (s_.empty() || set.find(s_.front()) == std::string_view::npos) return 0;
    const char c = s_.front();
    s_.remove_prefix(1);
    return c;
  }
  bool word(std::string_view upper) {
    if (s_.size() < upper.size()) return false;
    for (std::size_t i = 0; i < upper.size(); ++i) {
      if ((s_[i] >= 'a' && s_[i] <= 'z' ? s_[i] - 32 : s_[i]) != upper[i]) return false;
    }
    s_.remove_prefix(upper.size());
    return true;
  }
  bool spaces() {
    bool any = false;
    while (one_of(" \t") != 0) any = true;
    return any;
  }
  // "[Europe/Berlin]", as Java writes it behind an offset that says the same.
  void bracket() {
    if (s_.starts_with('[') && s_.ends_with(']')) s_ = {};
  }
  [[nodiscard]] bool at_end() const { return s_.empty(); }

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  std::string_view s_;
};

// Days since 1970 of 2026-11-25, 2026/11/25, 2026.11.25, 25.11.2026 or 20261125.
std::optional<std::int64_t> read_date(Cursor& c, std::string_view whole) {
  std::optional<unsigned> year, month, day;
  const std::size_t first = std::min(whole.find_first_not_of("0123456789"), whole.size());
  if (first == 8 || first == 14) {
    year = c.digits(4), month = c.digits(2), day = c.digits(2);
  } else if (first == 4) {
    year = c.number(4, 4);
    const char separator = c.one_of("-/.");
    if (separator == 0) return std::nullopt;
    month = c.number(1, 2);
    if (c.one_of({&separator, 1}) == 0) return std::nullopt;
    day = c.number(1, 2);
  } else {
    day = c.number(1, 2);
    if (c.one_of(".") == 0) return std::nullopt;
    month = c.number(1, 2);
    if (c.one_of(".") == 0) return std::nullopt;
    year = c.number(4, 4);
  }
  if (!year || !month || !day) return std::nullopt;
  const date::year_month_day ymd{date::year(static_cast<int>(*year)), date::month(*month),
                                 date::day(*day)};
  if (!ymd.ok()) return std::nullopt;
  return date::sys_days(ymd).time_since_epoch().count();
}

// Of 12:30, 12:30:05, 12:30:05.25, 12:30:05,25, 1230, 123005.
std::optional<std::int64_t> read_time_of_day(Cursor& c) {
  const auto hour = c.digits(2);
  const bool colons = c.one_of(":") != 0;
  const auto minute = c.digits(2);
  if (!hour || !minute || *hour > 23 || *minute > 59) return std::nullopt;
  std::int64_t ms = *hour * kHourMs + *minute * kMinuteMs;
  if (colons ? c.one_of(":") == 0 : !c.digit_next()) return ms;
  const auto second = c.digits(2);
  if (!second || *second > 60) return std::nullopt;
  ms += *second * 1000LL;
  if (c.one_of(".,") == 0) return ms;
  if (!c.digit_next()) return std::nullopt;
  for (std::int64_t scale = 100; c.digit_next(); scale /= 10) ms += *c.digits(1) * scale;
  return ms;
}

enum class Zone { wrong, none, given };

// Z, UTC, GMT, +01:00, +0100, +01.
Zone read_zone(Cursor& c, std::int64_t& offset_ms) {
  c.spaces();
  if (c.at_end()) return Zone::none;
  if (c.one_of("Zz") != 0 || c.word("UTC") || c.word("GMT")) {
    c.bracket();
    return c.at_end() ? Zone::given : Zone::wrong;
  }
  const char sign = c.one_of("+-");
  const auto hour = sign == 0 ? std::nullopt : c.digits(2);
  if (!hour || *hour > 23) return Zone::wrong;
  unsigned minute = 0;
  const bool colon = c.one_of(":") != 0;
  if (colon || c.digit_next()) {
    const auto read = c.digits(2);
    if (!read || *read > 59) return Zone::wrong;
    minute = *read;
  }
  c.bracket();
  offset_ms = (*hour * kHourMs + minute * kMinuteMs) * (sign == '-' ? -1 : 1);
  return c.at_end() ? Zone::given : Zone::wrong;
}

tl::unexpected<Error> not_read(std::string_view text, std::string_view why) {
  const std::string shown = printable(text.substr(0, kShownBytes));
  return fail(ErrorCode::invalid_argument,
              cat("'", shown, text.size() > kShownBytes ? "…' " : "' ", why));
}

Result<std::int64_t> read_calendar(std::string_view text, const TimeZone* zone) {
  Cursor c(text);
  const auto days = read_date(c, text);
  if (!days) return not_read(text, "is no time that can be read");
  if (c.at_end()) return not_read(text, "is a date without a time of day");
  if (c.one_of("Tt") == 0 && !c.spaces() && !c.digit_next()) {
    return not_read(text, "is no time that can be read");
  }
  const auto in_day = read_time_of_day(c);
  std::int64_t offset_ms = 0;
  const Zone found = in_day ? read_zone(c, offset_ms) : Zone::wrong;
  if (found == Zone::wrong) return not_read(text, "is no time that can be read");
  const std::int64_t local_ms = *days * 24 * kHourMs + *in_day;
  if (found == Zone::given) return local_ms - offset_ms;
  if (zone == nullptr) {
    return not_read(text, "is a local time, and the route has no time_zone");
  }
  return zone->utc_ms(local_ms);
}

std::optional<double> read_number(std::string_view text) {
  std::string with_point;  // of one that is written with a comma
  if (const std::size_t comma = text.find(','); comma != std::string_view::npos) {
    with_point = text;
    with_point[comma] = '.';
    text = with_point;
  }
  double number = 0;
  const char* end = text.data() + text.size();
  const auto r = std::from_chars(text.data(), end, number);
  if (r.ec != std::errc{} || r.ptr != end || !std::isfinite(number)) return std::nullopt;
  return number;
}

// By size when the unit is not said: a number that means 1973 to 5138 in one of them means no such
// year in another.
double ms_of(double number, TimeUnit unit) {
  const double size = std::abs(number);
  if (unit == TimeUnit::automatic) {
    unit = size < 1e11   ? TimeUnit::s
           : size < 1e14 ? TimeUnit::ms
           : size < 1e17 ? TimeUnit::us
                         : TimeUnit::ns;
  }
  return unit == TimeUnit::s    ? number * 1e3
         : unit == TimeUnit::us ? number / 1e3
         : unit == TimeUnit::ns ? number / 1e6
                                : number;
}

}  // namespace

Result<TimeZone> TimeZone::parse(std::string_view text) {
  TimeZone out;
  Cursor c(text);
  if (read_zone(c, out.offset_ms_) == Zone::given) return out;
  try {
    out.zone_ = date::locate_zone(std::string(text));
    out.zone_->get_info(date::local_seconds(seconds(0)));  // reads it now, not with a reading
    return out;
  } catch (const std::exception&) {
    return fail(ErrorCode::invalid_argument,
                cat("'", printable(text), "' is no time zone that this system knows"),
                "write an offset (\"+01:00\"), \"UTC\", or a name such as \"Europe/Berlin\", for "
                "which the package tzdata must be installed");
  }
}

std::int64_t TimeZone::utc_ms(std::int64_t local_ms) const {
  if (zone_ == nullptr) return local_ms - offset_ms_;
  const auto local = date::floor<seconds>(date::local_time<milliseconds>(milliseconds(local_ms)));
  // `first` is what held before the clocks were changed.
  const auto offset = zone_->get_info(local).first.offset;
  return local_ms - std::chrono::duration_cast<milliseconds>(offset).count();
}

Result<std::int64_t> read_device_time(const JsonScalar& value, TimeUnit unit,
                                      const TimeZone* zone) {
  if (value.kind != JsonScalar::Kind::number && value.kind != JsonScalar::Kind::text) {
    return fail(ErrorCode::invalid_argument, "the time's field is neither a number nor a text");
  }
  std::string_view text = value.text;
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
    text.remove_suffix(1);
  }
  if (text.empty()) return fail(ErrorCode::invalid_argument, "the time's field is empty");
  // 20261125123005 would be the year 2612 as ms: nobody means that.
  const bool is_calendar = unit == TimeUnit::automatic && text.size() == 14 &&
                           text.find_first_not_of("0123456789") == std::string_view::npos;
  const auto number = is_calendar ? std::nullopt : read_number(text);
  if (!number) return read_calendar(text, zone);
  const double ms = ms_of(*number, unit);
  if (std::abs(ms) >= 1e15) return not_read(text, "is a number too large for a time");
  return std::llround(ms);
}

}  // namespace wayside
