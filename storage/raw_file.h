// The database and its WAL as bytes, for when SQLite cannot be asked, or must not be yet: whether a
// WAL is whole, and every record that can still be found in a damaged file.
// Source: sqlite.org/fileformat2.html, sections 1.5, 1.6, 2.1 and 4. Thread: the caller's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "storage/record.h"

namespace wayside {

// What a WAL file is, read without SQLite.
struct WalLook {
  bool exists = false;
  std::int64_t bytes = 0;
  bool header_valid = false;
  std::uint32_t salt = 0;           // the first; +1 each time the file starts anew
  std::int64_t commits = 0;         // transactions that SQLite will see
  std::int64_t commits_behind = 0;  // that it will not, behind a frame that is damaged
};
[[nodiscard]] WalLook look_at_wal(const std::string& path);

struct ScanResult {
  std::int64_t pages = 0, unreadable_pages = 0, records = 0;
};
// Every record whose CRC is right, of any page of the file and of every frame of its WAL, in no
// order, some more than once: rows of dropped segments, and of transactions that were cut off, are
// among them. `each` ends the scan with its error. Pages that the disk does not give are counted.
[[nodiscard]] Result<ScanResult> scan_records(
    const std::string& path, const std::function<Status(StoredRecord&&)>& each,
    const std::function<void(std::int64_t done_bytes, std::int64_t all_bytes)>& progress = {});

}  // namespace wayside
