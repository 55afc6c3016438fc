#include "devices/mqtt/properties.h"

#include <array>

#include "base/text.h"

namespace wayside::mqtt {
namespace {

enum class Type : std::uint8_t { byte, two, four, variable, text, binary, pair };

struct Row {
  Property id;
  Type type;
  unsigned places;
};

// Section 2.2.2.2, table 2-4: the properties that a client may send.
constexpr std::array kRows = {
    Row{Property::payload_format, Type::byte, in_publish | in_will},
    Row{Property::message_expiry, Type::four, in_publish | in_will},
    Row{Property::content_type, Type::text, in_publish | in_will},
    Row{Property::response_topic, Type::text, in_publish | in_will},
    Row{Property::correlation_data, Type::binary, in_publish | in_will},
    Row{Property::subscription_id, Type::variable, in_subscribe},
    Row{Property::session_expiry, Type::four, in_connect | in_disconnect},
    Row{Property::authentication_method, Type::text, in_connect},
    Row{Property::authentication_data, Type::binary, in_connect},
    Row{Property::request_problem_info, Type::byte, in_connect},
    Row{Property::will_delay, Type::four, in_will},
    Row{Property::request_response_info, Type::byte, in_connect},
    Row{Property::reason_string, Type::text, in_ack | in_disconnect},
    Row{Property::receive_maximum, Type::two, in_connect},
    Row{Property::topic_alias_maximum, Type::two, in_connect},
    Row{Property::topic_alias, Type::two, in_publish},
    Row{Property::user_property, Type::pair,
        in_connect | in_will | in_publish | in_ack | in_subscribe | in_unsubscribe | in_disconnect},
    Row{Property::maximum_packet_size, Type::four, in_connect},
};

tl::unexpected<Malformed> malformed(std::string what) {
  return tl::unexpected<Malformed>(Malformed{Reason::malformed_packet, std::move(what)});
}

}  // namespace

Decoded<bool> read_properties(Reader& reader, PropertyPlace place,
                              const std::function<Decoded<bool>(const PropertyValue&)>& each) {
  const std::uint32_t length = reader.variable();
  Reader r = reader.sub(length);
  if (reader.bad()) return malformed("the properties run past the packet's end");
  std::uint64_t seen = 0;  // every identifier of the table is below 64
  while (r.left() > 0) {
    const std::uint32_t id = r.variable();
    const Row* row = nullptr;
    for (const Row& candidate : kRows) {
      if (static_cast<std::uint32_t>(candidate.id) == id) row = &candidate;
    }
    if (row == nullptr || (row->places & place) == 0) {
      return malformed(cat("property ", id, " may not stand here (2.2.2.2)"));
    }
    if (row->type != Type::pair && (seen >> id & 1) != 0) {
      return tl::unexpected<Malformed>(
          Malformed{Reason::protocol_error, cat("property ", id, " stands twice (2.2.2.2)")});
    }
    seen |= std::uint64_t{1} << id;
    PropertyValue value{row->id, 0, {}, {}};
    bool text_ok = true;
    switch (row->type) {
      case Type::byte:
        value.number = r.u8();
        break;
      case Type::two:
        value.number = r.u16();
        break;
      case Type::four:
        value.number = r.u32();
        break;
      case Type::variable:
        value.number = r.variable();
        break;
      case Type::text:
        value.text = r.prefixed();
        text_ok = is_mqtt_utf8(value.text);
        break;
      case Type::binary:
        value.text = r.prefixed();
        break;
      case Type::pair:
        value.text = r.prefixed();
        value.second = r.prefixed();
        text_ok = is_mqtt_utf8(value.text) && is_mqtt_utf8(value.second);
        break;
    }
    if (r.bad()) return malformed(cat("property ", id, " is torn"));
    if (!text_ok) return malformed(cat("property ", id, " is not UTF-8 [MQTT-1.5.4-1]"));
    if (auto ok = each(value); !ok) return ok;
  }
  return true;
}

void each_payload_property(std::string_view properties, const PayloadProperty& each) {
  Reader r({reinterpret_cast<const std::uint8_t*>(properties.data()), properties.size()});
  const auto add = [&](const PropertyValue& p) -> Decoded<bool> {
    switch (p.id) {
      case Property::payload_format:
        each("mqtt.payload_format", {}, cat(p.number));
        break;
      case Property::message_expiry:
        each("mqtt.message_expiry_s", {}, cat(p.number));
        break;
      case Property::content_type:
        each("mqtt.content_type", {}, p.text);
        break;
      case Property::response_topic:
        each("mqtt.response_topic", {}, p.text);
        break;
      case Property::correlation_data:
        each("mqtt.correlation_data", {}, p.text);
        break;
      case Property::user_property:
        each("mqtt.user.", p.text, p.second);
        break;
      default:  // a topic alias, a will's delay: these are the connection's
        break;
    }
    return true;
  };
  const auto places = static_cast<PropertyPlace>(in_publish | in_will);
  [[maybe_unused]] const auto sound = read_properties(r, places, add);
}

}  // namespace wayside::mqtt
