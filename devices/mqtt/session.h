// One MQTT connection of one client, as a server sees it: bytes in, events and bytes out. It
// knows no socket, no thread, no clock and no disk. What it must not do before a commit it holds:
// the acknowledgement of what an event carries leaves only after release(ticket).
// Source: MQTT 3.1, 3.1.1 and 5.0, chapters 3 and 4. Thread: one owner (the listener's thread).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "devices/mqtt/events.h"
#include "devices/mqtt/oversized.h"

namespace wayside::mqtt {

struct SessionLimits {
  std::uint16_t receive_maximum = 1000;  // PUBLISH packets of QoS 1 and 2 not yet acknowledged
  std::size_t packet_bytes_max = 1 << 20;
  std::uint16_t topic_alias_maximum = 0;
  bool set_oversized_aside = true;   // else a PUBLISH beyond a limit ends its connection
  bool grant_subscriptions = false;  // though nothing is ever sent for them
};

// What storage knows of a client when it connects.
struct StoredSession {
  bool present = false;
  std::vector<std::uint16_t> qos2_ids;  // PUBLISH stored, PUBREL not yet seen
};

class Session {
 public:
  explicit Session(const SessionLimits& limits) : limits_(limits) {}

  // Gives bytes to decode; they must stay where they are until next() has returned NeedMore, or
  // stash() was called.
  void feed(std::span<const std::uint8_t> bytes);
  // The next event, whose views are valid until the next call. The acknowledgement it asks for is
  // held until release(ticket).
  // REQUIRES: no Ended so far; no ConnectRequested that is not answered.
  [[nodiscard]] Event next(std::uint64_t ticket);
  // Keeps what is not decoded yet, before the caller's bytes go away.
  void stash();

  // False: the client takes no packet as large as a CONNACK; close.
  [[nodiscard]] bool accept(const StoredSession& stored, const ConnackProperties& properties);
  void refuse(Reason reason, std::string_view text);
  // A refusal that passes: a client of 3.1 or 3.1.1 is told "unavailable", one of version 5
  // nothing, because libmosquitto takes every refusal of version 5 as final and never comes back.
  void refuse_for_now();
  // Everything up to this ticket is committed: its acknowledgements, in order, become output.
  // Returns how many.
  std::size_t release(std::uint64_t ticket);
  // The server ends the connection (MQTT 5: with a DISCONNECT): the client is at fault, or another
  // one has its client id.
  void disconnect(Reason reason, std::string_view text);
  // The server ends the connection without a word, because of something that passes: libmosquitto
  // takes a DISCONNECT as final and never comes back.
  void drop() { state_ = State::ended; }

  // Bytes for the client; the caller takes them.
  [[nodiscard]] std::string& output() { return output_; }
  [[nodiscard]] const SessionLimits& limits() const { return limits_; }
  // Whole packets decoded so far: what keeps a connection alive.
  [[nodiscard]] std::uint64_t packets() const { return packets_; }
  [[nodiscard]] bool connected() const { return state_ == State::connected; }
  [[nodiscard]] Version version() const { return version_; }
  [[nodiscard]] std::size_t held_acks() const { return held_.size(); }
  // Memory that it holds beside its own size: what has come of a packet, output, identifiers,
  // aliases.
  [[nodiscard]] std::size_t held_bytes() const;
  // Lets go of what has not been decoded. REQUIRES: next() is called no more.
  void let_go();
  // At the bound the client is not read for a while: a 3.1.1 one, which cannot be told one, at
  // Receive Maximum; one of version 5 where PUBREL packets and re-sends add to its own.
  [[nodiscard]] bool at_bound() const {
    const std::size_t most = limits_.receive_maximum;
    return held_.size() >= (version_ == Version::v5 ? 2 * most + 16 : most);
  }

 private:
  enum class State { waiting_for_connect, connecting, connected, ended };
  struct HeldAck {
    std::uint64_t ticket;
    PacketType type;
    std::uint16_t packet_id;
    Reason reason;
  };

  struct Alias {
    std::string topic;  // its first limits::kTopicBytesMax bytes
    std::size_t topic_bytes;
  };

  // What the first bytes of another protocol are answered with; nothing: it may be MQTT.
  std::optional<Event> on_greeting();
  Event on_connect(std::span<const std::uint8_t> body);
  Event refuse_connect(std::span<const std::uint8_t> body, const Malformed& error);
  Event on_publish(std::uint8_t flags, std::span<const std::uint8_t> body, std::uint64_t ticket);
  Event on_skipped(std::uint64_t ticket);
  Event set_aside(Oversized event, std::uint64_t ticket);
  // Each says what is wrong, if anything is.
  [[nodiscard]] std::optional<Malformed> look_up_alias(Publish& publish, std::size_t& topic_bytes);
  [[nodiscard]] std::optional<Malformed> hold_ack(const Publish& publish, std::uint64_t ticket,
                                                  bool& duplicate);
  Event on_pubrel(std::span<const std::uint8_t> body, std::uint64_t ticket);
  // Handles what needs no event; returns Ended, or nothing.
  std::optional<Event> on_other(const FixedHeader& header, std::span<const std::uint8_t> body);
  Event on_disconnect(std::span<const std::uint8_t> body);
  Event end(const Malformed& error);
  // Appends a packet that `encode` makes, unless the client cannot take one so large; says whether.
  template <class Encode>
  bool say(Encode encode);

  SessionLimits limits_;
  State state_ = State::waiting_for_connect;
  Version version_ = Version::v311;
  bool wants_problem_info_ = true;
  std::uint32_t client_packet_bytes_max_ = 0xFFFFFFFF;
  std::uint32_t session_expiry_s_ = 0;
  std::string kept_;                         // bytes of an unfinished packet
  std::size_t expected_bytes_ = 0;           // of that packet, when its header has come
  std::span<const std::uint8_t> undecoded_;  // in kept_, or in the caller's bytes
  std::string output_;
  std::deque<HeldAck> held_;
  std::uint64_t packets_ = 0;
  std::size_t unacknowledged_ = 0;  // of this connection, as Receive Maximum counts
  std::vector<std::uint16_t> qos2_ids_;  // sorted: two bytes each, where a set takes forty
  std::size_t alias_bytes_ = 0;
  std::unordered_map<std::uint16_t, Alias> topic_aliases_;
  std::unique_ptr<OversizedPublish> skipped_;  // that is coming in, or came last
};

}  // namespace wayside::mqtt
