// A subscription to a broker that is already there, through Eclipse Paho (subscriber.cc and
// devices/paho_publisher.cc alone include it): a persistent session, and a reading is committed
// inside the message callback, so that the broker has its PUBACK only after the commit. Paho runs
// one callback at a time in a process; what cannot be committed holds it, and the broker keeps the
// rest. docs/OPERATIONS.md says what this leg can and cannot promise.
// Thread: one of its own, and Paho's; status() from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/log.h"
#include "config/config.h"
#include "gateway/plan/ingest.h"
#include "storage/batch.h"

namespace wayside {

struct SubscriberStatus {
  std::string state;  // in words
  std::int64_t since_ms = 0;
  std::int64_t received = 0, sessions_lost = 0;
  std::int64_t known_replays = 0;  // of `received`: values that the broker had kept, and known
  bool connected = false;
};

class Subscriber {
 public:
  // Set for good when the program ends with a reading that cannot be committed: it is never
  // acknowledged, so the thread of Paho stays where it is, and nobody can talk to Paho any more.
  // Shared by all subscriptions; threads that are left behind look at it for as long as they are.
  struct Held {
    std::atomic<bool> yes{false};
  };
  // `log`, `clock` and `logger` must outlive it. `known`: the filter of the session that the broker
  // has of this client; none: it has had no session, so that it misses one is not worth saying.
  Subscriber(const SubscribeConfig& config, std::string broker, std::unique_ptr<Ingest> ingest,
             std::optional<std::string> known, std::shared_ptr<Held> held, BatchSink& log,
             const Clock& clock, Logger& logger);
  ~Subscriber();  // stops, as wait_stopped() does

  // Begins to stop, and returns. With `program_ends`, a reading that cannot be committed is held;
  // else it is tried again until it can.
  void request_stop(bool program_ends);
  // Until it has stopped, or some subscription holds a reading. Thread: any.
  void wait_stopped();

  [[nodiscard]] SubscriberStatus status() const;
  // The routes are others from now on. Thread: any.
  void reload(std::unique_ptr<Ingest> ingest);
  // The name of the fact that the broker has had a session of this client; its value is the filter.
  [[nodiscard]] static std::string fact(const SubscribeConfig& config);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayside
