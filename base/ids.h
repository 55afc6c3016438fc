// Strong ids: numbers that cannot be mixed up. Thread: plain values.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace wayside {

template <class Tag, class Rep>
struct StrongId {
  Rep value{};
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep v) : value(v) {}
  constexpr auto operator<=>(const StrongId&) const = default;
};

// A record's place in its partition, from 0, as in Kafka. Moved by append only.
using Offset = StrongId<struct OffsetTag, std::int64_t>;
// A record's place in arrival order over the whole log. Order only: never a time, never dense
// within one chain.
using Seq = StrongId<struct SeqTag, std::int64_t>;
// A topic-partition's small id in the database; never used again for another.
using TpId = StrongId<struct TpIdTag, std::int32_t>;
// A topic's id in the database; never used again for another.
using TopicId = StrongId<struct TopicIdTag, std::int32_t>;
// A chain of segments: the topics in it share one retention.
using ChainId = StrongId<struct ChainIdTag, std::int32_t>;

}  // namespace wayside

template <class Tag, class Rep>
struct std::hash<wayside::StrongId<Tag, Rep>> {
  std::size_t operator()(const wayside::StrongId<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>{}(id.value);
  }
};
