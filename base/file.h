// Files and descriptors. Thread: pure functions; a UniqueFd has one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace wayside {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd();
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// The system's words for errno, with what was being done.
[[nodiscard]] Error errno_error(std::string_view doing, int error_number);
[[nodiscard]] Result<std::string> read_file(const std::string& path);
// The first `bytes` of it, or less when it is shorter; corrupt: the disk
// does not give them.
[[nodiscard]] Result<std::string> read_head(const std::string& path, std::size_t bytes);
[[nodiscard]] bool file_exists(const std::string& path);
[[nodiscard]] bool is_regular_file(const std::string& path);
[[nodiscard]] bool is_directory(const std::string& path);
// The file's inode number, or 0 when there is none.
[[nodiscard]] std::uint64_t file_inode(const std::string& path);
// Bytes of the file, or 0 when there is none.
[[nodiscard]] std::int64_t file_size(const std::string& path);
// Of the file system that the path is on; none: it cannot be asked.
struct DiskSpace {
  std::int64_t free_bytes = 0, size_bytes = 0;
};
[[nodiscard]] std::optional<DiskSpace> disk_space(const std::string& path);
// Writes the file's own bytes over themselves and syncs it. After a failed sync the kernel may
// show bytes that are not on the disk, and believe them clean: this makes them true.
[[nodiscard]] Status rewrite_in_place_and_sync(const std::string& path);
// Replaces the file as a whole, synced, its name too: after a power cut it is the old or the new
// one.
[[nodiscard]] Status write_file_synced(const std::string& path, std::string_view content);
// Writes over a part of a file that is there, and syncs it: no space is needed on a file system
// that writes in place.
[[nodiscard]] Status overwrite_synced(const std::string& path, std::int64_t at,
                                      std::string_view content);
[[nodiscard]] Status remove_file(const std::string& path);
// Renames, and syncs the directory.
[[nodiscard]] Status sync_file(const std::string& path);  // with its times
[[nodiscard]] Status rename_file(const std::string& from, const std::string& to);
// A file of `bytes` really allocated bytes, as ballast.
[[nodiscard]] Status write_ballast(const std::string& path, std::int64_t bytes);
// Whether somebody holds a flock(2) on `path`, by the kernel's table: asking takes no lock. False
// also when that cannot be told (a holder in another container).
[[nodiscard]] bool is_locked(const std::string& path);
// An exclusive flock(2) on `path`, held as long as the descriptor lives; busy when somebody has it.
[[nodiscard]] Result<UniqueFd> lock_file(const std::string& path);

}  // namespace wayside
