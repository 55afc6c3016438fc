// What a bridge has yet to send: per chain a cursor in arrival order, per partition the committed
// position, and what was settled ahead of it. Reads; its owner commits. Thread: one owner.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "storage/bridge_ops.h"
#include "storage/log.h"
#include "storage/offset_set.h"
#include "storage/reader.h"

namespace wayside {

// Topics of one chain are read by one cursor.
struct Lane {
  ChainId chain;
  std::vector<TpId> tps;
  Seq next{};  // nothing before it is unsent: never too late, sometimes too early
  std::int64_t waiting_since_ms = 0;                // steady; for the linger; 0: nothing waits
  std::unordered_map<TpId, std::int64_t> position;  // the next offset to send
  std::map<TpId, PartitionMarks> marks;             // as they were when it began
};

class Unsent {
 public:
  Unsent(const std::string& bridge, const std::vector<std::string>& topics, Log& log,
         Logger& logger)
      : bridge_(bridge), topics_(topics), log_(log), logger_(logger) {}

  // As it is committed. `ops`: positions of partitions that have none yet, so that it is known
  // later what was unsent.
  [[nodiscard]] Status load(LogReader& reader, std::vector<Op>& ops);
  [[nodiscard]] std::vector<Lane>& lanes() { return lanes_; }
  [[nodiscard]] const std::vector<Lane>& lanes() const { return lanes_; }
  [[nodiscard]] Lane* lane_of(ChainId chain);
  [[nodiscard]] bool is_unsent(const StoredRecord& record) const;
  // The next records of a lane, no more than the limits; `at_end`: there are no others now.
  struct Found {
    std::vector<StoredRecord> records;
    bool at_end = false;
  };
  [[nodiscard]] Result<Found> next(LogReader& reader, Lane& lane, const ReadLimits& limits,
                                   std::stop_token stop);
  // These are settled: the ops that say so. Nothing changes if they are not committed but memory,
  // and then load() is due.
  void settle(const Lane& lane, const std::vector<StoredRecord>& records, std::vector<Op>& ops);
  // The next batch of a lane is settled up to here.
  void settle_next(Lane& lane, const std::vector<StoredRecord>& records, Seq last, bool whole_lane,
                   std::vector<Op>& ops);

 private:
  void move(const Lane& lane, TpId tp, std::vector<Op>& ops);
  void note_expired(const Lane& lane, const StoredRecord& record, std::vector<Op>& ops);

  const std::string bridge_;
  const std::vector<std::string> topics_;
  Log& log_;
  Logger& logger_;
  std::vector<Lane> lanes_;
  OffsetSet ahead_;
};

}  // namespace wayside
