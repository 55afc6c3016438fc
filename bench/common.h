// What the benches share: readings as a truck sends them, time, device bytes, memory.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/batch.h"

namespace wayside::bench {

using Steady = std::chrono::steady_clock;

inline double seconds_since(Steady::time_point t) {
  return std::chrono::duration<double>(Steady::now() - t).count();
}
inline double ms_since(Steady::time_point t) {
  return 1000 * seconds_since(t);
}

template <class T>
T must(Result<T> r) {
  if (!r) {
    std::fprintf(stderr, "%s\n", r.error().text().c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

// Bytes written to the device: field 7 of its statistics, in sectors of 512.
inline std::int64_t device_bytes(const std::string& device) {
  if (device.empty()) return 0;
  ::sync();
  std::ifstream in("/sys/class/block/" + device + "/stat");
  std::int64_t field = 0;
  for (int i = 0; i < 7; ++i) in >> field;
  return field * 512;
}

inline long rss_kib() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("VmRSS:")) return std::atol(line.c_str() + 6);
  }
  return 0;
}

inline double quantile(std::vector<double> v, double q) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v[static_cast<std::size_t>(q * static_cast<double>(v.size() - 1))];
}

// Made before the clock runs: printing numbers costs more than storing them.
class Readings {
 public:
  // About 118 bytes of JSON and a key of 10, as a truck sends them.
  explicit Readings(const std::vector<TpId>& tps) {
    for (int i = 0; i < 8192; ++i) {
      const auto truck = static_cast<unsigned>(random_() % 500);
      char key[16], value[160];
      std::snprintf(key, sizeof key, "truck_%04u", truck);
      std::snprintf(value, sizeof value,
                    "{\"ts\":%lld,\"lat\":%.6f,\"lon\":%.6f,\"speed\":%.1f,\"heading\":%u,"
                    "\"fuel\":%.1f,\"engine\":\"on\",\"driver\":\"d%03u\"}",
                    1795000000000LL + i, 49 + unit(), 11 + unit(), 90 * unit(), truck % 360,
                    100 * unit(), truck % 200);
      Append a;
      // A few topics have most of the traffic, as in the field.
      const double z = unit();
      a.tp = tps[static_cast<std::size_t>(z * z * static_cast<double>(tps.size()))];
      a.record.key = key;
      a.record.value = value;
      made_.push_back(std::move(a));
    }
  }
  const Append& next() { return made_[at_++ % made_.size()]; }

 private:
  double unit() { return static_cast<double>(random_()) / 4294967296.0; }
  std::mt19937 random_{42};
  std::vector<Append> made_;
  std::size_t at_ = 0;
};

}  // namespace wayside::bench
