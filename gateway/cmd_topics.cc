#include <cstdio>

#include "base/text.h"
#include "gateway/cli.h"

namespace wayside {
namespace {

std::string retention_text(const Topic& t) {
  std::string out = t.retention_ms == kForever ? "forever" : format_duration(t.retention_ms);
  if (t.retention_bytes != kUnbounded) out += ", " + format_bytes(t.retention_bytes);
  return out;
}

struct Totals {
  std::int64_t stored = 0, expired = 0;
};

Result<Totals> totals_of(LogReader& reader, const Topic& topic) {
  WS_ASSIGN(const auto marks, reader.marks(topic));
  Totals t;
  for (const PartitionMarks& m : marks) t.stored += m.log_end.value, t.expired += m.log_start.value;
  return t;
}

Status list(const TopicsArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  Table table({"TOPIC", "PARTITIONS", "RECORDS", "EXPIRED", "RETENTION"});
  std::string json = "[";
  for (const Topic& t : log.catalog.topics()) {
    WS_ASSIGN(const Totals n, totals_of(log.reader, t));
    table.add({t.name, cat(t.partitions.size()), cat(n.stored - n.expired), cat(n.expired),
               retention_text(t)});
    json += cat(json.size() > 1 ? "," : "", "{\"topic\":\"", t.name,
                "\",\"partitions\":", t.partitions.size(), ",\"records\":", n.stored - n.expired,
                ",\"expired\":", n.expired, ",\"retention_ms\":", t.retention_ms,
                ",\"retention_bytes\":", t.retention_bytes, "}");
  }
  WS_ASSIGN(const std::int64_t commits,
            log.reader.number("SELECT count(*) FROM _ws_consumer_offsets"));
  table.add({"__consumer_offsets", "1", cat(commits), "-", "compacted"});
  json += cat(json.size() > 1 ? "," : "",
              "{\"topic\":\"__consumer_offsets\",\"partitions\":1,\"records\":", commits,
              ",\"compacted\":true}]");
  if (args.json) {
    std::printf("%s\n", json.c_str());
  } else {
    table.print();
  }
  return {};
}

Status describe(const TopicsArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* t = log.catalog.find(args.topic);
  if (t == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  WS_ASSIGN(const auto marks, log.reader.marks(*t));
  if (args.json) {
    std::string json = cat("{\"topic\":\"", t->name, "\",\"uuid\":\"", t->uuid,
                           "\",\"retention_ms\":", t->retention_ms,
                           ",\"retention_bytes\":", t->retention_bytes, ",\"partitions\":[");
    for (const PartitionMarks& m : marks) {
      json += cat(m.partition == 0 ? "" : ",", "{\"partition\":", m.partition,
                  ",\"log_start\":", m.log_start.value, ",\"log_end\":", m.log_end.value, "}");
    }
    std::printf("%s]}\n", json.c_str());
    return {};
  }
  const auto& columns = t->columns ? *t->columns : t->learnt_columns;
  std::string shown;
  for (const std::string& c : columns) shown += cat(shown.empty() ? "" : ", ", printable(c));
  std::printf("topic      %s\nuuid       %s\nretention  %s\ncolumns    %s%s\n\n", t->name.c_str(),
              t->uuid.c_str(), retention_text(*t).c_str(), shown.empty() ? "none" : shown.c_str(),
              t->columns ? "" : " (learnt)");
  Table table({"PARTITION", "LOG-START", "LOG-END", "RECORDS"});
  for (const PartitionMarks& m : marks) {
    table.add({cat(m.partition), cat(m.log_start.value), cat(m.log_end.value),
               cat(m.log_end.value - m.log_start.value)});
  }
  table.print();
  return {};
}

}  // namespace

int cmd_topics_list(const TopicsArgs& args) {
  const Status s = list(args);
  return s ? kExitOk : report(s.error());
}

int cmd_topics_describe(const TopicsArgs& args) {
  const Status s = describe(args);
  return s ? kExitOk : report(s.error());
}

}  // namespace wayside
