#include "gateway/cli/range.h"

#include <algorithm>

#include "base/clock.h"
#include "base/text.h"

namespace wayside {
namespace {

std::optional<std::int64_t> parse_time(std::string_view s, std::int64_t now_ms) {
  if (s == "now") return now_ms;
  if (s.starts_with('-')) {
    const auto back = parse_duration_ms(s.substr(1));
    return back ? std::optional(now_ms - *back) : std::nullopt;
  }
  if (const auto ms = parse_int(s)) return ms;
  return parse_rfc3339_ms(s);
}

// Where the colon between two times stands: RFC 3339 times hold colons of their own.
std::size_t between_times(std::string_view s, std::int64_t now_ms) {
  for (std::size_t at = s.find(':'); at != std::string_view::npos; at = s.find(':', at + 1)) {
    std::string_view right = s.substr(at + 1);
    if (right.starts_with('@')) right.remove_prefix(1);
    if (parse_time(s.substr(0, at), now_ms) &&
        (right.empty() || right == "end" || parse_time(right, now_ms))) {
      return at;
    }
  }
  return std::string_view::npos;
}

}  // namespace

Result<ReadRange> parse_range(std::string_view text, std::int64_t now_ms) {
  using Kind = ReadRange::Kind;
  const auto wrong = [&] {
    return fail(
        ErrorCode::invalid_argument, cat("'", printable(text), "' is no range of records"),
        "write start, end, 100, 100:200, :200, +10 (first ten of each partition), -10 (last "
        "ten), @-1h, @2026-11-22T08:00:00Z, or @T1:T2");
  };
  if (text.empty() || text == "start" || text == ":end" || text == "start:end") return ReadRange{};
  if (text == "end") return ReadRange{Kind::end, 0, {}};
  if (text.front() == '@') {
    const std::string_view times = text.substr(1);
    const std::size_t colon = between_times(times, now_ms);
    const auto from = parse_time(times.substr(0, colon), now_ms);
    if (!from) return wrong();
    ReadRange r{Kind::times, *from, {}};
    if (colon != std::string_view::npos && times.substr(colon + 1) != "end") {
      std::string_view end = times.substr(colon + 1);
      if (end.starts_with('@')) end.remove_prefix(1);
      r.to = parse_time(end, now_ms);
    }
    return r;
  }
  if (text.front() == '+' || text.front() == '-') {
    const auto n = parse_int(text.substr(1));
    if (!n || *n < 0) return wrong();
    return ReadRange{text.front() == '+' ? Kind::first_n : Kind::last_n, *n, {}};
  }
  const std::size_t colon = text.find(':');
  const std::string_view left = text.substr(0, colon);
  ReadRange r{Kind::offsets, 0, {}};
  if (!left.empty() && left != "start") {
    const auto from = parse_int(left);
    if (!from || *from < 0) return wrong();
    r.from = *from;
  }
  if (colon != std::string_view::npos && text.substr(colon + 1) != "end" &&
      !text.substr(colon + 1).empty()) {
    r.to = parse_int(text.substr(colon + 1));
    if (!r.to || *r.to < r.from) return wrong();
  }
  return r;
}

Result<std::int64_t> offset_meant(LogReader& reader, const Topic& topic,
                                  const PartitionMarks& m, const std::string& text) {
  using Kind = ReadRange::Kind;
  WS_ASSIGN(const ReadRange range,
            parse_range(text == "now" ? "end" : text, SystemClock().wall_ms()));
  std::int64_t offset = m.log_start.value;
  if (range.kind == Kind::end) offset = m.log_end.value;
  if (range.kind == Kind::offsets) offset = range.from;
  if (range.kind == Kind::first_n) offset = m.records_after(m.log_start.value, range.from);
  if (range.kind == Kind::last_n) offset = m.records_before(m.log_end.value, range.from);
  if (range.kind == Kind::times) {
    WS_ASSIGN(const auto seq, reader.seq_at(topic.chain, {{m.tp}}, range.from));
    offset = m.log_end.value;
    if (seq) {
      WS_ASSIGN(const auto page, reader.read(topic.chain, *seq, {{m.tp}}, {1, SIZE_MAX}));
      if (!page.records.empty()) offset = page.records.front().offset.value;
    }
  }
  return std::clamp(offset, m.log_start.value, m.log_end.value);
}

}  // namespace wayside
