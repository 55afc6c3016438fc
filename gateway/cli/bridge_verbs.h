// The verbs `wayside bridge …`: what each is asked. They return the exit code. Thread: main's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace wayside {

struct BridgeArgs {
  std::string config, name;
  bool json = false;
};
int cmd_bridge_status(const BridgeArgs& args);
int cmd_bridge_pause(const BridgeArgs& args, bool pause);

struct BridgeMoveArgs {
  std::string config, name, what;  // "skip", "rewind" or "resend"
  std::string topic, to;
  std::optional<std::int32_t> partition;
  std::int64_t records = 0, from = 0, until = 0;
  bool dry_run = false, yes = false;
};
int cmd_bridge_move(const BridgeMoveArgs& args);

}  // namespace wayside
