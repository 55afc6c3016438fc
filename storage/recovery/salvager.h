// Brings records back from damaged files that were set aside, in the background: reads them page by
// page and hands what is missing to the writer, a little at a time, between its commits.
// Thread: one of its own; the rest from any.
#pragma once

#include <condition_variable>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/mutex.h"
#include "storage/log.h"

namespace wayside {

// Where programs on the site, and the upstream, learn what became of the log itself.

class Salvager {
 public:
  // Does nothing when no file waits.
  Salvager(Log& log, Logger& logger);
  ~Salvager();  // leaves what is not finished to the next start

  struct Progress {
    std::string file;  // empty: nothing is being salvaged
    std::int64_t records = 0;
    int percent = 0;
  };
  [[nodiscard]] Progress progress() const;
  void request_stop() { thread_.request_stop(); }
  // Waits until no file waits any more, or one could not be salvaged.
  [[nodiscard]] Status wait();

 private:
  void run(std::stop_token stop);
  // One pass over all files that wait, and what came of it.
  struct Attempt {
    struct File {
      std::string name, path;
    };
    std::vector<File> files;
    std::string names;
    std::int64_t bytes = 0, from_seq = 0, taken_bytes = 0, unreadable = 0;
    bool full = false;
  };
  [[nodiscard]] Status salvage(const std::vector<std::string>& files, std::stop_token stop);
  [[nodiscard]] Status attempt_within(Attempt& attempt, std::int64_t room, std::stop_token stop);
  [[nodiscard]] Status check_tables(const std::stop_token& stop);
  [[nodiscard]] static std::int64_t newest_within(const Attempt& attempt, std::int64_t room,
                                                  std::stop_token stop);
  // A record in the topic gateway.events for each range that is named as missing; true: perhaps
  // there are more.
  [[nodiscard]] Result<bool> tell();

  Log& log_;
  Logger& logger_;
  mutable Mutex mutex_;
  std::condition_variable_any wake_;
  Progress progress_ GUARDED_BY(mutex_);
  Status result_;  // the thread's, until it has ended
  std::jthread thread_;
};

}  // namespace wayside
