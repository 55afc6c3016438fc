// Where something listens: "host:port" or "[v6]:port". Thread: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace wayside {

struct HostPort {
  std::string host;
  std::uint16_t port = 0;  // 0: the system chooses one
};
[[nodiscard]] Result<HostPort> parse_host_port(std::string_view text);

}  // namespace wayside
