#include "gateway/control/bridge_change.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "storage/account.h"
#include "storage/bridge_ops.h"
#include "storage/offset_set.h"

namespace wayside {
namespace {

// Position and marks of one partition, for a bridge.
struct At {
  std::int64_t position = 0;  // the next offset that is there and not sent, or before it
  PartitionMarks marks;
  [[nodiscard]] std::int64_t records(std::int64_t from, std::int64_t to) const {
    return std::max<std::int64_t>(to - from, 0) - marks.missing(from, to);
  }
};

Result<At> place_of(LogReader& reader, const Catalog& catalog, const std::string& bridge, TpId tp) {
  const Topic* topic = catalog.find(tp);
  if (topic == nullptr) return fail(ErrorCode::not_found, "the topic is not there any more");
  At at;
  WS_ASSIGN(const auto marks, reader.marks(*topic));
  for (const PartitionMarks& m : marks) {
    if (m.tp == tp) at.marks = m;
  }
  WS_ASSIGN(const auto positions, reader.positions(bridge_group(bridge)));
  for (const GroupPosition& p : positions) {
    if (p.tp == tp) at.position = p.next.value;
  }
  return at;
}

Result<OffsetSet> set_of(LogReader& reader, const std::string& fact) {
  WS_ASSIGN(const auto text, reader.fact(fact));
  return OffsetSet::parse(text.value_or(""));
}

SetFact fact_of(const std::string& name, const OffsetSet& set) {
  const std::string text = set.text();
  return {name, text.empty() ? std::nullopt : std::optional(text)};
}

}  // namespace

Result<BridgeChange> skip_change(LogReader& reader, const std::string& bridge,
                                 const std::vector<Target>& targets, bool left) {
  BridgeChange change;
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  WS_ASSIGN(OffsetSet ahead, set_of(reader, ahead_fact(bridge)));
  WS_ASSIGN(OffsetSet skipped, set_of(reader, skipped_fact(bridge)));
  for (const Target& t : targets) {
    WS_ASSIGN(const At at, place_of(reader, catalog, bridge, t.tp));
    const std::int64_t begin = std::max(at.position, at.marks.log_start.value);
    const std::int64_t end = std::min(t.offset, at.marks.log_end.value);
    // Of what is forwarded no more, what is stepped over to its end is of no interest any more.
    const bool all = left && end >= at.marks.log_end.value;
    if (end <= at.position && !all) continue;
    const std::int64_t expired = at.records(at.position, std::min(begin, end));
    if (expired > 0) change.ops.emplace_back(Count{cat("expired_unsent.", bridge), expired});
    // Records that are there and were not sent ahead.
    OffsetSet over;
    over.add(t.tp, begin, end);
    for (const Gap& g : at.marks.gaps) over.remove(t.tp, g.from, g.to);
    for (const auto& [from, to] : ahead.of(t.tp)) over.remove(t.tp, from, to);
    for (const auto& [from, to] : over.of(t.tp)) {
      skipped.add(t.tp, from, to);
      change.records += to - from;
    }
    ahead.remove(t.tp, 0, end);
    change.ops.emplace_back(CommitOffset{bridge_group(bridge), t.tp,
                                         Offset(std::max(end, at.position)), all ? "left" : ""});
  }
  if (change.ops.empty()) return change;
  change.ops.emplace_back(fact_of(ahead_fact(bridge), ahead));
  change.ops.emplace_back(fact_of(skipped_fact(bridge), skipped));
  change.ops.emplace_back(Count{cat("skipped.", bridge), change.records});
  return change;
}

Result<BridgeChange> rewind_change(LogReader& reader, const std::string& bridge,
                                   const std::vector<Target>& targets) {
  BridgeChange change;
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  WS_ASSIGN(OffsetSet skipped, set_of(reader, skipped_fact(bridge)));
  std::int64_t skipped_back = 0;
  for (const Target& t : targets) {
    WS_ASSIGN(const At at, place_of(reader, catalog, bridge, t.tp));
    const std::int64_t begin = std::max(t.offset, at.marks.log_start.value);
    if (begin >= at.position) continue;
    change.records += at.records(begin, at.position);
    skipped_back += skipped.count(t.tp, begin, at.position);
    skipped.remove(t.tp, begin, at.position);
    change.ops.emplace_back(CommitOffset{bridge_group(bridge), t.tp, Offset(begin), ""});
  }
  if (change.ops.empty()) return change;
  change.ops.emplace_back(fact_of(skipped_fact(bridge), skipped));
  if (skipped_back > 0) change.ops.emplace_back(Count{cat("skipped.", bridge), -skipped_back});
  // A batch that is sealed lies further on: it would take the position with it.
  change.ops.emplace_back(Unseal{bridge});
  return change;
}

Result<BridgeChange> resend_change(LogReader& reader, const std::string& bridge, TpId tp,
                                   std::int64_t from, std::int64_t to) {
  BridgeChange change;
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  WS_ASSIGN(const At at, place_of(reader, catalog, bridge, tp));
  from = std::max(from, at.marks.log_start.value);
  to = std::min(to, at.position);
  if (from >= to) return change;
  change.records = at.records(from, to);
  change.ops.emplace_back(Resend{bridge, tp, Offset(from), Offset(to)});
  return change;
}

std::string LeftBehind::text() const {
  return cat("bridge ", bridge, " has ", records, " unsent records of ", topic,
             ", which it does not forward any more: name ", topic,
             " in its topics again, or step over them: wayside bridge skip ", bridge, " --topic ",
             topic);
}

Result<std::vector<LeftBehind>> left_behind(LogReader& reader, const Catalog& catalog,
                                            const Config& config) {
  std::vector<LeftBehind> out;
  std::set<std::pair<std::string, std::string>> seen;
  WS_ASSIGN(const auto positions, reader.positions(""));
  for (const GroupPosition& p : positions) {
    const Topic* topic = catalog.find(p.tp);
    if (!p.group.starts_with("bridge.") || topic == nullptr || p.metadata == "left") continue;
    const std::string bridge = p.group.substr(std::string_view("bridge.").size());
    const bool forwards = std::any_of(
        config.bridges.begin(), config.bridges.end(), [&](const BridgeConfig& b) {
          return b.name == bridge &&
                 std::any_of(b.topics.begin(), b.topics.end(),
                             [&](const std::string& t) { return catalog.find(t) == topic; });
        });
    if (forwards || !seen.emplace(bridge, topic->name).second) continue;
    WS_ASSIGN(const Lag lag, lag_of(reader, catalog, p.group, {topic->name}));
    if (lag.records > 0) out.push_back({bridge, topic->name, lag.records});
  }
  return out;
}

}  // namespace wayside
