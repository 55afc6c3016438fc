// The gateway: the composition root. Lock, log, listener, subscriptions, bridges, control socket
// and HTTP, started in this order and stopped in the reverse one. Thread: one owner (main); other
// threads reach it by post().
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mutex.h"
#include "bridge/bridge.h"
#include "gateway/control/changes.h"
#include "gateway/control/socket_server.h"
#include "gateway/http/metrics.h"
#include "gateway/http/server.h"
#include "gateway/mqtt/listener.h"
#include "gateway/mqtt/subscriber.h"
#include "gateway/plan/plan.h"
#include "storage/coordinator.h"
#include "storage/log.h"
#include "storage/recovery/salvager.h"

namespace wayside {

// What a test puts between the listener and the log, to be worse than the log on purpose.
using SinkWrapper = std::function<std::unique_ptr<BatchSink>(BatchSink& log)>;

// What its log is opened with, beside the configuration; see EngineOptions.
struct Opening {
  std::string damage;
  std::function<void()> still_opening;
};

class Gateway {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Gateway>> start(const Plan& plan, const Clock& clock,
                                                              Logger& logger,
                                                              const SinkWrapper& wrap = {},
                                                              const Opening& opening = {});
  ~Gateway();  // stops; everything that was taken is committed and acknowledged first

  // Serves requests and what was posted, for at most `ms`.
  void serve(int ms);
  // Applies the configuration file as it is now; `done` is told what changed, a line each, or why
  // nothing did.
  void reload(std::function<void(Result<std::vector<std::string>>)> done);
  // Why the log must be opened anew, by a new Gateway whose options say so; empty: it is sound.
  [[nodiscard]] std::string damage() const { return log_->damage(); }
  [[nodiscard]] std::string opened_anew_for() const { return log_->opened_anew_for(); }
  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] std::uint16_t mqtt_port() const { return listener_->port(); }
  [[nodiscard]] std::uint16_t http_port() const { return http_ ? http_->port() : 0; }
  // What does not answer; empty: all is alive. An idle writer, or one that waits, is alive.
  [[nodiscard]] std::string not_alive() const;
  // Runs it on main's thread, soon. Thread: any.
  void post(std::function<void()> task);

 private:
  struct RunningBridge {
    BridgeConfig config;
    std::unique_ptr<Bridge> bridge;
  };
  struct RunningSubscriber {
    SubscribeConfig config;
    std::unique_ptr<Subscriber> subscriber;
  };
  struct Membership {
    std::string group, topic;
    TopicId id;  // a topic made anew under the name is another one
  };
  struct Reload;

  Gateway(const Plan& plan, const Clock& clock, Logger& logger)
      : plan_(plan), clock_(clock), logger_(logger), started_ms_(clock.wall_ms()) {}
  [[nodiscard]] Status open_log(const Opening& opening);
  [[nodiscard]] Result<RunningBridge> make_bridge(const BridgeConfig& config, LogReader& reader);
  [[nodiscard]] Result<RunningSubscriber> make_subscriber(const SubscribeConfig& config,
                                                          LogReader& reader);
  [[nodiscard]] std::vector<std::string> start_links();  // returns what does not run
  void start_http();
  void know_devices();
  [[nodiscard]] BatchSink& sink() { return wrapped_ ? *wrapped_ : *log_; }

  void on_request(PeerId peer, const std::string& line);
  void on_admin(PeerId peer, const Json& request);
  void on_join(PeerId peer, const Json& request);
  void on_commit(PeerId peer, const Json& request);
  void on_refuse(PeerId peer, const Json& request);
  void on_damaged(PeerId peer, const Json& request);
  [[nodiscard]] Result<const Topic*> active_topic(PeerId peer, const Catalog& catalog) const;
  void on_gone(PeerId peer);
  void touch_groups();
  [[nodiscard]] std::string status_json() const;
  [[nodiscard]] std::string groups_json() const;
  [[nodiscard]] HttpReply on_http(std::string_view path);  // Thread: the HTTP server's
  [[nodiscard]] HttpReply health(std::string_view path) const;
  [[nodiscard]] std::string not_ready() const;
  [[nodiscard]] LiveState live_state() const;
  // Asks main, and waits a bounded time; none: it does not answer. Thread: the HTTP server's.
  template <class T>
  [[nodiscard]] std::optional<T> ask_main(std::function<T()> work);

  void begin_reload(const std::shared_ptr<Reload>& reload);
  void apply_reload(const std::shared_ptr<Reload>& reload, const Status& changed);
  void retire_links(const Catalog& before);
  void finish_reload(const std::shared_ptr<Reload>& reload);

  Plan plan_;
  const Clock& clock_;
  Logger& logger_;
  const std::int64_t started_ms_;
  UniqueFd lock_;
  std::unique_ptr<MqttListener> listener_;  // outlives the log, whose batches may call it back
  std::unique_ptr<Log> log_;
  std::unique_ptr<Salvager> salvager_;
  std::unique_ptr<BatchSink> wrapped_;
  const std::shared_ptr<Subscriber::Held> held_ = std::make_shared<Subscriber::Held>();
  std::vector<RunningSubscriber> subscribers_;
  std::vector<RunningBridge> bridges_;
  // What a reload has taken out of these; the reaper waits for it, so that main need not.
  std::vector<RunningSubscriber> retired_subscribers_;
  std::vector<RunningBridge> retired_bridges_;
  std::jthread reaper_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<HttpServer> http_;
  GroupCoordinator coordinator_;
  std::map<PeerId, Membership> member_of_;
  Growth growth_;
  Metrics metrics_;  // the HTTP server's
  bool reloading_ = false;
  std::int64_t groups_touched_ms_ = 0;  // steady

  Mutex mutex_;
  std::deque<std::function<void()>> tasks_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
};

// `wayside run`: until SIGTERM or SIGINT. Returns the exit code.
[[nodiscard]] int run_gateway(const std::string& config_path, const SinkWrapper& wrap = {});

}  // namespace wayside
