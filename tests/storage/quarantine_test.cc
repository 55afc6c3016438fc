// What is noted of a quarantined record comes back as it was, whatever headers its record had.
#include "storage/quarantine.h"

#include "tests/support.h"

namespace wayside::test {
namespace {

Record with(const QuarantineNote& note) {
  Record r;
  r.headers = encode_note(note);
  return r;
}

TEST(Quarantine, OfAReading) {
  QuarantineNote note;
  note.reason = "no_route", note.detail = "no [[route]] matches";
  note.mqtt_topic = "fleet/1", note.client_id = "truck";
  note.others = {{"mqtt.user.a", "1"}, {"mqtt.user.a", std::nullopt}};
  const QuarantineNote back = note_of(with(note));
  EXPECT_EQ(back.reason, "no_route");
  EXPECT_EQ(back.detail, note.detail);
  EXPECT_EQ(back.mqtt_topic, "fleet/1");
  EXPECT_EQ(back.client_id, "truck");
  EXPECT_EQ(back.others, note.others);
  EXPECT_TRUE(back.bridge.empty() && back.group.empty() && back.topic.empty());
  EXPECT_EQ(partition_of(Catalog(), back), std::nullopt);
}

TEST(Quarantine, OfARecordOfTheLog) {
  TempDir dir;
  ManualClock clock{kNow};
  Logger logger{LogLevel::error};
  EngineOptions options;
  options.path = dir / "wayside.db";
  auto engine = must(Engine::open(options, clock, logger));
  must(engine->ensure_topics(std::vector<TopicSpec>{{"a", 3, kForever, kUnbounded, {}},
                                                    {kQuarantineTopic, 1, kForever, kUnbounded,
                                                     {}}}));
  const Catalog& catalog = engine->catalog();
  StoredRecord r;
  r.tp = catalog.find("a")->partitions.at(2).tp;
  r.offset = Offset(41);
  r.record.key = "k", r.record.value = "v", r.record.attributes = kCbor | kRetained;
  QuarantineNote note;
  note.reason = kRefusedByProgram, note.group = "g";
  // A header of the record's own that is named like one of ours does not take its place.
  note.others = {{"offset", "7"}, {"reason", "mine"}};
  const Append made = set_aside(catalog, r, note);
  EXPECT_EQ(made.tp, catalog.find(kQuarantineTopic)->partitions.front().tp);
  EXPECT_EQ(made.record.key, r.record.key);
  EXPECT_EQ(made.record.attributes, kCbor);
  const QuarantineNote back = note_of(made.record);
  EXPECT_EQ(std::tuple(back.topic, back.partition, back.offset), std::tuple("a", 2, 41));
  EXPECT_EQ(back.reason, kRefusedByProgram);
  EXPECT_EQ(back.others, note.others);
  EXPECT_EQ(partition_of(catalog, back), r.tp);
  QuarantineNote gone = back;
  gone.partition = 3;
  EXPECT_EQ(partition_of(catalog, gone), std::nullopt);
}

TEST(Quarantine, TornHeadersSayNothing) {
  Record r;
  r.headers = "\xff\xff";
  EXPECT_EQ(note_of(r).reason, "");
}

}  // namespace
}  // namespace wayside::test
