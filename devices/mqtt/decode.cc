#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "devices/mqtt/packet.h"
#include "devices/mqtt/properties.h"
#include "devices/mqtt/wire.h"

namespace wayside::mqtt {
namespace {

tl::unexpected<Malformed> bad(Reason reason, std::string what) {
  return tl::unexpected<Malformed>(Malformed{reason, std::move(what)});
}
tl::unexpected<Malformed> torn(std::string_view packet) {
  return bad(Reason::malformed_packet, cat(packet, " ends before its fields do"));
}

Decoded<bool> accept_any(const PropertyValue&) {
  return true;
}

// A byte that may only be 0 or 1, a number that may not be 0.
Decoded<bool> check_value(const PropertyValue& p) {
  switch (p.id) {
    case Property::payload_format:
    case Property::request_problem_info:
    case Property::request_response_info:
      if (p.number > 1) return bad(Reason::protocol_error, "a flag property is neither 0 nor 1");
      break;
    case Property::receive_maximum:
    case Property::maximum_packet_size:
      if (p.number == 0) {
        return bad(Reason::protocol_error,
                   "Receive Maximum or Maximum Packet Size is 0 (3.1.2.11)");
      }
      break;
    default:
      break;
  }
  return true;
}

// A topic name (4.7): UTF-8, at least one character, no wildcards. How long it may be is for the
// session to say.
Decoded<bool> check_topic(std::string_view topic) {
  if (!is_mqtt_utf8(topic)) {
    return bad(Reason::malformed_packet, "the topic is not UTF-8 [MQTT-1.5.4-1]");
  }
  if (topic.empty()) {
    return bad(Reason::protocol_error, "the topic is empty [MQTT-4.7.3-1] (5.0: 3.3.2.1)");
  }
  if (topic.find_first_of("+#") != std::string_view::npos) {
    return bad(Reason::malformed_packet, "the topic holds a wildcard [MQTT-3.3.2-2]");
  }
  return true;
}

// 4.7.1: '#' is the last level, and it and '+' have a level to themselves. 4.8.2, of MQTT 5:
// $share/NAME/FILTER, with no wildcard and at least one character in NAME.
bool is_sound_filter(std::string_view filter, Version version) {
  constexpr std::string_view kShared = "$share/";
  if (version == Version::v5 && filter.starts_with(kShared)) {
    filter.remove_prefix(kShared.size());
    const std::size_t name = std::min(filter.find('/'), filter.size());
    if (name == 0 || filter.substr(0, name).find_first_of("+#") != std::string_view::npos) {
      return false;
    }
    filter.remove_prefix(std::min(name + 1, filter.size()));
    if (filter.empty()) return false;
  }
  for (std::size_t i = 0; i < filter.size(); ++i) {
    if (filter[i] != '+' && filter[i] != '#') continue;
    const bool begins = i == 0 || filter[i - 1] == '/';
    const bool ends = i + 1 == filter.size();
    if (!begins || !(ends || (filter[i] == '+' && filter[i + 1] == '/'))) return false;
  }
  return true;
}

Decoded<Will> decode_will(Reader& r, std::uint8_t flags, Version version) {
  Will will;
  will.qos = flags >> 3 & 3;
  will.retain = (flags & 0x20) != 0;
  if (version == Version::v5) {
    Reader from = r;
    bool any = false;
    auto ok = read_properties(r, in_will, [&](const PropertyValue& p) -> Decoded<bool> {
      if (p.id == Property::will_delay) will.delay_s = p.number;
      if (p.id == Property::payload_format) will.is_text = p.number == 1;
      any = any || p.id != Property::will_delay;
      return check_value(p);
    });
    if (!ok) return tl::unexpected<Malformed>(ok.error());
    if (any) will.properties = from.bytes(from.left() - r.left());
  }
  const std::string_view topic = r.prefixed();
  const std::string_view payload = r.prefixed();
  if (r.bad()) return torn("CONNECT");
  if (auto ok = check_topic(topic); !ok) return tl::unexpected<Malformed>(ok.error());
  will.topic = utf8_beginning(topic, limits::kTopicBytesMax);
  will.topic_bytes = topic.size();
  will.payload = payload;
  return will;
}

Decoded<Subscribe> decode_filters(std::span<const std::uint8_t> body, Version version,
                                  PropertyPlace place, bool with_options) {
  Reader r(body);
  Subscribe s;
  s.packet_id = r.u16();
  if (r.bad()) return torn("SUBSCRIBE or UNSUBSCRIBE");
  if (s.packet_id == 0) {
    return bad(Reason::protocol_error, "packet identifier 0 [MQTT-2.2.1-3]");
  }
  if (version == Version::v5) {
    auto ok = read_properties(r, place, [](const PropertyValue& p) -> Decoded<bool> {
      if (p.id == Property::subscription_id && p.number == 0) {
        return bad(Reason::protocol_error, "subscription identifier 0 (3.8.2.1.2)");
      }
      return true;
    });
    if (!ok) return tl::unexpected<Malformed>(ok.error());
  }
  while (r.left() > 0) {
    const std::string_view filter = r.prefixed();
    const std::uint8_t options = with_options ? r.u8() : std::uint8_t{0};
    if (r.bad()) return torn("SUBSCRIBE or UNSUBSCRIBE");
    if (filter.empty() || !is_mqtt_utf8(filter)) {
      return bad(Reason::malformed_packet, "a topic filter is empty or not UTF-8 [MQTT-4.7.3-1]");
    }
    const unsigned reserved = version == Version::v5 ? 0xC0 : version == Version::v31 ? 0 : 0xFC;
    if ((options & reserved) != 0 || (options & 3) == 3) {
      return bad(Reason::malformed_packet, "reserved subscription option bits [MQTT-3.8.3-5]");
    }
    if (version == Version::v5 &&
        ((options & 0x30) == 0x30 || ((options & 4) != 0 && filter.starts_with("$share/")))) {
      return bad(Reason::protocol_error,
                 "retain handling 3, or No Local and shared [MQTT-3.8.3-4]");
    }
    s.filters.push_back({filter, static_cast<std::uint8_t>(options & 3),
                         is_sound_filter(filter, version)});
  }
  if (s.filters.empty()) {
    return bad(Reason::protocol_error, "no topic filter [MQTT-3.8.3-2, 3.10.3-2]");
  }
  return s;
}

}  // namespace

Decoded<std::optional<FixedHeader>> decode_fixed_header(std::span<const std::uint8_t> bytes,
                                                        Version version) {
  if (bytes.empty()) return std::optional<FixedHeader>{};
  const auto type = static_cast<std::uint8_t>(bytes[0] >> 4);
  const auto flags = static_cast<std::uint8_t>(bytes[0] & 0x0F);
  if (type == 0) return bad(Reason::malformed_packet, "packet type 0 is reserved (2.1.2)");
  // PUBREL, SUBSCRIBE and UNSUBSCRIBE have flags 2, PUBLISH its own, all others 0 [MQTT-2.1.3-1].
  // In 3.1 a packet that is sent again has DUP, too, and unused flags may be anything.
  const bool two = type == 6 || type == 8 || type == 10;
  if (type != 3 && flags != (two ? 2 : 0) && version != Version::v31) {
    return bad(Reason::malformed_packet, "reserved flags in the fixed header [MQTT-2.1.3-1]");
  }
  std::size_t remaining = 0;
  for (std::size_t i = 1; i <= 4; ++i) {
    if (i >= bytes.size()) return std::optional<FixedHeader>{};
    remaining |= static_cast<std::size_t>(bytes[i] & 0x7F) << (7 * (i - 1));
    if ((bytes[i] & 0x80) == 0) {
      return std::optional(FixedHeader{static_cast<PacketType>(type), flags, i + 1, remaining});
    }
  }
  return bad(Reason::malformed_packet, "remaining length of more than four bytes [MQTT-1.5.5-1]");
}

Decoded<Connect> decode_connect(std::span<const std::uint8_t> body) {
  Reader r(body);
  const std::string_view protocol = r.prefixed();
  const std::uint8_t level = r.u8();
  if (r.bad()) return torn("CONNECT");
  const bool v31 = protocol == "MQIsdp" && level == 3;
  if (!v31 && (protocol == "MQTT" || protocol == "MQIsdp") && (level == 0x84 || level == 0x83)) {
    return bad(Reason::unsupported_version,
               cat("protocol level ", int{level}, ": a Mosquitto bridge asks for a form of its own "
                   "first, and comes back by itself without it (try_private false spares that)"));
  }
  if (!v31 && protocol != "MQTT") {
    return bad(Reason::unsupported_version,
               cat("the protocol name is '", printable(protocol.substr(0, 32)), "', level ",
                   int{level}, ", and not MQTT [MQTT-3.1.2-1]"));
  }
  if (!v31 && level != 4 && level != 5) {
    return bad(Reason::unsupported_version,
               cat("protocol level ", int{level}, ": this gateway speaks MQTT 3.1 (MQIsdp), 3.1.1 "
                   "and 5"));
  }
  Connect c;
  c.version = static_cast<Version>(level);
  const std::uint8_t flags = r.u8();
  c.keep_alive_s = r.u16();
  if (r.bad()) return torn("CONNECT");
  c.clean_start = (flags & 0x02) != 0;
  const bool has_will = (flags & 0x04) != 0;
  c.has_username = (flags & 0x80) != 0;
  if ((flags & 0x01) != 0)
    return bad(Reason::malformed_packet, "reserved connect flag [MQTT-3.1.2-3]");
  if ((!has_will && (flags & 0x38) != 0) || (flags >> 3 & 3) == 3) {
    return bad(Reason::malformed_packet, "will flags contradict each other [MQTT-3.1.2-11 to 15]");
  }
  if (c.version != Version::v5 && !c.has_username && (flags & 0x40) != 0) {
    return bad(Reason::malformed_packet, "a password without a user name [MQTT-3.1.2-22]");
  }
  if (c.version == Version::v5) {
    bool has_data = false;
    auto ok = read_properties(r, in_connect, [&](const PropertyValue& p) -> Decoded<bool> {
      if (p.id == Property::session_expiry) c.session_expiry_s = p.number;
      if (p.id == Property::authentication_method) c.has_authentication_method = true;
      if (p.id == Property::authentication_data) has_data = true;
      if (p.id == Property::request_problem_info) c.wants_problem_info = p.number == 1;
      if (p.id == Property::maximum_packet_size) c.maximum_packet_bytes = p.number;
      return check_value(p);
    });
    if (!ok) return tl::unexpected<Malformed>(ok.error());
    if (has_data && !c.has_authentication_method) {
      return bad(Reason::protocol_error, "authentication data without a method (3.1.2.11.10)");
    }
  } else if (!c.clean_start) {
    c.session_expiry_s = kNeverExpires;
  }
  c.client_id = r.prefixed();
  if (r.bad()) return torn("CONNECT");
  if (!is_mqtt_utf8(c.client_id)) {
    return bad(Reason::malformed_packet, "the client identifier is not UTF-8 [MQTT-3.1.3-4]");
  }
  if (has_will) {
    auto will = decode_will(r, flags, c.version);
    if (!will) return tl::unexpected<Malformed>(std::move(will).error());
    c.will = std::move(*will);
  }
  // In 3.1 the packet's length stands above these flags: either may be missing.
  const auto is_there = [&] { return c.version != Version::v31 || r.left() > 0; };
  if (c.has_username && is_there() && !is_mqtt_utf8(r.prefixed())) {
    return bad(Reason::malformed_packet, "the user name is not UTF-8 [MQTT-3.1.3-11]");
  }
  if ((flags & 0x40) != 0 && is_there()) r.prefixed();
  if (r.bad()) return torn("CONNECT");
  if (r.left() > 0) return bad(Reason::malformed_packet, "bytes after CONNECT's last field");
  return c;
}

std::string client_id_of_connect(std::span<const std::uint8_t> body) {
  Reader r(body);
  r.prefixed();
  const bool v5 = (r.u8() & 0x7F) >= 5;
  r.bytes(3);  // flags and keep-alive
  if (v5) r.bytes(r.variable());
  const std::string_view id = r.prefixed();
  return r.bad() ? std::string() : std::string(id.substr(0, limits::kKeyBytesMax));
}

Decoded<bool> check_publish_flags(std::uint8_t flags, Version version) {
  if ((flags & 6) == 6) return bad(Reason::malformed_packet, "QoS 3 [MQTT-3.3.1-4]");
  if ((flags & 14) == 8 && version != Version::v31) {
    return bad(Reason::malformed_packet, "DUP with QoS 0 [MQTT-3.3.1-2]");
  }
  return true;
}

Decoded<Publish> decode_publish(std::uint8_t flags, std::span<const std::uint8_t> body,
                                Version version) {
  PublishParts parts;
  parts.flags = flags;
  Reader r(body);
  parts.topic = r.prefixed();
  if ((flags & 6) != 0) parts.packet_id = r.u16();
  if (version == Version::v5) {
    Reader from = r;
    r.bytes(r.variable());
    parts.properties = from.bytes(from.left() - r.left());
    // The usual case needs no look at the table: there are none.
    if (parts.properties.size() == 1) parts.properties = {};
  }
  if (r.bad()) return torn("PUBLISH");
  parts.payload = r.bytes(r.left());
  return check_publish(parts, version);
}

Decoded<Publish> check_publish(const PublishParts& parts, Version version) {
  if (auto ok = check_publish_flags(parts.flags, version); !ok) {
    return tl::unexpected<Malformed>(ok.error());
  }
  Publish p;
  p.dup = (parts.flags & 8) != 0;
  p.qos = parts.flags >> 1 & 3;
  p.retain = (parts.flags & 1) != 0;
  p.topic = parts.topic;
  p.packet_id = parts.packet_id;
  p.payload = parts.payload;
  if (p.qos > 0 && p.packet_id == 0) {
    return bad(Reason::protocol_error, "packet identifier 0 [MQTT-2.2.1-3]");
  }
  if (!parts.properties.empty()) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(parts.properties.data());
    Reader r({bytes, parts.properties.size()});
    auto ok = read_properties(r, in_publish, [&](const PropertyValue& v) -> Decoded<bool> {
      if (v.id == Property::topic_alias) {
        if (v.number == 0) return bad(Reason::topic_alias_invalid, "topic alias 0 [MQTT-3.3.2-8]");
        p.topic_alias = static_cast<std::uint16_t>(v.number);
      } else {
        p.properties = parts.properties;
      }
      if (v.id == Property::payload_format) p.is_text = v.number == 1;
      return check_value(v);
    });
    if (!ok) return tl::unexpected<Malformed>(ok.error());
  }
  if (!p.topic.empty() || p.topic_alias == 0) {
    if (auto ok = check_topic(p.topic); !ok) return tl::unexpected<Malformed>(ok.error());
  }
  return p;
}

