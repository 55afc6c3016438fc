#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <map>

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/bridge_change.h"
#include "gateway/control/socket_client.h"
#include "gateway/plan/ingest.h"
#include "gateway/plan/warnings.h"
#include "storage/account.h"
#include "storage/bridge_ops.h"

namespace wayside {
namespace {

// A WAL beyond what SQLite keeps is one that somebody holds.
constexpr std::int64_t kLargeWalBytes = limits::kJournalSizeLimitBytes + (1 << 20);

// So long after it something that was done about strangers is still shown.
constexpr std::int64_t kStrangersShownMs = 600'000;

struct Picture {
  Config config;
  std::optional<Json> live;  // the running gateway's answer
  std::string silent;        // one runs and does not answer: why
  Ledger ledger;
  std::int64_t topics = 0, segments = 0, database_bytes = 0, wal_bytes = 0, epoch = 0;
  std::map<std::string, Lag> bridges;
  std::vector<std::string> wal_holders;
  std::vector<DamagedFile> damaged;
  std::vector<std::string> doubts;  // what seems to be missing of the log
  std::vector<std::string> warnings;
  std::vector<LeftBehind> left_behind;
};

// Who holds a read lock of the WAL, by the kernel's table of locks: SQLite's readers lock bytes 123
// to 127 of the -shm file. As "name (pid)"; only what this user may see.
std::vector<std::string> wal_holders(const std::string& shm, std::int64_t gateway_pid) {
  std::vector<std::string> out;
  struct stat st {};
  if (::stat(shm.c_str(), &st) != 0) return out;
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    std::vector<std::string_view> words;
    for (const auto w : split(line, ' ')) {
      if (!w.empty()) words.push_back(w);
    }
    if (words.size() < 8 || words[1] == "->" || words[1] != "POSIX") continue;
    const auto inode = parse_int(words[5].substr(words[5].rfind(':') + 1));
    const auto from = parse_int(words[6]), pid = parse_int(words[4]);
    if (!inode || *inode != static_cast<std::int64_t>(st.st_ino) || !from || !pid) continue;
    if (*from < 123 || *from > 127 || *pid == gateway_pid) continue;
    std::string name;
    std::getline(std::ifstream(cat("/proc/", *pid, "/comm")) >> std::ws, name);
    out.push_back(cat(name.empty() ? "a program" : printable(name), " (pid ", *pid, ")"));
  }
  return out;
}

Result<Picture> look(const StatusArgs& args) {
  WS_ASSIGN(OpenedLog log, look_at_log(args.config));
  Picture p;
  p.config = log.plan.config;
  if (auto live = ask_gateway(p.config.data_dir, R"({"do":"status"})")) {
    p.live = std::move(*live);
  } else if (is_locked(p.config.data_dir + "/wayside.lock")) {
    p.silent = live.error().text();
  }
  for (Warning& w : warnings_of(log.plan)) {
    if (w.urgent && !is_directory(args.config)) p.warnings.push_back(std::move(w.text));
  }
  WS_ASSIGN(p.ledger, ledger_of(log.reader, log.catalog));
  p.topics = static_cast<std::int64_t>(log.catalog.topics().size());
  WS_ASSIGN(p.segments, log.reader.number("SELECT count(*) FROM _ws_segments"));
  WS_ASSIGN(p.damaged, log.reader.damaged());
  p.doubts = log.reader.doubts();
  WS_ASSIGN(p.left_behind, left_behind(log.reader, log.catalog, p.config));
  WS_ASSIGN(const Identity identity, log.reader.identity());
  p.epoch = identity.epoch;
  p.database_bytes = file_size(p.config.database_path());
  p.wal_bytes = file_size(p.config.database_path() + "-wal");
  for (const BridgeConfig& b : p.config.bridges) {
    WS_ASSIGN(p.bridges[b.name], lag_of(log.reader, log.catalog, bridge_group(b.name), b.topics));
  }
  if (p.wal_bytes >= kLargeWalBytes) {
    p.wal_holders =
        wal_holders(p.config.database_path() + "-shm", p.live ? p.live->number("pid") : 0);
  }
  return p;
}

void print_json(const Picture& p) {
  const Ledger& l = p.ledger;
  std::string out = cat(
      "{\"running\":", p.live || !p.silent.empty() ? "true" : "false", ",\"epoch\":", p.epoch,
      ",\"stored\":", l.stored,
      ",\"expired\":", l.expired, ",\"deleted\":", l.deleted, ",\"live\":", l.live,
      ",\"lost\":", l.lost, ",\"salvaging\":", l.salvaging, ",\"damaged_files\":", p.damaged.size(),
      ",\"quarantined\":", l.quarantined, ",\"refused\":", l.refused, ",\"topics\":", p.topics,
      ",\"segments\":", p.segments, ",\"database_bytes\":", p.database_bytes,
      ",\"wal_bytes\":", p.wal_bytes, ",\"counters\":{");
  for (std::size_t i = 0; i < l.counters.size(); ++i) {
    out += i == 0 ? "" : ",";
    append_json_string(out, l.counters[i].first);
    out += cat(":", l.counters[i].second);
  }
  out += "},\"warnings\":[";
  for (std::size_t i = 0; i < p.warnings.size(); ++i) {
    out += i == 0 ? "" : ",";
    append_json_string(out, p.warnings[i]);
  }
  out += "],\"bridges\":[";
  bool first = true;
  for (const auto& [name, lag] : p.bridges) {
    out += cat(std::exchange(first, false) ? "" : ",", "{\"name\":\"", name,
               "\",\"unsent\":", lag.records, ",\"oldest_unsent_ms\":", lag.oldest_append_ms, "}");
  }
  out += "],\"doubts\":[";
  for (std::size_t i = 0; i < p.doubts.size(); ++i) {
    out += i == 0 ? "" : ",";
    append_json_string(out, printable(p.doubts[i]));
  }
  std::printf("%s],\"gateway\":%s}\n", out.c_str(), p.live ? p.live->dump().c_str() : "null");
}

void print_alarms(const Picture& p) {
  const auto alarm = [](const std::string& text) { std::printf("ALARM       %s\n", text.c_str()); };
  for (const std::string& doubt : p.doubts) {
    alarm(cat("the log may not be whole: ", printable(doubt)));
  }
  if (p.live && p.live->flag("failing")) {
    alarm(cat("commits fail, nothing is acknowledged: ", p.live->text("last_error")));
  } else if (p.live && p.live->number("failed_commits") > 0) {
    alarm(cat(p.live->number("failed_commits"),
              " commits failed since the start; the last: ", p.live->text("last_error")));
  }
  if (p.live && !p.live->text("blocked").empty()) alarm(p.live->text("blocked"));
  for (const DamagedFile& d : p.damaged) {
    std::string text = cat("the database was damaged (", printable(d.why), ") and set aside on ",
                           format_time_utc(d.set_aside_ms), " as ", printable(d.file), "; ");
    if (d.state == "waiting") {
      const std::int64_t percent = p.live ? p.live->number("salvage_percent", -1) : -1;
      text += percent >= 0 ? cat("salvaging, ", percent, " %") : std::string("to be salvaged");
    } else {
      text += cat(d.records, " records came back");
      if (d.state == "no room") text += ", for more there was no room";
    }
    alarm(text);
  }
  if (p.ledger.lost > 0) {
    alarm(cat(p.ledger.lost, " records are lost; 'wayside verify' names their offsets"));
  }
  std::map<std::string, std::int64_t> expired;
  for (const auto& [name, n] : p.ledger.counters) {
    if (name.starts_with("expired_unsent.")) expired[name.substr(name.find('.') + 1)] = n;
  }
  for (const auto& [name, lag] : p.bridges) expired[name] += lag.expired_uncounted();
  for (const auto& [name, n] : expired) {
    if (n > 0) alarm(cat(n, " records expired before bridge ", name, " had sent them"));
  }
  for (const std::string& w : p.warnings) alarm(w);
  for (const LeftBehind& l : p.left_behind) alarm(l.text());
  for (const std::string& who : p.wal_holders) {
    alarm(cat("the WAL grows (", format_bytes(p.wal_bytes), ") because ", who,
              " holds a snapshot: end its transaction"));
  }
  if (p.wal_bytes >= kLargeWalBytes && p.wal_holders.empty()) {
    alarm(cat("the WAL has ", format_bytes(p.wal_bytes),
              ": some program holds a snapshot; as root, this names it"));
  }
}

// What was done about strangers lately; empty: nothing, and they hold little memory.
std::string strangers_text(const Json& live, std::int64_t now) {
  const Json* s = live.find("strangers");
  if (s == nullptr) return {};
  std::string out;
  const std::int64_t bytes = s->number("memory_bytes"), most = s->number("memory_bytes_max");
  if (bytes > most / 2) {
    out = cat("hold ", format_bytes(bytes), " of ", format_bytes(most), " of memory");
  }
  const Json* decisions = s->find("decisions");
  const auto* all = decisions == nullptr ? nullptr : std::get_if<Json::Object>(&decisions->value);
  if (all == nullptr || all->empty() || now - s->number("at_ms") > kStrangersShownMs) return out;
  std::string what;
  for (const auto& [name, n] : *all) {
    what += cat(what.empty() ? "" : ", ", printable(name), " ", decisions->number(name));
  }
  return cat(out, out.empty() ? "" : "; ", ago(s->number("at_ms"), now), ": ", what, "; most (",
             s->number("of_address"), ") because of ", printable(s->text("address")));
}

void print_text(const Picture& p) {
  const std::int64_t now = SystemClock().wall_ms();
  const auto line = [](const char* head, const std::string& text) {
    std::printf("%-11s %s\n", head, text.c_str());
  };
  if (!p.silent.empty()) {
    line("gateway", cat("running, but it does not answer: ", p.silent));
  } else if (!p.live) {
    line("gateway", cat("stopped; this is what the log in ", p.config.data_dir, " holds"));
  } else {
    line("gateway", cat("running since ", format_time_utc(p.live->number("started_ms")), " (pid ",
                        p.live->number("pid"), ", start ", p.epoch, " of this log)"));
    line("devices",
         cat(p.live->number("connections"), " connected on port ", p.live->number("mqtt_port"),
             ", ", p.live->number("waiting_for_commit"), " readings wait for their commit"));
    line("clock",
         cat(format_time_utc(SystemClock().wall_ms()),
             p.live->flag("clock_trusted") ? ", synchronised"
                                           : ", not synchronised: retention by time waits"));
  }
  if (p.live) {
    const std::string strangers = strangers_text(*p.live, now);
    if (!strangers.empty()) line("strangers", strangers);
  }
  const Ledger& l = p.ledger;
  line("records",
       cat(l.stored, " stored, ", l.expired, " expired, ",
           l.deleted > 0 ? cat(l.deleted, " deleted, ") : std::string(), l.live, " live in ",
           p.topics, " topics", l.lost > 0 ? cat(", ", l.lost, " lost") : std::string()));
  line("set aside", cat(l.quarantined, " quarantined, ", l.refused, " refused"));
  for (const auto& [name, n] : l.counters) {
    if (!name.starts_with("time.")) line("", cat(printable(name), " ", n));
  }
  for (const auto& [name, n] : l.counters) {
    if (!name.starts_with("time.")) continue;
    const bool unreadable = name.starts_with(kUnreadableTimes);
    line("times", cat(n, " device times of ", printable(name.substr(name.find('.', 5) + 1)),
                      unreadable ? " could not be read" : " are not believed",
                      "; whose: wayside devices"));
  }
  std::string disk = cat(format_bytes(p.database_bytes), " database, ", format_bytes(p.wal_bytes),
                         " WAL, ", p.segments, " segments");
  if (p.live && p.live->number("seconds_to_full") > 0) {
    disk += cat("; full in about ", long_duration(p.live->number("seconds_to_full") * 1000));
  }
  line("disk", disk);
  for (const auto& [name, lag] : p.bridges) {
    std::string state = "the gateway is stopped";
    for (const Json& b : p.live ? p.live->list("bridges") : Json::Array{}) {
      if (b.text("name") == name) state = b.text("state");
    }
    line("bridge", cat(name, ": ", state, "; ",
                       lag.records == 0 ? std::string("nothing unsent")
                                        : cat(lag.records, " unsent, the oldest from ",
                                              ago(lag.oldest_append_ms, now))));
  }
  for (const Json& s : p.live ? p.live->list("subscriptions") : Json::Array{}) {
    line("subscribed", cat(printable(s.text("client_id")), " at ", printable(s.text("broker")),
                           ": ", s.text("state"), "; ", s.number("received"), " readings",
                           s.number("known_replays") > 0
                               ? cat(", ", s.number("known_replays"), " of them known already")
                               : std::string(),
                           s.number("sessions_lost") > 0 ? cat("; the broker forgot our session ",
                                                               s.number("sessions_lost"), " times")
                                                         : std::string()));
  }
  print_alarms(p);
}

}  // namespace

int cmd_status(const StatusArgs& args) {
  const auto picture = look(args);
  if (!picture) return report(picture.error());
  if (args.json) {
    print_json(*picture);
  } else {
    print_text(*picture);
  }
  return kExitOk;
}

}  // namespace wayside
