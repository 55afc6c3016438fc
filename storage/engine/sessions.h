// MQTT sessions that outlive their connection, and the QoS 2 identifiers they hold. Both have a
// budget of bytes of their own, which readings never pay for. A new session that does not fit, or
// comes from an address that opens them too fast, is not kept; one of a client that never stored a
// reading goes before it. Who has stored a reading need not wait. Thread: the writer's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "storage/batch.h"
#include "storage/engine/share.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

class Engine;

class Sessions {
 public:
  explicit Sessions(Engine& engine) : engine_(engine) {}
  [[nodiscard]] Status prepare();  // after the database is open: statements
  [[nodiscard]] Status load();  // what there is, after a start has removed what ended with it
  [[nodiscard]] Status open(OpenSession& op);
  [[nodiscard]] Status close(const CloseSession& op);
  [[nodiscard]] Status add(const AddQos2Id& op);
  [[nodiscard]] Status remove(const RemoveQos2Id& op);
  // By trusted time; and those that never stored a reading after a day, all that hold no identifier
  // when room is short.
  [[nodiscard]] Status expire(bool by_time);
  // Why a batch is not taken: it would keep more identifiers than there may be. Empty: it is.
  [[nodiscard]] Result<std::string> refusal(const Batch& batch);
  // A transaction begins; it is on disk; it failed.
  void begin();
  void committed();
  void rolled_back();

  [[nodiscard]] std::int64_t bytes() const { return now_.bytes; }
  [[nodiscard]] std::int64_t bytes_most() const;
  [[nodiscard]] std::int64_t qos2_bytes() const;
  [[nodiscard]] std::int64_t qos2_bytes_most() const;

 private:
  struct Totals {
    std::int64_t rows = 0, bytes = 0, ids = 0;
  };
  // What an address may open: so many at once, and then one in a while.
  struct Bucket {
    std::int64_t left = 0, at_ms = -1;  // never used yet
    [[nodiscard]] bool take(std::int64_t most, std::int64_t every_ms, std::int64_t now_ms);
  };
  [[nodiscard]] Result<bool> may_keep(const OpenSession& op);
  [[nodiscard]] Status end(std::int64_t session_id);
  [[nodiscard]] Status close_again();
  [[nodiscard]] Status end_some_of_the_newer();
  // Looks at some sessions, in turn: those that are absent, hold no identifier, and (only
  // strangers) are of a client that never stored a reading.
  [[nodiscard]] Result<std::vector<std::int64_t>> find_useless(std::int64_t away_before_ms,
                                                               bool only_strangers);

  Engine& engine_;
  Statement add_, remove_, stored_, ids_of_;
  Totals now_, before_;
  Share share_, qos2_share_;
  Bucket all_;
  std::unordered_map<std::uint64_t, Bucket> of_origin_;
  // Of the running transaction: what it opened, what it closed, and who took from a bucket.
  std::vector<std::int64_t> opened_;
  std::vector<CloseSession> closed_;
  std::vector<std::uint64_t> took_;
  std::map<std::int64_t, std::uint32_t> unclosed_;  // expiry_s of those whose close failed
  std::int64_t cursor_ = 0;  // of find_useless
  std::int64_t last_expire_ms_ = INT64_MIN / 2;
};

}  // namespace wayside
