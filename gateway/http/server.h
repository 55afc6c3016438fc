// A small HTTP listener for monitoring (libmicrohttpd, which http_server.cc alone includes): GET
// only, bounded connections, a thread of its own. Thread: the handler is called on that thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/address.h"
#include "base/result.h"

namespace wayside {

struct HttpReply {
  unsigned status = 200;
  std::string content_type, body;
};

class HttpServer {
 public:
  using Handler = std::function<HttpReply(std::string_view path)>;
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> start(const HostPort& at,
                                                                 Handler handler);
  ~HttpServer();
  [[nodiscard]] std::uint16_t port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayside
