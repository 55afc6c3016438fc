// Changes of the log that a technician asks for: topics, groups, quarantine, pauses. The running
// gateway does them for whoever asks on its control socket; with the gateway stopped, the verb
// takes the lock and does the same itself. Thread: the caller's; answers come from any.
#pragma once

#include <functional>
#include <string>

#include "base/clock.h"
#include "base/json.h"
#include "gateway/plan/plan.h"
#include "storage/log.h"

namespace wayside {

using Answer = std::function<void(std::string)>;

// Does one request and answers once: {"ok":true,…}, or error_json. False: it is no such request.
[[nodiscard]] bool do_admin_request(Log& log, const Plan& plan, const Clock& clock,
                                    const Json& request, Answer answer);

// The same from a verb: asks the running gateway, else does it here.
[[nodiscard]] Result<Json> change_log(const std::string& config_path, std::string_view request);

}  // namespace wayside
