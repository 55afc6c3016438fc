// Where a partition begins and ends, and which offsets between have no record. Thread: plain
// values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"

namespace wayside {

// Offsets that have no record: `lost` ones had, `skipped` ones perhaps, and of the others it is not
// known before a damaged file has been salvaged.
enum class GapKind { lost, skipped, salvaging };
struct Gap {
  std::int64_t from = 0, to = 0;
  GapKind kind = GapKind::lost;
};
struct PartitionMarks {
  TpId tp;
  std::int32_t partition = 0;
  Offset log_start;  // the oldest record that can be read
  Offset log_end;    // the offset the next record will get
  std::vector<Gap> gaps = {};
  // How many of these offsets have no record.
  [[nodiscard]] std::int64_t missing(std::int64_t from, std::int64_t to) const;
  [[nodiscard]] std::int64_t missing(std::int64_t from, std::int64_t to, GapKind kind) const;
  // From here on (before here) as many records as `n` lie before (from) the offset that is
  // returned, gaps left out of account.
  [[nodiscard]] std::int64_t records_after(std::int64_t from, std::int64_t n) const;
  [[nodiscard]] std::int64_t records_before(std::int64_t to, std::int64_t n) const;
  [[nodiscard]] std::int64_t live() const {
    return log_end.value - log_start.value - missing(log_start.value, log_end.value);
  }
};

// A gap as the database has it.
struct Missing {
  TpId tp;
  Gap gap;
  std::string why;
};

// A file that was set aside; `state` as in _ws_damaged.
struct DamagedFile {
  std::string file, why, state;
  std::int64_t set_aside_ms = 0, records = 0;
};

}  // namespace wayside
