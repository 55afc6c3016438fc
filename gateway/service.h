// What a service manager wants: readiness, watchdog and reload notices (sd_notify(3): datagrams to
// $NOTIFY_SOCKET), and a delay that grows with starts that do not last, counted in
// $RUNTIME_DIRECTORY. Outside systemd all of it does nothing. Thread: main's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace wayside {

class Service {
 public:
  Service();  // from the environment

  // "READY=1", "STOPPING=1", "STATUS=…"; several lines in one datagram.
  void notify(std::string_view state) const;
  // Feeds the watchdog when it is time to. REQUIRES: the caller has looked that all are alive.
  void feed_watchdog(std::int64_t steady_ms);
  // A start takes long because it must: asks for more time, now and then.
  void still_starting(std::int64_t steady_ms);

  // Counts this start; how long to wait before it, because the ones before did not last.
  [[nodiscard]] std::int64_t start_delay_ms();
  // The program has run for a while, or ends as it should: the next start is not delayed.
  void lasted();

 private:
  std::string socket_, starts_file_;
  std::int64_t feed_every_ms_ = 0, fed_ms_ = 0;
};

// Starts that ended within this time count as not lasting.
inline constexpr std::int64_t kLastingMs = 60'000;

}  // namespace wayside
