#include "storage/account.h"

#include <algorithm>

#include "storage/bridge_ops.h"
#include "storage/offset_set.h"
#include "storage/quarantine.h"

namespace wayside {

Result<Lag> lag_of(LogReader& reader, const Catalog& catalog, const std::string& group,
                   const std::vector<std::string>& topics) {
  Lag lag;
  WS_ASSIGN(const auto positions, reader.positions(group));
  OffsetSet ahead, skipped;
  if (const std::string prefix = bridge_group(""); group.starts_with(prefix)) {
    WS_ASSIGN(const auto sent, reader.fact(ahead_fact(group.substr(prefix.size()))));
    WS_ASSIGN(const auto over, reader.fact(skipped_fact(group.substr(prefix.size()))));
    ahead = OffsetSet::parse(sent.value_or(""));
    skipped = OffsetSet::parse(over.value_or(""));
  }
  for (const std::string& name : topics) {
    const Topic* topic = catalog.find(name);
    if (topic == nullptr) continue;
    WS_ASSIGN(const auto marks, reader.marks(*topic));
    for (const PartitionMarks& m : marks) {
      PartitionLag p{topic->name, m.partition, -1, m.log_start.value, m.log_end.value};
      const auto at = std::find_if(positions.begin(), positions.end(),
                                   [&](const GroupPosition& g) { return g.tp == m.tp; });
      if (at != positions.end()) p.committed = at->next.value, p.commit_ms = at->commit_ms;
      const std::int64_t next = std::max(p.committed, p.log_start);
      p.passed = std::max<std::int64_t>(p.committed, 0);
      p.passed -= m.missing(0, p.passed);
      // Before its first commit everything below the log start is gone unread as well.
      const std::int64_t from = std::max<std::int64_t>(p.committed, 0);
      p.expired = next - from - m.missing(from, next);
      p.records = std::max<std::int64_t>(p.log_end - next - m.missing(next, p.log_end), 0);
      p.lost = m.missing(0, p.log_end);
      for (const auto& [begin, end] : ahead.of(m.tp)) {
        const std::int64_t n = std::max<std::int64_t>(end - std::max(begin, next), 0);
        p.passed += n;
        p.records -= std::min(n, p.records);
      }
      for (const auto& [begin, end] : skipped.of(m.tp)) {
        p.skipped += end - begin - m.missing(begin, end);
      }
      if (p.records > 0) {
        WS_ASSIGN(const auto seq, reader.seq_of(topic->chain, m.tp, Offset(next)));
        if (seq) {
          WS_ASSIGN(const auto page, reader.read(topic->chain, *seq, {{m.tp}}, {1, SIZE_MAX}));
          if (!page.records.empty()) p.oldest_append_ms = page.records.front().append_ms;
        }
      }
      lag.records += p.records;
      if (p.oldest_append_ms != 0) {
        lag.oldest_append_ms = lag.oldest_append_ms == 0
                                   ? p.oldest_append_ms
                                   : std::min(lag.oldest_append_ms, p.oldest_append_ms);
      }
      lag.partitions.push_back(std::move(p));
    }
  }
  return lag;
}

Account account_of(const std::vector<PartitionMarks>& marks) {
  Account a;
  for (const PartitionMarks& m : marks) {
    const std::int64_t start = m.log_start.value, end = m.log_end.value;
    const std::int64_t skipped = m.missing(0, end, GapKind::skipped);
    a.stored += end - skipped;
    a.expired += start - m.missing(0, start);
    a.live += m.live();
    a.lost += m.missing(0, end, GapKind::lost);
    a.salvaging += m.missing(0, end, GapKind::salvaging);
    a.skipped += skipped;
  }
  return a;
}

Result<Ledger> ledger_of(LogReader& reader, const Catalog& catalog) {
  Ledger l;
  for (const Topic& t : catalog.topics()) {
    WS_ASSIGN(const auto marks, reader.marks(t));
    const Account a = account_of(marks);
    l.stored += a.stored, l.expired += a.expired, l.live += a.live;
    l.lost += a.lost, l.salvaging += a.salvaging;
    if (t.name == kQuarantineTopic) l.quarantine_stored += a.stored;
  }
  WS_ASSIGN(const auto deleted, reader.deleted());
  l.stored += deleted.stored;
  l.deleted = deleted.live;
  l.lost += deleted.lost;
  l.expired += deleted.stored - deleted.live - deleted.lost;
  WS_ASSIGN(l.counters, reader.counters());
  for (const auto& [name, n] : l.counters) {
    if (name.starts_with("quarantined.")) l.quarantined += n;
    if (name.starts_with("refused.")) l.refused += n;
  }
  return l;
}

}  // namespace wayside
