#include <algorithm>
#include <cstdio>
#include <functional>
#include <iostream>
#include <unordered_set>

#include "base/address.h"
#include "base/text.h"
#include "devices/paho_publisher.h"
#include "gateway/cli/outcome.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/socket_client.h"

namespace wayside {
namespace {

// Of a client id that the gateway gives, the log keeps no more than this.
constexpr std::string_view kAssigned = "(assigned)";
// By so much of its beginning a payload of ours is known again; of a large one no more may be kept.
constexpr std::size_t kKnownByBytes = 256;

std::size_t mark_of(std::string_view payload) {
  return std::hash<std::string_view>()(payload.substr(0, kKnownByBytes));
}

struct Published {
  std::int64_t acknowledged = 0;
  HostPort at;
  std::optional<std::vector<QuarantineWatch::Reason>> quarantined;  // none: it is not known
};

Result<Published> publish(const PublishArgs& args) {
  Published out;
  WS_ASSIGN(out.at, find_listener(args.config, args.host, args.port));
  const auto watch = args.qos > 0 ? QuarantineWatch::begin(args.config, out.at) : std::nullopt;
  PublisherOptions options;
  options.host = out.at.host;
  options.port = out.at.port;
  options.client_id = args.client_id;
  options.v311 = args.v311;
  WS_ASSIGN(auto client, PahoPublisher::begin(options));
  WS_TRY(client->wait_connected());
  std::unordered_set<std::size_t> sent;
  const auto send = [&](const std::string& payload) {
    sent.insert(mark_of(payload));
    return client->publish(args.topic, payload, args.qos);
  };
  if (!args.lines) {
    WS_TRY(send(args.message));
  } else {
    for (std::string line; std::getline(std::cin, line);) WS_TRY(send(line));
  }
  WS_ASSIGN(out.acknowledged, client->drain());
  if (!watch) return out;
  const std::string_view id = args.client_id.empty() ? kAssigned : args.client_id;
  auto found = watch->look([&](const SetAside& r) {
    return r.client_id == id && r.mqtt_topic == args.topic && sent.contains(mark_of(r.value));
  });
  if (found) out.quarantined = std::move(*found);
  return out;
}

// A gateway that cannot write its log closes the connection: a refusal would be final to some
// clients. To us it says more.
Error explained(const Error& error, const std::string& config) {
  const auto plan = load_plan(config);
  if (!plan) return error;
  const auto live = ask_gateway(plan->config.data_dir, R"({"do":"status"})");
  if (!live || !live->flag("failing")) return error;
  return {error.code, cat(error.what, ": the gateway cannot write its log now"),
          "'wayside status' says why: is the disk full?"};
}

}  // namespace

int cmd_publish(const PublishArgs& args) {
  const auto done = publish(args);
  if (!done) return report(explained(done.error(), args.config));
  const auto n = static_cast<long long>(done->acknowledged);
  if (args.qos == 0) {
    std::printf("%lld sent (QoS 0: nobody confirms it) on %s\n", n, args.topic.c_str());
    return kExitOk;
  }
  if (!done->quarantined) {
    std::printf(
        "%lld acknowledged on %s; whether a route took it is known at %s:%d only "
        "('wayside quarantine list' there)\n",
        n, args.topic.c_str(), done->at.host.c_str(), done->at.port);
    return kExitOk;
  }
  std::int64_t aside = 0;
  for (const auto& reason : *done->quarantined) aside += reason.readings;
  if (aside < n || n == 0) {
    std::printf("%lld acknowledged: stored and synced, on %s\n",
                std::max<long long>(n - aside, 0), args.topic.c_str());
  }
  return report_quarantined(*done->quarantined);
}

}  // namespace wayside
