// A publishing MQTT client through Eclipse Paho C++ (paho_publisher.cc alone includes it), for
// `publish` and `simulate`. Paho's callbacks and automatic reconnection are not used: every token
// is waited for with a bound. Thread: one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace wayside {

struct PublisherOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 1883;
  std::string client_id;  // empty: the server gives one
  bool v311 = false;
  int in_flight_most = 100;
  std::int64_t timeout_ms = 10'000;  // for a connection, and for each acknowledgement
};

class PahoPublisher {
 public:
  // Begins to connect; several may do so at once.
  [[nodiscard]] static Result<std::unique_ptr<PahoPublisher>> begin(const PublisherOptions& o);
  [[nodiscard]] Status wait_connected();
  ~PahoPublisher();

  // Sends; waits only when the window is full.
  [[nodiscard]] Status publish(const std::string& topic, const std::string& payload, int qos);
  // Waits until everything sent is acknowledged. Returns how many were, since the start.
  [[nodiscard]] Result<std::int64_t> drain();

 private:
  struct Impl;
  explicit PahoPublisher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayside
