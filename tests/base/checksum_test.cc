#include "base/checksum.h"

#include <gtest/gtest.h>

#include <string>

namespace wayside {
namespace {

TEST(Crc32c, VectorsOfRfc3720) {
  EXPECT_EQ(crc32c(0, std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(0, std::string(32, '\xFF')), 0x62A8AB43U);
  EXPECT_EQ(crc32c(0, "123456789"), 0xE3069283U);
}

TEST(Crc32c, InPiecesIsTheSame) {
  const std::string s = "the quick brown fox jumps over the lazy dog";
  for (std::size_t at = 0; at <= s.size(); ++at) {
    EXPECT_EQ(crc32c(crc32c(0, s.substr(0, at)), s.substr(at)), crc32c(0, s)) << at;
  }
}

// The vectors of Kafka's own UtilsTest.
TEST(Murmur2, IsKafkas) {
  const auto murmur = [](std::string_view s) {
    return static_cast<std::int32_t>(kafka_murmur2(s));
  };
  EXPECT_EQ(murmur("21"), -973932308);
  EXPECT_EQ(murmur("foobar"), -790332482);
  EXPECT_EQ(murmur("a-little-bit-long-string"), -985981536);
  EXPECT_EQ(murmur("a-little-bit-longer-string"), -1486304829);
  EXPECT_EQ(murmur("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8"), -58897971);
  EXPECT_EQ(murmur("abc"), 479470107);
}

TEST(Partitioner, NeverGivesANegativePartition) {
  for (int i = 0; i < 1000; ++i) {
    const auto p = kafka_partition(std::to_string(i), 7);
    EXPECT_GE(p, 0);
    EXPECT_LT(p, 7);
  }
}

}  // namespace
}  // namespace wayside
