#include "gateway/http/server.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <list>

#include "base/address.h"
#include "base/limits.h"
#include "base/text.h"

namespace wayside {

struct HttpServer::Impl {
  explicit Impl(Handler h) : handler(std::move(h)) {}
  ~Impl() {
    if (daemon != nullptr) MHD_stop_daemon(daemon);
  }

  // Whoever is not served when places are short goes, the one that has been here longest first: a
  // request that is sent at once is answered before. (libmicrohttpd's own limit would turn away
  // who comes, and its time limit is one of silence.) One request a connection: none stays idle.
  static void on_connection(void* self, MHD_Connection* connection, void**,
                            MHD_ConnectionNotificationCode what) noexcept {
    auto& open = static_cast<Impl*>(self)->open;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
      std::erase_if(open, [&](const Open& o) { return o.connection == connection; });
      return;
    }
    const auto waiting = std::count_if(open.begin(), open.end(), [](auto& o) { return !o.ended; });
    if (waiting >= static_cast<std::ptrdiff_t>(limits::kHttpConnectionsMax)) {
      const auto oldest =
          std::find_if(open.begin(), open.end(), [](const Open& o) { return !o.ended; });
      oldest->ended = true;
      const MHD_ConnectionInfo* info =
          MHD_get_connection_info(oldest->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
      if (info != nullptr) ::shutdown(info->connect_fd, SHUT_RDWR);  // it sees the end, and closes
    }
    open.push_back({connection, false});
  }

  static MHD_Result answer(MHD_Connection* connection, const HttpReply& reply) {
    MHD_Response* response = MHD_create_response_from_buffer(
        reply.body.size(), const_cast<char*>(reply.body.data()), MHD_RESPMEM_MUST_COPY);
    if (response == nullptr) return MHD_NO;
    MHD_add_response_header(response, "Content-Type", reply.content_type.c_str());
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "Connection", "close");
    if (reply.status == 405) MHD_add_response_header(response, "Allow", "GET, HEAD");
    const MHD_Result result = MHD_queue_response(connection, reply.status, response);
    MHD_destroy_response(response);
    return result;
  }

  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* url,
                               const char* method, const char*, const char*, std::size_t* size,
                               void** seen) noexcept {
    // First the headers, then perhaps a body, which nobody wants here.
    static constexpr int kSeen = 1;
    if (*seen == nullptr) {
      *seen = const_cast<int*>(&kSeen);
      return MHD_YES;
    }
    if (*size > 0) {
      *size = 0;
      return MHD_YES;
    }
    const std::string_view verb(method);
    if (verb != "GET" && verb != "HEAD") {
      return answer(connection, {405, "text/plain", "only GET and HEAD here\n"});
    }
    try {
      return answer(connection, static_cast<Impl*>(self)->handler(url));
    } catch (const std::exception& e) {
      return answer(connection, {500, "text/plain", cat(e.what(), "\n")});
    }
  }

  struct Open {
    MHD_Connection* connection;
    bool ended;  // it is told to go
  };
  const Handler handler;
  std::list<Open> open;  // oldest first; of the server's thread
  MHD_Daemon* daemon = nullptr;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HostPort& at, Handler handler) {
  sockaddr_in6 v6{};
  sockaddr_in v4{};
  const std::string host = at.host == "localhost" ? "127.0.0.1" : at.host;
  const bool is_v6 = ::inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1;
  if (!is_v6 && ::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) != 1) {
    return fail(ErrorCode::invalid_argument,
                cat("http.listen: '", printable(host), "' is no address"),
                "write \"127.0.0.1:9470\" or \"[::1]:9470\"");
  }
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(at.port);
  v4.sin_family = AF_INET;
  v4.sin_port = htons(at.port);
  const auto* address =
      is_v6 ? reinterpret_cast<const sockaddr*>(&v6) : reinterpret_cast<const sockaddr*>(&v4);
  auto impl = std::make_unique<Impl>(std::move(handler));
  const unsigned flags =
      // poll(2): select(2) ends at descriptor 1024, where a fleet begins.
      static_cast<unsigned>(MHD_USE_POLL_INTERNAL_THREAD) |
      (is_v6 ? static_cast<unsigned>(MHD_USE_IPv6) : 0U);
  impl->daemon = MHD_start_daemon(flags, at.port, nullptr, nullptr, &Impl::on_request, impl.get(),
                                  MHD_OPTION_SOCK_ADDR, address, MHD_OPTION_CONNECTION_LIMIT,
                                  limits::kHttpSocketsMax, MHD_OPTION_NOTIFY_CONNECTION,
                                  &Impl::on_connection, impl.get(), MHD_OPTION_CONNECTION_TIMEOUT,
                                  limits::kHttpTimeoutS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                  std::size_t{16 * 1024}, MHD_OPTION_END);
  if (impl->daemon == nullptr) {
    return fail(ErrorCode::io,
                cat("http.listen = ", at.host, ":", at.port, ": ", std::strerror(errno)),
                "is another program on that port? Choose another, or \"\" for none");
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

std::uint16_t HttpServer::port() const {
  const MHD_DaemonInfo* info = MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_BIND_PORT);
  return info == nullptr ? 0 : info->port;
}

}  // namespace wayside
