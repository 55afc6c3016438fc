#include "gateway/plan/plan.h"

#include <algorithm>
#include <set>

#include "base/address.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/bridge_ops.h"
#include "storage/place.h"
#include "storage/quarantine.h"

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
    subscriptions();
    if (!config_.http.listen.empty()) {
      if (auto at = parse_host_port(config_.http.listen); !at) add(0, at.error());
    }
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
      TopicSpec spec{t.name,         static_cast<std::int32_t>(t.partitions),
                     t.retention_ms, t.retention_bytes == 0 ? kUnbounded : t.retention_bytes,
                     t.columns,      t.priority};
      for (const BridgeConfig& b : config_.bridges) {
        const bool named = std::any_of(b.topics.begin(), b.topics.end(), [&](const std::string& n) {
          return lower(n) == lower(t.name);
        });
        if (t.keep_unsent && named) spec.keep_for.push_back(bridge_group(b.name));
      }
      if (t.keep_unsent && spec.keep_for.empty()) {
        problems_.push_back({t.line,
                             cat("topic '", t.name,
                                 "' keeps what has not been sent, and no"
                                 " bridge sends it"),
                             "name it in the topics of a [[bridge]], or leave keep_unsent away"});
      }
      plan_.topics.push_back(std::move(spec));
    }
    // Whoever reaches the port fills it, and must not push out what is stored elsewhere.
    std::int64_t quarantine_bytes = config_.quarantine.retention_bytes;
    if (const std::int64_t budget = config_.storage.budget_bytes; budget > 0) {
      quarantine_bytes = std::min(quarantine_bytes, budget / limits::kQuarantinePart);
    }
    plan_.topics.push_back({kQuarantineTopic, 1, config_.quarantine.retention_ms,
                            quarantine_bytes, std::vector<std::string>{}});
    std::int64_t partitions = 0;
    for (const TopicSpec& t : plan_.topics) partitions += t.partitions;
    if (partitions > limits::kPartitionsMax || plan_.topics.size() > limits::kTopicsMax) {
      problems_.push_back({config_.topics.back().line,
                           cat("with the quarantine these are ", plan_.topics.size(), " topics of ",
                               partitions, " partitions; a gateway has up to ", limits::kTopicsMax,
                               " topics and ", limits::kPartitionsMax, " partitions in all"),
                           "give topics fewer partitions; one that exists keeps those it has"});
    }
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
      route.line = r.line;
      route.payload = r.payload == "raw"    ? PayloadKind::raw
                      : r.payload == "cbor" ? PayloadKind::cbor
                                            : PayloadKind::json;
      route.time_unit = r.time_unit == "s"    ? TimeUnit::s
                        : r.time_unit == "ms" ? TimeUnit::ms
                        : r.time_unit == "us" ? TimeUnit::us
                        : r.time_unit == "ns" ? TimeUnit::ns
                                              : TimeUnit::automatic;
      if (auto key = KeyRule::parse(r.key, route.pattern)) {
        route.key = std::move(*key);
      } else {
        add(r.line, key.error());
      }
      pointer(r.line, r.time, route.time);
      if (!r.time_zone.empty()) {
        if (auto zone = TimeZone::parse(r.time_zone)) {
          route.time_zone = *zone;
        } else {
          add(r.line, zone.error());
        }
        if (r.time.empty()) {
          problems_.push_back({r.line, "a time_zone without a time",
                               "say where the time is: time = \"/ts\""});
        }
      }
      pointer(r.line, r.value, route.value);
      if (r.split == ".") {
        route.split.emplace();
      } else {
        pointer(r.line, r.split, route.split);
      }
      if (!r.when.empty()) {
        if (auto when = Condition::parse(r.when)) {
          route.when = std::move(*when);
        } else {
          add(r.line, when.error());
        }
      }
      if (route.payload == PayloadKind::raw &&
          (route.key.pointer() || route.time || route.value || route.split || route.when)) {
        problems_.push_back({r.line, "a raw payload has no fields for a JSON pointer",
                             "take the key from the topic, or write payload = \"json\" (or cbor)"});
      }
      for (std::size_t i = 0; i < plan_.routes.size(); ++i) {
        if (!plan_.routes[i].when && plan_.routes[i].pattern.overlaps(route.pattern)) {
          problems_.push_back({r.line,
                               cat("routes '", plan_.routes[i].pattern.text(), "' (line ", lines[i],
                                   ") and '", r.mqtt, "' overlap: a reading could go to both"),
                               "make one of them more exact, or give the earlier one a condition: "
                               "when = \"/field == 1\""});
        }
      }
      plan_.routes.push_back(std::move(route));
      lines.push_back(r.line);
    }
  }

  void pointer(int line, const std::string& text, std::optional<JsonPointer>& out) {
    if (text.empty()) return;
    if (auto parsed = parse_json_pointer(text)) {
      out = std::move(*parsed);
    } else {
      add(line, parsed.error());
    }
  }

  void subscriptions() {
    std::set<std::string> seen;
    if (config_.subscriptions.size() > limits::kSubscriptionsMax) {
      problems_.push_back({config_.subscriptions.back().line,
                           cat(config_.subscriptions.size(), " subscriptions; there can be ",
                               limits::kSubscriptionsMax),
                           "one subscription may take several topics by a wider filter"});
    }
    for (const SubscribeConfig& s : config_.subscriptions) {
      if (!s.client_id.empty() && !seen.insert(s.client_id).second) {
        problems_.push_back({s.line, cat("client_id '", printable(s.client_id), "' stands twice"),
                             "each subscription has a session of its own at its broker"});
      }
      if (!s.broker.empty()) {
        if (auto broker = parse_broker(s.broker); !broker) add(s.line, broker.error());
      }
      if (!s.filter.empty() && !is_filter(s.filter)) {
        problems_.push_back({s.line, cat("'", printable(s.filter), "' is no MQTT topic filter"),
                             "+ and # stand alone between slashes, # at the end only"});
      }
      if (s.key_file.empty() != s.cert_file.empty()) {
        problems_.push_back({s.line, "cert_file and key_file go together", "give both or none"});
      }
    }
  }

  // MQTT 5.0, section 4.7.
  static bool is_filter(std::string_view filter) {
    const auto levels = split(filter, '/');
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const bool wild = levels[i].find_first_of("+#") != std::string_view::npos;
      if (wild && levels[i].size() != 1) return false;
      if (levels[i] == "#" && i + 1 < levels.size()) return false;
    }
    return true;
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
      std::set<std::string> topics;
      for (const std::string& t : b.topics) {
        known_topic(b.line, t, "bridge");
        if (!topics.insert(lower(t)).second) {
          problems_.push_back({b.line, cat("bridge '", b.name, "' names the topic '", t, "' twice"),
                               "once is enough"});
        }
      }
      // Shown in 'status' and in logs, so it holds no secrets; this one is not repeated either.
      const std::size_t host = b.to.find("://");
      const std::string_view authority =
          host == std::string::npos
              ? std::string_view(b.to)
              : std::string_view(b.to).substr(host + 3).substr(
                    0, std::string_view(b.to).substr(host + 3).find_first_of("/?#"));
      if (authority.find('@') != std::string_view::npos) {
        problems_.push_back({b.line,
                             cat("bridge '", b.name, "' has a user name or password in its URL"),
                             "write a bearer token into a file that only wayside can read, and"
                             " name it in token_file"});
        continue;
      }
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

