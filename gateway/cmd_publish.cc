#include <cstdio>
#include <iostream>

#include "base/text.h"
#include "devices/paho_publisher.h"
#include "gateway/verbs.h"

namespace wayside {
namespace {

Result<std::int64_t> publish(const PublishArgs& args) {
  WS_ASSIGN(const HostPort at, find_listener(args.config, args.host, args.port));
  PublisherOptions options;
  options.host = at.host;
  options.port = at.port;
  options.client_id = args.client_id;
  options.v311 = args.v311;
  WS_ASSIGN(auto client, PahoPublisher::begin(options));
  WS_TRY(client->wait_connected());
  if (!args.lines) {
    WS_TRY(client->publish(args.topic, args.message, args.qos));
    return client->drain();
  }
  for (std::string line; std::getline(std::cin, line);) {
    WS_TRY(client->publish(args.topic, line, args.qos));
  }
  return client->drain();
}

}  // namespace

int cmd_publish(const PublishArgs& args) {
  const auto n = publish(args);
  if (!n) return report(n.error());
  std::printf(
      "%lld %s on %s\n", static_cast<long long>(*n),
      args.qos == 0 ? "sent (QoS 0: nobody confirms it)" : "acknowledged: stored and synced,",
      args.topic.c_str());
  return kExitOk;
}

}  // namespace wayside
