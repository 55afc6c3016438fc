// bridge skip, rewind, resend: shows first what would be done, by partition and by device.
#include <algorithm>
#include <cstdio>
#include <map>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/range.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/bridge_change.h"
#include "gateway/control/changes.h"
#include "storage/bridge_ops.h"
#include "storage/offset_set.h"

namespace wayside {
namespace {

constexpr std::size_t kDevicesShown = 20;
constexpr std::int64_t kSkipMost = 1'000'000;  // they are counted one by one

// Offsets of one partition that are meant, but for those that are left out.
struct Piece {
  const Topic* topic = nullptr;
  PartitionMarks marks;
  std::int64_t position = 0, from = 0, to = 0;
  [[nodiscard]] std::int64_t records(const OffsetSet& left_out) const {
    if (from >= to) return 0;
    return to - from - marks.missing(from, to) - left_out.count(marks.tp, from, to);
  }
};

// Which topics: the named one, else the bridge's. A topic that it does not forward (any more) is
// taken when the bridge has a position in it.
Result<std::vector<Piece>> pieces_of(OpenedLog& log, const BridgeMoveArgs& args) {
  const auto& bridges = log.plan.config.bridges;
  const auto bridge = std::find_if(bridges.begin(), bridges.end(),
                                   [&](const BridgeConfig& b) { return b.name == args.name; });
  WS_ASSIGN(const auto positions, log.reader.positions(bridge_group(args.name)));
  if (bridge == bridges.end() && positions.empty()) {
    std::vector<std::string> names;
    for (const BridgeConfig& b : bridges) names.push_back(b.name);
    const std::string near = nearest(args.name, names);
    return fail(ErrorCode::not_found, cat("there is no bridge '", printable(args.name), "'"),
                near.empty() ? "'wayside bridge status' shows what there is"
                             : cat("did you mean '", near, "'?"));
  }
  std::vector<std::string> topics;
  if (!args.topic.empty()) {
    topics.push_back(args.topic);
  } else if (bridge != bridges.end()) {
    topics = bridge->topics;
  }
  std::vector<Piece> out;
  for (const std::string& name : topics) {
    const Topic* topic = log.catalog.find(name);
    if (topic == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(name));
    WS_ASSIGN(const auto marks, log.reader.marks(*topic));
    for (const PartitionMarks& m : marks) {
      if (args.partition && *args.partition != m.partition) continue;
      Piece p{topic, m, m.log_start.value, 0, 0};
      for (const GroupPosition& g : positions) {
        if (g.tp == m.tp) p.position = std::max(g.next.value, m.log_start.value);
      }
      p.from = p.to = p.position;
      out.push_back(std::move(p));
    }
    if (args.partition && (out.empty() || out.back().topic != topic)) {
      return fail(ErrorCode::not_found, cat(topic->name, " has no partition ", *args.partition),
                  cat("its partitions are 0 to ", topic->partitions.size() - 1));
    }
  }
  return out;
}

// The first `n` records that are unsent, in the order in which they came.
Status first_unsent(OpenedLog& log, const OffsetSet& ahead, std::int64_t n,
                    std::vector<Piece>& pieces) {
  if (n < 1 || n > kSkipMost) {
    return fail(ErrorCode::invalid_argument, cat("--records ", n, " is not possible"),
                cat("write 1 to ", kSkipMost, ", or --to end"));
  }
  std::map<std::int64_t, std::pair<Piece*, std::int64_t>> unsent;  // by seq
  for (Piece& p : pieces) {
    WS_ASSIGN(const auto first, log.reader.seq_of(p.topic->chain, p.marks.tp, Offset(p.position)));
    std::int64_t found = 0;
    for (auto next = first; next && found < n;) {
      WS_ASSIGN(const auto page, log.reader.read(p.topic->chain, *next, {{p.marks.tp}}, {}));
      for (const StoredRecord& r : page.records) {
        if (r.offset.value < p.position || ahead.contains(r.tp, r.offset.value)) continue;
        if (found++ < n) unsent[r.seq.value] = {&p, r.offset.value};
      }
      next = page.at_end ? std::nullopt : std::optional(page.next);
    }
    while (static_cast<std::int64_t>(unsent.size()) > n) unsent.erase(std::prev(unsent.end()));
  }
  for (const auto& [seq, place] : unsent) {
    if (n-- == 0) break;
    place.first->to = place.second + 1;
  }
  return {};
}

// Who sent what is meant, most first.
Status print_devices(OpenedLog& log, const std::vector<Piece>& pieces,
                     const OffsetSet& left_out) {
  std::map<std::pair<std::string, std::string>, std::int64_t> devices;
  for (const Piece& p : pieces) {
    if (p.from >= p.to) continue;
    WS_ASSIGN(Statement s,
              log.reader.database().prepare(
                  cat("SELECT src, \"offset\" FROM ", chain_view(p.topic->chain),
                      " WHERE tp=?1 AND \"offset\">=?2 AND \"offset\"<?3")));
    s.bind(1, p.marks.tp.value).bind(2, p.from).bind(3, p.to);
    std::map<std::int64_t, std::int64_t> of_source;
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      if (!left_out.contains(p.marks.tp, s.integer(1))) ++of_source[s.integer(0)];
    }
    for (const auto& [src, n] : of_source) {
      WS_ASSIGN(const auto source, log.reader.source(src));
      const Source who = source.value_or(Source{"-", "-"});
      devices[{who.client_id, who.mqtt_topic}] += n;
    }
  }
  std::vector<std::pair<std::int64_t, std::pair<std::string, std::string>>> sorted;
  for (const auto& [who, n] : devices) sorted.emplace_back(n, who);
  std::sort(sorted.rbegin(), sorted.rend());
  Table table({"CLIENT", "MQTT-TOPIC", "RECORDS"});
  for (std::size_t i = 0; i < std::min(sorted.size(), kDevicesShown); ++i) {
    table.add({printable(sorted[i].second.first), printable(sorted[i].second.second),
               cat(sorted[i].first)});
  }
  std::printf("\n");
  table.print();
  if (sorted.size() > kDevicesShown) {
    std::printf("and %zu other devices\n", sorted.size() - kDevicesShown);
  }
  return {};
}

Status find_pieces(OpenedLog& log, const BridgeMoveArgs& args, const OffsetSet& ahead,
                   std::vector<Piece>& pieces) {
  for (Piece& p : pieces) {
    if (args.what == "resend") {
      p.from = std::clamp(args.from, p.marks.log_start.value, p.position);
      p.to = std::clamp(args.until, p.from, p.position);
      continue;
    }
    if (args.records > 0) continue;
    const std::string to = args.to.empty() ? "end" : args.to;
    WS_ASSIGN(const std::int64_t offset, offset_meant(log.reader, *p.topic, p.marks, to));
    if (args.what == "skip") p.to = std::max(offset, p.position);
    if (args.what == "rewind") p.from = std::min(offset, p.position);
  }
  if (args.records > 0) WS_TRY(first_unsent(log, ahead, args.records, pieces));
  return {};
}

Status move(const BridgeMoveArgs& args) {
  const bool skip = args.what == "skip";
  if (skip && args.to.empty() && args.records == 0 && args.topic.empty()) {
    return fail(ErrorCode::invalid_argument, "how far is it to step over?",
                "give --records N, --to OFFSET (with --topic and --partition), or --to end");
  }
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  WS_ASSIGN(auto pieces, pieces_of(log, args));
  if (!args.to.empty() && parse_int(args.to) && pieces.size() > 1) {
    return fail(ErrorCode::invalid_argument, cat("offset ", args.to, " of which partition?"),
                "say --topic and --partition; start, end and times are of all of them");
  }
  WS_ASSIGN(const auto sent_ahead, log.reader.fact(ahead_fact(args.name)));
  const OffsetSet ahead = OffsetSet::parse(sent_ahead.value_or(""));
  WS_TRY(find_pieces(log, args, ahead, pieces));
  // What was sent ahead is not stepped over; sent again it is as what was sent in its turn.
  const OffsetSet left_out = skip ? ahead : OffsetSet();
  Table table({"TOPIC", "PARTITION", "FROM", "TO", "RECORDS"});
  std::int64_t records = 0;
  std::string offsets, request = cat("{\"do\":\"bridge.", args.what, "\",\"bridge\":");
  append_json_string(request, printable(args.name));
  for (const Piece& p : pieces) {
    const std::int64_t n = p.records(left_out);
    if (args.what == "resend") {
      request += cat(",\"topic\":\"", p.topic->name, "\",\"partition\":", p.marks.partition,
                     ",\"from\":", p.from, ",\"to\":", p.to);
    }
    offsets += cat(offsets.empty() ? "" : ",", "{\"topic\":\"", p.topic->name,
                   "\",\"partition\":", p.marks.partition, ",\"offset\":", skip ? p.to : p.from,
                   "}");
    if (n <= 0) continue;
    records += n;
    table.add({p.topic->name, cat(p.marks.partition), cat(p.from), cat(p.to), cat(n)});
  }
  if (records == 0) {
    std::printf("there is nothing %s\n", skip ? "unsent there" : "that was sent there");
    return {};
  }
  table.print();
  WS_TRY(print_devices(log, pieces, left_out));
  const std::string doing = skip ? cat(records, " records would be stepped over: not sent, and"
                                                " still in the log")
                                 : cat(records, " records would be sent again");
  std::printf("\n%s (TO is the first that is not meant)\n", doing.c_str());
  if (args.dry_run) {
    std::printf("nothing was changed\n");
    return {};
  }
  WS_TRY(confirm(skip ? cat("step over ", records, " records?")
                      : cat("send ", records, " records again?"),
                 args.yes));
  WS_ASSIGN(const Json done,
            change_log(args.config, cat(request, ",\"offsets\":[", offsets, "]}")));
  const std::int64_t n = done.number("records");
  std::printf("%lld records %s%s\n", static_cast<long long>(n),
              skip ? "are stepped over; they stay in the log, and count as skipped"
                   : "are sent again; their offsets tell the upstream that it had them",
              n != records ? " (the bridge had moved meanwhile)" : "");
  return {};
}

}  // namespace

int cmd_bridge_move(const BridgeMoveArgs& args) {
  return exit_of(move(args));
}

}  // namespace wayside
