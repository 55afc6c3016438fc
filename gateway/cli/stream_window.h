// What a program on the acknowledged stream was given and has not done with: by partition, in the
// order of offsets. A position moves over what is acknowledged from the front on, so that nothing
// is committed that was not. Thread: a plain value.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "storage/record.h"

namespace wayside {

class StreamWindow {
 public:
  // A record is given, as part of a batch; offsets and batches only rise.
  void give(std::int64_t batch, std::int32_t partition, const StoredRecord& record,
            std::size_t bytes);
  // Everything that was given up to and with this batch; or in this partition up to and with this
  // offset. What is acknowledged already stays so. An error: it was not given, and nothing is.
  [[nodiscard]] Status ack_batch(std::int64_t batch);
  [[nodiscard]] Status ack(std::int32_t partition, std::int64_t offset);
  // The program refuses one record.
  [[nodiscard]] Status fail(std::int32_t partition, std::int64_t offset, const std::string& reason);
  // All of it will be given again.
  void clear();

  // Positions (the next offset to read) that may be committed now; empty: none.
  [[nodiscard]] std::map<std::int32_t, std::int64_t> take_committable();
  // A refused record before which nothing is left; only its place is kept of it.
  struct Refusal {
    StoredRecord record;
    std::string reason;
  };
  [[nodiscard]] std::optional<Refusal> take_refusal();

  [[nodiscard]] std::size_t records() const { return records_; }  // not done with
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  struct Given {
    StoredRecord record;  // without key, value and headers
    std::int64_t batch = 0;
    std::size_t bytes = 0;
    bool acknowledged = false;
    std::optional<std::string> refused;
  };
  struct Queue {
    std::deque<Given> given;
    std::int64_t last_offset = -1;
  };
  [[nodiscard]] static Error not_given(std::int32_t partition, std::int64_t offset);
  void pop(Queue& queue);

  std::map<std::int32_t, Queue> queues_;
  std::int64_t last_batch_ = 0;
  std::size_t records_ = 0, bytes_ = 0;
};

}  // namespace wayside
