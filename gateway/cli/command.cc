// Commands that are run for a group: pipes, time limits, how they end.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/limits.h"
#include "base/text.h"
#include "gateway/cli/programs.h"

namespace wayside {
namespace {

constexpr std::int64_t kKillAfterMs = 2000;  // a command that was told to end, and does not

// Of a stream of text only its last line that says something.
class LastLine {
 public:
  void add(std::string_view text) {
    for (const char c : text) {
      if (c == '\n' || c == '\r') {
        if (!line_.empty()) last_ = std::exchange(line_, "");
      } else if (line_.size() < limits::kRefusalTextBytesMax) {
        line_ += c;
      }
    }
  }
  [[nodiscard]] std::string text() const { return printable(line_.empty() ? last_ : line_); }

 private:
  std::string line_, last_;
};

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

// What is there now, without waiting. False: nothing more will come.
bool read_some(int fd, std::string& into) {
  std::string buffer(1 << 16, '\0');
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  into.assign(buffer, 0, static_cast<std::size_t>(n));
  return n > 0;
}

}  // namespace

StopSignals::StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (const int s : {SIGTERM, SIGINT}) {
    struct sigaction now {};
    if (::sigaction(s, nullptr, &now) == 0 && now.sa_handler != SIG_IGN) sigaddset(&set, s);
  }
  ::signal(SIGCHLD, SIG_DFL);  // ignored, a child would leave no word of how it ended
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  fd_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

StopSignals::~StopSignals() {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

int StopSignals::stops() {
  signalfd_siginfo info{};
  while (::read(fd_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo != SIGCHLD) ++stops_;
  }
  return stops_;
}

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return tl::unexpected<Error>(errno_error("a pipe", errno));
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<int> start_command(const Command& command, const ChildEnds& ends) {
  // All that allocates is done before the fork.
  std::vector<std::string> texts;
  std::vector<char*> environment;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string_view entry(*e);
    const bool replaced = std::any_of(
        command.environment.begin(), command.environment.end(),
        [&](const auto& own) { return entry.substr(0, entry.find('=')) == own.first; });
    if (!replaced) environment.push_back(*e);
  }
  for (const auto& own : command.environment) texts.push_back(cat(own.first, "=", own.second));
  for (std::string& t : texts) environment.push_back(t.data());
  environment.push_back(nullptr);
  std::string shell = "sh", flag = "-c", text = command.text;
  char* const arguments[] = {shell.data(), flag.data(), text.data(), nullptr};
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return tl::unexpected<Error>(errno_error("starting the command", errno));
  if (pid > 0) {
    ::setpgid(pid, pid);  // here as well as there: whoever is first
    return static_cast<int>(pid);
  }
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  const int wanted[] = {ends.in, ends.out, ends.err};
  for (int fd = 0; fd < 3; ++fd) {
    if (wanted[fd] >= 0 && ::dup2(wanted[fd], fd) < 0) ::_exit(126);
  }
  ::execve("/bin/sh", arguments, environment.data());
  ::_exit(127);
}

int end_command(int pid, std::int64_t patience_ms) {
  const SystemClock clock;
  std::int64_t until = clock.steady_ms() + patience_ms;
  bool told_to_end = false;
  for (int status = 0;;) {
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid || (ended < 0 && errno != EINTR)) return status;
    if (clock.steady_ms() >= until) {
      ::kill(-pid, std::exchange(told_to_end, true) ? SIGKILL : SIGTERM);
      until = clock.steady_ms() + kKillAfterMs;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

std::string status_text(int status) {
  if (WIFEXITED(status)) return cat("exit code ", WEXITSTATUS(status));
  return cat("signal ", WTERMSIG(status), " (", ::strsignal(WTERMSIG(status)), ")");
}

int CommandEnd::exit_code() const {
  return !timed_out && !stopped && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string CommandEnd::text() const {
  if (timed_out) return "killed at its time limit";
  if (stopped) return "stopped";
  return status_text(status);
}

Result<CommandEnd> run_command(const Command& command, std::string_view input,
                               std::int64_t timeout_ms, std::int64_t grace_ms,
                               StopSignals& signals) {
  WS_ASSIGN(Pipe in, make_pipe());
  WS_ASSIGN(Pipe err, make_pipe());
  ::fcntl(in.write.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(err.read.get(), F_SETFL, O_NONBLOCK);
  const int stops_before = signals.stops();
  WS_ASSIGN(const int pid, start_command(command, {in.read.get(), -1, err.write.get()}));
  err.write = UniqueFd();
  // Our copy of the input's reading end stays open, to see what the command has left unread.
  const SystemClock clock;
  CommandEnd end;
  LastLine last_line;
  std::int64_t until = clock.steady_ms() + timeout_ms;
  bool told_to_end = false;
  for (;;) {
    const pid_t ended = ::waitpid(pid, &end.status, WNOHANG);
    if (ended == pid) break;
    if (ended < 0 && errno != EINTR) {  // of its end nothing is known, so it is not a success
      return tl::unexpected<Error>(errno_error("waiting for the command", errno));
    }
    const int stops = signals.stops() - stops_before;
    if (stops > 0 && !end.stopped) {
      end.stopped = true;
      until = std::min(until, clock.steady_ms() + grace_ms);
    }
    if (stops > 1) until = 0;
    if (clock.steady_ms() >= until) {
      end.timed_out = end.timed_out || !end.stopped;
      ::kill(-pid, std::exchange(told_to_end, true) ? SIGKILL : SIGTERM);
      until = clock.steady_ms() + kKillAfterMs;
    }
    pollfd waiting[] = {{signals.fd(), POLLIN, 0},
                        {err.read.get(), POLLIN, 0},
                        {input.empty() ? -1 : in.write.get(), POLLOUT, 0}};
    const std::int64_t left = std::clamp<std::int64_t>(until - clock.steady_ms(), 1, 1000);
    if (::poll(waiting, 3, static_cast<int>(left)) < 0 && errno != EINTR) {
      const Error error = errno_error("waiting for the command", errno);
      [[maybe_unused]] const int status = end_command(pid, 0);
      return tl::unexpected<Error>(error);
    }
    if (waiting[1].revents != 0) {
      std::string text;
      if (!read_some(err.read.get(), text)) err.read = UniqueFd();
      write_all(STDERR_FILENO, text);
      last_line.add(text);
    }
    if (waiting[2].revents != 0) {
      const ssize_t n = ::write(in.write.get(), input.data(), input.size());
      if (n > 0) input.remove_prefix(static_cast<std::size_t>(n));
    }
    if (input.empty() && in.write.valid()) in.write = UniqueFd();  // the end of the input
  }
  // Nobody of it works on when the records are given again.
  if (end.timed_out || told_to_end) ::kill(-pid, SIGKILL);
  // It ended by itself, also when it was told to by us: then its own word counts.
  if (end.stopped && !told_to_end) end.stopped = false;
  std::string text;
  while (err.read.valid() && read_some(err.read.get(), text) && !text.empty()) {
    write_all(STDERR_FILENO, text);
    last_line.add(text);
    text.clear();
  }
  end.last_line = last_line.text();
  int unread = 0;
  if (::ioctl(in.read.get(), FIONREAD, &unread) == 0) end.unread_bytes = unread;
  end.unread_bytes += static_cast<std::int64_t>(input.size());
  return end;
}

}  // namespace wayside
