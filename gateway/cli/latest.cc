#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/printer.h"
#include "gateway/cli/verbs.h"

namespace wayside {
namespace {

Status latest(const LatestArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* topic = log.catalog.find(args.topic);
  if (topic == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  std::int64_t since_ms = INT64_MIN;
  if (!args.since.empty()) {
    const auto back = parse_duration_ms(args.since);
    if (!back) {
      return fail(ErrorCode::invalid_argument, cat("--since ", printable(args.since)),
                  "write a duration such as 10m, 1h or 7d");
    }
    since_ms = SystemClock().wall_ms() - *back;
  }
  WS_ASSIGN(auto records, log.reader.latest(*topic, since_ms));
  std::sort(records.begin(), records.end(), [](const StoredRecord& a, const StoredRecord& b) {
    return *a.record.key < *b.record.key;
  });
  if (args.format != Format::table) {
    const RecordPrinter printer(args.format, topic->name);
    for (const StoredRecord& r : records) printer.print(log.catalog.partition_of(r.tp), r);
    return {};
  }
  const std::int64_t now = SystemClock().wall_ms();
  Table table({"KEY", "CAME", "TIME", "PART", "OFFSET", "VALUE"});
  for (const StoredRecord& r : records) {
    table.add({shown_name(*r.record.key, args.wide), ago(r.append_ms, now),
               format_time_utc(r.record.timestamp_ms), cat(log.catalog.partition_of(r.tp)),
               cat(r.offset.value),
               r.record.value ? printable(*shown_value(r.record)) : "(tombstone)"});
  }
  table.print();
  return {};
}

}  // namespace

int cmd_latest(const LatestArgs& args) {
  return exit_of(latest(args));
}

}  // namespace wayside
