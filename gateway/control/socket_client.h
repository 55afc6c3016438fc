// The verbs' end of the control socket: asks the running gateway. Thread: one owner each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/json.h"
#include "gateway/control/answer.h"

namespace wayside {

class ControlClient {
 public:
  // `unavailable` when no gateway runs on this data_dir.
  [[nodiscard]] static Result<ControlClient> connect(const std::string& data_dir);
  // Sends a request and waits for its answer. An answer {"error":…} is an error.
  [[nodiscard]] Result<Json> ask(std::string_view request, std::int64_t timeout_ms = 60'000);
  // The next line, as it is; `timeout`, or `unavailable` when the gateway is gone.
  [[nodiscard]] Result<std::string> line(std::int64_t timeout_ms);
  [[nodiscard]] Status send(std::string_view request);
  [[nodiscard]] int fd() const { return fd_.get(); }  // to wait on, beside others

 private:
  UniqueFd fd_;
  std::string in_;
};

// The answer to one request; `unavailable` when no gateway runs on this data_dir.
[[nodiscard]] Result<Json> ask_gateway(const std::string& data_dir, std::string_view request);

}  // namespace wayside
