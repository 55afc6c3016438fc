// read --group --exec: batches on the standard input of a command. A batch is committed when the
// command ends with 0; otherwise it is given again, and cut in halves until the record that the
// command cannot bear is alone: that one goes to quarantine, when it is seen that the command does
// take others. A command that takes nothing is not the records' fault: then nothing is set aside.
#include <algorithm>
#include <cstdio>
#include <random>
#include <set>
#include <thread>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/cli/group_session.h"
#include "gateway/cli/printer.h"
#include "gateway/cli/programs.h"

namespace wayside {
namespace {

constexpr std::int64_t kWaitMs = 1000;
constexpr std::int64_t kFirstPauseMs = 200, kLongestPauseMs = 30'000;
// Told to end, we wait so long for the command: below systemd's own 90 s.
constexpr std::int64_t kGraceMs = 60'000;
// Other records that are tried to see whether the command takes anything at all.
constexpr std::size_t kProbesMax = 10;
constexpr std::size_t kProbeAmong = 500;
// The shell's: the command is not there, or cannot be run.
constexpr int kCannotRun = 126, kNotFound = 127;
// sysexits.h, EX_TEMPFAIL: "try later"; whatever is wrong, it is not the record.
constexpr int kTryLater = 75;

enum class Outcome { done, failed, try_later, stopped };

using Records = std::span<const StoredRecord>;

class Exec {
 public:
  Exec(const ReadArgs& args, GroupSession& session, StopSignals& signals)
      : args_(args), session_(session), signals_(signals), random_(std::random_device{}()) {}

  Status run() {
    while (args_.count < 0 || taken_ < args_.count) {
      WS_ASSIGN(const GroupPage page, gather());
      if (!page.records.empty()) {
        WS_ASSIGN(const bool go_on, deliver(page.records, page.records, args_.tries));
        if (!go_on) return {};
      }
      if (signals_.stops() > 0) return {};
      if (!page.at_end) continue;
      if (!args_.follow) return {};
      for (bool more = false; !more;) {
        WS_ASSIGN(more, session_.wait_for_more(kWaitMs));
        if (signals_.stops() > 0) return {};
      }
      WS_ASSIGN([[maybe_unused]] const bool changed, session_.begin_anew_if_changed());
    }
    return {};
  }

 private:
  [[nodiscard]] std::size_t most(std::size_t have) const {
    auto n = static_cast<std::size_t>(args_.batch);
    if (args_.count >= 0) n = std::min(n, static_cast<std::size_t>(args_.count - taken_));
    return n - std::min(n, have);
  }

  // A batch; while we follow, a start of the command shall be worth it: it waits for company.
  Result<GroupPage> gather() {
    WS_ASSIGN(GroupPage page, session_.next(most(0)));
    const std::int64_t until = clock_.steady_ms() + args_.linger_ms;
    while (args_.follow && !page.records.empty() && page.at_end && signals_.stops() == 0 &&
           page.records.size() < most(0) && clock_.steady_ms() < until) {
      WS_ASSIGN(const bool more, session_.wait_for_more(until - clock_.steady_ms()));
      if (!more) break;
      WS_ASSIGN(GroupPage next, session_.next(most(page.records.size())));
      std::move(next.records.begin(), next.records.end(), std::back_inserter(page.records));
      page.at_end = next.at_end;
    }
    return page;
  }

  // Until all of these are committed or set aside. `all` is the batch that they are of. False: we
  // were told to end.
  Result<bool> deliver(Records records, Records all, std::int64_t tries) {
    WS_ASSIGN(const Outcome outcome, try_often(records, tries));
    if (outcome == Outcome::stopped) return false;
    if (outcome == Outcome::done) return commit(records);
    if (records.size() == 1) return blame(records.front(), all);
    // The whole has failed often enough; of the parts one failure is enough to cut them again.
    const std::size_t half = records.size() / 2;
    for (const Records part : {records.first(half), records.subspan(half)}) {
      WS_ASSIGN(const bool go_on, deliver(part, all, part.size() == 1 ? args_.tries : 1));
      if (!go_on) return false;
    }
    return true;
  }

