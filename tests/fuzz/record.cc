// The headers of a record, and the record as JSON: any bytes are headers or torn, what was encoded
// comes back, and whatever a record holds is shown as one line of JSON.
#include "storage/record.h"

#include "base/json.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider in(data, size);
  Record record;
  record.attributes = in.ConsumeIntegral<std::uint8_t>();
  record.timestamp_ms = in.ConsumeIntegral<std::int64_t>();
  if (in.ConsumeBool()) record.key = in.ConsumeRandomLengthString(64);
  if (in.ConsumeBool()) record.value = in.ConsumeRandomLengthString(256);
  record.headers = in.ConsumeRemainingBytesAsString();

  const auto headers = decode_headers(record.headers);
  if (headers) {
    const auto again = decode_headers(encode_headers(*headers));
    require(again && *again == *headers, "encoded headers come back");
  }
  std::string line;
  append_record_json(line, "topic", 3, Offset(7), record);
  require(line.find('\n') == std::string::npos, "a record is one line");
  const auto json = Json::parse(line);
  require(json.has_value(), "a record is JSON");
  require(json->number("offset", -1) == 7, "the offset is in it");
  require((json->find("headers") != nullptr), "the headers are in it");
  // What the checksum covers: no other value has the same by accident of one byte.
  if (record.value && !record.value->empty()) {
    const std::uint32_t crc = record_crc(TpId(1), Offset(7), 1, record);
    record.value->front() = static_cast<char>(record.value->front() ^ 1);
    require(record_crc(TpId(1), Offset(7), 1, record) != crc, "the checksum covers the value");
  }
  return 0;
}
