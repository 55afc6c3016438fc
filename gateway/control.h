// The control socket: a Unix socket in the runtime directory (or data_dir) that tells whoever
// connects the gateway's state as one JSON object, and closes. Access is the file's: mode 0660.
// Thread: one owner (main); ask_gateway from anywhere.
#pragma once

#include <functional>
#include <string>

#include "base/file.h"

namespace wayside {

class ControlSocket {
 public:
  ControlSocket() = default;
  ControlSocket(ControlSocket&&) = default;
  ControlSocket& operator=(ControlSocket&&) = default;
  ~ControlSocket();
  [[nodiscard]] static Result<ControlSocket> listen(const std::string& path);
  // Waits at most `ms` for somebody to ask, and answers.
  void serve(int ms, const std::function<std::string()>& answer);

 private:
  UniqueFd fd_;
  std::string path_;
};

[[nodiscard]] std::string control_path(const std::string& data_dir);
// The running gateway's answer; `unavailable` when none runs on this data_dir.
[[nodiscard]] Result<std::string> ask_gateway(const std::string& data_dir);

}  // namespace wayside