Decoded<Ack> decode_ack(std::span<const std::uint8_t> body, Version version) {
  Reader r(body);
  Ack ack;
  ack.packet_id = r.u16();
  if (r.bad()) return torn("an acknowledgement");
  if (ack.packet_id == 0) return bad(Reason::protocol_error, "packet identifier 0 [MQTT-2.2.1-3]");
  if (version == Version::v5 && r.left() > 0) {
    ack.reason = static_cast<Reason>(r.u8());
    if (r.left() > 0) {
      if (auto ok = read_properties(r, in_ack, accept_any); !ok) {
        return tl::unexpected<Malformed>(ok.error());
      }
    }
  }
  if (r.left() > 0) {
    return bad(Reason::malformed_packet, "bytes after an acknowledgement's last field");
  }
  return ack;
}

Decoded<Subscribe> decode_subscribe(std::span<const std::uint8_t> body, Version version) {
  return decode_filters(body, version, in_subscribe, true);
}

Decoded<Subscribe> decode_unsubscribe(std::span<const std::uint8_t> body, Version version) {
  return decode_filters(body, version, in_unsubscribe, false);
}

Decoded<Disconnect> decode_disconnect(std::span<const std::uint8_t> body, Version version) {
  Reader r(body);
  Disconnect d;
  if (version == Version::v5 && r.left() > 0) {
    d.reason = static_cast<Reason>(r.u8());
    if (r.left() > 0) {
      auto ok = read_properties(r, in_disconnect, [&](const PropertyValue& p) -> Decoded<bool> {
        if (p.id == Property::session_expiry) d.session_expiry_s = p.number;
        return true;
      });
      if (!ok) return tl::unexpected<Malformed>(ok.error());
    }
  }
  if (r.left() > 0) return bad(Reason::malformed_packet, "bytes after DISCONNECT's last field");
  return d;
}

}  // namespace wayside::mqtt
