// A damaged database, a WAL that is gone, torn or another's, a copy that was put back: the log
// opens, takes readings, offsets never go back, and what can be read comes back.
#include <algorithm>

#include "storage/recovery/raw_file.h"
#include "storage/recovery/rescue.h"
#include "tests/storage/recovery_fixture.h"

namespace wayside::test {
namespace {

TEST_F(RecoveryTest, AKillLosesNothingAndSkipsNothing) {
  auto engine = open();
  append(*engine, 500);
  kill(std::move(engine));
  EXPECT_EQ(examine(), 0);
  LogReader reader = must(LogReader::open(options.path));
  EXPECT_TRUE(must(reader.missing()).empty());
}

TEST_F(RecoveryTest, TheFirstPageZeroed) {
  auto engine = open();
  append(*engine, 1500);
  engine.reset();
  overwrite(options.path, 0, 4096, '\0');
  go_on();
  EXPECT_EQ(examine(), 0);
}

TEST_F(RecoveryTest, AllOfItZeroed) {
  auto engine = open();
  append(*engine, 800);
  engine.reset();
  overwrite(options.path, 0, static_cast<std::int64_t>(fs::file_size(options.path)), '\0');
  go_on();
  EXPECT_EQ(examine(), 800);
}

TEST_F(RecoveryTest, TheDatabaseIsGone) {
  auto engine = open();
  append(*engine, 300);
  kill(std::move(engine));
  fs::remove(options.path);
  go_on();
  examine();
}

TEST_F(RecoveryTest, NothingOfTheSidecarAndAHeadOfGarbage) {
  auto engine = open();
  append(*engine, 1500);
  engine.reset();
  fs::remove(sidecar_path(options.path));
  overwrite(options.path, 0, 16, 'x');
  // Not even the names of the topics are known: they are made anew, beyond all offsets.
  std::int64_t last = 0;
  for (const auto& [at, value] : acked) last = std::max(last, at.second.value);
  engine = open();
  for (const Topic& t : engine->catalog().topics()) {
    for (const Partition& p : t.partitions) {
      EXPECT_GT(engine->next_offset(p.tp).value, last);
      EXPECT_GT(p.tp.value, 5);
    }
  }
  acked.clear();
  append(*engine, 30);
  engine.reset();
  EXPECT_EQ(examine(), 0);
}

TEST_F(RecoveryTest, APageAnywhereZeroedOrOverwritten) {
  const std::uint32_t s = seed();
  Random random(s);
  std::int64_t lost = 0, set_aside = 0;
  for (int i = 0; i < 25; ++i) {
    for (const auto& e : fs::directory_iterator(dir.path())) fs::remove(e.path());
    acked.clear();
    auto engine = open();
    append(*engine, 900);
    engine.reset();
    const auto pages = static_cast<std::uint32_t>(fs::file_size(options.path) / 4096);
    const std::int64_t at = static_cast<std::int64_t>(random() % pages) * 4096;
    const bool half = random() % 2 == 0;
    overwrite(options.path, at + (half ? 2048 : 0), half ? 2048 : 4096,
              random() % 2 == 0 ? '\0' : '\xA5');
    // An old segment's page is met by whoever reads it; then the log is opened anew.
    auto log = Log::open(options, {}, topics(), clock, logger);
    ASSERT_TRUE(log) << log.error().text() << " SEED=" << s << " round " << i;
    // The table of damaged files may be what is damaged: then that is met by the salvager.
    const auto files = must(LogReader::open(options.path)).damaged();
    bool damaged = files && !files->empty();
    log->reset();
    if (!damaged) {
      LogReader reader = must(LogReader::open(options.path));
      const auto sound =
          reader.number("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check<>'ok'");
      if (!sound || *sound > 0) options.damage = "found by a reader", damaged = true;
    }
    set_aside += damaged ? 1 : 0;
    if (damaged) {
      lost += (go_on(), options.damage.clear(), examine());
    }
  }
  std::cout << set_aside << " of 25 set aside, " << lost << " records lost of 22500" << std::endl;
  EXPECT_GT(set_aside, 10);
  EXPECT_LT(lost, 25 * 60);  // a page holds less
}

TEST_F(RecoveryTest, TheWalIsGone) {
  auto engine = open();
  append(*engine, 100);
  kill(std::move(engine));
  fs::remove(options.path + "-wal");
  go_on();
  EXPECT_LE(examine(), 100);
}

TEST_F(RecoveryTest, TheWalIsAnothers) {
  std::string foreign;
  {
    auto other = open();
    append(*other, 100);
    foreign = must(read_file(options.path + "-wal"));
    other.reset();
    for (const auto& e : fs::directory_iterator(dir.path())) fs::remove(e.path());
    acked.clear();
  }
  auto engine = open();
  append(*engine, 400);
  engine.reset();
  engine = open();
  append(*engine, 40);
  kill(std::move(engine));
  std::ofstream(options.path + "-wal", std::ios::binary | std::ios::trunc) << foreign;
  go_on();
  EXPECT_LE(examine(), 40);
}

TEST_F(RecoveryTest, AFrameInTheMiddleOfTheWalIsOverwritten) {
  auto engine = open();
  append(*engine, 200);
  kill(std::move(engine));
  overwrite(options.path + "-wal", 32 + 10 * (24 + 4096) + 500, 512, '\0');
  go_on();
  EXPECT_LE(examine(), 20);
}

TEST_F(RecoveryTest, TheWalsHeaderIsZeroed) {
  auto engine = open();
  append(*engine, 200);
  kill(std::move(engine));
  overwrite(options.path + "-wal", 0, 32, '\0');
  go_on();
  EXPECT_LE(examine(), 0);
}

TEST_F(RecoveryTest, AnOlderCopyIsPutBack) {
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  fs::copy(options.path, dir / "backup");
  engine = open();
  append(*engine, 300);
  engine.reset();
  fs::rename(dir / "backup", options.path);
  go_on();
  EXPECT_EQ(examine(), 300);
}

TEST_F(RecoveryTest, GroupsSessionsAndTheBridgesPositionComeAlong) {
  auto engine = open();
  append(*engine, 300);
  const TpId tp = engine->catalog().find("a")->partitions[0].tp;
  must(commit(*engine, {CommitOffset{"g", tp, Offset(17), ""},
                        CommitOffset{"bridge.x", tp, Offset(5), ""}}));
  Batch batch = batch_of({OpenSession{"truck", false, 0xFFFFFFFF, {}, {}, {}}});
  must(commit(*engine, batch));
  must(commit(*engine, {AddQos2Id{std::get<OpenSession>(batch.ops[0]).session_id, 7}}));
  engine.reset();
  options.damage = "for this test";
  engine = open();
  options.damage.clear();
  LogReader reader = must(LogReader::open(options.path));
  const auto g = must(reader.positions("g"));
  ASSERT_EQ(g.size(), 1U);
  EXPECT_EQ(g[0].next, Offset(17));
  EXPECT_EQ(must(reader.positions("bridge.x")).at(0).next, Offset(5));
  Batch again = batch_of({OpenSession{"truck", false, 0xFFFFFFFF, {}, {}, {}}});
  must(commit(*engine, again));
  EXPECT_EQ(std::get<OpenSession>(again.ops[0]).qos2_ids, std::vector<std::uint16_t>{7});
}

TEST_F(RecoveryTest, DamagedAgainBeforeTheFirstFileIsSalvaged) {
  auto engine = open();
  append(*engine, 700);
  engine.reset();
  overwrite(options.path, 0, 4096, '\0');
  go_on();
  overwrite(options.path, 0, 4096, '\0');
  go_on();
  EXPECT_EQ(examine(), 0);
  EXPECT_EQ(must(must(LogReader::open(options.path)).damaged()).size(), 2U);
}

TEST_F(RecoveryTest, ADamagedFileThatSomebodyDeletedHoldsNobodyUp) {
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  overwrite(options.path, 0, 4096, '\0');
  go_on();
  fs::remove(options.path + ".damaged-1");
  EXPECT_EQ(examine(), 300);
  LogReader reader = must(LogReader::open(options.path));
  EXPECT_FALSE(must(reader.is_salvaging(std::vector<TpId>{TpId(1)})));
}

TEST_F(RecoveryTest, AStrangersSidecarIsNotBelieved) {
  std::string stranger;
  {
    auto other = open();
    stranger = must(read_file(sidecar_path(options.path)));
    other.reset();
    for (const auto& e : fs::directory_iterator(dir.path())) fs::remove(e.path());
  }
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  std::ofstream(sidecar_path(options.path), std::ios::trunc) << stranger;
  options.damage = "for this test";
  engine = open();
  options.damage.clear();
  engine.reset();
  go_on();
  EXPECT_EQ(examine(), 0);
}

TEST_F(RecoveryTest, AStartThatFailsLeavesTheSidecarAsItWas) {
  auto engine = open();
  append(*engine, 300);
  engine.reset();
  const std::string before = must(read_file(sidecar_path(options.path)));
  {
    // The topics cannot be read; what a start makes of that is not written down.
    Database db = must(Database::open(options.path, OpenMode::read_write_create));
    must(db.exec("DELETE FROM _ws_topics"));
  }
  auto log = Log::open(options, {}, topics(), clock, logger);
  ASSERT_TRUE(log);
  log->reset();
  EXPECT_NE(must(read_file(sidecar_path(options.path))), before);
  EXPECT_EQ(must(read_sidecar(options.path)).topics.size(), 2U);
  EXPECT_EQ(examine(), 0);
}

TEST_F(RecoveryTest, ASidecarThatIsTornIsNotBelieved) {
  auto engine = open();
  append(*engine, 100);
  engine.reset();
  const std::string path = sidecar_path(options.path);
  overwrite(path, 40, 4, 'z');
  EXPECT_TRUE(read_sidecar(options.path)) << "the other slot";
  overwrite(path, file_size(path) / 2 + 40, 4, 'z');
  const auto read = read_sidecar(options.path);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::corrupt);
  go_on();
  EXPECT_EQ(examine(), 0);
}

}  // namespace
}  // namespace wayside::test
