// The sidecar: two slots in turn, the bound on how far it may be behind, what it knows; and what
// stands in the way of a start.
#include "tests/storage/recovery_fixture.h"

namespace wayside::test {
namespace {

class SidecarTest : public RecoveryTest {
 protected:
  // Many records at once, of which nothing is remembered.
  Status append_many(Engine& engine, int n) {
    const TpId tp = engine.catalog().find("a")->partitions[0].tp;
    Batch batch;
    for (int i = 0; i < n; ++i) batch.ops.emplace_back(reading(tp, "k", "v"));
    WS_TRY(commit(engine, batch));
    return engine.roll_full_segments();
  }
};

TEST_F(SidecarTest, IsWrittenInPlaceAndInTurn) {
  Sidecar s;
  s.identity = {"g", "u", 1};
  std::uint64_t inode = 0;
  for (s.serial = 1; s.serial < 6; ++s.serial) {
    s.next_seq = 100 * s.serial;
    const std::string before = s.serial > 1 ? must(read_file(sidecar_path(options.path))) : "";
    must(write_sidecar(options.path, s));
    EXPECT_EQ(must(read_sidecar(options.path)).next_seq, s.next_seq);
    if (s.serial == 1) {
      inode = file_inode(sidecar_path(options.path));
      continue;
    }
    // One half is what it was, and alone says what was said before.
    const std::string after = must(read_file(sidecar_path(options.path)));
    ASSERT_EQ(after.size(), before.size());
    const std::size_t half = after.size() / 2, kept = s.serial % 2 == 0 ? half : 0;
    EXPECT_EQ(after.substr(kept, half), before.substr(kept, half));
    EXPECT_EQ(must(parse_sidecar(after.substr(kept, half))).next_seq, s.next_seq - 100);
    EXPECT_EQ(file_inode(sidecar_path(options.path)), inode);
  }
  s.facts.emplace_back("bridge.x", std::string(50'000, 'x'));  // does not fit any more
  must(write_sidecar(options.path, s));
  EXPECT_EQ(must(read_sidecar(options.path)).facts.size(), 1U);
}

TEST_F(SidecarTest, ATornSlotLeavesTheOther) {
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  const std::string path = sidecar_path(options.path);
  const std::int64_t half = file_size(path) / 2, serial = must(read_sidecar(options.path)).serial;
  overwrite(path, half * (serial % 2) + 100, 200, '\0');
  EXPECT_EQ(must(read_sidecar(options.path)).serial, serial - 1);
  go_on();
  EXPECT_EQ(examine(), 0);
}

TEST_F(SidecarTest, NoReadingIsTakenWhenItIsTooFarBehind) {
  options.segment_rows = 1'000'000;
  auto engine = open();
  const std::string path = sidecar_path(options.path);
  fs::remove(path);
  fs::create_directories(path + "/in the way");
  Status status;
  int taken = 0;
  for (; status && taken < 300'000; taken += status ? 10'000 : 0) {
    clock.advance(2000);
    status = append_many(*engine, 10'000);
  }
  ASSERT_FALSE(status);
  EXPECT_EQ(taken, limits::kResumeGap / 2) << "so one more commit, however large, has a place";
  EXPECT_NE(status.error().what.find("sidecar"), std::string::npos) << status.error().text();
  fs::remove_all(path);
  clock.advance(2000);
  must(append_many(*engine, 10'000));
  EXPECT_GE(must(read_sidecar(options.path)).next_seq, taken);
}

TEST_F(SidecarTest, KnowsWhatWasSkippedAndLearnt) {
  auto engine = open();
  const TpId tp = engine->catalog().find("b")->partitions[0].tp;
  Batch batch;
  for (int i = 0; i < 10; ++i) batch.ops.emplace_back(reading(tp, "k", "{\"speed\":1}"));
  must(commit(*engine, batch));
  clock.advance(2000);
  while (must(engine->maintain())) {
  }
  ASSERT_EQ(engine->catalog().find("b")->learnt_columns, std::vector<std::string>{"speed"});
  append(*engine, 100);
  engine.reset();
  fs::remove(options.path);  // all offsets go on, beyond a gap
  fs::remove(options.path + "-wal");
  go_on();
  const auto skipped = [&] {
    LogReader reader = must(LogReader::open(options.path));
    return must(
        reader.number("SELECT sum(to_offset-from_offset) FROM _ws_lost WHERE"
                      " kind='skipped'"));
  };
  const std::int64_t once = skipped();
  EXPECT_EQ(once, 5 * limits::kResumeGap);
  engine = open();  // writes the sidecar
  EXPECT_EQ(engine->catalog().find("b")->learnt_columns, std::vector<std::string>{"speed"});
  engine.reset();
  fs::remove(options.path);
  fs::remove(options.path + "-wal");
  go_on();
  EXPECT_EQ(skipped(), 2 * once) << "what was skipped before is not called lost";
}

TEST_F(SidecarTest, AVersionThatCannotBeIsDamageOneThatCanIsLeftAlone) {
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  const auto set_version = [&](int version) {
    Database db = must(Database::open(options.path, OpenMode::read_write_create));
    must(db.exec("PRAGMA user_version=" + std::to_string(version)));
  };
  set_version(kSchemaVersion + 1);
  const auto refused = Engine::open(options, clock, logger);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::too_new);
  set_version(0x2A002A);
  go_on();
  EXPECT_EQ(examine(), 0);
}

TEST_F(SidecarTest, WhatIsNoFileIsSetAside) {
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  for (const char* tail : {"-wal", "-shm", ".new", ".sidecar.new"}) {
    fs::create_directories(options.path + tail + "/in the way");
  }
  fs::remove(sidecar_path(options.path));
  fs::create_directory(sidecar_path(options.path));
  go_on();
  EXPECT_EQ(examine(), 0);
  EXPECT_TRUE(fs::is_directory(options.path + "-wal.odd-1"));
}

TEST_F(SidecarTest, AWalThatIsRemovedUnderTheLogLosesNothing) {
  auto engine = open();
  append(*engine, 100);
  LogReader reader = must(LogReader::open(options.path));
  EXPECT_FALSE(reader.is_replaced());
  fs::remove(options.path + "-wal");
  clock.advance(2000);
  EXPECT_FALSE(engine->maintain()) << "also when nothing comes";
  EXPECT_TRUE(engine->must_open_anew());
  EXPECT_TRUE(reader.is_replaced());
  EXPECT_FALSE(engine->begin());
  kill(std::move(engine));
  EXPECT_EQ(examine(), 0);
  EXPECT_TRUE(must(must(LogReader::open(options.path)).missing()).empty());
}

TEST_F(SidecarTest, ThereWasNoRoomAndThenThereIs) {
  large_bytes = 200'000;
  auto engine = open();
  append(*engine, 3000);
  engine.reset();
  overwrite(options.path, 0, 4096, '\0');
  options.budget_bytes = 1;  // means the least there is, 8 MiB; the file has 13
  const std::int64_t lost = examine();
  EXPECT_GT(lost, 0);
  options.budget_bytes = 0;
  EXPECT_EQ(examine(), 0) << "the next start looks again";
}

TEST_F(SidecarTest, WithNoRoomAtAllSalvageEndsAndNamesWhatIsMissing) {
  large_bytes = 200'000;
  auto engine = open();
  append(*engine, 3000);
  engine.reset();
  overwrite(options.path, 0, 4096, '\0');
  options.budget_bytes = 1;
  engine = open();
  append(*engine, 1900);  // most of the room
  engine.reset();
  const std::int64_t lost = examine(true);
  EXPECT_GT(lost, 500);
  const auto files = must(must(LogReader::open(options.path)).damaged());
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(files[0].state, "no room");
}

TEST_F(SidecarTest, DamagedAgainWhatTheSidecarDidNotKnowIsStillLookedFor) {
  auto engine = open();
  append(*engine, 600);  // the sidecar is from before them
  kill(std::move(engine));
  overwrite(options.path, 0, 4096, '\0');
  engine = open();
  append(*engine, 10);
  kill(std::move(engine));
  overwrite(options.path, 0, 4096, '\0');
  EXPECT_EQ(examine(), 0);
}

TEST_F(SidecarTest, ALogFromBeforeARenewalThatIsPutBackGoesOnBeyond) {
  auto engine = open();
  append(*engine, 200);
  engine.reset();
  fs::copy(options.path, dir / "backup");
  options.damage = "for this test";
  engine = open();
  options.damage.clear();
  append(*engine, 300);
  engine.reset();
  fs::rename(dir / "backup", options.path);
  go_on();
  EXPECT_LE(examine(), 300);
}

TEST_F(SidecarTest, WhatASalvagedSegmentLosesTheOlderFileStillHas) {
  auto engine = open();
  append(*engine, 900);
  engine.reset();
  overwrite(options.path, 0, 4096, '\0');
  go_on();
  EXPECT_EQ(examine(), 0);
  const std::int64_t root = [&] {
    Database db = must(Database::open(options.path, OpenMode::read_only));
    return must(
        db.number("SELECT rootpage FROM sqlite_schema WHERE name=(SELECT '_ws_seg_' ||"
                  " chain || '_' || segment FROM _ws_segments ORDER BY first_seq LIMIT 1)"));
  }();
  // The leaf that the inner page's first cell names; or there is but one.
  const auto begin = static_cast<std::size_t>(root - 1) * 4096;
  const std::string page = must(read_file(options.path)).substr(begin, 4096);
  const auto number = [&](std::size_t at, int bytes) {
    std::int64_t n = 0;
    for (int i = 0; i < bytes; ++i) n = n << 8 | static_cast<unsigned char>(page[at++]);
    return n;
  };
  const std::int64_t leaf =
      page[0] == 5 ? number(static_cast<std::size_t>(number(12, 2)), 4) : root;
  overwrite(options.path, (leaf - 1) * 4096, 4096, '\xA5');
  options.damage = "met by a reader";
  engine = open();
  engine.reset();
  options.damage.clear();
  EXPECT_EQ(examine(), 0);
}

TEST_F(SidecarTest, ATornDatabaseWhoseWalIsGoneIsLookedThrough) {
  auto engine = open();
  append(*engine, 900);
  engine.reset();
  engine = open();
  append(*engine, 20);
  kill(std::move(engine));
  fs::remove(options.path + "-wal");
  const std::int64_t root = [&] {
    Database db = must(Database::open(options.path, OpenMode::immutable));
    return must(
        db.number("SELECT rootpage FROM sqlite_schema WHERE name GLOB '_ws_seg_[0-9]*'"
                  " ORDER BY name LIMIT 1"));
  }();
  overwrite(options.path, (root - 1) * 4096, 4096, '\xA5');
  auto log = must(Log::open(options, {}, topics(), clock, logger));
  Salvager salvager(*log, logger);
  (void)salvager.wait();
  EXPECT_NE(log->damage(), "") << "so the gateway sets it aside";
}

}  // namespace
}  // namespace wayside::test
