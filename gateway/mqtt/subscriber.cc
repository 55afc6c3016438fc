#include "gateway/mqtt/subscriber.h"

#include <mqtt/async_client.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <random>
#include <thread>
#include <utility>

#include "base/checksum.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/text.h"

namespace wayside {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kConnectWithin = seconds(15);
constexpr auto kAnswerWithin = seconds(10);
constexpr std::int64_t kFirstPauseMs = 500, kLongestPauseMs = 30'000;
constexpr auto kCommitPause = milliseconds(500);
constexpr auto kHeldLook = milliseconds(100);
constexpr auto kCountEvery = seconds(10);
// What versions before 0.4 noted of a session, instead of its filter.
constexpr std::string_view kFilterUnknown = "1";

}  // namespace

struct Subscriber::Impl final : public mqtt::callback {
  Impl(const SubscribeConfig& c, std::string to, std::unique_ptr<Ingest> i,
       std::optional<std::string> k, std::shared_ptr<Held> h, BatchSink& l, const Clock& the_clock,
       Logger& the_logger)
      : config(c),
        broker(std::move(to)),
        held(std::move(h)),
        log(l),
        clock(the_clock),
        logger(the_logger),
        ingest(std::move(i)),
        known(std::move(k)) {}

  // --- on the subscription's own thread

  void run(std::stop_token stop) {
    run_until_stopped(stop);
    const MutexLock lock(mutex);
    finished = true;
    wake.notify_all();
  }

  void run_until_stopped(std::stop_token stop) {
    std::minstd_rand random(std::random_device{}());
    int failures = 0;
    while (!stop.stop_requested()) {
      const std::int64_t before = status_copy().received;
      const std::string why = session(stop);
      if (stop.stop_requested()) return;
      failures = status_copy().received > before ? 0 : failures + 1;
      set_state(why, false);
      logger.repeated(LogLevel::warning, cat("subscribe.", config.client_id),
                      cat("subscription ", printable(config.client_id), " to ", broker, ": ", why,
                          "; trying again for ever"));
      const std::int64_t most = std::min(kLongestPauseMs, kFirstPauseMs << std::min(failures, 10));
      const std::int64_t ms = std::uniform_int_distribution<std::int64_t>(most / 2, most)(random);
      MutexLock lock(mutex);
      wake.wait_for(mutex, stop, milliseconds(ms), [] { return false; });
    }
  }

  // One connection, from its beginning to its end. Returns why it ended. A client of its own each
  // time: Paho's reconnects have several open ways to hang.
  std::string session(std::stop_token stop) {
    try {
      {
        const MutexLock lock(mutex);
        lost.reset();
      }
      auto client = std::make_unique<mqtt::async_client>(broker, config.client_id,
                                                         mqtt::create_options(MQTTVERSION_3_1_1));
      client->set_callback(*this);
      const std::string why = stay_connected(*client, stop);
      // While a callback runs, every call of Paho waits for it.
      wait_until_idle();
      if (held->yes) {
        abandoned = std::move(client);
        return why;
      }
      if (client->is_connected()) client->disconnect()->wait_for(kAnswerWithin);
      if (held->yes) abandoned = std::move(client);
      return why;
    } catch (const mqtt::exception& e) {
      return reason(e);
    } catch (const std::exception& e) {
      return e.what();
    }
  }

  // MQTT 3.1.1, section 3.2.2.3; Paho has no words for these.
  static std::string reason(const mqtt::exception& e) {
    switch (e.get_return_code()) {
      case 2:
        return "the broker refuses this client_id";
      case 3:
        return "the broker says that it is not available";
      case 4:
      case 5:
        return "not authorised at the broker: check user and password_file, and its access rules";
      default:
        return e.what();
    }
  }

