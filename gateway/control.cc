#include "gateway/control.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace wayside {
namespace {

constexpr int kPatienceMs = 2000;  // with somebody who connects and does not read, or answer

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorCode::invalid_argument, cat(path, " is too long for a socket's path"),
                cat("data_dir may have up to ", sizeof address.sun_path - 14, " characters"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

ControlSocket::~ControlSocket() {
  if (fd_.valid()) ::unlink(path_.c_str());
}

Result<ControlSocket> ControlSocket::listen(const std::string& path) {
  WS_ASSIGN(const sockaddr_un address, address_of(path));
  ControlSocket s;
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ::unlink(path.c_str());  // of a gateway that was killed: the lock says that none runs
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(path.c_str(), 0660) != 0 || ::listen(fd.get(), 16) != 0) {
    return tl::unexpected<Error>(errno_error(cat("the control socket ", path), errno));
  }
  s.fd_ = std::move(fd);
  s.path_ = path;
  return s;
}

void ControlSocket::serve(int ms, const std::function<std::string()>& answer) {
  pollfd waiting{fd_.get(), POLLIN, 0};
  if (!fd_.valid()) {
    ::poll(nullptr, 0, ms);
    return;
  }
  if (::poll(&waiting, 1, ms) <= 0) return;
  const UniqueFd peer(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!peer.valid()) return;
  const timeval patience{kPatienceMs / 1000, 0};
  ::setsockopt(peer.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const std::string text = answer();
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::send(peer.get(), text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (n <= 0) return;
    at += static_cast<std::size_t>(n);
  }
}

std::string control_path(const std::string& data_dir) {
  const char* runtime = std::getenv("RUNTIME_DIRECTORY");
  return cat(runtime != nullptr && *runtime != '\0' ? std::string(runtime) : data_dir,
             "/wayside.sock");
}

Result<std::string> ask_gateway(const std::string& data_dir) {
  for (const std::string& path :
       {control_path(data_dir), std::string("/run/wayside/wayside.sock")}) {
    const auto address = address_of(path);
    if (!address) continue;
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{kPatienceMs / 1000, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
      continue;
    }
    std::string out(1 << 16, '\0');
    std::size_t size = 0;
    for (ssize_t n = 0; (n = ::recv(fd.get(), out.data() + size, out.size() - size, 0)) > 0;) {
      size += static_cast<std::size_t>(n);
      if (size == out.size()) out.resize(out.size() * 2);
    }
    out.resize(size);
    // Of another gateway on this machine, /run/wayside tells nothing about this data_dir.
    std::string mine = "\"data_dir\":";
    append_json_string(mine, data_dir);
    if (out.find(mine) != std::string::npos) return out;
  }
  return fail(ErrorCode::unavailable, cat("no gateway runs on ", data_dir));
}

}  // namespace wayside
