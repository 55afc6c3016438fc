// Where a log lies, as evidence of whether it is the one that was written here or a copy of it: two
// logs that go on from one state must not give the same offsets under the same identity. A copy
// that looks like the original (an image written back on the same board) is not found out: somebody
// has to say it ('wayside restored'). Decision: docs/decisions/0009. Thread: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace wayside {

struct Place {
  // The database file's number and time of birth; 0: its file system does not keep them (only those
  // of ext4, xfs, btrfs and f2fs are believed).
  std::uint64_t inode = 0;
  std::int64_t born_ns = 0;
  // When its inode was last changed. Nobody can set it: a file that was overwritten in place tells.
  // Worth something only as it was after an end in order.
  std::int64_t changed_ns = 0;
  std::string board;  // serial number of the board; empty: not known
};

[[nodiscard]] Place place_of(const std::string& path, const std::string& board);
// As the log keeps it; what cannot be read is an empty place, which says nothing.
[[nodiscard]] std::string dump_place(const Place& place);
[[nodiscard]] Place parse_place(std::string_view json);
// Why the log that was at `noted` must be taken for a copy here; empty: nothing says so.
[[nodiscard]] std::string why_copied(const Place& noted, const Place& here);

// The serial number of this board as its device tree says it, or $WAYSIDE_BOARD when that is set;
// empty: there is none.
[[nodiscard]] std::string board_serial();

}  // namespace wayside
