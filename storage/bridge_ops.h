// What a bridge asks the writer for: the batch it has sealed, and what it sends once more. Thread:
// plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"

namespace wayside {

// The group whose committed offsets are a bridge's positions.
[[nodiscard]] inline std::string bridge_group(const std::string& bridge) {
  return "bridge." + bridge;
}
// Facts of the log: what it has settled ahead of its positions, what it was told to step over, and
// since when it is paused.
[[nodiscard]] inline std::string ahead_fact(const std::string& bridge) {
  return "bridge.ahead." + bridge;
}
[[nodiscard]] inline std::string skipped_fact(const std::string& bridge) {
  return "bridge.skipped." + bridge;
}
[[nodiscard]] inline std::string pause_fact(const std::string& bridge) {
  return "bridge.paused." + bridge;
}

// A bridge's batch before its first send, and its end.
struct SealedRange {
  ChainId chain;
  Seq first;
  Seq last;
  std::int64_t rows = 0;
  std::uint32_t crc = 0;
  std::vector<TpId> tps;
  std::string idempotency_key;  // of every try; made when it is sealed
};
struct Seal {
  std::string bridge;
  SealedRange range;
};
struct Unseal {
  std::string bridge;
};

// Offsets from one to before another that a bridge sends once more; and that it has sent.
struct Resend {
  std::string bridge;
  TpId tp;
  Offset from, to;
  bool done = false;
};

}  // namespace wayside