  Result<bool> commit(Records records) {
    WS_TRY(session_.commit(records));
    taken_ += static_cast<std::int64_t>(records.size());
    return true;
  }

  Result<Outcome> try_often(Records records, std::int64_t tries) {
    std::int64_t pause = kFirstPauseMs;
    for (std::int64_t n = 1;; ++n) {
      WS_ASSIGN(const Outcome outcome, once(records, n));
      if (outcome != Outcome::failed && outcome != Outcome::try_later) return outcome;
      const bool later = outcome == Outcome::try_later;
      if (n >= tries && !(later && args_.follow)) {
        if (later) return nothing_is_taken("says that it is to be tried later (exit code 75)");
        return Outcome::failed;
      }
      if (!sleep(pause)) return Outcome::stopped;
      pause = std::min(pause * 2, kLongestPauseMs);
    }
  }

  // One run of the command.
  Result<Outcome> once(Records records, std::int64_t n) {
    if (signals_.stops() > 0) return Outcome::stopped;
    std::string input = record_heading(args_.format);
    for (const StoredRecord& r : records) {
      append_record(input, args_.format, topic_, session_.partition_of(r.tp), r);
    }
    WS_ASSIGN(end_, run_command(command_of(records, n), input, args_.timeout_ms, kGraceMs,
                                signals_));
    if (end_.stopped) {
      say("the command was stopped; what it was given comes again");
      return Outcome::stopped;
    }
    if (end_.succeeded()) {
      good_ = records.back();
      unproven_ = false;
      if (end_.unread_bytes > 0) {
        say(cat("the command ended with 0 and left ", end_.unread_bytes, " of ", input.size(),
                " bytes of its input unread; by its word all ", records.size(),
                " records are processed"));
      }
      return Outcome::done;
    }
    const std::string why = cat(end_.text(), end_.last_line.empty() ? "" : ": ", end_.last_line);
    if (end_.exit_code() == kNotFound || end_.exit_code() == kCannotRun) {
      return fail(ErrorCode::invalid_argument, cat("the command cannot be run (", why, ")"),
                  "nothing was committed or set aside by this; mend --exec and start it again");
    }
    say(cat("the command failed with ", records.size(), " record", records.size() == 1 ? "" : "s",
            " from ", place_of(records.front()), ", try ", n, ": ", why));
    return end_.exit_code() == kTryLater ? Outcome::try_later : Outcome::failed;
  }

  Command command_of(Records records, std::int64_t n) const {
    return {args_.exec,
            {{"WAYSIDE_TOPIC", topic_},
             {"WAYSIDE_GROUP", args_.group},
             {"WAYSIDE_RECORDS", cat(records.size())},
             {"WAYSIDE_FIRST", place_of(records.front())},
             {"WAYSIDE_LAST", place_of(records.back())},
             {"WAYSIDE_TRY", cat(n)}}};
  }

  [[nodiscard]] std::string place_of(const StoredRecord& r) const {
    return cat(session_.partition_of(r.tp), ":", r.offset.value);
  }

  // A record has failed alone, as often as it may. Is it to blame, or the command? The record is
  // set aside when the command takes another one now: what it took last, or of what waits.
  Result<bool> blame(const StoredRecord& record, Records all) {
    const CommandEnd last = end_;
    std::int64_t pause = kFirstPauseMs;
    for (bool said = false;; said = true) {
      WS_ASSIGN(const auto others, probes(record, all));
      for (const StoredRecord& other : others) {
        WS_ASSIGN(const Outcome outcome, once({&other, 1}, 1));
        if (outcome == Outcome::stopped) return false;
        if (outcome == Outcome::done) return set_aside(record, last);
      }
      // Nothing else is there to see by. Once this is believed; then it must have taken something.
      if (others.empty() && !std::exchange(unproven_, true)) return set_aside(record, last);
      if (!args_.follow) return nothing_is_taken("takes none of the records that it is given");
      if (!said) {
        say("the command takes none of the records that it is given; nothing is set aside, and it "
            "is tried until it does");
      }
      if (!sleep(pause)) return false;
      pause = std::min(pause * 2, kLongestPauseMs);
      WS_ASSIGN(const Outcome outcome, once({&record, 1}, args_.tries + 1));
      if (outcome == Outcome::stopped) return false;
      if (outcome == Outcome::done) return commit({&record, 1});
    }
  }

