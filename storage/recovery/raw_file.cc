#include "storage/recovery/raw_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kWalHeader = 32, kFrameHeader = 24;
constexpr std::uint32_t kWalMagic = 0x377f0682;  // the last bit: checksums are big-endian
using PageBytes = std::array<unsigned char, kPage>;

std::uint32_t big_endian(const unsigned char* p) {
  return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
}

struct Checksum {
  std::uint32_t s1 = 0, s2 = 0;
  void add(const unsigned char* p, std::size_t n, bool big) {
    for (std::size_t i = 0; i < n; i += 8) {
      const auto word = [&](const unsigned char* w) {
        return big ? big_endian(w)
                   : std::uint32_t{w[3]} << 24 | std::uint32_t{w[2]} << 16 |
                         std::uint32_t{w[1]} << 8 | w[0];
      };
      s1 += word(p + i) + s2;
      s2 += word(p + i + 4) + s1;
    }
  }
  [[nodiscard]] bool is(const unsigned char* p) const {
    return s1 == big_endian(p) && s2 == big_endian(p + 4);
  }
};

bool read_at(int fd, void* to, std::size_t n, std::int64_t at) {
  return ::pread(fd, to, n, static_cast<off_t>(at)) == static_cast<ssize_t>(n);
}

// A cell's bytes, read field by field; what does not fit ends it.
class Cursor {
 public:
  Cursor(const unsigned char* p, std::size_t n) : p_(p), end_(p + n) {}
  bool varint(std::uint64_t& out) {
    out = 0;
    for (int i = 0; i < 9; ++i) {
      if (p_ == end_) return false;
      const unsigned char b = *p_++;
      if (i == 8) {
        out = out << 8 | b;
        return true;
      }
      out = out << 7 | (b & 0x7FU);
      if ((b & 0x80U) == 0) return true;
    }
    return false;
  }
  const unsigned char* take(std::size_t n) {
    if (static_cast<std::size_t>(end_ - p_) < n) return nullptr;
    const unsigned char* at = p_;
    p_ += n;
    return at;
  }
  [[nodiscard]] std::size_t left() const { return static_cast<std::size_t>(end_ - p_); }

 private:
  const unsigned char* p_;
  const unsigned char* end_;
};

// A value of the record format; false: it is not of the kind that is wanted.
struct Value {
  std::uint64_t type = 0;
  const unsigned char* bytes = nullptr;
  std::size_t size = 0;
  [[nodiscard]] bool integer(std::int64_t& out) const {
    if (type == 8 || type == 9) return out = type == 9 ? 1 : 0, true;
    if (type < 1 || type > 6) return false;
    std::uint64_t v = (bytes[0] & 0x80U) != 0 ? ~std::uint64_t{0} : 0;
    for (std::size_t i = 0; i < size; ++i) v = v << 8 | bytes[i];
    out = static_cast<std::int64_t>(v);
    return true;
  }
  [[nodiscard]] bool text_or_blob(std::optional<std::string>& out) const {
    if (type == 0) return out.reset(), true;
    if (type < 12) return false;
    out = std::string(reinterpret_cast<const char*>(bytes), size);
    return true;
  }
};

std::size_t size_of_type(std::uint64_t type) {
  constexpr std::array<std::size_t, 12> kSizes = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0};
  if (type < kSizes.size()) return kSizes[static_cast<std::size_t>(type)];
  return static_cast<std::size_t>(std::min<std::uint64_t>((type - 12) / 2, SIZE_MAX));
}

