// read --group --stream: the acknowledged stream (docs/STREAM.md), for programs that go on running:
// JSON lines both ways. Nothing is committed that the program did not acknowledge.
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/limits.h"
#include "base/text.h"
#include "base/version.h"
#include "gateway/cli/group_session.h"
#include "gateway/cli/programs.h"
#include "gateway/cli/stream_window.h"

namespace wayside {
namespace {

constexpr std::int64_t kProtocol = 1;
constexpr std::size_t kBatchesInWindow = 4;
constexpr std::int64_t kLookEveryMs = 50;
// More than ever waits for a program that takes what it is told: what it says then waits, too.
constexpr std::size_t kOutBytesMost = 2 * limits::kStreamWindowBytesMax;
constexpr int kExchangesAtOnce = 50;  // a pipe takes its share each time
constexpr std::int64_t kDrainMs = 10'000;   // told to end, we wait so long for acknowledgements
constexpr std::int64_t kFlushMs = 2000;     // for our last words to be read
constexpr std::int64_t kPatienceMs = 5000;  // for the command to end after them

class Stream {
 public:
  Stream(const ReadArgs& args, GroupSession& session, StopSignals& signals, int in, int out)
      : args_(args), session_(session), signals_(signals), in_fd_(in), out_fd_(out) {
    std::string hello = cat("{\"type\":\"hello\",\"protocol\":", kProtocol, ",\"version\":\"",
                            std::string(kVersion), "\",\"topic\":");
    append_json_string(hello, topic_);
    hello += ",\"group\":";
    append_json_string(hello, args_.group);
    send(cat(hello, ",\"window_records\":", window_records(),
             ",\"window_bytes\":", limits::kStreamWindowBytesMax,
             ",\"timeout_ms\":", args_.timeout_ms, "}"));
  }

  // As the group's active reader.
  Status run() {
    waiting_ = told_to_wait_ = false;
    begin();
    const Status done = work();
    if (!done) revoke(done.error().what);
    waiting_ = true;
    return done;
  }

  // As long as we are not: a standby, or without a gateway. False: it is over.
  bool idle() {
    waiting_ = true;
    if (!std::exchange(told_to_wait_, true)) send("{\"type\":\"waiting\"}");
    exchange(0);
    if (signals_.stops() > 0) finish("told to end");
    if (ended_) finish(result_ ? "by the program's wish" : result_.error().what);
    if (input_closed_ || broken_) over_ = true;
    return !over_;
  }

  // What went wrong that is not told otherwise.
  [[nodiscard]] const Status& result() const { return result_; }
  // The last words: why it ends.
  void finish(const std::string& reason) {
    if (std::exchange(over_, true)) return;
    std::string end = "{\"type\":\"end\",\"reason\":";
    append_json_string(end, printable(reason));
    send(end + "}");
    const std::int64_t until = clock_.steady_ms() + kFlushMs;
    while (!out_.empty() && !broken_ && clock_.steady_ms() < until) exchange(kLookEveryMs);
  }

 private:
  [[nodiscard]] std::size_t window_records() const {
    return kBatchesInWindow * static_cast<std::size_t>(args_.batch);
  }

  void begin() {
    std::string list;
    for (const auto& [partition, next] : session_.found()) {
      list += cat(list.empty() ? "" : ",", "{\"partition\":", partition, ",\"next\":", next, "}");
    }
    send(message("assigned", list));
    at_end_ = false;
    draining_ = drain_until_ms_ != 0;
    word_ms_ = clock_.steady_ms();
  }

  void revoke(const std::string& reason) {
    given_ -= static_cast<std::int64_t>(window_.records());
    window_.clear();
    std::string list;
    for (const auto& [partition, next] : session_.found()) {
      list += cat(list.empty() ? "" : ",", partition);
    }
    std::string text = message("revoked", list);
    text.pop_back();
    text += ",\"reason\":";
    append_json_string(text, printable(reason));
    send(text + "}");
  }

