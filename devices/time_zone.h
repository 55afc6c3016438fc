// A time zone by its name, by the rules of the system (tzdata). The date library is included in
// device_time.cc alone. Unit: ms since 1970. Thread: immutable once made.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace date {
class time_zone;
}

namespace wayside {

// The zone of times that name none: "+01:00", "UTC", or a name such as "Europe/Berlin".
class TimeZone {
 public:
  [[nodiscard]] static Result<TimeZone> parse(std::string_view text);
  // When the clocks of this zone show it. What they show twice is the first of the two; what they
  // skip is as late as if they had not been put forward yet.
  [[nodiscard]] std::int64_t utc_ms(std::int64_t local_ms) const;

 private:
  std::int64_t offset_ms_ = 0;
  const date::time_zone* zone_ = nullptr;  // of the library's, which lives as long as the program
};

}  // namespace wayside
