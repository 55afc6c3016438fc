#include "devices/mqtt/packet.h"
#include "devices/mqtt/properties.h"
#include "devices/mqtt/wire.h"

namespace wayside::mqtt {
namespace {

void put_header(std::string& out, PacketType type, std::size_t remaining) {
  put_u8(out, static_cast<unsigned>(type) << 4);
  put_variable(out, remaining);
}
void put_property(std::string& out, Property id) {
  put_u8(out, static_cast<unsigned>(id));
}

// A packet of reason byte and properties, with what stands before them.
void put_reasoned(std::string& out, PacketType type, std::string_view before, Reason reason,
                  const std::string& properties) {
  std::string body(before);
  put_u8(body, static_cast<unsigned>(reason));
  put_variable(body, properties.size());
  body += properties;
  put_header(out, type, body.size());
  out += body;
}

std::string reason_string(std::string_view text) {
  std::string properties;
  if (!text.empty()) {
    put_property(properties, Property::reason_string);
    put_prefixed(properties, text);
  }
  return properties;
}

}  // namespace

void encode_connack_v5(std::string& out, bool session_present, const ConnackProperties& p) {
  std::string props;
  put_property(props, Property::receive_maximum);
  put_u16(props, p.receive_maximum);
  put_property(props, Property::maximum_packet_size);
  put_u32(props, p.maximum_packet_bytes);
  if (p.topic_alias_maximum > 0) {
    put_property(props, Property::topic_alias_maximum);
    put_u16(props, p.topic_alias_maximum);
  }
  if (p.server_keep_alive_s) {
    put_property(props, Property::server_keep_alive);
    put_u16(props, *p.server_keep_alive_s);
  }
  if (p.session_expiry_s) {
    put_property(props, Property::session_expiry);
    put_u32(props, *p.session_expiry_s);
  }
  if (!p.assigned_client_id.empty()) {
    put_property(props, Property::assigned_client_id);
    put_prefixed(props, p.assigned_client_id);
  }
  put_reasoned(out, PacketType::connack,
               session_present ? std::string_view("\1", 1) : std::string_view("\0", 1),
               Reason::success, props);
}

void encode_connack_refusal_v5(std::string& out, Reason reason, std::string_view reason_text) {
  put_reasoned(out, PacketType::connack, std::string_view("\0", 1), reason,
               reason_string(reason_text));
}

void encode_connack_v311(std::string& out, bool session_present, std::uint8_t return_code) {
  put_header(out, PacketType::connack, 2);
  put_u8(out, session_present ? 1 : 0);
  put_u8(out, return_code);
}

void encode_ack(std::string& out, PacketType type, std::uint16_t packet_id, Version version,
                Reason reason) {
  const bool with_reason = version == Version::v5 && reason != Reason::success;
  put_u8(out, static_cast<unsigned>(type) << 4 | (type == PacketType::pubrel ? 2U : 0U));
  put_variable(out, with_reason ? 3 : 2);
  put_u16(out, packet_id);
  if (with_reason) put_u8(out, static_cast<unsigned>(reason));
}

void encode_suback(std::string& out, const Subscribe& s, Version version, bool granted,
                   bool with_reason_string) {
  const bool v5 = version == Version::v5;
  std::string body;
  put_u16(body, s.packet_id);
  if (v5) {
    const std::string props = reason_string(
        with_reason_string && !granted
            ? "Wayside takes readings and serves no subscriptions: read them with 'wayside read' "
              "or a bridge"
            : "");
    put_variable(body, props.size());
    body += props;
  }
  const auto code = [&](const Subscribe::Filter& f) {
    if (!f.sound && v5) return Reason::topic_filter_invalid;
    if (!f.sound && version == Version::v311) return Reason::unspecified;
    if (!granted) return v5 ? Reason::implementation_specific : Reason::unspecified;
    return Reason{f.qos};
  };
  for (const Subscribe::Filter& f : s.filters) put_u8(body, static_cast<unsigned>(code(f)));
  put_header(out, PacketType::suback, body.size());
  out += body;
}

void encode_unsuback(std::string& out, const Subscribe& u, Version version, bool granted) {
  std::string body;
  put_u16(body, u.packet_id);
  if (version == Version::v5) {
    put_variable(body, 0);
    const Reason answer = granted ? Reason::success : Reason::no_subscription_existed;
    for (const Subscribe::Filter& f : u.filters) {
      put_u8(body, static_cast<unsigned>(f.sound ? answer : Reason::topic_filter_invalid));
    }
  }
  put_header(out, PacketType::unsuback, body.size());
  out += body;
}

void encode_pingresp(std::string& out) {
  put_header(out, PacketType::pingresp, 0);
}

void encode_disconnect_v5(std::string& out, Reason reason, std::string_view reason_text) {
  put_reasoned(out, PacketType::disconnect, {}, reason, reason_string(reason_text));
}

}  // namespace wayside::mqtt
