// The MQTT listener: accepts devices' connections and keeps them, on the I/O thread.
// Thread: start, stop and the destructor from the thread that owns it; statistics from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"
#include "gateway/plan/plan.h"
#include "storage/batch.h"
#include "storage/catalog.h"

namespace wayside {

class MqttListener {
 public:
  // Binds and begins to serve, on a thread of its own. `plan`, `sink`, `clock` and `logger` must
  // outlive it.
  [[nodiscard]] static Result<std::unique_ptr<MqttListener>> start(const Plan& plan,
                                                                   const Catalog& catalog,
                                                                   BatchSink& sink,
                                                                   const Clock& clock,
                                                                   Logger& logger);
  // Stops reading, waits (a bounded time) until what was taken is committed and acknowledged,
  // tells the clients and closes. Batches may still call back: the log must be destroyed between
  // stop() and the destructor.
  void stop();
  ~MqttListener();

  // Routes and limits from now on are these; connections stay. Waits until it is so.
  [[nodiscard]] static Status check_limits(const Config& config);  // whether the system allows them
  void reload(const Plan& plan, const Catalog& catalog);

  // Who is connected, and what went wrong with whom last: as JSON, {"client":{…},…}.
  [[nodiscard]] std::string devices_json();

  // What it does about strangers, as JSON; and the memory that they hold, and may hold.
  [[nodiscard]] std::string strangers_json();
  // Whether a device that has never been here would get a place; as of a second ago.
  [[nodiscard]] bool has_place_for_newcomer() const;
  [[nodiscard]] std::size_t strangers_bytes() const;
  [[nodiscard]] std::size_t strangers_bytes_most() const;
  // Devices that stored a reading before this start, by KnownDevices::hash.
  void know(std::vector<std::uint64_t> devices);

  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] std::size_t connections() const;
  // When the I/O thread last turned its loop; steady milliseconds.
  [[nodiscard]] std::int64_t heartbeat_steady_ms() const;

 private:
  struct Impl;
  explicit MqttListener(std::unique_ptr<Impl> impl);
  // Runs on the I/O thread and waits for it.
  template <class Work>
  auto on_io(Work work) -> decltype(work());
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayside
