#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdlib>
#include <map>

#include "base/mutex.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr auto kRepeatInterval = std::chrono::seconds(10);
constexpr std::size_t kRepeatKeysMax = 256;  // keys are kinds of events, so few; a bound anyway

// journald reads "<N>" at the start of a line as the syslog level.
class JournalLevel final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& msg, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const char level = msg.level >= spdlog::level::err    ? '3'
                       : msg.level == spdlog::level::warn ? '4'
                       : msg.level == spdlog::level::info ? '6'
                                                          : '7';
    out.push_back('<');
    out.push_back(level);
    out.push_back('>');
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return spdlog::details::make_unique<JournalLevel>();
  }
};

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      break;
  }
  return spdlog::level::err;
}

}  // namespace

struct Logger::Impl {
  struct Repeat {
    std::chrono::steady_clock::time_point printed;
    std::int64_t held_back = 0;
  };
  spdlog::logger logger{"wayside", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  Mutex mutex;
  std::map<std::string, Repeat, std::less<>> repeats GUARDED_BY(mutex);
};

Logger::Logger(LogLevel least) : impl_(std::make_unique<Impl>()) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  // $JOURNAL_STREAM says that stderr is the journal's.
  const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
  formatter->add_flag<JournalLevel>('*').set_pattern(journal ? "%*%v" : "%l: %v");
  impl_->logger.set_formatter(std::move(formatter));
  impl_->logger.set_level(to_spdlog(least));
  impl_->logger.flush_on(spdlog::level::trace);
}

Logger::~Logger() = default;

void Logger::set_level(LogLevel least) noexcept {
  impl_->logger.set_level(to_spdlog(least));
}

void Logger::write(LogLevel level, std::string_view text) noexcept {
  try {
    impl_->logger.log(to_spdlog(level), spdlog::string_view_t(text.data(), text.size()));
  } catch (...) {  // a log that cannot be written must not stop the gateway
  }
}

void Logger::repeated(LogLevel level, std::string_view key, std::string_view text) noexcept {
  std::int64_t held_back = 0;
  try {
    const MutexLock lock(impl_->mutex);
    const auto now = std::chrono::steady_clock::now();
    auto it = impl_->repeats.find(key);
    if (it == impl_->repeats.end()) {
      if (impl_->repeats.size() >= kRepeatKeysMax) impl_->repeats.clear();
      impl_->repeats.emplace(key, Impl::Repeat{now, 0});
    } else if (now - it->second.printed < kRepeatInterval) {
      ++it->second.held_back;
      return;
    } else {
      held_back = it->second.held_back;
      it->second = Impl::Repeat{now, 0};
    }
  } catch (...) {  // out of memory: print without counting
  }
  if (held_back == 0) return write(level, text);
  write(level, cat(text, " (and ", held_back, " more like it since the last such line)"));
}

}  // namespace wayside
