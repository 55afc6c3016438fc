#include "base/clock.h"

#include <sys/timex.h>

#include <chrono>

namespace wayside {
namespace {

template <class C>
std::int64_t ms_of() {
  using std::chrono::duration_cast, std::chrono::milliseconds;
  return duration_cast<milliseconds>(C::now().time_since_epoch()).count();
}

}  // namespace

std::int64_t SystemClock::wall_ms() const {
  return ms_of<std::chrono::system_clock>();
}
std::int64_t SystemClock::steady_ms() const {
  return ms_of<std::chrono::steady_clock>();
}

bool SystemClock::trusted() const {
  if (trust_ == ClockTrust::always) return true;
  const std::int64_t now = steady_ms();
  if (now - asked_ms_.load(std::memory_order_relaxed) >= 100) {
    timex t{};
    const int state = adjtimex(&t);
    answer_ = state >= 0 && state != TIME_ERROR && (t.status & STA_UNSYNC) == 0;
    asked_ms_ = now;
  }
  return answer_;
}

}  // namespace wayside
