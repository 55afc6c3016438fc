// The verbs of the command line: what each is asked, one file each (cmd_*.cc). They return the exit
// code. Thread: main's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gateway/cli/bridge_verbs.h"
#include "gateway/cli/cli.h"

namespace wayside {

struct CheckArgs {
  std::string config;
  bool print_default = false, print_reference = false;
  std::vector<std::string> try_message;  // an MQTT topic and a file with a payload
};
int cmd_check(const CheckArgs& args);

struct StatusArgs {
  std::string config;
  bool json = false;
};
int cmd_status(const StatusArgs& args);

struct TopicsArgs {
  std::string config, topic, retention, retention_bytes;
  std::int64_t partitions = 0;
  bool json = false, yes = false;
};
int cmd_topics_list(const TopicsArgs& args);
int cmd_topics_describe(const TopicsArgs& args);
int cmd_topics_create(const TopicsArgs& args);
int cmd_topics_alter(const TopicsArgs& args);
int cmd_topics_delete(const TopicsArgs& args);
int cmd_topics_relearn(const TopicsArgs& args);

struct ReadArgs {
  std::string config, topic, range;
  std::optional<std::int32_t> partition;
  std::optional<std::string> key;
  std::int64_t count = -1;  // -1: no bound
  bool follow = false;
  Format format = Format::table;
  std::string group;
  bool commit_before = false;
  std::int64_t batch = 500;
  std::string exec;  // a command that processes them; empty: they are printed
  bool stream = false;
  std::int64_t tries = 5, timeout_ms = 300'000, linger_ms = 200;
};
int cmd_read(const ReadArgs& args);

// read --group.
int cmd_read_group(const ReadArgs& args);

struct LatestArgs {
  std::string config, topic, since;
  Format format = Format::table;
  bool wide = false;
};
int cmd_latest(const LatestArgs& args);

struct GroupsArgs {
  std::string config, group, topic, to;
  std::optional<std::int32_t> partition;
  bool json = false, yes = false, execute = false;
};
int cmd_groups_list(const GroupsArgs& args);
int cmd_groups_describe(const GroupsArgs& args);
int cmd_groups_reset(const GroupsArgs& args);
int cmd_groups_delete(const GroupsArgs& args);

struct QuarantineArgs {
  std::string config;
  std::vector<std::int64_t> offsets;
  std::int64_t limit = 1000;
  bool all = false, json = false, yes = false;
};
int cmd_quarantine_list(const QuarantineArgs& args);
int cmd_quarantine_show(const QuarantineArgs& args);
int cmd_quarantine_retry(const QuarantineArgs& args);
int cmd_quarantine_drop(const QuarantineArgs& args);
int cmd_quarantine_export(const QuarantineArgs& args);

struct LedgerArgs {
  std::string config;
  bool json = false;
};
int cmd_ledger(const LedgerArgs& args);

struct VerifyArgs {
  std::string config;
  bool json = false, quick = false;
};
int cmd_verify(const VerifyArgs& args);

struct RepairArgs {
  std::string config;
  bool yes = false, remove_damaged = false;
};
int cmd_repair(const RepairArgs& args);

struct RestoredArgs {
  std::string config;
  bool yes = false;
};
int cmd_restored(const RestoredArgs& args);

struct DevicesArgs {
  std::string config, since = "24h";
  std::int64_t limit = 1000;
  bool json = false, wide = false;
};
int cmd_devices(const DevicesArgs& args);

int cmd_reload(const std::string& config);

struct QueryArgs {
  std::string config, sql;
  std::int64_t timeout_ms = 10'000, output_bytes = 0;
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

}  // namespace wayside
