// ledger: where every reading went, and whether the numbers add up with the rows that are there.
#include <cstdio>

#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "storage/account.h"
#include "storage/bridge_ops.h"

namespace wayside {
namespace {

struct BridgeAccount {
  std::string name;
  std::int64_t stored = 0, passed = 0, unsent = 0, expired_unsent = 0, skipped = 0;
};

Status ledger(const LedgerArgs& args, bool& reconciled) {
  WS_ASSIGN(OpenedLog log, look_at_log(args.config));
  // Rows and marks of a topic are of one snapshot; what comes meanwhile is in neither.
  std::int64_t rows = 0, expected = 0;
  std::vector<std::string> wrong;
  for (const Topic& t : log.catalog.topics()) {
    WS_ASSIGN(const auto counted, log.reader.count_rows(t));
    for (const LogReader::Counted& c : counted) {
      const std::int64_t should = c.marks.live();
      rows += c.rows;
      expected += should;
      if (c.rows == should) continue;
      wrong.push_back(cat(t.name, " partition ", c.marks.partition, ": ", c.rows,
                          " rows, its offsets say ", should));
    }
  }
  WS_ASSIGN(const Ledger l, ledger_of(log.reader, log.catalog));
  std::vector<BridgeAccount> bridges;
  for (const BridgeConfig& b : log.plan.config.bridges) {
    BridgeAccount a;
    a.name = b.name;
    WS_ASSIGN(const Lag lag, lag_of(log.reader, log.catalog, bridge_group(b.name), b.topics));
    for (const PartitionLag& p : lag.partitions) {
      // Lost records were sent or not: nobody knows, so they are in no bridge's account.
      a.stored += p.log_end - p.lost;
      a.passed += p.passed;
      a.expired_unsent += p.expired;
      a.skipped += p.skipped;
    }
    a.unsent = lag.records;
    a.passed -= a.skipped;
    for (const auto& [name, n] : l.counters) {
      if (name == cat("expired_unsent.", b.name)) a.passed -= n, a.expired_unsent += n;
    }
    bridges.push_back(a);
  }
  const std::int64_t difference = rows - expected;
  for (const std::string& doubt : log.reader.doubts()) wrong.push_back(printable(doubt));
  reconciled = difference == 0 && wrong.empty();
  for (const BridgeAccount& b : bridges) {
    if (b.passed + b.unsent + b.expired_unsent + b.skipped == b.stored) continue;
    reconciled = false;
    wrong.push_back(cat("bridge ", b.name, ": ", b.passed, " + ", b.unsent, " + ", b.expired_unsent,
                        " + ", b.skipped, " are not ", b.stored));
  }
  if (args.json) {
    std::string out =
        cat("{\"received\":", l.stored + l.refused, ",\"stored\":", l.stored, ",\"live\":", l.live,
            ",\"expired\":", l.expired, ",\"deleted\":", l.deleted, ",\"lost\":", l.lost,
            ",\"salvaging\":", l.salvaging, ",\"refused\":", l.refused,
            ",\"quarantined\":", l.quarantined, ",\"rows\":", rows, ",\"difference\":", difference,
            ",\"reconciled\":", reconciled ? "true" : "false", ",\"bridges\":[");
    for (std::size_t i = 0; i < bridges.size(); ++i) {
      const BridgeAccount& b = bridges[i];
      out += cat(i == 0 ? "" : ",", "{\"name\":\"", b.name, "\",\"stored\":", b.stored,
                 ",\"forwarded\":", b.passed, ",\"unsent\":", b.unsent,
                 ",\"expired_unsent\":", b.expired_unsent, ",\"skipped\":", b.skipped, "}");
    }
    std::printf("%s]}\n", out.c_str());
    return {};
  }
  const auto line = [](const std::string& what, std::int64_t n, const std::string& note = "") {
    std::printf("%-24s %14lld%s%s\n", what.c_str(), static_cast<long long>(n),
                note.empty() ? "" : "   ", note.c_str());
  };
  line("received", l.stored + l.refused);
  line("  refused", l.refused, l.refused > 0 ? "see 'wayside status'" : "");
  line("  stored", l.stored);
  line("    live", l.live, "can be read");
  line("    expired", l.expired, "dropped by retention");
  line("    deleted", l.deleted, "with their topics");
  if (l.lost > 0) line("    lost", l.lost, "in a damaged file; 'wayside verify' names them");
  if (l.salvaging > 0) line("    being salvaged", l.salvaging, "from a damaged file, at most");
  line("  of stored: quarantine", l.quarantine_stored, "see 'wayside quarantine list'");
  for (const BridgeAccount& b : bridges) {
    std::printf("bridge %s\n", b.name.c_str());
    line("  stored in its topics", b.stored);
    line("    forwarded", b.passed, "or set aside, when the upstream refused one");
    line("    unsent", b.unsent);
    line("    expired unsent", b.expired_unsent);
    if (b.skipped > 0) line("    skipped", b.skipped, "by 'wayside bridge skip'; they are stored");
  }
  line("rows that are there", rows);
  line("difference", difference);
  std::printf("\n%s\n", reconciled ? "it reconciles: every reading is accounted for"
                                   : "IT DOES NOT RECONCILE; 'wayside verify' says more:");
  for (const std::string& w : wrong) std::printf("  %s\n", w.c_str());
  return {};
}

}  // namespace

int cmd_ledger(const LedgerArgs& args) {
  bool reconciled = false;
  const Status s = ledger(args, reconciled);
  if (!s) return report(s.error());
  return reconciled ? kExitOk : kExitFailed;
}

}  // namespace wayside
