// Starting, serving and stopping. Requests are in requests.cc, the reload in reload.cc.
#include "gateway/gateway.h"

#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/address.h"
#include "base/limits.h"
#include "base/text.h"
#include "base/version.h"
#include "bridge/http_sink.h"
#include "gateway/cli/cli.h"
#include "gateway/control/answer.h"
#include "gateway/control/bridge_change.h"
#include "gateway/mqtt/strangers.h"
#include "gateway/plan/warnings.h"
#include "gateway/service.h"
#include "storage/bridge_ops.h"

namespace wayside {
namespace {

// So often a running gateway opens a damaged log anew; then its starts are delayed.
constexpr int kReopenedMost = 3;

// Where a free port was taken, it stays the same.
void keep_ports(Plan& plan, const Gateway& g) {
  const auto keep = [](std::string& listen, std::uint16_t port) {
    const auto at = parse_host_port(listen);
    if (at && at->port == 0 && port != 0) {
      listen = cat(listen.substr(0, listen.rfind(':') + 1), port);
    }
  };
  keep(plan.config.mqtt.listen, g.mqtt_port());
  keep(plan.config.http.listen, g.http_port());
}

// A part that has not turned its loop for so long does not answer any more.
constexpr std::int64_t kAliveMs = 30'000;

}  // namespace

Result<std::unique_ptr<Gateway>> Gateway::start(const Plan& plan, const Clock& clock,
                                                Logger& logger, const SinkWrapper& wrap,
                                                const Opening& opening) {
  std::unique_ptr<Gateway> g(new Gateway(plan, clock, logger));
  WS_TRY(g->open_log(opening));
  if (wrap) g->wrapped_ = wrap(*g->log_);
  WS_ASSIGN(g->listener_,
            MqttListener::start(g->plan_, *g->log_->catalog(), g->sink(), clock, logger));
  g->know_devices();
  for (const std::string& problem : g->start_links()) logger.warning(problem);
  g->salvager_ = std::make_unique<Salvager>(*g->log_, logger);
  Gateway* self = g.get();
  auto control = ControlServer::listen(
      control_path(plan.config.data_dir),
      {[self](PeerId peer, const std::string& line) { self->on_request(peer, line); },
       [self](PeerId peer) { self->on_gone(peer); }});
  if (control) {
    g->control_ = std::move(*control);
  } else {
    logger.warning(control.error().text());
  }
  g->start_http();
  return g;
}

Status Gateway::open_log(const Opening& opening) {
  const Config& c = plan_.config;
  if (::mkdir(c.data_dir.c_str(), 0750) != 0 && errno != EEXIST) {
    return tl::unexpected<Error>(errno_error(cat("making data_dir ", c.data_dir), errno));
  }
  WS_ASSIGN(lock_, lock_file(c.data_dir + "/wayside.lock"));
  EngineOptions options = engine_options(c);
  options.damage = opening.damage;
  options.still_opening = opening.still_opening;
  WS_ASSIGN(log_, Log::open(options, commit_policy(c), plan_.topics, clock_, logger_));
  return {};
}

// Who has stored a reading keeps a place when strangers take all others.
void Gateway::know_devices() {
  auto reader = LogReader::open(log_->path());
  std::vector<std::uint64_t> devices;
  const Status read = reader ? reader->clients([&](std::string_view id) {
    if (devices.size() < limits::kKnownDevicesMax) devices.push_back(KnownDevices::hash(id));
  })
                             : Status(tl::unexpected<Error>(reader.error()));
  if (!read) logger_.warning(cat("which devices were known is not known: ", read.error().text()));
  listener_->know(std::move(devices));
}

Result<Gateway::RunningBridge> Gateway::make_bridge(const BridgeConfig& b, LogReader& reader) {
  WS_ASSIGN(auto sink,
            make_http_sink({b.to, b.name, b.token_file, b.ca_file, b.timeout_ms, b.gzip}));
  WS_ASSIGN(const auto paused, reader.fact(pause_fact(b.name)));
  BridgeOptions options{b.name,      b.topics,       b.batch_records,   b.batch_bytes,
                        b.linger_ms, b.retry_max_ms, paused.has_value()};
  return RunningBridge{
      b, std::make_unique<Bridge>(options, std::move(sink), *log_, *log_, clock_, logger_)};
}

Result<Gateway::RunningSubscriber> Gateway::make_subscriber(const SubscribeConfig& s,
                                                            LogReader& reader) {
  WS_ASSIGN(std::string broker, parse_broker(s.broker));
  WS_ASSIGN(const auto known, reader.fact(Subscriber::fact(s)));
  auto ingest = std::make_unique<Ingest>(plan_.routes, *log_->catalog(), clock_);
  return RunningSubscriber{
      s, std::make_unique<Subscriber>(s, std::move(broker), std::move(ingest), known,
                                      held_, *log_, clock_, logger_)};
}

// Starts those that do not run yet. What cannot be started is told, and keeps nothing else from it;
// so is what a changed file leaves unsent.
std::vector<std::string> Gateway::start_links() {
  std::vector<std::string> problems;
  auto reader = LogReader::open(log_->path());
  if (!reader) return {reader.error().text()};
  for (const SubscribeConfig& s : plan_.config.subscriptions) {
    const bool runs =
        std::any_of(subscribers_.begin(), subscribers_.end(),
                    [&](const RunningSubscriber& r) { return r.config.client_id == s.client_id; });
    if (runs) continue;
    if (auto made = make_subscriber(s, *reader)) {
      subscribers_.push_back(std::move(*made));
    } else {
      problems.push_back(cat("subscription ", s.client_id, " does not run: ", made.error().text()));
    }
  }
  for (const BridgeConfig& b : plan_.config.bridges) {
    const bool runs = std::any_of(bridges_.begin(), bridges_.end(),
                                  [&](const RunningBridge& r) { return r.config.name == b.name; });
    if (runs) continue;
    if (auto made = make_bridge(b, *reader)) {
      bridges_.push_back(std::move(*made));
    } else {
      problems.push_back(cat("bridge ", b.name, " does not run: ", made.error().text()));
    }
  }
  if (const auto catalog = reader->catalog()) {
    const auto left = left_behind(*reader, *catalog, plan_.config);
    for (const LeftBehind& l : left ? *left : std::vector<LeftBehind>{}) {
      problems.push_back(l.text());
    }
  }
  return problems;
}

// Monitoring is not worth a reading: without its port the gateway runs all the same.
void Gateway::start_http() {
  const std::string& listen = plan_.config.http.listen;
  if (listen.empty()) return;
  const auto at = parse_host_port(listen);
  auto server = at ? HttpServer::start(*at, [this](std::string_view p) { return on_http(p); })
                   : Result<std::unique_ptr<HttpServer>>(tl::unexpected<Error>(at.error()));
  if (server) {
    http_ = std::move(*server);
  } else {
    logger_.warning(cat(server.error().text(), "; the gateway runs without health and metrics"));
  }
}

Gateway::~Gateway() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    tasks_.clear();  // whoever waits for one of them is told that nobody comes
  }
  http_.reset();
  if (listener_) listener_->stop();
  if (log_) log_->give_up_waiting();
  if (salvager_) salvager_->request_stop();
  // All of them at once: what one holds, the others would wait for.
  for (auto* all : {&subscribers_, &retired_subscribers_}) {
    for (RunningSubscriber& s : *all) s.subscriber->request_stop(true);
  }
  for (auto* all : {&bridges_, &retired_bridges_}) {
    for (RunningBridge& b : *all) b.bridge->request_stop();
  }
  if (reaper_.joinable()) reaper_.join();
  subscribers_.clear();
  retired_subscribers_.clear();
  bridges_.clear();
  retired_bridges_.clear();
  salvager_.reset();
  log_.reset();
  // wrapped_ and listener_ go after the log, whose last batches may still call them back; and so
  // does the control socket, to which they may still have answers.
}

