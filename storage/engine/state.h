// What the engine keeps in memory of chains and segments. Thread: the writer's.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "storage/catalog.h"
#include "storage/sqlite/sqlite.h"

namespace wayside::engine_state {

// What a segment says of its records; of an open one, kept here and written when it closes.
struct SegmentStats {
  std::int64_t first_seq = 0, rows = 0, bytes = 0;
  std::int64_t min_ts = 0, max_ts = 0, min_append_ms = 0, max_append_ms = 0;
  void add(std::int64_t ts, std::int64_t append_ms, std::int64_t size);
};
// Of the files that were opened.
struct Inodes {
  std::uint64_t database = 0, wal = 0;
  bool must_open_anew = false;  // the WAL is gone, and all it had is in the database
};
struct ClosedSegment {
  std::int64_t segment = 0, bytes = 0, max_append_ms = 0, rows = 0;
  bool clock_trusted = false, indexed = false;
};
struct Chain {
  ChainId id;
  std::int64_t retention_ms = kForever, retention_bytes = kUnbounded, segment_rows = 0;
  std::int64_t priority = kNormalPriority;
  std::int64_t segment = 0, opened_ms = 0;  // of the open one
  bool clock_trusted = false;
  std::vector<ClosedSegment> closed;  // oldest first
  Statement insert;                   // into the open one
  // Also without its oldest closed segment; `open_bytes` are in the open one.
  [[nodiscard]] bool is_over_its_bytes(std::int64_t open_bytes) const;
};
// All that a transaction moves in memory: copied before it, put back when it fails.
struct Positions {
  std::int64_t next_seq = 0;
  std::vector<std::int64_t> next_offset;  // by tp
  std::vector<SegmentStats> open;         // by place in chains_
};

// What maintenance remembers from step to step. Times are steady, but for anchor_wall_ms.
struct Upkeep {
  bool views_stale = true, topic_views_stale = true;
  std::map<TopicId, std::int64_t> learn_at;  // records of a topic at which its columns are learnt
  std::int64_t last_step_ms = INT64_MIN / 2;
  std::int64_t views_not_before_ms = 0, index_not_before_ms = 0;  // after a failure
  std::int64_t anchor_wall_ms = 0, anchor_steady_ms = 0, steady_since_ms = INT64_MIN;
  std::int64_t hold_ms = 0;         // how long a clock that is doubted is watched; 0: it is not
  std::int64_t noted_hold_ms = -1;  // as the database has it; -1: unknown
  bool was_trusted = false;
};

}  // namespace wayside::engine_state