  std::string stay_connected(mqtt::async_client& client, std::stop_token stop) {
    const auto connecting = client.connect(options());
    if (!answered(*connecting, kConnectWithin, stop)) return "no answer";
    const bool present = connecting->get_connect_response().is_session_present();
    if (!present && known) {
      {
        const MutexLock lock(mutex);
        ++status.sessions_lost;
      }
      count("subscribe.session_lost");
      logger.warning(cat("subscription ", printable(config.client_id), ": ", broker,
                         " had forgotten our session: what was published meanwhile may be lost; "
                         "is persistence on there?"));
    }
    if (present && known && *known != config.filter && *known != kFilterUnknown) {
      const auto ending = client.unsubscribe(*known);
      if (!answered(*ending, kAnswerWithin, stop)) return "the broker did not answer";
    }
    // Also when the session is there: a broker that was killed may have saved it from before this
    // subscription. What it sends again for that is known (CheckReplay).
    const auto subscribing = client.subscribe(config.filter, static_cast<int>(config.qos));
    if (!answered(*subscribing, kAnswerWithin, stop)) {
      return "the broker did not answer the subscription";
    }
    const mqtt::subscribe_response response = subscribing->get_subscribe_response();
    for (const auto code : response.get_reason_codes()) {
      if (static_cast<int>(code) >= 0x80) {
        return cat("the broker refuses the filter ", printable(config.filter),
                   ": check its access rules");
      }
    }
    if (known != config.filter) remember();
    known = config.filter;
    set_state("connected", true);
    logger.info(cat("subscription ", printable(config.client_id), ": connected to ", broker,
                    present ? ", its session was kept" : ", a new session"));
    for (;;) {
      {
        MutexLock lock(mutex);
        wake.wait_for(mutex, stop, kCountEvery,
                      [&]() REQUIRES_LOCK(mutex) { return lost.has_value(); });
      }
      count_known();
      const MutexLock lock(mutex);
      if (lost || stop.stop_requested()) return lost.value_or("stopped");
    }
  }

  // A known replay changes nothing, so its count waits for company, too.
  void count_known() {
    std::int64_t n = 0;
    {
      const MutexLock lock(mutex);
      n = std::exchange(uncounted_known, 0);
    }
    if (n > 0) count("retained.known", n);
  }

  // In slices, so that a stop does not wait for a broker that is away.
  static bool answered(mqtt::token& token, seconds within, std::stop_token stop) {
    const auto until = std::chrono::steady_clock::now() + within;
    while (!stop.stop_requested() && std::chrono::steady_clock::now() < until) {
      if (token.wait_for(milliseconds(100))) return true;
    }
    return false;
  }

  mqtt::connect_options options() {
    mqtt::connect_options o;
    o.set_mqtt_version(MQTTVERSION_3_1_1);
    o.set_clean_session(false);
    o.set_keep_alive_interval(30);
    o.set_connect_timeout(std::chrono::duration_cast<seconds>(kConnectWithin));
    if (!config.user.empty()) o.set_user_name(config.user);
    if (!config.password_file.empty()) o.set_password(secret(config.password_file));
    if (broker.starts_with("ssl://")) {
      mqtt::ssl_options tls;
      tls.set_trust_store(config.ca_file.empty() ? "/etc/ssl/certs/ca-certificates.crt"
                                                 : config.ca_file);
      if (!config.cert_file.empty()) {
        tls.set_key_store(config.cert_file);
        tls.set_private_key(config.key_file);
      }
      tls.set_enable_server_cert_auth(true);
      tls.set_verify(true);
      o.set_ssl(tls);
    }
    return o;
  }

  static std::string secret(const std::string& path) {
    auto text = read_file(path);
    if (!text) throw std::runtime_error(text.error().text());
    text->erase(text->find_last_not_of("\r\n") + 1);
    if (text->empty()) throw std::runtime_error(path + " is empty");
    return *text;
  }

  void remember() {
    Batch batch;
    batch.ops.emplace_back(SetFact{fact(config), config.filter});
    log.submit(std::move(batch));
  }
  void count(const std::string& name, std::int64_t n = 1) {
    Batch batch;
    batch.ops.emplace_back(Count{name, n});
    log.submit(std::move(batch));
  }

  // --- on Paho's thread. What is thrown here ends the program, and then the broker sends the
  // reading again; a callback that returns is an acknowledgement.

  void connection_lost(const std::string& cause) override {
    const MutexLock lock(mutex);
    lost = cause.empty() ? "the connection was lost" : cause;
    wake.notify_all();
  }

  void message_arrived(mqtt::const_message_ptr message) noexcept override {
    {
      const MutexLock lock(mutex);
      in_callback = true;
    }
    while (!commit(*message)) {
      MutexLock lock(mutex);
      wake.wait_for(mutex, kCommitPause);
      if (!stopping) continue;
      // Not stored, so never acknowledged: the broker sends it again, to the next run.
      held->yes = true;
      wake.notify_all();
      for (;;) wake.wait(mutex);
    }
    const MutexLock lock(mutex);
    ++status.received;
    in_callback = false;
    wake.notify_all();
  }

