#include "gateway/control/socket_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

std::int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Result<ControlClient> ControlClient::connect(const std::string& data_dir) {
  std::string mine, other;
  append_json_string(mine, data_dir);
  for (const std::string& path :
       {control_path(data_dir), std::string("/run/wayside/wayside.sock")}) {
    const auto address = socket_address(path);
    if (!address) continue;
    ControlClient client;
    client.fd_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(client.fd_.get(), reinterpret_cast<const sockaddr*>(&*address),
                  sizeof *address) != 0) {
      if (errno == EACCES) {
        return fail(ErrorCode::unavailable, cat("no right to ask the gateway at ", path),
                    "become a member of the group wayside (sudo usermod -aG wayside $USER, then "
                    "log in again), or use sudo");
      }
      continue;
    }
    // Of another gateway on this machine, /run/wayside tells nothing about this data_dir.
    const auto hello = client.ask(cat("{\"do\":\"hello\",\"data_dir\":", mine, "}"), 5000);
    if (hello) return client;
    // One that runs on another data_dir is not the one that is asked for; all else is told.
    if (hello.error().code != ErrorCode::not_found) return tl::unexpected<Error>(hello.error());
    other = hello.error().what;
  }
  if (!other.empty()) {
    return fail(ErrorCode::unavailable, cat("no gateway runs on ", data_dir, "; ", other),
                "after a change of data_dir: systemctl restart wayside");
  }
  return fail(ErrorCode::unavailable, cat("no gateway runs on ", data_dir),
              "start it: systemctl start wayside, or wayside run");
}

Status ControlClient::send(std::string_view request) {
  std::string text = cat(request, "\n");
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::send(fd_.get(), text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(ErrorCode::unavailable, "the gateway went away");
    at += static_cast<std::size_t>(n);
  }
  return {};
}

Result<std::string> ControlClient::line(std::int64_t timeout_ms) {
  const std::int64_t until = now_ms() + timeout_ms;
  for (;;) {
    if (const std::size_t end = in_.find('\n'); end != std::string::npos) {
      std::string out = in_.substr(0, end);
      in_.erase(0, end + 1);
      return out;
    }
    const std::int64_t left = until - now_ms();
    pollfd waiting{fd_.get(), POLLIN, 0};
    const int ready = left <= 0 ? 0 : ::poll(&waiting, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return fail(ErrorCode::timeout, "the gateway did not answer in time");
    std::string buffer(1 << 16, '\0');
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(ErrorCode::unavailable, "the gateway went away");
    in_.append(buffer, 0, static_cast<std::size_t>(n));
  }
}

Result<Json> ControlClient::ask(std::string_view request, std::int64_t timeout_ms) {
  const Status sent = send(request);
  // Who is refused is told why before he has said anything.
  const auto text = line(sent ? timeout_ms : 1000);
  if (text) return parse_answer(*text);
  return tl::unexpected<Error>(sent ? text.error() : sent.error());
}

Result<Json> ask_gateway(const std::string& data_dir, std::string_view request) {
  WS_ASSIGN(ControlClient client, ControlClient::connect(data_dir));
  return client.ask(request);
}

}  // namespace wayside
