#include "gateway/gateway.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/text.h"
#include "bridge/http_sink.h"
#include "gateway/cli.h"
#include "gateway/version.h"

namespace wayside {

Result<std::unique_ptr<Gateway>> Gateway::start(const Plan& plan, const Clock& clock,
                                                Logger& logger, const SinkWrapper& wrap) {
  std::unique_ptr<Gateway> g(new Gateway(plan, clock, logger));
  WS_TRY(g->open_log());
  if (wrap) g->wrapped_ = wrap(*g->log_);
  BatchSink& sink = g->wrapped_ ? *g->wrapped_ : *g->log_;
  WS_ASSIGN(g->listener_, MqttListener::start(g->plan_, g->log_->catalog(), sink, clock, logger));
  WS_TRY(g->start_bridges());
  if (auto control = ControlSocket::listen(control_path(plan.config.data_dir))) {
    g->control_ = std::move(*control);
  } else {
    logger.warning(control.error().text());
  }
  return g;
}

Status Gateway::open_log() {
  const Config& c = plan_.config;
  if (::mkdir(c.data_dir.c_str(), 0750) != 0 && errno != EEXIST) {
    return tl::unexpected<Error>(errno_error(cat("making data_dir ", c.data_dir), errno));
  }
  WS_ASSIGN(lock_, lock_file(c.data_dir + "/wayside.lock"));
  EngineOptions options;
  options.path = c.database_path();
  options.budget_bytes = c.storage.budget_bytes;
  options.segment_rows = c.storage.segment_rows;
  const CommitPolicy policy{c.commit.linger_ms, static_cast<std::size_t>(c.commit.records),
                            static_cast<std::size_t>(c.commit.bytes)};
  WS_ASSIGN(log_, Log::open(options, policy, plan_.topics, clock_, logger_));
  return {};
}

Status Gateway::start_bridges() {
  for (const BridgeConfig& b : plan_.config.bridges) {
    WS_ASSIGN(auto sink, make_http_sink({b.to, log_->identity().gateway_id, b.name, b.token_file,
                                         b.ca_file, b.timeout_ms, b.gzip}));
    BridgeOptions options{b.name,        b.topics,    b.batch_records,
                          b.batch_bytes, b.linger_ms, b.retry_max_ms};
    bridges_.push_back(
        std::make_unique<Bridge>(options, std::move(sink), *log_, *log_, clock_, logger_));
  }
  return {};
}

Gateway::~Gateway() {
  if (listener_) listener_->stop();
  if (log_) log_->give_up_waiting();
  bridges_.clear();
  log_.reset();
  // wrapped_ and listener_ go after the log: its last batches may still call them back.
}

void Gateway::serve(int ms) {
  control_.serve(ms, [this] { return status_json(); });
}

std::string Gateway::status_json() const {
  const WriterStats w = log_->stats();
  std::string out = "{\"version\":\"" + std::string(kVersion) + "\",\"data_dir\":";
  append_json_string(out, plan_.config.data_dir);
  out += cat(",\"pid\":", ::getpid(), ",\"started_ms\":", started_ms_,
             ",\"epoch\":", log_->identity().epoch, ",\"mqtt_port\":", listener_->port(),
             ",\"connections\":", listener_->connections(),
             ",\"clock_trusted\":", clock_.trusted() ? "true" : "false", ",\"commits\":", w.commits,
             ",\"records\":", w.records, ",\"failed_commits\":", w.failed_commits,
             ",\"waiting_for_commit\":", w.queued_ops, ",\"last_error\":");
  append_json_string(out, printable(w.last_error));
  out += ",\"bridges\":[";
  for (std::size_t i = 0; i < bridges_.size(); ++i) {
    const BridgeStatus b = bridges_[i]->status();
    out += i == 0 ? "{\"name\":" : ",{\"name\":";
    append_json_string(out, plan_.config.bridges[i].name);
    out += ",\"state\":";
    append_json_string(out, printable(b.state));
    out += cat(",\"since_ms\":", b.since_ms, ",\"records_sent\":", b.records_sent,
               ",\"batches_sent\":", b.batches_sent, ",\"tries_failed\":", b.tries_failed,
               ",\"last_delivered_ms\":", b.last_delivered_ms, "}");
  }
  return out + "]}\n";
}

int run_gateway(const std::string& config_path, const SinkWrapper& wrap) {
  // Before the first thread: all threads inherit the mask, main alone takes the signals.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int s : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, s);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  auto plan = load_plan(config_path);
  if (!plan) {
    report(plan.error());
    return kExitConfiguration;
  }
  Logger logger(plan->config.log_level);
  const SystemClock clock(plan->config.clock_trust);
  http_global_init();
  auto gateway = Gateway::start(*plan, clock, logger, wrap);
  if (!gateway) {
    logger.error(gateway.error().text());
    return exit_code(gateway.error());
  }
  logger.info(cat("wayside ", kVersion, ": mqtt listens on ", plan->config.mqtt.listen, ", port ",
                  (*gateway)->mqtt_port(), "; log ", plan->config.database_path()));
  if (!clock.trusted()) {
    logger.warning("the clock is not synchronised: retention by time waits until it is");
  }
  const timespec now{0, 0};
  for (;;) {
    (*gateway)->serve(250);
    const int signal = ::sigtimedwait(&signals, nullptr, &now);
    if (signal == SIGTERM || signal == SIGINT) break;
  }
  logger.info("stopping: what was taken is committed and acknowledged first");
  gateway->reset();
  logger.info("stopped");
  http_global_cleanup();
  return 0;
}

}  // namespace wayside
