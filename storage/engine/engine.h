// The writer's side of the log: the only read-write connection, the next offsets, the open
// segments, and what is done to them: commit a group of batches, roll, index, retention, views.
// Nothing here waits or starts a thread. Thread: one owner (the writer of storage/log.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "storage/batch.h"
#include "storage/catalog.h"
#include "storage/engine/state.h"
#include "storage/engine_options.h"
#include "storage/sqlite/schema.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

class Recovery;
class Sessions;
class Sources;
class Space;

class Engine {
 public:
  // A database that is damaged is set aside, and a fresh one takes its place.
  ~Engine();
  [[nodiscard]] static Result<std::unique_ptr<Engine>> open(const EngineOptions& options,
                                                            const Clock& clock, Logger& logger);

  // Brings topics to what is wanted, all or none; creates, never deletes. Returns warnings.
  [[nodiscard]] Result<std::vector<std::string>> ensure_topics(std::span<const TopicSpec> specs);

  [[nodiscard]] Status delete_topic(std::string_view name);
  [[nodiscard]] Status set_limits(const EngineOptions& limits);
  // The columns of its newest readings, beside `known` ones. True: they differ from those it had.
  [[nodiscard]] Result<bool> learn_columns(const Topic& topic, std::vector<std::string> known);

  // Takes the write lock, with what must be settled before. `busy`: somebody else has it.
  [[nodiscard]] Status begin();
  // Applies and commits, synced; or nothing of it, on disk or here. REQUIRES: begin() succeeded.
  [[nodiscard]] Status commit(std::span<Batch> group);

  // Cheap when none is full. Called after every commit.
  [[nodiscard]] Status roll_full_segments();
  // One bounded step of what can wait. True: there is more to do at once.
  [[nodiscard]] Result<bool> maintain();

  // Nothing is lost or damaged, but nothing more can be written this way.
  [[nodiscard]] bool must_open_anew() const { return inodes_.must_open_anew; }
  [[nodiscard]] Recovery& recovery() { return *recovery_; }
  [[nodiscard]] Space& space() { return *space_; }
  [[nodiscard]] Sessions& sessions() { return *sessions_; }
  [[nodiscard]] const Catalog& catalog() const { return catalog_; }
  [[nodiscard]] const Identity& identity() const { return identity_; }
  [[nodiscard]] Offset next_offset(TpId tp) const;

 private:
  using SegmentStats = engine_state::SegmentStats;
  using Chain = engine_state::Chain;
  using Positions = engine_state::Positions;
  friend class Recovery;
  friend class Sessions;
  friend class Sources;
  friend class Space;
  Engine(const EngineOptions& options, const Clock& clock, Logger& logger);
  [[nodiscard]] static Result<std::unique_ptr<Engine>> open_sound(const EngineOptions& options,
                                                                  const Clock& clock,
                                                                  Logger& logger);
  [[nodiscard]] Status open_database();
  [[nodiscard]] Status connect();
  [[nodiscard]] Result<bool> settle_wal();
  [[nodiscard]] Status start_epoch();
  [[nodiscard]] Status load();
  [[nodiscard]] Status refresh();
  [[nodiscard]] Status as_it_was();
  [[nodiscard]] Status check_wal();
  [[nodiscard]] Status load_chain(Chain& chain, SegmentStats& stats);
  [[nodiscard]] Status prepare_statements();
  // Runs `work` between BEGIN IMMEDIATE and COMMIT; rolls back when either fails.
  template <class Work>
  [[nodiscard]] Status transaction(Work work);
  [[nodiscard]] Status finish(Status status);

  [[nodiscard]] Status apply(Append& op);
  [[nodiscard]] Status apply(OpenSession& op);
  [[nodiscard]] Status apply(CloseSession& op);
  [[nodiscard]] Status apply(AddQos2Id& op);
  [[nodiscard]] Status apply(RemoveQos2Id& op);
  [[nodiscard]] Status apply(CommitOffset& op);
  [[nodiscard]] Status apply(DropGroup& op);
  [[nodiscard]] Status apply(TouchGroup& op);
  [[nodiscard]] Status apply(SettleQuarantined& op);
  [[nodiscard]] Status apply(SetFact& op);
  [[nodiscard]] Status apply(Seal& op);
  [[nodiscard]] Status apply(Unseal& op);
  [[nodiscard]] Status apply(Resend& op);
  [[nodiscard]] Status apply(Count& op);
  [[nodiscard]] Status apply(CheckReplay& op);
  [[nodiscard]] Status check_partitions(const TopicSpec& spec) const;
  [[nodiscard]] Status create_topic(const TopicSpec& spec);
  [[nodiscard]] Status alter_topic(const Topic& topic, const TopicSpec& spec,
                                   std::vector<std::string>& warnings);
  [[nodiscard]] Status fit_retention(ChainId chain);
  [[nodiscard]] Result<ChainId> chain_for(const TopicSpec& spec);
  [[nodiscard]] Status add_partitions(TopicId id, std::int32_t from, std::int32_t to);
  [[nodiscard]] Status open_segment(ChainId chain, std::int64_t segment);
  [[nodiscard]] Status close_segment(std::size_t chain, std::int64_t last_seq);
  [[nodiscard]] Status roll(std::size_t chain);
  [[nodiscard]] bool may_roll(std::size_t chain) const;
  [[nodiscard]] bool is_full(std::size_t chain) const;
  [[nodiscard]] bool is_old(std::size_t chain) const;
  [[nodiscard]] Status mark_untrusted(std::size_t chain);
  [[nodiscard]] Status drop_oldest(std::size_t chain, std::string_view why);
  [[nodiscard]] Status move_log_starts(const Topic& topic, std::int64_t segment);
  [[nodiscard]] Result<bool> build_one_index();
  [[nodiscard]] Result<bool> apply_retention(bool by_time);
  [[nodiscard]] Result<bool> apply_topic_retention(std::int64_t now_ms);
  [[nodiscard]] Status expire_offsets(bool by_time);
  [[nodiscard]] Status drop_chain(ChainId chain);
  [[nodiscard]] Result<bool> step(std::string_view what, const Result<bool>& result);
  [[nodiscard]] Result<bool> refresh_views();
  [[nodiscard]] Result<bool> learn_columns();
  [[nodiscard]] bool time_is_steady();
  EngineOptions options_;
  const Clock& clock_;
  Logger& logger_;
  Database db_;
  Identity identity_;
  Catalog catalog_;
  std::unique_ptr<Recovery> recovery_;
  std::unique_ptr<Space> space_;
  std::unique_ptr<Sessions> sessions_;
  std::unique_ptr<Sources> sources_;
  std::vector<Chain> chains_;
  static constexpr std::size_t kNoChain = SIZE_MAX;  // of a partition of a deleted topic
  std::vector<std::size_t> chain_of_;                // by tp: place in chains_
  Positions positions_;
  engine_state::Upkeep upkeep_;
  engine_state::Inodes inodes_;
  bool trusted_ = false;        // the clock, in the running transaction
  std::int64_t append_ms_ = 0;  // of the running transaction
  Statement begin_, commit_, rollback_, commit_offset_, count_;
};

}  // namespace wayside
