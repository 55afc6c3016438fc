// A log whose database and WAL are damaged anywhere: every record of a page that was not touched is
// found, what is found has its right checksum, and the WAL's whole beginning is seen as whole.
#include "storage/recovery/raw_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "base/file.h"
#include "storage/engine/engine.h"
#include "tests/fuzz/fuzz.h"

using namespace wayside;
using fuzz::must;
using fuzz::require;

namespace {

constexpr std::size_t kPage = 4096, kWalHeader = 32, kFrame = 24 + kPage;
constexpr std::size_t kOnePage = 3000;  // a value that certainly lies in its leaf

using Found = std::set<std::pair<std::int32_t, std::int64_t>>;  // partition, offset

// Half of the records in the database, half in the WAL.
struct Base {
  fuzz::Directory directory;
  std::string path = directory / "wayside.db";
  std::string database, wal;

  Base() {
    ManualClock clock(1'795'000'000'000);
    Logger logger(LogLevel::error);
    EngineOptions options;
    options.path = path;
    options.segment_rows = 40;
    write(options, clock, logger);  // its end brings the WAL into the database
    const auto second = write(options, clock, logger);
    database = must(read_file(path), "the log can be read");
    wal = must(read_file(path + "-wal"), "its WAL can be read");
    require(wal.size() > 10 * kFrame, "the WAL has records");
  }

  static std::unique_ptr<Engine> write(const EngineOptions& options, ManualClock& clock,
                                       Logger& logger) {
    auto engine = must(Engine::open(options, clock, logger), "a log can be made");
    const TopicSpec spec{"a", 2, kForever, kUnbounded, {}};
    (void)must(engine->ensure_topics({&spec, 1}), "a topic can be made");
    for (int i = 0; i < 30;) {
      Batch batch;
      do {
        clock.advance(10);
        Append a;
        a.tp = engine->catalog().find("a")->partitions[static_cast<std::size_t>(i) % 2].tp;
        a.record.key = "key";
        a.record.value = std::string(i % 10 == 9 ? 9000U : 100U, static_cast<char>('a' + i % 26));
        batch.ops.emplace_back(std::move(a));
      } while (++i % 6 != 0);
      must(engine->begin(), "a commit begins");
      must(engine->commit({&batch, 1}), "records are committed");
      must(engine->roll_full_segments(), "a segment is rolled");
    }
    return engine;
  }
};

struct Image {
  std::string bytes;
  std::size_t header;          // of the file
  std::size_t block;           // a page, or a frame
  std::set<std::size_t> touched;  // blocks; the header of the file is none

  void put(std::size_t at, const std::string& with) {
    for (std::size_t i = 0; i < with.size() && at + i < bytes.size(); ++i) {
      bytes[at + i] = with[i];
      touch(at + i);
    }
  }
  void cut(std::size_t to) {
    for (std::size_t at = to; at < bytes.size(); ++at) touch(at);
    bytes.resize(to);
  }
  void touch(std::size_t at) {
    if (at >= header) touched.insert((at - header) / block);
  }
  // All that was touched is gone.
  [[nodiscard]] std::string without() const {
    std::string out = bytes;
    for (const std::size_t block_number : touched) {
      const std::size_t from = header + block_number * block;
      if (from >= out.size()) continue;
      const std::size_t n = std::min(block, out.size() - from);
      out.replace(from, n, n, '\0');
    }
    return out;
  }
};

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

Found scan(const std::string& path) {
  Found found;
  const auto result = scan_records(path, [&](StoredRecord&& r) -> Status {
    require(record_crc(r.tp, r.offset, r.append_ms, r.record) == r.crc, "a record is as it was");
    if (r.record.value && r.record.value->size() < kOnePage) {
      found.emplace(r.tp.value, r.offset.value);
    }
    return {};
  });
  require(result.has_value(), "a scan comes to its end");
  return found;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Base base;
  const std::string path = base.directory / "damaged.db";
  Image database{base.database, 0, kPage, {}}, wal{base.wal, kWalHeader, kFrame, {}};
  FuzzedDataProvider in(data, size);
  while (in.remaining_bytes() > 0) {
    Image& image = in.ConsumeBool() ? database : wal;
    const auto block = in.ConsumeIntegralInRange<std::size_t>(0, image.bytes.size() / image.block);
    const auto inside = in.ConsumeIntegralInRange<std::size_t>(0, image.block - 1);
    const std::size_t at = image.block * block + inside;
    if (in.ConsumeIntegral<std::uint8_t>() == 0) {
      image.cut(std::min(at, image.bytes.size()));
    } else {
      image.put(at, in.ConsumeRandomLengthString(16));
    }
  }
  write_file(path, database.bytes);
  write_file(path + "-wal", wal.bytes);
  const Found found = scan(path);
  const WalLook look = look_at_wal(path + "-wal");

  write_file(path, database.without());
  write_file(path + "-wal", wal.without());
  const Found least = scan(path);
  require(std::includes(found.begin(), found.end(), least.begin(), least.end()),
          "a record of a page that was not touched is found");

  if (wal.bytes.compare(0, kWalHeader, base.wal, 0, kWalHeader) == 0) {
    const std::size_t whole =
        wal.touched.empty() ? wal.bytes.size() / kFrame : *wal.touched.begin();
    write_file(path + "-wal", base.wal.substr(0, kWalHeader + whole * kFrame));
    const WalLook begins = look_at_wal(path + "-wal");
    require(look.header_valid && look.frames >= begins.frames && look.commits >= begins.commits,
            "the WAL's whole beginning is whole");
  }
  return 0;
}
