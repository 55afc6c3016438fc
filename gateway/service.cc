#include "gateway/service.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/file.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kLongestDelayMs = 60'000;
constexpr std::int64_t kStillStartingEveryMs = 5000;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

Service::Service() : socket_(environment("NOTIFY_SOCKET")) {
  const auto usec = parse_int(environment("WATCHDOG_USEC"));
  const auto pid = parse_int(environment("WATCHDOG_PID"));
  // Three times in each period, as sd_watchdog_enabled(3) advises at least twice.
  if (usec && (!pid || *pid == ::getpid()))
    feed_every_ms_ = std::max<std::int64_t>(*usec / 3000, 1);
  const std::string runtime = environment("RUNTIME_DIRECTORY");
  if (!socket_.empty() && !runtime.empty()) starts_file_ = runtime + "/starts";
}

void Service::notify(std::string_view state) const {
  sockaddr_un address{};
  if (socket_.empty() || socket_.size() >= sizeof address.sun_path) return;
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_.data(), socket_.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // an abstract one
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  // Nobody to tell that the manager does not listen.
  [[maybe_unused]] const ssize_t n = ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                                              reinterpret_cast<const sockaddr*>(&address), size);
}

void Service::feed_watchdog(std::int64_t steady_ms) {
  if (feed_every_ms_ == 0 || steady_ms - fed_ms_ < feed_every_ms_) return;
  fed_ms_ = steady_ms;
  notify("WATCHDOG=1");
}

void Service::still_starting(std::int64_t steady_ms) {
  if (steady_ms - fed_ms_ < kStillStartingEveryMs) return;
  fed_ms_ = steady_ms;
  notify("EXTEND_TIMEOUT_USEC=120000000\nWATCHDOG=1");
}

std::int64_t Service::start_delay_ms() {
  if (starts_file_.empty()) return 0;
  std::int64_t starts = 0;
  std::ifstream(starts_file_) >> starts;
  std::ofstream(starts_file_) << starts + 1;
  if (starts < 2) return 0;
  return std::min<std::int64_t>(kLongestDelayMs, 1000LL << std::min<std::int64_t>(starts - 2, 10));
}

void Service::lasted() {
  if (!starts_file_.empty()) ::unlink(starts_file_.c_str());
}

}  // namespace wayside
