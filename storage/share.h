// How much each network address has added to something that has a budget, so that one address
// cannot take what is left of it. Above half of the budget an address may add a sixteenth; the
// gateway itself (origin 0) may add all. Thread: one owner.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace wayside {

class Share {
 public:
  // `used` of `most` are taken: may this origin add `cost`?
  [[nodiscard]] bool allows(std::uint64_t origin, std::int64_t cost, std::int64_t used,
                            std::int64_t most) const {
    if (used + cost > most) return false;
    if (origin == 0 || used + cost <= most / 2) return true;
    const auto of = added_.find(origin);
    return (of == added_.end() ? 0 : of->second) + cost <= most / 16;
  }
  void add(std::uint64_t origin, std::int64_t cost) {
    if (origin == 0) return;
    // Of so many addresses those that added least are forgotten.
    if (added_.size() >= kOriginsMax && !added_.contains(origin)) {
      added_.erase(std::min_element(added_.begin(), added_.end(), [](auto& a, auto& b) {
        return a.second < b.second;
      }));
    }
    added_[origin] += cost;
  }
  void clear() { added_.clear(); }

 private:
  static constexpr std::size_t kOriginsMax = 1024;
  std::unordered_map<std::uint64_t, std::int64_t> added_;
};

}  // namespace wayside
