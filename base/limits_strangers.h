// Bounds on what whoever reaches the port can make the gateway hold or remember, and why.
// A part of base/limits.h, which includes it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wayside::limits {

// --- connections ---------------------------------------------------------------------------
// Connections beside max_connections: those that have not said CONNECT yet, of which the oldest
// gives way to the next, and those that are over and wait for their peer to notice.
inline constexpr std::size_t kSilentConnectionsMax = 256;
inline constexpr std::size_t kDrainingConnectionsMax = 256;
// This part of max_connections is for devices that have stored a reading before.
inline constexpr std::size_t kKnownPlacesPart = 8;
// Who has sent no reading for so long gives its place to a newcomer, when places are short.
inline constexpr std::int64_t kIdlePlaceMs = 30'000;
// Devices that are known by a hash of 8 bytes: more than the log has names of.
inline constexpr std::size_t kKnownDevicesMax = 400'000;
// Memory that all connections may hold together (unfinished packets, unread output, wills, caches),
// a quarter of it before CONNECT is accepted; and this part of what the process may use, if that is
// less. Who holds no more than its share, or this, is never asked to go.
inline constexpr std::size_t kStrangersBytesMax = 16 << 20;
inline constexpr std::size_t kStrangersMemoryPart = 16;
inline constexpr std::size_t kStrangerShareBytes = 4096;
// QoS 2 readings of a 3.1.1 client, which cannot be told Receive Maximum, that have no PUBREL yet.
inline constexpr std::size_t kQos2IdsOfSessionMax = 1000;

// --- the log -------------------------------------------------------------------------------
// Room of their own, on disk, for what anybody can make the log remember; readings never pay for
// it: names of senders (about 150,000 of 50 bytes), sessions (70,000 with ids of 20 bytes), and
// QoS 2 readings without their PUBREL (a million). Under a budget, or on a small disk, a part.
inline constexpr std::int64_t kSourcesBytesMax = 32 << 20, kSourcesPart = 32;
inline constexpr std::int64_t kSessionsBytesMax = 8 << 20, kSessionsPart = 64;
inline constexpr std::int64_t kQos2BytesMax = 16 << 20, kQos2Part = 64;
inline constexpr std::int64_t kQos2IdBytes = 16;
// Of a budget the quarantine, which anybody can fill, has no more than this part.
inline constexpr std::int64_t kQuarantinePart = 8;
// Above half of that room a client may have so many, so that one that has few is served.
inline constexpr std::int64_t kQos2IdsWhenShort = 64;
// New sessions of clients that have stored no reading yet, each a write to the card: so many of one
// address, and of all, at once; after that one of an address in so long, and ten of all.
inline constexpr std::int64_t kNewSessionsOfAddress = 256, kNewSessions = 2000;
inline constexpr std::int64_t kNewSessionEveryMs = 1000;

}  // namespace wayside::limits
