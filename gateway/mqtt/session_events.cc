// What a connection does with what its session reports: CONNECT, readings, releases, the end.
#include <algorithm>
#include <asio/post.hpp>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/mqtt/connection.h"

namespace wayside {

void MqttConnection::on(mqtt::ConnectRequested&& event) {
  mqtt::Connect& connect = event.connect;
  const auto over = [&] {
    ended_ = true;
    write();
    end(false);
  };
  const auto refuse = [&](const char* counter, mqtt::Reason reason, const std::string& text) {
    hub_.count(counter);
    hub_.note_trouble(connect.client_id.substr(0, limits::kKeyBytesMax), cat("refused: ", text));
    hub_.logger.repeated(LogLevel::warning, counter,
                         cat("client '", printable(connect.client_id.substr(0, 200)), "' at ",
                             peer_, " is refused: ", text));
    session_.refuse(reason, text);
    over();
  };
  const bool busy =
      hub_.outstanding > 10 * static_cast<std::size_t>(hub_.config.mqtt.max_connections);
  if (busy || hub_.stopping) {
    hub_.count("refused.held_up");
    if (!hub_.stopping) {
      hub_.logger.repeated(
          LogLevel::warning, "mqtt.held_up",
          cat("client '", printable(connect.client_id), "' at ", peer_, " is refused: ",
              hub_.outstanding, " batches wait for their commit; the limit is 10 times "
              "mqtt.max_connections = ", hub_.config.mqtt.max_connections));
    }
    session_.refuse_for_now();
    return over();
  }
  if (connect.has_authentication_method) {
    return refuse("refused.auth_method", mqtt::Reason::bad_authentication_method,
                  "no enhanced authentication here");
  }
  const auto id_bytes_max = static_cast<std::size_t>(hub_.config.mqtt.client_id_bytes_max);
  if (connect.client_id.size() > id_bytes_max ||
      (connect.client_id.empty() && connect.version != mqtt::Version::v5 &&
       !connect.clean_start)) {
    return refuse("refused.client_id", mqtt::Reason::client_id_not_valid,
                  cat("a client identifier of ", connect.client_id.size(),
                      " bytes: 1 to ", id_bytes_max, " are taken (mqtt.client_id_max)"));
  }
  // Who takes over a connection of its own takes a place that it has already; but one that waits
  // for a place to be free has none to give.
  const auto same_id = hub_.clients.find(connect.client_id);
  const auto own = same_id == hub_.clients.end() ? nullptr : same_id->second.lock();
  if (!own || !own->accepted_) {
    const auto entry = hub_.strangers.admit(*this, connect.client_id);
    if (entry != Strangers::Entry::admitted) {
      const bool full = entry == Strangers::Entry::full;
      hub_.strangers.note(full ? "refused.max_connections" : "refused.address", address_);
      hub_.logger.repeated(
          LogLevel::warning, full ? "mqtt.max_connections" : "mqtt.address",
          cat("client '", printable(connect.client_id), "' at ", peer_, " is refused: ",
              full ? cat("mqtt.max_connections = ", hub_.config.mqtt.max_connections,
                         " is reached")
                   : cat("mqtt.max_connections_per_address = ",
                         hub_.config.mqtt.max_connections_per_address, " is reached")));
      session_.refuse_for_now();
      return over();
    }
  }
  known_before_ = hub_.strangers.known.contains(connect.client_id);
  if (connect.client_id.empty()) {
    connect.client_id = assigned_client_id_ = "auto-" + random_uuid();
  }
  client_id_ = connect.client_id;
  clean_start_ = connect.clean_start;
  keep_alive_ms_ = connect.keep_alive_s * 1500LL;
  const std::int64_t idle_max_ms = hub_.config.mqtt.idle_max_ms;
  if (keep_alive_ms_ == 0 || keep_alive_ms_ > idle_max_ms) {
    keep_alive_ms_ = idle_max_ms;
    if (connect.version == mqtt::Version::v5) {
      server_keep_alive_s_ =
          static_cast<std::uint16_t>(std::min<std::int64_t>(idle_max_ms / 1500, UINT16_MAX));
      keep_alive_ms_ = *server_keep_alive_s_ * 1500LL;
    }
  }
  const std::int64_t expiry_most_s = hub_.config.mqtt.session_expiry_max_ms / 1000;
  session_expiry_s_ =
      static_cast<std::uint32_t>(std::min<std::int64_t>(connect.session_expiry_s, expiry_most_s));
  expiry_capped_ = session_expiry_s_ != connect.session_expiry_s;
  will_ = std::move(connect.will);
  opening_session_ = true;
  registered_ = true;
  std::weak_ptr<MqttConnection>& holder = hub_.clients[client_id_];
  const auto other = std::exchange(holder, weak_from_this()).lock();
  if (!other) return open_session();
  session_.stash();  // the other one reads into the same buffer
  other->take_over(shared_from_this());
}

// What the client had comes from the writer, behind everything of it that is on its way there.
void MqttConnection::open_session() {
  if (state_ != State::open) return;
  ++hub_.outstanding;
  Batch batch;
  batch.flush_now = true;
  batch.ops.emplace_back(
      OpenSession{client_id_, clean_start_, session_expiry_s_, {}, {}, {}, origin_});
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
    session_.refuse_for_now();
    ended_ = true;
    write();
    return end(false);
  }
  hub_.client_is_back(client_id_, opened.present);
  if (opened.not_kept) {
    session_expiry_s_ = 0;  // which a client of MQTT 5 is told
    expiry_capped_ = true;
    hub_.strangers.note("sessions.not_kept", address_);
  }
  mqtt::ConnackProperties properties;
  const mqtt::SessionLimits& limits = session_.limits();
  properties.receive_maximum = limits.receive_maximum;
  properties.maximum_packet_bytes = static_cast<std::uint32_t>(limits.packet_bytes_max);
  properties.topic_alias_maximum = limits.topic_alias_maximum;
  properties.server_keep_alive_s = server_keep_alive_s_;
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
    forget_topics();
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
    last_resolved_.source->origin = origin_;
    // The topic twice, the client id, and what is about them.
    const std::size_t bytes = 400 + 2 * topic.size() + client_id_.size();
    if (topics_.size() >= limits::kTopicCacheMax ||
        topics_bytes_ + bytes > limits::kTopicCacheBytesMax) {
      forget_topics();
    }
    topics_.emplace(topic, last_resolved_);
    topics_bytes_ += bytes;
  }
  return last_resolved_;
}

