// Offsets of partitions, as ranges: what a bridge has settled ahead of its position, what a
// technician made it step over. Kept as a fact of the log. Thread: plain values.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/ids.h"

namespace wayside {

class OffsetSet {
 public:
  // "3:10-12,5:0-1": partition, from, to before. What is not of that form is left out.
  [[nodiscard]] static OffsetSet parse(std::string_view text);
  [[nodiscard]] std::string text() const;

  void add(TpId tp, std::int64_t from, std::int64_t to);
  void remove(TpId tp, std::int64_t from, std::int64_t to);
  [[nodiscard]] bool contains(TpId tp, std::int64_t offset) const;
  // How many offsets from one to before another are in it.
  [[nodiscard]] std::int64_t count(TpId tp, std::int64_t from, std::int64_t to) const;
  // The first offset, from this one on, that is not in it.
  [[nodiscard]] std::int64_t first_after(TpId tp, std::int64_t offset) const;
  // Its ranges in a partition: from, to before.
  [[nodiscard]] std::map<std::int64_t, std::int64_t> of(TpId tp) const;

  friend bool operator==(const OffsetSet&, const OffsetSet&) = default;

 private:
  std::map<std::int32_t, std::map<std::int64_t, std::int64_t>> by_tp_;  // from -> to
};

}  // namespace wayside
