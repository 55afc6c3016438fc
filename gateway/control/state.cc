#include "gateway/control/state.h"

#include <algorithm>

#include "base/file.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kSampleEveryMs = 60'000;
constexpr std::size_t kSamples = 60;

}  // namespace

void Growth::sample(const std::string& database_path, const Clock& clock) {
  const std::int64_t now = clock.steady_ms();
  if (!samples_.empty() && now - samples_.back().steady_ms < kSampleEveryMs) return;
  samples_.push_back({now, file_size(database_path) + file_size(database_path + "-wal")});
  if (samples_.size() > kSamples) samples_.pop_front();
}

std::optional<double> Growth::seconds_to_full(const Config& config) const {
  if (samples_.size() < 2) return std::nullopt;
  const Sample first = samples_.front(), last = samples_.back();
  const auto grown = static_cast<double>(last.bytes - first.bytes);
  if (grown <= 0) return std::nullopt;
  std::int64_t left = disk_space(config.data_dir).value_or(DiskSpace{}).free_bytes;
  if (config.storage.budget_bytes > 0) {
    left = std::min(left, std::max<std::int64_t>(config.storage.budget_bytes - last.bytes, 0));
  }
  return static_cast<double>(left) * static_cast<double>(last.steady_ms - first.steady_ms) / 1000 /
         grown;
}

}  // namespace wayside
