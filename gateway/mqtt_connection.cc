#include "gateway/mqtt_connection.h"

#include <algorithm>
#include <asio/post.hpp>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kDrainMs = 1000;  // for the peer to take our last words

mqtt::SessionLimits session_limits(const Config& config) {
  return {static_cast<std::uint16_t>(config.mqtt.receive_maximum),
          static_cast<std::size_t>(config.mqtt.max_packet_bytes), limits::kTopicAliasMax};
}

}  // namespace

MqttConnection::MqttConnection(asio::ip::tcp::socket socket, MqttHub& hub, bool refused)
    : socket_(std::move(socket)),
      hub_(hub),
      session_(session_limits(hub.config)),
      refused_(refused),
      accepted_ms_(hub.clock.steady_ms()),
      last_input_ms_(accepted_ms_),
      last_output_ms_(last_input_ms_) {}

MqttConnection::~MqttConnection() = default;

void MqttConnection::start() {
  asio::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (const auto peer = socket_.remote_endpoint(ignored); !ignored) {
    peer_ = cat(peer.address().to_string(), ":", peer.port());
  }
  wait_readable();
}

bool MqttConnection::paused() const {
  const std::size_t mine = pending_bytes_ + batch_bytes_;
  const std::size_t share =
      limits::kPendingBytesMax / (2 * std::max<std::size_t>(hub_.clients.size(), 1));
  return opening_session_ || ended_ || hub_.stopping || session_.at_bound() ||
         mine >= limits::kConnectionPendingBytesMax ||
         (hub_.pending_bytes >= limits::kPendingBytesMax / 2 && mine >= share) ||
         out_.size() >= limits::kOutputBytesMax;
}

void MqttConnection::wait_readable() {
  if (waiting_readable_ || state_ == State::closed) return;
  was_paused_ = state_ == State::open && paused();
  if (was_paused_) return;
  waiting_readable_ = true;
  socket_.async_wait(asio::socket_base::wait_read,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->waiting_readable_ = false;
                       if (!error) self->on_readable();
                     });
}

void MqttConnection::on_readable() {
  if (state_ == State::closed) return;
  asio::error_code error;
  const std::size_t n = socket_.read_some(asio::buffer(hub_.read_buffer), error);
  if (error == asio::error::would_block) return wait_readable();
  if (state_ == State::draining) {
    if (error) return close();
    return wait_readable();
  }
  if (error) return end(true);
  if (paused()) {  // a bound was reached since the wait began: decode later, lose nothing
    session_.feed({hub_.read_buffer.data(), n});
    session_.stash();
    was_paused_ = true;
    return;
  }
  session_.feed({hub_.read_buffer.data(), n});
  pump();
}

void MqttConnection::pump() {
  bool more = true;
  const std::uint64_t packets = session_.packets();
  while (more && !paused()) {
    mqtt::Event event = session_.next(ticket_);
    more = !std::holds_alternative<mqtt::NeedMore>(event);
    std::visit(
        [this](auto&& e) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(e)>, mqtt::NeedMore>)
            on(std::move(e));
        },
        std::move(event));
  }
  if (more && !ended_) session_.stash();
  if (session_.packets() != packets) last_input_ms_ = hub_.clock.steady_ms();
  submit_batch();
  write();
  if (state_ == State::open) wait_readable();
  hub_.consider_commit();
}

