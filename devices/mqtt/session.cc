#include "devices/mqtt/session.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"
#include "base/text.h"
#include "devices/mqtt/greeting.h"
#include "devices/mqtt/wire.h"

namespace wayside::mqtt {
namespace {

std::span<const std::uint8_t> as_bytes(const std::string& s) {
  return {reinterpret_cast<const std::uint8_t*>(s.data()), s.size()};
}

}  // namespace

// [MQTT-3.1.2-24, 25]: what is too large for the client is not sent, as if it had been.
template <class Encode>
bool Session::say(Encode encode) {
  const std::size_t before = output_.size();
  encode(output_);
  if (output_.size() - before <= client_packet_bytes_max_) return true;
  output_.resize(before);
  return false;
}

void Session::feed(std::span<const std::uint8_t> bytes) {
  if (kept_.empty()) {
    undecoded_ = bytes;
    return;
  }
  // Not twice as much as has come: what is held has a bound, and a large packet must fit into it.
  const std::size_t size = kept_.size() + bytes.size();
  if (size > kept_.capacity()) {
    kept_.reserve(std::max(size, std::min(size + size / 4, expected_bytes_)));
  }
  kept_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  undecoded_ = as_bytes(kept_);
}

void Session::stash() {
  if (!kept_.empty() && undecoded_.size() == kept_.size()) return;  // it is all there already
  std::string rest(reinterpret_cast<const char*>(undecoded_.data()), undecoded_.size());
  kept_.swap(rest);  // not in place: undecoded_ may lie in kept_; and a large one is given back
  undecoded_ = as_bytes(kept_);
}

Event Session::next(std::uint64_t ticket) {
  WS_CHECK(state_ != State::ended && state_ != State::connecting);
  if (skipped_ && skipped_->complete()) skipped_.reset();
  for (;;) {
    if (skipped_) {
      const auto used = skipped_->take(undecoded_);
      if (!used) return end(used.error());
      undecoded_ = undecoded_.subspan(*used);
      if (!skipped_->complete()) break;
      ++packets_;
      return on_skipped(ticket);
    }
    if (state_ == State::waiting_for_connect && !undecoded_.empty() && undecoded_[0] != 0x10) {
      if (auto event = on_greeting()) return std::move(*event);
    }
    auto header = decode_fixed_header(undecoded_, version_);
    if (!header) return end(header.error());
    if (!*header) break;
    const FixedHeader h = **header;
    if (state_ == State::waiting_for_connect && h.type != PacketType::connect) {
      return end({Reason::protocol_error, "the first packet is not CONNECT [MQTT-3.1.0-1]"});
    }
    const std::size_t total = h.header_bytes + h.remaining_bytes;
    if (state_ == State::waiting_for_connect && total > limits::kConnectBytesMax) {
      return end({Reason::packet_too_large,
                  cat("a CONNECT of ", total, " bytes; the limit is ", limits::kConnectBytesMax)});
    }
    if (total > limits_.packet_bytes_max) {
      if (h.type == PacketType::publish && limits_.set_oversized_aside) {
        if (const auto ok = check_publish_flags(h.flags, version_); !ok) return end(ok.error());
        skipped_ = std::make_unique<OversizedPublish>(h, version_);
        undecoded_ = undecoded_.subspan(h.header_bytes);
        continue;
      }
      return end(
          {Reason::packet_too_large, cat("a packet of ", total, " bytes; mqtt.max_packet allows ",
                                         limits_.packet_bytes_max)});
    }
    expected_bytes_ = total;
    if (undecoded_.size() < total) break;
    const auto body = undecoded_.subspan(h.header_bytes, h.remaining_bytes);
    undecoded_ = undecoded_.subspan(total);
    ++packets_;
    switch (h.type) {
      case PacketType::connect:
        return on_connect(body);
      case PacketType::publish:
        return on_publish(h.flags, body, ticket);
      case PacketType::pubrel:
        return on_pubrel(body, ticket);
      default:
        if (auto event = on_other(h, body)) return std::move(*event);
    }
  }
  stash();
  return NeedMore{};
}

std::optional<Event> Session::on_greeting() {
  Greeting greeting = recognise(undecoded_);
  if (greeting.kind == Greeting::Kind::unknown) return std::nullopt;
  if (greeting.kind == Greeting::Kind::undecided) {
    stash();
    return NeedMore{};
  }
  output_ += greeting.answer;
  state_ = State::ended;
  Ended event{false, false, Reason::protocol_error, std::move(greeting.what), std::nullopt};
  event.not_mqtt = true;
  return event;
}

Event Session::on_connect(std::span<const std::uint8_t> body) {
  if (state_ != State::waiting_for_connect) {
    return end({Reason::protocol_error, "a second CONNECT [MQTT-3.1.0-2]"});
  }
  auto connect = decode_connect(body);
  if (!connect) return refuse_connect(body, connect.error());
  if (connect->will && connect->will->topic_bytes > limits::kTopicBytesMax &&
      !limits_.set_oversized_aside) {
    return refuse_connect(
        body, {Reason::topic_name_invalid,
               cat("a will's topic of ", connect->will->topic_bytes, " bytes; the limit is ",
                   limits::kTopicBytesMax, " (mqtt.oversized = \"quarantine\" takes it)")});
  }
  version_ = connect->version;
  wants_problem_info_ = connect->wants_problem_info;
  client_packet_bytes_max_ = connect->maximum_packet_bytes;
  session_expiry_s_ = connect->session_expiry_s;
  state_ = State::connecting;
  return ConnectRequested{std::move(*connect)};
}

// In the words of the client's own version, as far as that is known: the level is behind the
// protocol's name. Mosquitto's bridges add 128 to it, and understand the answer of 3.1.1.
Event Session::refuse_connect(std::span<const std::uint8_t> body, const Malformed& error) {
  const std::size_t at =
      body.size() > 1 ? 2U + (static_cast<std::size_t>(body[0]) << 8 | body[1]) : 0;
  const unsigned level = at > 0 && at < body.size() ? body[at] & 0x7FU : 3U;
  if (level >= 5) {
    encode_connack_refusal_v5(output_, error.reason, error.what);
  } else if (error.reason == Reason::unsupported_version) {
    encode_connack_v311(output_, false, 1);
  }
  state_ = State::ended;
  Ended event{false, false, error.reason, error.what, std::nullopt};
  event.client_id = client_id_of_connect(body);
  return event;
}

Event Session::on_publish(std::uint8_t flags, std::span<const std::uint8_t> body,
                          std::uint64_t ticket) {
  auto decoded = decode_publish(flags, body, version_);
  if (!decoded) return end(decoded.error());
  Published event{*decoded, false};
  Publish& p = event.publish;
  std::size_t topic_bytes = p.topic.size();
  if (p.topic_alias > 0) {
    if (const auto error = look_up_alias(p, topic_bytes)) return end(*error);
  }
  if (topic_bytes > limits::kTopicBytesMax) {
    std::string length;
    put_variable(length, body.size());
    const std::size_t packet_bytes = 1 + length.size() + body.size();
    return set_aside({p, topic_bytes, p.payload.size(), packet_bytes, false, {}}, ticket);
  }
  if (p.qos == 0) return event;
  if (const auto error = hold_ack(p, ticket, event.duplicate)) return end(*error);
  return event;
}

std::optional<Malformed> Session::look_up_alias(Publish& p, std::size_t& topic_bytes) {
  if (p.topic_alias > limits_.topic_alias_maximum) {
    return Malformed{Reason::topic_alias_invalid,
                     cat("topic alias ", p.topic_alias, " above the maximum of ",
                         limits_.topic_alias_maximum,
                         "; mqtt.topic_alias_maximum [MQTT-3.3.2-9]")};
  }
  if (!p.topic.empty()) {
    Alias& alias = topic_aliases_[p.topic_alias];
    const std::string_view begins = utf8_beginning(p.topic, limits::kTopicBytesMax);
    alias_bytes_ += begins.size() - alias.topic.size();
    alias = {std::string(begins), topic_bytes};
    return std::nullopt;
  }
  const auto known = topic_aliases_.find(p.topic_alias);
  if (known == topic_aliases_.end()) {
    return Malformed{Reason::protocol_error, cat("topic alias ", p.topic_alias, " names no topic")};
  }
  p.topic = known->second.topic;
  topic_bytes = known->second.topic_bytes;
  return std::nullopt;
}

std::optional<Malformed> Session::hold_ack(const Publish& p, std::uint64_t ticket,
                                           bool& duplicate) {
  const std::size_t most_ids =
      std::max<std::size_t>(limits_.receive_maximum,
                            version_ == Version::v5 ? 0 : limits::kQos2IdsOfSessionMax);
  const auto at = std::lower_bound(qos2_ids_.begin(), qos2_ids_.end(), p.packet_id);
  const bool known = at != qos2_ids_.end() && *at == p.packet_id;
  if (p.qos == 2 && known) {
    duplicate = true;
  } else if (p.qos == 2 && qos2_ids_.size() >= most_ids) {
    // Each is kept on disk until its PUBREL comes, over any number of connections.
    return Malformed{Reason::receive_maximum_exceeded,
                     cat(qos2_ids_.size(), " QoS 2 readings stored, and no PUBREL for them; "
                                           "mqtt.receive_maximum [MQTT-3.3.4-9]")};
  } else if (++unacknowledged_ > limits_.receive_maximum && version_ == Version::v5) {
    return Malformed{Reason::receive_maximum_exceeded,
                     cat("more than ", limits_.receive_maximum,
                         " PUBLISH packets unacknowledged; mqtt.receive_maximum [MQTT-3.3.4-9]")};
  }
  if (p.qos == 2 && !known) qos2_ids_.insert(at, p.packet_id);
  held_.push_back(
      {ticket, p.qos == 1 ? PacketType::puback : PacketType::pubrec, p.packet_id, Reason::success});
  return std::nullopt;
}

// All of a packet that is too large has come, and its beginning was kept.
Event Session::on_skipped(std::uint64_t ticket) {
  auto decoded = skipped_->publish();
  if (!decoded) return end(decoded.error());
  Oversized event{*decoded, skipped_->topic_bytes(), skipped_->payload_bytes(),
                  skipped_->packet_bytes(), false, {}, skipped_->properties_dropped()};
  if (event.publish.topic_alias > 0) {
    if (const auto error = look_up_alias(event.publish, event.topic_bytes)) return end(*error);
  }
  event.what = cat("a packet of ", event.packet_bytes, " bytes; mqtt.max_packet allows ",
                   limits_.packet_bytes_max);
  return set_aside(std::move(event), ticket);
}

Event Session::set_aside(Oversized event, std::uint64_t ticket) {
  Publish& p = event.publish;
  if (event.what.empty()) {
    event.what =
        cat("a topic of ", event.topic_bytes, " bytes; the limit is ", limits::kTopicBytesMax);
  }
  if (!limits_.set_oversized_aside) return end({Reason::topic_name_invalid, event.what});
  p.topic = utf8_beginning(p.topic, limits::kTopicBytesMax);
  if (p.qos > 0) {
    if (const auto error = hold_ack(p, ticket, event.duplicate)) return end(*error);
  }
  return event;
}

Event Session::on_pubrel(std::span<const std::uint8_t> body, std::uint64_t ticket) {
  const auto decoded = decode_ack(body, version_);
  if (!decoded) return end(decoded.error());
  const auto at = std::lower_bound(qos2_ids_.begin(), qos2_ids_.end(), decoded->packet_id);
  const bool known = at != qos2_ids_.end() && *at == decoded->packet_id;
  if (known) qos2_ids_.erase(at);
  held_.push_back({ticket, PacketType::pubcomp, decoded->packet_id,
                   known ? Reason::success : Reason::packet_id_not_found});
  return Released{decoded->packet_id, known};
}

std::optional<Event> Session::on_other(const FixedHeader& header,
                                       std::span<const std::uint8_t> body) {
  switch (header.type) {
    case PacketType::pingreq:
      if (!body.empty()) return end({Reason::malformed_packet, "PINGREQ with a body (3.12)"});
      encode_pingresp(output_);
      return std::nullopt;
    case PacketType::subscribe: {
      const auto s = decode_subscribe(body, version_);
      if (!s) return end(s.error());
      // 3.1 has no way to refuse.
      const bool granted = limits_.grant_subscriptions || version_ == Version::v31;
      const auto suback = [&](bool with_reason) {
        return say(
            [&](std::string& out) { encode_suback(out, *s, version_, granted, with_reason); });
      };
      if (!wants_problem_info_ || !suback(true)) suback(false);
      if (limits_.grant_subscriptions) return std::nullopt;
      SubscribeAsked asked{{}, s->filters.size()};
      for (const Subscribe::Filter& f : s->filters) {
        if (asked.filters.size() == limits::kNamedFiltersMax) break;
        asked.filters.emplace_back(utf8_beginning(f.name, limits::kNamedFilterBytes));
      }
      return asked;
    }
    case PacketType::unsubscribe: {
      const auto u = decode_unsubscribe(body, version_);
      if (!u) return end(u.error());
      say([&](std::string& out) {
        encode_unsuback(out, *u, version_, limits_.grant_subscriptions);
      });
      return std::nullopt;
    }
    case PacketType::disconnect:
      return on_disconnect(body);
    case PacketType::auth:
      return end({Reason::protocol_error, "AUTH without an authentication method [MQTT-4.12.0-6]"});
    case PacketType::puback:
    case PacketType::pubrec:
    case PacketType::pubcomp: {
      // They answer a PUBLISH of ours. This server sends none, but the one that had the client's
      // session before may have: the client is helped to forget it (5.0: 3.5.2.1, 3.7.2.1).
      const auto ack = decode_ack(body, version_);
      if (!ack) return end(ack.error());
      if (header.type == PacketType::pubrec && ack->reason < Reason::unspecified) {
        encode_ack(output_, PacketType::pubrel, ack->packet_id, version_,
                   Reason::packet_id_not_found);
      }
      return std::nullopt;
    }
    default:
      return end({Reason::protocol_error, cat("packet type ", static_cast<int>(header.type),
                                              ", which only a server may send")});
  }
}

Event Session::on_disconnect(std::span<const std::uint8_t> body) {
  const auto d = decode_disconnect(body, version_);
  if (!d) return end(d.error());
  if (session_expiry_s_ == 0 && d->session_expiry_s.value_or(0) != 0) {
    return end({Reason::protocol_error,
                "DISCONNECT sets a session expiry where CONNECT had 0 (3.14.2.2.2)"});
  }
  state_ = State::ended;
  return Ended{d->reason != Reason::success, true, d->reason, {}, d->session_expiry_s};
}

Event Session::end(const Malformed& error) {
  disconnect(error.reason, error.what);
  return Ended{true, false, error.reason, error.what, std::nullopt};
}

bool Session::accept(const StoredSession& stored, const ConnackProperties& properties) {
  WS_CHECK(state_ == State::connecting);
  state_ = State::connected;
  qos2_ids_ = stored.qos2_ids;
  std::sort(qos2_ids_.begin(), qos2_ids_.end());
  if (version_ == Version::v5) {
    return say([&](std::string& out) { encode_connack_v5(out, stored.present, properties); });
  }
  // 3.1 knows no "session present": the byte is reserved.
  encode_connack_v311(output_, stored.present && version_ != Version::v31, 0);
  return true;
}

void Session::refuse(Reason reason, std::string_view text) {
  WS_CHECK(state_ == State::connecting);
  state_ = State::ended;
  if (version_ == Version::v5) {
    const auto refusal = [&](std::string_view words) {
      return say([&](std::string& out) { encode_connack_refusal_v5(out, reason, words); });
    };
    if (!refusal(text)) refusal({});
  } else {
    encode_connack_v311(output_, false, reason == Reason::client_id_not_valid ? 2 : 3);
  }
}

void Session::refuse_for_now() {
  WS_CHECK(state_ == State::connecting);
  state_ = State::ended;
  if (version_ != Version::v5) encode_connack_v311(output_, false, 3);
}

std::size_t Session::held_bytes() const {
  return kept_.capacity() + output_.capacity() + held_.size() * sizeof(HeldAck) +
         qos2_ids_.capacity() * sizeof(std::uint16_t) + topic_aliases_.size() * 64 + alias_bytes_ +
         (skipped_ ? skipped_->held_bytes() : 0);
}

void Session::let_go() {
  std::string().swap(kept_);
  skipped_.reset();
  undecoded_ = {};
  topic_aliases_.clear();
  alias_bytes_ = 0;
}

std::size_t Session::release(std::uint64_t ticket) {
  std::size_t released = 0;
  while (!held_.empty() && held_.front().ticket <= ticket) {
    const HeldAck& ack = held_.front();
    encode_ack(output_, ack.type, ack.packet_id, version_, ack.reason);
    const bool settles = ack.type == PacketType::puback ||
                         (ack.type == PacketType::pubcomp && ack.reason == Reason::success);
    if (settles && unacknowledged_ > 0) --unacknowledged_;
    held_.pop_front();
    ++released;
  }
  return released;
}

void Session::disconnect(Reason reason, std::string_view text) {
  if (state_ == State::connected && version_ == Version::v5) {
    const auto goodbye = [&](std::string_view words) {
      return say([&](std::string& out) { encode_disconnect_v5(out, reason, words); });
    };
    if (!goodbye(text)) goodbye({});
  }
  state_ = State::ended;
}

}  // namespace wayside::mqtt
