// A fleet of simulated trucks on plausible tracks: the same seed gives the same readings.
// Thread: one owner.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace wayside {

class Fleet {
 public:
  Fleet(int trucks, std::uint32_t seed);
  [[nodiscard]] std::size_t size() const { return trucks_.size(); }
  [[nodiscard]] std::string name(std::size_t truck) const;  // "truck-007"
  // Drives the truck on by `seconds` and gives its reading as JSON, with the time `ts_ms`.
  [[nodiscard]] std::string drive(std::size_t truck, double seconds, std::int64_t ts_ms);

 private:
  struct Truck {
    double lat, lon, heading_deg, speed_kmh, fuel_percent;
  };
  double uniform(double least, double most);
  std::mt19937 random_;
  std::vector<Truck> trucks_;
};

}  // namespace wayside
