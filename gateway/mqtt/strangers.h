// Who stays when memory or places run short. There are no passwords, so whoever reaches the port is
// a stranger, and the rule is: never an honest newcomer and never a reading.
// - Memory: what all connections make the gateway hold (packets that are not complete, output that
//   is not read, wills, caches) has one budget, a quarter of it before CONNECT is accepted. Beyond
//   it that one goes which holds more than its share and has held most for longest.
// - Places before CONNECT: the oldest silent one gives way to the newcomer.
// - Places: a newcomer takes that of an unknown one which has sent nothing, or of one which has
//   sent no reading for long; an eighth is kept for devices that have stored one before.
// Every such decision is counted, and logged once a minute with the address that causes most.
// Thread: the I/O thread's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace wayside {

struct MqttHub;
class MqttConnection;

// Clients that have stored a reading, by a hash of their id.
class KnownDevices {
 public:
  [[nodiscard]] static std::uint64_t hash(std::string_view client_id);
  void load(std::vector<std::uint64_t> hashes);
  void add(std::string_view client_id);
  [[nodiscard]] bool contains(std::string_view client_id) const;
  [[nodiscard]] std::size_t size() const { return sorted_.size() + added_.size(); }

 private:
  std::vector<std::uint64_t> sorted_;  // small in memory
  std::unordered_set<std::uint64_t> added_;
};

class Strangers {
 public:
  // What one connection holds, as it was counted last.
  struct Held {
    std::size_t bytes = 0;
    bool before_connect = false;
  };
  enum class Entry { admitted, full, too_many_of_address };

  explicit Strangers(MqttHub& hub);

  // The connection holds so much now; if that is too much in all, somebody goes.
  void holds(Held& held, std::size_t bytes, bool before_connect);
  // Wills whose delay runs hold memory, too. False: there is no room for another of this size.
  [[nodiscard]] bool may_keep_will(std::size_t bytes) const;
  void wills_hold(std::size_t bytes) { will_bytes_ = bytes; }

  // A socket was accepted: makes a place for it among those that have not said CONNECT.
  void make_way(std::uint64_t origin);
  // Its CONNECT has come: whether it has a place, which somebody may have to give up.
  [[nodiscard]] Entry admit(const MqttConnection& newcomer, std::string_view client_id);
  // Whether a device that has never been here would get one.
  [[nodiscard]] bool has_place_for_newcomer() const;

  // Counted (under `name`) and told.
  void note(const std::string& name, const std::string& address);
  void tick(std::int64_t now_ms);
  [[nodiscard]] std::size_t bytes() const { return bytes_ + will_bytes_; }
  [[nodiscard]] std::size_t bytes_most() const { return bytes_most_; }
  [[nodiscard]] std::string json() const;

  std::vector<std::shared_ptr<MqttConnection>> connections;
  KnownDevices known;

 private:
  struct Place {
    bool is_there = false;
    MqttConnection* whose = nullptr;  // that must give it up; none: it is free
  };
  [[nodiscard]] Place place_for(const MqttConnection* newcomer, bool device) const;
  void make_room();
  [[nodiscard]] bool over(bool before_connect) const;
  [[nodiscard]] MqttConnection* largest(bool before_connect) const;
  void give_memory_back(std::int64_t now_ms);

  MqttHub& hub_;
  const std::size_t bytes_most_;
  std::size_t bytes_ = 0, before_connect_bytes_ = 0, will_bytes_ = 0;
  bool making_room_ = false;
  std::size_t peak_bytes_ = 0;  // since memory was last given back to the system
  std::int64_t given_back_ms_ = 0;

  // Of the minute that runs, and of the last one in which there were any.
  struct Minute {
    std::map<std::string, std::int64_t> decisions;
    std::unordered_map<std::string, std::int64_t> addresses;
    std::int64_t at_ms = 0;  // wall, when it ended
    [[nodiscard]] std::pair<std::string, std::int64_t> worst() const;
  };
  Minute now_, last_;
  std::int64_t told_ms_ = INT64_MIN / 2;  // steady
};

// A number for an address, as "1.2.3.4" or IPv6; of IPv6 for its /64 network.
[[nodiscard]] std::uint64_t origin_of(std::string_view address);
// What this process may use: the limit of its cgroup, or the machine's memory.
[[nodiscard]] std::size_t memory_limit_bytes();

}  // namespace wayside