  [[nodiscard]] std::string message(std::string_view type, const std::string& partitions) const {
    std::string text = cat("{\"type\":\"", type, "\",\"topic\":");
    append_json_string(text, topic_);
    return cat(text, ",\"partitions\":[", partitions, "]}");
  }

  Status work() {
    while (!over_) {
      exchange(can_give() ? 0 : kLookEveryMs);
      for (int more = 0; more < kExchangesAtOnce && !out_.empty() && !broken_; ++more) exchange(1);
      if (std::exchange(gateway_spoke_, false)) WS_TRY(session_.check_gateway());
      WS_TRY(settle());
      if (signals_.stops() > 0 && drain_until_ms_ == 0) {
        drain("told to end", clock_.steady_ms() + kDrainMs);
      }
      look_whether_it_is_over();
      if (!over_) WS_TRY(give());
    }
    return {};
  }

  [[nodiscard]] bool can_give() const {
    return !draining_ && !at_end_ && !broken_ && out_.empty() &&
           window_.records() < window_records() &&
           window_.bytes() < limits::kStreamWindowBytesMax;
  }

  Status give() {
    if (at_end_ && !draining_) {
      WS_ASSIGN(const bool more, session_.wait_for_more(0));
      if (!more) return {};
      at_end_ = false;
      WS_ASSIGN(const bool changed, session_.begin_anew_if_changed());
      if (changed) {
        revoke("the topic has other partitions now");
        begin();
      }
    }
    if (!can_give()) return {};
    std::size_t most =
        std::min(static_cast<std::size_t>(args_.batch), window_records() - window_.records());
    if (args_.count >= 0) most = std::min(most, static_cast<std::size_t>(args_.count - given_));
    GroupPage page;
    if (most > 0) {
      WS_ASSIGN(page, session_.next(most));
    }
    at_end_ = page.at_end;
    if (!page.records.empty()) send_batch(page.records);
    given_ += static_cast<std::int64_t>(page.records.size());
    if (args_.count >= 0 && given_ >= args_.count) drain("the count is reached", 0);
    if (at_end_ && !args_.follow) drain("all that was there was given", 0);
    return {};
  }

  void send_batch(std::span<const StoredRecord> records) {
    // Silence before there was anything to say is no silence.
    if (window_.records() == 0) word_ms_ = clock_.steady_ms();
    std::string text = cat("{\"type\":\"records\",\"batch\":", ++batch_, ",\"records\":[");
    for (const StoredRecord& r : records) {
      const std::size_t before = text.size();
      const std::int32_t partition = session_.partition_of(r.tp);
      if (text.back() != '[') text += ',';
      append_record_json(text, topic_, partition, r.offset, r.record);
      window_.give(batch_, partition, r, text.size() - before);
    }
    send(text + "]}");
  }

  // No more is given; whoever collects acknowledgements must not wait for more.
  void drain(const std::string& reason, std::int64_t until_ms) {
    drain_until_ms_ = until_ms;
    drain_reason_ = reason;
    if (std::exchange(draining_, true)) return;
    if (window_.records() > 0) send("{\"type\":\"drain\"}");
  }

  // What is acknowledged is committed, what is refused set aside, in the order of each partition.
  Status settle() {
    for (;;) {
      const auto next = window_.take_committable();
      if (!next.empty()) {
        WS_TRY(session_.commit(next));
        committed(next);
        continue;
      }
      const auto refusal = window_.take_refusal();
      if (!refusal) return {};
      WS_TRY(session_.refuse(refusal->record, refusal->reason, "", ""));
      committed({{session_.partition_of(refusal->record.tp), refusal->record.offset.value + 1}});
    }
  }

  void committed(const GroupSession::Positions& positions) {
    std::string list;
    for (const auto& [partition, next] : positions) {
      list += cat(list.empty() ? "" : ",", "{\"partition\":", partition, ",\"next\":", next, "}");
    }
    send(message("committed", list));
  }

