#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/printer.h"
#include "gateway/cli/range.h"
#include "gateway/cli/verbs.h"

namespace wayside {
namespace {

constexpr auto kFollowEvery = std::chrono::milliseconds(50);

// What is to be read: of each partition the offsets [from, to), beginning at one place of the
// arrival order, in which all partitions are read by one cursor.
struct Selection {
  std::vector<TpId> tps;
  std::map<TpId, std::pair<std::int64_t, std::int64_t>> offsets;
  std::optional<Seq> first;                             // none: nothing to read yet
  std::int64_t from_ms = INT64_MIN, to_ms = INT64_MAX;  // of the append time
  std::string why_empty;
};

std::string extent_of(const std::vector<PartitionMarks>& marks) {
  std::string out;
  for (const PartitionMarks& m : marks) {
    if (marks.size() > 4 && m.log_start == m.log_end) continue;
    if (out.size() > 200) return out + ", …";
    out += cat(out.empty() ? "" : ", ", m.partition, ": ", m.log_start.value, " to ",
               m.log_end.value - 1);
  }
  return out.empty() ? "no partition holds records" : "the log holds (partition: offsets) " + out;
}

Result<Selection> select(OpenedLog& log, const Topic& topic, const ReadArgs& args) {
  const std::int64_t now = SystemClock().wall_ms();
  WS_ASSIGN(const ReadRange range, parse_range(args.range, now));
  WS_ASSIGN(auto marks, log.reader.marks(topic));
  if (args.partition) {
    std::erase_if(marks, [&](const PartitionMarks& m) { return m.partition != *args.partition; });
    if (marks.empty()) {
      return fail(ErrorCode::not_found, cat(topic.name, " has no partition ", *args.partition),
                  cat("its partitions are 0 to ", topic.partitions.size() - 1));
    }
  }
  using Kind = ReadRange::Kind;
  Selection s;
  bool beyond = range.kind == Kind::offsets, any = false;
  for (const PartitionMarks& m : marks) {
    std::int64_t from = m.log_start.value, to = m.log_end.value;
    const std::int64_t end = to;
    switch (range.kind) {
      case Kind::offsets:
        beyond = beyond && range.from >= end;
        from = std::max(from, range.from);
        to = std::min(to, range.to.value_or(to));
        break;
      case Kind::first_n:
        to = m.records_after(from, range.from);
        break;
      case Kind::last_n:
        from = m.records_before(to, range.from);
        break;
      case Kind::end:
        from = to;
        break;
      default:
        break;
    }
    const bool open_ended = args.follow && !range.to;
    s.tps.push_back(m.tp);
    s.offsets[m.tp] = {from, open_ended ? INT64_MAX : to};
    any = any || from < to;
    if (range.kind == Kind::times || from >= end) continue;
    WS_ASSIGN(const auto seq, log.reader.seq_of(topic.chain, m.tp, Offset(from)));
    if (seq && (!s.first || *seq < *s.first)) s.first = seq;
  }
  if (range.kind == Kind::times) {
    WS_ASSIGN(s.first, log.reader.seq_at(topic.chain, s.tps, range.from));
    s.from_ms = range.from;
    s.to_ms = range.to.value_or(INT64_MAX);
    if (!s.first) {
      s.why_empty = cat("nothing was stored in ", topic.name, " in this range of time");
    }
    return s;
  }
  if (beyond && !args.follow) {
    return fail(ErrorCode::out_of_range, cat("offset ", range.from, " is beyond the end"),
                extent_of(marks));
  }
  if (!any) {
    s.why_empty = range.kind == Kind::all
                      ? cat(topic.name, " holds no records")
                      : cat("the range '", args.range, "' holds no records; ", extent_of(marks));
  }
  return s;
}

// __consumer_offsets, which is kept as a table: a commit is a record, its key and value are JSON.
Result<int> read_offsets(OpenedLog& log, const ReadArgs& args) {
  if (!args.range.empty() || args.follow || args.partition.value_or(0) != 0) {
    return fail(ErrorCode::invalid_argument, "__consumer_offsets is compacted: it is read whole",
                "leave --offset, --partition and --follow away");
  }
  const std::string name = "__consumer_offsets";
  const RecordPrinter printer(args.format, name);
  WS_ASSIGN(Statement s, log.reader.database().prepare(
                             "SELECT \"offset\", group_id, topic, partition, committed_offset,"
                             " metadata, commit_ms FROM __consumer_offsets ORDER BY \"offset\""));
  std::int64_t printed = 0;
  for (; args.count < 0 || printed < args.count;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    StoredRecord r;
    r.offset = Offset(s.integer(0));
    r.record.timestamp_ms = r.append_ms = s.integer(6);
    std::string key = "{\"group\":", value = cat("{\"offset\":", s.integer(4), ",\"metadata\":");
    append_json_string(key, s.bytes(1));
    key += ",\"topic\":";
    append_json_string(key, s.bytes(2));
    r.record.key = cat(key, ",\"partition\":", s.integer(3), "}");
    append_json_string(value, s.bytes(5));
    r.record.value = value + "}";
    if (args.key && r.record.key != args.key) continue;
    printer.print(0, r);
    ++printed;
  }
  return kExitOk;
}

Result<int> read_topic(const ReadArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  if (args.topic == "__consumer_offsets") return read_offsets(log, args);
  const Topic* topic = log.catalog.find(args.topic);
  if (topic == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  // Before the partitions' ends are read: what comes after them lies behind it.
  WS_ASSIGN(const std::int64_t open_segment,
            log.reader.number(cat("SELECT first_seq FROM _ws_segments WHERE last_seq IS NULL"
                                  " AND chain=",
                                  topic->chain.value)));
  WS_ASSIGN(Selection s, select(log, *topic, args));
  if (!s.why_empty.empty() && !args.follow) {
    if (!args.range.empty()) return fail(ErrorCode::out_of_range, s.why_empty);
    std::fprintf(stderr, "wayside: %s\n", s.why_empty.c_str());
    return kExitOk;
  }
  const RecordPrinter printer(args.format, topic->name);
  if (!s.first) s.first = Seq(open_segment);  // to follow from the present end
  Seq next = *s.first;
  std::int64_t printed = 0;
  std::set<TpId> unfinished;  // partitions of which something may come yet
  for (const auto& [tp, range] : s.offsets) {
    if (range.first < range.second) unfinished.insert(tp);
  }
  for (;;) {
    WS_ASSIGN(const std::int64_t version, log.reader.data_version());
    WS_ASSIGN(const auto page, read_page(log, topic->chain, next, s.tps));
    next = page.next;
    for (const StoredRecord& r : page.records) {
      const auto [from, to] = s.offsets[r.tp];
      if (r.offset.value + 1 >= to && unfinished.erase(r.tp) > 0 && r.offset.value >= to) continue;
      if (r.offset.value < from || r.offset.value >= to) continue;
      // Order is by offset: among them, a clock that jumped may have left any time.
      if (r.append_ms < s.from_ms || r.append_ms >= s.to_ms) continue;
      if (args.key && r.record.key != args.key) continue;
      if (args.count >= 0 && printed >= args.count) return kExitOk;
      printer.print(log.catalog.partition_of(r.tp), r);
      ++printed;
    }
    if (args.count >= 0 && printed >= args.count) return kExitOk;
    if (unfinished.empty()) break;
    if (!page.at_end) continue;
    if (!args.follow || s.to_ms != INT64_MAX) break;
    std::fflush(stdout);
    for (std::int64_t seen = version; seen == version;) {
      std::this_thread::sleep_for(kFollowEvery);
      WS_ASSIGN(seen, log.reader.data_version());
      if (log.reader.is_replaced()) {
        return fail(ErrorCode::corrupt, "the log was damaged, and a fresh one has taken its place",
                    "start this again; 'wayside status' says what happened");
      }
    }
  }
  if (printed == 0 && !args.key && !args.follow && !args.range.empty()) {
    return fail(ErrorCode::out_of_range,
                cat("nothing was stored in ", topic->name, " in this range"));
  }
  if (printed == 0 && args.key) {
    return fail(ErrorCode::out_of_range, cat("no record of ", topic->name, " has the key '",
                                             printable(*args.key), "' in this range"));
  }
  return kExitOk;
}

}  // namespace

int cmd_read(const ReadArgs& args) {
  const auto code = read_topic(args);
  return code ? *code : report(code.error());
}

}  // namespace wayside
