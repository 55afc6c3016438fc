// A publishing load on an MQTT server: CONNECTIONS clients, each with WINDOW readings of QoS 1 or 2
// under way; one thread, epoll. Prints acknowledged readings per second and the latency from a
// PUBLISH to its last acknowledgement.
//   bench_mqtt PORT CONNECTIONS WINDOW READINGS QOS [VERSION [TOPIC_PREFIX]]   VERSION: 4 or 5
//   bench_mqtt PORT subscribe         takes everything with QoS 1 until it is killed
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/text.h"
#include "devices/mqtt/wire.h"

namespace {

using namespace wayside::mqtt;
using wayside::cat;
using Clock = std::chrono::steady_clock;

struct Client {
  int fd = -1;
  std::string out, in;
  std::int64_t sent = 0, done = 0;
  std::vector<Clock::time_point> began;  // by packet id
};

constexpr int kIds = 60000;

std::string packet(unsigned first, const std::string& body) {
  std::string p;
  put_u8(p, first);
  put_variable(p, body.size());
  return p + body;
}

void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

int connect_to(std::uint16_t port, unsigned version, const std::string& name) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fail("connect");
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  std::string body;
  put_prefixed(body, "MQTT");
  put_u8(body, version);
  put_u8(body, 2);
  put_u16(body, 0);
  if (version == 5) put_u8(body, 0);  // no properties
  put_prefixed(body, name);
  const std::string connect = packet(0x10, body);
  if (::write(fd, connect.data(), connect.size()) < 0) fail("write");
  unsigned char connack[2];
  if (::recv(fd, connack, 2, MSG_WAITALL) != 2 || connack[1] > 127) fail("connack");
  std::string rest(connack[1], '\0');
  if (::recv(fd, rest.data(), rest.size(), MSG_WAITALL) != connack[1] || rest[1] != 0) {
    fail("connack");
  }
  return fd;
}

