// Bounds of what programs and people on the site may take: control socket, groups' programs,
// queries, monitoring. A part of base/limits.h, which includes it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wayside::limits {

// --- control socket ------------------------------------------------------------------------
// Programs that ask at a time; each group's readers are among them.
inline constexpr std::size_t kControlPeersMax = 100;
// One request; most have less than 1 KiB.
inline constexpr std::size_t kControlLineBytesMax = 4 * 1024 * 1024;
// Requests of all of them that are not complete, and answers that they have not taken. Beyond, the
// largest goes. More than kControlPeersMax of the small ones, which may always stay.
inline constexpr std::size_t kControlRequestBytesMax = 8 * 1024 * 1024;
inline constexpr std::size_t kControlAnswerBytesMax = 16 * 1024 * 1024;
inline constexpr std::size_t kControlSmallBytes = 64 * 1024;
// Somebody who asks and does not read the answer is let go.
inline constexpr std::int64_t kControlStallMs = 10'000;
// Quarantined readings that one request may retry or drop: more are several requests.
inline constexpr std::size_t kQuarantinePerRequestMax = 1000;

// --- programs on the site ------------------------------------------------------------------
// What a group's reader reads at once, and gives to a program in one batch: it is held in memory,
// at worst six times as text. A larger record is a batch of its own.
inline constexpr std::size_t kGroupBatchBytesMax = 1 << 20;
// Bytes of records that a program with --stream may leave unacknowledged; beyond, it gets no more.
inline constexpr std::size_t kStreamWindowBytesMax = 4 * 1024 * 1024;
// A line that such a program may send: its longest part is the reason of a refusal.
inline constexpr std::size_t kStreamLineBytesMax = 64 * 1024;
// Of why a program refused a record, in each header of the quarantined one.
inline constexpr std::size_t kRefusalTextBytesMax = 1000;

// What a query of a technician may take: one value (the largest record is a packet of 16 MiB), all
// of SQLite's memory, the memory of the program, and rows and cells of a table on a terminal.
inline constexpr int kQueryValueBytesMax = 20 * 1024 * 1024;
inline constexpr std::int64_t kQueryHeapBytesMax = 128 * 1024 * 1024;
inline constexpr std::int64_t kQueryDataBytesMax = 256 * 1024 * 1024;
inline constexpr std::size_t kQueryCellsMax = 1'000'000;
// A LIKE or GLOB with many wildcards takes exponential time.
inline constexpr int kQueryPatternBytesMax = 200;
inline constexpr std::size_t kQueryRowsMax = 100'000;

// --- monitoring ----------------------------------------------------------------------------
// Requests at a time; for one more the oldest that is not answered yet goes.
inline constexpr unsigned kHttpConnectionsMax = 16;
// Their sockets, with those that are about to be closed.
inline constexpr unsigned kHttpSocketsMax = 48;
inline constexpr unsigned kHttpTimeoutS = 10;

}  // namespace wayside::limits
