// The gateway's end of the control socket: a Unix socket in the runtime directory (or data_dir),
// over which the verbs ask: one JSON object a line each way. Access is the file's: mode 0660. What
// all peers make it hold is bounded; whoever holds most goes.
// Thread: serve and the handler by one owner (main); answer and wake from any.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/mutex.h"
#include "base/result.h"

namespace wayside {

using PeerId = std::uint64_t;

class ControlServer {
 public:
  // A request came (its answer may come later, and from another thread); or a peer is gone.
  struct Handler {
    std::function<void(PeerId, const std::string& line)> request;
    std::function<void(PeerId)> gone;
  };
  [[nodiscard]] static Result<std::unique_ptr<ControlServer>> listen(const std::string& path,
                                                                     Handler handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Serves for at most `ms`, or until wake().
  void serve(int ms);
  // Sends a line to a peer, if it is still there. Thread: any.
  void answer(PeerId peer, std::string line);
  void wake();
  // The peer may be silent for as long as it likes. Others make room for new ones when it is short.
  void keep(PeerId peer);

 private:
  struct Peer {
    UniqueFd fd;
    std::string in, out;
    std::size_t scanned = 0;            // of `in`: so far there is no end of a line
    std::int64_t stalled_since_ms = 0;  // steady; it does not read
    std::int64_t asked_ms = 0;          // steady; last
    bool kept = false;
  };
  ControlServer(std::string path, Handler handler)
      : path_(std::move(path)), handler_(std::move(handler)) {}
  void accept();
  [[nodiscard]] bool read(Peer& peer);
  [[nodiscard]] static bool has_line(Peer& peer);
  void handle_lines(PeerId id);
  void refuse(PeerId id, const std::string& what);
  void keep_within_bounds();
  void make_room();
  [[nodiscard]] bool write(Peer& peer);
  void take_answers();
  void drop(PeerId id);

  const std::string path_;
  const Handler handler_;
  UniqueFd fd_, wake_;
  std::map<PeerId, Peer> peers_;
  PeerId next_ = 1;
  std::string buffer_;  // of one read
  Mutex mutex_;
  std::vector<std::pair<PeerId, std::string>> answers_ GUARDED_BY(mutex_);
};

}  // namespace wayside
