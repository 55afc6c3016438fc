// The golden files: logs as earlier versions of the file format wrote them. A new version of the
// format adds its migration, and a golden file of its own; these tests stay.
#include <filesystem>

#include "tests/support.h"

namespace wayside::test {
namespace {

class Golden : public testing::Test {
 protected:
  void SetUp() override {
    path = dir / "wayside.db";
    std::filesystem::copy_file(SOURCE_DIR "/tests/golden/v1.db", path);
  }
  TempDir dir;
  std::string path;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
};

TEST_F(Golden, VersionOneIsReadAsItWasWritten) {
  const auto raw = all_records(path, "raw");
  ASSERT_EQ(raw.size(), 152U);
  for (std::size_t i = 0; i < 150; ++i) {
    EXPECT_EQ(raw[i].record.value, "value " + std::to_string(i));
  }
  EXPECT_EQ(raw[150].record.value, std::string("\xFF\x00\x01", 3));
  EXPECT_NE(raw[150].record.attributes & kRetained, 0);
  EXPECT_EQ(raw[151].record.value, "two");
  const auto gps = all_records(path, "truck_gps");
  ASSERT_EQ(gps.size(), 1U);
  EXPECT_EQ(gps[0].record.key, "7");
  EXPECT_EQ(gps[0].record.timestamp_ms, 1'795'339'391'000);
  EXPECT_NE(gps[0].record.attributes & kDeviceTime, 0);
  const auto quarantine = all_records(path, "quarantine");
  ASSERT_EQ(quarantine.size(), 1U);
  EXPECT_EQ(must(decode_headers(quarantine[0].record.headers)).front().second, "not_json");
  for (const auto* records : {&raw, &gps, &quarantine}) {
    for (const StoredRecord& r : *records) {
      EXPECT_EQ(r.crc, record_crc(r.tp, r.offset, r.append_ms, r.record));
    }
  }
}

TEST_F(Golden, VersionOneIsOpenedMigratedAndGoesOn) {
  EngineOptions options;
  options.path = path;
  auto engine = must(Engine::open(options, clock, logger));
  EXPECT_EQ(engine->identity().epoch, 2);
  const TpId tp = engine->catalog().find("truck_gps")->partitions.at(0).tp;
  const std::int64_t next = engine->next_offset(tp).value;
  must(commit(*engine, {reading(tp, "k", R"({"speed":1})")}));
  EXPECT_EQ(engine->next_offset(tp).value, next + 1);
  // The QoS 2 identifier that waits for its PUBREL is still known.
  Batch batch = batch_of({OpenSession{"truck", false, 0xFFFFFFFF, {}, {}, {}}});
  must(commit(*engine, batch));
  const auto& session = std::get<OpenSession>(batch.ops.front());
  EXPECT_TRUE(session.present);
  EXPECT_EQ(session.qos2_ids, std::vector<std::uint16_t>{777});
  LogReader reader = must(LogReader::open(path));
  EXPECT_EQ(must(reader.number("PRAGMA user_version")), kSchemaVersion);
  EXPECT_EQ(must(reader.number("SELECT count(*) FROM raw")), 152);
}

}  // namespace
}  // namespace wayside::test
