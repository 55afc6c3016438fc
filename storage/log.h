// The log, as the program uses it: batches go in from any thread, one writer thread commits them
// in groups, each synced, and tells each batch's caller after the commit has returned.
// Source of the policy: docs/ARCHITECTURE.md, "The write path".
// Thread: submit, flush, backlog and wait_for_commit from any thread; the rest as noted.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "storage/batch.h"
#include "storage/engine/engine.h"

namespace wayside {

struct CommitPolicy {
  std::int64_t linger_ms = 100;    // how long the oldest may wait for company
  std::size_t records = 200;       // this many waiting are committed at once
  std::size_t bytes = 256 * 1024;  // so many bytes, too
};

// What the writer did since it started; for status and benchmarks.
struct WriterStats {
  std::int64_t commits = 0, records = 0, failed_commits = 0;
  std::int64_t queued_ops = 0, queued_bytes = 0;
  std::int64_t committing_ops = 0;       // in the commit that is under way
  std::int64_t heartbeat_steady_ms = 0;  // of the writer's loop
  bool failing = false;                  // the last commit was one that failed
  std::string last_error;
  // Why no commit could be made since then; empty: one could. A short lock is no news.
  std::string held_up;
  std::int64_t held_up_since_steady_ms = 0;
  std::int64_t committing_since_steady_ms = 0;  // 0: none is under way
  std::int64_t last_try_steady_ms = 0;          // of a commit, or whether one could be made
  std::string sidecar_error;
  std::string blocked;  // why some topics take no readings; empty: all do
  // Commits by how long they took, synced: so many up to each bound of kCommitBoundsMs, the last
  // count above all of them; and all of it together.
  std::array<std::int64_t, 13> commit_counts{};
  std::int64_t commit_us = 0;
};
inline constexpr std::array<std::int64_t, 12> kCommitBoundsMs = {1,   2,   5,   10,   20,   50,
                                                                 100, 200, 500, 1000, 2000, 5000};

class Log final : public BatchSink {
 public:
  // Opens (or creates) the database, brings the topics to what is wanted and starts the writer.
  [[nodiscard]] static Result<std::unique_ptr<Log>> open(const EngineOptions& options,
                                                         const CommitPolicy& policy,
                                                         std::span<const TopicSpec> topics,
                                                         const Clock& clock, Logger& logger);
  // Commits what waits, then stops.
  ~Log() override;

  void submit(Batch batch) override;
  void flush() override;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Identity& identity() const { return identity_; }
  // The topics as they are now: a picture that later changes make anew. Thread: any.
  [[nodiscard]] std::shared_ptr<const Catalog> catalog() const;
  // Work on the engine between two commits (topics, limits), behind what was submitted before;
  // `done` is called on the writer's thread. Thread: any.
  using Work = std::function<Status(Engine&)>;
  using Done = std::function<void(const Status&)>;
  void change(Work work, Done done);
  // The same, and waits for it. Not on the writer's thread.
  [[nodiscard]] Status change_and_wait(Work work);
  [[nodiscard]] WriterStats stats() const;
  void set_policy(const CommitPolicy& policy);  // Thread: any
  // A reader in the process met damage; the writer may have, too. Not empty: the log must be opened
  // anew with this as EngineOptions::damage; until then nothing is acknowledged. Thread: any.
  void report_damage(const Error& error);
  [[nodiscard]] std::string damage() const;
  // Not empty: the log is sound, but must be opened anew, and nothing is acknowledged until then.
  [[nodiscard]] std::string opened_anew_for() const;
  void reopen(const std::string& why);
  // The program stops: a write lock that somebody else holds is no longer waited out. Thread: any.
  void give_up_waiting() { give_up_waiting_ = true; }
  // Waits until more than `seen` commits have been made, the time is over or a stop is asked for.
  // Returns the number of commits made.
  std::int64_t wait_for_commit(std::int64_t seen, std::int64_t timeout_ms, std::stop_token stop);

 private:
  Log(std::unique_ptr<Engine> engine, const CommitPolicy& policy, const std::string& path,
      Logger& logger);
  void run(std::stop_token stop);
  // Waits for a group that is due. Empty: there is nothing to commit, but time to maintain.
  std::vector<Batch> next_group(std::stop_token stop, bool idle_work);
  void refuse_blocked(std::vector<Batch>& group);
  void commit_group(std::vector<Batch>& group, std::stop_token stop);
  [[nodiscard]] Status try_commit(std::vector<Batch>& group, std::stop_token stop);
  bool maintain();
  void note_reopening(const Error& error);
  void try_writing();
  void note_held_up(const std::string& why);
  void run_changes();
  [[nodiscard]] bool due(std::chrono::steady_clock::time_point now) const REQUIRES_LOCK(mutex_);

  std::atomic<bool> give_up_waiting_{false};
  const std::string path_;
  Logger& logger_;
  std::unique_ptr<Engine> engine_;  // the writer thread's, once it runs
  const Identity identity_;

  mutable Mutex mutex_;
  std::condition_variable_any wake_;       // the writer waits here
  std::condition_variable_any committed_;  // readers in the process wait here
  std::deque<Batch> queue_ GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point oldest_ GUARDED_BY(mutex_);
  bool flush_ GUARDED_BY(mutex_) = false;
  CommitPolicy policy_ GUARDED_BY(mutex_);
  struct Change {
    Work work;
    Done done;
    std::uint64_t behind;  // so many batches
  };
  std::deque<Change> changes_ GUARDED_BY(mutex_);
  std::uint64_t submitted_ GUARDED_BY(mutex_) = 0, taken_ GUARDED_BY(mutex_) = 0;  // batches
  std::shared_ptr<const Catalog> catalog_ GUARDED_BY(mutex_);
  std::string damage_ GUARDED_BY(mutex_), open_anew_ GUARDED_BY(mutex_);
  WriterStats stats_ GUARDED_BY(mutex_);

  std::jthread writer_;  // last: starts after, and stops before, all it uses
};

}  // namespace wayside