void MqttConnection::on(mqtt::ConnectRequested&& event) {
  mqtt::Connect& connect = event.connect;
  const auto refuse = [&](mqtt::Reason reason, const std::string& text) {
    session_.refuse(reason, text);
    ended_ = true;
    write();
    end(false);
  };
  const bool busy =
      hub_.outstanding > 10 * static_cast<std::size_t>(hub_.config.mqtt.max_connections);
  // Who takes over a session of its own takes a place that it has already.
  refused_ = refused_ && !hub_.clients.contains(connect.client_id);
  if (refused_ || busy || hub_.stopping) {
    hub_.count("refused.max_connections");
    return refuse(
        mqtt::Reason::server_busy,
        busy ? std::string("the log is held up; try again later")
             : cat("mqtt.max_connections = ", hub_.config.mqtt.max_connections, " is reached"));
  }
  if (connect.has_authentication_method) {
    return refuse(mqtt::Reason::bad_authentication_method, "no enhanced authentication here");
  }
  if (connect.client_id.size() > limits::kClientIdBytesMax ||
      (connect.client_id.empty() && connect.version == mqtt::Version::v311 &&
       !connect.clean_start)) {
    hub_.count("refused.client_id");
    return refuse(mqtt::Reason::client_id_not_valid,
                  cat("a client identifier of 1 to ", limits::kClientIdBytesMax, " bytes, please"));
  }
  if (connect.client_id.empty()) {
    connect.client_id = assigned_client_id_ = "auto-" + random_uuid();
  }
  client_id_ = connect.client_id;
  keep_alive_ms_ = connect.keep_alive_s * 1500LL;
  const std::int64_t expiry_most_s = hub_.config.mqtt.session_expiry_max_ms / 1000;
  session_expiry_s_ =
      static_cast<std::uint32_t>(std::min<std::int64_t>(connect.session_expiry_s, expiry_most_s));
  if (const auto other = hub_.clients.find(client_id_); other != hub_.clients.end()) {
    if (const auto connection = other->second.lock()) connection->take_over();
  }
  hub_.clients[client_id_] = weak_from_this();
  registered_ = true;
  open_session(connect);
  will_ = std::move(connect.will);
}

// What the client had comes from the writer, behind everything of it that is on its way there.
void MqttConnection::open_session(const mqtt::Connect& connect) {
  opening_session_ = true;
  ++hub_.outstanding;
  Batch batch;
  batch.flush_now = true;
  batch.ops.emplace_back(
      OpenSession{client_id_, connect.clean_start, session_expiry_s_, {}, {}, {}});
  expiry_capped_ = session_expiry_s_ != connect.session_expiry_s;
  batch.done = [self = shared_from_this(), io = socket_.get_executor()](Batch& done,
                                                                        const Status& status) {
    asio::post(io,
               [self, ok = status.has_value(), opened = std::get<OpenSession>(done.ops.front())] {
                 self->session_opened(ok, opened);
               });
  };
  hub_.sink.submit(std::move(batch));
}

void MqttConnection::session_opened(bool ok, const OpenSession& opened) {
  hub_.settled();
  opening_session_ = false;
  if (ok) session_id_ = opened.session_id;
  if (state_ != State::open || ended_) {
    // Lost meanwhile: what was opened is closed again; unless the client is back already, whose
    // session it is now.
    if (session_id_ > 0 && !hub_.clients.contains(client_id_)) {
      Batch batch;
      batch.ops.emplace_back(CloseSession{session_id_, session_expiry_s_});
      hub_.sink.submit(std::move(batch));
    }
    return;
  }
  if (!ok) {
    hub_.count("refused.commit_failed");
    session_.refuse(mqtt::Reason::server_unavailable, "the log cannot be written now");
    ended_ = true;
    write();
    return end(false);
  }
  hub_.client_is_back(client_id_, opened.present);
  mqtt::ConnackProperties properties;
  properties.receive_maximum = static_cast<std::uint16_t>(hub_.config.mqtt.receive_maximum);
  properties.maximum_packet_bytes = static_cast<std::uint32_t>(hub_.config.mqtt.max_packet_bytes);
  properties.topic_alias_maximum = limits::kTopicAliasMax;
  if (expiry_capped_) properties.session_expiry_s = session_expiry_s_;
  properties.assigned_client_id = assigned_client_id_;
  if (!session_.accept({opened.present, opened.qos2_ids}, properties)) return end(false);
  accepted_ = true;
  last_input_ms_ = hub_.clock.steady_ms();
  pump();
}

std::string MqttConnection::known_as() const {
  return assigned_client_id_.empty() ? client_id_ : "(assigned)";
}

const Ingest::Resolved& MqttConnection::resolve(std::string_view topic) {
  if (resolved_generation_ != hub_.generation) {  // the routes are others now
    topics_.clear();
    last_resolved_ = {};
    resolved_generation_ = hub_.generation;
  }
  if (last_resolved_.source && last_resolved_.source->mqtt_topic == topic) return last_resolved_;
  const auto known = topics_.find(std::string(topic));
  if (known != topics_.end()) {
    last_resolved_ = known->second;
  } else {
    // An id that is given for one connection would only fill the dictionary of sources.
    last_resolved_ = hub_.ingest->resolve(topic, known_as());
    if (topics_.size() >= limits::kTopicCacheMax) topics_.clear();
    topics_.emplace(topic, last_resolved_);
  }
  return last_resolved_;
}

