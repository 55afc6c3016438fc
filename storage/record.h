// The record: what the log keeps of a reading. Thread: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace wayside {

// "No time of its own": the log takes the append time.
inline constexpr std::int64_t kNoTimestamp = INT64_MIN;

// Bits of Record::attributes, as stored.
enum RecordAttribute : std::int32_t {
  kDeviceTime = 1,      // the timestamp is the device's own
  kClockUntrusted = 2,  // the gateway's clock was not trusted when the record was appended
  kRetained = 4,        // the device set MQTT's retain flag
  kCbor = 8,            // the value is CBOR, as its route says
};

struct Record {
  std::int64_t timestamp_ms = kNoTimestamp;
  std::optional<std::string> key;    // none: no key
  std::optional<std::string> value;  // none: a tombstone
  std::string headers;               // encoded by encode_headers; empty when there are none
  std::int32_t attributes = 0;
  // Of key, value and headers.
  [[nodiscard]] std::int64_t payload_bytes() const {
    return static_cast<std::int64_t>((key ? key->size() : 0) + (value ? value->size() : 0) +
                                     headers.size());
  }
};

struct StoredRecord {
  Seq seq;
  TpId tp;
  Offset offset;
  std::int64_t append_ms = 0;
  Record record;
  std::int64_t source = 0;  // row of the dictionary of sources; 0: none
  std::uint32_t crc = 0;
};

using Header = std::pair<std::string, std::optional<std::string>>;
// Headers as in Kafka's record format v2: a zigzag varint count, then per header key length, key,
// value length (-1: null), value. The same bytes on every CPU.
[[nodiscard]] std::string encode_headers(const std::vector<Header>& headers);
[[nodiscard]] Result<std::vector<Header>> decode_headers(std::string_view bytes);

// CRC-32C over everything that makes the record, little-endian; docs/FORMAT.md has the order.
[[nodiscard]] std::uint32_t record_crc(TpId tp, Offset offset, std::int64_t append_ms,
                                       const Record& record);

// The value as a person or a JSON reader wants it: CBOR as JSON text, all else as it is.
[[nodiscard]] std::optional<std::string> shown_value(const Record& record);

// The headers as a JSON object in their order; the values of a name that repeats are a list.
[[nodiscard]] std::string headers_json(std::string_view encoded);

// {"topic","partition","offset","timestamp","key","value","headers"}: the one form of a record.
void append_record_json(std::string& out, std::string_view topic, std::int32_t partition,
                        Offset offset, const Record& record);

// Who sent a record. Shared by all records of a client on a topic; `id` belongs to the writer.
struct Source {
  std::string client_id;
  std::string mqtt_topic;
  std::int64_t id = 0;       // row of the dictionary; 0: not looked up yet; -1: it is full
  std::int64_t era = 0;      // in which it was looked up; the writer's
  std::uint64_t origin = 0;  // a number for the network address; 0: the gateway itself
};

}  // namespace wayside
