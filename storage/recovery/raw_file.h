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
  std::uint32_t salt = 0;    // the first; +1 each time the file starts anew
  std::int64_t commits = 0;  // transactions that SQLite will see
  std::int64_t frames = 0;   // of these
  // Transactions that follow each other behind a frame that is damaged, which it will not see. One
  // may be the rest of a commit that failed; two were committed after each other.
  std::int64_t commits_behind = 0;
};
// `progress` is called every few megabytes.
[[nodiscard]] WalLook look_at_wal(const std::string& path,
                                  const std::function<void()>& progress = {});
// Its first salt alone; -1: it has none.
[[nodiscard]] std::int64_t wal_salt(const std::string& path);
[[nodiscard]] std::int64_t wal_salt(int fd);
// A WAL's first salt counts up by one each time it starts anew, from a random one.
inline constexpr std::uint32_t kWalRestartsMost = 1U << 24;

struct ScanResult {
  std::int64_t pages = 0, unreadable_pages = 0, records = 0;
};
// Every record whose CRC is right, of any page of the file and of every frame of its WAL, in no
// order, some more than once: rows of dropped segments, and of transactions that were cut off, are
// among them, these last. `each` and `progress`, which is called every megabyte, end the scan with
// their error. Pages that the disk does not give are counted.
[[nodiscard]] Result<ScanResult> scan_records(
    const std::string& path, const std::function<Status(StoredRecord&&)>& each,
    const std::function<Status(std::int64_t done_bytes)>& progress = {});
// The same for the first `frames` frames of the WAL beside it alone.
[[nodiscard]] Status scan_wal_records(const std::string& path, std::int64_t frames,
                                      const std::function<Status(StoredRecord&&)>& each);

}  // namespace wayside
