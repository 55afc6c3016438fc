#include <cstdio>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/bridge_change.h"
#include "gateway/control/changes.h"
#include "gateway/control/socket_client.h"
#include "storage/account.h"
#include "storage/bridge_ops.h"

namespace wayside {
namespace {

void print_one(const BridgeConfig& config, const Lag& lag, const Json* live, bool paused,
               std::int64_t expired_unsent, std::int64_t again) {
  const std::int64_t now = SystemClock().wall_ms();
  const auto line = [](const char* head, const std::string& text) {
    std::printf("  %-10s %s\n", head, text.c_str());
  };
  std::string topics;
  for (const std::string& t : config.topics) topics += cat(topics.empty() ? "" : ", ", t);
  std::printf("%s\n", config.name.c_str());
  line("forwards", cat(topics, " to ", printable(config.to)));
  std::int64_t rate = 0;
  if (live != nullptr) {
    rate = live->number("records_per_s");
    line("does",
         cat(live->text("state"), ", since ", long_duration(now - live->number("since_ms", now))));
    line("delivered",
         cat(live->number("records_sent"), " records in ", live->number("batches_sent"),
             " requests since the start of the gateway; the last ",
             live->number("last_delivered_ms") == 0 ? "never"
                                                    : ago(live->number("last_delivered_ms"), now)));
    if (!live->text("note").empty()) line("note", live->text("note"));
    if (live->number("tries_failed") > 0) {
      line("failed", cat(live->number("tries_failed"), " tries since the start"));
    }
  } else {
    line("does", cat("nothing: the gateway is stopped", paused ? "; it is also paused" : ""));
  }
  if (lag.records == 0) {
    line("left", "nothing: all that is stored is forwarded");
  } else {
    line("left", cat(lag.records, " records, the oldest from ", ago(lag.oldest_append_ms, now)));
    if (rate > 0 && !paused && !live->flag("failing")) {
      line("done", cat("in about ", long_duration(lag.records * 1000 / rate + 999), " at ", rate,
                       " records/s, the speed of its last requests"));
    }
  }
  if (again > 0) line("again", cat(again, " records are to be sent once more"));
  std::int64_t skipped = 0;
  for (const PartitionLag& p : lag.partitions) skipped += p.skipped;
  if (skipped > 0) {
    line("skipped", cat(skipped, " records were stepped over; 'wayside bridge rewind' or 'resend' "
                                 "sends them"));
  }
  if (expired_unsent > 0) {
    line("lost", cat(expired_unsent,
                     " records expired before they were sent: raise the retention "
                     "of its topics"));
  }
}

Status status(const BridgeArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  // Of a gateway that does not run: nothing.
  const Json live = ask_gateway(log.plan.config.data_dir, R"({"do":"status"})").value_or(Json());
  WS_ASSIGN(const auto counters, log.reader.counters());
  std::string json = "[";
  bool found = false;
  for (const BridgeConfig& b : log.plan.config.bridges) {
    if (!args.name.empty() && args.name != b.name) continue;
    found = true;
    WS_ASSIGN(const Lag lag, lag_of(log.reader, log.catalog, bridge_group(b.name), b.topics));
    WS_ASSIGN(const auto paused, log.reader.fact(pause_fact(b.name)));
    WS_ASSIGN(const auto resends, log.reader.resends(b.name));
    std::int64_t expired = 0, again = 0;
    for (const Resend& r : resends) again += r.to.value - r.from.value;
    for (const auto& [name, n] : counters) {
      if (name == cat("expired_unsent.", b.name)) expired = n;
    }
    expired += lag.expired_uncounted();
    const Json* one = nullptr;
    for (const Json& candidate : live.list("bridges")) {
      if (candidate.text("name") == b.name) one = &candidate;
    }
    if (!args.json) {
      print_one(b, lag, one, paused.has_value(), expired, again);
      continue;
    }
    json += cat(json.size() > 1 ? "," : "", "{\"name\":\"", b.name, "\",\"to\":");
    append_json_string(json, printable(b.to));
    json += cat(",\"unsent\":", lag.records, ",\"oldest_unsent_ms\":", lag.oldest_append_ms,
                ",\"expired_unsent\":", expired, ",\"again\":", again,
                ",\"paused\":", paused ? "true" : "false",
                ",\"live\":", one == nullptr ? "null" : one->dump(), "}");
  }
  WS_ASSIGN(const auto left, left_behind(log.reader, log.catalog, log.plan.config));
  for (const LeftBehind& l : left) {
    if (!args.json && (args.name.empty() || args.name == l.bridge)) {
      std::printf("ALARM       %s\n", l.text().c_str());
    }
  }
  if (!found && !args.name.empty()) {
    return fail(ErrorCode::not_found, cat("there is no bridge '", printable(args.name), "'"),
                "'wayside bridge status' shows what there is");
  }
  if (!found && !args.json) {
    std::printf("there is no bridge; [[bridge]] in %s makes one\n", args.config.c_str());
  }
  if (args.json) std::printf("%s]\n", json.c_str());
  return {};
}

Status pause_or_resume(const BridgeArgs& args, bool pause) {
  std::string request = cat("{\"do\":\"bridge.", pause ? "pause" : "resume", "\",\"bridge\":");
  append_json_string(request, printable(args.name));
  WS_ASSIGN([[maybe_unused]] const Json ok, change_log(args.config, request + "}"));
  if (pause) {
    std::printf("bridge %s is paused, also after a restart, until: wayside bridge resume %s\n",
                args.name.c_str(), args.name.c_str());
  } else {
    std::printf("bridge %s goes on\n", args.name.c_str());
  }
  return {};
}

}  // namespace

int cmd_bridge_status(const BridgeArgs& args) {
  return exit_of(status(args));
}

int cmd_bridge_pause(const BridgeArgs& args, bool pause) {
  return exit_of(pause_or_resume(args, pause));
}

int cmd_reload(const std::string& config) {
  // A wrong file is told here, with its lines, whoever runs the gateway.
  const auto plan = load_plan(config);
  if (!plan) {
    report(plan.error());
    return kExitConfiguration;
  }
  const auto answer = ask_gateway(plan->config.data_dir, R"({"do":"reload"})");
  if (!answer) return report(answer.error());
  const auto& changes = answer->list("changes");
  if (changes.empty()) std::printf("nothing differs from what runs\n");
  for (const Json& line : changes) {
    if (const auto* text = std::get_if<std::string>(&line.value)) {
      std::printf("%s\n", text->c_str());
    }
  }
  return kExitOk;
}

}  // namespace wayside
