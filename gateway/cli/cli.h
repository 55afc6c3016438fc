// What the verbs of the command line share: exit codes, how an error is told, tables.
// Thread: main's.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "gateway/plan/plan.h"
#include "storage/reader.h"

namespace wayside {

// Documented in docs/OPERATIONS.md and in --help.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,          // the disk or the network answered with an error
  kExitUsage = 2,           // the command line is wrong
  kExitNotFound = 3,        // no such topic, partition, log
  kExitRange = 4,           // the range of offsets or times holds nothing, or is not in the log
  kExitUnavailable = 5,     // no gateway answers
  kExitTimeout = 6,         // the time limit was reached
  kExitQuarantined = 7,     // it is stored, but in quarantine: no route took it
  kExitConfiguration = 78,  // wrong configuration, or a log of a newer version: not started again
};
[[nodiscard]] int exit_code(const Error& error);
// Prints "wayside: what" and the hint on stderr; returns the exit code.
int report(const Error& error);
// Of a verb that is done, or has failed with an error that is reported.
int exit_of(const Status& status);

enum class Format { table, json, csv, raw };

// An id or a topic for a table: printable, and cut when it is not `wide`.
[[nodiscard]] std::string shown_name(std::string_view name, bool wide);

// Rows under headings, columns as wide as their widest text (but a very long one makes its own row
// longer only); numbers stand right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings) : rows_{std::move(headings)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// A plan from the file, and the log it names, for verbs that read.
struct OpenedLog {
  Plan plan;
  LogReader reader;
  Catalog catalog;
};
[[nodiscard]] Result<OpenedLog> open_log(const std::string& config_path);
// The same for a verb that tells itself what LogReader::doubts() says. Instead of a configuration
// file it may be a directory: the log there is looked at, and nothing in it is changed.
[[nodiscard]] Result<OpenedLog> look_at_log(const std::string& config_path);
// The next records of a chain. Of damage that it finds it tells the running gateway, which sets the
// file aside; the error says so. (A gateway that only takes readings may not meet it for long.)
[[nodiscard]] Result<LogReader::Page> read_page(OpenedLog& log, ChainId chain, Seq from,
                                                std::span<const TpId> tps,
                                                const ReadLimits& limits = {});
// Host and port of the listener: as given, else of the running gateway, else as configured.
[[nodiscard]] Result<HostPort> find_listener(const std::string& config_path, std::string host,
                                             int port);
// "3 min ago", "2 d ago"; "-" when it is not known.
[[nodiscard]] std::string ago(std::int64_t ms, std::int64_t now_ms);
// "2 h 10 min".
[[nodiscard]] std::string long_duration(std::int64_t ms);
// Asks "… [y/N]" on a terminal; without one, `yes` must have been given.
[[nodiscard]] Status confirm(const std::string& question, bool yes);
// Whether the standard output is a terminal.
[[nodiscard]] bool on_terminal();

}  // namespace wayside
