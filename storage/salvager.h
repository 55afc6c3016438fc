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
inline constexpr const char* kEventsTopic = "gateway.events";

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
  [[nodiscard]] Status salvage(const std::vector<std::string>& files, std::stop_token stop);
  // A record in the topic gateway.events for each range that is named as missing.
  [[nodiscard]] Status tell();
  // Work on the writer, awaited.
  [[nodiscard]] Status on_writer(Log::Work work);

  Log& log_;
  Logger& logger_;
  mutable Mutex mutex_;
  std::condition_variable_any wake_;
  Progress progress_ GUARDED_BY(mutex_);
  Status result_;  // the thread's, until it has ended
  std::jthread thread_;
};

}  // namespace wayside