void MqttConnection::on(mqtt::Published&& event) {
  const mqtt::Publish& p = event.publish;
  if (event.duplicate) return;
  const std::size_t before = batch_.ops.size();
  const auto made = hub_.ingest->make(resolve(p.topic), p.payload, p.retain, batch_.ops);
  if (made.quarantined != nullptr) {
    hub_.count(cat("quarantined.", made.quarantined));
    hub_.note_trouble(known_as(), cat("quarantined: ", made.quarantined));
  }
  for (std::size_t i = before; i < batch_.ops.size(); ++i) batch_bytes_ += op_bytes(batch_.ops[i]);
  if (p.qos == 2 && session_id_ > 0) batch_.ops.emplace_back(AddQos2Id{session_id_, p.packet_id});
}

void MqttConnection::on(const mqtt::Released& event) {
  if (event.known && session_id_ > 0) {
    batch_.ops.emplace_back(RemoveQos2Id{session_id_, event.packet_id});
  }
}

void MqttConnection::on(const mqtt::Ended& event) {
  ended_ = true;
  if (event.session_expiry_s) {
    session_expiry_s_ = static_cast<std::uint32_t>(std::min<std::int64_t>(
        *event.session_expiry_s, hub_.config.mqtt.session_expiry_max_ms / 1000));
  }
  if (!event.by_client) {
    hub_.count(event.reason == mqtt::Reason::packet_too_large ? "refused.packet_too_large"
                                                              : "refused.protocol");
    hub_.note_trouble(known_as(), cat("disconnected: ", event.what));
    hub_.logger.repeated(
        LogLevel::warning, cat("mqtt.", static_cast<int>(event.reason)),
        cat("client '", printable(client_id_), "' at ", peer_, " is disconnected: ", event.what));
  }
  submit_batch();  // what came before is stored all the same
  write();
  end(event.publish_will);
}

// What one read brought is one batch: stored together, acknowledged together.
void MqttConnection::submit_batch() {
  const std::size_t held = session_.held_acks();
  if (batch_.ops.empty() && held == acks_at_submit_) return;
  if (held > acks_at_submit_) hub_.pace.reading_came(*pace_, steady_us());
  acks_at_submit_ = held;
  auto counts = hub_.take_counts(batch_.ops);
  pending_bytes_ += batch_bytes_;
  hub_.pending_bytes += batch_bytes_;
  ++hub_.outstanding;
  hub_.submitted_since_flush = true;
  batch_.done = [self = shared_from_this(), io = socket_.get_executor(), ticket = ticket_++,
                 bytes = std::exchange(batch_bytes_, 0),
                 counts = std::move(counts)](Batch&, const Status& status) {
    asio::post(io, [self, ok = status.has_value(), ticket, bytes, counts] {
      if (!ok) self->hub_.put_back(counts);
      self->committed(ok, ticket, bytes);
    });
  };
  hub_.sink.submit(std::exchange(batch_, Batch{}));
}

void MqttConnection::committed(bool ok, std::uint64_t ticket, std::size_t bytes) {
  hub_.settled();
  pending_bytes_ -= bytes;
  hub_.pending_bytes -= bytes;
  if (state_ == State::closed || failed_) return;
  failed_ = !ok;
  if (!ok) {
    // Not stored, so not acknowledged, now or by a later commit: the client sends it again.
    hub_.count("refused.commit_failed");
    if (!ended_) session_.disconnect(mqtt::Reason::unspecified, "the log cannot be written now");
    ended_ = true;
    write();
    return end(true);
  }
  session_.release(ticket);
  acks_at_submit_ = session_.held_acks();
  if (acks_at_submit_ == 0) hub_.pace.all_acknowledged(pace_, steady_us());
  if (ended_) return write();
  pump();
}

