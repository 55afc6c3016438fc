// What a technician changes of a bridge's positions: stepping over records, going back, sending
// some once more. Each is made from what is committed, and is ops for one commit; whoever commits
// them keeps the bridge from moving meanwhile. Thread: plain functions; the reader's owner.
#pragma once

#include <string>
#include <vector>

#include "gateway/plan/plan.h"
#include "storage/batch.h"
#include "storage/reader.h"

namespace wayside {

struct BridgeChange {
  std::vector<Op> ops;
  std::int64_t records = 0;  // that are stepped over, or sent again
};
struct Target {
  TpId tp;
  std::int64_t offset = 0;
};

// To these offsets, where they lie ahead (skip) or back (rewind); `left`: the topic is none of the
// bridge's any more, and no alarm is due for what comes into it.
[[nodiscard]] Result<BridgeChange> skip_change(LogReader& reader, const std::string& bridge,
                                               const std::vector<Target>& targets, bool left);
[[nodiscard]] Result<BridgeChange> rewind_change(LogReader& reader, const std::string& bridge,
                                                 const std::vector<Target>& targets);
// Of what was sent already: what was not is on its way.
[[nodiscard]] Result<BridgeChange> resend_change(LogReader& reader, const std::string& bridge,
                                                 TpId tp, std::int64_t from, std::int64_t to);

// What a bridge had begun to forward of topics that it does not forward any more.
struct LeftBehind {
  std::string bridge, topic;
  std::int64_t records = 0;
  [[nodiscard]] std::string text() const;  // with what can be done
};
[[nodiscard]] Result<std::vector<LeftBehind>> left_behind(LogReader& reader, const Catalog& catalog,
                                                          const Config& config);

}  // namespace wayside
