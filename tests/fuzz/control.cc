// The control socket of a real gateway: whatever lines come, each is answered with a line of JSON,
// or the peer is cut off, and the gateway goes on.
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "base/json.h"
#include "gateway/control/socket_client.h"
#include "gateway/gateway.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using fuzz::must;
using fuzz::require;

namespace {

constexpr const char* kConfig = R"(
[mqtt]
listen = "127.0.0.1:0"
[http]
listen = ""
[commit]
linger = "0ms"
[[topic]]
name = "a"
partitions = 3
[[route]]
mqtt = "a/{id}"
topic = "a"
key = "{id}"
)";

struct Running {
  fuzz::Directory directory;
  SystemClock clock{ClockTrust::always};
  Logger logger{LogLevel::error};
  std::unique_ptr<Gateway> gateway;
  Running() {
    const std::string file = directory / "wayside.toml";
    std::ofstream(file) << "data_dir = \"" << directory / "" << "\"\n" << kConfig;
    gateway = must(Gateway::start(must(load_plan(file), "the plan is sound"), clock, logger),
                   "a gateway starts");
  }
  [[nodiscard]] UniqueFd connect() const {
    const std::string path = control_path(gateway->plan().config.data_dir);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    require(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
            "the gateway listens");
    return fd;
  }
  // What is answered to this: so many lines, or all until the peer is cut off.
  std::string answers_to(std::string_view asked) {
    const UniqueFd fd = connect();
    const auto lines = std::count(asked.begin(), asked.end(), '\n');
    std::string out;
    while (std::count(out.begin(), out.end(), '\n') < lines) {
      if (!asked.empty()) {
        const ssize_t n = ::send(fd.get(), asked.data(), asked.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        asked.remove_prefix(n > 0 ? static_cast<std::size_t>(n) : 0);
      }
      gateway->serve(1);
      std::array<char, 4096> buffer;
      const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (n == 0 || (n < 0 && errno != EAGAIN)) break;
      if (n > 0) out.append(buffer.data(), static_cast<std::size_t>(n));
    }
    return out;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Running running;
  const std::string_view asked(reinterpret_cast<const char*>(data), size);
  const std::string answers = running.answers_to(asked);
  for (std::string_view left = answers; left.find('\n') != std::string_view::npos;) {
    const std::size_t end = left.find('\n');
    require(Json::parse(left.substr(0, end)).has_value(), "an answer is JSON");
    left.remove_prefix(end + 1);
  }
  require(running.gateway->damage().empty() && running.gateway->opened_anew_for().empty(),
          "the log is sound");
  const std::string status = running.answers_to("{\"do\":\"status\"}\n");
  require(status.find('\n') != std::string::npos, "the gateway answers the next one");
  return 0;
}
