// read --group: the records that a consumer group has not read yet. The running gateway says who of
// the group reads (one at a time; the others stand by), and commits; the records are read from the
// log directly.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <thread>

#include "base/text.h"
#include "gateway/control.h"
#include "gateway/printer.h"
#include "gateway/range.h"
#include "gateway/verbs.h"
#include "storage/coordinator.h"

namespace wayside {
namespace {

constexpr std::int64_t kFollowEveryMs = 50;
constexpr std::int64_t kSalvageEveryMs = 250;
constexpr std::int64_t kCommitWithinMs = 3'600'000;  // a commit that waits for a lock is not lost
// A gateway that restarts (an update, a power cut) is waited for so long, by --follow for ever.
constexpr std::int64_t kGatewayBackWithinMs = 15'000;

void say(const std::string& text) {
  std::fprintf(stderr, "wayside: %s\n", text.c_str());
}

class GroupReader {
 public:
  GroupReader(const ReadArgs& args, OpenedLog& log, const Topic& topic)
      : args_(args), log_(log), topic_(topic), printer_(args.format, topic_.name) {}

  Result<int> run() {
    for (;;) {
      const Status done = membership();
      if (done) return kExitOk;
      if (done.error().code != ErrorCode::unavailable || !was_member_) {
        return tl::unexpected<Error>(done.error());
      }
      // What is printed and not committed will be printed again: the group decides where to go on.
      say("the gateway went away; waiting until it is back");
      WS_TRY(wait_for_gateway());
    }
  }

 private:
  // From joining to the end, or to the loss of the gateway.
  Status membership() {
    WS_ASSIGN(client_, ControlClient::connect(log_.plan.config.data_dir));
    std::string join = "{\"do\":\"join\",\"group\":";
    append_json_string(join, args_.group);
    join += ",\"topic\":";
    append_json_string(join, topic_.name);
    join += ",\"client\":";
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    append_json_string(join, cat("wayside read (pid ", ::getpid(), ") on ", printable(host)));
    WS_ASSIGN(const Json joined, client_->ask(join + "}"));
    was_member_ = true;
    if (!joined.flag("active")) {
      say(cat("group ", args_.group, " has a reader of ", topic_.name,
              " already; standing by to take over from it"));
      for (;;) {
        auto line = client_->line(3'600'000);
        if (line) break;  // the only line that comes is the promotion
        if (line.error().code != ErrorCode::timeout) return tl::unexpected<Error>(line.error());
      }
    }
    WS_TRY(reopen_if_replaced());
    WS_TRY(wait_for_salvage());
    WS_TRY(find_positions());
    return read();
  }

  // The gateway may have set a damaged database aside since.
  Status reopen_if_replaced() {
    if (!log_.reader.is_replaced()) return {};
    WS_ASSIGN(log_.reader, LogReader::open(log_.plan.config.database_path()));
    return {};
  }

  // Older records that come back from a damaged file go before newer ones.
  Status wait_for_salvage() {
    for (bool said = false;; said = true) {
      WS_ASSIGN(const bool salvaging, log_.reader.is_salvaging(tps_of_topic()));
      if (!salvaging) return {};
      if (!said) say("waiting until a damaged file has been salvaged ('wayside status')");
      const auto line = client_->line(kSalvageEveryMs);
      if (!line && line.error().code != ErrorCode::timeout) {
        return tl::unexpected<Error>(line.error());
      }
    }
  }

  [[nodiscard]] std::vector<TpId> tps_of_topic() const {
    std::vector<TpId> tps;
    for (const Partition& p : topic_.partitions) tps.push_back(p.tp);
    return tps;
  }

  // Partitions may have been added, or the topic made anew, since we last looked.
  Result<bool> topic_has_changed() {
    WS_ASSIGN(const std::int64_t partitions,
              log_.reader.number(cat("SELECT count(*) FROM _ws_partitions JOIN _ws_topics USING"
                                     " (topic_id) WHERE topic_id=",
                                     topic_.id.value)));
    return partitions != static_cast<std::int64_t>(topic_.partitions.size());
  }

  // The committed offsets; of a partition without one, what --offset says, or the log start.
  Status find_positions() {
    WS_ASSIGN(log_.catalog, log_.reader.catalog());
    const Topic* found = log_.catalog.find(topic_.name);
    if (found == nullptr) return tl::unexpected<Error>(log_.catalog.unknown_topic(topic_.name));
    topic_ = *found;
    tps_ = tps_of_topic();
    const std::int64_t now = SystemClock().wall_ms();
    WS_ASSIGN(const ReadRange range, parse_range(args_.range, now));
    WS_ASSIGN(const auto committed, log_.reader.positions(args_.group));
    // Read before the partitions' ends: what comes after them lies behind it.
    WS_ASSIGN(const std::int64_t open_segment,
              log_.reader.number(cat("SELECT first_seq FROM _ws_segments WHERE last_seq IS NULL"
                                     " AND chain=",
                                     topic_.chain.value)));
    WS_ASSIGN(const auto marks, log_.reader.marks(topic_));
    positions_.clear();
    std::optional<Seq> first;
    std::int64_t unread = 0, lost = 0;
    std::string from;
    std::map<std::int32_t, std::int64_t> begun;
    for (const PartitionMarks& m : marks) {
      std::int64_t position =
          range.kind == ReadRange::Kind::end ? m.log_end.value : m.log_start.value;
      if (range.kind == ReadRange::Kind::times) {
        position = m.log_end.value;
        WS_ASSIGN(const auto at, log_.reader.seq_at(topic_.chain, {{m.tp}}, range.from));
        if (at) {
          WS_ASSIGN(const auto page, log_.reader.read(topic_.chain, *at, {{m.tp}}, {1, SIZE_MAX}));
          if (!page.records.empty()) position = page.records.front().offset.value;
        }
      }
      bool known = false;
      for (const GroupPosition& p : committed) {
        if (p.tp == m.tp) position = p.next.value, known = true;
      }
      if (position > m.log_end.value) position = m.log_end.value;  // the log is another one now
      if (known && position < m.log_start.value) {
        lost += m.log_start.value - position - m.missing(position, m.log_start.value);
      }
      position = std::max(position, m.log_start.value);
      positions_[m.tp] = position;
      if (!known) begun[m.partition] = position;
      unread += m.log_end.value - position - m.missing(position, m.log_end.value);
      if (m.log_end.value > m.log_start.value && from.size() < 200) {
        from += cat(from.empty() ? "" : ", ", m.partition, ":", position, known ? "" : " (new)");
      }
      if (position >= m.log_end.value) continue;
      WS_ASSIGN(const auto seq, log_.reader.seq_of(topic_.chain, m.tp, Offset(position)));
      if (seq && (!first || *seq < *first)) first = seq;
    }
    next_ = first.value_or(Seq(open_segment));
    // Where -o let it begin is where the group stands, also if nothing comes before it ends.
    if (!args_.range.empty()) WS_TRY(commit(begun));
    say(cat("group ", args_.group, " reads ", topic_.name, from.empty() ? "" : " from ", from, "; ",
            unread, " unread", lost > 0 ? cat(", ", lost, " expired before it read them") : ""));
    return {};
  }

