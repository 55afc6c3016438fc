#include "storage/snapshot.h"

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/text.h"

namespace wayside {
namespace {

std::size_t size_of(const Record& r) {
  return (r.key ? r.key->size() : 0) + (r.value ? r.value->size() : 0) + r.headers.size() + 64;
}

}  // namespace

Result<LogReader> LogReader::open(const std::string& path) {
  if (!file_exists(path) && errno == EACCES) {
    return fail(ErrorCode::io, cat("no right to look at ", path),
                "become a member of the group wayside (sudo usermod -aG wayside $USER, then log in "
                "again), or use sudo");
  }
  if (!file_exists(path)) {
    return fail(ErrorCode::not_found, cat("there is no log at ", path),
                "check data_dir, or start the gateway once: it makes the log");
  }
  auto db = Database::open(path, OpenMode::read_only);
  if (db) {
    auto works = db->exec("PRAGMA busy_timeout=2000");
    if (works) works = check_schema(*db);
    if (works) return LogReader(std::move(*db), path);
    if (works.error().code != ErrorCode::io) return tl::unexpected<Error>(works.error());
    db = tl::unexpected<Error>(works.error());
  }
  // A medium, or rights, that allow no -shm file: the WAL is read without one.
  return open_as(path, OpenMode::untouched);
}

Result<LogReader> LogReader::open_as(const std::string& path, OpenMode mode) {
  WS_ASSIGN(Database db, Database::open(path, mode));
  WS_TRY(check_schema(db));
  return LogReader(std::move(db), path);
}

LogReader::LogReader(Database db, const std::string& path)
    : db_(std::move(db)),
      path_(path),
      inode_(file_inode(path)),
      wal_inode_(file_inode(path + "-wal")) {}

bool LogReader::is_replaced() const {
  return file_inode(path_) != inode_ ||
         (wal_inode_ != 0 && file_inode(path_ + "-wal") != wal_inode_);
}

Result<Catalog> LogReader::catalog() {
  return Catalog::load(db_);
}
Result<Identity> LogReader::identity() {
  return read_identity(db_);
}

Result<std::map<Seq, std::string>> LogReader::identities() {
  std::map<Seq, std::string> out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT from_seq, log_uuid FROM _ws_logs"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.emplace(Seq(s.integer(0)), s.bytes(1));
  }
}

Result<std::vector<LogReader::Segment>> LogReader::segments(ChainId chain, Seq from) {
  std::vector<Segment> out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT segment, first_seq, last_seq, max_append_ms, indexed"
                                     " FROM _ws_segments WHERE chain=?1 AND"
                                     " (last_seq IS NULL OR last_seq >= ?2) ORDER BY segment"));
  s.bind(1, chain.value).bind(2, from.value);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    Segment g{s.integer(0), s.integer(1)};
    g.open = s.is_null(2);
    if (!g.open) g.last_seq = s.integer(2), g.max_append_ms = s.integer(3);
    g.indexed = s.integer(4) != 0;
    out.push_back(g);
  }
}

Result<LogReader::Page> LogReader::read(ChainId chain, Seq from, std::span<const TpId> tps,
                                        const ReadLimits& limits, Seq last) {
  return in_snapshot([&]() -> Result<Page> {
    Page page;
    page.next = from;
    std::size_t bytes = 0;
    WS_ASSIGN(const auto all, segments(chain, from));
    for (const Segment& g : all) {
      if (g.first_seq > last.value) break;
      // "+tp": arrival order is wanted, not the index of the partition.
      WS_ASSIGN(Statement s,
                db_.prepare(cat("SELECT seq, tp, \"offset\", ts, append_ms, key, value, headers,"
                                " attrs, src, crc FROM ",
                                segment_table(chain, g.segment),
                                " WHERE seq >= ?1 AND seq <= ?2 AND +tp IN (", tp_list(tps),
                                ") ORDER BY seq")));
      s.bind(1, page.next.value).bind(2, last.value);
      for (;;) {
        const auto row = s.step();
        if (!row && !page.records.empty()) return page;  // those before the damage, first
        if (!row) return tl::unexpected<Error>(row.error());
        if (!*row) break;
        StoredRecord r = record_of(s);
        // A page in another's place. At once: who goes on behind it would not come upon it again.
        if (limits.check && (r.seq < page.next || r.seq > last)) {
          return fail_damaged(cat("behind seq ", page.next.value - 1, " comes seq ", r.seq.value));
        }
        if (limits.check && record_crc(r.tp, r.offset, r.append_ms, r.record) != r.crc) {
          if (!page.records.empty()) return page;
          return fail_damaged(cat("the CRC of the record at seq ", r.seq.value, " is wrong"));
        }
        bytes += size_of(r.record);
        if (!page.records.empty() && bytes > limits.bytes) return page;
        page.next = Seq(r.seq.value + 1);
        page.records.push_back(std::move(r));
        if (page.records.size() >= limits.records) return page;
      }
      std::int64_t seen = g.last_seq;
      if (g.open) {  // as far as this snapshot goes: what it holds of others need not be read again
        WS_ASSIGN(seen, db_.number(cat("SELECT max(seq) FROM ", segment_table(chain, g.segment)),
                                   page.next.value - 1));
      }
      page.next = Seq(std::max(page.next.value, std::min(seen, last.value) + 1));
    }
    page.at_end = true;
    return page;
  });
}

