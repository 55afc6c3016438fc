// A SQLite VFS that remembers what is really on the disk. Files are written through to a real
// directory (that is what a running program sees); beside each stands its durable image, which
// only a sync moves. A power cut gives, for each file, the durable image plus an arbitrary part of
// what was not synced: kept, dropped, or torn into sectors. Thread: one.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace wayside::test {

class FaultVfs {
 public:
  explicit FaultVfs(std::uint32_t seed);
  ~FaultVfs();
  FaultVfs(const FaultVfs&) = delete;
  FaultVfs& operator=(const FaultVfs&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }

  // The power goes at the n-th write, truncation or sync from now; every later call fails. With
  // `in_checkpoint` only writes to the database itself are counted.
  void cut_after(std::int64_t operations, bool in_checkpoint = false);
  // Now.
  void cut_now() { power_off(); }
  [[nodiscard]] bool is_off() const { return off_; }
  // The program dies, the machine does not: calls fail until revive(), files stay as they are.
  void kill() { dead_ = true; }
  void revive() { dead_ = false; }
  // The n-th sync from now fails; what it should have written can be read until the cut, and the
  // system believes it clean.
  void fail_sync_after(std::int64_t syncs) { fail_sync_ = syncs; }
  [[nodiscard]] bool sync_has_failed() const { return sync_failed_; }
  // A disk that lies, or synchronous=OFF: syncs succeed and do nothing.
  void ignore_syncs() { ignore_syncs_ = true; }
  // From the n-th call of a kind on, so many fail with an SQLite code (SQLITE_IOERR_WRITE,
  // SQLITE_FULL, SQLITE_READONLY …); a write that fails may have written its first half.
  enum class Call { read, write, truncate, sync, open };
  void fail_calls(Call kind, std::int64_t from, std::int64_t count, int code) {
    fault_ = {kind, from, count, code};
  }
  [[nodiscard]] std::int64_t failed_calls() const { return failed_calls_; }
  // As synchronous=NORMAL would: only what is checkpointed is synced.
  void ignore_wal_syncs() { ignore_wal_syncs_ = true; }
  // Writes fail with "disk full" once so many bytes have been written, until it is called again.
  void fill_after(std::int64_t bytes) { room_ = bytes; }

  // What the disk holds after the cut, by file name. REQUIRES: is_off().
  [[nodiscard]] const std::map<std::string, std::vector<std::uint8_t>>& after_cut() const {
    return after_cut_;
  }
  // Writes it into a directory.
  void write_after_cut(const std::string& directory) const;

 private:
  friend struct FaultFile;
  struct Change {
    std::int64_t at = 0;
    std::vector<std::uint8_t> bytes;
    std::optional<std::int64_t> truncate_to;
  };
  struct FileState {
    std::vector<std::uint8_t> durable;
    std::vector<Change> unsynced;
    std::uint64_t inode = 0;  // a file that was renamed away and made anew is another one
    bool wal = false;
  };
  struct Fault {
    Call kind = Call::read;
    std::int64_t from = 0, count = 0;
    int code = 0;
  };
  int injected(Call kind);
  // Before each operation: an error code when it must not happen.
  int before(bool is_database_write);
  void power_off();
  void apply(std::vector<std::uint8_t>& image, const Change& change, bool torn);
  FileState& state(const std::string& path);

  std::string name_, directory_;
  sqlite3_vfs vfs_{};
  sqlite3_vfs* real_;
  std::mt19937 random_;
  std::map<std::string, FileState> files_;
  std::map<std::string, std::vector<std::uint8_t>> after_cut_;
  std::int64_t cut_after_ = -1, fail_sync_ = -1, room_ = INT64_MAX;
  bool count_database_only_ = false;
  Fault fault_;
  std::int64_t failed_calls_ = 0;
  bool ignore_wal_syncs_ = false;
  bool off_ = false, dead_ = false, sync_failed_ = false, ignore_syncs_ = false;
};

}  // namespace wayside::test
