// verify: whether the log is what was written: SQLite's own check, every record's CRC, every
// offset exactly once, every segment what its row says, no group ahead of the log.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "base/text.h"
#include "gateway/cli/verbs.h"

namespace wayside {
namespace {

constexpr std::size_t kProblemsShown = 20;

class Verifier {
 public:
  Verifier(const VerifyArgs& args, OpenedLog& log) : args_(args), log_(log) {}

  Status run() {
    for (const std::string& doubt : log_.reader.doubts()) problem(printable(doubt));
    WS_TRY(structure());
    WS_ASSIGN(total_, log_.reader.number("SELECT (SELECT ifnull(sum(rows), 0) FROM _ws_segments)"));
    std::map<ChainId, std::vector<TpId>> chains;
    for (const Topic& t : log_.catalog.topics()) {
      for (const Partition& p : t.partitions) chains[t.chain].push_back(p.tp);
    }
    for (const auto& [chain, tps] : chains) WS_TRY(records(chain, tps));
    clear_progress();
    WS_TRY(groups());
    return gaps();
  }

  std::int64_t checked = 0, bad = 0, lost = 0;
  std::vector<std::string> problems;
  struct NamedGap {
    std::string topic, kind, why;
    std::int32_t partition;
    Gap gap;
  };
  std::vector<NamedGap> gaps_named;
  std::vector<DamagedFile> damaged;

 private:
  void problem(std::string text) {
    ++bad;
    if (problems.size() < kProblemsShown) problems.push_back(std::move(text));
  }

  Status structure() {
    progress("checking the database's structure");
    WS_ASSIGN(Statement s, log_.reader.database().prepare(args_.quick ? "PRAGMA quick_check"
                                                                      : "PRAGMA integrity_check"));
    for (;;) {
      auto row = s.step();
      if (!row) {
        problem("sqlite: " + row.error().what);
        break;
      }
      if (!*row) break;
      if (s.bytes(0) != "ok") problem(cat("sqlite: ", printable(s.bytes(0))));
    }
    clear_progress();
    return {};
  }

  Status records(ChainId chain, const std::vector<TpId>& tps) {
    std::map<TpId, std::int64_t> next;
    std::map<TpId, std::int64_t> log_start;
    for (Seq from{0};;) {
      auto page = log_.reader.read(chain, from, tps, {5000, 8 << 20, false});
      if (!page) {  // a page of the file that cannot be read: said, and the rest still looked at
        problem(page.error().what);
        return {};
      }
      for (const StoredRecord& r : page->records) {
        ++checked;
        const Topic* topic = log_.catalog.find(r.tp);
        const auto where = [&] {
          return cat(topic->name, " ", log_.catalog.partition_of(r.tp), ":", r.offset.value);
        };
        if (record_crc(r.tp, r.offset, r.append_ms, r.record) != r.crc) {
          problem(where() + ": its CRC is not that of its bytes");
        }
        const auto it = next.find(r.tp);
        if (it != next.end() && r.offset.value != it->second) {
          // What retention drops while we read is no hole.
          WS_ASSIGN(const auto marks, log_.reader.marks(*topic));
          const auto m = std::find_if(marks.begin(), marks.end(),
                                      [&](const PartitionMarks& p) { return p.tp == r.tp; });
          if (r.offset.value < it->second) {
            problem(where() + ": this offset comes twice");
          } else if (r.offset > m->log_start) {
            const std::int64_t missing =
                r.offset.value - it->second - m->missing(it->second, r.offset.value);
            if (missing > 0) problem(cat(where(), ": ", missing, " offsets before it are missing"));
          }
        }
        next[r.tp] = r.offset.value + 1;
      }
      progress("");
      from = page->next;
      if (page->at_end) break;
    }
    return bounds(chain, next);
  }

  // The oldest record is not younger than the log start, the newest is the one before log end; and
  // closed segments hold the rows they say.
  Status bounds(ChainId chain, const std::map<TpId, std::int64_t>& next) {
    for (const Topic& t : log_.catalog.topics()) {
      if (t.chain != chain) continue;
      WS_ASSIGN(const auto counted, log_.reader.count_rows(t));
      for (const LogReader::Counted& c : counted) {
        const std::int64_t should = c.marks.live();
        if (c.rows != should) {
          problem(cat(t.name, " partition ", c.marks.partition, ": ", c.rows,
                      " rows, its offsets say ", should));
        }
        const auto it = next.find(c.marks.tp);
        if (it != next.end() && it->second > c.marks.log_end.value) {
          problem(cat(t.name, " partition ", c.marks.partition, ": records beyond the log end"));
        }
      }
    }
    WS_ASSIGN(Statement s, log_.reader.database().prepare(
                               "SELECT segment, rows FROM _ws_segments WHERE chain=?1 AND last_seq"
                               " IS NOT NULL"));
    s.bind(1, chain.value);
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) return {};
      const std::string table = segment_table(chain, s.integer(0));
      auto rows = log_.reader.number(cat("SELECT count(*) FROM ", table));
      if (!rows) {
        problem(cat(table, ": ", rows.error().what));
      } else if (*rows != s.integer(1)) {
        problem(cat(table, ": ", *rows, " rows, _ws_segments says ", s.integer(1)));
      }
    }
  }

