#include "devices/fleet.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numbers>

namespace wayside {
namespace {

constexpr double kKmPerDegree = 111.32;
constexpr double kDepotLat = 49.45, kDepotLon = 11.08;  // Nuremberg, where motorways cross

}  // namespace

Fleet::Fleet(int trucks, std::uint32_t seed) : random_(seed) {
  for (int i = 0; i < trucks; ++i) {
    trucks_.push_back({kDepotLat + uniform(-0.6, 0.6), kDepotLon + uniform(-0.9, 0.9),
                       uniform(0, 360), uniform(40, 80), uniform(30, 100)});
  }
}

// mt19937 gives the same numbers everywhere; the library's distributions do not.
double Fleet::uniform(double least, double most) {
  return least + (most - least) * (static_cast<double>(random_()) / 4294967296.0);
}

std::string Fleet::name(std::size_t truck) const {
  std::array<char, 32> buffer;
  std::snprintf(buffer.data(), buffer.size(), "truck-%03zu", truck + 1);
  return buffer.data();
}

std::string Fleet::drive(std::size_t truck, double seconds, std::int64_t ts_ms) {
  Truck& t = trucks_[truck];
  t.heading_deg = std::fmod(t.heading_deg + uniform(-6, 6) + 360, 360);
  t.speed_kmh = std::clamp(t.speed_kmh + uniform(-4, 4), 0.0, 90.0);
  const double km = t.speed_kmh * seconds / 3600;
  const double angle = t.heading_deg * std::numbers::pi / 180;
  t.lat += km * std::cos(angle) / kKmPerDegree;
  t.lon += km * std::sin(angle) / (kKmPerDegree * std::cos(t.lat * std::numbers::pi / 180));
  t.fuel_percent = std::max(5.0, t.fuel_percent - km * 0.03);
  std::array<char, 192> buffer;
  std::snprintf(buffer.data(), buffer.size(),
                R"({"ts":%lld,"lat":%.6f,"lon":%.6f,"speed":%.1f,"heading":%.0f,"fuel":%.1f})",
                static_cast<long long>(ts_ms), t.lat, t.lon, t.speed_kmh, t.heading_deg,
                t.fuel_percent);
  return buffer.data();
}

}  // namespace wayside
