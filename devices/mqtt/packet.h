// MQTT control packets, 3.1, 3.1.1 and 5, as bytes: what a server reads and what it writes. No
// sockets, no state. Source: OASIS MQTT 3.1.1 (2014) and 5.0 (2019), chapters 2 and 3; IBM's
// MQTT V3.1 (2010), which is served as 3.1.1 wherever it does not ask for something else.
// Thread: pure functions. Views in a decoded packet point into the caller's bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/mqtt/codes.h"

#include <tl/expected.hpp>

namespace wayside::mqtt {

// A packet that cannot be: the reason for the wire and the words for the log. Where a statement
// of the specification is broken, `what` names it.
struct Malformed {
  Reason reason;
  std::string what;
};
template <class T>
using Decoded = tl::expected<T, Malformed>;

struct FixedHeader {
  PacketType type;
  std::uint8_t flags;
  std::size_t header_bytes;     // of the fixed header itself
  std::size_t remaining_bytes;  // of what follows
};
// Nothing when more bytes are needed.
[[nodiscard]] Decoded<std::optional<FixedHeader>> decode_fixed_header(
    std::span<const std::uint8_t> bytes, Version version);

struct Will {
  std::string topic;            // its first limits::kTopicBytesMax bytes
  std::size_t topic_bytes = 0;  // of the whole
  std::string payload;
  std::string properties;  // as Publish has them
  bool is_text = false;
  std::uint8_t qos = 0;
  bool retain = false;
  std::uint32_t delay_s = 0;
};

struct Connect {
  Version version = Version::v311;
  bool clean_start = false;  // 3.1.1: CleanSession
  std::uint16_t keep_alive_s = 0;
  std::string client_id;
  std::optional<Will> will;
  std::uint32_t session_expiry_s = 0;  // 3.1.1: 0 with CleanSession, else for ever
  bool has_username = false;
  bool has_authentication_method = false;
  bool wants_problem_info = true;                   // Request Problem Information (3.1.2.11.7)
  std::uint32_t maximum_packet_bytes = 0xFFFFFFFF;  // the largest packet the client takes
};
inline constexpr std::uint32_t kNeverExpires = 0xFFFFFFFF;

struct Publish {
  std::string_view topic;  // empty with a topic alias
  std::string_view payload;
  std::string_view properties;  // with their length; empty when there are none but an alias
  std::uint16_t packet_id = 0;  // QoS 1 and 2
  std::uint16_t topic_alias = 0;
  std::uint8_t qos = 0;
  bool dup = false;
  bool retain = false;
  bool is_text = false;  // its Payload Format Indicator says UTF-8
};
// The fields of a PUBLISH, not yet checked.
struct PublishParts {
  std::uint8_t flags = 0;
  std::string_view topic;
  std::uint16_t packet_id = 0;
  std::string_view properties;  // with their length; empty: there are none
  std::string_view payload;
};

struct Ack {  // PUBACK, PUBREC, PUBREL, PUBCOMP
  std::uint16_t packet_id = 0;
  Reason reason = Reason::success;
};

struct Subscribe {  // UNSUBSCRIBE too, without QoS
  struct Filter {
    std::string_view name;
    std::uint8_t qos = 0;
    bool sound = true;  // its wildcards stand where they may
  };
  std::uint16_t packet_id = 0;
  std::vector<Filter> filters;
};

struct Disconnect {
  Reason reason = Reason::success;
  std::optional<std::uint32_t> session_expiry_s;
};

// `body` is what follows the fixed header.
[[nodiscard]] Decoded<Connect> decode_connect(std::span<const std::uint8_t> body);
// What the client of a CONNECT that is refused is called, for the log; empty where that is unclear.
[[nodiscard]] std::string client_id_of_connect(std::span<const std::uint8_t> body);
[[nodiscard]] Decoded<bool> check_publish_flags(std::uint8_t flags, Version version);
[[nodiscard]] Decoded<Publish> check_publish(const PublishParts& parts, Version version);
[[nodiscard]] Decoded<Publish> decode_publish(std::uint8_t flags,
                                              std::span<const std::uint8_t> body, Version version);
[[nodiscard]] Decoded<Ack> decode_ack(std::span<const std::uint8_t> body, Version version);
[[nodiscard]] Decoded<Subscribe> decode_subscribe(std::span<const std::uint8_t> body,
                                                  Version version);
[[nodiscard]] Decoded<Subscribe> decode_unsubscribe(std::span<const std::uint8_t> body,
                                                    Version version);
[[nodiscard]] Decoded<Disconnect> decode_disconnect(std::span<const std::uint8_t> body,
                                                    Version version);

// What the server tells in a CONNACK of MQTT 5.
struct ConnackProperties {
  std::uint16_t receive_maximum = 65535;
  std::uint32_t maximum_packet_bytes = 0;
  std::uint16_t topic_alias_maximum = 0;
  std::optional<std::uint32_t> session_expiry_s;     // when it is not what the client asked for
  std::optional<std::uint16_t> server_keep_alive_s;  // likewise
  std::string assigned_client_id;
};
void encode_connack_v5(std::string& out, bool session_present, const ConnackProperties& properties);
void encode_connack_refusal_v5(std::string& out, Reason reason, std::string_view reason_text);
// 3.1 and 3.1.1: return codes of section 3.2.2.3 (0 accepted, 1 version, 2 identifier,
// 3 unavailable).
void encode_connack_v311(std::string& out, bool session_present, std::uint8_t return_code);
// PUBACK, PUBREC, PUBREL, PUBCOMP: the short form when the reason is success.
void encode_ack(std::string& out, PacketType type, std::uint16_t packet_id, Version version,
                Reason reason = Reason::success);
// With `granted`, each sound filter is granted with the QoS it asks for; all others are refused.
void encode_suback(std::string& out, const Subscribe& subscribe, Version version, bool granted,
                   bool with_reason_string);
void encode_unsuback(std::string& out, const Subscribe& unsubscribe, Version version, bool granted);
void encode_pingresp(std::string& out);
void encode_disconnect_v5(std::string& out, Reason reason, std::string_view reason_text);

}  // namespace wayside::mqtt
