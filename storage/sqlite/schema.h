// The file format, version 4: the tables of wayside.db, who made it, and how a file of another
// version is met. docs/FORMAT.md describes every table and invariant. What is on a customer's
// disk is never reinterpreted: a newer version is left untouched, an older one is migrated by a
// step of its own. Thread: the opener's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/ids.h"
#include "storage/record.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

inline constexpr std::int64_t kApplicationId = 0x57415953;  // "WAYS"
inline constexpr std::int64_t kSchemaVersion = 4;
// The layout of a segment table, kept per segment: old ones are never rewritten.
inline constexpr std::int64_t kSegmentFormat = 1;

// In _ws_meta while the clock is doubted: for how many ms of a steady run.
inline constexpr const char* kClockDoubt = "clock_doubt_ms";
// Where the file was at the last start (storage/place.h), and that it was put back from a copy.
inline constexpr const char* kPlace = "place";
inline constexpr const char* kRestored = "restored";

struct Identity {
  std::string gateway_id;  // of this gateway; survives a new log
  std::string log_uuid;    // of this database file
  std::int64_t epoch = 0;  // +1 at every start
};

// Creates the tables in an empty file, or checks that they are of a version this program knows.
[[nodiscard]] Status ensure_schema(Database& db, const Clock& clock);
// The check alone, for readers.
[[nodiscard]] Status check_schema(Database& db);
[[nodiscard]] Result<Identity> read_identity(Database& db);

// What a small fact says (SetFact); none: it is not known.
[[nodiscard]] Result<std::optional<std::string>> read_fact(Database& db, std::string_view name);

// Segment tables: "_ws_seg_<chain>_<segment>".
[[nodiscard]] std::string segment_table(ChainId chain, std::int64_t segment);
[[nodiscard]] std::string create_segment_sql(ChainId chain, std::int64_t segment);
[[nodiscard]] std::string chain_view(ChainId chain);
// The statement that adds a record to a segment, and its parameters; `source`: 0: none.
// `or_ignore`: a seq that is taken is no error.
[[nodiscard]] Result<Statement> prepare_insert(Database& db, ChainId chain, std::int64_t segment,
                                               bool or_ignore = false);
void bind_record(Statement& insert, Seq seq, TpId tp, Offset offset, std::int64_t append_ms,
                 const Record& record, std::int64_t source, std::uint32_t crc);

}  // namespace wayside
