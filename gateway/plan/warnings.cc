#include "gateway/plan/warnings.h"

#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/address.h"
#include "base/text.h"

namespace wayside {
namespace {

// Of statfs(2); <linux/magic.h> has them, too.
constexpr std::uint32_t kTmpfs = 0x01021994, kRamfs = 0x858458F6, kOverlay = 0x794C7630;

bool is_loopback(std::string_view host) {
  return host.starts_with("127.") || host == "::1" || host == "localhost";
}

class Warner {
 public:
  explicit Warner(const Plan& plan) : plan_(plan), config_(plan.config) {}

  std::vector<Warning> all() {
    data_dir();
    files_of_the_log();
    routes();
    listen();
    for (const BridgeConfig& b : config_.bridges) {
      secret(cat("bridge ", b.name, ": token_file"), b.token_file);
      readable(cat("bridge ", b.name, ": ca_file"), b.ca_file);
      const bool here = b.to.starts_with("http://127.") || b.to.starts_with("http://localhost") ||
                        b.to.starts_with("http://[::1]");
      if (!b.token_file.empty() && b.to.starts_with("http://") && !here) {
        say(cat("bridge ", b.name, " sends its token over http://: who sees the traffic has it"),
            true);
      }
    }
    for (const SubscribeConfig& s : config_.subscriptions) {
      const std::string who = cat("subscription ", printable(s.client_id), ": ");
      secret(who + "password_file", s.password_file);
      secret(who + "key_file", s.key_file);
      readable(who + "cert_file", s.cert_file);
      readable(who + "ca_file", s.ca_file);
    }
    return std::move(out_);
  }

 private:
  void say(std::string text, bool urgent = false) { out_.push_back({std::move(text), urgent}); }

  // One that is not made yet will be where its nearest parent is.
  void data_dir() {
    std::string path = config_.data_dir;
    struct statfs fs {};
    while (::statfs(path.c_str(), &fs) != 0) {
      const std::size_t slash = path.find_last_of('/');
      if (errno != ENOENT || slash == std::string::npos) return;
      path = slash == 0 ? "/" : path.substr(0, slash);
    }
    const auto type = static_cast<std::uint32_t>(fs.f_type);
    if (type == kTmpfs || type == kRamfs) {
      say(cat("data_dir ", config_.data_dir, " is in memory (", type == kTmpfs ? "tmpfs" : "ramfs",
              "): all readings are gone with the power"),
          true);
    } else if (type == kOverlay) {
      say(cat("data_dir ", config_.data_dir,
              " is on an overlay: in a container, or on a card that is protected from writing, all "
              "readings are gone when it is made anew or starts again; give it a volume, or a "
              "partition, of its own"),
          true);
    }
  }

  void files_of_the_log() {
    struct stat st {};
    if (::stat(config_.data_dir.c_str(), &st) != 0 || (st.st_mode & S_IXOTH) == 0) return;
    std::string open;
    for (const char* end : {"", "-wal", "-shm"}) {
      const std::string path = config_.database_path() + end;
      if (::stat(path.c_str(), &st) == 0 && (st.st_mode & S_IROTH) != 0) open += " " + path;
    }
    if (!open.empty()) say(cat("everybody on this machine can read the log: chmod o-rwx", open));
  }

  void routes() {
    if (config_.routes.empty()) {
      return say("there is no [[route]]: every reading goes to quarantine");
    }
    for (const TopicConfig& t : config_.topics) {
      const Topic* topic = catalog_.find(t.name);
      const bool used = std::any_of(
          plan_.routes.begin(), plan_.routes.end(),
          [&](const Route& r) { return topic != nullptr && catalog_.find(r.topic) == topic; });
      if (!used) say(cat("no [[route]] leads to topic ", t.name, " (line ", t.line, ")"));
    }
  }

  void listen() {
    const auto at = parse_host_port(config_.mqtt.listen);
    if (at && !is_loopback(at->host)) {
      say(cat("mqtt.listen = ", config_.mqtt.listen,
              ": there is no authentication; whoever reaches this address can publish"));
    }
    if (const auto http = parse_host_port(config_.http.listen); http && !is_loopback(http->host)) {
      say(cat("http.listen = ", config_.http.listen,
              ": whoever reaches this address can read health and metrics"));
    }
  }

  bool readable(const std::string& what, const std::string& path) {
    struct stat st {};
    if (path.empty() || ::stat(path.c_str(), &st) == 0) return !path.empty();
    if (errno == EACCES) return false;  // whoever asks may not look there; the gateway may
    say(cat(what, " ", printable(path), ": ", std::strerror(errno)), true);
    return false;
  }

  void secret(const std::string& what, const std::string& path) {
    struct stat st {};
    if (!readable(what, path) || ::stat(path.c_str(), &st) != 0) return;
    if ((st.st_mode & S_IROTH) != 0) {
      say(cat(what, " ", printable(path),
              " can be read by everybody on this machine: chmod 640 (or 600) it"),
          true);
    }
  }

  const Plan& plan_;
  const Config& config_;
  const Catalog catalog_ = Catalog::of(plan_.topics);
  std::vector<Warning> out_;
};

}  // namespace

std::vector<Warning> warnings_of(const Plan& plan) {
  return Warner(plan).all();
}

}  // namespace wayside
