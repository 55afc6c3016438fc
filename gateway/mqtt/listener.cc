#include "gateway/mqtt/listener.h"

#include <sys/resource.h>

#include <algorithm>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <future>
#include <thread>
#include <vector>

#include "base/address.h"
#include "base/limits.h"
#include "base/text.h"
#include "gateway/mqtt/connection.h"

namespace wayside {
namespace {

using asio::ip::tcp;
using std::chrono::milliseconds;

constexpr auto kTick = milliseconds(100);
constexpr std::int64_t kStopMs = 10'000;  // for commits and acknowledgements at the end
constexpr std::int64_t kLastWordsMs = 500;
// Control, monitoring; database, bridges, subscriptions.
constexpr auto kOtherDescriptors = limits::kControlPeersMax + limits::kHttpSocketsMax + 64;

// As many descriptors as max_connections needs, if the system gives them.
Status allow_descriptors(std::int64_t connections) {
  const auto wanted = static_cast<rlim_t>(connections) + limits::kSilentConnectionsMax +
                      limits::kDrainingConnectionsMax + static_cast<rlim_t>(kOtherDescriptors);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return {};
  limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? wanted : std::min(limit.rlim_max, wanted);
  if (::setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= wanted) return {};
  return fail(ErrorCode::refused,
              cat("mqtt.max_connections = ", connections, " needs ", wanted,
                  " file descriptors; the system allows ", limit.rlim_cur),
              "raise LimitNOFILE (systemd) or ulimit -n, or lower mqtt.max_connections");
}

}  // namespace

struct MqttListener::Impl {
  Impl(const Plan& plan, const Catalog& catalog, BatchSink& sink, const Clock& clock,
       Logger& logger)
      : hub(plan.config, sink, std::make_unique<Ingest>(plan.routes, catalog, clock), clock,
            logger) {
    hub.read_buffer.resize(limits::kReadBytes);
    hub.post = [this](std::function<void()> task) { asio::post(io, std::move(task)); };
  }

  Status bind(const std::string& listen) {
    WS_ASSIGN(const HostPort at, parse_host_port(listen));
    const auto failed = [&](const asio::error_code& error) {
      return fail(ErrorCode::io, cat("mqtt.listen = ", listen, ": ", error.message()),
                  "is another broker on that port? Choose another address or port");
    };
    asio::error_code error;
    const auto address =
        asio::ip::make_address(at.host == "localhost" ? "127.0.0.1" : at.host, error);
    if (error) return failed(error);
    const tcp::endpoint endpoint(address, at.port);
    acceptor.open(endpoint.protocol(), error);
    if (error) return failed(error);
    acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    acceptor.bind(endpoint, error);
    if (error) return failed(error);
    acceptor.listen(1024, error);
    if (error) return failed(error);
    port = acceptor.local_endpoint().port();
    return {};
  }

  void accept() {
    acceptor.async_accept([this](const asio::error_code& error, tcp::socket socket) {
      if (!acceptor.is_open()) return;
      if (error) {
        hub.count("refused.accept");
        hub.logger.repeated(LogLevel::warning, "accept",
                            cat("a connection could not be accepted: ", error.message()));
        // Out of descriptors or memory: they come back with time, not by trying at once.
        retry.expires_after(kTick);
        retry.async_wait([this](const asio::error_code& e) {
          if (!e) accept();
        });
        return;
      }
      auto connection = std::make_shared<MqttConnection>(std::move(socket), hub);
      connection->start();
      hub.strangers.make_way(connection->origin());
      connections.push_back(std::move(connection));
      accept();
    });
  }

