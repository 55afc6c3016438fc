// The program's version. Thread: constant.
#pragma once

#include <string_view>

namespace wayside {
inline constexpr std::string_view kVersion = "0.4.0";
}