  void look_whether_it_is_over() {
    const std::int64_t now = clock_.steady_ms();
    const std::size_t left = window_.records();
    // What it said before it went away may be on its way still.
    if (ended_ || input_closed_ || (broken_ && now >= broken_ms_ + kFlushMs)) {
      if (left > 0) {
        say(cat(left, " records were given and not acknowledged; they come again"));
        if (!ended_) {
          result_ = fail(ErrorCode::io, "the program went away before it had acknowledged all");
        }
      }
      return finish(ended_ ? "by the program's wish" : "the program went away");
    }
    if (draining_ && (left == 0 || (drain_until_ms_ != 0 && now >= drain_until_ms_))) {
      return finish(drain_reason_);
    }
    if (left == 0 && !out_.empty() && now - std::max(word_ms_, taken_ms_) >= args_.timeout_ms) {
      result_ = fail(ErrorCode::timeout, cat("the program said nothing for ",
                                             format_duration(args_.timeout_ms),
                                             ", and took nothing of what it was told"),
                     "--timeout bounds this");
      return finish(result_.error().what);
    }
    if (left == 0) return;
    if (now - word_ms_ >= args_.timeout_ms) {
      result_ = fail(ErrorCode::timeout, cat("the program said nothing for ",
                                             format_duration(args_.timeout_ms), " about ", left,
                                             " records; they come again"),
                     "--timeout bounds this");
      return finish(result_.error().what);
    }
    if (now - std::max(word_ms_, pinged_ms_) >= args_.timeout_ms / 2) {
      pinged_ms_ = now;
      send("{\"type\":\"ping\"}");
    }
  }

  void send(const std::string& text) {
    if (broken_) return;
    if (out_.empty()) taken_ms_ = clock_.steady_ms();
    out_ += text + "\n";
  }

  // Waits at most so long until the program says something or takes something.
  void exchange(std::int64_t ms) {
    pollfd waiting[] = {{signals_.fd(), POLLIN, 0},
                        {waiting_ ? -1 : session_.gateway_fd(), POLLIN, 0},
                        {input_closed_ || out_.size() > kOutBytesMost ? -1 : in_fd_, POLLIN, 0},
                        {out_.empty() || broken_ ? -1 : out_fd_, POLLOUT, 0}};
    if (::poll(waiting, 4, static_cast<int>(ms)) <= 0) return;
    gateway_spoke_ = gateway_spoke_ || waiting[1].revents != 0;
    if (waiting[3].revents != 0) write_some();
    if (waiting[2].revents != 0) read_some();
  }

  // Not more than a pipe that is writable takes without waiting.
  void write_some() {
    ssize_t n = ::send(out_fd_, out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == ENOTSOCK) {
      n = ::write(out_fd_, out_.data(), std::min<std::size_t>(out_.size(), PIPE_BUF));
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
      broken_ = true;
      broken_ms_ = clock_.steady_ms();
      out_.clear();
    }
    if (n <= 0) return;
    taken_ms_ = clock_.steady_ms();
    out_.erase(0, static_cast<std::size_t>(n));
  }

  void read_some() {
    std::string buffer(1 << 16, '\0');
    const ssize_t n = ::read(in_fd_, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0) {
      input_closed_ = true;  // half a line is no word
      return;
    }
    in_.append(buffer, 0, static_cast<std::size_t>(n));
    std::size_t from = 0;
    bool too_long = false;
    for (std::size_t end; (end = in_.find('\n', from)) != std::string::npos; from = end + 1) {
      too_long = too_long || end - from > limits::kStreamLineBytesMax;
      if (const Status s = on_line(std::string_view(in_).substr(from, end - from)); !s) {
        std::string text = error_json(s.error());
        send(cat("{\"type\":\"error\",", text.substr(1)));
      } else {
        word_ms_ = clock_.steady_ms();
      }
    }
    in_.erase(0, from);
    if (too_long || in_.size() > limits::kStreamLineBytesMax) {
      result_ = fail(ErrorCode::refused, cat("a line of the program has more than ",
                                             limits::kStreamLineBytesMax, " bytes"));
      finish(result_.error().what);
    }
  }

