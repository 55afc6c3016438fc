// devices: who sends, how often, who is silent; from the log, and when the gateway runs also who is
// connected and what went wrong last.
#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/socket_client.h"

namespace wayside {
namespace {

// A pause is a gap when it is ten times the usual interval, and longer than this.
constexpr std::int64_t kGapLeastMs = 10'000;
constexpr double kGapTimes = 10;
constexpr std::size_t kTopicsInJson = 1000;  // of one device
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

// A client with all that it sends.
struct Device {
  std::string id;
  Sender all;
  std::int64_t topics = 0;
  std::vector<std::string> first_topics;  // so many as are shown
  bool connected = false;
  std::string trouble;
  std::int64_t trouble_ms = 0;

  void add(const Sender& s) {
    all.first_ms = all.records == 0 ? s.first_ms : std::min(all.first_ms, s.first_ms);
    if (s.last_ms >= all.last_ms && s.with_time > 0) all.clock_diff_ms = s.clock_diff_ms;
    all.last_ms = std::max(all.last_ms, s.last_ms);
    all.records += s.records;
    all.with_time += s.with_time;
    all.gaps += s.gaps;
    all.longest_gap_ms = std::max(all.longest_gap_ms, s.longest_gap_ms);
  }
};

// What only the running gateway knows.
struct Live {
  std::set<std::string> connected;
  std::map<std::string, std::pair<std::string, std::int64_t>> troubles;  // what, and when

