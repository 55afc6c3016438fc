#include <chrono>
#include <cstdio>
#include <random>
#include <thread>

#include "base/address.h"
#include "base/clock.h"
#include "base/text.h"
#include "devices/fleet.h"
#include "devices/paho_publisher.h"
#include "gateway/cli/outcome.h"
#include "gateway/cli/verbs.h"

namespace wayside {
namespace {

using std::chrono::steady_clock;

std::string topic_of(const std::string& pattern, const std::string& truck) {
  std::string out = pattern;
  const std::size_t at = out.find("{truck}");
  return at == std::string::npos ? out : out.replace(at, 7, truck);
}

// Returns why readings of it are in quarantine; nothing when all were taken, or nobody can tell.
Result<std::vector<QuarantineWatch::Reason>> simulate(const SimulateArgs& args,
                                                      std::uint32_t seed) {
  WS_ASSIGN(const HostPort at, find_listener(args.config, args.host, args.port));
  const auto watch = QuarantineWatch::begin(args.config, at);
  const std::string prefix = cat("simulated-", seed, "-");
  std::vector<std::unique_ptr<PahoPublisher>> clients;
  for (int i = 0; i < args.connections; ++i) {
    PublisherOptions options;
    options.host = at.host;
    options.port = at.port;
    options.client_id = cat(prefix, i);
    WS_ASSIGN(auto client, PahoPublisher::begin(options));
    clients.push_back(std::move(client));
  }
  for (const auto& client : clients) WS_TRY(client->wait_connected());
  Fleet fleet(args.trucks, seed);
  const SystemClock clock;
  const auto start = steady_clock::now();
  const double period_s = args.rate > 0 ? 1.0 / args.rate : 0;
  for (std::int64_t round = 0; round < args.count; ++round) {
    for (std::size_t t = 0; t < fleet.size(); ++t) {
      // Trucks are not in step: each has its own moment in the period.
      const double due = period_s * (static_cast<double>(round) +
                                     static_cast<double>(t) / static_cast<double>(fleet.size()));
      if (period_s > 0) {
        std::this_thread::sleep_until(start + std::chrono::duration_cast<steady_clock::duration>(
                                                  std::chrono::duration<double>(due)));
      }
      const std::string reading = fleet.drive(t, period_s > 0 ? period_s : 1, clock.wall_ms());
      WS_TRY(clients[t % clients.size()]->publish(topic_of(args.topic, fleet.name(t)), reading,
                                                  args.qos));
    }
  }
  std::int64_t acknowledged = 0;
  for (const auto& client : clients) {
    WS_ASSIGN(const std::int64_t n, client->drain());
    acknowledged += n;
  }
  const double seconds = std::chrono::duration<double>(steady_clock::now() - start).count();
  std::printf("%d trucks, %lld readings %s in %.1f s (QoS %d, seed %u)\n", args.trucks,
              static_cast<long long>(acknowledged), args.qos == 0 ? "sent" : "acknowledged",
              seconds, args.qos, seed);
  if (!watch) return std::vector<QuarantineWatch::Reason>{};
  return watch->look([&](const SetAside& r) { return r.client_id.starts_with(prefix); });
}

}  // namespace

int cmd_simulate(const SimulateArgs& args) {
  const std::uint32_t seed =
      args.seed >= 0 ? static_cast<std::uint32_t>(args.seed) : std::random_device{}();
  const auto quarantined = simulate(args, seed);
  if (!quarantined) return report(quarantined.error());
  return report_quarantined(*quarantined);
}

}  // namespace wayside
