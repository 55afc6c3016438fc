#include "gateway/plan.h"

#include <algorithm>
#include <set>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

class Planner {
 public:
  Planner(const Config& config, std::vector<Problem>& problems)
      : config_(config), problems_(problems) {
    plan_.config = config;
  }

  Plan make() {
    if (auto listen = parse_host_port(config_.mqtt.listen); !listen) add(0, listen.error());
    if (config_.data_dir.empty() || config_.data_dir.find('\0') != std::string::npos) {
      problems_.push_back({0, "data_dir is empty", "write the directory of the log"});
    }
    if (config_.storage.budget_bytes != 0 && config_.storage.budget_bytes < (64 << 20)) {
      problems_.push_back({0, "storage.budget is too small for a log", "write at least \"64MiB\""});
    }
    topics();
    routes();
    bridges();
    return std::move(plan_);
  }

 private:
  void add(int line, const Error& e) { problems_.push_back({line, e.what, e.hint}); }

  void topics() {
    for (const TopicConfig& t : config_.topics) {
      if (t.name.empty()) continue;  // reported as missing
      if (auto ok = check_topic_name(t.name); !ok) add(t.line, ok.error());
      if (lower(t.name) == kQuarantineTopic) {
        problems_.push_back({t.line, "the topic 'quarantine' is the gateway's own",
                             "set its limits in [quarantine], and name this topic otherwise"});
      }
      if (!names_.insert(lower(t.name)).second) {
        problems_.push_back({t.line, cat("topic '", t.name, "' stands twice"),
                             "names that differ only in case are one name in SQL"});
      }
      TopicSpec spec{t.name, static_cast<std::int32_t>(t.partitions), t.retention_ms,
                     t.retention_bytes == 0 ? kUnbounded : t.retention_bytes, t.columns};
      plan_.topics.push_back(std::move(spec));
    }
    plan_.topics.push_back({kQuarantineTopic, 1, config_.quarantine.retention_ms,
                            config_.quarantine.retention_bytes, std::vector<std::string>{}});
  }

  void routes() {
    std::vector<int> lines;
    for (const RouteConfig& r : config_.routes) {
      if (r.mqtt.empty() || r.topic.empty()) continue;
      known_topic(r.line, r.topic, "route");
      auto pattern = TopicPattern::parse(r.mqtt);
      if (!pattern) {
        add(r.line, pattern.error());
        continue;
      }
      Route route;
      route.pattern = std::move(*pattern);
      route.topic = r.topic;
      route.payload = r.payload == "raw" ? PayloadKind::raw : PayloadKind::json;
      if (auto key = KeyRule::parse(r.key, route.pattern)) {
        route.key = std::move(*key);
      } else {
        add(r.line, key.error());
      }
      if (!r.time.empty()) {
        if (auto time = parse_json_pointer(r.time)) {
          route.time = std::move(*time);
        } else {
          add(r.line, time.error());
        }
      }
      if (route.payload == PayloadKind::raw && (route.key.pointer() || route.time)) {
        problems_.push_back({r.line, "a raw payload has no fields for a JSON pointer",
                             "take key and time from the topic, or write payload = \"json\""});
      }
      for (std::size_t i = 0; i < plan_.routes.size(); ++i) {
        if (plan_.routes[i].pattern.overlaps(route.pattern)) {
          problems_.push_back({r.line,
                               cat("routes '", plan_.routes[i].pattern.text(), "' (line ", lines[i],
                                   ") and '", r.mqtt, "' overlap: a reading could go to both"),
                               "make one of them more exact"});
        }
      }
      plan_.routes.push_back(std::move(route));
      lines.push_back(r.line);
    }
  }

  void bridges() {
    std::set<std::string> seen;
    if (config_.bridges.size() > limits::kBridgesMax) {
      problems_.push_back(
          {config_.bridges.back().line,
           cat(config_.bridges.size(), " bridges; there can be ", limits::kBridgesMax), ""});
    }
    for (const BridgeConfig& b : config_.bridges) {
      if (!b.name.empty() && !check_topic_name(b.name)) {
        problems_.push_back({b.line, cat("'", printable(b.name), "' is no bridge name"),
                             "use letters, digits, '.', '_' and '-'"});
      }
      if (!seen.insert(b.name).second) {
        problems_.push_back({b.line, cat("bridge '", b.name, "' stands twice"),
                             "each has its own position, by its name"});
      }
      for (const std::string& t : b.topics) known_topic(b.line, t, "bridge");
      if (!b.to.empty() && !b.to.starts_with("http://") && !b.to.starts_with("https://")) {
        problems_.push_back({b.line, cat("bridge '", b.name, "' goes to '", printable(b.to), "'"),
                             "write an http:// or https:// URL"});
      }
    }
  }

  void known_topic(int line, const std::string& topic, std::string_view who) {
    if (names_.contains(lower(topic)) || (topic == kQuarantineTopic && who == "bridge")) return;
    std::vector<std::string> names;
    for (const TopicSpec& t : plan_.topics) names.push_back(t.name);
    const std::string near = nearest(topic, names);
    problems_.push_back({line,
                         cat("the ", who, "'s topic '", printable(topic), "' is in no [[topic]]"),
                         near.empty() ? cat("add [[topic]] name = \"", topic, "\"")
                                      : cat("did you mean '", near, "'?")});
  }

  static std::string lower(std::string_view s) {
    std::string out(s);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return out;
  }

  const Config& config_;
  std::vector<Problem>& problems_;
  Plan plan_;
  std::set<std::string> names_;
};

}  // namespace

Plan make_plan(const Config& config, std::vector<Problem>& problems) {
  return Planner(config, problems).make();
}

Result<Plan> load_plan(const std::string& path) {
  WS_ASSIGN(LoadedConfig loaded, load_config(path));
  Plan plan = make_plan(loaded.config, loaded.problems);
  if (loaded.problems.empty()) return plan;
  std::string report = problems_text(path, loaded.problems);
  report.pop_back();
  return fail(ErrorCode::invalid_argument, std::move(report));
}

Result<HostPort> parse_host_port(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const auto port =
      colon == std::string_view::npos ? std::nullopt : parse_int(text.substr(colon + 1));
  std::string_view host = text.substr(0, colon == std::string_view::npos ? 0 : colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (!port || *port < 0 || *port > 65535 || host.empty()) {
    return fail(ErrorCode::invalid_argument, cat("'", printable(text), "' is no address and port"),
                "write \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\"");
  }
  return HostPort{std::string(host), static_cast<std::uint16_t>(*port)};
}

}  // namespace wayside
