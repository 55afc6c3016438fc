#include "gateway/control/answer.h"

#include <sys/socket.h>

#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace wayside {

std::string control_path(const std::string& data_dir) {
  const char* runtime = std::getenv("RUNTIME_DIRECTORY");
  return cat(runtime != nullptr && *runtime != '\0' ? std::string(runtime) : data_dir,
             "/wayside.sock");
}

Result<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorCode::invalid_argument, cat(path, " is too long for a socket's path"),
                cat("data_dir may have up to ", sizeof address.sun_path - 14, " characters"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

std::string error_json(const Error& error) {
  std::string out = "{\"error\":";
  append_json_string(out, printable(error.what));
  out += ",\"hint\":";
  append_json_string(out, printable(error.hint));
  return cat(out, ",\"code\":", static_cast<int>(error.code), "}");
}

Result<Json> parse_answer(std::string_view text) {
  WS_ASSIGN(Json answer, Json::parse(text));
  if (answer.find("error") == nullptr) return answer;
  return fail(static_cast<ErrorCode>(answer.number("code")), answer.text("error"),
              answer.text("hint"));
}

}  // namespace wayside
