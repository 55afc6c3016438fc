// Reading for whoever looks over the whole log: the latest of each key, who sends, what adds up.
#include <algorithm>
#include <unordered_set>

#include "storage/snapshot.h"

namespace wayside {

Result<std::vector<StoredRecord>> LogReader::latest(const Topic& topic, std::int64_t since_ms) {
  std::vector<TpId> tps;
  for (const Partition& p : topic.partitions) tps.push_back(p.tp);
  std::vector<StoredRecord> out;
  std::unordered_set<std::string> seen;
  WS_ASSIGN(const auto all, segments(topic.chain, Seq(0)));
  // A snapshot for each: one for all of a long log would hold its WAL. Times need not rise, so each
  // segment is looked at.
  for (auto g = all.rbegin(); g != all.rend(); ++g) {
    if (g->max_append_ms < since_ms) continue;
    WS_TRY(in_snapshot([&] {
      return latest_in(segment_table(topic.chain, g->segment), tps, since_ms, seen, out);
    }));
  }
  // Records that a shorter retention has hidden in a shared segment are not there any more.
  WS_ASSIGN(const auto marks_of, marks(topic));
  std::erase_if(out, [&](const StoredRecord& r) {
    return std::any_of(marks_of.begin(), marks_of.end(), [&](const PartitionMarks& m) {
      return m.tp == r.tp && r.offset < m.log_start;
    });
  });
  return out;
}

Status LogReader::latest_in(const std::string& table, std::span<const TpId> tps,
                            std::int64_t since_ms, std::unordered_set<std::string>& seen,
                            std::vector<StoredRecord>& out) {
  WS_ASSIGN(const std::int64_t there,
            db_.number(cat("SELECT count(*) FROM sqlite_schema WHERE name='", table, "'")));
  if (there == 0) return {};  // retention has dropped it meanwhile
  WS_ASSIGN(Statement keys,
            db_.prepare(cat("SELECT seq, key FROM ", table, " WHERE +tp IN (", tp_list(tps),
                            ") AND append_ms >= ?1 AND key IS NOT NULL ORDER BY seq DESC")));
  WS_ASSIGN(Statement one, db_.prepare(cat("SELECT seq, tp, \"offset\", ts, append_ms, key, value,"
                                           " headers, attrs, src, crc FROM ",
                                           table, " WHERE seq=?1")));
  keys.bind(1, since_ms);
  for (;;) {
    WS_ASSIGN(const bool row, keys.step());
    if (!row) return {};
    if (!seen.emplace(keys.bytes(1)).second) continue;
    WS_ASSIGN(const bool found, one.bind(1, keys.integer(0)).step());
    if (found) out.push_back(record_of(one));
    one.reset();
  }
}

Status LogReader::arrivals(std::int64_t since_ms, const std::function<void(const Arrival&)>& each) {
  std::vector<ChainId> chains;
  {
    WS_ASSIGN(Statement s, db_.prepare("SELECT chain FROM _ws_chains"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      chains.emplace_back(static_cast<std::int32_t>(s.integer(0)));
    }
  }
  for (const ChainId chain : chains) {
    WS_ASSIGN(const auto all, segments(chain, Seq(0)));
    for (const Segment& g : all) {
      if (g.max_append_ms < since_ms) continue;
      WS_TRY(in_snapshot([&]() -> Status {
        auto prepared = db_.prepare(cat("SELECT ifnull(src, 0), append_ms, ts, attrs, tp FROM ",
                                        segment_table(chain, g.segment),
                                        " WHERE append_ms >= ?1 ORDER BY seq"));
        if (!prepared) return {};  // retention has dropped it meanwhile
        Statement& s = *prepared;
        s.bind(1, since_ms);
        for (;;) {
          WS_ASSIGN(const bool row, s.step());
          if (!row) return {};
          each({s.integer(0), s.integer(1), s.integer(2), static_cast<std::int32_t>(s.integer(3)),
                TpId(static_cast<std::int32_t>(s.integer(4)))});
        }
      }));
    }
  }
  return {};
}

Result<std::vector<LogReader::Counted>> LogReader::count_rows(const Topic& topic) {
  return in_snapshot([&]() -> Result<std::vector<Counted>> {
    std::vector<Counted> out;
    WS_ASSIGN(const auto marks, marks_now(topic));
    std::vector<TpId> tps;
    for (const PartitionMarks& m : marks) {
      out.push_back({m, 0});
      tps.push_back(m.tp);
    }
    WS_ASSIGN(const auto all, segments(topic.chain, Seq(0)));
    for (const Segment& g : all) {
      const std::string table = segment_table(topic.chain, g.segment);
      // By the index alone, where there is one.
      WS_ASSIGN(Statement s, db_.prepare(cat("SELECT tp, count(*), min(\"offset\") FROM ", table,
                                             " WHERE tp IN (", tp_list(tps), ") GROUP BY tp")));
      for (;;) {
        WS_ASSIGN(const bool row, s.step());
        if (!row) break;
        const TpId tp(static_cast<std::int32_t>(s.integer(0)));
        const auto it = std::find_if(out.begin(), out.end(),
                                     [&](const Counted& c) { return c.marks.tp == tp; });
        std::int64_t rows = s.integer(1);
        if (s.integer(2) < it->marks.log_start.value) {
          WS_ASSIGN(rows, db_.number(cat("SELECT count(*) FROM ", table, " WHERE tp=", tp.value,
                                         " AND \"offset\">=", it->marks.log_start.value)));
        }
        it->rows += rows;
      }
    }
    return out;
  });
}

std::int64_t PartitionMarks::missing(std::int64_t from, std::int64_t to) const {
  return missing(from, to, GapKind::lost) + missing(from, to, GapKind::skipped) +
         missing(from, to, GapKind::salvaging);
}

std::int64_t PartitionMarks::missing(std::int64_t from, std::int64_t to, GapKind kind) const {
  std::int64_t n = 0;
  for (const Gap& g : gaps) {
    if (g.kind == kind) n += std::max<std::int64_t>(std::min(g.to, to) - std::max(g.from, from), 0);
  }
  return n;
}

// Gaps are in the order of their offsets and do not overlap.
std::int64_t PartitionMarks::records_after(std::int64_t from, std::int64_t n) const {
  for (const Gap& g : gaps) {
    if (g.to <= from) continue;
    const std::int64_t before = std::max<std::int64_t>(g.from - from, 0);
    if (before >= n) break;
    n -= before;
    from = g.to;
  }
  return std::min(from + n, log_end.value);
}

std::int64_t PartitionMarks::records_before(std::int64_t to, std::int64_t n) const {
  for (auto g = gaps.rbegin(); g != gaps.rend(); ++g) {
    if (g->from >= to) continue;
    const std::int64_t behind = std::max<std::int64_t>(to - g->to, 0);
    if (behind >= n) break;
    n -= behind;
    to = g->from;
  }
  return std::max(to - n, log_start.value);
}

// A log of format 2 or 1 names none.
Result<std::vector<Missing>> LogReader::missing() {
  std::vector<Missing> out;
  WS_ASSIGN(const std::int64_t version, db_.number("PRAGMA user_version"));
  if (version < 3) return out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT tp, from_offset, to_offset, kind, why FROM _ws_lost"
                                     " ORDER BY tp, from_offset"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    const GapKind kind = s.bytes(3) == "lost"      ? GapKind::lost
                         : s.bytes(3) == "skipped" ? GapKind::skipped
                                                   : GapKind::salvaging;
    out.push_back({TpId(static_cast<std::int32_t>(s.integer(0))),
                   {s.integer(1), s.integer(2), kind},
                   std::string(s.bytes(4))});
  }
}

Result<std::vector<DamagedFile>> LogReader::damaged() {
  std::vector<DamagedFile> out;
  WS_ASSIGN(const std::int64_t version, db_.number("PRAGMA user_version"));
  if (version < 3) return out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT file, why, state, set_aside_ms, records"
                                     " FROM _ws_damaged ORDER BY set_aside_ms, file"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.push_back({std::string(s.bytes(0)), std::string(s.bytes(1)), std::string(s.bytes(2)),
                   s.integer(3), s.integer(4)});
  }
}

