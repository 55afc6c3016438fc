#include "gateway/printer.h"

#include <cstdio>

#include "base/text.h"
#include "gateway/csv.h"

namespace wayside {
namespace {

std::string text(const std::string& s) {
  return is_valid_utf8(s) ? s : base64(s);
}

}  // namespace

RecordPrinter::RecordPrinter(Format format, const std::string& topic)
    : format_(format), topic_(topic) {
  if (format == Format::csv) {
    std::printf("topic,partition,offset,timestamp,key,value\n");
  } else if (format == Format::table) {
    std::printf("%4s %10s  %-24s  %-16s  %s\n", "PART", "OFFSET", "TIME", "KEY", "VALUE");
  }
}

void RecordPrinter::print(std::int32_t partition, const StoredRecord& r) const {
  const std::string key = r.record.key.value_or("");
  switch (format_) {
    case Format::raw: {
      const std::string value = r.record.value.value_or("");  // as it came, CBOR too
      std::fwrite(value.data(), 1, value.size(), stdout);
      std::putchar('\n');
      break;
    }
    case Format::json: {
      std::string line;
      append_record_json(line, topic_, partition, r.offset, r.record);
      std::printf("%s\n", line.c_str());
      break;
    }
    case Format::csv:
      std::printf("%s\n",
                  csv_line({topic_, cat(partition), cat(r.offset.value), cat(r.record.timestamp_ms),
                            text(key), text(shown_value(r.record).value_or(""))})
                      .c_str());
      break;
    case Format::table:
      std::printf("%4d %10lld  %-24s  %-16s  %s\n", partition,
                  static_cast<long long>(r.offset.value),
                  format_time_utc(r.record.timestamp_ms).c_str(),
                  r.record.key ? printable(key).c_str() : "-",
                  r.record.value ? printable(*shown_value(r.record)).c_str() : "(tombstone)");
      break;
  }
}

}  // namespace wayside
