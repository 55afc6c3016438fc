// Applying a changed configuration file to the running gateway: all of it or nothing. What it
// needs is made first; then topics change on the writer, in one transaction; then everything else
// is swapped. No connection is dropped, and no reading waits for more than that.
#include <algorithm>
#include <set>

#include "base/text.h"
#include "gateway/gateway.h"

namespace wayside {

struct Gateway::Reload {
  Plan plan;
  std::vector<std::string> changes;
  std::vector<std::string> warnings;  // of topics
  std::function<void(Result<std::vector<std::string>>)> done;
};

namespace {

// These are taken at the start only.
const std::set<std::string, std::less<>> kNeedRestart = {"data_dir", "mqtt.listen", "http.listen",
                                                         "clock.trust", "storage.segment_rows"};

using Settings = std::map<std::string, std::string>;

// "route fleet/{truck}/gps key" -> "route fleet/{truck}/gps"; "commit.linger" -> "".
std::string element_of(const std::string& setting) {
  const std::size_t space = setting.rfind(' ');
  return space == std::string::npos ? "" : setting.substr(0, space);
}

std::set<std::string> elements(const Settings& settings) {
  std::set<std::string> out;
  for (const auto& [name, value] : settings) out.insert(element_of(name));
  return out;
}

std::vector<std::string> differences(const Settings& before, const Settings& after) {
  std::vector<std::string> out;
  const auto old_elements = elements(before), new_elements = elements(after);
  for (const std::string& e : new_elements) {
    if (!old_elements.contains(e)) out.push_back("+ " + e);
  }
  for (const std::string& e : old_elements) {
    if (new_elements.contains(e)) continue;
    const bool keeps = e.starts_with("topic ") || e.starts_with("bridge ");
    out.push_back(cat("- ", e,
                      e.starts_with("topic ") ? " (its records stay)"
                      : keeps                 ? " (its position stays)"
                                              : ""));
  }
  for (const auto& [name, value] : after) {
    const auto old = before.find(name);
    const std::string e = element_of(name);
    if (!old_elements.contains(e) || (old != before.end() && old->second == value)) continue;
    std::string line =
        cat("~ ", name, ": ", old == before.end() ? "not set" : old->second, " -> ", value);
    if (kNeedRestart.contains(name)) line += "  (needs a restart: systemctl restart wayside)";
    out.push_back(std::move(line));
  }
  for (const auto& [name, value] : before) {
    if (after.contains(name) || !new_elements.contains(element_of(name))) continue;
    out.push_back(cat("~ ", name, ": ", value, " -> not set"));
  }
  return out;
}

// Whether something of this element differs.
bool same(const Settings& a, const Settings& b, const std::string& element) {
  const auto part = [&](const Settings& all) {
    Settings out;
    for (const auto& [name, value] : all) {
      if (element_of(name) == element) out[name] = value;
    }
    return out;
  };
  return part(a) == part(b);
}

}  // namespace

void Gateway::reload(std::function<void(Result<std::vector<std::string>>)> done) {
  auto plan = load_plan(plan_.config.file);
  if (!plan) return done(tl::unexpected<Error>(plan.error()));
  if (reloading_) {
    return done(fail(ErrorCode::busy, "a reload is under way", "try again in a moment"));
  }
  if (auto ok = MqttListener::check_limits(plan->config); !ok) {
    return done(tl::unexpected<Error>(ok.error()));
  }
  auto reload = std::make_shared<Reload>();
  reload->plan = std::move(*plan);
  reload->changes = differences(plan_.config.settings, reload->plan.config.settings);
  reload->done = std::move(done);
  begin_reload(reload);
}

void Gateway::begin_reload(const std::shared_ptr<Reload>& reload) {
  reloading_ = true;
  // What is taken at the start stays as it is until the next one.
  Config& now = reload->plan.config;
  now.data_dir = plan_.config.data_dir;
  now.mqtt.listen = plan_.config.mqtt.listen;
  now.http.listen = plan_.config.http.listen;
  now.clock_trust = plan_.config.clock_trust;
  now.storage.segment_rows = plan_.config.storage.segment_rows;
  for (const std::string_view name : kNeedRestart) {
    // Told again at the next reload, too.
    now.settings[std::string(name)] = plan_.config.settings[std::string(name)];
  }
  log_->change(
      [reload](Engine& engine) -> Status {
        const Config& c = reload->plan.config;
        WS_ASSIGN(reload->warnings, engine.ensure_topics(reload->plan.topics));
        return engine.set_limits(c.storage.budget_bytes, c.groups.offset_retention_ms);
      },
      [this, reload](const Status& status) {
        post([this, reload, status] { finish_reload(reload, status); });
      });
}

void Gateway::finish_reload(const std::shared_ptr<Reload>& reload, const Status& changed) {
  reloading_ = false;
  if (!changed) return reload->done(tl::unexpected<Error>(changed.error()));
  const Settings before = plan_.config.settings;
  plan_ = reload->plan;
  const Config& c = plan_.config;
  const auto catalog = log_->catalog();
  listener_->reload(plan_, *catalog);
  log_->set_policy(commit_policy(c));
  logger_.set_level(c.log_level);

  // A bridge or a subscription that is the same as before goes on; but a bridge must learn of new
  // partitions of its topics.
  const auto unchanged = [&](const std::string& element) {
    return same(before, c.settings, element);
  };
  const auto bridge_unchanged = [&](const BridgeConfig& b) {
    return unchanged("bridge " + b.name) &&
           std::all_of(b.topics.begin(), b.topics.end(),
                       [&](const std::string& t) { return unchanged("topic " + t); });
  };
  std::vector<std::string> problems;
  auto reader = LogReader::open(log_->path());
  std::vector<RunningBridge> bridges;
  for (RunningBridge& b : bridges_) {
    const auto still = std::find_if(c.bridges.begin(), c.bridges.end(),
                                    [&](const BridgeConfig& n) { return n.name == b.config.name; });
    if (still != c.bridges.end() && bridge_unchanged(*still)) bridges.push_back(std::move(b));
  }
  bridges_.clear();  // the others stop here, before another one of their name starts
  for (const BridgeConfig& b : c.bridges) {
    if (std::any_of(bridges.begin(), bridges.end(),
                    [&](const RunningBridge& r) { return r.config.name == b.name; })) {
      continue;
    }
    auto made = reader ? make_bridge(b, *reader) : tl::unexpected<Error>(reader.error());
    if (made) {
      bridges.push_back(std::move(*made));
    } else {
      problems.push_back(cat("! bridge ", b.name, " does not run: ", made.error().text()));
    }
  }
  bridges_ = std::move(bridges);

  std::vector<RunningSubscriber> subscribers;
  for (RunningSubscriber& s : subscribers_) {
    const bool stays =
        std::any_of(c.subscriptions.begin(), c.subscriptions.end(), [&](const SubscribeConfig& n) {
          return n.client_id == s.config.client_id && unchanged("subscribe " + n.client_id);
        });
    if (!stays) continue;
    s.subscriber->reload(std::make_unique<Ingest>(plan_.routes, *catalog, clock_));
    subscribers.push_back(std::move(s));
  }
  subscribers_.clear();
  for (const SubscribeConfig& s : c.subscriptions) {
    if (std::any_of(subscribers.begin(), subscribers.end(), [&](const RunningSubscriber& r) {
          return r.config.client_id == s.client_id;
        })) {
      continue;
    }
    auto made = reader ? make_subscriber(s, *reader) : tl::unexpected<Error>(reader.error());
    if (made) {
      subscribers.push_back(std::move(*made));
    } else {
      problems.push_back(cat("! subscription ", s.client_id, ": ", made.error().text()));
    }
  }
  subscribers_ = std::move(subscribers);
  for (const std::string& w : reload->warnings) reload->changes.push_back("! " + w);
  for (const std::string& p : problems) reload->changes.push_back(p);
  reload->done(reload->changes);
}

}  // namespace wayside