// seq, tp, offset, ts, append_ms, key, value, headers, attrs, src, crc: seq is the rowid.
bool record_of_payload(std::int64_t seq, const std::string& payload, StoredRecord& r) {
  Cursor all(reinterpret_cast<const unsigned char*>(payload.data()), payload.size());
  std::uint64_t header_bytes = 0;
  const std::size_t before = all.left();
  if (!all.varint(header_bytes) || header_bytes > payload.size()) return false;
  const std::size_t used = before - all.left();
  if (header_bytes < used) return false;
  const unsigned char* types = all.take(static_cast<std::size_t>(header_bytes) - used);
  if (types == nullptr) return false;
  Cursor header(types, static_cast<std::size_t>(header_bytes) - used);
  std::array<Value, 11> v;
  for (Value& one : v) {
    if (!header.varint(one.type) || one.type == 10 || one.type == 11) return false;
    one.size = size_of_type(one.type);
    one.bytes = all.take(one.size);
    if (one.bytes == nullptr) return false;
  }
  if (header.left() != 0 || v[0].type != 0) return false;
  std::int64_t tp = 0, offset = 0, attributes = 0, crc = 0;
  std::optional<std::string> headers;
  if (!v[1].integer(tp) || !v[2].integer(offset) || !v[3].integer(r.record.timestamp_ms) ||
      !v[4].integer(r.append_ms) || !v[5].text_or_blob(r.record.key) ||
      !v[6].text_or_blob(r.record.value) || !v[7].text_or_blob(headers) ||
      !v[8].integer(attributes) || !v[10].integer(crc)) {
    return false;
  }
  r.source = 0;
  if (v[9].type != 0 && !v[9].integer(r.source)) return false;
  if (tp < 1 || tp > INT32_MAX || offset < 0 || seq < 0 || attributes < 0 || attributes > 0xFFFF) {
    return false;
  }
  r.seq = Seq(seq);
  r.tp = TpId(static_cast<std::int32_t>(tp));
  r.offset = Offset(offset);
  r.record.headers = headers.value_or("");
  r.record.attributes = static_cast<std::int32_t>(attributes);
  r.crc = static_cast<std::uint32_t>(crc);
  return crc >= 0 && crc <= UINT32_MAX &&
         record_crc(r.tp, r.offset, r.append_ms, r.record) == r.crc;
}

