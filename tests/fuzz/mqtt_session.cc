// One MQTT connection: any bytes, in any pieces. No acknowledgement leaves before its commit, each
// has one packet that asked for it, the pieces do not matter, and nothing comes after the end.
#include "devices/mqtt/session.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using namespace wayside::mqtt;
using fuzz::require;

namespace {

constexpr SessionLimits kLimits{3, 4096, 5};

struct Drive {
  Session session{kLimits};
  std::vector<std::string> events;  // what came of the bytes, as text
  std::map<std::pair<unsigned, unsigned>, int> owed;  // released, and not yet said: type, packet id
  std::vector<std::pair<unsigned, unsigned>> held;    // not yet released
  bool over = false;

  void owe(PacketType type, std::uint16_t id) {
    held.emplace_back(static_cast<unsigned>(type), id);
  }
  // What the client is told: whole packets that a server may send, each asked for.
  void listen() {
    std::string out = std::exchange(session.output(), {});
    // What another protocol's client is told, in its own words.
    if (out.starts_with("HTTP/") || out.starts_with("\x15\x03")) return;
    const auto* p = reinterpret_cast<const std::uint8_t*>(out.data());
    for (std::span<const std::uint8_t> left(p, out.size()); !left.empty();) {
      const auto header = decode_fixed_header(left, session.version());
      require(header && *header, "what is said is a packet");
      const std::size_t bytes = (*header)->header_bytes + (*header)->remaining_bytes;
      require(bytes <= left.size(), "and a whole one");
      const PacketType type = (*header)->type;
      if (type == PacketType::puback || type == PacketType::pubrec || type == PacketType::pubcomp) {
        require((*header)->remaining_bytes >= 2, "an acknowledgement has an identifier");
        const auto* id = left.data() + (*header)->header_bytes;
        const unsigned number = static_cast<unsigned>(id[0]) << 8 | id[1];
        int& n = owed[{static_cast<unsigned>(type), number}];
        require(n-- > 0, "no acknowledgement leaves before its commit, and none twice");
      }
      left = left.subspan(bytes);
    }
  }
  void release(std::uint64_t ticket) {
    session.release(ticket);
    for (const auto& one : std::exchange(held, {})) ++owed[one];
    listen();
  }
  void take(std::uint64_t ticket, bool refuse) {
    while (!over) {
      Event event = session.next(ticket);
      listen();
      if (std::holds_alternative<NeedMore>(event)) return;
      if (const auto* c = std::get_if<ConnectRequested>(&event)) {
        events.push_back(cat("connect ", c->connect.client_id));
        if (refuse) {
          session.refuse(Reason::unspecified, "no");
          over = true;
        } else if (!session.accept({true, {7}}, {})) {
          over = true;
        }
      } else if (const auto* p = std::get_if<Published>(&event)) {
        events.push_back(cat("publish ", p->publish.topic, " ", p->publish.payload, " ",
                             p->publish.packet_id, p->duplicate ? " again" : ""));
        require(!p->publish.topic.empty(), "a reading has a topic");
        if (p->publish.qos == 1) owe(PacketType::puback, p->publish.packet_id);
        if (p->publish.qos == 2) owe(PacketType::pubrec, p->publish.packet_id);
        require(p->publish.qos == 0 || p->publish.packet_id != 0, "a reading has an identifier");
      } else if (const auto* o = std::get_if<Oversized>(&event)) {
        events.push_back(cat("oversized ", o->publish.packet_id, " ", o->packet_bytes));
        if (o->publish.qos == 1) owe(PacketType::puback, o->publish.packet_id);
        if (o->publish.qos == 2) owe(PacketType::pubrec, o->publish.packet_id);
      } else if (const auto* asked = std::get_if<SubscribeAsked>(&event)) {
        events.push_back(cat("subscribe ", asked->count));
      } else if (const auto* r = std::get_if<Released>(&event)) {
        events.push_back(cat("release ", r->packet_id));
        owe(PacketType::pubcomp, r->packet_id);
      } else {
        over = true;
        events.push_back("end");
      }
      listen();
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider in(data, size);
  const bool refuse = in.ConsumeIntegral<std::uint8_t>() == 0xFF;
  const std::uint8_t piece_most = in.ConsumeIntegral<std::uint8_t>();
  const auto stream = in.ConsumeRemainingBytes<std::uint8_t>();

  Drive whole;
  whole.session.feed(stream);
  whole.take(1, refuse);
  whole.release(1);
  require(whole.session.held_acks() == 0 || whole.over, "a commit releases all that waited for it");

  // In pieces, each on the heap exactly as long as it is; released late.
  Drive pieces;
  std::uint64_t ticket = 1;
  for (std::size_t at = 0; at < stream.size() && !pieces.over;) {
    const std::size_t n = std::min<std::size_t>(stream.size() - at, 1U + piece_most % 7);
    const std::vector<std::uint8_t> piece(stream.begin() + static_cast<std::ptrdiff_t>(at),
                                          stream.begin() + static_cast<std::ptrdiff_t>(at + n));
    at += n;
    pieces.session.feed(piece);
    pieces.take(ticket, refuse);
    pieces.session.stash();
  }
  pieces.release(ticket);
  require(pieces.events == whole.events, "pieces do not matter");
  return 0;
}