  Status groups() {
    WS_ASSIGN(const auto positions, log_.reader.positions(""));
    for (const GroupPosition& p : positions) {
      const Topic* topic = log_.catalog.find(p.tp);
      if (topic == nullptr) {
        problem(
            cat("group ", printable(p.group), " has an offset of a partition that is not there"));
        continue;
      }
      WS_ASSIGN(const auto marks, log_.reader.marks(*topic));
      for (const PartitionMarks& m : marks) {
        if (m.tp == p.tp && p.next > m.log_end) {
          problem(cat("group ", printable(p.group), ": its offset ", p.next.value, " in ",
                      topic->name, " partition ", m.partition, " is beyond the log end ",
                      m.log_end.value));
        }
      }
    }
    return {};
  }

  // Offsets that are named as missing are no problem of the log: they are its account of one.
  Status gaps() {
    WS_ASSIGN(damaged, log_.reader.damaged());
    WS_ASSIGN(const auto all, log_.reader.missing());
    for (const Missing& m : all) {
      const Topic* topic = log_.catalog.find(m.tp);
      const char* kind = m.gap.kind == GapKind::lost      ? "lost"
                         : m.gap.kind == GapKind::skipped ? "skipped"
                                                          : "being salvaged";
      if (m.gap.kind == GapKind::lost) lost += m.gap.to - m.gap.from;
      gaps_named.push_back({topic == nullptr ? std::string("(deleted)") : topic->name, kind, m.why,
                            log_.catalog.partition_of(m.tp), m.gap});
    }
    return {};
  }

  void progress(const std::string& text) {
    if (::isatty(STDERR_FILENO) != 1) return;
    if (!text.empty()) {
      std::fprintf(stderr, "\r%-60s", text.c_str());
      return;
    }
    const std::int64_t all = std::max(total_, checked);
    const int tenths = all == 0 ? 20 : static_cast<int>(checked * 20 / all);
    std::string bar(static_cast<std::size_t>(tenths), '#');
    bar.resize(20, '.');
    std::fprintf(stderr, "\r[%s] %lld records  ", bar.c_str(), static_cast<long long>(checked));
  }
  static void clear_progress() {
    if (::isatty(STDERR_FILENO) == 1) std::fprintf(stderr, "\r%-60s\r", "");
  }

  const VerifyArgs& args_;
  OpenedLog& log_;
  std::int64_t total_ = 0;
};

}  // namespace

int cmd_verify(const VerifyArgs& args) {
  auto log = look_at_log(args.config);
  if (!log) return report(log.error());
  Verifier v(args, *log);
  if (const Status s = v.run(); !s) return report(s.error());
  if (args.json) {
    std::string out = cat("{\"records\":", v.checked, ",\"problems\":", v.bad, ",\"what\":[");
    for (std::size_t i = 0; i < v.problems.size(); ++i) {
      out += i == 0 ? "" : ",";
      append_json_string(out, v.problems[i]);
    }
    out += cat("],\"lost\":", v.lost, ",\"gaps\":[");
    bool first = true;
    for (const Verifier::NamedGap& g : v.gaps_named) {
      out += cat(std::exchange(first, false) ? "" : ",", "{\"topic\":\"", g.topic,
                 "\",\"partition\":", g.partition, ",\"from\":", g.gap.from, ",\"to\":", g.gap.to,
                 ",\"kind\":\"", g.kind, "\",\"why\":");
      append_json_string(out, printable(g.why));
      out += "}";
    }
    std::printf("%s]}\n", out.c_str());
  } else {
    for (const DamagedFile& d : v.damaged) {
      std::printf("%s was set aside on %s: %s; %s, %lld records came back from it\n",
                  printable(d.file).c_str(), format_time_utc(d.set_aside_ms).c_str(),
                  printable(d.why).c_str(), d.state.c_str(), static_cast<long long>(d.records));
    }
    if (!v.gaps_named.empty()) {
      Table table({"TOPIC", "PARTITION", "FROM", "TO", "OFFSETS", ""});
      for (const Verifier::NamedGap& g : v.gaps_named) {
        table.add({g.topic, cat(g.partition), cat(g.gap.from), cat(g.gap.to - 1),
                   cat(g.gap.to - g.gap.from), g.kind});
      }
      table.print();
      std::printf("lost: had a record; skipped: perhaps never used\n\n");
    }
    for (const std::string& p : v.problems) std::printf("%s\n", p.c_str());
    if (v.bad > static_cast<std::int64_t>(v.problems.size())) std::printf("and more\n");
    std::printf("%lld records checked: %s\n", static_cast<long long>(v.checked),
                v.bad == 0 ? "the log is sound" : cat(v.bad, " problems").c_str());
    if (v.lost > 0)
      std::printf("%lld records are lost, as named above\n", static_cast<long long>(v.lost));
    if (v.bad > 0) std::printf("with the gateway stopped, 'wayside repair' mends it\n");
  }
  return v.bad == 0 ? kExitOk : kExitFailed;
}

}  // namespace wayside