class Scanner {
 public:
  Scanner(const std::string& path, const std::function<Status(StoredRecord&&)>& each)
      : path_(path),
        each_(each),
        db_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)),
        wal_(::open((path + "-wal").c_str(), O_RDONLY | O_CLOEXEC)),
        db_bytes_(file_size(path)),
        wal_bytes_(wal_.valid() ? file_size(path + "-wal") : 0) {}

  Result<ScanResult> run(const std::function<Status(std::int64_t)>& progress) {
    if (!db_.valid()) return fail(ErrorCode::io, "the damaged file cannot be opened");
    index_wal();
    PageBytes page;
    // What SQLite itself would see comes first: frames behind it may be of transactions that
    // failed.
    const std::int64_t seen = look_at_wal(path_ + "-wal").frames;
    WS_TRY(look_at_frames(0, seen));
    const std::int64_t pages = (db_bytes_ + static_cast<std::int64_t>(kPage) - 1) / 4096;
    for (std::int64_t n = 1; n <= pages; ++n) {
      ++result_.pages;
      if (read_db(n, page)) {
        WS_TRY(look_at(page, n == 1 ? 100 : 0));
      } else {
        ++result_.unreadable_pages;
      }
      if (progress && n % 256 == 0) WS_TRY(progress(n * 4096));
    }
    WS_TRY(look_at_frames(seen, frames()));
    return result_;
  }

  Status run_wal(std::int64_t frames) {
    index_wal();
    return look_at_frames(0, frames);
  }

 private:
  Status look_at_frames(std::int64_t from, std::int64_t to) {
    PageBytes page;
    for (std::int64_t f = from; f < to; ++f) {
      ++result_.pages;
      if (read_frame(f, page)) {
        WS_TRY(look_at(page, 0));
      } else {
        ++result_.unreadable_pages;
      }
    }
    return {};
  }
  [[nodiscard]] std::int64_t frames() const {
    const auto frame = static_cast<std::int64_t>(kFrameHeader + kPage);
    return std::max<std::int64_t>(0, (wal_bytes_ - static_cast<std::int64_t>(kWalHeader)) / frame);
  }
  [[nodiscard]] static std::int64_t frame_at(std::int64_t frame) {
    return static_cast<std::int64_t>(kWalHeader) +
           frame * static_cast<std::int64_t>(kFrameHeader + kPage);
  }
  bool read_frame(std::int64_t frame, PageBytes& page) {
    return read_at(wal_.get(), page.data(), kPage, frame_at(frame) + kFrameHeader);
  }
  // A page that the disk gives in part: what it gives.
  bool read_db(std::int64_t number, PageBytes& page) {
    const std::int64_t at = (number - 1) * 4096;
    if (read_at(db_.get(), page.data(), kPage, at)) return true;
    page.fill(0);
    bool any = false;
    for (std::size_t i = 0; i < kPage; i += 512) {
      any = read_at(db_.get(), page.data() + i, 512, at + static_cast<std::int64_t>(i)) || any;
    }
    return any;
  }
  // The newest frame of each page, for overflow pages that only the WAL has.
  void index_wal() {
    std::array<unsigned char, kFrameHeader> header;
    std::array<unsigned char, 8> salts{};
    const bool known = read_at(wal_.get(), salts.data(), salts.size(), 16);
    for (std::int64_t f = 0; f < frames(); ++f) {
      if (!read_at(wal_.get(), header.data(), header.size(), frame_at(f))) continue;
      // Those of an earlier round through the file only where there is no other.
      if (!known || std::memcmp(header.data() + 8, salts.data(), 8) == 0 ||
          !newest_frame_.contains(big_endian(header.data()))) {
        newest_frame_[big_endian(header.data())] = f;
      }
    }
  }

  // A leaf of a table (type 13): its cells.
  Status look_at(const PageBytes& page, std::size_t from) {
    if (page[from] != 13) return {};
    const std::size_t cells = std::size_t{page[from + 3]} << 8 | page[from + 4];
    for (std::size_t i = 0; i < cells && from + 10 + 2 * i <= kPage; ++i) {
      const std::size_t p = from + 8 + 2 * i;
      const std::size_t at = std::size_t{page[p]} << 8 | page[p + 1];
      if (at < from + 8 || at >= kPage) continue;
      Cursor cell(page.data() + at, kPage - at);
      std::uint64_t bytes = 0, rowid = 0;
      if (!cell.varint(bytes) || !cell.varint(rowid) || bytes < 12 || bytes > kPayloadMost) {
        continue;
      }
      StoredRecord r;
      for (const bool from_wal : {true, false}) {
        if (!payload_of(cell, static_cast<std::size_t>(bytes), from_wal)) continue;
        if (!record_of_payload(static_cast<std::int64_t>(rowid), payload_, r)) continue;
        ++result_.records;
        WS_TRY(each_(std::move(r)));
        break;
      }
    }
    return {};
  }

  // Section 1.6: what does not fit into the leaf goes on in a list of overflow pages.
  bool payload_of(Cursor cell, std::size_t bytes, bool from_wal) {
    constexpr std::size_t kMost = kPage - 35, kLeast = (kPage - 12) * 32 / 255 - 23;
    std::size_t local = bytes;
    if (bytes > kMost) {
      local = kLeast + (bytes - kLeast) % (kPage - 4);
      if (local > kMost) local = kLeast;
    }
    const unsigned char* p = cell.take(local);
    if (p == nullptr) return false;
    payload_.assign(reinterpret_cast<const char*>(p), local);
    if (local == bytes) return from_wal;  // both ways are the same: once is enough
    const unsigned char* link = cell.take(4);
    if (link == nullptr) return false;
    std::uint32_t next = big_endian(link);
    PageBytes page;
    while (payload_.size() < bytes) {
      const auto frame = newest_frame_.find(next);
      const bool in_wal = from_wal && frame != newest_frame_.end();
      if (next == 0 || !(in_wal ? read_frame(frame->second, page) : read_db(next, page))) {
        return false;
      }
      const std::size_t n = std::min(bytes - payload_.size(), kPage - 4);
      payload_.append(reinterpret_cast<const char*>(page.data()) + 4, n);
      next = big_endian(page.data());
    }
    return true;
  }

  static constexpr std::uint64_t kPayloadMost = 64 << 20;
  const std::string path_;
  const std::function<Status(StoredRecord&&)>& each_;
  UniqueFd db_, wal_;
  std::int64_t db_bytes_, wal_bytes_;
  std::unordered_map<std::uint32_t, std::int64_t> newest_frame_;
  std::string payload_;
  ScanResult result_;
};

}  // namespace

