#include "gateway/cli/group_session.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/cli/range.h"
#include "storage/coordinator.h"

namespace wayside {
namespace {

constexpr std::int64_t kLookEveryMs = 50;
constexpr std::int64_t kOpensAnewMs = 10'000;
constexpr std::int64_t kCommitWithinMs = 3'600'000;  // a commit that waits for a lock is not lost
// A gateway that restarts (an update, a power cut) is waited for so long, by --follow for ever.
constexpr std::int64_t kGatewayBackWithinMs = 15'000;

}  // namespace

void say(const std::string& text) {
  std::fprintf(stderr, "wayside: %s\n", text.c_str());
}

Status GroupSession::run(const std::function<Status()>& work) {
  for (;;) {
    const auto active = join();
    Status done;
    if (!active) {
      done = tl::unexpected<Error>(active.error());
    } else if (*active) {
      done = work();
    }
    if (done) return {};
    if (done.error().code != ErrorCode::unavailable || !was_member_) return done;
    // What was handed out and is not committed comes again: the group decides where to go on.
    say("the gateway went away; waiting until it is back");
    WS_ASSIGN(const bool back, wait_for_gateway());
    if (!back) return {};
  }
}

// True: this is the active reader, and knows where to go on. False: go_on said no.
Result<bool> GroupSession::join() {
  WS_ASSIGN(client_, ControlClient::connect(log_.plan.config.data_dir));
  std::string request = "{\"do\":\"join\",\"group\":";
  append_json_string(request, args_.group);
  request += ",\"topic\":";
  append_json_string(request, topic_.name);
  request += ",\"client\":";
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  append_json_string(request, cat("wayside read (pid ", ::getpid(), ") on ", printable(host)));
  WS_ASSIGN(const Json joined, client_->ask(request + "}"));
  was_member_ = true;
  if (!joined.flag("active")) {
    say(cat("group ", args_.group, " has a reader of ", topic_.name,
            " already; standing by to take over from it"));
    for (;;) {
      const auto line = client_->line(kLookEveryMs);
      if (line) break;  // the only line that comes is the promotion
      if (line.error().code != ErrorCode::timeout) return tl::unexpected<Error>(line.error());
      if (!go_on_()) return false;
    }
  }
  WS_TRY(reopen_if_replaced());
  WS_ASSIGN(const bool ready, wait_for_salvage());
  if (!ready) return false;
  WS_TRY(find_positions());
  return true;
}

// The gateway may have set a damaged database aside since.
Status GroupSession::reopen_if_replaced() {
  if (!log_.reader.is_replaced()) return {};
  WS_ASSIGN(log_.reader, LogReader::open(log_.plan.config.database_path()));
  return {};
}

// Older records that come back from a damaged file go before newer ones.
Result<bool> GroupSession::wait_for_salvage() {
  for (bool said = false;; said = true) {
    WS_ASSIGN(const bool salvaging, log_.reader.is_salvaging(tps_of_topic()));
    if (!salvaging) return true;
    if (!said) say("waiting until a damaged file has been salvaged ('wayside status')");
    const auto line = client_->line(kLookEveryMs);
    if (!line && line.error().code != ErrorCode::timeout) {
      return tl::unexpected<Error>(line.error());
    }
    if (!go_on_()) return false;
  }
}

std::vector<TpId> GroupSession::tps_of_topic() const {
  std::vector<TpId> tps;
  for (const Partition& p : topic_.partitions) tps.push_back(p.tp);
  return tps;
}

// Partitions may have been added, or the topic made anew, since we last looked.
Result<bool> GroupSession::begin_anew_if_changed() {
  WS_ASSIGN(const std::int64_t partitions,
            log_.reader.number(cat("SELECT count(*) FROM _ws_partitions JOIN _ws_topics USING"
                                   " (topic_id) WHERE topic_id=",
                                   topic_.id.value)));
  if (partitions == static_cast<std::int64_t>(topic_.partitions.size())) return false;
  WS_TRY(find_positions());
  return true;
}

// The committed offsets; of a partition without one, what --offset says, or the log start.
Status GroupSession::find_positions() {
  WS_ASSIGN(log_.catalog, log_.reader.catalog());
  const Topic* topic = log_.catalog.find(topic_.name);
  if (topic == nullptr) return tl::unexpected<Error>(log_.catalog.unknown_topic(topic_.name));
  topic_ = *topic;
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
  found_.clear();
  std::optional<Seq> first;
  std::int64_t unread = 0, lost = 0;
  std::string from;
  Positions begun;
  // Only a group that is new here begins where -o says: a partition that is added later has records
  // that it never saw.
  const bool is_new = std::none_of(committed.begin(), committed.end(), [&](const auto& p) {
    return std::find(tps_.begin(), tps_.end(), p.tp) != tps_.end();
  });
  for (const PartitionMarks& m : marks) {
    std::int64_t position =
        is_new && range.kind == ReadRange::Kind::end ? m.log_end.value : m.log_start.value;
    if (is_new && range.kind == ReadRange::Kind::times) {
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
    positions_[m.tp] = found_[m.partition] = position;
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

// From where it goes on; what was handed out before is left out.
Result<LogReader::Page> GroupSession::read_page(std::size_t most) {
  auto page = wayside::read_page(log_, topic_.chain, next_, tps_,
                                 {most, limits::kGroupBatchBytesMax});
  if (!page) {
    // The gateway was told of damage: it goes away, and is back with a sound log.
    const auto gone = page.error().damage ? client_->line(kOpensAnewMs) : Result<std::string>("");
    if (!gone && gone.error().code == ErrorCode::unavailable) page.error() = gone.error();
    return page;
  }
  std::erase_if(page->records,
                [&](const StoredRecord& r) { return r.offset.value < positions_[r.tp]; });
  return page;
}

Result<GroupPage> GroupSession::peek(std::size_t most) {
  WS_ASSIGN(auto page, read_page(most));
  return GroupPage{std::move(page.records), page.at_end};
}

Result<GroupPage> GroupSession::next(std::size_t most) {
  WS_ASSIGN(version_, log_.reader.data_version());
  WS_ASSIGN(auto page, read_page(most));
  for (const StoredRecord& r : page.records) positions_[r.tp] = r.offset.value + 1;
  next_ = page.next;
  return GroupPage{std::move(page.records), page.at_end};
}

Result<bool> GroupSession::wait_for_more(std::int64_t ms) {
  const SystemClock clock;
  for (const std::int64_t until = clock.steady_ms() + ms;;) {
    WS_ASSIGN(const std::int64_t version, log_.reader.data_version());
    if (std::exchange(version_, version) != version) return true;
    const std::int64_t left = until - clock.steady_ms();
    if (left <= 0 || !go_on_()) return false;
    // A line or the end of the connection may come while we wait.
    const auto line = client_->line(std::min(left, kLookEveryMs));
    if (!line && line.error().code != ErrorCode::timeout) {
      return tl::unexpected<Error>(line.error());
    }
  }
}

Status GroupSession::check_gateway() {
  const auto line = client_->line(1);
  if (!line && line.error().code != ErrorCode::timeout) return tl::unexpected<Error>(line.error());
  return {};
}

Status GroupSession::commit(std::span<const StoredRecord> records) {
  Positions next;
  for (const StoredRecord& r : records) next[partition_of(r.tp)] = r.offset.value + 1;
  return commit(next);
}

Status GroupSession::commit(const Positions& next) {
  if (next.empty()) return {};
  std::string request = "{\"do\":\"commit\",\"offsets\":[";
  bool first = true;
  for (const auto& [partition, offset] : next) {
    request += cat(std::exchange(first, false) ? "" : ",", "{\"partition\":", partition,
                   ",\"offset\":", offset, "}");
  }
  return ask(request + "]}");
}

Status GroupSession::refuse(const StoredRecord& record, const std::string& detail,
                            const std::string& exit, const std::string& stderr_line) {
  std::string request =
      cat("{\"do\":\"refuse\",\"partition\":", partition_of(record.tp),
          ",\"offset\":", record.offset.value, ",\"seq\":", record.seq.value, ",\"detail\":");
  append_json_string(request, printable(detail));
  request += ",\"exit\":";
  append_json_string(request, printable(exit));
  request += ",\"stderr\":";
  append_json_string(request, printable(stderr_line));
  return ask(request + "}");
}

Status GroupSession::ask(const std::string& request) {
  WS_ASSIGN([[maybe_unused]] const Json ok, client_->ask(request, kCommitWithinMs));
  return {};
}

Result<bool> GroupSession::wait_for_gateway() {
  const SystemClock clock;
  const std::int64_t until = clock.steady_ms() + kGatewayBackWithinMs;
  for (;;) {
    const auto client = ControlClient::connect(log_.plan.config.data_dir);
    if (client) return true;
    if (!args_.follow && clock.steady_ms() >= until) return tl::unexpected<Error>(client.error());
    if (!go_on_()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(kLookEveryMs));
  }
}

}  // namespace wayside