  Status read() {
    for (;;) {
      WS_ASSIGN(const std::int64_t version, log_.reader.data_version());
      const ReadLimits limits{static_cast<std::size_t>(args_.batch), 1 << 20};
      WS_ASSIGN(auto page, log_.reader.read(topic_.chain, next_, tps_, limits));
      std::erase_if(page.records,
                    [&](const StoredRecord& r) { return r.offset.value < positions_[r.tp]; });
      if (args_.count >= 0) {
        const auto left = static_cast<std::size_t>(args_.count - printed_);
        if (page.records.size() > left) page.records.resize(left);
      }
      if (args_.commit_before) WS_TRY(commit(page.records));
      for (const StoredRecord& r : page.records) {
        printer_.print(log_.catalog.partition_of(r.tp), r);
        ++printed_;
      }
      // Whoever reads the pipe has it, or it is not processed.
      if (std::fflush(stdout) != 0) {
        return fail(ErrorCode::io, "the output could not be written; nothing of it is committed");
      }
      if (!args_.commit_before) WS_TRY(commit(page.records));
      for (const StoredRecord& r : page.records) positions_[r.tp] = r.offset.value + 1;
      next_ = page.next;
      if (args_.count >= 0 && printed_ >= args_.count) return {};
      if (!page.at_end) continue;
      if (!args_.follow) return {};
      for (std::int64_t seen = version; seen == version;) {
        // A line or the end of the connection may come while we wait.
        const auto line = client_->line(kFollowEveryMs);
        if (!line && line.error().code != ErrorCode::timeout) {
          return tl::unexpected<Error>(line.error());
        }
        WS_ASSIGN(seen, log_.reader.data_version());
      }
      WS_ASSIGN(const bool changed, topic_has_changed());
      if (changed) WS_TRY(find_positions());
    }
  }

  Status commit(const std::vector<StoredRecord>& records) {
    std::map<std::int32_t, std::int64_t> next;
    for (const StoredRecord& r : records) {
      next[log_.catalog.partition_of(r.tp)] = r.offset.value + 1;
    }
    return commit(next);
  }

  Status commit(const std::map<std::int32_t, std::int64_t>& next) {
    if (next.empty()) return {};
    std::string request = "{\"do\":\"commit\",\"offsets\":[";
    bool first = true;
    for (const auto& [partition, offset] : next) {
      request += cat(std::exchange(first, false) ? "" : ",", "{\"partition\":", partition,
                     ",\"offset\":", offset, "}");
    }
    WS_ASSIGN([[maybe_unused]] const Json ok, client_->ask(request + "]}", kCommitWithinMs));
    return {};
  }

  Status wait_for_gateway() {
    const SystemClock clock;
    const std::int64_t until = clock.steady_ms() + kGatewayBackWithinMs;
    for (;;) {
      auto client = ControlClient::connect(log_.plan.config.data_dir);
      if (client) return {};
      if (!args_.follow && clock.steady_ms() >= until) return tl::unexpected<Error>(client.error());
      std::this_thread::sleep_for(std::chrono::milliseconds(kFollowEveryMs));
    }
  }

  const ReadArgs& args_;
  OpenedLog& log_;
  Topic topic_;
  const RecordPrinter printer_;
  std::vector<TpId> tps_;
  std::optional<ControlClient> client_;
  std::map<TpId, std::int64_t> positions_;
  Seq next_{};
  std::int64_t printed_ = 0;
  bool was_member_ = false;
};

Result<int> read_group(const ReadArgs& args) {
  WS_TRY(check_group_name(args.group));
  if (args.partition || args.key) {
    return fail(ErrorCode::invalid_argument, "a group reads whole topics",
                "leave --partition and --key away, or read without --group");
  }
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* topic = log.catalog.find(args.topic);
  if (topic == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  return GroupReader(args, log, *topic).run();
}

}  // namespace

int cmd_read_group(const ReadArgs& args) {
  ::signal(SIGPIPE, SIG_IGN);  // a reader that ends early is an error of writing, so not committed
  const auto code = read_group(args);
  if (code) return *code;
  Error e = code.error();
  if (e.code == ErrorCode::unavailable) {
    e.hint = "a group's offsets are kept by the running gateway: start it, or read without --group";
  }
  return report(e);
}

}  // namespace wayside
