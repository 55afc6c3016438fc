#include <cstdio>

#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/changes.h"
#include "storage/account.h"

namespace wayside {
namespace {

std::string retention_text(const Topic& t) {
  std::string out = t.retention_ms == kForever ? "forever" : format_duration(t.retention_ms);
  if (t.retention_bytes != kUnbounded) out += ", " + format_bytes(t.retention_bytes);
  return out;
}

Result<Account> totals_of(LogReader& reader, const Topic& topic) {
  WS_ASSIGN(const auto marks, reader.marks(topic));
  return account_of(marks);
}

Status list(const TopicsArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  Table table({"TOPIC", "PARTITIONS", "RECORDS", "EXPIRED", "RETENTION"});
  std::string json = "[";
  for (const Topic& t : log.catalog.topics()) {
    WS_ASSIGN(const Account n, totals_of(log.reader, t));
    table.add({t.name, cat(t.partitions.size()), cat(n.live), cat(n.expired), retention_text(t)});
    json += cat(json.size() > 1 ? "," : "", "{\"topic\":\"", t.name,
                "\",\"partitions\":", t.partitions.size(), ",\"records\":", n.live,
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

// As far as it was given; "topics create|alter".
Result<std::string> limits_json(const TopicsArgs& args) {
  std::string out;
  if (args.partitions > 0) out += cat(",\"partitions\":", args.partitions);
  if (!args.retention.empty()) {
    const auto ms =
        args.retention == "forever" ? std::optional(kForever) : parse_duration_ms(args.retention);
    if (!ms || *ms == 0) {
      return fail(ErrorCode::invalid_argument, cat("--retention ", printable(args.retention)),
                  "write a duration such as 12h or 7d, or forever");
    }
    out += cat(",\"retention_ms\":", *ms);
  }
  if (!args.retention_bytes.empty()) {
    const auto bytes = parse_bytes(args.retention_bytes);
    if (!bytes || *bytes <= 0) {
      return fail(ErrorCode::invalid_argument,
                  cat("--retention-bytes ", printable(args.retention_bytes)),
                  "write a number of bytes such as 64MiB or 2GiB");
    }
    out += cat(",\"retention_bytes\":", *bytes);
  }
  return out;
}

Status change(const TopicsArgs& args, const char* verb) {
  WS_TRY(check_topic_name(args.topic));
  WS_ASSIGN(const std::string limits, limits_json(args));
  if (limits.empty() && verb == std::string_view("alter")) {
    return fail(ErrorCode::invalid_argument, "nothing to alter",
                "give --partitions, --retention or --retention-bytes");
  }
  WS_ASSIGN([[maybe_unused]] const Json ok,
            change_log(args.config, cat("{\"do\":\"topics.", verb, "\",\"topic\":\"", args.topic,
                                        "\"", limits, "}")));
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* t = log.catalog.find(args.topic);
  if (t == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  std::printf("topic %s is %s: %zu %s, kept %s\n", t->name.c_str(),
              verb == std::string_view("create") ? "created" : "altered", t->partitions.size(),
              t->partitions.size() == 1 ? "partition" : "partitions", retention_text(*t).c_str());
  if (verb == std::string_view("create")) {
    std::printf("it is filled by a [[route]] with topic = \"%s\" in %s; then: wayside reload\n",
                t->name.c_str(), args.config.c_str());
  } else if (args.partitions > 0) {
    std::printf("most keys go to another partition than before\n");
  }
  return {};
}

Status remove(const TopicsArgs& args) {
  std::int64_t records = 0;
  {
    WS_ASSIGN(OpenedLog log, open_log(args.config));
    const Topic* t = log.catalog.find(args.topic);
    if (t == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
    WS_ASSIGN(const Account n, totals_of(log.reader, *t));
    records = n.live;
    WS_TRY(
        confirm(cat("delete topic ", t->name, " with ", records, " records for good?"), args.yes));
  }
  WS_ASSIGN(
      [[maybe_unused]] const Json ok,
      change_log(args.config, cat("{\"do\":\"topics.delete\",\"topic\":\"", args.topic, "\"}")));
  std::printf("topic %s is deleted, with %lld records and what groups had committed of it\n",
              args.topic.c_str(), static_cast<long long>(records));
  return {};
}

Status relearn(const TopicsArgs& args) {
  std::string name;
  append_json_string(name, printable(args.topic));
  WS_ASSIGN([[maybe_unused]] const Json ok,
            change_log(args.config, cat("{\"do\":\"topics.relearn\",\"topic\":", name, "}")));
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* t = log.catalog.find(args.topic);
  std::string columns;
  for (const std::string& c : t == nullptr ? std::vector<std::string>{} : t->learnt_columns) {
    columns += cat(columns.empty() ? "" : ", ", printable(c));
  }
  std::printf("columns of %s: %s\n", args.topic.c_str(),
              columns.empty() ? "none" : columns.c_str());
  return {};
}

Status describe_offsets(const TopicsArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  WS_ASSIGN(const std::int64_t n, log.reader.number("SELECT count(*) FROM _ws_consumer_offsets"));
  if (args.json) {
    std::printf("{\"topic\":\"__consumer_offsets\",\"compacted\":true,\"records\":%lld}\n",
                static_cast<long long>(n));
  } else {
    std::printf(
        "topic      __consumer_offsets\nretention  compacted: the latest commit of each "
        "group and partition\nrecords    %lld\n",
        static_cast<long long>(n));
  }
  return {};
}

Status describe(const TopicsArgs& args) {
  if (args.topic == "__consumer_offsets") return describe_offsets(args);
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
    table.add({cat(m.partition), cat(m.log_start.value), cat(m.log_end.value), cat(m.live())});
  }
  table.print();
  return {};
}

}  // namespace

int cmd_topics_list(const TopicsArgs& args) {
  return exit_of(list(args));
}

int cmd_topics_create(const TopicsArgs& args) {
  return exit_of(change(args, "create"));
}

int cmd_topics_alter(const TopicsArgs& args) {
  return exit_of(change(args, "alter"));
}

int cmd_topics_delete(const TopicsArgs& args) {
  return exit_of(remove(args));
}

int cmd_topics_relearn(const TopicsArgs& args) {
  return exit_of(relearn(args));
}

int cmd_topics_describe(const TopicsArgs& args) {
  return exit_of(describe(args));
}

}  // namespace wayside
