// The topics that the gateway keeps for itself. Thread: plain values.
#pragma once

namespace wayside {

// Readings that could not be stored where they belong, and records that an upstream or a program
// refused, with the reason.
inline constexpr const char* kQuarantineTopic = "quarantine";
// What happened to the log itself: that it was damaged, renewed, put back.
inline constexpr const char* kEventsTopic = "gateway.events";

}  // namespace wayside