int subscribe(std::uint16_t port) {
  const int fd = connect_to(port, 4, "bench-subscriber");
  std::string body;
  put_u16(body, 1);
  put_prefixed(body, "#");
  put_u8(body, 1);
  const std::string request = packet(0x82, body);
  if (::write(fd, request.data(), request.size()) < 0) fail("write");
  char suback[5];
  if (::recv(fd, suback, 5, MSG_WAITALL) != 5 || suback[4] != 1) fail("suback");
  std::puts("subscribed");
  std::fflush(stdout);
  std::string in, out;
  std::vector<char> buffer(1 << 18);
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got <= 0) return 0;
    in.append(buffer.data(), static_cast<std::size_t>(got));
    std::size_t at = 0;
    for (;;) {  // all packets here have a length of one or two bytes
      if (in.size() - at < 4) break;
      const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(in[at + i]); };
      const bool two = byte(1) > 127;
      const std::size_t header = two ? 3 : 2;
      const std::size_t size = two ? (byte(1) & 127U) + byte(2) * 128U : byte(1);
      if (in.size() - at < header + size) break;
      if (byte(0) >> 4 == 3 && (byte(0) >> 1 & 3U) == 1) {
        const std::size_t name = std::size_t{byte(header)} << 8 | byte(header + 1);
        out.append({0x40, 2, in[at + header + 2 + name], in[at + header + 3 + name]});
      }
      at += header + size;
    }
    in.erase(0, at);
    if (!out.empty() && ::write(fd, out.data(), out.size()) < 0) return 0;
    out.clear();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto port = static_cast<std::uint16_t>(std::atoi(argv[1]));
  if (std::string(argv[2]) == "subscribe") return subscribe(port);
  if (argc < 6) return 2;
  const unsigned version = argc > 6 && std::string(argv[6]) == "5" ? 5 : 4;
  const int connections = std::atoi(argv[2]), window = std::atoi(argv[3]), qos = std::atoi(argv[5]);
  const std::int64_t each = std::atoll(argv[4]) / connections;
  const std::string prefix = argc > 7 ? argv[7] : "fleet/bench-";
  const int epoll = ::epoll_create1(0);
  std::vector<Client> clients(static_cast<std::size_t>(connections));
  for (std::size_t i = 0; i < clients.size(); ++i) {
    Client& c = clients[i];
    c.fd = connect_to(port, version, cat("bench-", ::getpid(), "-", i));
    ::fcntl(c.fd, F_SETFL, O_NONBLOCK);
    c.began.resize(kIds + 1);
    epoll_event event{EPOLLIN, {}};
    event.data.u64 = i;
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, c.fd, &event);
  }
  const auto send_more = [&](std::size_t i) {
    Client& c = clients[i];
    while (c.sent < each && c.sent - c.done < window) {
      const auto id = static_cast<unsigned>(c.sent % kIds + 1);
      char value[160];
      std::snprintf(value, sizeof value,
                    "{\"ts\":%lld,\"lat\":49.451234,\"lon\":11.081234,\"speed\":61.5,"
                    "\"heading\":182,\"fuel\":55.2,\"engine\":\"on\"}",
                    1795000000000LL + static_cast<long long>(c.sent));
      std::string body;
      put_prefixed(body, prefix + std::to_string(i) + "/gps");
      put_u16(body, id);
      if (version == 5) put_u8(body, 0);
      c.began[id] = Clock::now();
      c.out += packet(0x30U | static_cast<unsigned>(qos) << 1, body + value);
      ++c.sent;
    }
    while (!c.out.empty()) {
      const ssize_t n = ::write(c.fd, c.out.data(), c.out.size());
      if (n <= 0) break;
      c.out.erase(0, static_cast<std::size_t>(n));
    }
    epoll_event event{EPOLLIN | (c.out.empty() ? 0U : static_cast<unsigned>(EPOLLOUT)), {}};
    event.data.u64 = i;
    ::epoll_ctl(epoll, EPOLL_CTL_MOD, c.fd, &event);
  };
  std::vector<std::int64_t> latency_us;
  latency_us.reserve(static_cast<std::size_t>(each * connections));
  const auto start = Clock::now();
  for (std::size_t i = 0; i < clients.size(); ++i) send_more(i);
  std::vector<epoll_event> events(256);
  std::vector<char> buffer(65536);
  while (latency_us.size() < static_cast<std::size_t>(each * connections)) {
    const int n = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), 30'000);
    if (n <= 0) fail("nothing came for 30 s");
    for (int k = 0; k < n; ++k) {
      const auto i = static_cast<std::size_t>(events[static_cast<std::size_t>(k)].data.u64);
      Client& c = clients[i];
      const ssize_t got = ::read(c.fd, buffer.data(), buffer.size());
      if (got == 0) fail("closed");
      if (got > 0) c.in.append(buffer.data(), static_cast<std::size_t>(got));
      std::size_t at = 0;
      const auto now = Clock::now();
      // PUBACK, PUBREC and PUBCOMP: four bytes, with MQTT 5 perhaps a reason and properties.
      for (std::size_t size = 0; c.in.size() - at >= 4; at += size) {
        size = 2U + static_cast<unsigned char>(c.in[at + 1]);
        if (c.in.size() - at < size) break;
        if (size > 4 && static_cast<unsigned char>(c.in[at + 4]) >= 0x80) fail("refused");
        const auto type = static_cast<unsigned char>(c.in[at]) >> 4;
        const unsigned id = static_cast<unsigned>(static_cast<unsigned char>(c.in[at + 2])) << 8 |
                            static_cast<unsigned char>(c.in[at + 3]);
        if (type == 5) {
          std::string body;
          put_u16(body, id);
          c.out += packet(0x62, body);
          continue;
        }
        ++c.done;
        latency_us.push_back(
            std::chrono::duration_cast<std::chrono::microseconds>(now - c.began[id]).count());
      }
      c.in.erase(0, at);
      send_more(i);
    }
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::sort(latency_us.begin(), latency_us.end());
  const auto at = [&](double q) {
    const auto place = static_cast<std::size_t>(q * static_cast<double>(latency_us.size() - 1));
    return static_cast<double>(latency_us[place]) / 1000;
  };
  std::printf("{\"acked_s\":%.0f,\"p50_ms\":%.2f,\"p99_ms\":%.2f}\n",
              static_cast<double>(latency_us.size()) / seconds, at(0.5), at(0.99));
  return 0;
}
