#include "gateway/mqtt/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <asio/post.hpp>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kDrainMs = 1000;  // for the peer to take our last words

// One packet may not need more than half of the memory there is for all connections: what is larger
// is set aside, instead of being refused each time it is sent again.
mqtt::SessionLimits session_limits(const MqttHub& hub) {
  const Config& config = hub.config;
  return {static_cast<std::uint16_t>(config.mqtt.receive_maximum),
          std::min(static_cast<std::size_t>(config.mqtt.max_packet_bytes),
                   hub.strangers.bytes_most() / 2),
          static_cast<std::uint16_t>(config.mqtt.topic_alias_maximum),
          config.mqtt.quarantine_oversized, config.mqtt.grant_subscriptions};
}

}  // namespace

MqttConnection::MqttConnection(asio::ip::tcp::socket socket, MqttHub& hub)
    : socket_(std::move(socket)),
      hub_(hub),
      session_(session_limits(hub)),
      accepted_ms_(hub.clock.steady_ms()),
      last_input_ms_(accepted_ms_),
      last_output_ms_(last_input_ms_),
      last_packet_ms_(last_input_ms_),
      last_reading_ms_(accepted_ms_) {}

MqttConnection::~MqttConnection() = default;

void MqttConnection::start() {
  asio::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  const auto set = [&](int option, int value) {
    ::setsockopt(socket_.native_handle(), IPPROTO_TCP, option, &value, sizeof value);
  };
  set(TCP_KEEPIDLE, limits::kTcpKeepIdleS);
  set(TCP_KEEPINTVL, limits::kTcpKeepIntervalS);
  set(TCP_KEEPCNT, limits::kTcpKeepProbes);
  if (const auto peer = socket_.remote_endpoint(ignored); !ignored) {
    address_ = peer.address().to_string();
    peer_ = cat(address_, ":", peer.port());
    origin_ = origin_of(address_);
  }
  wait_readable();
}

bool MqttConnection::paused() const {
  const std::size_t mine = pending_bytes_ + batch_bytes_;
  const std::size_t share =
      limits::kPendingBytesMax / (2 * std::max<std::size_t>(hub_.clients.size(), 1));
  return opening_session_ || ended_ || (hub_.stopping && !last_bytes_) || session_.at_bound() ||
         mine >= limits::kConnectionPendingBytesMax ||
         hub_.pending_bytes + batch_bytes_ >= limits::kPendingBytesMax ||
         (hub_.pending_bytes >= limits::kPendingBytesMax / 2 && mine >= share) ||
         (out_.size() >= limits::kOutputBytesMax && !last_bytes_);
}

void MqttConnection::wait_readable() {
  if (waiting_readable_ || state_ == State::closed) return;
  was_paused_ = state_ == State::open && paused();
  if (was_paused_ || (state_ == State::open && last_bytes_)) return;
  waiting_readable_ = true;
  socket_.async_wait(asio::socket_base::wait_read,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->waiting_readable_ = false;
                       if (!error) self->on_readable();
                     });
}

void MqttConnection::on_readable() {
  if (state_ == State::closed || (state_ == State::open && last_bytes_)) return;
  if (state_ == State::open && paused()) {  // a bound was reached since the wait began
    was_paused_ = true;
    return;
  }
  asio::error_code error;
  const std::size_t n = socket_.read_some(asio::buffer(hub_.read_buffer), error);
  if (error == asio::error::would_block) return wait_readable();
  if (state_ == State::draining) {
    if (error) return close();
    return wait_readable();
  }
  if (error) return end(true);
  session_.feed({hub_.read_buffer.data(), n});
  unfinished_bytes_ += n;
  pump();
}

void MqttConnection::decode() {
  bool more = true;
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
}

void MqttConnection::pump() {
  const std::uint64_t packets = session_.packets();
  decode();
  while (!paused() && read_last_bytes()) decode();
  if (session_.packets() != packets) last_packet_ms_ = hub_.clock.steady_ms();
  if (session_.packets() != packets || unfinished_bytes_ >= limits::kAliveBytes) {
    last_input_ms_ = hub_.clock.steady_ms();
    unfinished_bytes_ = 0;
  }
  submit_batch();
  write();
  if (taken_over_ && !paused()) {  // all that came is taken
    hub_.note_trouble(known_as(), "disconnected: another connection has its client id");
    session_.disconnect(mqtt::Reason::session_taken_over, "another connection has this client id");
    ended_ = true;
    write();
    end(true);
  }
  if (state_ == State::open) wait_readable();
  hub_.consider_commit();
  count_memory();
}

std::size_t MqttConnection::received_bytes() {
  asio::error_code error;
  const std::size_t n = socket_.available(error);
  return error ? 0 : n;
}

// False: there are no more.
bool MqttConnection::read_last_bytes() {
  if (last_bytes_.value_or(0) == 0) return false;
  asio::error_code error;
  const std::size_t most = std::min(*last_bytes_, hub_.read_buffer.size());
  const std::size_t n = socket_.read_some(asio::buffer(hub_.read_buffer.data(), most), error);
  last_bytes_ = error ? 0 : *last_bytes_ - n;
  if (error) return false;
  session_.feed({hub_.read_buffer.data(), n});
  return true;
}

