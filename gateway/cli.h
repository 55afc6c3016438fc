// What the verbs of the command line share: exit codes, how an error is told, tables.
// Thread: main's.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/plan.h"
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
  kExitConfiguration = 78,  // wrong configuration, or a log of a newer version: not started again
};
[[nodiscard]] int exit_code(const Error& error);
// Prints "wayside: what" and the hint on stderr; returns the exit code.
int report(const Error& error);

enum class Format { table, json, csv, raw };

// Rows under headings, columns as wide as their widest text; numbers stand right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings) : rows_{std::move(headings)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// The verbs: one file each (cmd_*.cc). They return the exit code.
struct CheckArgs {
  std::string config;
  bool print_default = false, print_reference = false;
};
int cmd_check(const CheckArgs& args);

struct StatusArgs {
  std::string config;
  bool json = false;
};
int cmd_status(const StatusArgs& args);

struct TopicsArgs {
  std::string config, topic;
  bool json = false;
};
int cmd_topics_list(const TopicsArgs& args);
int cmd_topics_describe(const TopicsArgs& args);

struct ReadArgs {
  std::string config, topic, range;
  std::optional<std::int32_t> partition;
  std::optional<std::string> key;
  std::int64_t count = -1;  // -1: no bound
  bool follow = false;
  Format format = Format::table;
};
int cmd_read(const ReadArgs& args);

struct QueryArgs {
  std::string config, sql;
  std::int64_t timeout_ms = 10'000;
  Format format = Format::table;
};
int cmd_query(const QueryArgs& args);

struct PublishArgs {
  std::string config, host, topic, message, client_id;
  int port = 0, qos = 1;
  bool lines = false, v311 = false;
};
int cmd_publish(const PublishArgs& args);

struct SimulateArgs {
  std::string config, host, topic = "fleet/{truck}/gps";
  int port = 0, qos = 1, trucks = 10, connections = 1;
  double rate = 1.0;
  std::int64_t count = 60, seed = -1;
};
int cmd_simulate(const SimulateArgs& args);

// A plan from the file, and the log it names, for verbs that read.
struct OpenedLog {
  Plan plan;
  LogReader reader;
  Catalog catalog;
};
[[nodiscard]] Result<OpenedLog> open_log(const std::string& config_path);
// Host and port of the listener: as given, else of the running gateway, else as configured.
[[nodiscard]] Result<HostPort> find_listener(const std::string& config_path, std::string host,
                                             int port);
// A number behind "name": in the gateway's answer.
[[nodiscard]] std::optional<std::int64_t> json_number(std::string_view json, std::string_view name);

}  // namespace wayside
