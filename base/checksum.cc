#include "base/checksum.h"

#include <array>
#include <cstddef>

#include "base/check.h"

namespace wayside {
namespace {

// Slicing-by-8 tables for the reflected Castagnoli polynomial.
constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> t{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? c >> 1 ^ 0x82F63B78U : c >> 1;
    t[0][i] = c;
  }
  for (std::size_t n = 1; n < 8; ++n) {
    for (std::size_t i = 0; i < 256; ++i) t[n][i] = t[n - 1][i] >> 8 ^ t[0][t[n - 1][i] & 0xFF];
  }
  return t;
}();

std::uint32_t little_endian32(const unsigned char* p) {
  return std::uint32_t{p[0]} | std::uint32_t{p[1]} << 8 | std::uint32_t{p[2]} << 16 |
         std::uint32_t{p[3]} << 24;
}

}  // namespace

std::uint32_t crc32c(std::uint32_t crc, std::string_view bytes) {
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  std::size_t n = bytes.size();
  crc = ~crc;
  for (; n >= 8; n -= 8, p += 8) {
    const std::uint32_t a = crc ^ little_endian32(p);
    const std::uint32_t b = little_endian32(p + 4);
    crc = kTables[7][a & 0xFF] ^ kTables[6][a >> 8 & 0xFF] ^ kTables[5][a >> 16 & 0xFF] ^
          kTables[4][a >> 24] ^ kTables[3][b & 0xFF] ^ kTables[2][b >> 8 & 0xFF] ^
          kTables[1][b >> 16 & 0xFF] ^ kTables[0][b >> 24];
  }
  for (; n > 0; --n, ++p) crc = crc >> 8 ^ kTables[0][(crc ^ *p) & 0xFF];
  return ~crc;
}

std::uint32_t kafka_murmur2(std::string_view bytes) {
  constexpr std::uint32_t m = 0x5BD1E995U;
  constexpr int r = 24;
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  std::size_t n = bytes.size();
  std::uint32_t h = 0x9747B28CU ^ static_cast<std::uint32_t>(n);
  for (; n >= 4; n -= 4, p += 4) {
    std::uint32_t k = little_endian32(p);
    k *= m;
    k ^= k >> r;
    k *= m;
    h = h * m ^ k;
  }
  if (n >= 3) h ^= std::uint32_t{p[2]} << 16;
  if (n >= 2) h ^= std::uint32_t{p[1]} << 8;
  if (n >= 1) h = (h ^ p[0]) * m;
  h ^= h >> 13;
  h *= m;
  return h ^ h >> 15;
}

std::int32_t kafka_partition(std::string_view key, std::int32_t partitions) {
  WS_CHECK(partitions > 0);
  return static_cast<std::int32_t>(kafka_murmur2(key) & 0x7FFFFFFFU) % partitions;
}

}  // namespace wayside
