// A bridge: forwards topics upstream, in arrival order, so in order per key. It never deletes:
// its progress is the committed offsets of the group bridge.<name>. A batch is sealed (its range
// is in the database) before its first send, and the same batch goes out under the same
// idempotency key until it is settled, over any number of crashes. It tries for ever.
// Settling is in settle.cc. Thread: one of its own; status(), edit() and set_paused() from any.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "bridge/blame.h"
#include "bridge/sealed.h"
#include "bridge/sink.h"
#include "bridge/unsent.h"
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
  std::string note;   // what is not as configured, while it works all the same; mostly empty
  std::int64_t since_ms = 0;  // wall
  std::int64_t records_sent = 0, batches_sent = 0, tries_failed = 0;
  std::int64_t last_delivered_ms = 0;
  double records_per_s = 0;  // while it sends, smoothed
  bool failing = false;      // the last try failed
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
  // Does this on the bridge's thread, between two requests; it then begins anew from what is
  // committed. So somebody else may change its positions. Also when it stops. Thread: any.
  void edit(std::function<void()> work);

 private:
  enum class Probed { taken, refused, nobody, interrupted };

  void run(std::stop_token stop);
  [[nodiscard]] Status run_until_error(std::stop_token stop);
  [[nodiscard]] Status load(LogReader& reader);
  void do_edits();
  [[nodiscard]] bool has_edits() const;
  [[nodiscard]] Result<std::optional<SealedBatch>> resume(LogReader& reader, BatchKind kind);
  [[nodiscard]] bool belongs(BatchKind kind, const StoredRecord& record) const;
  [[nodiscard]] Result<std::string> old_key(LogReader& reader, const SealedRange& range) const;
  // The next batch that is worth sending now; none: wait.
  [[nodiscard]] Result<std::optional<SealedBatch>> next_batch(LogReader& reader,
                                                              std::stop_token stop);
  [[nodiscard]] Result<std::optional<SealedBatch>> fill(LogReader& reader, Lane& lane,
                                                        std::stop_token stop);
  [[nodiscard]] Result<std::optional<SealedBatch>> next_again(LogReader& reader);
  [[nodiscard]] SealedBatch seal(BatchKind kind, ChainId chain, const std::vector<TpId>& tps,
                                 std::vector<StoredRecord> records) const;
  // How long a batch that is not full may still wait; none: nothing waits.
  [[nodiscard]] std::optional<std::int64_t> linger_left_ms() const;

  [[nodiscard]] Status send_until_settled(LogReader& reader, SealedBatch sealed,
                                          std::stop_token stop);
  [[nodiscard]] SinkReply send(const SealedBatch& sealed, std::stop_token stop);
  [[nodiscard]] Status halve(SealedBatch& sealed);
  [[nodiscard]] Result<Probed> probe(LogReader& reader, const SealedBatch& suspect,
                                     std::stop_token stop);
  [[nodiscard]] Result<Probed> send_probe(const SealedBatch& probe, bool undecided,
                                          std::stop_token stop);
  // Its records are taken, or set aside because they were refused (then why).
  [[nodiscard]] Status settle(LogReader& reader, const SealedBatch& sealed,
                              const SinkReply* refusal, std::optional<SealedBatch>& next,
                              std::stop_token stop);
  [[nodiscard]] Status settle_again(LogReader& reader, const SealedBatch& sealed,
                                    const SinkReply* refusal);
  [[nodiscard]] Status quarantine(LogReader& reader, const StoredRecord& record,
                                  const std::string& what, std::vector<Op>& ops);
  // Where in quarantine these wait.
  [[nodiscard]] Result<std::vector<Offset>> held(LogReader& reader,
                                                 const std::vector<StoredRecord>& records);
  [[nodiscard]] Status find_held(LogReader& reader);
  void note_delivered(std::int64_t records, std::int64_t ms);
  void grow();
  [[nodiscard]] Status commit(std::vector<Op> ops);
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
  std::map<Seq, std::string> identities_;  // of the log, by their first seq
  Unsent unsent_;
  Blame blame_;
  Prober prober_;
  std::vector<Resend> again_;  // what is sent once more, as the log has it
  // Which of it is in quarantine, and waits there; looked up when it is needed.
  std::optional<std::multimap<std::pair<TpId, Offset>, Offset>> held_;
  std::size_t next_lane_ = 0;
  std::int64_t records_most_ = 0;           // of a batch now: lowered by 413 and refusals
  std::int64_t taken_ = 0, grow_after_ = 1;  // batches taken of that size; how many it needs
  int failures_ = 0;                        // in a row
  int suspicion_ = 0;                       // of answers in a row such as one record may cause
  int content_status_ = 0;                  // proven to be caused by records; 0: none is
  int cut_for_ = 0;                         // the status for which the batch was last cut
  int others_refused_ = -1;                 // since something was taken; -1: none was tried
  std::minstd_rand random_;

  mutable Mutex mutex_;
  std::condition_variable_any wake_;
  BridgeStatus status_ GUARDED_BY(mutex_);
  std::vector<std::function<void()>> edits_ GUARDED_BY(mutex_);
  std::jthread thread_;  // last
};

}  // namespace wayside