EngineOptions engine_options(const Config& c) {
  EngineOptions options;
  options.path = c.database_path();
  options.board = board_serial();
  options.budget_bytes = c.storage.budget_bytes;
  options.keep_free_bytes = c.storage.keep_free_bytes;
  options.segment_rows = c.storage.segment_rows;
  options.offset_retention_ms = c.groups.offset_retention_ms;
  return options;
}

CommitPolicy commit_policy(const Config& c) {
  return {c.commit.linger_ms, static_cast<std::size_t>(c.commit.records),
          static_cast<std::size_t>(c.commit.bytes)};
}

Result<std::string> parse_broker(std::string_view text) {
  const auto wrong = [&] {
    return fail(ErrorCode::invalid_argument, cat("'", printable(text), "' is no broker's address"),
                "write mqtt://host:1883, or mqtts://host:8883 for TLS");
  };
  const bool tls = text.starts_with("mqtts://") || text.starts_with("ssl://");
  if (!tls && !text.starts_with("mqtt://") && !text.starts_with("tcp://")) return wrong();
  std::string at(text.substr(text.find("://") + 3));
  if (at.find_last_of(':') == std::string::npos || at.ends_with(']')) at += tls ? ":8883" : ":1883";
  const auto parsed = parse_host_port(at);
  if (!parsed || parsed->port == 0 || at.find_first_of("/@ ") != std::string::npos) return wrong();
  return cat(tls ? "ssl://" : "tcp://", at);
}

}  // namespace wayside
