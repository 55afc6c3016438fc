// The gateway: the composition root. Lock, log, listener, bridges and control socket, started in
// this order and stopped in the reverse one. Thread: one owner (main).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "bridge/bridge.h"
#include "gateway/control.h"
#include "gateway/mqtt_listener.h"
#include "gateway/plan.h"
#include "storage/log.h"

namespace wayside {

// What a test puts between the listener and the log, to be worse than the log on purpose.
using SinkWrapper = std::function<std::unique_ptr<BatchSink>(BatchSink& log)>;

class Gateway {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Gateway>> start(const Plan& plan, const Clock& clock,
                                                              Logger& logger,
                                                              const SinkWrapper& wrap = {});
  ~Gateway();  // stops; everything that was taken is committed and acknowledged first

  // Answers whoever asks on the control socket, for at most `ms`.
  void serve(int ms);
  [[nodiscard]] std::uint16_t mqtt_port() const { return listener_->port(); }
  // The state as JSON: what `wayside status` shows of a running gateway.
  [[nodiscard]] std::string status_json() const;

 private:
  Gateway(const Plan& plan, const Clock& clock, Logger& logger)
      : plan_(plan), clock_(clock), logger_(logger), started_ms_(clock.wall_ms()) {}
  [[nodiscard]] Status open_log();
  [[nodiscard]] Status start_bridges();

  const Plan plan_;
  const Clock& clock_;
  Logger& logger_;
  const std::int64_t started_ms_;
  UniqueFd lock_;
  std::unique_ptr<MqttListener> listener_;  // outlives the log, whose batches may call it back
  std::unique_ptr<Log> log_;
  std::unique_ptr<BatchSink> wrapped_;
  std::vector<std::unique_ptr<Bridge>> bridges_;
  ControlSocket control_;
};

// `wayside run`: until SIGTERM or SIGINT. Returns the exit code.
[[nodiscard]] int run_gateway(const std::string& config_path, const SinkWrapper& wrap = {});

}  // namespace wayside