  bool commit(const mqtt::message& message) {
    Batch batch;
    batch.flush_now = true;  // nothing else comes until this one is done
    {
      const MutexLock lock(mutex);
      const auto resolved = ingest->resolve(message.get_topic(), config.client_id);
      const std::string& payload = message.get_payload_str();
      batch.ops.emplace_back(
          CheckReplay{resolved.source, crc32c(0, payload), message.is_retained(), false});
      const auto made = ingest->make(resolved, payload, message.is_retained(), batch.ops);
      for (Count& c : made.counts()) batch.ops.emplace_back(std::move(c));
      if (!made.time_fault.empty()) {
        logger.repeated(LogLevel::warning, cat("time.", config.client_id),
                        cat("subscription ", printable(config.client_id), ", ",
                            printable(message.get_topic()), ": its time is not taken: ",
                            made.time_fault));
      }
    }
    auto promise = std::make_shared<std::promise<Status>>();
    bool known_replay = false;
    batch.done = [promise, &known_replay](Batch& b, const Status& s) {
      known_replay = std::get<CheckReplay>(b.ops.front()).known;
      promise->set_value(s);
    };
    auto result = promise->get_future();
    log.submit(std::move(batch));
    const Status stored = result.get();
    if (stored && known_replay) {
      const MutexLock lock(mutex);
      ++status.known_replays;
      ++uncounted_known;
    }
    if (!stored) set_state(cat("holding back: ", stored.error().what), true);
    if (stored && !status_copy().state.starts_with("connected")) set_state("connected", true);
    return stored.has_value();
  }

  // --- shared

  void set_state(const std::string& state, bool is_connected) {
    const MutexLock lock(mutex);
    status.connected = is_connected;
    if (status.state == state) return;
    status.state = state;
    status.since_ms = clock.wall_ms();
  }
  SubscriberStatus status_copy() const {
    const MutexLock lock(mutex);
    return status;
  }
  // Until no callback runs, or one holds for good: perhaps another subscription's.
  void wait_until_idle() {
    MutexLock lock(mutex);
    while (in_callback && !held->yes) wake.wait_for(mutex, kHeldLook);
  }

  const SubscribeConfig config;
  const std::string broker;
  const std::shared_ptr<Held> held;
  BatchSink& log;
  const Clock& clock;
  Logger& logger;
  mutable Mutex mutex;
  std::condition_variable_any wake;
  std::unique_ptr<Ingest> ingest GUARDED_BY(mutex);
  SubscriberStatus status GUARDED_BY(mutex);
  std::optional<std::string> lost GUARDED_BY(mutex);
  bool in_callback GUARDED_BY(mutex) = false;
  bool stopping GUARDED_BY(mutex) = false;
  bool finished GUARDED_BY(mutex) = false;
  std::int64_t uncounted_known GUARDED_BY(mutex) = 0;
  std::optional<std::string> known;               // the own thread's
  std::unique_ptr<mqtt::async_client> abandoned;  // its thread is in a callback for ever
  std::jthread thread;                            // last
};

Subscriber::Subscriber(const SubscribeConfig& config, std::string broker,
                       std::unique_ptr<Ingest> ingest, std::optional<std::string> known,
                       std::shared_ptr<Held> held,
                       BatchSink& log, const Clock& clock, Logger& logger)
    : impl_(std::make_unique<Impl>(config, std::move(broker), std::move(ingest),
                                   std::move(known), std::move(held), log, clock, logger)) {
  impl_->set_state("connecting", false);
  Impl* raw = impl_.get();
  impl_->thread = std::jthread([raw](std::stop_token stop) { raw->run(stop); });
}

void Subscriber::request_stop(bool program_ends) {
  {
    const MutexLock lock(impl_->mutex);
    impl_->stopping = impl_->stopping || program_ends;
  }
  impl_->thread.request_stop();
  impl_->wake.notify_all();
}

void Subscriber::wait_stopped() {
  const MutexLock lock(impl_->mutex);
  while (!impl_->finished && !impl_->held->yes) impl_->wake.wait_for(impl_->mutex, kHeldLook);
}

Subscriber::~Subscriber() {
  request_stop(true);
  wait_stopped();
  // Threads that wait in there for ever must not lose the ground under their feet: the program ends
  // with them.
  if (impl_->held->yes) [[maybe_unused]]
    const Impl* left = impl_.release();
}

SubscriberStatus Subscriber::status() const {
  return impl_->status_copy();
}

void Subscriber::reload(std::unique_ptr<Ingest> ingest) {
  const MutexLock lock(impl_->mutex);
  impl_->ingest = std::move(ingest);
}

std::string Subscriber::fact(const SubscribeConfig& config) {
  return cat("subscribe.", config.client_id);
}

}  // namespace wayside
