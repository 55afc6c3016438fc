// The first bytes of other protocols, met on the MQTT port: what they are, what to do about it, and
// what their client understands as an answer. Thread: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace wayside::mqtt {

struct Greeting {
  enum class Kind { unknown, undecided, known } kind = Kind::unknown;  // undecided: more is needed
  std::string what;    // for the log
  std::string answer;  // for the wire
};
[[nodiscard]] Greeting recognise(std::span<const std::uint8_t> bytes);

}  // namespace wayside::mqtt
