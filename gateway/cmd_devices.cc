// devices: who sends, how often, who is silent; from the log, and when the gateway runs also who is
// connected and what went wrong last.
#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/control.h"
#include "gateway/verbs.h"

namespace wayside {
namespace {

// A pause is a gap when it is ten times the usual interval, and longer than this.
constexpr std::int64_t kGapLeastMs = 10'000;
constexpr double kGapTimes = 10;
constexpr std::int64_t kUsualAfter = 5;  // readings, from which the usual interval is known

struct Sender {
  std::int64_t records = 0, first_ms = 0, last_ms = 0, gaps = 0, longest_gap_ms = 0;
  double usual_ms = 0;
  std::int64_t clock_diff_ms = 0, with_time = 0;

  void add(const LogReader::Arrival& a) {
    if (records > 0) {
      const std::int64_t pause = a.append_ms - last_ms;
      if (records >= kUsualAfter && pause > kGapLeastMs &&
          static_cast<double>(pause) > kGapTimes * usual_ms) {
        ++gaps;
        longest_gap_ms = std::max(longest_gap_ms, pause);
      } else {
        const auto ms = static_cast<double>(std::max<std::int64_t>(pause, 0));
        usual_ms = records == 1 ? ms : 0.9 * usual_ms + 0.1 * ms;
      }
    } else {
      first_ms = a.append_ms;
    }
    last_ms = a.append_ms;
    ++records;
    if ((a.attributes & kDeviceTime) != 0) {
      ++with_time;
      clock_diff_ms = a.timestamp_ms - a.append_ms;
    }
  }
};

struct Device {
  Sender all;
  std::set<std::string> topics;
  bool connected = false;
  std::string trouble;
  std::int64_t trouble_ms = 0;
};

Result<std::map<std::string, Device>> survey(OpenedLog& log, std::int64_t since_ms) {
  std::map<std::string, Device> devices;
  WS_ASSIGN(const auto sources, log.reader.sources());
  std::map<std::int64_t, Sender> senders;
  WS_TRY(log.reader.arrivals(since_ms,
                             [&](const LogReader::Arrival& a) { senders[a.source].add(a); }));
  for (const auto& [id, source] : sources) {
    Device& d = devices[source.client_id];
    d.topics.insert(source.mqtt_topic);
    const auto it = senders.find(id);
    if (it == senders.end()) continue;
    const Sender& s = it->second;
    Sender& all = d.all;
    all.first_ms = all.records == 0 ? s.first_ms : std::min(all.first_ms, s.first_ms);
    if (s.last_ms >= all.last_ms && s.with_time > 0) all.clock_diff_ms = s.clock_diff_ms;
    all.last_ms = std::max(all.last_ms, s.last_ms);
    all.records += s.records;
    all.with_time += s.with_time;
    all.gaps += s.gaps;
    all.longest_gap_ms = std::max(all.longest_gap_ms, s.longest_gap_ms);
  }
  return devices;
}

void add_live(std::map<std::string, Device>& devices, const Json& live) {
  for (const Json& id : live.list("connected")) {
    if (const auto* text = std::get_if<std::string>(&id.value)) devices[*text].connected = true;
  }
  const Json* troubles = live.find("troubles");
  const auto* all = troubles == nullptr ? nullptr : std::get_if<Json::Object>(&troubles->value);
  for (const auto& [id, trouble] : all == nullptr ? Json::Object{} : *all) {
    devices[id].trouble = trouble.text("what");
    devices[id].trouble_ms = trouble.number("at_ms");
  }
}

std::string difference(std::int64_t ms) {
  if (std::abs(ms) < 1000) return cat(ms, " ms");
  return cat(ms < 0 ? "-" : "+", long_duration(std::abs(ms)));
}

Status devices(const DevicesArgs& args) {
  const auto back = parse_duration_ms(args.since);
  if (!back) {
    return fail(ErrorCode::invalid_argument, cat("--since ", printable(args.since)),
                "write a duration such as 10m, 1h or 7d");
  }
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const std::int64_t now = SystemClock().wall_ms();
  WS_ASSIGN(auto all, survey(log, now - *back));
  const auto live = ask_gateway(log.plan.config.data_dir, R"({"do":"devices"})");
  if (live) add_live(all, *live);
  Table table({"DEVICE", "STATE", "LAST", "READINGS", "EVERY", "GAPS", "LONGEST", "CLOCK", "TOPICS",
               "TROUBLE"});
  std::string json = "[";
  for (const auto& [id, d] : all) {
    const Sender& s = d.all;
    const double seconds = static_cast<double>(s.last_ms - s.first_ms) / 1000;
    const double every = s.records > 1 ? seconds / static_cast<double>(s.records - 1) : 0;
    if (args.json) {
      json += cat(json.size() > 1 ? "," : "", "{\"client_id\":");
      append_json_string(json, printable(id));
      json += cat(",\"connected\":",
                  !live         ? "null"
                  : d.connected ? "true"
                                : "false",
                  ",\"last_ms\":", s.records == 0 ? "null" : cat(s.last_ms),
                  ",\"readings\":", s.records, ",\"every_s\":", every, ",\"gaps\":", s.gaps,
                  ",\"longest_gap_ms\":", s.longest_gap_ms,
                  ",\"clock_difference_ms\":", s.with_time == 0 ? "null" : cat(s.clock_diff_ms),
                  ",\"topics\":[");
      bool first = true;
      for (const std::string& t : d.topics) {
        json += std::exchange(first, false) ? "" : ",";
        append_json_string(json, t);
      }
      json += "],\"trouble\":";
      append_json_string(json, d.trouble);
      json += "}";
      continue;
    }
    char text[32];
    std::snprintf(text, sizeof text, "%.1f s", every);
    std::string topics = d.topics.empty() ? "-" : printable(*d.topics.begin());
    if (d.topics.size() > 1) topics += cat(" and ", d.topics.size() - 1, " more");
    table.add({printable(id),
               !live         ? "-"
               : d.connected ? "connected"
                             : "away",
               s.records == 0 ? cat("not within ", args.since) : ago(s.last_ms, now),
               cat(s.records), s.records > 1 ? text : "-", cat(s.gaps),
               s.gaps == 0 ? "-" : long_duration(s.longest_gap_ms),
               s.with_time == 0 ? "-" : difference(s.clock_diff_ms), topics,
               d.trouble.empty() ? "-" : cat(d.trouble, ", ", ago(d.trouble_ms, now))});
  }
  if (args.json) {
    std::printf("%s]\n", json.c_str());
    return {};
  }
  table.print();
  if (!live) std::printf("\nthe gateway is stopped: who is connected is not known\n");
  return {};
}

}  // namespace

int cmd_devices(const DevicesArgs& args) {
  return exit_of(devices(args));
}

}  // namespace wayside
