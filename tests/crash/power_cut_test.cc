// Simulated power cuts: whatever was acknowledged before the cut is in the log after it, every
// offset once, and the log starts. Each test prints its seed.
#include "tests/crash/workload.h"

namespace wayside::test {
namespace {

std::int64_t acknowledged = 0;  // by all cuts of the test that runs

std::string cut_once(
    std::uint32_t s, std::int64_t most_operations, bool in_checkpoint,
    const std::function<void(FaultVfs&)>& prepare = [](FaultVfs&) {}, bool drops = false) {
  Random random(s);
  TempDir before, after;
  FaultVfs vfs(random());
  prepare(vfs);
  vfs.cut_after(
      1 + static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(most_operations)),
      in_checkpoint);
  Acked acked;
  int left = 400;  // at the last, if not before; not after closing, which would save everything
  Workload(random(), acked).run(before / "wayside.db", vfs.name(), 1000, [&] {
    if (--left == 0 && !vfs.is_off()) vfs.cut_now();
    return vfs.is_off();
  });
  if (!vfs.is_off()) vfs.cut_now();
  vfs.write_after_cut(after.path());
  acknowledged += static_cast<std::int64_t>(acked.readings.size());
  return examine_honest(after.path(), acked, drops);
}

TEST(PowerCut, AnywhereLosesNothingAcknowledged) {
  acknowledged = 0;
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < rounds(60); ++i) {
    ASSERT_EQ(cut_once(s + i, 3000, false), "") << "cut " << i << " of SEED=" << s;
  }
  tell("power cuts anywhere", rounds(60), acknowledged);
}

TEST(PowerCut, InTheFirstMomentsLeavesALogThatStarts) {
  acknowledged = 0;
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < rounds(60); ++i) {
    ASSERT_EQ(cut_once(s + i, 60, false), "") << "cut " << i << " of SEED=" << s;
  }
  tell("power cuts in the first moments", rounds(60), acknowledged);
}

TEST(PowerCut, InMidCheckpointLosesNothingAcknowledged) {
  acknowledged = 0;
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < rounds(30); ++i) {
    ASSERT_EQ(cut_once(s + i, 1500, true), "") << "cut " << i << " of SEED=" << s;
  }
  tell("power cuts in a checkpoint", rounds(30), acknowledged);
}

TEST(PowerCut, AfterAFailedSyncAndAKillLosesNothingAcknowledged) {
  const std::uint32_t s = seed();
  int failed_syncs = 0;
  for (std::uint32_t i = 0; i < 60; ++i) {
    Random random(s + i);
    TempDir before, after;
    FaultVfs vfs(random());
    Acked acked;
    Workload workload(random(), acked);
    const std::string path = before / "wayside.db";
    vfs.fail_sync_after(2 + static_cast<std::int64_t>(random() % 60));
    // Killed soon after the failed sync, while its bytes can still be read.
    int left = static_cast<int>(random() % 3);
    ASSERT_TRUE(workload.run(path, vfs.name(), 200, [&] {
      if (vfs.sync_has_failed() && left-- == 0) vfs.kill();
      return vfs.sync_has_failed() && left < 0;
    }) || vfs.sync_has_failed());
    failed_syncs += vfs.sync_has_failed() ? 1 : 0;
    vfs.revive();
    // Appends go on behind whatever the WAL shows; then the power goes.
    // Before the log is closed: closing it would copy everything into the database.
    auto more = static_cast<int>(1 + random() % 20);
    workload.run(path, vfs.name(), 100, [&] {
      if (more-- == 0) vfs.cut_now();
      return vfs.is_off();
    });
    vfs.write_after_cut(after.path());
    ASSERT_EQ(examine_honest(after.path(), acked), "") << "cut " << i << " of SEED=" << s;
  }
  EXPECT_GT(failed_syncs, 30);
}

TEST(PowerCut, OfADiskThatIsFullLosesNothingAcknowledged) {
  const std::uint32_t s = seed();
  for (std::uint32_t i = 0; i < 20; ++i) {
    ASSERT_EQ(cut_once(
                  s + i, 4000, false,
                  [&](FaultVfs& vfs) { vfs.fill_after(200'000 + (s + i) % 3'000'000); }, true),
              "")
        << "cut " << i << " of SEED=" << s;
  }
}

// The test of the tests: a disk that ignores syncs (as synchronous=OFF would) must be found out.
TEST(TestOfTheTest, APowerCutFindsIgnoredSyncs) {
  const std::uint32_t s = seed();
  int found = 0;
  for (std::uint32_t i = 0; i < 40; ++i) {
    std::string verdict;
    try {
      verdict = cut_once(s + i, 3000, false, [](FaultVfs& vfs) { vfs.ignore_syncs(); });
    } catch (const std::exception& e) {
      verdict = e.what();
    }
    found += verdict.empty() ? 0 : 1;
  }
  // About every second cut finds something acknowledged gone; the others hit a moment without any.
  EXPECT_GE(found, 10);
}

}  // namespace
}  // namespace wayside::test