  void tick() {
    const std::int64_t now = hub.clock.steady_ms();
    heartbeat = now;
    for (std::size_t i = 0; i < connections.size(); ++i) {
      const auto connection = connections[i];
      connection->tick(now);
    }
    std::erase_if(connections, [](const auto& c) { return c->closed(); });
    connected = static_cast<std::size_t>(std::count_if(
        connections.begin(), connections.end(), [](const auto& c) { return c->connected(); }));
    if (!hub.stopping) hub.publish_due_wills();
    hub.consider_commit();
    hub.strangers.tick(now);
    strangers_bytes = hub.strangers.bytes();
    has_place = hub.strangers.has_place_for_newcomer();
    if (hub.stopping && (hub.outstanding == 0 || now >= stop_by)) {
      // All is acknowledged: a last word, a moment for the clients to take it, and the end.
      for (const auto& c : connections) c->shut_down();
      if (connections.empty() || now >= stop_by + kLastWordsMs) return finish();
      stop_by = std::min(stop_by, now);
    } else if (hub.stopping) {
      hub.sink.flush();
    }
    if (!hub.counts.empty() && now - counts_stored >= 10'000) store_counts(now);
    timer.expires_after(kTick);
    timer.async_wait([this](const asio::error_code& e) {
      if (!e) tick();
    });
  }

  void store_counts(std::int64_t now) {
    counts_stored = now;
    Batch batch;
    auto taken = hub.take_counts(batch.ops);
    if (batch.ops.empty()) return;
    batch.done = [this, taken = std::move(taken)](Batch&, const Status& status) {
      if (!status) asio::post(io, [this, taken] { hub.put_back(taken); });
    };
    hub.sink.submit(std::move(batch));
  }

  void begin_stop() {
    hub.stopping = true;
    stop_by = hub.clock.steady_ms() + kStopMs;
    asio::error_code ignored;
    acceptor.close(ignored);
    retry.cancel();
    for (const auto& c : connections) c->stop_reading();
    hub.sink.flush();
  }

  void finish() {
    for (const auto& c : connections) c->close();
    connections.clear();
    if (!hub.delayed_wills.empty()) {
      hub.count("dropped.will", static_cast<std::int64_t>(hub.delayed_wills.size()));
    }
    store_counts(hub.clock.steady_ms());
    work.reset();
  }

  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::acceptor acceptor{io};
  asio::steady_timer timer{io}, retry{io};
  MqttHub hub;
  std::vector<std::shared_ptr<MqttConnection>>& connections = hub.strangers.connections;
  std::uint16_t port = 0;
  std::int64_t stop_by = 0, counts_stored = 0;
  std::atomic<std::size_t> connected{0}, strangers_bytes{0};
  std::atomic<bool> has_place{true};
  std::atomic<std::int64_t> heartbeat{0};
  std::jthread thread;
};

MqttListener::MqttListener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<MqttListener>> MqttListener::start(const Plan& plan, const Catalog& catalog,
                                                          BatchSink& sink, const Clock& clock,
                                                          Logger& logger) {
  WS_TRY(allow_descriptors(plan.config.mqtt.max_connections));
  auto impl = std::make_unique<Impl>(plan, catalog, sink, clock, logger);
  WS_TRY(impl->bind(plan.config.mqtt.listen));
  Impl* raw = impl.get();
  impl->thread = std::jthread([raw] {
    raw->accept();
    raw->tick();
    raw->io.run();
  });
  return std::unique_ptr<MqttListener>(new MqttListener(std::move(impl)));
}

void MqttListener::stop() {
  if (!impl_->thread.joinable()) return;
  asio::post(impl_->io, [this] { impl_->begin_stop(); });
  impl_->thread.join();
}

MqttListener::~MqttListener() {
  stop();
}

Status MqttListener::check_limits(const Config& config) {
  return allow_descriptors(config.mqtt.max_connections);
}

// The I/O thread never waits for anybody, so its answer comes at once.
template <class Work>
auto MqttListener::on_io(Work work) -> decltype(work()) {
  std::packaged_task<decltype(work())()> task(std::move(work));
  auto result = task.get_future();
  asio::post(impl_->io, [&] { task(); });
  return result.get();
}

void MqttListener::reload(const Plan& plan, const Catalog& catalog) {
  on_io([&] {
    MqttHub& hub = impl_->hub;
    hub.config = plan.config;
    hub.ingest = std::make_unique<Ingest>(plan.routes, catalog, hub.clock);
    ++hub.generation;
    hub.pace.set_linger_us(plan.config.commit.linger_ms * 1000);
  });
}

std::string MqttListener::devices_json() {
  return on_io([&] {
    std::string connected, troubles;
    for (const auto& [id, weak] : impl_->hub.clients) {
      const auto connection = weak.lock();
      if (!connection) continue;
      connected += connected.empty() ? "" : ",";
      append_json_string(connected, connection->known_as());
    }
    for (const auto& [id, trouble] : impl_->hub.troubles) {
      troubles += troubles.empty() ? "" : ",";
      append_json_string(troubles, id);
      troubles += ":{\"what\":";
      append_json_string(troubles, printable(trouble.what));
      troubles += cat(",\"at_ms\":", trouble.at_ms, "}");
    }
    return cat("{\"connected\":[", connected, "],\"troubles\":{", troubles, "}}");
  });
}

std::string MqttListener::strangers_json() {
  return on_io([&] { return impl_->hub.strangers.json(); });
}

void MqttListener::know(std::vector<std::uint64_t> devices) {
  on_io([&] { impl_->hub.strangers.known.load(std::move(devices)); });
}

bool MqttListener::has_place_for_newcomer() const {
  return impl_->has_place;
}
std::size_t MqttListener::strangers_bytes() const {
  return impl_->strangers_bytes;
}
std::size_t MqttListener::strangers_bytes_most() const {
  return impl_->hub.strangers.bytes_most();
}
std::uint16_t MqttListener::port() const {
  return impl_->port;
}
std::size_t MqttListener::connections() const {
  return impl_->connected;
}
std::int64_t MqttListener::heartbeat_steady_ms() const {
  return impl_->heartbeat;
}

}  // namespace wayside