  explicit Live(const Json& answer) {
    for (const Json& id : answer.list("connected")) {
      if (const auto* text = std::get_if<std::string>(&id.value)) connected.insert(*text);
    }
    const Json* found = answer.find("troubles");
    const auto* all = found == nullptr ? nullptr : std::get_if<Json::Object>(&found->value);
    if (all == nullptr) return;
    for (const auto& [id, t] : *all) troubles[id] = {t.text("what"), t.number("at_ms")};
  }
  // Adds it to a device, which is then known.
  void tell(Device& d) {
    d.connected = connected.erase(d.id) > 0;
    if (const auto it = troubles.find(d.id); it != troubles.end()) {
      std::tie(d.trouble, d.trouble_ms) = it->second;
      troubles.erase(it);
    }
  }
};

// Calls `each` for every device, by name; those that have stored nothing come last. Only numbers
// are held of all of them: names may be many and long.
template <class Each>
Status for_each_device(OpenedLog& log, std::int64_t since_ms, std::optional<Live>& live,
                       std::size_t topics_shown, Each each) {
  std::unordered_map<std::int64_t, Sender> senders;
  WS_TRY(log.reader.arrivals(since_ms,
                             [&](const LogReader::Arrival& a) { senders[a.source].add(a); }));
  std::optional<Device> device;
  const auto done = [&] {
    if (!device) return;
    if (live) live->tell(*device);
    each(std::move(*device));
    device.reset();
  };
  WS_TRY(log.reader.sources([&](const Source& source) {
    if (device && device->id != source.client_id) done();
    if (!device) device.emplace().id = source.client_id;
    ++device->topics;
    if (device->first_topics.size() < topics_shown) {
      device->first_topics.push_back(source.mqtt_topic);
    }
    if (const auto it = senders.find(source.id); it != senders.end()) device->add(it->second);
  }));
  done();
  if (!live) return {};
  std::set<std::string> others = live->connected;
  for (const auto& [id, trouble] : live->troubles) others.insert(id);
  for (const std::string& id : others) {
    device.emplace().id = id;
    done();
  }
  return {};
}

std::string difference(std::int64_t ms) {
  if (std::abs(ms) < 1000) return cat(ms, " ms");
  return cat(ms < 0 ? "-" : "+", long_duration(std::abs(ms)));
}

double every_s(const Sender& s) {
  const double seconds = static_cast<double>(s.last_ms - s.first_ms) / 1000;
  return s.records > 1 ? seconds / static_cast<double>(s.records - 1) : 0;
}

void print_json(const Device& d, bool is_running, bool first) {
  const Sender& s = d.all;
  std::string json = first ? "{\"client_id\":" : ",{\"client_id\":";
  append_json_string(json, printable(d.id));
  json += cat(",\"connected\":",
              !is_running   ? "null"
              : d.connected ? "true"
                            : "false",
              ",\"last_ms\":", s.records == 0 ? "null" : cat(s.last_ms),
              ",\"readings\":", s.records, ",\"every_s\":", every_s(s), ",\"gaps\":", s.gaps,
              ",\"longest_gap_ms\":", s.longest_gap_ms,
              ",\"clock_difference_ms\":", s.with_time == 0 ? "null" : cat(s.clock_diff_ms),
              ",\"topics\":[");
  for (std::size_t i = 0; i < d.first_topics.size(); ++i) {
    json += i == 0 ? "" : ",";
    append_json_string(json, d.first_topics[i]);
  }
  json += cat("],\"topics_in_all\":", d.topics, ",\"trouble\":");
  append_json_string(json, d.trouble);
  std::printf("%s}", json.c_str());
}

std::vector<std::string> table_row(const Device& d, const DevicesArgs& args, bool is_running,
                                   std::int64_t now) {
  const Sender& s = d.all;
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", every_s(s));
  std::string topics =
      d.first_topics.empty() ? "-" : shown_name(d.first_topics.front(), args.wide);
  if (d.topics > 1) topics += cat(" and ", d.topics - 1, " more");
  return {shown_name(d.id, args.wide),
          !is_running   ? "-"
          : d.connected ? "connected"
                        : "away",
          s.records == 0 ? cat("not within ", args.since) : ago(s.last_ms, now),
          cat(s.records),
          s.records > 1 ? text : "-",
          cat(s.gaps),
          s.gaps == 0 ? "-" : long_duration(s.longest_gap_ms),
          s.with_time == 0 ? "-" : difference(s.clock_diff_ms),
          topics,
          d.trouble.empty() ? "-" : cat(d.trouble, ", ", ago(d.trouble_ms, now))};
}

// In a list that is cut: who is connected comes before who is not, then who sent last.
bool is_older(const Device& a, const Device& b) {
  return std::tie(a.connected, a.all.last_ms, a.trouble_ms) <
         std::tie(b.connected, b.all.last_ms, b.trouble_ms);
}

Status devices(const DevicesArgs& args) {
  const auto back = parse_duration_ms(args.since);
  if (!back) {
    return fail(ErrorCode::invalid_argument, cat("--since ", printable(args.since)),
                "write a duration such as 10m, 1h or 7d");
  }
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const std::int64_t now = SystemClock().wall_ms();
  std::optional<Live> live;
  if (const auto answer = ask_gateway(log.plan.config.data_dir, R"({"do":"devices"})")) {
    live.emplace(*answer);
  }
  const bool is_running = live.has_value();
  if (args.json) {
    std::printf("[");
    bool first = true;
    WS_TRY(for_each_device(log, now - *back, live, kTopicsInJson, [&](Device&& d) {
      print_json(d, is_running, std::exchange(first, false));
    }));
    std::printf("]\n");
    return {};
  }
  // A heap whose first is the one that goes next.
  const auto first_goes = [](const Device& a, const Device& b) { return is_older(b, a); };
  std::vector<Device> shown;
  std::int64_t left_out = 0;
  WS_TRY(for_each_device(log, now - *back, live, 1, [&](Device&& d) {
    shown.push_back(std::move(d));
    std::push_heap(shown.begin(), shown.end(), first_goes);
    if (args.limit == 0 || shown.size() <= static_cast<std::size_t>(args.limit)) return;
    std::pop_heap(shown.begin(), shown.end(), first_goes);
    shown.pop_back();
    ++left_out;
  }));
  std::sort(shown.begin(), shown.end(),
            [](const Device& a, const Device& b) { return a.id < b.id; });
  Table table({"DEVICE", "STATE", "LAST", "READINGS", "EVERY", "GAPS", "LONGEST", "CLOCK", "TOPICS",
               "TROUBLE"});
  for (const Device& d : shown) table.add(table_row(d, args, is_running, now));
  table.print();
  if (left_out > 0) {
    std::printf("\n%lld others, which sent longer ago, are not shown: --limit 0 shows all\n",
                static_cast<long long>(left_out));
  }
  if (!is_running) std::printf("\nthe gateway is stopped: who is connected is not known\n");
  return {};
}

}  // namespace

int cmd_devices(const DevicesArgs& args) {
  return exit_of(devices(args));
}

}  // namespace wayside
