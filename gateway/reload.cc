// Applying a changed configuration file to the running gateway: all of it or nothing. It is
// checked whole first; then topics change on the writer, in one transaction; then everything else
// is swapped. No connection is dropped, and no reading waits for more than that.
#include <algorithm>
#include <set>

#include "base/text.h"
#include "gateway/gateway.h"

namespace wayside {

struct Gateway::Reload {
  Plan plan;
  std::shared_ptr<const Catalog> before;
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

// Wherever it stands in the file.
template <class C>
bool same(C a, const C& b) {
  a.line = b.line;
  return a == b;
}

std::size_t partitions_of(const Catalog& catalog, const std::string& topic) {
  const Topic* found = catalog.find(topic);
  return found == nullptr ? 0 : found->partitions.size();
}

}  // namespace

void Gateway::reload(std::function<void(Result<std::vector<std::string>>)> done) {
  if (reloading_) {
    return done(fail(ErrorCode::busy, "a reload is under way", "try again in a moment"));
  }
  auto plan = load_plan(plan_.config.file);
  if (!plan) return done(tl::unexpected<Error>(plan.error()));
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
  reload->before = log_->catalog();
  log_->change(
      [reload](Engine& engine) -> Status {
        const Config& c = reload->plan.config;
        WS_ASSIGN(reload->warnings, engine.ensure_topics(reload->plan.topics));
        return engine.set_limits(engine_options(c));
      },
      [this, reload](const Status& status) {
        post([this, reload, status] { apply_reload(reload, status); });
      });
}

void Gateway::apply_reload(const std::shared_ptr<Reload>& reload, const Status& changed) {
  if (!changed) {
    reloading_ = false;
    return reload->done(tl::unexpected<Error>(changed.error()));
  }
  plan_ = reload->plan;
  const auto catalog = log_->catalog();
  listener_->reload(plan_, *catalog);
  log_->set_policy(commit_policy(plan_.config));
  logger_.set_level(plan_.config.log_level);
  retire_links(*reload->before);
  for (RunningSubscriber& s : subscribers_) {
    s.subscriber->reload(std::make_unique<Ingest>(plan_.routes, *catalog, clock_));
  }
  // Those that stop may wait for an upstream, a broker or the log; main does not.
  reaper_ = std::jthread([this, reload] {
    for (RunningSubscriber& s : retired_subscribers_) s.subscriber->wait_stopped();
    for (RunningBridge& b : retired_bridges_) b.bridge->wait_stopped();
    post([this, reload] { finish_reload(reload); });
  });
}

// What is the same as before goes on; but a bridge must learn of new partitions of its topics.
void Gateway::retire_links(const Catalog& before) {
  const Config& c = plan_.config;
  const auto catalog = log_->catalog();
  std::vector<RunningBridge> bridges;
  for (RunningBridge& b : bridges_) {
    const bool stays =
        std::any_of(c.bridges.begin(), c.bridges.end(),
                    [&](const BridgeConfig& n) { return same(n, b.config); }) &&
        std::all_of(b.config.topics.begin(), b.config.topics.end(), [&](const std::string& t) {
          return partitions_of(before, t) == partitions_of(*catalog, t);
        });
    if (!stays) b.bridge->request_stop();
    (stays ? bridges : retired_bridges_).push_back(std::move(b));
  }
  bridges_ = std::move(bridges);
  std::vector<RunningSubscriber> subscribers;
  for (RunningSubscriber& s : subscribers_) {
    const bool stays = std::any_of(c.subscriptions.begin(), c.subscriptions.end(),
                                   [&](const SubscribeConfig& n) { return same(n, s.config); });
    if (!stays) s.subscriber->request_stop(false);
    (stays ? subscribers : retired_subscribers_).push_back(std::move(s));
  }
  subscribers_ = std::move(subscribers);
}

void Gateway::finish_reload(const std::shared_ptr<Reload>& reload) {
  reaper_.join();
  retired_subscribers_.clear();
  retired_bridges_.clear();
  for (const std::string& w : reload->warnings) reload->changes.push_back("! " + w);
  for (const std::string& p : start_links()) reload->changes.push_back("! " + p);
  reloading_ = false;
  reload->done(reload->changes);
}

}  // namespace wayside
