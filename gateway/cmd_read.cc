#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli.h"
#include "gateway/csv.h"
#include "gateway/range.h"

namespace wayside {
namespace {

constexpr auto kFollowEvery = std::chrono::milliseconds(50);

class Printer {
 public:
  Printer(const ReadArgs& args, const Topic& topic, const Catalog& catalog)
      : args_(args), topic_(topic), catalog_(catalog) {
    if (args.format == Format::csv) {
      std::printf("topic,partition,offset,timestamp,key,value\n");
    } else if (args.format == Format::table) {
      std::printf("%4s %10s  %-24s  %-16s  %s\n", "PART", "OFFSET", "TIME", "KEY", "VALUE");
    }
  }

  void print(const StoredRecord& r) {
    const std::int32_t partition = catalog_.partition_of(r.tp);
    const std::string key = r.record.key.value_or(""), value = r.record.value.value_or("");
    switch (args_.format) {
      case Format::raw:
        std::fwrite(value.data(), 1, value.size(), stdout);
        std::putchar('\n');
        break;
      case Format::json: {
        std::string line;
        append_record_json(line, topic_.name, partition, r.offset, r.record);
        std::printf("%s\n", line.c_str());
        break;
      }
      case Format::csv:
        std::printf("%s\n", csv_line({topic_.name, cat(partition), cat(r.offset.value),
                                      cat(r.record.timestamp_ms), text(key), text(value)})
                                .c_str());
        break;
      case Format::table:
        std::printf("%4d %10lld  %-24s  %-16s  %s\n", partition,
                    static_cast<long long>(r.offset.value),
                    format_time_utc(r.record.timestamp_ms).c_str(),
                    r.record.key ? printable(key).c_str() : "-",
                    r.record.value ? printable(value).c_str() : "(tombstone)");
        break;
    }
  }

 private:
  static std::string text(const std::string& s) { return is_valid_utf8(s) ? s : base64(s); }
  const ReadArgs& args_;
  const Topic& topic_;
  const Catalog& catalog_;
};

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
        to = std::min(to, from + range.from);
        break;
      case Kind::last_n:
        from = std::max(from, to - range.from);
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

Result<int> read_topic(const ReadArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
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
  Printer printer(args, *topic, log.catalog);
  if (!s.first) s.first = Seq(open_segment);  // to follow from the present end
  Seq next = *s.first;
  std::int64_t printed = 0;
  std::set<TpId> unfinished;  // partitions of which something may come yet
  for (const auto& [tp, range] : s.offsets) {
    if (range.first < range.second) unfinished.insert(tp);
  }
  for (;;) {
    WS_ASSIGN(const std::int64_t version, log.reader.data_version());
    WS_ASSIGN(const auto page, log.reader.read(topic->chain, next, s.tps, {}));
    next = page.next;
    for (const StoredRecord& r : page.records) {
      const auto [from, to] = s.offsets[r.tp];
      if (r.offset.value + 1 >= to && unfinished.erase(r.tp) > 0 && r.offset.value >= to) continue;
      if (r.offset.value < from || r.offset.value >= to) continue;
      // Order is by offset: among them, a clock that jumped may have left any time.
      if (r.append_ms < s.from_ms || r.append_ms >= s.to_ms) continue;
      if (args.key && r.record.key != args.key) continue;
      if (args.count >= 0 && printed >= args.count) return kExitOk;
      printer.print(r);
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
