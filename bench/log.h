// A log that the benches fill: 12 partitions, 500 keys, about 128 bytes, 100 records a second by
// its own clock (8.64 million a day).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/text.h"
#include "bench/common.h"
#include "storage/engine/engine.h"
#include "storage/reader.h"

namespace wayside::bench {

inline constexpr std::int64_t kClockStep = 50'000;  // records
inline constexpr std::int64_t kDayMs = 86'400'000;
inline constexpr std::int64_t kRetentionMs = 30 * kDayMs;

class FilledLog {
 public:
  explicit FilledLog(const std::string& dir) : logger_(LogLevel::error), readings_({TpId(1)}) {
    options_.path = dir + "/wayside.db";
    open();
  }
  void open() {
    engine_ = must(Engine::open(options_, clock_, logger_));
    const TopicSpec spec{"truck_gps", 12, kRetentionMs, kUnbounded, {}};
    (void)must(engine_->ensure_topics({&spec, 1}));
    tps_.clear();
    for (const Partition& p : engine_->catalog().find("truck_gps")->partitions) {
      tps_.push_back(p.tp);
    }
  }
  void close() { engine_.reset(); }

  void append(std::size_t n) {
    std::vector<Batch> group(1);
    group[0].ops.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      Append a = readings_.next();
      a.tp = tps_[++at_ * 7 % tps_.size()];
      group[0].ops.emplace_back(std::move(a));
    }
    must(engine_->begin());
    must(engine_->commit(group));
    const auto roll = Steady::now();
    must(engine_->roll_full_segments());
    roll_most_ms_ = std::max(roll_most_ms_, ms_since(roll));
    rows_ += static_cast<std::int64_t>(n);
    // In steps: what is done once a minute of its clock is not done a hundred times a second.
    since_ += static_cast<std::int64_t>(n);
    if (since_ >= kClockStep) clock_.advance(std::exchange(since_, 0) * 10);
  }
  // One step of what the writer does between commits.
  bool maintain() {
    const auto begin = Steady::now();
    const bool more = must(engine_->maintain());
    upkeep_most_ms_ = std::max(upkeep_most_ms_, ms_since(begin));
    return more;
  }
  void grow_to(std::int64_t rows) {
    for (std::int64_t commits = 1; rows_ < rows; ++commits) {
      append(500);
      if (commits % 50 != 0) continue;
      while (maintain()) {
      }
    }
  }

  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] ManualClock& clock() { return clock_; }
  [[nodiscard]] const std::vector<TpId>& tps() const { return tps_; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] const std::string& path() const { return options_.path; }
  double roll_most_ms_ = 0, upkeep_most_ms_ = 0;

 private:
  EngineOptions options_;
  ManualClock clock_{1'795'000'000'000};
  Logger logger_;
  Readings readings_;
  std::unique_ptr<Engine> engine_;
  std::vector<TpId> tps_;
  std::size_t at_ = 0;
  std::int64_t rows_ = 0, since_ = 0;
};

}  // namespace wayside::bench