Result<std::optional<Seq>> LogReader::seq_of(ChainId chain, TpId tp, Offset offset) {
  return in_snapshot([&]() -> Result<std::optional<Seq>> {
    // The segment that holds it is the last that starts at or before it; one later, when it was
    // the end of that one.
    WS_ASSIGN(Statement start, db_.prepare("SELECT ifnull(max(segment), 0) FROM _ws_segment_starts"
                                           " WHERE chain=?1 AND tp=?2 AND next_offset <= ?3"));
    start.bind(1, chain.value).bind(2, tp.value).bind(3, offset.value);
    WS_ASSIGN([[maybe_unused]] const bool row, start.step());
    const std::int64_t first = start.integer(0);
    start.reset();
    WS_ASSIGN(const auto all, segments(chain, Seq(0)));
    for (const Segment& g : all) {
      if (g.segment < first) continue;
      WS_ASSIGN(Statement s, db_.prepare(cat("SELECT seq FROM ", segment_table(chain, g.segment),
                                             " WHERE tp=?1 AND \"offset\">=?2 ORDER BY ",
                                             g.indexed ? "tp, \"offset\"" : "seq", " LIMIT 1")));
      s.bind(1, tp.value).bind(2, offset.value);
      WS_ASSIGN(const bool found, s.step());
      if (found) return std::optional(Seq(s.integer(0)));
    }
    return std::optional<Seq>{};
  });
}

Result<std::optional<Seq>> LogReader::seq_at(ChainId chain, std::span<const TpId> tps,
                                             std::int64_t append_ms) {
  return in_snapshot([&]() -> Result<std::optional<Seq>> {
    WS_ASSIGN(const auto all, segments(chain, Seq(0)));
    for (const Segment& g : all) {
      if (g.max_append_ms < append_ms) continue;
      WS_ASSIGN(Statement s, db_.prepare(cat("SELECT seq FROM ", segment_table(chain, g.segment),
                                             " WHERE append_ms>=?1 AND +tp IN (", tp_list(tps),
                                             ") ORDER BY seq LIMIT 1")));
      s.bind(1, append_ms);
      WS_ASSIGN(const bool found, s.step());
      if (found) return std::optional(Seq(s.integer(0)));
    }
    return std::optional<Seq>{};
  });
}

// Where the partitions of a topic end: what the open segment started with, and what it holds. It
// is scanned once, then only what came since.
Status LogReader::scan_open_segment(const Topic& topic) {
  WS_ASSIGN(Statement open, db_.prepare("SELECT segment, first_seq FROM _ws_segments"
                                        " WHERE chain=?1 AND last_seq IS NULL"));
  WS_ASSIGN(const bool found, open.bind(1, topic.chain.value).step());
  if (!found) return fail(ErrorCode::corrupt, cat("topic ", topic.name, " has no open segment"));
  const std::int64_t segment = open.integer(0), first_seq = open.integer(1);
  open.reset();
  std::int64_t& through = scanned_through_.try_emplace(topic.chain, -1).first->second;
  if (through < first_seq - 1) {
    WS_ASSIGN(Statement starts, db_.prepare("SELECT tp, next_offset FROM _ws_segment_starts"
                                            " WHERE chain=?1 AND segment=?2"));
    starts.bind(1, topic.chain.value).bind(2, segment);
    for (;;) {
      WS_ASSIGN(const bool row, starts.step());
      if (!row) break;
      next_offset_[TpId(static_cast<std::int32_t>(starts.integer(0)))] = starts.integer(1);
    }
    through = first_seq - 1;
  }
  WS_ASSIGN(Statement scan,
            db_.prepare(cat("SELECT tp, max(\"offset\")+1, max(seq) FROM ",
                            segment_table(topic.chain, segment), " WHERE seq > ?1 GROUP BY tp")));
  scan.bind(1, through);
  for (;;) {
    WS_ASSIGN(const bool row, scan.step());
    if (!row) return {};
    next_offset_[TpId(static_cast<std::int32_t>(scan.integer(0)))] = scan.integer(1);
    through = std::max(through, scan.integer(2));
  }
}

