// Who is to blame when the upstream refuses: a record, or the upstream? A record is to blame when
// it was refused, others were taken after that, and it is refused again. If nothing can prove
// that, other records are tried: those of other topics first, then of other devices, then of other
// keys. Source: docs/decisions/0008-who-is-to-blame.md. Thread: one owner.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <unordered_set>
#include <vector>

#include "bridge/unsent.h"

namespace wayside {

// Keeps the proof. Knows nothing of time, and forgets with a restart: then it must be given anew.
// `source`: whose record it is; 0: not known.
class Blame {
 public:
  // A request was refused; its last record. Beyond what was refused before, the proof is void.
  void refused(ChainId chain, Seq last);
  // Something was taken: by the way, or because it was tried on purpose.
  void taken(bool probe);
  // A refusal now is the fault of a record of this source.
  [[nodiscard]] bool proven(std::int64_t source) const {
    return left_ > 0 || (source == run_source_ && run_left_ > 0);
  }
  // A record was set aside by the proof, which is used up by so many.
  void set_aside(std::int64_t source);
  void forget_proof() { left_ = run_left_ = 0; }
  // Nothing is left to send: what is refused from now on is another matter.
  void forget() { *this = Blame(); }
  // Whether the next record is expected to be refused alone, too.
  [[nodiscard]] bool expects_more(ChainId chain, Seq next) const;

 private:
  std::map<ChainId, Seq> through_;
  // One after the other is refused: each proof is worth more of them, and still more of one source.
  std::int64_t worth_ = 1, left_ = 0;
  std::int64_t run_source_ = 0, run_worth_ = 0, run_left_ = 0;
};

// Finds records to try.
class Prober {
 public:
  explicit Prober(Log& log) : log_(log) {}
  // The stream has moved on, or all was tried: what was tried is forgotten.
  void reset();
  // What is under suspicion: no record of the same key is tried before others have been.
  void suspect(const std::vector<StoredRecord>& records);
  // Likewise; and this batch waits for the verdict.
  void suspect_batch(const std::vector<StoredRecord>& records);
  // The next of its key is the best to try after it.
  void taken(const StoredRecord& record);
  // The next record to try; none: no other is there (then all may be tried anew), or so much has
  // been looked through that the rest is for the next time. `same_key`: also behind a suspect.
  [[nodiscard]] Result<std::optional<StoredRecord>> next(LogReader& reader, Unsent& unsent,
                                                         bool same_key, std::stop_token stop);

 private:
  struct Place {
    std::size_t lane = 0;
    Seq seq;
  };
  // Records with the same number must stay in order: of one key of a topic, or of one device.
  [[nodiscard]] std::uint64_t order_of(const StoredRecord& record) const;
  [[nodiscard]] std::int64_t topic_of(const StoredRecord& record) const;
  [[nodiscard]] Result<bool> scan_page(LogReader& reader, Unsent& unsent);
  [[nodiscard]] Result<std::optional<StoredRecord>> take(LogReader& reader, Unsent& unsent,
                                                         std::deque<Place>& from);
  [[nodiscard]] Result<std::optional<StoredRecord>> next_of_any(LogReader& reader, Unsent& unsent,
                                                                std::stop_token stop);

  Log& log_;
  std::vector<Seq> scanned_;             // by lane
  std::array<std::deque<Place>, 3> found_;  // of another topic, device, key
  Place any_;
  std::unordered_set<std::int64_t> topics_, sources_, suspects_;  // seen; suspects by seq
  std::unordered_set<std::uint64_t> orders_, taken_, waiting_orders_;
};

}  // namespace wayside