  Status on_line(std::string_view line) {
    WS_ASSIGN(const Json json, Json::parse(line));
    const std::string what = json.text("do");
    if (const std::string topic = json.text("topic", topic_); topic != topic_) {
      return fail(ErrorCode::invalid_argument, cat("this stream is of ", topic_, " only"));
    }
    const std::int64_t partition = json.number("partition", -1);
    const std::int64_t offset = json.number("offset", -1);
    if (what == "ack" && json.find("batch") != nullptr) {
      return window_.ack_batch(json.number("batch", -1));
    }
    if ((what == "ack" || what == "fail") && (partition < 0 || partition > INT32_MAX)) {
      return fail(ErrorCode::invalid_argument, cat(what, " of no partition"),
                  "write a batch, or a partition and an offset, as numbers");
    }
    if (what == "ack") return window_.ack(static_cast<std::int32_t>(partition), offset);
    if (what == "fail") {
      return window_.fail(static_cast<std::int32_t>(partition), offset,
                          json.text("reason", "no reason given"));
    }
    if (what == "end") {
      ended_ = true;
      return {};
    }
    if (what == "pong") return {};
    if (what == "hello") {
      if (json.number("protocol", kProtocol) == kProtocol) return {};
      result_ = fail(ErrorCode::invalid_argument,
                     cat("the program wants protocol ", json.number("protocol"), "; this is ",
                         kProtocol));
      ended_ = true;
      return result_;
    }
    return fail(ErrorCode::invalid_argument,
                cat("the stream does not know '", printable(what), "'"),
                "it knows hello, ack, fail, pong and end");
  }

  const ReadArgs& args_;
  GroupSession& session_;
  StopSignals& signals_;
  const int in_fd_, out_fd_;
  const SystemClock clock_;
  const std::string topic_ = session_.topic().name;
  std::string in_, out_;
  StreamWindow window_;
  Status result_;
  std::int64_t batch_ = 0, given_ = 0;
  std::int64_t word_ms_ = 0, pinged_ms_ = 0;  // steady; the program's last word, our last ping
  std::int64_t taken_ms_ = 0;                 // steady; when it last took something that waited
  std::int64_t broken_ms_ = 0;                // steady; it does not take what we say any more
  std::int64_t drain_until_ms_ = 0;           // steady; 0: as long as it takes
  std::string drain_reason_;
  bool waiting_ = true, told_to_wait_ = false;  // not the active reader
  bool at_end_ = false, draining_ = false, gateway_spoke_ = false;
  bool input_closed_ = false, broken_ = false, ended_ = false, over_ = false;
};

Status stream_over(const ReadArgs& args, OpenedLog& log, const Topic& topic, StopSignals& signals,
                   int in, int out) {
  Stream* stream = nullptr;
  const GroupSession::GoOn go_on = [&] { return stream->idle(); };
  GroupSession session(args, log, topic, go_on);
  Stream made(args, session, signals, in, out);
  stream = &made;
  const Status done = session.run([&] { return made.run(); });
  made.finish(done ? "the end" : done.error().what);
  return done ? made.result() : done;
}

}  // namespace

Status stream_group(const ReadArgs& args, OpenedLog& log, const Topic& topic) {
  StopSignals signals;
  if (args.exec.empty()) {
    return stream_over(args, log, topic, signals, STDIN_FILENO, STDOUT_FILENO);
  }
  WS_ASSIGN(Pipe to, make_pipe());
  WS_ASSIGN(Pipe from, make_pipe());
  const Command command{args.exec, {{"WAYSIDE_TOPIC", topic.name}, {"WAYSIDE_GROUP", args.group}}};
  WS_ASSIGN(const int pid, start_command(command, {to.read.get(), from.write.get(), -1}));
  to.read = UniqueFd();
  from.write = UniqueFd();
  const Status done = stream_over(args, log, topic, signals, from.read.get(), to.write.get());
  to.write = UniqueFd();
  const int status = end_command(pid, kPatienceMs);
  if (status == 0) return done;
  return fail(done ? ErrorCode::io : done.error().code,
              cat("the command ended with ", status_text(status), done ? "" : "; ",
                  done ? "" : done.error().what),
              "what it has not acknowledged comes again");
}

}  // namespace wayside
