// CRC-32C (RFC 3720, B.4) and Kafka's murmur2. Both read bytes one by one or by memcpy: no
// unaligned loads. Thread: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace wayside {

// Extends `crc` (0 to start) over `bytes`.
[[nodiscard]] std::uint32_t crc32c(std::uint32_t crc, std::string_view bytes);

// The 32-bit murmur2 of Kafka's Java client (org.apache.kafka.common.utils.Utils.murmur2).
[[nodiscard]] std::uint32_t kafka_murmur2(std::string_view bytes);

// The partition Kafka's default partitioner gives a key, so that a key lands in the same
// partition here and upstream. REQUIRES: partitions > 0.
[[nodiscard]] std::int32_t kafka_partition(std::string_view key, std::int32_t partitions);

}  // namespace wayside
