// The sidecar's line: any bytes are one or are refused; behind a right checksum any JSON is; and
// what was understood is written and understood again.
#include "storage/recovery/sidecar.h"

#include "base/checksum.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string json(reinterpret_cast<const char*>(data), size);
  (void)parse_sidecar(json);
  // A checksum is nothing that random bytes find.
  char checksum[10];
  std::snprintf(checksum, sizeof checksum, "%08x ", crc32c(0, json));
  const auto understood = parse_sidecar(checksum + json);
  if (!understood) return 0;
  const std::string written = dump_sidecar(*understood);
  require(written.find('\n') >= written.size() - 1, "a sidecar is one line");
  const auto again = parse_sidecar(written);
  require(again.has_value(), "what was written is understood");
  require(dump_sidecar(*again) == written, "and means the same");
  return 0;
}
