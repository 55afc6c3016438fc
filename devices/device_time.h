// The times that devices write: numbers since 1970, ISO 8601 and what firmware makes of it, with a
// zone or local. What could mean two times is not read. Unit: ms since 1970 UTC.
// Source: ISO 8601, RFC 3339. Thread: pure functions.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "devices/payload.h"
#include "devices/time_zone.h"

namespace wayside {

// An error says why it is not read. `zone` may be null: then a local time is not read.
[[nodiscard]] Result<std::int64_t> read_device_time(const JsonScalar& value, TimeUnit unit,
                                                    const TimeZone* zone);

}  // namespace wayside
