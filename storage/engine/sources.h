// The dictionary of sources: who sent a record, by which MQTT topic. It has a budget of bytes of
// its own, which readings never pay for: when it is used up a new source goes unnamed, and above
// half of it one network address gets only a share. A source that no record names any more is
// forgotten, and its id is never given again. Thread: the writer's.
//
// An era begins when every source has been looked at. What is used in an era has its
// unused_from_seq NULL; what was not used in one gets the seq that the era began with. So a row is
// written when a device falls silent or comes back, and not while it sends.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "storage/batch.h"
#include "storage/engine/share.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

class Engine;

class Sources {
 public:
  explicit Sources(Engine& engine) : engine_(engine) {}
  [[nodiscard]] Status prepare();  // after the database is open: statements, and what is used
  // Finds or makes its row. Cheap when that was done in this era.
  [[nodiscard]] Status resolve(const std::shared_ptr<Source>& source) {
    return source->era == era_ ? Status{} : look_up(source);
  }
  // A transaction begins; it failed.
  void begin();
  void rolled_back();
  // One bounded step of forgetting. True: there is more to do at once.
  [[nodiscard]] Result<bool> forget_some();

  [[nodiscard]] std::int64_t bytes() const { return bytes_; }
  [[nodiscard]] std::int64_t bytes_most() const;

 private:
  [[nodiscard]] Status look_up(const std::shared_ptr<Source>& source);
  void note_used(std::int64_t id);
  void sort_used();
  [[nodiscard]] Status begin_pass();
  [[nodiscard]] Result<bool> pass();
  [[nodiscard]] Status end_pass();
  [[nodiscard]] Status begin_search();
  [[nodiscard]] Status search();
  [[nodiscard]] Status forget_what_was_not_found();

  Engine& engine_;
  Statement find_, add_, use_;
  std::int64_t bytes_ = 0, bytes_before_ = 0;  // before the running transaction
  std::vector<std::shared_ptr<Source>> touched_;  // of the running transaction
  Share share_;

  std::int64_t era_ = 1, era_first_seq_ = 0;
  std::vector<std::int64_t> used_;  // ids used in this era; sorted up to sorted_
  std::size_t sorted_ = 0;
  std::int64_t unnamed_ = 0;     // refused a row, and not counted in the log yet
  bool refused_ = false;         // some were, since rows were last forgotten
  std::int64_t last_pass_ms_ = 0, oldest_at_last_pass_ = -1;
  // Of the pass that is under way.
  bool passing_ = false, forgot_ = false;
  std::int64_t cursor_ = 0, oldest_seq_ = 0, keep_below_ = 0, last_id_ = 0;
  // Where names are short, and old segments never expire: which of these no record names.
  std::vector<std::int64_t> wanted_;  // sorted
  std::vector<bool> found_;           // by place in wanted_
  std::vector<std::string> tables_;   // still to be searched, the last one first, behind seq_
  std::int64_t seq_ = INT64_MIN, last_search_ms_ = INT64_MIN / 2;
};

}  // namespace wayside
