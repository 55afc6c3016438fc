// Faults while records are being salvaged: a full disk or a failing write in the middle of a slice,
// a kill between the steps. Nothing that had come back is lost by it.
#include "tests/crash/fault_vfs.h"
#include "tests/storage/recovery_fixture.h"

namespace wayside::test {
namespace {

class SalvageFault : public RecoveryTest {
 protected:
  void damage(int records) {
    auto engine = open();
    append(*engine, records);
    engine.reset();
    overwrite(options.path, 0, 4096, '\0');
  }
};

TEST_F(SalvageFault, AWriteThatFailsInASlice) {
  const std::uint32_t s = seed();
  Random random(s);
  std::int64_t hit = 0;
  for (std::uint32_t i = 0; i < rounds(8); ++i) {
    for (const auto& e : fs::directory_iterator(dir.path())) fs::remove_all(e.path());
    acked.clear();
    damage(700);
    const bool full = random() % 2 == 0;
    {
      FaultVfs vfs(random());
      options.vfs = vfs.name();
      auto log = Log::open(options, {}, topics(), clock, logger);
      ASSERT_TRUE(log) << log.error().text();
      vfs.fail_calls(random() % 4 == 0 ? FaultVfs::Call::sync : FaultVfs::Call::write,
                     1 + random() % 60, 1 + random() % 3, full ? SQLITE_FULL : SQLITE_IOERR_WRITE);
      {
        Salvager salvager(**log, logger);
        // Sometimes it is stopped in the middle.
        if (random() % 3 != 0) (void)salvager.wait();
      }
      log->reset();
      hit += vfs.failed_calls() > 0 ? 1 : 0;
      options.vfs.clear();
    }
    go_on();
    // For want of room the oldest may have been dropped, and counted.
    ASSERT_EQ(examine(full), 0) << "round " << i << " of SEED=" << s;
  }
  EXPECT_GT(hit, 0) << "SEED=" << s;
}

TEST_F(SalvageFault, AKillBetweenTheOpeningAndGoingBeyond) {
  const std::uint32_t s = seed();
  Random random(s);
  for (std::uint32_t i = 0; i < rounds(10); ++i) {
    for (const auto& e : fs::directory_iterator(dir.path())) fs::remove_all(e.path());
    acked.clear();
    auto engine = open();
    append(*engine, 200);
    engine.reset();
    fs::copy(options.path, dir / "backup");
    engine = open();
    append(*engine, 200);
    engine.reset();
    fs::rename(dir / "backup", options.path);  // offsets must go beyond; the start is cut off
    TempDir after;
    {
      FaultVfs vfs(random());
      options.vfs = vfs.name();
      vfs.cut_after(1 + random() % 30);
      engine = Engine::open(options, clock, logger).value_or(nullptr);
      if (!vfs.is_off()) vfs.cut_now();
      if (engine) engine->recovery().end_sidecar();
      engine.reset();
      options.vfs.clear();
      vfs.write_after_cut(after.path());
    }
    for (const auto& e : fs::directory_iterator(after.path())) {
      fs::copy(e.path(), dir / e.path().filename().string(), fs::copy_options::overwrite_existing);
    }
    fs::remove(options.path + "-shm");
    go_on();
    ASSERT_EQ(examine(), 200) << "round " << i << " of SEED=" << s;
  }
}

TEST_F(SalvageFault, PartitionsThatCannotBeReadAtAStop) {
  // The table of partitions becomes unreadable while the log is open: the last sidecar stands, and
  // says more than what a stop could write.
  auto engine = open();
  append(*engine, 600);
  const std::int64_t root = [&] {
    Database db = must(Database::open(options.path, OpenMode::read_only));
    return must(db.number("SELECT rootpage FROM sqlite_schema WHERE name='_ws_partitions'"));
  }();
  {
    Database db = must(Database::open(options.path, OpenMode::read_write_create));
    (void)must(db.number("PRAGMA wal_checkpoint(TRUNCATE)"));
  }
  overwrite(options.path, (root - 1) * 4096, 4096, '\xA5');
  engine.reset();
  go_on();
  EXPECT_EQ(examine(), 0);
}

}  // namespace
}  // namespace wayside::test
