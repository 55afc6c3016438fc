#include "devices/paho_publisher.h"

#include <mqtt/async_client.h>

#include <chrono>
#include <deque>

#include "base/text.h"

namespace wayside {

struct PahoPublisher::Impl {
  explicit Impl(const PublisherOptions& o)
      : options(o),
        client(cat("tcp://", o.host.find(':') != std::string::npos ? cat("[", o.host, "]") : o.host,
                   ":", o.port),
               o.client_id,
               mqtt::create_options(o.v311 ? MQTTVERSION_3_1_1 : MQTTVERSION_5, o.in_flight_most)) {
  }

  [[nodiscard]] auto timeout() const { return std::chrono::milliseconds(options.timeout_ms); }
  // Reason codes of MQTT 5 (section 2.4) and return codes of 3.1.1 for which Paho has no words.
  [[nodiscard]] static tl::unexpected<Error> failed(std::string_view doing,
                                                    const std::exception& e) {
    const auto* paho = dynamic_cast<const mqtt::exception*>(&e);
    const int code = paho == nullptr ? 0 : paho->get_return_code();
    if (code == 136 || code == 3) {
      return fail(ErrorCode::unavailable, cat(doing, ": the gateway cannot write its log now"),
                  "'wayside status' says why: is the disk full?");
    }
    if (code == 137) {
      return fail(ErrorCode::unavailable, cat(doing, ": the gateway is busy"),
                  "mqtt.max_connections may be reached; try again");
    }
    return failed(doing, std::string(e.what()));
  }
  [[nodiscard]] static tl::unexpected<Error> failed(std::string_view doing,
                                                    const std::string& why) {
    return fail(ErrorCode::unavailable, cat(doing, ": ", why),
                "is the gateway running, and is this its address? One that is full, or cannot "
                "write its log, ends the connection: see 'wayside status'");
  }

  Status wait_oldest() {
    const auto token = waiting.front();
    waiting.pop_front();
    if (!token->wait_for(timeout())) {
      return failed("publishing", cat("no acknowledgement within ", options.timeout_ms, " ms"));
    }
    ++acknowledged;
    return {};
  }

  PublisherOptions options;
  mqtt::async_client client;
  mqtt::token_ptr connecting;
  std::deque<mqtt::delivery_token_ptr> waiting;
  std::int64_t acknowledged = 0;
};

PahoPublisher::PahoPublisher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PahoPublisher::~PahoPublisher() {
  try {
    if (impl_->client.is_connected()) impl_->client.disconnect()->wait_for(impl_->timeout());
  } catch (const std::exception&) {  // it is going anyway
  }
}

Result<std::unique_ptr<PahoPublisher>> PahoPublisher::begin(const PublisherOptions& o) {
  try {
    auto impl = std::make_unique<Impl>(o);
    mqtt::connect_options options;
    if (o.v311) {
      options.set_mqtt_version(MQTTVERSION_3_1_1);
      options.set_clean_session(true);
    } else {
      options.set_mqtt_version(MQTTVERSION_5);
      options.set_clean_start(true);
    }
    options.set_max_inflight(o.in_flight_most);
    options.set_keep_alive_interval(30);
    options.set_connect_timeout(std::chrono::seconds((o.timeout_ms + 999) / 1000));
    impl->connecting = impl->client.connect(options);
    return std::unique_ptr<PahoPublisher>(new PahoPublisher(std::move(impl)));
  } catch (const std::exception& e) {
    return Impl::failed(cat("connecting to ", o.host, ":", o.port), e);
  }
}

Status PahoPublisher::wait_connected() {
  const std::string doing = cat("connecting to ", impl_->options.host, ":", impl_->options.port);
  try {
    if (impl_->connecting->wait_for(impl_->timeout())) return {};
    return Impl::failed(doing, "no answer");
  } catch (const std::exception& e) {
    return Impl::failed(doing, e);
  }
}

Status PahoPublisher::publish(const std::string& topic, const std::string& payload, int qos) {
  try {
    while (impl_->waiting.size() >= static_cast<std::size_t>(impl_->options.in_flight_most)) {
      WS_TRY(impl_->wait_oldest());
    }
    impl_->waiting.push_back(
        impl_->client.publish(topic, payload.data(), payload.size(), qos, false));
    return {};
  } catch (const std::exception& e) {
    return Impl::failed("publishing", e);
  }
}

Result<std::int64_t> PahoPublisher::drain() {
  try {
    while (!impl_->waiting.empty()) WS_TRY(impl_->wait_oldest());
    return impl_->acknowledged;
  } catch (const std::exception& e) {
    return Impl::failed("publishing", e);
  }
}

}  // namespace wayside
