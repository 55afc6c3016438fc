#include "base/address.h"

#include "base/text.h"

namespace wayside {

Result<HostPort> parse_host_port(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const auto port =
      colon == std::string_view::npos ? std::nullopt : parse_int(text.substr(colon + 1));
  std::string_view host = text.substr(0, colon == std::string_view::npos ? 0 : colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (!port || *port < 0 || *port > 65535 || host.empty()) {
    return fail(ErrorCode::invalid_argument, cat("'", printable(text), "' is no address and port"),
                "write \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\"");
  }
  return HostPort{std::string(host), static_cast<std::uint16_t>(*port)};
}

}  // namespace wayside
