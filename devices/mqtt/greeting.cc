#include "devices/mqtt/greeting.h"

#include <string_view>

#include "base/text.h"

namespace wayside::mqtt {
namespace {

using std::string_view_literals::operator""sv;

enum class Answer { none, tls, http };
struct Known {
  std::string_view begins;
  std::string_view name;
  std::string_view advice;
  Answer answer;
};

constexpr std::string_view kTls =
    "this port speaks plain MQTT: set the client to mqtt:// without TLS, or put a proxy that ends "
    "TLS before the gateway";
constexpr std::string_view kHttp =
    "this port speaks MQTT: is a browser, a health check or MQTT over WebSocket set to it? Health "
    "and metrics are at http.listen; MQTT goes over plain TCP";
constexpr std::string_view kProxy =
    "switch the PROXY protocol off at the load balancer (send-proxy, proxy_protocol)";

constexpr Known kKnown[] = {
    {"\x16\x03"sv, "TLS", kTls, Answer::tls},
    {"GET "sv, "HTTP", kHttp, Answer::http},
    {"POST "sv, "HTTP", kHttp, Answer::http},
    {"PUT "sv, "HTTP", kHttp, Answer::http},
    {"HEAD "sv, "HTTP", kHttp, Answer::http},
    {"DELETE "sv, "HTTP", kHttp, Answer::http},
    {"OPTIONS "sv, "HTTP", kHttp, Answer::http},
    {"PATCH "sv, "HTTP", kHttp, Answer::http},
    {"TRACE "sv, "HTTP", kHttp, Answer::http},
    {"CONNECT "sv, "HTTP", kHttp, Answer::http},
    {"PRI * HTTP/2"sv, "HTTP/2", kHttp, Answer::http},
    {"SSH-"sv, "SSH", "this port speaks MQTT; SSH is usually on port 22", Answer::none},
    {"PROXY "sv, "the PROXY protocol", kProxy, Answer::none},
    {"\r\n\r\n\0\r\nQUIT\n"sv, "the PROXY protocol", kProxy, Answer::none},
    {"AMQP"sv, "AMQP", "this port speaks MQTT; Wayside knows no AMQP", Answer::none},
    {"EHLO "sv, "SMTP", "this port speaks MQTT; mail is usually on port 25", Answer::none},
    {"HELO "sv, "SMTP", "this port speaks MQTT; mail is usually on port 25", Answer::none},
};

std::string answer_of(const Known& known) {
  switch (known.answer) {
    case Answer::tls:  // a fatal alert: handshake failure; so the client fails at once, and says so
      return std::string("\x15\x03\x01\x00\x02\x02\x28"sv);
    case Answer::http: {
      const std::string body = cat("This is Wayside's port for MQTT, not for HTTP: ", known.advice,
                                   ".\n");
      return cat("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: ",
                 body.size(), "\r\nConnection: close\r\n\r\n", body);
    }
    case Answer::none:
      break;
  }
  return {};
}

}  // namespace

Greeting recognise(std::span<const std::uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Greeting::Kind kind = Greeting::Kind::unknown;
  for (const Known& known : kKnown) {
    if (text.starts_with(known.begins)) {
      return {Greeting::Kind::known, cat("this looks like ", known.name, "; ", known.advice),
              answer_of(known)};
    }
    if (known.begins.starts_with(text)) kind = Greeting::Kind::undecided;
  }
  return {kind, {}, {}};
}

}  // namespace wayside::mqtt
