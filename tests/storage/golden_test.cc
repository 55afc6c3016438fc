// The golden files: logs as earlier versions of the file format wrote them. A new version of the
// format adds its migration, and a golden file of its own; these tests stay.
#include <filesystem>

#include "tests/support.h"

namespace wayside::test {
namespace {

class Golden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path = dir / "wayside.db";
    std::filesystem::copy_file(std::string(SOURCE_DIR "/tests/golden/") + GetParam(), path);
  }
  TempDir dir;
  std::string path;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
};

TEST_P(Golden, IsReadAsItWasWritten) {
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

TEST_P(Golden, IsOpenedMigratedAndGoesOn) {
  EngineOptions options;
  options.path = path;
  auto engine = must(Engine::open(options, clock, logger));
  EXPECT_GE(engine->identity().epoch, 2);
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

// A card of an older gateway is looked at as it is; nothing of it is changed by looking.
TEST_P(Golden, IsSurveyedWithoutMigration) {
  LogReader reader = must(LogReader::open(path));
  const Catalog catalog = must(reader.catalog());
  for (const Topic& t : catalog.topics()) {
    for (const LogReader::Counted& c : must(reader.count_rows(t))) {
      EXPECT_EQ(c.rows, c.marks.log_end.value - c.marks.log_start.value) << t.name;
    }
  }
  EXPECT_EQ(must(reader.latest(*catalog.find("truck_gps"), INT64_MIN)).size(), 1U);
  std::size_t sources = 0;
  EXPECT_TRUE(reader.sources([&](const Source&) { ++sources; }));
  EXPECT_GT(sources, 0U);
  (void)must(reader.settled());
  (void)must(reader.deleted());
  (void)must(reader.positions(""));
}

INSTANTIATE_TEST_SUITE_P(EveryVersion, Golden, testing::Values("v1.db", "v2.db", "v3.db", "v4.db"));

using GoldenTwo = Golden;
TEST_P(GoldenTwo, HasWhatIsNewInIt) {
  LogReader reader = must(LogReader::open(path));
  const Catalog catalog = must(reader.catalog());
  EXPECT_EQ(must(reader.settled()), (std::map<std::int64_t, std::string>{{0, "dropped"}}));
  EXPECT_EQ(catalog.find("gone"), nullptr);
  EXPECT_EQ(must(reader.deleted()).live, 2);
  std::int64_t committed = 0;
  for (const GroupPosition& p : must(reader.positions("dash"))) committed += p.next.value;
  EXPECT_EQ(committed, 7);
  const auto cbor = all_records(path, "by_vin");
  ASSERT_EQ(cbor.size(), 1U);
  EXPECT_EQ(cbor[0].record.attributes & kCbor, kCbor);
  EXPECT_EQ(shown_value(cbor[0].record), R"({"k":"v"})");
}
INSTANTIATE_TEST_SUITE_P(VersionTwoOn, GoldenTwo, testing::Values("v2.db", "v3.db", "v4.db"));

}  // namespace
}  // namespace wayside::test