Result<std::vector<PartitionMarks>> LogReader::marks_now(const Topic& topic) {
  std::vector<PartitionMarks> out;
  WS_TRY(scan_open_segment(topic));
  WS_ASSIGN(Statement s, db_.prepare("SELECT tp, partition, log_start FROM _ws_partitions"
                                     " WHERE topic_id=?1 ORDER BY partition"));
  s.bind(1, topic.id.value);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    const TpId tp(static_cast<std::int32_t>(s.integer(0)));
    const auto end = next_offset_.find(tp);
    out.push_back({tp, static_cast<std::int32_t>(s.integer(1)), Offset(s.integer(2)),
                   Offset(end == next_offset_.end() ? 0 : end->second)});
  }
  WS_ASSIGN(const auto gaps, missing());
  for (const Missing& m : gaps) {
    const auto of =
        std::find_if(out.begin(), out.end(), [&](const PartitionMarks& p) { return p.tp == m.tp; });
    if (of != out.end()) of->gaps.push_back(m.gap);
  }
  return out;
}

Result<std::vector<PartitionMarks>> LogReader::marks(const Topic& topic) {
  return in_snapshot([&] { return marks_now(topic); });
}

Result<std::vector<GroupPosition>> LogReader::positions(const std::string& group) {
  std::vector<GroupPosition> out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT group_id, tp, committed_offset, commit_ms, metadata"
                                     " FROM _ws_consumer_offsets WHERE ?1='' OR group_id=?1"
                                     " ORDER BY group_id, tp"));
  s.bind_text(1, group);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.push_back({std::string(s.bytes(0)), TpId(static_cast<std::int32_t>(s.integer(1))),
                   Offset(s.integer(2)), s.integer(3), std::string(s.bytes(4))});
  }
}

Result<std::optional<SealedRange>> LogReader::sealed(const std::string& bridge) {
  WS_ASSIGN(Statement s, db_.prepare("SELECT chain, first_seq, last_seq, rows, crc, tps,"
                                     " idempotency_key FROM _ws_sealed WHERE bridge=?1"));
  WS_ASSIGN(const bool row, s.bind_text(1, bridge).step());
  if (!row) return std::optional<SealedRange>{};
  SealedRange range{ChainId(static_cast<std::int32_t>(s.integer(0))),
                    Seq(s.integer(1)),
                    Seq(s.integer(2)),
                    s.integer(3),
                    static_cast<std::uint32_t>(s.integer(4)),
                    {},
                    std::string(s.bytes(6))};
  const std::string tps(s.bytes(5));
  if (tps.size() < 2) return fail(ErrorCode::corrupt, "a sealed range names no partitions");
  for (const std::string_view tp : split(std::string_view(tps).substr(1, tps.size() - 2), ',')) {
    if (const auto id = parse_int(tp)) range.tps.emplace_back(static_cast<std::int32_t>(*id));
  }
  return std::optional(std::move(range));
}

Result<std::vector<Resend>> LogReader::resends(const std::string& bridge) {
  std::vector<Resend> out;
  WS_ASSIGN(const std::int64_t known,
            db_.number("SELECT count(*) FROM sqlite_schema WHERE name='_ws_resend'"));
  if (known == 0) return out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT bridge, tp, from_offset, to_offset FROM _ws_resend"
                                     " WHERE ?1='' OR bridge=?1 ORDER BY bridge, tp, from_offset"));
  s.bind_text(1, bridge);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.push_back({std::string(s.bytes(0)), TpId(static_cast<std::int32_t>(s.integer(1))),
                   Offset(s.integer(2)), Offset(s.integer(3))});
  }
}

Result<std::optional<Source>> LogReader::source(std::int64_t id) {
  WS_ASSIGN(Statement s, db_.prepare("SELECT client_id, mqtt_topic FROM _ws_sources WHERE src=?1"));
  WS_ASSIGN(const bool row, s.bind(1, id).step());
  if (!row) return std::optional<Source>{};
  return std::optional(Source{std::string(s.bytes(0)), std::string(s.bytes(1)), id});
}

Result<std::vector<std::pair<std::string, std::int64_t>>> LogReader::counters() {
  std::vector<std::pair<std::string, std::int64_t>> out;
  WS_ASSIGN(Statement s, db_.prepare("SELECT name, value FROM _ws_counters ORDER BY name"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) return out;
    out.emplace_back(s.bytes(0), s.integer(1));
  }
}

}  // namespace wayside
