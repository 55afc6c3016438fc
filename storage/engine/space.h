// The room of the log: how many pages the database may have, by its budget and by what is left of
// the disk, and which segments go when there is no more. Counted with the WAL; a ballast file is
// given up when even that fails. Thread: the writer's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "storage/catalog.h"

namespace wayside {

class Engine;

class Space {
 public:
  explicit Space(Engine& engine) : engine_(engine) {}

  // What budget and disk allow now; SQLite keeps it.
  [[nodiscard]] Status set_page_limit();
  // Before it comes to `no_space`: drops one segment when the limit is near. True: it did.
  [[nodiscard]] Result<bool> keep_within();
  // After `no_space`: a salvaged file, a checkpoint, the ballast, the oldest segment.
  [[nodiscard]] Status make_room();
  // After each commit.
  [[nodiscard]] Status note_commit();
  // What there is no room for is not worth a record.
  void note_full();
  void keep_ballast();

  // Of what has room of its own (sessions, names of senders): `most`, or a part of a small limit.
  [[nodiscard]] std::int64_t part_of_limit(std::int64_t most, std::int64_t part) const;
  // Whether that may grow: not while commits fail for want of room.
  [[nodiscard]] bool has_room() const;

  // Under a limit every chain must be able to close several segments long before it is used up.
  [[nodiscard]] std::int64_t segment_bytes_most() const;
  // What salvaged records may take.
  [[nodiscard]] std::int64_t room_bytes();
  // The topic that keeps a chain's oldest closed segment, because a group has not read all of it.
  [[nodiscard]] Result<std::string> unsent_in_oldest(std::size_t chain);
  // Whether a group that the topic keeps its records for has not read all before this segment.
  [[nodiscard]] Result<bool> is_unsent(const Topic& topic, std::int64_t before_segment);
  // Why readings of this partition are not taken; empty: they are.
  [[nodiscard]] std::string refusal(TpId tp) const;
  [[nodiscard]] const std::string& blocked() const { return why_blocked_; }

 private:
  [[nodiscard]] std::int64_t free_bytes() const;
  [[nodiscard]] std::int64_t keep_free_bytes() const;
  [[nodiscard]] std::int64_t used_pages();
  // Pages in use, and those that what has room of its own may still take.
  [[nodiscard]] std::int64_t claimed_pages();
  [[nodiscard]] bool checkpoint();
  void watch_wal();
  [[nodiscard]] Status drop_one(std::string_view why);
  [[nodiscard]] Status drop_within_limit();
  void block(const std::vector<std::string>& topics);

  Engine& engine_;
  std::int64_t page_limit_ = INT64_MAX;
  std::int64_t commits_ = 0;
  std::int64_t full_ms_ = INT64_MIN / 2;  // steady: when it last came to `no_space`
  bool by_budget_ = false;     // the limit is the budget's, not the disk's
  bool dropping_ = false;      // until there is room enough again
  bool checkpointed_ = false;  // to make room, and no commit has succeeded since
  std::vector<TopicId> blocked_;
  std::string why_blocked_;
};

}  // namespace wayside