Result<bool> LogReader::is_salvaging(std::span<const TpId> tps) {
  WS_ASSIGN(const std::int64_t version, db_.number("PRAGMA user_version"));
  if (version < 3) return false;
  WS_ASSIGN(const std::int64_t n,
            db_.number(cat("SELECT count(*) FROM _ws_damaged WHERE state='waiting' AND EXISTS"
                           " (SELECT 1 FROM _ws_partitions WHERE tp IN (",
                           tp_list(tps), "))")));
  return n > 0;
}

Result<LogReader::Deleted> LogReader::deleted() {
  Deleted d;
  WS_ASSIGN(const auto gaps, missing());
  WS_ASSIGN(Statement gone, db_.prepare("SELECT tp FROM _ws_partitions WHERE topic_id NOT IN"
                                        " (SELECT topic_id FROM _ws_topics)"));
  for (;;) {
    WS_ASSIGN(const bool row, gone.step());
    if (!row) break;
    for (const Missing& m : gaps) {
      if (m.tp.value != gone.integer(0)) continue;
      const std::int64_t n = m.gap.to - m.gap.from;
      d.stored -= m.gap.kind == GapKind::skipped ? n : 0;
      d.lost += m.gap.kind == GapKind::skipped ? 0 : n;
    }
  }
  const std::int64_t skipped = d.stored;
  WS_ASSIGN(d.stored, db_.number("SELECT ifnull(sum(log_start), 0) FROM _ws_partitions"
                                 " WHERE topic_id NOT IN (SELECT topic_id FROM _ws_topics)"));
  d.stored += skipped;
  WS_ASSIGN(d.live, db_.number("SELECT ifnull((SELECT value FROM _ws_counters"
                               " WHERE name='deleted.records'), 0)"));
  return d;
}

