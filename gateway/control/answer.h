// What the two ends of the control socket agree on: where it is, and how an answer travels.
// Thread: pure functions.
#pragma once

#include <sys/un.h>

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace wayside {

// In the runtime directory that systemd made, else in data_dir.
[[nodiscard]] std::string control_path(const std::string& data_dir);
// An error: the path is too long.
[[nodiscard]] Result<sockaddr_un> socket_address(const std::string& path);
// Errors as they travel: {"error":"what","hint":"…","code":n}.
[[nodiscard]] std::string error_json(const Error& error);
// What came as an answer: an error when it is one.
[[nodiscard]] Result<Json> parse_answer(std::string_view text);

}  // namespace wayside
