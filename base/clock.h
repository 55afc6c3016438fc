// Time, as a thing that can be wrong. A Raspberry Pi has no clock battery: the wall clock may
// start in 1970 and jump; the steady clock never goes back. Order in the log is by offset, never
// by wall time. Thread: every function of a Clock may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace wayside {

class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since 1970-01-01 UTC, as good as the wall clock is.
  [[nodiscard]] virtual std::int64_t wall_ms() const = 0;
  // Milliseconds that only go forward; the origin means nothing.
  [[nodiscard]] virtual std::int64_t steady_ms() const = 0;
  // Whether the wall clock has been set by something that knows the time (adjtimex(2)).
  [[nodiscard]] virtual bool trusted() const = 0;
};

enum class ClockTrust { from_kernel, always };

class SystemClock final : public Clock {
 public:
  explicit SystemClock(ClockTrust trust = ClockTrust::from_kernel) : trust_(trust) {}
  [[nodiscard]] std::int64_t wall_ms() const override;
  [[nodiscard]] std::int64_t steady_ms() const override;
  [[nodiscard]] bool trusted() const override;

 private:
  ClockTrust trust_;
  // The kernel is asked at most ten times a second: readings ask far more often.
  mutable std::atomic<std::int64_t> asked_ms_{INT64_MIN / 2};
  mutable std::atomic<bool> answer_{false};
};

// A clock that a test moves by hand.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(std::int64_t wall_ms) : wall_ms_(wall_ms) {}
  [[nodiscard]] std::int64_t wall_ms() const override { return wall_ms_; }
  [[nodiscard]] std::int64_t steady_ms() const override { return steady_ms_; }
  [[nodiscard]] bool trusted() const override { return trusted_; }
  // Time passes on both clocks.
  void advance(std::int64_t ms) { wall_ms_ += ms, steady_ms_ += ms; }
  // The wall clock alone jumps.
  void set_wall(std::int64_t ms) { wall_ms_ = ms; }
  void set_trusted(bool trusted) { trusted_ = trusted; }

 private:
  std::atomic<std::int64_t> wall_ms_;
  std::atomic<std::int64_t> steady_ms_{0};
  std::atomic<bool> trusted_{true};
};

}  // namespace wayside
