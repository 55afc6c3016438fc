// repair: what the gateway does by itself with a damaged log, with the gateway stopped and awaited.
#include <cstdio>

#include "base/file.h"
#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "storage/recovery/recovery.h"
#include "storage/recovery/rescue.h"
#include "storage/recovery/salvager.h"

namespace wayside {
namespace {

// Deletes files whose records have come back.
Status remove_damaged(Log& log) {
  WS_ASSIGN(LogReader reader, LogReader::open(log.path()));
  WS_ASSIGN(const auto files, reader.damaged());
  for (const DamagedFile& d : files) {
    const std::string path = log.path().substr(0, log.path().rfind('/') + 1) + d.file;
    if (!file_exists(path)) continue;
    if (d.state != "salvaged") {
      std::printf("%s stays: not all of it has been salvaged\n", path.c_str());
      continue;
    }
    WS_TRY(remove_file(path));
    (void)remove_file(path + "-wal");
    (void)remove_file(path + "-shm");
    std::printf("%s is deleted\n", path.c_str());
  }
  return {};
}

Result<bool> is_sound(const RepairArgs& args) {
  std::printf("checking the log\n");
  std::fflush(stdout);
  const VerifyArgs verify{args.config, false, false};
  return cmd_verify(verify) == kExitOk;
}

Result<int> repair(const RepairArgs& args) {
  WS_ASSIGN(const Plan plan, load_plan(args.config));
  auto lock = lock_file(plan.config.data_dir + "/wayside.lock");
  if (!lock) {
    return fail(ErrorCode::busy, "the gateway is running, and repairs a damaged log by itself",
                "look with 'wayside status'; or stop it first: systemctl stop wayside");
  }
  EngineOptions options = engine_options(plan.config);
  Logger logger(LogLevel::warning);
  const SystemClock clock(plan.config.clock_trust);
  if (file_size(options.path) == 0 && damaged_files(options.path).empty() &&
      !file_exists(sidecar_path(options.path))) {
    return fail(ErrorCode::not_found, cat("there is no log at ", options.path),
                "check data_dir in the configuration");
  }
  if (file_size(options.path) > 0) {
    // A log of a newer version, or one that may not be read, is not damaged.
    if (auto opened = LogReader::open(options.path);
        !opened && opened.error().code == ErrorCode::too_new) {
      return tl::unexpected<Error>(opened.error());
    }
    WS_ASSIGN(const bool sound, is_sound(args));
    if (!sound) {
      WS_TRY(confirm("set the damaged database aside, and salvage what can be read?", args.yes));
      options.damage = "found by 'wayside repair'";
    }
  }
  WS_ASSIGN(auto log, Log::open(options, {}, plan.topics, clock, logger));
  WS_TRY(log->change_and_wait([](Engine& e) { return e.recovery().retry_salvage(); }));
  {
    Salvager salvager(*log, logger);
    WS_TRY(salvager.wait());
  }
  if (args.remove_damaged) WS_TRY(remove_damaged(*log));
  log.reset();
  const VerifyArgs verify{args.config, false, false};
  return cmd_verify(verify);
}

}  // namespace

int cmd_repair(const RepairArgs& args) {
  const auto code = repair(args);
  return code ? *code : report(code.error());
}

}  // namespace wayside
