// What callers ask the writer for: a batch of operations that commit together or not at all.
// Everything that can be refused is refused before a batch is made; inside the transaction only
// the disk can fail. Thread: a batch has one owner and moves to the writer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "storage/bridge_ops.h"
#include "storage/record.h"

namespace wayside {

struct Append {
  TpId tp;
  Record record;
  std::shared_ptr<Source> source;
  Offset offset{};  // out
};

// Opens a client's MQTT session: what it had comes back, or is deleted for a clean start. A
// session of expiry 0 leaves no row.
struct OpenSession {
  std::string client_id;
  bool clean_start = false;
  std::uint32_t expiry_s = 0;
  bool present = false;                 // out
  std::int64_t session_id = 0;          // out; 0: it has no row, and needs none
  std::vector<std::uint16_t> qos2_ids;  // out
  std::uint64_t origin = 0;             // a number for the network address; 0: the gateway itself
  bool not_kept = false;                // out: it was to have a row, and there is no room for more
};
// The client went away; expiry 0 ends the session.
struct CloseSession {
  std::int64_t session_id = 0;
  std::uint32_t expiry_s = 0;
};
// A QoS 2 reading is stored (with its Append, in one batch); its PUBREL came.
struct AddQos2Id {
  std::int64_t session_id = 0;
  std::uint16_t packet_id = 0;
  std::uint64_t origin = 0;  // of whose address; 0: of none
};
struct RemoveQos2Id {
  std::int64_t session_id = 0;
  std::uint16_t packet_id = 0;
};

// A group's position: the next offset to read of a partition.
struct CommitOffset {
  std::string group;
  TpId tp;
  Offset next;
  std::string metadata;
};

// A group is deleted: what it had committed is gone. Or it is still read, though nothing came that
// it could commit: its offsets do not grow old.
struct DropGroup {
  std::string group;
};
struct TouchGroup {
  std::string group;
};

// Adds to a counter of what was refused or set aside.
struct Count {
  std::string name;
  std::int64_t n = 1;
};

// A quarantined reading has been dealt with: tried again with success, or dropped. It comes before
// what became of the reading, so that nobody does that twice.
struct SettleQuarantined {
  Offset offset;
  std::string outcome;
  bool already = false;  // out: it was before; then nothing behind this op in its batch is done
};

// A small fact that survives a restart, by name; without a value it is forgotten.
struct SetFact {
  std::string name;
  std::optional<std::string> value;
};

// Before the records of a broker's message. One that the broker had kept (a replay) may be known:
// its value was the last one of this source. Then nothing behind it in its batch is done.
struct CheckReplay {
  std::shared_ptr<Source> source;
  std::uint32_t crc = 0;  // of the payload
  bool replay = false;
  bool known = false;  // out
};

using Op = std::variant<Append, OpenSession, CloseSession, AddQos2Id, RemoveQos2Id, CommitOffset,
                        DropGroup, TouchGroup, Seal, Unseal, Resend, Count, SettleQuarantined,
                        SetFact, CheckReplay>;

// Whether nothing behind this op in its batch is done.
[[nodiscard]] bool ends_batch(const Op& op);
// What an op holds in memory until it is committed, about.
[[nodiscard]] std::size_t op_bytes(const Op& op);

struct Batch {
  std::vector<Op> ops;
  bool flush_now = false;  // do not wait for the linger
  // Called once, on the writer's thread, after the commit has returned (or failed: then nothing
  // of the batch is stored). Must not throw, and must not wait.
  std::function<void(Batch&, const Status&)> done;
};

// Where batches go: the log, or in tests something worse.
class BatchSink {
 public:
  virtual ~BatchSink() = default;
  // Batches of one caller commit in the order of their submission. Thread: any.
  virtual void submit(Batch batch) = 0;
  // Commits what waits, without its linger. Thread: any.
  virtual void flush() = 0;
};

}  // namespace wayside
