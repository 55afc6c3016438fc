// A program's acknowledgements in any order, and what may be committed of them: by hand, and at
// random beside a model that knows of each record what was said.
#include "gateway/cli/stream_window.h"

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <vector>

#include "tests/support.h"

namespace wayside::test {
namespace {

StoredRecord record(std::int64_t offset) {
  StoredRecord r;
  r.offset = Offset(offset);
  return r;
}

using Positions = std::map<std::int32_t, std::int64_t>;

TEST(StreamWindow, NothingIsCommittedBeforeWhatComesBeforeIt) {
  StreamWindow w;
  for (std::int64_t o = 5; o < 9; ++o) w.give(1, 0, record(o), 10);
  w.give(2, 1, record(0), 10);
  EXPECT_EQ(w.bytes(), 50U);
  EXPECT_TRUE(w.take_committable().empty());
  ASSERT_TRUE(w.fail(0, 6, "no good"));
  EXPECT_FALSE(w.take_refusal());  // 5 is before it
  ASSERT_TRUE(w.ack(0, 8));
  EXPECT_EQ(w.take_committable(), (Positions{{0, 6}}));
  const auto refusal = w.take_refusal();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->record.offset, Offset(6));
  EXPECT_EQ(refusal->reason, "no good");
  EXPECT_FALSE(w.take_refusal());
  EXPECT_EQ(w.take_committable(), (Positions{{0, 9}}));
  EXPECT_EQ(w.records(), 1U);
  ASSERT_TRUE(w.ack_batch(2));
  EXPECT_EQ(w.take_committable(), (Positions{{1, 1}}));
  EXPECT_EQ(w.bytes(), 0U);
  ASSERT_TRUE(w.ack(0, 7));  // said before: no error, and nothing happens
  EXPECT_FALSE(w.fail(0, 7, "late"));
  EXPECT_FALSE(w.ack(0, 9));  // was not given
  EXPECT_FALSE(w.ack(7, 0));
  EXPECT_FALSE(w.ack_batch(3));
  EXPECT_FALSE(w.ack_batch(0));
  EXPECT_TRUE(w.take_committable().empty());
}

TEST(StreamWindow, AnAcknowledgementFromBeforeARevocationCountsNothing) {
  StreamWindow w;
  w.give(1, 0, record(0), 1);
  w.clear();
  EXPECT_FALSE(w.ack(0, 0));
  w.give(2, 0, record(0), 1);
  ASSERT_TRUE(w.ack_batch(1));
  EXPECT_TRUE(w.take_committable().empty());
  EXPECT_EQ(w.records(), 1U);
}

TEST(StreamWindow, AtRandomBesideAModel) {
  std::mt19937 random(seed());
  const auto below = [&](std::uint32_t n) { return static_cast<std::int64_t>(random() % n); };
  struct Partition {
    std::vector<char> said;           // of each offset: 'a', 'f', or 0
    std::vector<std::int64_t> batch;  // in which it was given
    std::int64_t position = 0;
  };
  for (int round = 0; round < 500; ++round) {
    StreamWindow w;
    std::array<Partition, 3> model;
    std::int64_t last_batch = 0;
    for (int step = 0; step < 60; ++step) {
      const auto p = static_cast<std::int32_t>(below(3));
      Partition& m = model[static_cast<std::size_t>(p)];
      const std::int64_t o = below(12);
      const auto given = static_cast<std::int64_t>(m.said.size());
      switch (below(5)) {
        case 0: {
          w.give(++last_batch, p, record(given), 1);
          m.said.push_back(0);
          m.batch.push_back(last_batch);
          break;
        }
        case 1: {
          ASSERT_EQ(static_cast<bool>(w.ack(p, o)), o < given);
          if (o >= given) break;
          for (std::int64_t i = m.position; i <= o; ++i) {
            char& said = m.said[static_cast<std::size_t>(i)];
            if (said == 0) said = 'a';
          }
          break;
        }
        case 2: {
          ASSERT_EQ(static_cast<bool>(w.ack_batch(o)), o >= 1 && o <= last_batch);
          if (o > last_batch) break;
          for (Partition& each : model) {
            for (std::size_t i = 0; i < each.said.size(); ++i) {
              if (each.batch[i] <= o && each.said[i] == 0) each.said[i] = 'a';
            }
          }
          break;
        }
        case 3: {
          const bool open =
              o < given && o >= m.position && m.said[static_cast<std::size_t>(o)] != 'a';
          ASSERT_EQ(static_cast<bool>(w.fail(p, o, "x")), open);
          if (open) m.said[static_cast<std::size_t>(o)] = 'f';
          break;
        }
        default: {
          Positions expected;
          std::size_t left = 0;
          for (std::int32_t q = 0; q < 3; ++q) {
            Partition& each = model[static_cast<std::size_t>(q)];
            auto at = static_cast<std::size_t>(each.position);
            while (at < each.said.size() && each.said[at] == 'a') {
              expected[q] = each.position = static_cast<std::int64_t>(++at);
            }
            left += each.said.size() - at;
          }
          ASSERT_EQ(w.take_committable(), expected);
          ASSERT_EQ(w.records(), left);
          const auto refusal = w.take_refusal();
          const auto refused = std::find_if(model.begin(), model.end(), [](const Partition& each) {
            const auto at = static_cast<std::size_t>(each.position);
            return at < each.said.size() && each.said[at] == 'f';
          });
          ASSERT_EQ(refusal.has_value(), refused != model.end());
          if (refusal) {
            ASSERT_EQ(refusal->record.offset, Offset(refused->position));
            ++refused->position;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace wayside::test
