// What the log is opened with. Thread: plain values.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace wayside {

struct EngineOptions {
  std::string path;  // of wayside.db
  std::string vfs;   // for tests; empty: the system's
  std::string board;  // serial number of the board it runs on; empty: not known
  // Called now and then while opening takes long: whoever waits for it is told so.
  std::function<void()> still_opening;
  // Not empty: the database was found damaged while it was used; it is set aside at once.
  std::string damage;
  std::int64_t budget_bytes = 0;  // database and WAL together; 0: as large as the disk
  // The log leaves so much of the disk free, but never more than 1/16 of it.
  std::int64_t keep_free_bytes = 0;
  std::int64_t segment_rows = 100'000;
  std::int64_t segment_bytes = 64 << 20;
  // Offsets of a group that nobody reads are forgotten after so long; kForever: never.
  std::int64_t offset_retention_ms = 30LL * 86'400'000;
};

}  // namespace wayside
