// Reading and writing MQTT's data types (section 1.5). A Reader never reads past its bytes: the
// first read that would makes it bad, and every later one gives nothing. Thread: one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace wayside::mqtt {

class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool bad() const { return bad_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }

  std::uint8_t u8() { return need(1) ? bytes_[at_++] : std::uint8_t{0}; }
  std::uint16_t u16() {
    const unsigned high = u8();
    return static_cast<std::uint16_t>(high << 8 | u8());
  }
  std::uint32_t u32() {
    const std::uint32_t high = u16();
    return high << 16 | u16();
  }
  std::string_view bytes(std::size_t n) {
    if (!need(n)) return {};
    const auto* p = reinterpret_cast<const char*>(bytes_.data() + at_);
    at_ += n;
    return {p, n};
  }
  // Binary data and UTF-8 strings: a two-byte length and the bytes.
  std::string_view prefixed() { return bytes(u16()); }
  // Variable byte integer: one to four bytes (1.5.5).
  std::uint32_t variable() {
    std::uint32_t value = 0;
    for (unsigned shift = 0; shift < 28; shift += 7) {
      const std::uint8_t b = u8();
      value |= static_cast<std::uint32_t>(b & 0x7F) << shift;
      if ((b & 0x80) == 0) return value;
    }
    bad_ = true;
    return 0;
  }
  // The next n bytes as a Reader of their own.
  Reader sub(std::size_t n) {
    if (!need(n)) return Reader({});
    Reader inner(bytes_.subspan(at_, n));
    at_ += n;
    return inner;
  }

 private:
  bool need(std::size_t n) {
    if (bad_ || left() < n) bad_ = true;
    return !bad_;
  }
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
  bool bad_ = false;
};

inline void put_u8(std::string& out, unsigned v) {
  out.push_back(static_cast<char>(v));
}
inline void put_u16(std::string& out, unsigned v) {
  put_u8(out, v >> 8 & 0xFF);
  put_u8(out, v & 0xFF);
}
inline void put_u32(std::string& out, std::uint32_t v) {
  put_u16(out, v >> 16);
  put_u16(out, v & 0xFFFF);
}
inline void put_variable(std::string& out, std::size_t v) {
  do {
    put_u8(out, static_cast<unsigned>(v & 0x7F) | (v > 0x7F ? 0x80U : 0U));
    v >>= 7;
  } while (v > 0);
}
inline void put_prefixed(std::string& out, std::string_view s) {
  put_u16(out, static_cast<unsigned>(s.size()));
  out.append(s);
}

}  // namespace wayside::mqtt
