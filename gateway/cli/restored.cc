// restored: a technician says that the log was put back from an image or a backup.
#include <cstdio>

#include "gateway/cli/verbs.h"
#include "gateway/control/changes.h"

namespace wayside {

int cmd_restored(const RestoredArgs& args) {
  const Status sure = confirm(
      "the log goes on under a new identity, with offsets 200,000 beyond: was it put back?",
      args.yes);
  if (!sure) return report(sure.error());
  const auto done = change_log(args.config, R"({"do":"restored"})");
  if (!done) return report(done.error());
  std::printf("noted: the log goes on under a new identity (at once, or at the next start)\n");
  return kExitOk;
}

}  // namespace wayside