// What one read brought is one batch: stored together, acknowledged together.
void MqttConnection::submit_batch() {
  const std::size_t held = session_.held_acks();
  if (batch_.ops.empty() && held == acks_at_submit_) return;
  if (held > acks_at_submit_) hub_.pace.reading_came(*pace_, steady_us());
  if (batch_bytes_ > 0) last_reading_ms_ = hub_.clock.steady_ms();
  acks_at_submit_ = held;
  MqttHub::store_counts(std::exchange(batch_counts_, {}), batch_.ops);
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
    session_.drop();
    ended_ = true;
    write();
    return end(true);
  }
  if (bytes > 0 && !std::exchange(stored_, true) && assigned_client_id_.empty()) {
    hub_.strangers.known.add(client_id_);
  }
  session_.release(ticket);
  acks_at_submit_ = session_.held_acks();
  if (acks_at_submit_ == 0) hub_.pace.all_acknowledged(pace_, steady_us());
  if (ended_) return write();
  pump();
}

void MqttConnection::write() {
  if (state_ == State::closed) return;
  if (mute_) return session_.output().clear();
  if (out_.empty()) {
    out_.swap(session_.output());
  } else {
    out_ += session_.output();
    session_.output().clear();
  }
  if (out_.empty() || waiting_writable_) return;
  asio::error_code error;
  const std::size_t n = socket_.write_some(asio::buffer(out_), error);
  if (error && error != asio::error::would_block) {
    // It takes nothing more. What it sent before it went is read all the same, to its end.
    mute_ = true;
    return out_.clear();
  }
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
  count_memory();
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
  if (last_bytes_) {
    if (std::exchange(was_paused_, false)) pump();
    return;
  }
  if (!session_.connected() && now_ms - accepted_ms_ >= limits::kConnectTimeoutMs) {
    if (received_bytes() > 0) on_readable();  // this thread may have been late, not the client
    if (state_ != State::open || paused() || session_.connected()) return;
    hub_.strangers.note("refused.no_connect", address_);
    return end(false);
  }
  const auto silent = [&] { return now_ms - last_input_ms_ >= keep_alive_ms_; };
  if (session_.connected() && silent()) {
    if (received_bytes() > 0) on_readable();
    if (state_ != State::open || paused() || !silent()) return;
    hub_.note_trouble(known_as(), cat("disconnected: nothing came for ", keep_alive_ms_ / 1000,
                                      " s (1.5 keep-alives, or mqtt.idle_max)"));
    session_.drop();
    ended_ = true;
    return end(true);
  }
  if (std::exchange(was_paused_, false)) pump();
}

void MqttConnection::take_over(std::shared_ptr<MqttConnection> successor) {
  if (state_ != State::open || ended_) return successor->open_session();
  successor->predecessor_ = weak_from_this();
  successor_ = std::move(successor);
  taken_over_ = true;
  last_bytes_ = received_bytes();
  if (!opening_session_) pump();
}

void MqttConnection::stop_reading() {
  if (state_ != State::open || ended_) return;
  if (!session_.connected() && !opening_session_) return close();
  last_bytes_ = received_bytes();
  if (!opening_session_) pump();
}

void MqttConnection::shut_down() {
  if (state_ == State::closed) return;
  will_.reset();  // it is the gateway that goes, not the client
  session_.drop();
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
    leave_queue();
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
  session_.let_go();
  forget_topics();
  if (const auto successor = std::exchange(successor_, nullptr)) successor->open_session();
  count_memory();
}

// It waited for one that still sends: who comes after it waits for that one, so that a session is
// never open twice.
void MqttConnection::leave_queue() {
  const auto before = predecessor_.lock();
  if (!before || before->state_ != State::open || before->successor_.get() != this) return;
  if (successor_) {
    successor_->predecessor_ = before;
  } else {
    hub_.clients[client_id_] = before;
  }
  before->successor_ = std::exchange(successor_, nullptr);
}

void MqttConnection::close() {
  if (state_ == State::closed) return;
  state_ = State::closed;
  asio::error_code ignored;
  socket_.close(ignored);
  session_.let_go();
  forget_topics();
  std::string().swap(out_);
  std::string().swap(session_.output());
  count_memory();
}

// Parts that are of no size are left out: there are not many of them.
void MqttConnection::count_memory() {
  std::size_t bytes = session_.held_bytes() + out_.capacity() + topics_bytes_;
  if (will_) bytes += bytes_of(*will_);
  if (state_ == State::closed) bytes = 0;  // or it would be asked to go for ever
  hub_.strangers.holds(held_, bytes, state_ == State::open && !accepted_);
}

void MqttConnection::forget_topics() {
  topics_.clear();
  topics_bytes_ = 0;
}

bool MqttConnection::give_up_caches() {
  if (topics_bytes_ < limits::kStrangerShareBytes) return false;
  forget_topics();
  count_memory();
  return true;
}

void MqttConnection::give_way(const std::string& why) {
  hub_.note_trouble(known_as(), cat("disconnected: ", why));
  if (state_ == State::open) {
    session_.drop();
    end(true);
  }
  close();
}

}  // namespace wayside