void MqttConnection::write() {
  if (state_ == State::closed) return;
  if (out_.empty()) {
    out_.swap(session_.output());
  } else {
    out_ += session_.output();
    session_.output().clear();
  }
  if (out_.empty() || waiting_writable_) return;
  asio::error_code error;
  const std::size_t n = socket_.write_some(asio::buffer(out_), error);
  if (error && error != asio::error::would_block) return end(true);
  if (!error) {
    last_output_ms_ = hub_.clock.steady_ms();
    out_.erase(0, n);
  }
  if (out_.empty()) return;
  waiting_writable_ = true;
  socket_.async_wait(asio::socket_base::wait_write,
                     [self = shared_from_this()](const asio::error_code& wait_error) {
                       self->waiting_writable_ = false;
                       if (wait_error || self->state_ == State::closed) return;
                       self->write();
                       if (self->state_ == State::open && !self->ended_) self->pump();
                     });
}

void MqttConnection::tick(std::int64_t now_ms) {
  if (state_ == State::closed) return;
  if (state_ == State::draining) {
    if (now_ms - closing_since_ms_ >= kDrainMs) close();
    return;
  }
  if (!out_.empty() && now_ms - last_output_ms_ >= limits::kWriteStallMs) {
    hub_.count("refused.not_reading");
    hub_.note_trouble(known_as(), "disconnected: it did not read");
    hub_.logger.repeated(
        LogLevel::warning, "stall",
        cat("client '", printable(client_id_), "' at ", peer_, " has not read for ",
            limits::kWriteStallMs / 1000, " s and is disconnected"));
    end(true);
    return close();
  }
  if (out_.empty()) last_output_ms_ = now_ms;
  if (paused() && !ended_) {
    last_input_ms_ = now_ms;  // it is we who do not read
    // Another connection may have reached the common bound, and gone below it since.
    return;
  }
  const std::int64_t silent_ms = now_ms - last_input_ms_;
  if (!session_.connected() && now_ms - accepted_ms_ >= limits::kConnectTimeoutMs) {
    hub_.count("refused.no_connect");
    return end(false);
  }
  if (session_.connected() && keep_alive_ms_ > 0 && silent_ms >= keep_alive_ms_) {
    hub_.note_trouble(known_as(), "disconnected: nothing came for 1.5 keep-alives");
    session_.disconnect(mqtt::Reason::keep_alive_timeout, "nothing came for 1.5 keep-alives");
    ended_ = true;
    write();
    return end(true);
  }
  if (std::exchange(was_paused_, false)) pump();
}

void MqttConnection::take_over() {
  if (state_ != State::open || ended_) return;
  if (session_.connected()) {
    hub_.note_trouble(known_as(), "disconnected: another connection has its client id");
    session_.disconnect(mqtt::Reason::session_taken_over, "another connection has this client id");
  } else {
    will_.reset();  // it never was connected
  }
  ended_ = true;
  write();
  end(true);
}

void MqttConnection::stop_reading() {
  // hub_.stopping pauses it; what is read already is decoded no further.
  if (!session_.connected() && state_ == State::open && !opening_session_) close();
}

void MqttConnection::shut_down() {
  if (state_ == State::closed) return;
  will_.reset();  // it is the gateway that goes, not the client
  if (state_ == State::open && !ended_ && session_.connected()) {
    session_.disconnect(mqtt::Reason::server_shutting_down, "the gateway stops");
    ended_ = true;
    write();
  }
  end(false);
}

// The connection is over, for whatever reason. Idempotent.
void MqttConnection::end(bool publish_will) {
  if (state_ != State::open) return;
  const bool was_connected = session_.connected() || session_id_ > 0;
  ended_ = true;
  hub_.pace.gone(*pace_);
  if (registered_) {
    const auto it = hub_.clients.find(client_id_);
    if (it != hub_.clients.end() && it->second.lock().get() == this) hub_.clients.erase(it);
  }
  if (publish_will && will_ && accepted_) {
    const std::int64_t delay_s = std::min<std::int64_t>(will_->delay_s, session_expiry_s_);
    hub_.leave_will(client_id_, *will_, delay_s * 1000);
  }
  will_.reset();
  if (was_connected && session_id_ > 0) {
    Batch batch;
    batch.ops.emplace_back(CloseSession{session_id_, session_expiry_s_});
    hub_.sink.submit(std::move(batch));
  }
  state_ = State::draining;
  closing_since_ms_ = hub_.clock.steady_ms();
  asio::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  wait_readable();
}

void MqttConnection::close() {
  if (state_ == State::closed) return;
  state_ = State::closed;
  asio::error_code ignored;
  socket_.close(ignored);
}

}  // namespace wayside
