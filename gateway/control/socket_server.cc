#include "gateway/control/socket_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/control/answer.h"

namespace wayside {
namespace {

constexpr int kLinesAtATime = 16;
constexpr std::int64_t kIdleMs = 5000;

std::int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::listen(const std::string& path,
                                                             Handler handler) {
  WS_ASSIGN(const sockaddr_un address, socket_address(path));
  std::unique_ptr<ControlServer> s(new ControlServer(path, std::move(handler)));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  s->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ::unlink(path.c_str());  // of a gateway that was killed: the lock says that none runs
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(path.c_str(), 0660) != 0 || ::listen(fd.get(), 16) != 0 || !s->wake_.valid()) {
    return tl::unexpected<Error>(errno_error(cat("the control socket ", path), errno));
  }
  s->fd_ = std::move(fd);
  return s;
}

ControlServer::~ControlServer() {
  if (fd_.valid()) ::unlink(path_.c_str());
}

void ControlServer::serve(int ms) {
  std::vector<pollfd> waiting{{fd_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  std::vector<PeerId> ids;
  take_answers();
  for (auto& [id, peer] : peers_) {
    const bool has_request = has_line(peer);
    if (peer.out.empty() && has_request) ms = 0;
    // Who does not take its answers is not asked for more, nor is who has asked enough.
    const int events = !peer.out.empty() ? POLLOUT : has_request ? 0 : POLLIN;
    waiting.push_back({peer.fd.get(), static_cast<short>(events), 0});
    ids.push_back(id);
  }
  if (::poll(waiting.data(), waiting.size(), ms) > 0) {
    std::uint64_t ignored = 0;
    if (waiting[1].revents != 0 && ::read(wake_.get(), &ignored, sizeof ignored) < 0) return;
    take_answers();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto it = peers_.find(ids[i]);
      if (it == peers_.end() || waiting[i + 2].revents == 0) continue;
      const bool reads = it->second.out.empty();
      const bool gone = !write(it->second) || (reads && !read(it->second));
      if (gone && has_line(it->second)) handle_lines(ids[i]);
      if (gone) drop(ids[i]);
    }
    keep_within_bounds();
    if (waiting[0].revents != 0) accept();
    take_answers();
  }
  for (const PeerId id : ids) handle_lines(id);
  for (const PeerId id : ids) {
    const auto it = peers_.find(id);
    if (it == peers_.end() || it->second.out.empty()) continue;
    const std::int64_t since = it->second.stalled_since_ms;
    if (since != 0 && now_ms() - since > limits::kControlStallMs) drop(id);
  }
}

void ControlServer::accept() {
  UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  make_room();
  if (peers_.size() >= limits::kControlPeersMax) {
    const std::string full =
        error_json({ErrorCode::refused,
                    cat(limits::kControlPeersMax, " programs ask this gateway already"),
                    "end some of them ('wayside groups list' shows who reads)"}) +
        "\n";
    [[maybe_unused]] const ssize_t n =
        ::send(fd.get(), full.data(), full.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return;
  }
  Peer& peer = peers_[next_++];
  peer.fd = std::move(fd);
  peer.asked_ms = now_ms();
}

// False: the peer is gone, or not to be borne.
bool ControlServer::read(Peer& peer) {
  buffer_.resize(limits::kControlSmallBytes);
  const ssize_t n = ::recv(peer.fd.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  peer.in.append(buffer_, 0, static_cast<std::size_t>(n));
  peer.asked_ms = now_ms();
  return true;
}

// What was looked through is not looked through again.
bool ControlServer::has_line(Peer& peer) {
  const std::size_t end = peer.in.find('\n', peer.scanned);
  peer.scanned = end == std::string::npos ? peer.in.size() : end;
  return end != std::string::npos;
}

// Says why, if the peer still listens, and ends it.
void ControlServer::refuse(PeerId id, const std::string& what) {
  const std::string text = error_json({ErrorCode::refused, what, "ask for less at a time"}) + "\n";
  [[maybe_unused]] const ssize_t n =
      ::send(peers_.at(id).fd.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  drop(id);
}

void ControlServer::keep_within_bounds() {
  for (;;) {
    std::size_t requests = 0, answers = 0, most_in = 0, most_out = 0;
    PeerId asks_most = 0, leaves_most = 0;
    for (auto& [id, peer] : peers_) {
      const std::size_t in = has_line(peer) ? 0 : peer.in.size();  // else it is handled next
      requests += peer.in.size();
      answers += peer.out.size();
      if (in > most_in) most_in = in, asks_most = id;
      if (peer.out.size() > most_out) most_out = peer.out.size(), leaves_most = id;
    }
    if (most_in > limits::kControlLineBytesMax) {
      refuse(asks_most, cat("a request of more than ", limits::kControlLineBytesMax, " bytes"));
    } else if (requests > limits::kControlRequestBytesMax && most_in > limits::kControlSmallBytes) {
      refuse(asks_most, cat("the requests of all programs have more than ",
                            limits::kControlRequestBytesMax, " bytes"));
    } else if (answers > limits::kControlAnswerBytesMax && most_out < answers) {
      drop(leaves_most);  // one large answer alone is nobody's harm
    } else {
      return;
    }
  }
}

// A few at a time, and none before the answers to the last ones are taken.
void ControlServer::handle_lines(PeerId id) {
  for (int lines = 0; lines < kLinesAtATime; ++lines) {
    const auto it = peers_.find(id);
    if (it == peers_.end() || !it->second.out.empty()) return;
    if (!has_line(it->second)) return;
    std::string& in = it->second.in;
    const std::string line = in.substr(0, it->second.scanned);
    in.erase(0, line.size() + 1);
    it->second.scanned = 0;
    if (in.empty() && in.capacity() > limits::kControlSmallBytes) in.shrink_to_fit();
    handler_.request(id, line);
    take_answers();
  }
}

void ControlServer::keep(PeerId peer) {
  const auto it = peers_.find(peer);
  if (it != peers_.end()) it->second.kept = true;
}

// Whoever has asked nothing for longest, and is not kept, goes.
void ControlServer::make_room() {
  if (peers_.size() < limits::kControlPeersMax) return;
  auto oldest = peers_.end();
  for (auto it = peers_.begin(); it != peers_.end(); ++it) {
    if (it->second.kept) continue;
    if (oldest == peers_.end() || it->second.asked_ms < oldest->second.asked_ms) oldest = it;
  }
  if (oldest != peers_.end() && now_ms() - oldest->second.asked_ms > kIdleMs) drop(oldest->first);
}

bool ControlServer::write(Peer& peer) {
  while (!peer.out.empty()) {
    const ssize_t n =
        ::send(peer.fd.get(), peer.out.data(), peer.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (peer.stalled_since_ms == 0) peer.stalled_since_ms = now_ms();
      return true;
    }
    if (n <= 0) return false;
    peer.out.erase(0, static_cast<std::size_t>(n));
    peer.stalled_since_ms = 0;
  }
  return true;
}

void ControlServer::take_answers() {
  std::vector<std::pair<PeerId, std::string>> answers;
  {
    const MutexLock lock(mutex_);
    answers.swap(answers_);
  }
  for (auto& [id, line] : answers) {
    const auto it = peers_.find(id);
    if (it == peers_.end()) continue;
    it->second.out += line + "\n";
    if (!write(it->second)) drop(id);
  }
}

void ControlServer::drop(PeerId id) {
  peers_.erase(id);
  handler_.gone(id);
}

void ControlServer::answer(PeerId peer, std::string line) {
  {
    const MutexLock lock(mutex_);
    answers_.emplace_back(peer, std::move(line));
  }
  wake();
}

void ControlServer::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof one);
}

}  // namespace wayside
