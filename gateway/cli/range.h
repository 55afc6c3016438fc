// The range of records that `read` is asked for, in rpk's grammar: start, end, 100, 100:200,
// :200, +10, -10, @TIME, @T1:T2, :end. Thread: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "storage/reader.h"

namespace wayside {

struct ReadRange {
  enum class Kind { all, offsets, first_n, last_n, times, end } kind = Kind::all;
  std::int64_t from = 0;           // offset, count, or append time in ms
  std::optional<std::int64_t> to;  // exclusive
};

// The offset that a range begins at in a partition ("now": its end), between log start and end.
[[nodiscard]] Result<std::int64_t> offset_meant(LogReader& reader, const Topic& topic,
                                                const PartitionMarks& marks,
                                                const std::string& text);

// Times: RFC 3339, milliseconds since 1970, or back from now: -1h.
[[nodiscard]] Result<ReadRange> parse_range(std::string_view text, std::int64_t now_ms);

}  // namespace wayside
