// What the engine keeps in memory of chains and segments. Thread: the writer's.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "storage/catalog.h"
#include "storage/sqlite.h"

namespace wayside::engine_state {

// What a segment says of its records; of an open one, kept here and written when it closes.
struct SegmentStats {
  std::int64_t first_seq = 0, rows = 0, bytes = 0;
  std::int64_t min_ts = 0, max_ts = 0, min_append_ms = 0, max_append_ms = 0;
  void add(std::int64_t ts, std::int64_t append_ms, std::int64_t size);
};
struct ClosedSegment {
  std::int64_t segment = 0, bytes = 0, max_append_ms = 0;
  bool clock_trusted = false, indexed = false;
};
struct Chain {
  ChainId id;
  std::int64_t retention_ms = kForever, retention_bytes = kUnbounded, segment_rows = 0;
  std::int64_t segment = 0, opened_ms = 0;  // of the open one
  bool clock_trusted = false;
  std::vector<ClosedSegment> closed;  // oldest first
  Statement insert;                   // into the open one
};
// All that a transaction moves in memory: copied before it, put back when it fails.
struct Positions {
  std::int64_t next_seq = 0;
  std::vector<std::int64_t> next_offset;  // by tp
  std::vector<SegmentStats> open;         // by place in chains_
};

}  // namespace wayside::engine_state
