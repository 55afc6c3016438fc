#include <cstdio>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "bridge/bridge.h"
#include "gateway/cli.h"
#include "gateway/control.h"

namespace wayside {
namespace {

struct BridgeLag {
  std::string name;
  std::int64_t unsent = 0;
  std::int64_t oldest_append_ms = 0;  // of the oldest unsent; 0: none
};

struct Picture {
  std::string live;  // the running gateway's answer; empty when none runs
  std::int64_t stored = 0, expired = 0, topics = 0, segments = 0, quarantined = 0, refused = 0;
  std::int64_t database_bytes = 0, wal_bytes = 0, epoch = 0;
  std::vector<BridgeLag> bridges;
  std::vector<std::pair<std::string, std::int64_t>> counters;
};

Result<BridgeLag> lag_of(OpenedLog& log, const BridgeConfig& b) {
  BridgeLag lag{b.name, 0, 0};
  WS_ASSIGN(const auto positions, log.reader.positions(Bridge::group(b.name)));
  for (const std::string& name : b.topics) {
    const Topic* topic = log.catalog.find(name);
    if (topic == nullptr) continue;
    WS_ASSIGN(const auto marks, log.reader.marks(*topic));
    for (const PartitionMarks& m : marks) {
      std::int64_t next = m.log_start.value;
      for (const GroupPosition& p : positions) {
        if (p.tp == m.tp) next = std::max(next, p.next.value);
      }
      if (next >= m.log_end.value) continue;
      lag.unsent += m.log_end.value - next;
      WS_ASSIGN(const auto seq, log.reader.seq_of(topic->chain, m.tp, Offset(next)));
      if (!seq) continue;
      WS_ASSIGN(const auto page, log.reader.read(topic->chain, *seq, {{m.tp}}, {1, SIZE_MAX}));
      if (page.records.empty()) continue;
      const std::int64_t at = page.records.front().append_ms;
      lag.oldest_append_ms = lag.oldest_append_ms == 0 ? at : std::min(lag.oldest_append_ms, at);
    }
  }
  return lag;
}

Result<Picture> look(const StatusArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  Picture p;
  p.live = ask_gateway(log.plan.config.data_dir).value_or("");
  for (const Topic& t : log.catalog.topics()) {
    WS_ASSIGN(const auto marks, log.reader.marks(t));
    for (const PartitionMarks& m : marks) {
      p.stored += m.log_end.value;
      p.expired += m.log_start.value;
    }
    ++p.topics;
  }
  WS_ASSIGN(p.segments, log.reader.number("SELECT count(*) FROM _ws_segments"));
  WS_ASSIGN(p.counters, log.reader.counters());
  for (const auto& [name, n] : p.counters) {
    if (name.starts_with("quarantined.")) p.quarantined += n;
    if (name.starts_with("refused.")) p.refused += n;
  }
  WS_ASSIGN(const Identity identity, log.reader.identity());
  p.epoch = identity.epoch;
  p.database_bytes = file_size(log.plan.config.database_path());
  p.wal_bytes = file_size(log.plan.config.database_path() + "-wal");
  for (const BridgeConfig& b : log.plan.config.bridges) {
    WS_ASSIGN(auto lag, lag_of(log, b));
    p.bridges.push_back(std::move(lag));
  }
  return p;
}

void print_json(const Picture& p) {
  std::string out =
      cat("{\"running\":", p.live.empty() ? "false" : "true", ",\"epoch\":", p.epoch,
          ",\"stored\":", p.stored, ",\"expired\":", p.expired, ",\"live\":", p.stored - p.expired,
          ",\"quarantined\":", p.quarantined, ",\"refused\":", p.refused, ",\"topics\":", p.topics,
          ",\"segments\":", p.segments, ",\"database_bytes\":", p.database_bytes,
          ",\"wal_bytes\":", p.wal_bytes, ",\"counters\":{");
  for (std::size_t i = 0; i < p.counters.size(); ++i) {
    out += i == 0 ? "" : ",";
    append_json_string(out, p.counters[i].first);
    out += cat(":", p.counters[i].second);
  }
  out += "},\"bridges\":[";
  for (std::size_t i = 0; i < p.bridges.size(); ++i) {
    out += cat(i == 0 ? "" : ",", "{\"name\":\"", p.bridges[i].name,
               "\",\"unsent\":", p.bridges[i].unsent,
               ",\"oldest_unsent_ms\":", p.bridges[i].oldest_append_ms, "}");
  }
  out += "],\"gateway\":";
  const std::string_view live(p.live);
  out += p.live.empty() ? "null" : live.substr(0, live.find_last_of('}') + 1);
  std::printf("%s}\n", out.c_str());
}

// The text behind "state": of the bridge in the gateway's answer.
std::string live_state(const std::string& live, const std::string& bridge) {
  const std::size_t at = live.find(cat("{\"name\":\"", bridge, "\",\"state\":\""));
  if (at == std::string::npos) return "the gateway is stopped";
  const std::size_t from = live.find("\"state\":\"", at) + 9;
  return live.substr(from, live.find("\",\"since_ms\"", from) - from);
}

void print_text(const Picture& p, const std::string& data_dir) {
  const std::int64_t now = SystemClock().wall_ms();
  const auto live = [&](std::string_view name) { return json_number(p.live, name).value_or(0); };
  if (p.live.empty()) {
    std::printf("gateway     stopped; this is what the log in %s holds\n", data_dir.c_str());
  } else {
    std::printf("gateway     running since %s (pid %lld, start %lld of this log)\n",
                format_time_utc(live("started_ms")).c_str(), static_cast<long long>(live("pid")),
                static_cast<long long>(p.epoch));
    std::printf("devices     %lld connected on port %lld, %lld readings wait for their commit\n",
                static_cast<long long>(live("connections")),
                static_cast<long long>(live("mqtt_port")),
                static_cast<long long>(live("waiting_for_commit")));
    if (p.live.find("\"clock_trusted\":false") != std::string::npos) {
      std::printf("clock       not synchronised: retention by time waits\n");
    }
  }
  std::printf("records     %lld stored, %lld expired, %lld live in %lld topics\n",
              static_cast<long long>(p.stored), static_cast<long long>(p.expired),
              static_cast<long long>(p.stored - p.expired), static_cast<long long>(p.topics));
  std::printf("set aside   %lld quarantined, %lld refused\n", static_cast<long long>(p.quarantined),
              static_cast<long long>(p.refused));
  for (const auto& [name, n] : p.counters) {
    std::printf("            %s %lld\n", printable(name).c_str(), static_cast<long long>(n));
  }
  std::printf("disk        %s database, %s WAL, %lld segments\n",
              format_bytes(p.database_bytes).c_str(), format_bytes(p.wal_bytes).c_str(),
              static_cast<long long>(p.segments));
  if (live("failed_commits") > 0) {
    std::printf("ALARM       %lld commits failed since the start; see the journal\n",
                static_cast<long long>(live("failed_commits")));
  }
  for (const BridgeLag& b : p.bridges) {
    std::string age =
        b.oldest_append_ms == 0
            ? std::string("nothing unsent")
            : cat(b.unsent, " unsent, the oldest from ",
                  std::max<std::int64_t>(0, (now - b.oldest_append_ms) / 1000), " s ago");
    std::printf("bridge      %s: %s; %s\n", b.name.c_str(), live_state(p.live, b.name).c_str(),
                age.c_str());
  }
}

}  // namespace

int cmd_status(const StatusArgs& args) {
  const auto picture = look(args);
  if (!picture) return report(picture.error());
  if (args.json) {
    print_json(*picture);
  } else {
    const auto loaded = load_config(args.config);
    print_text(*picture, loaded ? loaded->config.data_dir : "");
  }
  return kExitOk;
}

}  // namespace wayside
