// A bridge: forwards topics upstream, in arrival order, so in order per key. It never deletes:
// its progress is the committed offsets of the group bridge.<name>. A batch is sealed (its range
// is in the database) before its first send, and the same batch goes out under the same
// idempotency key until it is settled, over any number of crashes. It tries for ever.
// Thread: one of its own; status() from any.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "bridge/sink.h"
#include "storage/log.h"
#include "storage/reader.h"

namespace wayside {

struct BridgeOptions {
  std::string name;
  std::vector<std::string> topics;
  std::int64_t batch_records = 1000, batch_bytes = 256 << 10;
  std::int64_t linger_ms = 1000, retry_max_ms = 30'000;
  bool paused = false;  // from the start
};

struct BridgeStatus {
  std::string state;  // in words: "sending", "waiting for readings", "upstream unreachable: …"
  std::int64_t since_ms = 0;  // wall
  std::int64_t records_sent = 0, batches_sent = 0, tries_failed = 0;
  std::int64_t last_delivered_ms = 0;
  double records_per_s = 0;  // while it sends, smoothed
  bool paused = false;
};

class Bridge {
 public:
  // `log`, `commits` (where its positions are committed: the log), `clock` and `logger` must
  // outlive it.
  Bridge(const BridgeOptions& options, std::unique_ptr<Sink> sink, Log& log, BatchSink& commits,
         const Clock& clock, Logger& logger);
  ~Bridge();  // stops: a request that is under way is given up, and sent again at the next start

  // Begins to stop, and returns; waits until it has. Thread: any, one at a time for the second.
  void request_stop() { thread_.request_stop(); }
  void wait_stopped();
  [[nodiscard]] BridgeStatus status() const;
  // A technician stops it for a while; what is under way is finished. Thread: any.
  void set_paused(bool paused);
  [[nodiscard]] static std::string group(const std::string& bridge) { return "bridge." + bridge; }

 private:
  // Topics of one chain are read by one cursor.
  struct Lane {
    ChainId chain;
    std::vector<TpId> tps;
    Seq next{};  // nothing before it is unsent: never too late, sometimes too early
    std::int64_t waiting_since_ms = 0;                // steady; for the linger; 0: nothing waits
    std::unordered_map<TpId, std::int64_t> position;  // committed: the next offset to send
    std::map<TpId, PartitionMarks> marks = {};        // as they were when it began
  };
  struct Sealed {
    SealedRange range;
    OutgoingBatch batch;
    std::vector<StoredRecord> records;
  };

  void run(std::stop_token stop);
  [[nodiscard]] Status run_until_error(std::stop_token stop);
  [[nodiscard]] Status find_positions(LogReader& reader);
  [[nodiscard]] Result<std::optional<Sealed>> resume_sealed(LogReader& reader);
  // The next batch that is worth sending now; none: wait.
  [[nodiscard]] Result<std::optional<Sealed>> next_batch(LogReader& reader, std::stop_token stop);
  [[nodiscard]] Result<std::optional<Sealed>> fill(LogReader& reader, Lane& lane,
                                                   std::stop_token stop);
  // How long a batch that is not full may still wait; none: nothing waits.
  [[nodiscard]] std::optional<std::int64_t> linger_left_ms() const;
  [[nodiscard]] Sealed make_sealed(const Lane& lane, std::vector<StoredRecord> records,
                                   const std::string& key) const;
  [[nodiscard]] std::string new_key() const;
  [[nodiscard]] Result<std::string> old_key(LogReader& reader, const SealedRange& range) const;
  [[nodiscard]] Status send_until_settled(LogReader& reader, Sealed sealed, std::stop_token stop);
  [[nodiscard]] Status settle(LogReader& reader, const Sealed& sealed, std::optional<Sealed>& next,
                              const SinkReply& reply, std::stop_token stop);
  [[nodiscard]] Status commit(std::vector<Op> ops);
  void note_expired(const Lane& lane, const StoredRecord& record, std::vector<Op>& ops);
  // Between two tries; of sending, it ends when a technician pauses the bridge.
  void pause(const SinkReply& reply, std::stop_token stop, bool sending = true);
  void wait_while_paused(std::stop_token stop);
  void set_state(std::string state);

  const BridgeOptions options_;
  std::unique_ptr<Sink> sink_;
  Log& log_;
  BatchSink& commits_;
  const Clock& clock_;
  Logger& logger_;
  std::vector<Lane> lanes_;
  std::size_t next_lane_ = 0;
  std::int64_t records_most_ = 0;  // of a batch now: lowered by 413 and 400
  int failures_ = 0;               // in a row
  int refused_ = 0;                // single records, in a row
  std::minstd_rand random_;

  mutable Mutex mutex_;
  std::condition_variable_any wake_;
  BridgeStatus status_ GUARDED_BY(mutex_);
  std::jthread thread_;  // last
};

}  // namespace wayside
