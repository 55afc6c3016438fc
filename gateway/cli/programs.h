// Programs on the site: a consumer group's records given to a program, and committed when it has
// processed them. docs/PROGRAMS.md and docs/STREAM.md say what a program sees. Thread: main's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "gateway/cli/verbs.h"

namespace wayside {

// read --group --exec: batches on the standard input of a command, one run after the other.
[[nodiscard]] Status exec_group(const ReadArgs& args, OpenedLog& log, const Topic& topic);
// read --group --stream: the acknowledged stream, over our own standard input and output, or over
// those of a command.
[[nodiscard]] Status stream_group(const ReadArgs& args, OpenedLog& log, const Topic& topic);

// SIGTERM and SIGINT as something to wait for beside other things; the end of a child, too. As long
// as it lives the process does not end by them. One that was ignored stays so (nohup, `cmd &`).
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  // Becomes readable at a signal.
  [[nodiscard]] int fd() const { return fd_.get(); }
  // How often this process was told to end until now.
  [[nodiscard]] int stops();

 private:
  UniqueFd fd_;
  int stops_ = 0;
};

struct Pipe {
  UniqueFd read, write;
};
[[nodiscard]] Result<Pipe> make_pipe();  // closed in children

// A command for /bin/sh -c, and what it finds in its environment beside ours.
struct Command {
  std::string text;
  std::vector<std::pair<std::string, std::string>> environment;
};
// Descriptors that become the child's 0, 1 and 2; -1: as ours.
struct ChildEnds {
  int in = -1, out = -1, err = -1;
};
// Starts it in a process group of its own, which a Ctrl-C at a terminal does not reach. It is
// killed when we die: nobody would commit what it does. Returns its pid.
[[nodiscard]] Result<int> start_command(const Command& command, const ChildEnds& ends);
// Waits for a child that is to end by itself; after `patience_ms` its process group is told to
// end, then killed. Returns the status, as of waitpid.
[[nodiscard]] int end_command(int pid, std::int64_t patience_ms);
[[nodiscard]] std::string status_text(int status);  // "exit code 3", "signal 9 (Killed)"

// How a run ended.
struct CommandEnd {
  int status = 0;         // as of waitpid
  bool timed_out = false, stopped = false;
  std::string last_line;  // of its stderr
  std::int64_t unread_bytes = 0;  // of its input

  [[nodiscard]] bool succeeded() const { return !timed_out && !stopped && status == 0; }
  [[nodiscard]] int exit_code() const;   // -1: it did not end by itself
  [[nodiscard]] std::string text() const;  // status_text, or why it did not end by itself
};
// Runs it with this input, its stderr copied to ours. When it takes longer, or somebody tells us to
// end and it goes on for `grace_ms`, or tells us again, it is killed.
[[nodiscard]] Result<CommandEnd> run_command(const Command& command, std::string_view input,
                                             std::int64_t timeout_ms, std::int64_t grace_ms,
                                             StopSignals& signals);

}  // namespace wayside
