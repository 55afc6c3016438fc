#include "bridge/blame.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"

namespace wayside {
namespace {

// What a proof is worth: within a run of refusals twice as many records with each, and of one
// source these, then so many times as many.
constexpr std::int64_t kWorthMost = 64, kRunFirst = 16, kRunGrows = 32, kRunMost = 1024;
const ReadLimits kPage{500, 1 << 20};

}  // namespace

void Blame::refused(ChainId chain, Seq last) {
  const auto known = through_.find(chain);
  if (known != through_.end() && last <= known->second) return;
  through_[chain] = last;
  left_ = 0;
}

void Blame::taken(bool probe) {
  const bool run = probe && run_source_ != 0;
  worth_ = run ? std::min(worth_ * 2, kWorthMost) : 1;
  left_ = worth_;
  run_worth_ = run ? std::min(run_worth_ * kRunGrows, kRunMost) : 0;
  run_left_ = run_worth_;
  if (!run) run_source_ = 0;
}

void Blame::set_aside(std::int64_t source) {
  if (source == run_source_ && run_left_ > 0) {
    --run_left_;
    return;
  }
  --left_;
  if (source == run_source_) return;
  run_source_ = source;
  run_left_ = run_worth_ = kRunFirst;
}

bool Blame::expects_more(ChainId chain, Seq next) const {
  const auto known = through_.find(chain);
  return run_left_ > 0 || (known != through_.end() && next <= known->second);
}

void Prober::reset() {
  scanned_.clear();
  for (auto& list : found_) list.clear();
  any_ = {};
  topics_.clear();
  sources_.clear();
  orders_.clear();
  taken_.clear();
  suspects_.clear();
}

void Prober::suspect_batch(const std::vector<StoredRecord>& records) {
  waiting_orders_.clear();
  for (const StoredRecord& r : records) waiting_orders_.insert(order_of(r));
  suspect(records);
}

void Prober::suspect(const std::vector<StoredRecord>& records) {
  for (const StoredRecord& r : records) {
    suspects_.insert(r.seq.value);
    topics_.insert(topic_of(r));
    if (r.source != 0) sources_.insert(r.source);
    orders_.insert(order_of(r));
  }
}

void Prober::taken(const StoredRecord& r) {
  const std::uint64_t order = order_of(r);
  orders_.erase(order);
  taken_.insert(order);
  // Behind it others of its key may have been passed over.
  for (Seq& seq : scanned_) seq = std::min(seq, Seq(r.seq.value + 1));
}

std::int64_t Prober::topic_of(const StoredRecord& r) const {
  const auto catalog = log_.catalog();
  const Topic* topic = catalog->find(r.tp);
  return topic == nullptr ? 0 : topic->id.value;
}

std::uint64_t Prober::order_of(const StoredRecord& r) const {
  const auto topic = static_cast<std::uint64_t>(topic_of(r));
  const std::uint64_t who = r.record.key ? std::hash<std::string>{}(*r.record.key)
                                         : static_cast<std::uint64_t>(r.source) << 1;
  return (who ^ topic << 32) * 2 + (r.record.key ? 1 : 0);
}

// Looks through the next page of the first lane that has one. False: they all end here.
Result<bool> Prober::scan_page(LogReader& reader, Unsent& unsent) {
  auto& lanes = unsent.lanes();
  for (std::size_t i = scanned_.size(); i < lanes.size(); ++i) scanned_.push_back(lanes[i].next);
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    scanned_[i] = std::max(scanned_[i], lanes[i].next);
    WS_ASSIGN(const auto page, reader.read(lanes[i].chain, scanned_[i], lanes[i].tps, kPage));
    scanned_[i] = page.next;
    if (page.records.empty() && page.at_end) continue;
    for (const StoredRecord& r : page.records) {
      // The first of its key only: no record is sent before an older one of the same key.
      const std::uint64_t order = order_of(r);
      if (!unsent.is_unsent(r) || !orders_.insert(order).second) continue;
      const bool topic = topics_.insert(topic_of(r)).second;
      const bool source = r.source != 0 && sources_.insert(r.source).second;
      auto& list = found_.at(topic || taken_.contains(order) ? 0 : source ? 1 : 2);
      if (list.size() < limits::kProbesRemembered) list.push_back({i, r.seq});
    }
    return true;
  }
  return false;
}

Result<std::optional<StoredRecord>> Prober::take(LogReader& reader, Unsent& unsent,
                                                 std::deque<Place>& from) {
  while (!from.empty()) {
    const Place place = from.front();
    from.pop_front();
    const Lane& lane = unsent.lanes().at(place.lane);
    WS_ASSIGN(auto page, reader.read(lane.chain, place.seq, lane.tps, {1, SIZE_MAX}, place.seq));
    if (page.records.empty()) continue;
    StoredRecord& r = page.records.front();
    // Since it was found the stream may have come to it, or to one before it of its key.
    const bool waits = suspects_.contains(r.seq.value) || waiting_orders_.contains(order_of(r));
    if (!waits && unsent.is_unsent(r)) return std::optional(std::move(r));
  }
  return std::optional<StoredRecord>{};
}

// One after the other from the beginning, so all before it of its key have been refused.
Result<std::optional<StoredRecord>> Prober::next_of_any(LogReader& reader, Unsent& unsent,
                                                        std::stop_token stop) {
  auto& lanes = unsent.lanes();
  for (; any_.lane < lanes.size(); any_ = {any_.lane + 1, Seq{}}) {
    Lane& lane = lanes[any_.lane];
    any_.seq = std::max(any_.seq, lane.next);
    for (bool at_end = false; !at_end && !stop.stop_requested();) {
      WS_ASSIGN(auto page, reader.read(lane.chain, any_.seq, lane.tps, kPage));
      at_end = page.at_end;
      for (StoredRecord& r : page.records) {
        any_.seq = Seq(r.seq.value + 1);
        if (unsent.is_unsent(r) && !suspects_.contains(r.seq.value)) {
          return std::optional(std::move(r));
        }
      }
      any_.seq = page.next;
    }
  }
  return std::optional<StoredRecord>{};
}

Result<std::optional<StoredRecord>> Prober::next(LogReader& reader, Unsent& unsent, bool same_key,
                                                 std::stop_token stop) {
  std::int64_t looked = 0;
  bool more = orders_.size() < limits::kProbeOrdersMax;
  while (more && found_[0].empty() && found_[1].empty() && !stop.stop_requested()) {
    if ((looked += static_cast<std::int64_t>(kPage.records)) > limits::kProbeScanRecords) {
      return std::optional<StoredRecord>{};  // the next time it goes on from here
    }
    WS_ASSIGN(more, scan_page(reader, unsent));
  }
  for (auto& list : found_) {
    WS_ASSIGN(auto record, take(reader, unsent, list));
    if (record) return record;
  }
  if (same_key) {
    WS_ASSIGN(auto record, next_of_any(reader, unsent, stop));
    if (record) return record;
  }
  reset();
  return std::optional<StoredRecord>{};
}

}  // namespace wayside
