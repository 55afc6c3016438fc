// What a server's MQTT session reports to its owner. Views are valid until the next call of the
// session. Thread: plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "devices/mqtt/packet.h"

namespace wayside::mqtt {

struct NeedMore {};
// The client's CONNECT is sound: open its session, then call accept() or refuse().
struct ConnectRequested {
  Connect connect;
};
// A PUBLISH. With `duplicate` (a QoS 2 identifier that is already stored) there is nothing to
// store, but its PUBREC is held like any other.
struct Published {
  Publish publish;  // with its topic name, also where the wire had an alias
  bool duplicate = false;
};
// A PUBLISH beyond a limit, to be set aside; its acknowledgement is held like any other. Of a
// packet above the largest one only the beginning of the payload was kept, of a topic its first
// limits::kTopicBytesMax bytes.
struct Oversized {
  Publish publish;
  std::size_t topic_bytes = 0, payload_bytes = 0, packet_bytes = 0;  // as they came
  bool duplicate = false;
  std::string what;
  bool properties_dropped = false;  // they were more than are kept of such a packet
};
// A SUBSCRIBE for which nothing will be sent, and whose client does not know that it is so by the
// configuration. It has been answered.
struct SubscribeAsked {
  std::vector<std::string> filters;  // the first of them
  std::size_t count = 0;
};
// A PUBREL: forget the identifier, durably, before its PUBCOMP leaves.
struct Released {
  std::uint16_t packet_id = 0;
  bool known = false;
};
// The connection is over: flush the output, then close.
struct Ended {
  bool publish_will = false;
  bool by_client = false;  // a DISCONNECT, not an error
  Reason reason = Reason::success;
  std::string what;                               // for the log; empty after a good DISCONNECT
  std::optional<std::uint32_t> session_expiry_s;  // when DISCONNECT changed it
  std::string client_id = {};  // that a refused CONNECT seems to have, for the log
  bool not_mqtt = false;       // another protocol's greeting
};
using Event = std::variant<NeedMore, ConnectRequested, Published, Oversized, SubscribeAsked,
                           Released, Ended>;

}  // namespace wayside::mqtt
