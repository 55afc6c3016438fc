#include "storage/record.h"

#include <algorithm>
#include <array>

#include "base/checksum.h"
#include "base/json.h"
#include "base/text.h"

namespace wayside {
namespace {

void put_varint(std::string& out, std::int64_t value) {
  std::uint64_t z =
      static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63);
  for (; z >= 0x80; z >>= 7) out.push_back(static_cast<char>(z | 0x80));
  out.push_back(static_cast<char>(z));
}

class VarintReader {
 public:
  explicit VarintReader(std::string_view bytes) : bytes_(bytes) {}
  std::optional<std::int64_t> number() {
    std::uint64_t z = 0;
    for (unsigned shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto b = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      z |= std::uint64_t{b & 0x7FU} << shift;
      if ((b & 0x80) == 0)
        return static_cast<std::int64_t>(z >> 1) ^ -static_cast<std::int64_t>(z & 1);
    }
    return std::nullopt;
  }
  std::optional<std::string_view> take(std::int64_t n) {
    if (n < 0 || static_cast<std::uint64_t>(n) > bytes_.size()) return std::nullopt;
    const auto out = bytes_.substr(0, static_cast<std::size_t>(n));
    bytes_.remove_prefix(out.size());
    return out;
  }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

template <std::size_t N>
void put_little_endian(std::array<char, N>& out, std::size_t& at, std::uint64_t v, int bytes) {
  for (int i = 0; i < bytes; ++i) out[at++] = static_cast<char>(v >> (8 * i) & 0xFF);
}

}  // namespace

std::string encode_headers(const std::vector<Header>& headers) {
  if (headers.empty()) return {};
  std::string out;
  put_varint(out, static_cast<std::int64_t>(headers.size()));
  for (const auto& [key, value] : headers) {
    put_varint(out, static_cast<std::int64_t>(key.size()));
    out += key;
    put_varint(out, value ? static_cast<std::int64_t>(value->size()) : -1);
    if (value) out += *value;
  }
  return out;
}

Result<std::vector<Header>> decode_headers(std::string_view bytes) {
  std::vector<Header> out;
  if (bytes.empty()) return out;
  VarintReader r(bytes);
  const auto torn = [] { return fail(ErrorCode::corrupt, "a record's headers are torn"); };
  const auto count = r.number();
  if (!count || *count < 0) return torn();
  for (std::int64_t i = 0; i < *count; ++i) {
    const auto key_bytes = r.number();
    const auto key = key_bytes ? r.take(*key_bytes) : std::nullopt;
    const auto value_bytes = key ? r.number() : std::nullopt;
    if (!value_bytes) return torn();
    if (*value_bytes == -1) {
      out.emplace_back(*key, std::nullopt);
      continue;
    }
    const auto value = r.take(*value_bytes);
    if (!value) return torn();
    out.emplace_back(*key, std::string(*value));
  }
  if (!r.empty()) return torn();
  return out;
}

std::uint32_t record_crc(TpId tp, Offset offset, std::int64_t append_ms, const Record& record) {
  std::array<char, 48> fixed;
  std::size_t n = 0;
  const auto length = [](const std::optional<std::string>& s) {
    return s ? static_cast<std::uint64_t>(s->size()) : ~std::uint64_t{0};
  };
  put_little_endian(fixed, n, static_cast<std::uint64_t>(tp.value), 4);
  put_little_endian(fixed, n, static_cast<std::uint64_t>(offset.value), 8);
  put_little_endian(fixed, n, static_cast<std::uint64_t>(record.timestamp_ms), 8);
  put_little_endian(fixed, n, static_cast<std::uint64_t>(append_ms), 8);
  put_little_endian(fixed, n, static_cast<std::uint64_t>(record.attributes), 4);
  put_little_endian(fixed, n, length(record.key), 4);
  put_little_endian(fixed, n, length(record.value), 4);
  put_little_endian(fixed, n, record.headers.size(), 4);
  std::uint32_t crc = crc32c(0, {fixed.data(), n});
  if (record.key) crc = crc32c(crc, *record.key);
  if (record.value) crc = crc32c(crc, *record.value);
  return crc32c(crc, record.headers);
}

std::optional<std::string> shown_value(const Record& record) {
  if ((record.attributes & kCbor) == 0 || !record.value) return record.value;
  const auto tree = Json::parse_cbor(*record.value);
  return tree ? tree->dump() : record.value;
}

namespace {

void append_bytes_or_null(std::string& out, const std::optional<std::string>& s) {
  if (s) {
    append_json_bytes(out, *s);
  } else {
    out += "null";
  }
}

}  // namespace

std::string headers_json(std::string_view encoded) {
  std::string out = "{";
  if (auto headers = decode_headers(encoded)) {
    for (auto h = headers->begin(); h != headers->end(); ++h) {
      const auto same = [&](const Header& other) { return other.first == h->first; };
      if (std::any_of(headers->begin(), h, same)) continue;  // it stands with the first of them
      if (out.size() > 1) out.push_back(',');
      append_json_string(out, is_valid_utf8(h->first) ? h->first : base64(h->first));
      out.push_back(':');
      const bool repeats = std::any_of(h + 1, headers->end(), same);
      if (repeats) out.push_back('[');
      append_bytes_or_null(out, h->second);
      for (auto other = h + 1; repeats && other != headers->end(); ++other) {
        if (!same(*other)) continue;
        out.push_back(',');
        append_bytes_or_null(out, other->second);
      }
      if (repeats) out.push_back(']');
    }
  }
  return out + "}";
}

void append_record_json(std::string& out, std::string_view topic, std::int32_t partition,
                        Offset offset, const Record& record) {
  out += "{\"topic\":";
  append_json_string(out, topic);
  out += cat(",\"partition\":", partition, ",\"offset\":", offset.value,
             ",\"timestamp\":", record.timestamp_ms, ",\"key\":");
  append_bytes_or_null(out, record.key);
  out += ",\"value\":";
  append_bytes_or_null(out, shown_value(record));
  out += cat(",\"headers\":", record.headers.empty() ? "{}" : headers_json(record.headers), "}");
}

}  // namespace wayside
