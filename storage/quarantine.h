// The topics that the gateway keeps for itself, and what it notes of a record that it puts into
// quarantine: as the headers of the copy there (docs/FORMAT.md). Thread: plain values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/batch.h"
#include "storage/catalog.h"
#include "storage/record.h"

namespace wayside {

// Readings that could not be stored where they belong, and records that an upstream or a program
// refused, with the reason.
inline constexpr const char* kQuarantineTopic = "quarantine";
// What happened to the log itself: that it was damaged, renewed, put back.
inline constexpr const char* kEventsTopic = "gateway.events";

inline constexpr const char* kRefusedUpstream = "refused_upstream";
inline constexpr const char* kRefusedByProgram = "refused_by_program";
inline constexpr const char* kTooLarge = "too_large";

struct QuarantineNote {
  std::string reason, detail;
  // Of a record of the log: the bridge whose upstream refused it, or the group whose program did,
  // and where it stands. Empty: it is a reading that was never stored elsewhere.
  std::string bridge, group;
  std::string topic;
  std::int64_t partition = -1, offset = -1;
  std::string mqtt_topic, client_id;  // who sent it, by which topic; empty: that is not known
  std::vector<Header> others;         // the record's own among them
};

[[nodiscard]] std::string encode_note(QuarantineNote note);
// Of headers that are torn: an empty one.
[[nodiscard]] QuarantineNote note_of(const Record& record);
// The partition that a note's record stands in; none: the log has it no more.
[[nodiscard]] std::optional<TpId> partition_of(const Catalog& catalog, const QuarantineNote& note);
// The copy of a record of the log that goes into quarantine; the record stays where it is.
[[nodiscard]] Append set_aside(const Catalog& catalog, const StoredRecord& record,
                               QuarantineNote note);

}  // namespace wayside
