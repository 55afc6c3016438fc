#include "gateway/cli/printer.h"

#include <algorithm>
#include <cstdio>

#include "base/text.h"
#include "gateway/cli/csv.h"

namespace wayside {
namespace {

std::string text(const std::string& s) {
  return is_valid_utf8(s) ? s : base64(s);
}

std::string padded(const std::string& s, std::size_t width, bool right = false) {
  const std::string pad(width - std::min(width, s.size()), ' ');
  return right ? pad + s : s + pad;
}

std::string table_row(const std::string& partition, const std::string& offset,
                      const std::string& time, const std::string& key, const std::string& value) {
  return cat(padded(partition, 4, true), " ", padded(offset, 10, true), "  ", padded(time, 24),
             "  ", padded(key, 16), "  ", value, "\n");
}

}  // namespace

std::string record_heading(Format format) {
  if (format == Format::csv) return "topic,partition,offset,timestamp,key,value\n";
  return format == Format::table ? table_row("PART", "OFFSET", "TIME", "KEY", "VALUE") : "";
}

void append_record(std::string& out, Format format, const std::string& topic,
                   std::int32_t partition, const StoredRecord& r) {
  const std::string key = r.record.key.value_or("");
  switch (format) {
    case Format::raw:
      out += r.record.value.value_or("");  // as it came, CBOR too
      out += '\n';
      break;
    case Format::json:
      append_record_json(out, topic, partition, r.offset, r.record);
      out += '\n';
      break;
    case Format::csv:
      out += csv_line({topic, cat(partition), cat(r.offset.value), cat(r.record.timestamp_ms),
                       text(key), text(shown_value(r.record).value_or(""))});
      out += '\n';
      break;
    case Format::table:
      out += table_row(cat(partition), cat(r.offset.value),
                       format_time_utc(r.record.timestamp_ms), r.record.key ? printable(key) : "-",
                       r.record.value ? printable(*shown_value(r.record)) : "(tombstone)");
      break;
  }
}

RecordPrinter::RecordPrinter(Format format, const std::string& topic)
    : format_(format), topic_(topic) {
  std::fputs(record_heading(format).c_str(), stdout);
}

void RecordPrinter::print(std::int32_t partition, const StoredRecord& r) const {
  std::string out;
  append_record(out, format_, topic_, partition, r);
  std::fwrite(out.data(), 1, out.size(), stdout);
}

}  // namespace wayside
