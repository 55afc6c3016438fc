// MQTT's numbers: protocol versions, packet types (2.1.2) and reason codes (MQTT 5.0, 2.4).
// Thread: constants.
#pragma once

#include <cstdint>

namespace wayside::mqtt {

enum class Version : std::uint8_t { v31 = 3, v311 = 4, v5 = 5 };

enum class PacketType : std::uint8_t {
  connect = 1,
  connack,
  publish,
  puback,
  pubrec,
  pubrel,
  pubcomp,
  subscribe,
  suback,
  unsubscribe,
  unsuback,
  pingreq,
  pingresp,
  disconnect,
  auth,
};

// MQTT 5 reason codes (section 2.4) that this server uses.
enum class Reason : std::uint8_t {
  success = 0x00,
  disconnect_with_will = 0x04,
  no_subscription_existed = 0x11,
  unspecified = 0x80,
  malformed_packet = 0x81,
  protocol_error = 0x82,
  implementation_specific = 0x83,
  unsupported_version = 0x84,
  client_id_not_valid = 0x85,
  server_unavailable = 0x88,
  server_busy = 0x89,
  server_shutting_down = 0x8B,
  bad_authentication_method = 0x8C,
  keep_alive_timeout = 0x8D,
  session_taken_over = 0x8E,
  topic_filter_invalid = 0x8F,
  topic_name_invalid = 0x90,
  packet_id_not_found = 0x92,
  receive_maximum_exceeded = 0x93,
  topic_alias_invalid = 0x94,
  packet_too_large = 0x95,
};

}  // namespace wayside::mqtt
