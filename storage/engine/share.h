// How much each network address has added to something that has a budget, so that one address
// cannot take what is left of it. Above half of the budget an address may add a sixteenth; the
// gateway itself (origin 0) may add all. Thread: one owner.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/text.h"

namespace wayside {

// What a row with so many bytes of names takes of the database: it is in its table and in the
// index, whose pages are two thirds full; what does not fit beside three others on a page of the
// index takes a page of its own.
[[nodiscard]] constexpr std::int64_t row_cost(std::int64_t bytes) {
  return 3 * bytes + 48 + (bytes > 900 ? 4096 : 0);
}
// The same of all rows of a select whose column n is the bytes of the names.
[[nodiscard]] inline std::string row_costs_sql(std::string_view of_rows) {
  return cat("SELECT count(*), ifnull(sum(3 * n + 48 + 4096 * (n > 900)), 0) FROM (", of_rows, ")");
}

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
    running_.emplace_back(origin, cost);
  }
  // A transaction begins; it failed, and nothing of it was added.
  void begin() { running_.clear(); }
  void rolled_back() {
    for (const auto& [origin, cost] : running_) {
      if (const auto of = added_.find(origin); of != added_.end()) of->second -= cost;
    }
    running_.clear();
  }
  void clear() {
    added_.clear();
    running_.clear();
  }

 private:
  static constexpr std::size_t kOriginsMax = 1024;
  std::unordered_map<std::uint64_t, std::int64_t> added_;
  std::vector<std::pair<std::uint64_t, std::int64_t>> running_;  // of the running transaction
};

}  // namespace wayside
