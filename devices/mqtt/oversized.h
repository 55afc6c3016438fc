// A PUBLISH larger than the largest packet taken, as its bytes come: the beginnings of topic and
// payload are kept, all else is only counted, so that one of 256 MiB needs no more memory than one
// of 256 KiB. Source: MQTT 5.0, 3.3. Thread: one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "devices/mqtt/packet.h"

namespace wayside::mqtt {

class OversizedPublish {
 public:
  OversizedPublish(const FixedHeader& header, Version version);

  // Takes those of these bytes that are its own, and says how many.
  [[nodiscard]] Decoded<std::size_t> take(std::span<const std::uint8_t> bytes);
  [[nodiscard]] bool complete() const { return left_ == 0; }
  [[nodiscard]] std::size_t held_bytes() const {
    return sizeof *this + topic_.capacity() + properties_.capacity() + payload_.capacity();
  }

  // REQUIRES: complete(). Topic and payload as far as they were kept, and checked so far; the views
  // are of this object.
  [[nodiscard]] Decoded<Publish> publish() const;
  [[nodiscard]] std::size_t topic_bytes() const { return topic_bytes_; }
  [[nodiscard]] std::size_t payload_bytes() const { return payload_bytes_; }
  [[nodiscard]] std::size_t packet_bytes() const { return packet_bytes_; }
  [[nodiscard]] bool properties_dropped() const { return dropped_properties_bytes_ > 0; }

 private:
  enum class Part { topic_length, topic, packet_id, properties_length, properties, payload };
  void begin(Part part, std::size_t bytes);
  void finish_part();

  const std::uint8_t flags_;
  const Version version_;
  const std::size_t packet_bytes_;
  std::size_t left_;  // of the packet
  Part part_ = Part::topic_length;
  std::size_t part_left_ = 2;
  std::string number_;      // the bytes of a number that is being read
  std::string topic_;       // its beginning
  std::string properties_;  // with their length; empty when there were more than are kept
  std::string payload_;     // its beginning
  std::uint16_t packet_id_ = 0;
  std::size_t topic_bytes_ = 0, payload_bytes_ = 0, dropped_properties_bytes_ = 0;
  bool torn_ = false;
};

}  // namespace wayside::mqtt
