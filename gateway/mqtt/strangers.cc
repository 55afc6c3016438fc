#include "gateway/mqtt/strangers.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/mqtt/connection.h"

namespace wayside {
namespace {

constexpr std::int64_t kTellEveryMs = 60'000;
constexpr std::size_t kAddressesMax = 1024;
constexpr std::int64_t kGiveBackEveryMs = 5'000;
constexpr std::size_t kGiveBackBytes = 2 << 20;

std::size_t share_of(std::size_t bytes, std::int64_t connections) {
  return std::max(bytes / static_cast<std::size_t>(std::max<std::int64_t>(connections, 1)),
                  limits::kStrangerShareBytes);
}

}  // namespace

std::uint64_t KnownDevices::hash(std::string_view client_id) {
  return std::hash<std::string_view>()(client_id);
}

void KnownDevices::load(std::vector<std::uint64_t> hashes) {
  sorted_ = std::move(hashes);
  std::sort(sorted_.begin(), sorted_.end());
  sorted_.erase(std::unique(sorted_.begin(), sorted_.end()), sorted_.end());
  sorted_.shrink_to_fit();
}

void KnownDevices::add(std::string_view client_id) {
  if (contains(client_id)) return;
  added_.insert(hash(client_id));
  if (added_.size() < 1024) return;
  sorted_.insert(sorted_.end(), added_.begin(), added_.end());
  added_.clear();
  std::sort(sorted_.begin(), sorted_.end());
  // More than the log has names of: the rest is learnt anew when it sends.
  if (sorted_.size() > limits::kKnownDevicesMax) sorted_.resize(limits::kKnownDevicesMax / 2);
}

bool KnownDevices::contains(std::string_view client_id) const {
  const std::uint64_t h = hash(client_id);
  return added_.contains(h) || std::binary_search(sorted_.begin(), sorted_.end(), h);
}

Strangers::Strangers(MqttHub& hub)
    : hub_(hub),
      bytes_most_(std::clamp(memory_limit_bytes() / limits::kStrangersMemoryPart,
                             limits::kStrangersBytesMax / 8, limits::kStrangersBytesMax)) {}

void Strangers::holds(Held& held, std::size_t bytes, bool before_connect) {
  if (held.bytes == bytes && held.before_connect == before_connect) return;
  bytes_ += bytes - held.bytes;
  before_connect_bytes_ -= held.before_connect ? held.bytes : 0;
  before_connect_bytes_ += before_connect ? bytes : 0;
  held = {bytes, before_connect};
  peak_bytes_ = std::max(peak_bytes_, bytes_);
  if (!making_room_ && (over(false) || over(true))) make_room();
}

bool Strangers::over(bool before_connect) const {
  return before_connect ? before_connect_bytes_ > bytes_most_ / 4 : bytes() > bytes_most_;
}

bool Strangers::may_keep_will(std::size_t bytes) const {
  return will_bytes_ + bytes <= bytes_most_ / 4;
}

// By bytes times how long it has completed no packet: a device that sends a large reading is done
// with it soon. Who holds no more than its share is never asked to go: if all is too much, somebody
// holds more than that.
MqttConnection* Strangers::largest(bool before_connect) const {
  const std::size_t share = share_of(before_connect ? bytes_most_ / 4 : bytes_most_,
                                     hub_.config.mqtt.max_connections);
  const std::int64_t now = hub_.clock.steady_ms();
  MqttConnection* found = nullptr;
  double most = 0;
  for (const auto& c : connections) {
    const Held& held = c->held();
    if (c->closed() || held.bytes <= share || (before_connect && !held.before_connect)) continue;
    const auto silent_ms = static_cast<double>(now - c->last_packet_ms() + 1);
    const double score = static_cast<double>(held.bytes) * silent_ms;
    if (score > most) most = score, found = c.get();
  }
  return found;
}

void Strangers::make_room() {
  making_room_ = true;
  for (const bool before_connect : {true, false}) {
    while (over(before_connect)) {
      MqttConnection* const c = largest(before_connect);
      if (c == nullptr) break;
      if (c->give_up_caches()) continue;
      note("refused.memory", c->address());
      c->give_way(cat("it holds ", format_bytes(static_cast<std::int64_t>(c->held().bytes)),
                      " of memory, and all together more than there is for that"));
    }
  }
  making_room_ = false;
}

void Strangers::make_way(std::uint64_t origin) {
  const auto per_address = static_cast<std::size_t>(hub_.config.mqtt.max_silent_per_address);
  std::size_t silent = 0, of_address = 0, draining = 0;
  MqttConnection *oldest = nullptr, *oldest_of_address = nullptr, *oldest_draining = nullptr;
  for (const auto& c : connections) {  // in the order in which they came
    if (c->draining()) {
      ++draining;
      if (oldest_draining == nullptr) oldest_draining = c.get();
    }
    if (!c->silent()) continue;
    ++silent;
    if (oldest == nullptr) oldest = c.get();
    if (c->origin() != origin) continue;
    ++of_address;
    if (oldest_of_address == nullptr) oldest_of_address = c.get();
  }
  if (draining >= limits::kDrainingConnectionsMax) oldest_draining->close();
  MqttConnection* goes = silent >= limits::kSilentConnectionsMax ? oldest : nullptr;
  if (of_address >= per_address) goes = oldest_of_address;
  if (goes == nullptr) return;
  note("refused.silent", goes->address());
  goes->close();
}

// Places short: the unknown one goes that has sent nothing and is connected longest; else the one
// that has sent nothing for longest, known or not, if that is long. Whoever sends, stays.
Strangers::Place Strangers::place_for(const MqttConnection* newcomer, bool device) const {
  const auto most = static_cast<std::size_t>(hub_.config.mqtt.max_connections);
  const std::int64_t idle_before = hub_.clock.steady_ms() - limits::kIdlePlaceMs;
  std::size_t placed = 0, placed_unknown = 0;
  MqttConnection *silent = nullptr, *idle = nullptr, *idle_unknown = nullptr;
  const auto longer = [](MqttConnection* a, MqttConnection* b) {
    return b == nullptr || a->last_reading_ms() < b->last_reading_ms() ? a : b;
  };
  for (const auto& c : connections) {
    if (!c->has_place() || c.get() == newcomer) continue;
    ++placed;
    placed_unknown += c->known_before() ? 0 : 1;
    if (!c->known_before() && !c->has_sent() && silent == nullptr) silent = c.get();
    if (c->last_reading_ms() > idle_before || c->waits_for_us()) continue;
    idle = longer(c.get(), idle);
    if (!c->known_before()) idle_unknown = longer(c.get(), idle_unknown);
  }
  const bool may = device || placed_unknown < most - most / limits::kKnownPlacesPart;
  if (placed < most && may) return {true, nullptr};
  MqttConnection* const goes = silent != nullptr ? silent : may ? idle : idle_unknown;
  return {goes != nullptr, goes};
}

Strangers::Entry Strangers::admit(const MqttConnection& newcomer, std::string_view client_id) {
  const auto per_address = static_cast<std::size_t>(hub_.config.mqtt.max_connections_per_address);
  if (per_address > 0) {
    const auto of_address = static_cast<std::size_t>(
        std::count_if(connections.begin(), connections.end(), [&](const auto& c) {
          return c->has_place() && c.get() != &newcomer && c->origin() == newcomer.origin();
        }));
    if (of_address >= per_address) return Entry::too_many_of_address;
  }
  const Place place = place_for(&newcomer, known.contains(client_id));
  if (!place.is_there) return Entry::full;
  if (place.whose != nullptr) {
    note("refused.idle", place.whose->address());
    place.whose->give_way("places are short, and it has sent no reading for a while");
  }
  return Entry::admitted;
}

bool Strangers::has_place_for_newcomer() const {
  return place_for(nullptr, false).is_there;
}

void Strangers::note(const std::string& name, const std::string& address) {
  hub_.count(name);
  ++now_.decisions[name];
  if (now_.addresses.size() < kAddressesMax || now_.addresses.contains(address)) {
    ++now_.addresses[address];
  }
}

std::pair<std::string, std::int64_t> Strangers::Minute::worst() const {
  const auto most = std::max_element(addresses.begin(), addresses.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  return most == addresses.end() ? std::pair<std::string, std::int64_t>()
                                 : std::pair<std::string, std::int64_t>(*most);
}

void Strangers::tick(std::int64_t now_ms) {
  give_memory_back(now_ms);
  if (now_.decisions.empty() || now_ms - told_ms_ < kTellEveryMs) return;
  told_ms_ = now_ms;
  now_.at_ms = hub_.clock.wall_ms();
  last_ = std::exchange(now_, {});
  std::string what;
  for (const auto& [name, n] : last_.decisions) {
    what += cat(what.empty() ? "" : ", ", n, " x ", name);
  }
  const auto worst = last_.worst();
  hub_.logger.warning(cat("strangers: ", what, "; most (", worst.second, ") because of ",
                          printable(worst.first),
                          " (docs/OPERATIONS.md, Strangers, says what each means)"));
}

// What was freed is given back to the system, or a flood that is over would stay in the figures of
// whoever watches the memory.
void Strangers::give_memory_back(std::int64_t now_ms) {
  if (bytes_ + kGiveBackBytes > peak_bytes_ || now_ms - given_back_ms_ < kGiveBackEveryMs) return;
  given_back_ms_ = now_ms;
  peak_bytes_ = bytes_;
  ::malloc_trim(0);
}

std::string Strangers::json() const {
  std::size_t silent = 0;
  for (const auto& c : connections) silent += c->silent() ? 1 : 0;
  const Minute& minute = now_.decisions.empty() ? last_ : now_;
  std::string out = cat("{\"memory_bytes\":", bytes(), ",\"memory_bytes_max\":", bytes_most_,
                        ",\"silent\":", silent, ",\"known_devices\":", known.size(),
                        ",\"at_ms\":", now_.decisions.empty() ? last_.at_ms : hub_.clock.wall_ms(),
                        ",\"decisions\":{");
  bool first = true;
  for (const auto& [name, n] : minute.decisions) {
    out += std::exchange(first, false) ? "" : ",";
    append_json_string(out, name);
    out += cat(":", n);
  }
  const auto worst = minute.worst();
  out += "},\"address\":";
  append_json_string(out, worst.first);
  return out + cat(",\"of_address\":", worst.second, "}");
}

std::uint64_t origin_of(std::string_view address) {
  const std::string text(address.substr(0, address.find('%')));
  in6_addr six{};
  std::string bytes = text;
  if (::inet_pton(AF_INET6, text.c_str(), &six) == 1) {
    // ::ffff:1.2.3.4 is 1.2.3.4 on a socket for both.
    if (IN6_IS_ADDR_V4MAPPED(&six)) {
      bytes = text.substr(text.rfind(':') + 1);
    } else {
      bytes.assign(reinterpret_cast<const char*>(&six), 8);
    }
  }
  return std::hash<std::string>()(bytes) | 1;  // 0 is the gateway itself
}

std::size_t memory_limit_bytes() {
  const auto pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
  std::uint64_t limit = static_cast<std::uint64_t>(std::max(pages, 1L)) *
                        static_cast<std::uint64_t>(std::max(size, 1L));
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/system.slice/wayside.service", or of version 1 "4:memory:/…".
    const bool two = line.starts_with("0::/");
    const std::size_t one = line.find(":memory:/");
    if (!two && one == std::string::npos) continue;
    std::string path = two ? line.substr(3) : line.substr(one + 8);
    for (;; path.resize(path.rfind('/'))) {  // a limit of an outer one holds, too
      std::ifstream file(two ? cat("/sys/fs/cgroup", path, "/memory.max")
                             : cat("/sys/fs/cgroup/memory", path, "/memory.limit_in_bytes"));
      if (std::uint64_t n = 0; file >> n && n > 0) limit = std::min(limit, n);
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return static_cast<std::size_t>(std::min<std::uint64_t>(limit, SIZE_MAX));
}

}  // namespace wayside
