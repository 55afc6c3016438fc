// What a bridge asks the writer for: the batch it has sealed, and what it sends once more. Thread:
// plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"

namespace wayside {

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
