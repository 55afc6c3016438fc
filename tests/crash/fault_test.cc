// Faults of the disk: calls that fail, once or for a while, short writes, a file system that
// becomes read-only; cuts during the recovery from earlier cuts; and positions that are not of the
// transaction, which the oracle must see.
#include "tests/crash/workload.h"

namespace wayside::test {
namespace {

using Call = FaultVfs::Call;

struct Kind {
  const char* name;
  Call call;
  int code;
};
constexpr Kind kKinds[] = {
    {"EIO at a write", Call::write, SQLITE_IOERR_WRITE},
    {"ENOSPC at a write", Call::write, SQLITE_FULL},
    {"a read-only remount", Call::write, SQLITE_READONLY},
    {"EIO at a sync", Call::sync, SQLITE_IOERR_FSYNC},
    {"EIO at a truncation", Call::truncate, SQLITE_IOERR_TRUNCATE},
    {"EIO at a read", Call::read, SQLITE_IOERR_READ},
    {"EMFILE at an open", Call::open, SQLITE_CANTOPEN},
};

class Faults : public testing::TestWithParam<Kind> {};

TEST_P(Faults, AtTheNthCallThenAKillThenACut) {
  const std::uint32_t s = seed();
  std::int64_t hit = 0, acknowledged = 0;
  for (std::uint32_t i = 0; i < rounds(25); ++i) {
    Random random(s + i);
    TempDir before, after;
    FaultVfs vfs(random());
    Acked acked;
    Workload workload(random(), acked);
    const std::uint32_t within = GetParam().call == Call::write  ? 1500
                                 : GetParam().call == Call::sync ? 250
                                 : GetParam().call == Call::read ? 400
                                                                 : 6;
    const std::int64_t count = random() % 3 == 0 ? 1 + random() % 200 : 1;
    vfs.fail_calls(GetParam().call, 1 + random() % within, count, GetParam().code);
    const std::string path = before / "wayside.db";
    for (int starts = 0; starts < 3 && !vfs.is_off(); ++starts) {
      auto left = static_cast<int>(20 + random() % 80);
      const bool killed = random() % 2 == 0;
      workload.run(path, vfs.name(), 100, [&] {
        if (--left != 0) return false;
        if (killed) vfs.kill();
        return true;
      });
      vfs.revive();
    }
    auto left = static_cast<int>(1 + random() % 60);
    workload.run(path, vfs.name(), 100, [&] {
      if (--left == 0) vfs.cut_now();
      return vfs.is_off();
    });
    if (!vfs.is_off()) vfs.cut_now();
    vfs.write_after_cut(after.path());
    // A read that fails sets the database aside; its records come back all the same.
    // For want of room the oldest are dropped, and counted.
    const bool drops = GetParam().code == SQLITE_FULL;
    ASSERT_EQ(examine(after.path(), acked, false, drops), "")
        << GetParam().name << ", round " << i << " of SEED=" << s;
    hit += vfs.failed_calls() > 0 ? 1 : 0;
    acknowledged += static_cast<std::int64_t>(acked.readings.size());
  }
  tell(GetParam().name, rounds(25), acknowledged);
  EXPECT_GE(hit, static_cast<std::int64_t>(rounds(25)) / 4);
}

INSTANTIATE_TEST_SUITE_P(EveryKind, Faults, testing::ValuesIn(kKinds),
                         [](const auto& one) { return "Kind" + std::to_string(one.index); });

// Each start after a cut is cut again, mostly while it recovers.
TEST(PowerCut, DuringTheRecoveryFromEarlierCuts) {
  const std::uint32_t s = seed();
  std::int64_t cuts = 0, acknowledged = 0;
  for (std::uint32_t i = 0; i < rounds(25); ++i) {
    Random random(s + i);
    std::vector<std::unique_ptr<TempDir>> disks;
    disks.push_back(std::make_unique<TempDir>());
    Acked acked;
    Workload workload(random(), acked);
    for (int n = 0; n < 8; ++n) {
      FaultVfs vfs(random());
      vfs.cut_after(1 + random() % (n % 2 == 0 ? 400 : 25));
      int left = 60;
      workload.run(*disks.back() / "wayside.db", vfs.name(), 100, [&] {
        if (--left == 0 && !vfs.is_off()) vfs.cut_now();
        return vfs.is_off();
      });
      if (!vfs.is_off()) vfs.cut_now();
      disks.push_back(std::make_unique<TempDir>());
      vfs.write_after_cut(disks.back()->path());
      ++cuts;
    }
    ASSERT_EQ(examine_honest(disks.back()->path(), acked), "") << "round " << i << " of SEED=" << s;
    acknowledged += static_cast<std::int64_t>(acked.readings.size());
  }
  tell("power cuts during recovery", cuts, acknowledged);
}

// synchronous below FULL: syncs of the WAL are left to the checkpoint.
TEST(TestOfTheTest, APowerCutFindsSyncsLeftToTheCheckpoint) {
  const std::uint32_t s = seed();
  int found = 0;
  for (std::uint32_t i = 0; i < 30; ++i) {
    Random random(s + i);
    TempDir before, after;
    FaultVfs vfs(random());
    vfs.ignore_wal_syncs();
    vfs.cut_after(200 + random() % 1500);
    Acked acked;
    Workload(random(), acked).run(before / "wayside.db", vfs.name(), 400, [&] {
      return vfs.is_off();
    });
    if (!vfs.is_off()) vfs.cut_now();
    vfs.write_after_cut(after.path());
    found += examine(after.path(), acked).empty() ? 0 : 1;
  }
  EXPECT_GE(found, 8);
}

// Offsets outside the transaction of what they speak of: a cut between the two is seen.
TEST(TestOfTheTest, APositionCommittedBeforeItsRecordsIsSeen) {
  TempDir dir;
  Acked acked;
  Workload(7, acked).run(dir / "wayside.db", "", 20);
  Database db = must(Database::open(dir / "wayside.db", OpenMode::read_write_create));
  // Beyond the gap, too, which the log leaves when its closed file was changed.
  must(db.exec("UPDATE _ws_consumer_offsets SET committed_offset = committed_offset + 1000000"));
  db = Database();
  EXPECT_EQ(examine(dir.path(), acked), "a position is ahead of the data");
}

}  // namespace
}  // namespace wayside::test
