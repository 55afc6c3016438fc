// The command line of the verbs that look at the log and change it; main.cc has the others.
// Thread: main's.
#pragma once

#include <string>

#include "gateway/cli/verbs.h"

namespace CLI {
class App;
}

namespace wayside {

// What is filled in while the command line is read; must outlive that.
struct LogVerbs {
  StatusArgs status;
  TopicsArgs topics;
  ReadArgs read;
  LatestArgs latest;
  QueryArgs query;
  GroupsArgs groups;
  BridgeArgs bridge;
  BridgeMoveArgs bridge_move;
  QuarantineArgs quarantine;
  LedgerArgs ledger;
  VerifyArgs verify;
  RepairArgs repair;
  RestoredArgs restored;
  DevicesArgs devices;
  std::string query_timeout = "10s", query_output = "16MiB", commit = "after";
  std::string read_timeout = "5m", read_linger = "200ms";
};
void add_log_verbs(CLI::App& app, LogVerbs& verbs, int& code);

void config_option(CLI::App* verb, std::string& path);
// The same, and --data: a directory to look at instead.
void look_option(CLI::App* verb, std::string& path);
// A script for bash, made from the verbs and options that there are.
[[nodiscard]] std::string bash_completion(const CLI::App& app);

}  // namespace wayside
