// read --group: the records that a consumer group has not read yet, printed, or given to a program
// (cmd_read_exec.cc, cmd_read_stream.cc).
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/text.h"
#include "gateway/cli/group_session.h"
#include "gateway/cli/printer.h"
#include "gateway/cli/programs.h"
#include "storage/coordinator.h"

namespace wayside {
namespace {

constexpr std::int64_t kWaitMs = 1000;

bool into_a_pipe() {
  struct stat st {};
  return ::fstat(STDOUT_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

class Printing {
 public:
  Printing(const ReadArgs& args, GroupSession& session)
      : args_(args), session_(session), printer_(args.format, topic_) {}

  Status run() {
    if (into_a_pipe() && !args_.commit_before && !std::exchange(warned_, true)) {
      say("what is written into the pipe counts as read, though no program may have processed it; "
          "for at least once in a program: --exec CMD, or --stream (docs/PROGRAMS.md)");
    }
    while (args_.count < 0 || printed_ < args_.count) {
      auto most = static_cast<std::size_t>(args_.batch);
      if (args_.count >= 0) most = std::min(most, static_cast<std::size_t>(args_.count - printed_));
      WS_ASSIGN(const GroupPage page, session_.next(most));
      if (args_.commit_before) WS_TRY(session_.commit(page.records));
      for (const StoredRecord& r : page.records) {
        printer_.print(session_.partition_of(r.tp), r);
        ++printed_;
      }
      // Whoever reads the pipe has it, or it is not processed.
      if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        return fail(ErrorCode::io, "the output could not be written; nothing of it is committed");
      }
      if (!args_.commit_before) WS_TRY(session_.commit(page.records));
      if (!page.at_end) continue;
      if (!args_.follow) return {};
      for (bool more = false; !more;) {
        WS_ASSIGN(more, session_.wait_for_more(kWaitMs));
      }
      WS_ASSIGN([[maybe_unused]] const bool changed, session_.begin_anew_if_changed());
    }
    return {};
  }

 private:
  const ReadArgs& args_;
  GroupSession& session_;
  const std::string topic_ = session_.topic().name;
  const RecordPrinter printer_;
  std::int64_t printed_ = 0;
  bool warned_ = false;
};

Status print_group(const ReadArgs& args, OpenedLog& log, const Topic& topic) {
  const GroupSession::GoOn always = [] { return true; };
  GroupSession session(args, log, topic, always);
  Printing printing(args, session);
  return session.run([&] { return printing.run(); });
}

Status read_group(const ReadArgs& args) {
  WS_TRY(check_group_name(args.group));
  if (args.partition || args.key) {
    return fail(ErrorCode::invalid_argument, "a group reads whole topics",
                "leave --partition and --key away, or read without --group");
  }
  if (args.commit_before && (!args.exec.empty() || args.stream)) {
    return fail(ErrorCode::invalid_argument, "--commit before is for printing only",
                "with --exec and --stream a record is committed when the program has processed it");
  }
  if (args.stream && (args.format == Format::csv || args.format == Format::raw)) {
    return fail(ErrorCode::invalid_argument, "a stream has records as JSON",
                "leave --format away");
  }
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  const Topic* topic = log.catalog.find(args.topic);
  if (topic == nullptr) return tl::unexpected<Error>(log.catalog.unknown_topic(args.topic));
  const Topic chosen = *topic;
  if (args.stream) return stream_group(args, log, chosen);
  if (!args.exec.empty()) return exec_group(args, log, chosen);
  return print_group(args, log, chosen);
}

}  // namespace

int cmd_read_group(const ReadArgs& args) {
  ::signal(SIGPIPE, SIG_IGN);  // a reader that ends early is an error of writing, so not committed
  const auto status = read_group(args);
  if (status) return kExitOk;
  Error e = status.error();
  if (e.code == ErrorCode::unavailable) {
    e.hint = "a group's offsets are kept by the running gateway: start it, or read without --group";
  }
  return report(e);
}

}  // namespace wayside
