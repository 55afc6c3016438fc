// The program's log: one line per event on stderr, with journald's <N> level prefix, through
// spdlog (log.cc alone includes it). Never a line per reading: what can repeat goes through
// `repeated`, which prints at most one line per key and interval and counts the rest.
// Thread: every function may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace wayside {

enum class LogLevel { debug, info, warning, error };

class Logger {
 public:
  explicit Logger(LogLevel least = LogLevel::info);
  ~Logger();
  void set_level(LogLevel least) noexcept;
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  void debug(std::string_view text) noexcept { write(LogLevel::debug, text); }
  void info(std::string_view text) noexcept { write(LogLevel::info, text); }
  void warning(std::string_view text) noexcept { write(LogLevel::warning, text); }
  void error(std::string_view text) noexcept { write(LogLevel::error, text); }
  // For events that may come thousands of times a second: `key` names the kind of event.
  void repeated(LogLevel level, std::string_view key, std::string_view text) noexcept;

 private:
  struct Impl;
  void write(LogLevel level, std::string_view text) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayside
