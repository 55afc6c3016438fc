// MQTT 5 properties (section 2.2.2): one table says which packet may carry which, of what type,
// and whether more than once. Thread: pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/mqtt/packet.h"
#include "devices/mqtt/wire.h"

namespace wayside::mqtt {

enum class Property : std::uint8_t {
  payload_format = 0x01,
  message_expiry = 0x02,
  content_type = 0x03,
  response_topic = 0x08,
  correlation_data = 0x09,
  subscription_id = 0x0B,
  session_expiry = 0x11,
  assigned_client_id = 0x12,
  server_keep_alive = 0x13,
  authentication_method = 0x15,
  authentication_data = 0x16,
  request_problem_info = 0x17,
  will_delay = 0x18,
  request_response_info = 0x19,
  reason_string = 0x1F,
  receive_maximum = 0x21,
  topic_alias_maximum = 0x22,
  topic_alias = 0x23,
  user_property = 0x26,
  maximum_packet_size = 0x27,
};

// Where a set of properties stands.
enum PropertyPlace : unsigned {
  in_connect = 1,
  in_will = 2,
  in_publish = 4,
  in_ack = 8,
  in_subscribe = 16,
  in_unsubscribe = 32,
  in_disconnect = 64,
};

struct PropertyValue {
  Property id;
  std::uint32_t number = 0;  // byte, two, four and variable byte integers
  std::string_view text;     // strings and binary data; of a pair, the name
  std::string_view second;   // of a pair, the value
};

// Reads the length and the properties; `each` is called for every one, and may refuse a value.
[[nodiscard]] Decoded<bool> read_properties(
    Reader& reader, PropertyPlace place,
    const std::function<Decoded<bool>(const PropertyValue&)>& each);

// What a PUBLISH or a will says about its payload, as names and values for the record's headers, in
// the order in which they came: mqtt.payload_format, mqtt.message_expiry_s, mqtt.content_type,
// mqtt.response_topic, mqtt.correlation_data, and mqtt.user.NAME for each user property. A name is
// given in two parts, and nothing is copied: there may be a million of them.
// REQUIRES: `properties` (with their length) have been read before, and found sound.
using PayloadProperty =
    std::function<void(std::string_view name, std::string_view more, std::string_view value)>;
void each_payload_property(std::string_view properties, const PayloadProperty& each);

}  // namespace wayside::mqtt