std::int64_t wal_salt(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return fd.valid() ? wal_salt(fd.get()) : -1;
}

std::int64_t wal_salt(int fd) {
  std::array<unsigned char, kWalHeader> header;
  if (!read_at(fd, header.data(), header.size(), 0)) return -1;
  return (big_endian(header.data()) & ~1U) == kWalMagic ? big_endian(header.data() + 16) : -1;
}

WalLook look_at_wal(const std::string& path, const std::function<void()>& progress) {
  WalLook look;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  look.exists = fd.valid();
  if (!look.exists) return look;
  look.bytes = file_size(path);
  std::array<unsigned char, kWalHeader> header;
  if (!read_at(fd.get(), header.data(), header.size(), 0)) return look;
  // A header that is gone does not say which order its checksums have: this machine's.
  const bool known = (big_endian(header.data()) & ~1U) == kWalMagic;
  const bool big = known ? (header[3] & 1U) != 0 : std::endian::native == std::endian::big;
  Checksum sum;
  sum.add(header.data(), 24, big);
  look.header_valid = (big_endian(header.data()) & ~1U) == kWalMagic &&
                      big_endian(header.data() + 8) == kPage && sum.is(header.data() + 24);
  look.salt = big_endian(header.data() + 16);
  // Frame by frame: whether its checksum goes on from the one before, as it is written there.
  bool whole = look.header_valid;  // from the first frame on
  std::int64_t commits_in_a_row = 0, frames = 0;
  std::uint32_t salt = big_endian(header.data() + 16) ^ big_endian(header.data() + 20);
  std::vector<unsigned char> frame(kFrameHeader + kPage), before;
  for (auto at = static_cast<std::int64_t>(kWalHeader);
       read_at(fd.get(), frame.data(), frame.size(), at);
       at += static_cast<std::int64_t>(frame.size())) {
    if (++frames % 1024 == 0 && progress) progress();
    const bool commits = big_endian(frame.data() + 4) != 0;
    if (!before.empty()) {
      sum = {big_endian(before.data() + 16), big_endian(before.data() + 20)};
    }
    sum.add(frame.data(), 8, big);
    sum.add(frame.data() + kFrameHeader, kPage, big);
    // Frames of another salt are of an earlier round through the file, long in the database.
    const auto salt_of = [](const unsigned char* p) { return big_endian(p) ^ big_endian(p + 4); };
    if (!look.header_valid && frames == 1) salt = salt_of(frame.data() + 8);
    const bool goes_on = salt_of(frame.data() + 8) == salt && sum.is(frame.data() + 16);
    // The last frame of a transaction may be there several times, to fill a sector.
    const bool again =
        frame.size() == before.size() && std::memcmp(frame.data(), before.data(), 8) == 0 &&
        std::memcmp(frame.data() + kFrameHeader, before.data() + kFrameHeader, kPage) == 0;
    before = frame;
    if (!goes_on) whole = false, commits_in_a_row = 0;
    if (!commits) continue;
    if (whole) {
      look.frames = frames;
      look.commits += again ? 0 : 1;
    } else if (!again) {
      look.commits_behind = std::max(look.commits_behind, ++commits_in_a_row);
    }
  }
  return look;
}

Result<ScanResult> scan_records(const std::string& path,
                                const std::function<Status(StoredRecord&&)>& each,
                                const std::function<Status(std::int64_t)>& progress) {
  return Scanner(path, each).run(progress);
}

Status scan_wal_records(const std::string& path, std::int64_t frames,
                        const std::function<Status(StoredRecord&&)>& each) {
  return Scanner(path, each).run_wal(frames);
}

}  // namespace wayside
