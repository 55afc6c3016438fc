#include "bridge/unsent.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "storage/bridge_ops.h"
#include "storage/offset_set.h"

namespace wayside {

Status Unsent::load(LogReader& reader, std::vector<Op>& ops) {
  lanes_.clear();
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  WS_ASSIGN(const auto committed, reader.positions(bridge_group(bridge_)));
  WS_ASSIGN(const auto ahead, reader.fact(ahead_fact(bridge_)));
  ahead_ = OffsetSet::parse(ahead.value_or(""));
  for (const std::string& name : topics_) {
    const Topic* topic = catalog.find(name);
    if (topic == nullptr) return tl::unexpected<Error>(catalog.unknown_topic(name));
    Lane* lane = lane_of(topic->chain);
    if (lane == nullptr) {
      lane = &lanes_.emplace_back();
      lane->chain = topic->chain;
      // Read before the partitions' marks: whatever is committed from now on lies behind it.
      WS_ASSIGN(const std::int64_t first,
                reader.number(cat("SELECT first_seq FROM _ws_segments WHERE last_seq IS NULL"
                                  " AND chain=",
                                  lane->chain.value)));
      lane->next = Seq(first);
    }
    WS_ASSIGN(const auto marks, reader.marks(*topic));
    for (const PartitionMarks& m : marks) {
      const auto it = std::find_if(committed.begin(), committed.end(),
                                   [&](const GroupPosition& p) { return p.tp == m.tp; });
      const bool known = it != committed.end();
      const std::int64_t position = known ? it->next.value : m.log_start.value;
      // One that was left behind when its topic was taken out is taken up again.
      if (!known || !it->metadata.empty()) {
        ops.emplace_back(CommitOffset{bridge_group(bridge_), m.tp, Offset(position), ""});
      }
      lane->tps.push_back(m.tp);
      lane->position[m.tp] = position;
      lane->marks[m.tp] = m;
      if (position >= m.log_end.value) continue;
      WS_ASSIGN(const auto seq,
                reader.seq_of(topic->chain, m.tp, Offset(std::max(position, m.log_start.value))));
      if (seq) lane->next = std::min(lane->next, *seq);
    }
  }
  return {};
}

Lane* Unsent::lane_of(ChainId chain) {
  const auto lane = std::find_if(lanes_.begin(), lanes_.end(),
                                 [&](const Lane& l) { return l.chain == chain; });
  return lane == lanes_.end() ? nullptr : &*lane;
}

bool Unsent::is_unsent(const StoredRecord& r) const {
  for (const Lane& lane : lanes_) {
    const auto position = lane.position.find(r.tp);
    if (position == lane.position.end()) continue;
    return r.offset.value >= position->second && !ahead_.contains(r.tp, r.offset.value);
  }
  return false;
}

Result<Unsent::Found> Unsent::next(LogReader& reader, Lane& lane, const ReadLimits& limits,
                                   std::stop_token stop) {
  LogReader::Page page;
  // What was sent already (by a topic that is further than its neighbours) is stepped over.
  do {
    WS_ASSIGN(page, reader.read(lane.chain, lane.next, lane.tps, limits));
    std::erase_if(page.records, [&](const StoredRecord& r) { return !is_unsent(r); });
    if (page.records.empty()) lane.next = page.next;
  } while (page.records.empty() && !page.at_end && !stop.stop_requested());
  return Found{std::move(page.records), page.at_end};
}

// Behind everything that is settled without a gap.
void Unsent::move(const Lane& lane, TpId tp, std::vector<Op>& ops) {
  for (Lane& l : lanes_) {
    const auto at = l.position.find(tp);
    if (l.chain != lane.chain || at == l.position.end()) continue;
    const std::int64_t position = ahead_.first_after(tp, at->second);
    ahead_.remove(tp, 0, position);
    at->second = position;
    ops.emplace_back(CommitOffset{bridge_group(bridge_), tp, Offset(position), ""});
  }
}

void Unsent::settle(const Lane& lane, const std::vector<StoredRecord>& records,
                    std::vector<Op>& ops) {
  const OffsetSet before = ahead_;
  std::set<TpId> touched;
  for (const StoredRecord& r : records) {
    ahead_.add(r.tp, r.offset.value, r.offset.value + 1);
    touched.insert(r.tp);
  }
  for (const TpId tp : touched) move(lane, tp, ops);
  if (ahead_ == before) return;
  const std::string text = ahead_.text();
  ops.emplace_back(
      SetFact{ahead_fact(bridge_), text.empty() ? std::nullopt : std::optional(text)});
}

void Unsent::settle_next(Lane& lane, const std::vector<StoredRecord>& records, Seq last,
                         bool whole_lane, std::vector<Op>& ops) {
  for (const StoredRecord& r : records) {
    note_expired(lane, r, ops);
    // What lies between the position and it is not there, or settled.
    const auto position = lane.position.find(r.tp);
    if (position == lane.position.end()) continue;
    position->second = std::max(position->second, r.offset.value + 1);
  }
  settle(lane, records, ops);
  // A batch sealed for other partitions says nothing of what this lane has read.
  if (whole_lane) lane.next = Seq(std::max(lane.next.value, last.value + 1));
}

void Unsent::note_expired(const Lane& lane, const StoredRecord& r, std::vector<Op>& ops) {
  const auto position = lane.position.find(r.tp);
  if (position == lane.position.end() || r.offset.value <= position->second) return;
  const std::int64_t between = r.offset.value - position->second -
                               ahead_.count(r.tp, position->second, r.offset.value);
  const auto marks = lane.marks.find(r.tp);
  const std::int64_t gone = marks == lane.marks.end()
                                ? between
                                : between - marks->second.missing(position->second, r.offset.value);
  if (gone <= 0) return;  // what was lost with a damaged file is named elsewhere
  ops.emplace_back(Count{cat("expired_unsent.", bridge_), gone});
  const auto catalog = log_.catalog();
  logger_.warning(cat("bridge ", bridge_, ": ", gone, " records of ", catalog->find(r.tp)->name,
                      " partition ", catalog->partition_of(r.tp),
                      " expired before they were sent"));
}

}  // namespace wayside