void Gateway::post(std::function<void()> task) {
  {
    const MutexLock lock(mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
  }
  if (control_) control_->wake();
}

void Gateway::serve(int ms) {
  if (control_) {
    control_->serve(ms);
  } else {
    ::usleep(static_cast<unsigned>(ms) * 1000);
  }
  std::deque<std::function<void()>> tasks;
  {
    const MutexLock lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
  growth_.sample(plan_.config.database_path(), clock_);
  touch_groups();
}

std::string Gateway::not_alive() const {
  const std::int64_t now = clock_.steady_ms();
  std::string out;
  if (now - listener_->heartbeat_steady_ms() > kAliveMs) out += "the MQTT listener hangs; ";
  if (now - log_->stats().heartbeat_steady_ms > kAliveMs) out += "the writer of the log hangs; ";
  return out.substr(0, out.empty() ? 0 : out.size() - 2);
}

int run_gateway(const std::string& config_path, const SinkWrapper& wrap) {
  // Before the first thread: all threads inherit the mask, main alone takes the signals.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int s : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, s);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  Service service;
  auto plan = load_plan(config_path);
  if (!plan) {
    report(plan.error());
    service.lasted();
    return kExitConfiguration;
  }
  Logger logger(plan->config.log_level);
  if (const std::int64_t ms = service.start_delay_ms(); ms > 0) {
    logger.warning(cat("the last starts did not last; waiting ", ms / 1000, " s before this one"));
    service.notify(cat("STATUS=waiting ", ms / 1000, " s: the last starts did not last"));
    const timespec wait{static_cast<time_t>(ms / 1000), 0};
    int signal = SIGHUP;  // nothing to reload yet
    while (signal == SIGHUP) signal = ::sigtimedwait(&signals, nullptr, &wait);
    if (signal > 0) {  // somebody who stops it by hand may start it at once
      service.lasted();
      return kExitOk;
    }
  }
  for (const Warning& w : warnings_of(*plan)) logger.warning(w.text);
  const SystemClock clock(plan->config.clock_trust);
  Opening opening{"", [&] { service.still_starting(clock.steady_ms()); }};
  auto gateway = Gateway::start(*plan, clock, logger, wrap, opening);
  if (!gateway) {
    logger.error(gateway.error().text());
    return exit_code(gateway.error());
  }
  logger.info(cat("wayside ", kVersion, ": mqtt listens on ", plan->config.mqtt.listen, ", port ",
                  (*gateway)->mqtt_port(), "; http port ", (*gateway)->http_port(), "; log ",
                  plan->config.database_path()));
  if (!clock.trusted()) {
    logger.warning("the clock is not synchronised: retention by time waits until it is");
  }
  ::malloc_trim(0);  // what only the start needed goes back to the system
  service.notify(cat("READY=1\nSTATUS=taking readings on port ", (*gateway)->mqtt_port()));
  const std::int64_t ready_ms = clock.steady_ms();
  const timespec now{0, 0};
  bool lasting = false, hangup = false;
  int reopened = 0;
  for (;;) {
    Gateway& g = **gateway;
    g.serve(250);
    const std::int64_t steady_ms = clock.steady_ms();
    if (!std::exchange(lasting, steady_ms - ready_ms >= kLastingMs) && lasting) service.lasted();
    if (const std::string why = g.not_alive(); why.empty()) {
      service.feed_watchdog(steady_ms);
    } else {
      logger.repeated(LogLevel::error, "alive", why);
    }
    const std::string damage = g.damage(), anew_for = g.opened_anew_for();
    if (!damage.empty() || !anew_for.empty()) {
      // What a start does with a damaged log, without leaving: on the same ports, within a second.
      logger.error(damage.empty() ? cat(anew_for, "; the log is opened anew")
                                  : cat("the log is damaged: ", damage, "; it is opened anew"));
      if (++reopened > kReopenedMost) {
        logger.error("that was too often: the disk seems to fail; leaving it to the next start");
        return kExitFailed;
      }
      *plan = g.plan();
      keep_ports(*plan, g);
      gateway->reset();
      opening.damage = damage;
      gateway = Gateway::start(*plan, clock, logger, wrap, opening);
      if (!gateway) {
        logger.error(gateway.error().text());
        return exit_code(gateway.error());
      }
      logger.info(cat("taking readings again on port ", (*gateway)->mqtt_port()));
      continue;
    }
    const int signal = ::sigtimedwait(&signals, nullptr, &now);
    if (signal == SIGTERM || signal == SIGINT) break;
    if (!std::exchange(hangup, false) && signal != SIGHUP) continue;
    service.notify(cat("RELOADING=1\nMONOTONIC_USEC=", steady_ms * 1000));
    g.reload([&](const Result<std::vector<std::string>>& changes) {
      if (!changes && changes.error().code == ErrorCode::busy) {  // the file may be newer again
        hangup = true;
        return;
      }
      if (!changes) logger.error(cat("not reloaded, nothing changed: ", changes.error().text()));
      if (changes && changes->empty()) logger.info("reloaded: nothing differs");
      if (changes) {
        for (const std::string& line : *changes) logger.info("reloaded: " + line);
      }
      service.notify("READY=1");
    });
  }
  logger.info("stopping: what was taken is committed and acknowledged first");
  service.notify("STOPPING=1\nSTATUS=committing what was taken");
  gateway->reset();
  service.lasted();
  logger.info("stopped");
  return 0;
}

}  // namespace wayside
