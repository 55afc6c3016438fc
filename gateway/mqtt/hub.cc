#include "gateway/mqtt/hub.h"

#include <algorithm>
#include <chrono>

#include "base/limits.h"
#include "base/text.h"
#include "devices/mqtt/properties.h"

namespace wayside {

std::int64_t steady_us() {
  using namespace std::chrono;
  return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

std::size_t bytes_of(const mqtt::Will& will) {
  return 200 + will.topic.capacity() + will.payload.capacity() + will.properties.capacity();
}

void MqttHub::count_wills() {
  std::size_t bytes = 0;
  for (const DelayedWill& w : delayed_wills) bytes += bytes_of(w.will) + w.client_id.size();
  strangers.wills_hold(bytes);
}

void PaceKeeper::reading_came(Member& m, std::int64_t now_us) {
  if (m.state == Member::State::waiting) return;
  if (m.state == Member::State::expected) --expected_;
  m.hungry = now_us - m.acked_us < soon_us_;
  m.state = Member::State::waiting;
  if (m.hungry) ++hungry_waiting_;
}

void PaceKeeper::all_acknowledged(const std::shared_ptr<Member>& m, std::int64_t now_us) {
  if (m->state != Member::State::waiting) return;
  m->acked_us = now_us;
  m->state = Member::State::idle;
  if (!m->hungry) return;
  --hungry_waiting_;
  m->state = Member::State::expected;
  ++expected_;
  expected_until_.push_back({m, now_us});
}

void PaceKeeper::gone(Member& m) {
  if (m.state == Member::State::expected) --expected_;
  if (m.state == Member::State::waiting && m.hungry) --hungry_waiting_;
  m.state = Member::State::idle;
}

bool PaceKeeper::commit_now(std::int64_t now_us) {
  while (!expected_until_.empty() && now_us - expected_until_.front().acked_us >= soon_us_) {
    const auto m = expected_until_.front().member.lock();
    if (m && m->state == Member::State::expected &&
        m->acked_us == expected_until_.front().acked_us) {
      m->state = Member::State::idle;
      --expected_;
    }
    expected_until_.pop_front();
  }
  return hungry_waiting_ > 0 && expected_ == 0;
}

void MqttHub::store_counts(const Counts& counts, std::vector<Op>& ops) {
  for (const auto& [name, n] : counts) ops.emplace_back(Count{name, n});
}

MqttHub::Counts MqttHub::take_counts(std::vector<Op>& ops) {
  store_counts(counts, ops);
  return std::exchange(counts, {});
}

void MqttHub::note_trouble(const std::string& client_id, std::string what) {
  if (client_id.empty()) return;
  if (troubles.size() >= limits::kTroublesMax && !troubles.contains(client_id)) {
    troubles.erase(std::min_element(troubles.begin(), troubles.end(), [](auto& a, auto& b) {
      return a.second.at_ms < b.second.at_ms;
    }));
  }
  troubles[client_id] = {std::move(what), clock.wall_ms()};
}

void MqttHub::note_outcome(const std::string& client_id, const Ingest::Outcome& made,
                           Counts& of_readings) {
  for (const Count& c : made.counts()) of_readings[c.name] += c.n;
  if (made.quarantined == nullptr && made.time_fault.empty()) return;
  note_trouble(client_id, made.quarantined != nullptr
                              ? cat("quarantined: ", made.quarantined)
                              : cat("its time was not taken: ", made.time_fault));
}

void MqttHub::put_back(const Counts& taken) {
  for (const auto& [name, n] : taken) count(name, n);
}

void MqttHub::consider_commit() {
  if (in_flight > 0 || !submitted_since_flush || !pace.commit_now(steady_us())) return;
  submitted_since_flush = false;
  in_flight = outstanding;
  sink.flush();
}

void MqttHub::leave_will(const std::string& client_id, const mqtt::Will& will,
                         std::int64_t delay_ms) {
  if (delay_ms <= 0 || delayed_wills.size() >= limits::kDelayedWillsMax ||
      !strangers.may_keep_will(bytes_of(will))) {
    return publish_will(client_id, will);
  }
  delayed_wills.push_back({client_id, will, clock.steady_ms() + delay_ms});
  count_wills();
}

void MqttHub::publish_will(const std::string& client_id, const mqtt::Will& will) {
  Batch batch;
  Counts counted;
  if (will.topic_bytes > limits::kTopicBytesMax) {
    set_aside(client_id,
              {will.topic, will.payload, will.topic_bytes, will.payload.size(), will.properties,
               cat("a will with a topic of ", will.topic_bytes, " bytes; the limit is ",
                   limits::kTopicBytesMax)},
              batch.ops, counted);
  } else {
    const std::string headers = headers_of(will.properties, counted);
    const auto made = ingest->make(ingest->resolve(will.topic, client_id), will.payload,
                                   will.retain, batch.ops, {headers, will.is_text});
    note_outcome(client_id, made, counted);
  }
  store_counts(counted, batch.ops);
  // Like any reading's, its bytes wait for their commit; a will is dropped rather than hold more.
  std::size_t bytes = 0;
  for (const Op& op : batch.ops) bytes += op_bytes(op);
  if (pending_bytes + bytes > limits::kPendingBytesMax) return count("dropped.will");
  pending_bytes += bytes;
  ++outstanding;
  batch.done = [this, bytes](Batch&, const Status& status) {
    post([this, bytes, ok = status.has_value()] {
      settled();
      pending_bytes -= bytes;
      if (!ok) count("dropped.will");
    });
  };
  sink.submit(std::move(batch));
}

std::string MqttHub::headers_of(std::string_view properties, Counts& of_readings) {
  if (properties.empty()) return {};
  std::vector<Header> headers;
  std::size_t bytes = 0, dropped = 0;
  mqtt::each_payload_property(properties, [&](std::string_view name, std::string_view more,
                                              std::string_view value) {
    const std::size_t n = name.size() + more.size() + value.size();
    if (headers.size() >= limits::kHeadersMax || bytes + n > limits::kHeaderBytesMax) {
      ++dropped;
      return;
    }
    bytes += n;
    headers.emplace_back(cat(name, more), std::string(value));
  });
  if (dropped > 0) {
    of_readings["dropped.headers"] += static_cast<std::int64_t>(dropped);
    headers.emplace_back("mqtt.headers_dropped", cat(dropped));
  }
  return encode_headers(headers);
}

void MqttHub::set_aside(const std::string& client_id, const TooLarge& r, std::vector<Op>& ops,
                        Counts& of_readings) {
  QuarantineNote note;
  note.reason = kTooLarge;
  note.detail = r.what;
  note.mqtt_topic = r.topic;
  note.client_id = client_id;
  note.others = {{"mqtt.topic_bytes", cat(r.topic_bytes)},
                 {"mqtt.payload_bytes", cat(r.payload_bytes)}};
  if (auto own = decode_headers(headers_of(r.properties, of_readings))) {
    for (Header& h : *own) note.others.push_back(std::move(h));
  }
  if (r.properties_dropped) {
    note.others.emplace_back("mqtt.headers_dropped", "all");
    ++of_readings["dropped.headers"];
  }
  ingest->set_aside(std::make_shared<Source>(Source{client_id, std::string(r.topic)}), r.payload,
                    std::move(note), ops);
  ++of_readings["quarantined.too_large"];
}

void MqttHub::client_is_back(const std::string& client_id, bool same_session) {
  for (auto it = delayed_wills.begin(); it != delayed_wills.end();) {
    if (it->client_id != client_id) {
      ++it;
      continue;
    }
    if (!same_session) publish_will(client_id, it->will);
    it = delayed_wills.erase(it);
    count_wills();
  }
}

void MqttHub::publish_due_wills() {
  const std::int64_t now = clock.steady_ms();
  for (auto it = delayed_wills.begin(); it != delayed_wills.end();) {
    if (it->due_ms > now) {
      ++it;
      continue;
    }
    publish_will(it->client_id, it->will);
    it = delayed_wills.erase(it);
    count_wills();
  }
}

}  // namespace wayside
