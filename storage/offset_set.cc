#include "storage/offset_set.h"

#include <algorithm>
#include <iterator>

#include "base/text.h"

namespace wayside {

OffsetSet OffsetSet::parse(std::string_view text) {
  OffsetSet out;
  if (text.empty()) return out;
  for (const std::string_view one : split(text, ',')) {
    const std::size_t colon = one.find(':'), dash = one.find('-');
    if (colon == std::string_view::npos || dash == std::string_view::npos || dash < colon) continue;
    const auto tp = parse_int(one.substr(0, colon));
    const auto from = parse_int(one.substr(colon + 1, dash - colon - 1));
    const auto to = parse_int(one.substr(dash + 1));
    if (tp && from && to) out.add(TpId(static_cast<std::int32_t>(*tp)), *from, *to);
  }
  return out;
}

std::string OffsetSet::text() const {
  std::string out;
  for (const auto& [tp, ranges] : by_tp_) {
    for (const auto& [from, to] : ranges) {
      out += cat(out.empty() ? "" : ",", tp, ":", from, "-", to);
    }
  }
  return out;
}

void OffsetSet::add(TpId tp, std::int64_t from, std::int64_t to) {
  if (from >= to) return;
  auto& ranges = by_tp_[tp.value];
  auto it = ranges.upper_bound(from);
  if (it != ranges.begin() && std::prev(it)->second >= from) --it;
  while (it != ranges.end() && it->first <= to) {  // those it touches become one with it
    from = std::min(from, it->first);
    to = std::max(to, it->second);
    it = ranges.erase(it);
  }
  ranges[from] = to;
}

void OffsetSet::remove(TpId tp, std::int64_t from, std::int64_t to) {
  const auto of = by_tp_.find(tp.value);
  if (of == by_tp_.end()) return;
  std::map<std::int64_t, std::int64_t> left;
  for (const auto& [begin, end] : of->second) {
    if (begin < std::min(end, from)) left[begin] = std::min(end, from);
    if (std::max(begin, to) < end) left[std::max(begin, to)] = end;
  }
  of->second = std::move(left);
  if (of->second.empty()) by_tp_.erase(of);
}

bool OffsetSet::contains(TpId tp, std::int64_t offset) const {
  return first_after(tp, offset) != offset;
}

std::int64_t OffsetSet::count(TpId tp, std::int64_t from, std::int64_t to) const {
  const auto of = by_tp_.find(tp.value);
  std::int64_t n = 0;
  if (of == by_tp_.end()) return n;
  for (const auto& [begin, end] : of->second) {
    n += std::max<std::int64_t>(std::min(end, to) - std::max(begin, from), 0);
  }
  return n;
}

std::int64_t OffsetSet::first_after(TpId tp, std::int64_t offset) const {
  const auto of = by_tp_.find(tp.value);
  if (of == by_tp_.end()) return offset;
  auto it = of->second.upper_bound(offset);
  if (it == of->second.begin()) return offset;
  --it;
  return offset < it->second ? it->second : offset;
}

std::map<std::int64_t, std::int64_t> OffsetSet::of(TpId tp) const {
  const auto of = by_tp_.find(tp.value);
  return of == by_tp_.end() ? std::map<std::int64_t, std::int64_t>{} : of->second;
}

}  // namespace wayside