  static tl::unexpected<Error> nothing_is_taken(const std::string& what) {
    return fail(ErrorCode::io, "the command " + what + "; nothing is set aside",
                "mend it, or what it needs; the records wait");
  }

  // What the command took last; then of what waits behind this record, of each other partition the
  // first, of each other key the first, any. So the order within a partition is kept as long as
  // others serve.
  Result<std::vector<StoredRecord>> probes(const StoredRecord& record, Records all) {
    WS_ASSIGN(const GroupPage behind, session_.peek(kProbeAmong));
    std::vector<const StoredRecord*> waiting;
    for (const StoredRecord& r : all) {
      if (r.seq > record.seq) waiting.push_back(&r);
    }
    for (const StoredRecord& r : behind.records) waiting.push_back(&r);
    std::set<Seq> chosen;
    std::set<TpId> partitions{record.tp};
    std::set<std::optional<std::string>> keys{record.record.key};
    std::vector<StoredRecord> out;
    if (good_) out.push_back(*good_);
    for (const int pass : {0, 1, 2}) {
      for (const StoredRecord* r : waiting) {
        const bool fits = pass == 0   ? partitions.insert(r->tp).second
                          : pass == 1 ? keys.insert(r->record.key).second
                                      : true;
        if (out.size() >= kProbesMax) return out;
        if (!fits || !chosen.insert(r->seq).second) continue;
        out.push_back(*r);
        keys.insert(r->record.key);
      }
    }
    return out;
  }

  Result<bool> set_aside(const StoredRecord& record, const CommandEnd& end) {
    const std::string why = cat(end.text(), end.last_line.empty() ? "" : ": ", end.last_line);
    const int code = end.exit_code();
    WS_TRY(session_.refuse(record, why, code < 0 ? end.text() : cat(code), end.last_line));
    ++taken_;
    say(cat("record ", place_of(record), " of ", topic_, " failed ", args_.tries,
            " times alone and is set aside: wayside quarantine list"));
    return true;
  }

  // False: we were told to end.
  bool sleep(std::int64_t pause) {
    // Half of it and up to the whole, so that several do not come back at once.
    std::int64_t left = pause / 2 + static_cast<std::int64_t>(random_() % (pause / 2 + 1));
    for (; left > 0 && signals_.stops() == 0; left -= 50) {
      std::this_thread::sleep_for(std::chrono::milliseconds(std::min<std::int64_t>(left, 50)));
    }
    return signals_.stops() == 0;
  }

  const ReadArgs& args_;
  GroupSession& session_;
  StopSignals& signals_;
  const SystemClock clock_;
  std::mt19937 random_;
  const std::string topic_ = session_.topic().name;
  CommandEnd end_;                    // of the last run
  std::optional<StoredRecord> good_;  // that the command took last
  bool unproven_ = false;             // one was set aside with nothing to see by, since then
  std::int64_t taken_ = 0;            // records that are done with
};

}  // namespace

Status exec_group(const ReadArgs& args, OpenedLog& log, const Topic& topic) {
  StopSignals signals;
  const GroupSession::GoOn go_on = [&] { return signals.stops() == 0; };
  GroupSession session(args, log, topic, go_on);
  Exec exec(args, session, signals);
  return session.run([&] { return exec.run(); });
}

}  // namespace wayside
