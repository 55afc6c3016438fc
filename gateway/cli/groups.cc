#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/range.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/changes.h"
#include "gateway/control/socket_client.h"
#include "storage/account.h"
#include "storage/coordinator.h"

namespace wayside {
namespace {

// Who reads, by group and topic: "client" of the active one, and how many stand by. Only of a
// running gateway.
struct Readers {
  std::string active;
  std::int64_t standby = 0;
};
using ReadersOf = std::map<std::pair<std::string, std::string>, Readers>;

ReadersOf readers_of(const Config& config) {
  ReadersOf out;
  const auto groups = ask_gateway(config.data_dir, R"({"do":"groups"})");
  if (!groups) return out;
  for (const Json& g : groups->list("groups")) {
    Readers& r = out[{g.text("group"), g.text("topic")}];
    for (const Json& m : g.list("members")) {
      if (m.flag("active")) {
        r.active = m.text("client");
      } else {
        ++r.standby;
      }
    }
  }
  return out;
}

// The topics a group has offsets of, or is reading.
Result<std::map<std::string, std::set<std::string>>> groups_of(OpenedLog& log,
                                                               const ReadersOf& readers) {
  std::map<std::string, std::set<std::string>> out;
  WS_ASSIGN(const auto positions, log.reader.positions(""));
  for (const GroupPosition& p : positions) {
    if (const Topic* topic = log.catalog.find(p.tp)) out[p.group].insert(topic->name);
  }
  for (const auto& [key, r] : readers) out[key.first].insert(key.second);
  return out;
}

Status list(const GroupsArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const ReadersOf readers = readers_of(log.plan.config);
  WS_ASSIGN(const auto groups, groups_of(log, readers));
  Table table({"GROUP", "TOPIC", "LAG", "BEHIND", "READER"});
  std::string json = "[";
  const std::int64_t now = SystemClock().wall_ms();
  for (const auto& [group, topics] : groups) {
    for (const std::string& topic : topics) {
      WS_ASSIGN(const Lag lag, lag_of(log.reader, log.catalog, group, {topic}));
      const auto it = readers.find({group, topic});
      const std::string who = it != readers.end()            ? it->second.active
                              : group.starts_with("bridge.") ? "the bridge"
                                                             : "-";
      table.add({group, topic, cat(lag.records),
                 lag.records == 0 ? "-" : ago(lag.oldest_append_ms, now), who});
      json += cat(json.size() > 1 ? "," : "", "{\"group\":");
      append_json_string(json, group);
      json += cat(",\"topic\":\"", topic, "\",\"lag\":", lag.records,
                  ",\"oldest_unread_ms\":", lag.oldest_append_ms, ",\"reader\":");
      append_json_string(json, who);
      json += "}";
    }
  }
  if (args.json) {
    std::printf("%s]\n", json.c_str());
  } else {
    table.print();
  }
  return {};
}

Error unknown_group(const std::string& group,
                    const std::map<std::string, std::set<std::string>>& groups) {
  std::vector<std::string> names;
  for (const auto& [name, topics] : groups) names.push_back(name);
  const std::string near = nearest(group, names);
  return {ErrorCode::not_found, cat("there is no group '", printable(group), "'"),
          near.empty() ? "'wayside groups list' shows what there is; a group begins to exist with "
                         "'wayside read TOPIC --group NAME'"
                       : cat("did you mean '", near, "'?")};
}

Status describe(const GroupsArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const ReadersOf readers = readers_of(log.plan.config);
  WS_ASSIGN(const auto groups, groups_of(log, readers));
  const auto it = groups.find(args.group);
  if (it == groups.end()) return tl::unexpected<Error>(unknown_group(args.group, groups));
  Table table(
      {"TOPIC", "PARTITION", "COMMITTED", "LOG-END", "LAG", "BEHIND", "COMMITTED-AT", "READER"});
  std::string json = "{\"group\":";
  append_json_string(json, args.group);
  json += ",\"partitions\":[";
  const std::int64_t now = SystemClock().wall_ms();
  std::int64_t lag_all = 0, expired = 0, standby = 0;
  bool first = true;
  for (const std::string& topic : it->second) {
    WS_ASSIGN(const Lag lag, lag_of(log.reader, log.catalog, args.group, {topic}));
    const auto reader = readers.find({args.group, topic});
    const std::string who = reader == readers.end() ? "-" : reader->second.active;
    if (reader != readers.end()) standby += reader->second.standby;
    lag_all += lag.records;
    for (const PartitionLag& p : lag.partitions) {
      if (p.committed >= 0) expired += p.expired;
      const std::string committed = p.committed < 0 ? "-" : cat(p.committed);
      table.add({topic, cat(p.partition), committed, cat(p.log_end), cat(p.records),
                 p.records == 0 ? "-" : ago(p.oldest_append_ms, now), ago(p.commit_ms, now), who});
      json += cat(std::exchange(first, false) ? "" : ",", "{\"topic\":\"", topic,
                  "\",\"partition\":", p.partition,
                  ",\"committed\":", p.committed < 0 ? "null" : cat(p.committed),
                  ",\"log_start\":", p.log_start, ",\"log_end\":", p.log_end,
                  ",\"lag\":", p.records, ",\"oldest_unread_ms\":", p.oldest_append_ms,
                  ",\"commit_ms\":", p.commit_ms, ",\"reader\":");
      append_json_string(json, who);
      json += "}";
    }
  }
  if (args.json) {
    std::printf("%s],\"lag\":%lld,\"standby\":%lld}\n", json.c_str(),
                static_cast<long long>(lag_all), static_cast<long long>(standby));
    return {};
  }
  table.print();
  std::printf("\n%lld unread in all", static_cast<long long>(lag_all));
  if (expired > 0) {
    std::printf("; %lld expired before the group read them", static_cast<long long>(expired));
  }
  if (standby > 0) {
    std::printf("; %lld %s by", static_cast<long long>(standby), standby == 1 ? "stands" : "stand");
  }
  std::printf("\n");
  return {};
}

Status reset(const GroupsArgs& args) {
  WS_TRY(check_group_name(args.group));
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* topic = log.catalog.find(args.topic);
  if (topic == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  WS_ASSIGN(const Lag before, lag_of(log.reader, log.catalog, args.group, {topic->name}));
  WS_ASSIGN(const auto marks, log.reader.marks(*topic));
  Table table({"TOPIC", "PARTITION", "COMMITTED", "NEW", "LOG-END", "LAG"});
  std::string request = "{\"do\":\"groups.reset\",\"group\":";
  append_json_string(request, args.group);
  request += cat(",\"topic\":\"", topic->name, "\",\"offsets\":[");
  bool first = true;
  for (const PartitionMarks& m : marks) {
    if (args.partition && *args.partition != m.partition) continue;
    WS_ASSIGN(const std::int64_t offset, offset_meant(log.reader, *topic, m, args.to));
    const std::int64_t now = before.partitions[static_cast<std::size_t>(m.partition)].committed;
    table.add({topic->name, cat(m.partition), now < 0 ? "-" : cat(now), cat(offset),
               cat(m.log_end.value),
               cat(m.log_end.value - offset - m.missing(offset, m.log_end.value))});
    request += cat(std::exchange(first, false) ? "" : ",", "{\"partition\":", m.partition,
                   ",\"offset\":", offset, "}");
  }
  if (first) {
    return fail(ErrorCode::not_found, cat(topic->name, " has no partition ", *args.partition),
                cat("its partitions are 0 to ", topic->partitions.size() - 1));
  }
  table.print();
  if (!args.execute) {
    std::printf("\nnothing was changed: this is what --execute would do\n");
    return {};
  }
  WS_ASSIGN([[maybe_unused]] const Json ok, change_log(args.config, request + "]}"));
  std::printf("\ngroup %s was reset\n", printable(args.group).c_str());
  return {};
}

Status remove(const GroupsArgs& args) {
  WS_TRY(check_group_name(args.group));
  {
    WS_ASSIGN(OpenedLog log, open_log(args.config));
    WS_ASSIGN(const auto groups, groups_of(log, {}));
    const auto it = groups.find(args.group);
    if (it == groups.end()) return tl::unexpected<Error>(unknown_group(args.group, groups));
    std::string topics;
    for (const std::string& t : it->second) topics += cat(topics.empty() ? "" : ", ", t);
    WS_TRY(
        confirm(cat("delete group ", args.group, " and its offsets in ", topics, "?"), args.yes));
  }
  std::string request = "{\"do\":\"groups.delete\",\"group\":";
  append_json_string(request, args.group);
  WS_ASSIGN([[maybe_unused]] const Json ok, change_log(args.config, request + "}"));
  std::printf("group %s is deleted; the records stay\n", printable(args.group).c_str());
  return {};
}

}  // namespace

int cmd_groups_list(const GroupsArgs& args) {
  return exit_of(list(args));
}
int cmd_groups_describe(const GroupsArgs& args) {
  return exit_of(describe(args));
}
int cmd_groups_reset(const GroupsArgs& args) {
  return exit_of(reset(args));
}
int cmd_groups_delete(const GroupsArgs& args) {
  return exit_of(remove(args));
}

}  // namespace wayside