Result<std::map<std::int64_t, std::string>> LogReader::settled() {
  std::map<std::int64_t, std::string> out;
  WS_ASSIGN(const std::int64_t version, db_.number("PRAGMA user_version"));
  if (version < 2) return out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT \"offset\", outcome FROM _ws_quarantine_settled"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.emplace(s.integer(0), std::string(s.bytes(1)));
  }
}

Status LogReader::clients(const std::function<void(std::string_view)>& each) {
  WS_ASSIGN(Statement s, db_.prepare("SELECT DISTINCT client_id FROM _ws_sources"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return {};
    each(s.bytes(0));
  }
}

// Some at a time: there may be very many, and whoever prints them may pause.
Status LogReader::sources(const std::function<void(const Source&)>& each) {
  constexpr std::int64_t kAtATime = 500;
  std::vector<Source> page;
  for (;;) {
    const Source last = page.empty() ? Source{} : page.back();
    WS_ASSIGN(Statement s, db_.prepare(cat("SELECT src, client_id, mqtt_topic FROM _ws_sources",
                                           page.empty() ? "" : " WHERE (client_id, mqtt_topic) >"
                                                               " (?1, ?2)",
                                           " ORDER BY client_id, mqtt_topic LIMIT ", kAtATime)));
    if (!page.empty()) s.bind_text(1, last.client_id).bind_text(2, last.mqtt_topic);
    page.clear();
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      page.push_back({std::string(s.bytes(1)), std::string(s.bytes(2)), s.integer(0)});
    }
    if (page.empty()) return {};
    for (const Source& source : page) each(source);
  }
}

}  // namespace wayside
