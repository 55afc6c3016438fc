// How far a group, or a bridge, is behind: per partition and in all. Thread: the reader's owner.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "storage/reader.h"

namespace wayside {

struct PartitionLag {
  std::string topic;
  std::int32_t partition = 0;
  std::int64_t committed = -1;  // the next offset it reads; -1: nothing committed yet
  std::int64_t log_start = 0, log_end = 0;
  std::int64_t records = 0;           // that it has not read
  std::int64_t passed = 0;            // that lie before its position, or were sent ahead of it
  std::int64_t skipped = 0;           // of passed: that a technician made a bridge step over
  std::int64_t expired = 0;           // that it never read, and that are gone
  std::int64_t lost = 0;              // offsets that have no record
  std::int64_t oldest_append_ms = 0;  // of the oldest unread; 0: none
  std::int64_t commit_ms = 0;         // 0: at an unknown time
};

struct Lag {
  std::vector<PartitionLag> partitions;
  std::int64_t records = 0, oldest_append_ms = 0;
  // What retention took before a bridge sent it, and is not in its counter yet.
  [[nodiscard]] std::int64_t expired_uncounted() const {
    std::int64_t n = 0;
    for (const PartitionLag& p : partitions) n += p.committed >= 0 ? p.expired : 0;
    return n;
  }
};

// What partitions hold: stored = live + expired + lost + salvaging. `skipped` offsets had no record
// that is known of, and count nowhere.
struct Account {
  std::int64_t stored = 0, expired = 0, live = 0, lost = 0, salvaging = 0, skipped = 0;
};
[[nodiscard]] Account account_of(const std::vector<PartitionMarks>& marks);

// What all topics hold together, the deleted ones too: stored is all there ever was.
struct Ledger {
  std::int64_t stored = 0, expired = 0, deleted = 0, live = 0;
  std::int64_t lost = 0, salvaging = 0;
  std::int64_t quarantine_stored = 0;  // of stored: in the topic 'quarantine'
  std::int64_t quarantined = 0, refused = 0;
  std::vector<std::pair<std::string, std::int64_t>> counters;
};
[[nodiscard]] Result<Ledger> ledger_of(LogReader& reader, const Catalog& catalog);

// Of these topics (names that are not there are left out); a partition without a committed offset
// is unread from its log start.
[[nodiscard]] Result<Lag> lag_of(LogReader& reader, const Catalog& catalog,
                                 const std::string& group, const std::vector<std::string>& topics);

}  // namespace wayside