void MqttConnection::on(mqtt::Published&& event) {
  const mqtt::Publish& p = event.publish;
  if (event.duplicate) return;
  const std::size_t before = batch_.ops.size();
  const std::string headers = hub_.headers_of(p.properties, batch_counts_);
  const auto made = hub_.ingest->make(resolve(p.topic), p.payload, p.retain, batch_.ops,
                                      {headers, p.is_text});
  hub_.note_outcome(known_as(), made, batch_counts_);
  for (std::size_t i = before; i < batch_.ops.size(); ++i) batch_bytes_ += op_bytes(batch_.ops[i]);
  if (p.qos == 2 && session_id_ > 0) {
    batch_.ops.emplace_back(AddQos2Id{session_id_, p.packet_id, origin_});
  }
}

void MqttConnection::on(const mqtt::Oversized& event) {
  const mqtt::Publish& p = event.publish;
  if (event.duplicate) return;
  hub_.set_aside(known_as(),
                 {p.topic, p.payload, event.topic_bytes, event.payload_bytes, p.properties,
                  event.what, event.properties_dropped},
                 batch_.ops, batch_counts_);
  batch_bytes_ += op_bytes(batch_.ops.back());
  if (p.qos == 2 && session_id_ > 0) {
    batch_.ops.emplace_back(AddQos2Id{session_id_, p.packet_id, origin_});
  }
  hub_.note_trouble(known_as(), cat("quarantined: too_large: ", event.what));
  hub_.logger.repeated(
      LogLevel::warning, "mqtt.too_large",
      cat("client '", printable(client_id_), "' at ", peer_, ": ", event.what,
          "; it is set aside in 'quarantine' without its end (mqtt.oversized)"));
}

void MqttConnection::on(const mqtt::SubscribeAsked& event) {
  std::string names;
  for (const std::string& f : event.filters) names += cat(names.empty() ? "'" : ", '", f, "'");
  if (event.count > event.filters.size()) {
    names += cat(" and ", event.count - event.filters.size(), " more");
  }
  hub_.count("refused.subscribe");
  hub_.note_trouble(known_as(), cat("asked to subscribe to ", names, "; nothing is sent"));
  hub_.logger.repeated(
      LogLevel::warning, "mqtt.subscribe",
      cat("client '", printable(client_id_), "' at ", peer_, " asked to subscribe to ",
          printable(names), ": Wayside sends nothing to devices. If its program ends because it "
          "is refused: mqtt.subscribe = \"grant\""));
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
  if (event.not_mqtt) {
    hub_.count("refused.not_mqtt");
    hub_.logger.repeated(LogLevel::warning, cat("mqtt.", event.what),
                         cat("a client at ", peer_, " speaks no MQTT: ", event.what));
  } else if (!event.by_client) {
    hub_.count(event.reason == mqtt::Reason::packet_too_large ? "refused.packet_too_large"
                                                              : "refused.protocol");
    if (client_id_.empty()) client_id_ = event.client_id;
    hub_.note_trouble(known_as(), cat("disconnected: ", event.what));
    hub_.logger.repeated(
        LogLevel::warning, cat("mqtt.", static_cast<int>(event.reason)),
        cat("client '", printable(client_id_), "' at ", peer_, " is disconnected: ", event.what));
  }
  submit_batch();  // what came before is stored all the same
  write();
  end(event.publish_will);
}

}  // namespace wayside
