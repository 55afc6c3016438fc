#include "devices/mqtt/oversized.h"

#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "devices/mqtt/wire.h"

namespace wayside::mqtt {
namespace {

std::span<const std::uint8_t> as_bytes(const std::string& s) {
  return {reinterpret_cast<const std::uint8_t*>(s.data()), s.size()};
}

}  // namespace

OversizedPublish::OversizedPublish(const FixedHeader& header, Version version)
    : flags_(header.flags),
      version_(version),
      packet_bytes_(header.header_bytes + header.remaining_bytes),
      left_(header.remaining_bytes) {}

void OversizedPublish::begin(Part part, std::size_t bytes) {
  part_ = part;
  part_left_ = bytes;
  number_.clear();
  torn_ = torn_ || bytes > left_;
}

void OversizedPublish::finish_part() {
  const auto after_packet_id = [&] {
    if (version_ == Version::v5) return begin(Part::properties_length, 1);
    begin(Part::payload, payload_bytes_ = left_);
  };
  switch (part_) {
    case Part::topic_length:
      topic_bytes_ = Reader(as_bytes(number_)).u16();
      return begin(Part::topic, topic_bytes_);
    case Part::topic:
      if ((flags_ & 6) != 0) return begin(Part::packet_id, 2);
      return after_packet_id();
    case Part::packet_id:
      packet_id_ = Reader(as_bytes(number_)).u16();
      return after_packet_id();
    case Part::properties_length: {
      const bool more = (static_cast<std::uint8_t>(number_.back()) & 0x80) != 0;
      if (more && number_.size() < 4) {
        part_left_ = 1;
        torn_ = torn_ || left_ == 0;
        return;
      }
      torn_ = torn_ || more;
      const std::size_t n = Reader(as_bytes(number_)).variable();
      if (n <= limits::kHeaderBytesMax) {
        properties_ = number_;
      } else {
        dropped_properties_bytes_ = n;
      }
      return begin(Part::properties, n);
    }
    case Part::properties:
      return begin(Part::payload, payload_bytes_ = left_);
    case Part::payload:
      break;
  }
}

Decoded<std::size_t> OversizedPublish::take(std::span<const std::uint8_t> bytes) {
  std::size_t used = 0;
  while (used < bytes.size() && left_ > 0 && !torn_) {
    const std::size_t n = std::min(bytes.size() - used, part_left_);
    const auto keep = [&](std::string& out, std::size_t most) {
      const std::size_t room = most - std::min(most, out.size());
      out.append(reinterpret_cast<const char*>(bytes.data() + used), std::min(n, room));
    };
    if (part_ == Part::topic) {
      keep(topic_, limits::kTopicBytesMax + 1);  // one more shows where a character ends
    } else if (part_ == Part::payload) {
      keep(payload_, limits::kOversizedHeadBytes);
    } else if (part_ == Part::properties) {
      if (!properties_.empty()) keep(properties_, properties_.size() + n);
    } else {
      keep(number_, number_.size() + n);
    }
    used += n;
    left_ -= n;
    part_left_ -= n;
    while (part_left_ == 0 && part_ != Part::payload && !torn_) finish_part();
  }
  if (torn_ || (left_ == 0 && part_ != Part::payload)) {
    return tl::unexpected<Malformed>(
        Malformed{Reason::malformed_packet, "PUBLISH ends before its fields do"});
  }
  return used;
}

Decoded<Publish> OversizedPublish::publish() const {
  if (topic_bytes_ == 0 && dropped_properties_bytes_ > 0) {
    return tl::unexpected<Malformed>(
        Malformed{Reason::packet_too_large,
                  cat("in a packet above mqtt.max_packet, properties of ",
                      dropped_properties_bytes_, " bytes; the limit is ", limits::kHeaderBytesMax,
                      ", and beyond it a topic alias is not seen")});
  }
  return check_publish({flags_, utf8_beginning(topic_, limits::kTopicBytesMax), packet_id_,
                        properties_, payload_},
                       version_);
}

}  // namespace wayside::mqtt
