#include "storage/coordinator.h"

#include <gtest/gtest.h>

namespace wayside {
namespace {

struct Coordinator : testing::Test {
  GroupCoordinator groups;
  bool join(MemberId id, const std::string& group = "g", const std::string& topic = "t") {
    return groups.join(group, topic, {id, "client", 0}).value();
  }
};

TEST_F(Coordinator, OneReadsTheOthersStandByInTheirOrder) {
  EXPECT_TRUE(join(1));
  EXPECT_FALSE(join(2));
  EXPECT_FALSE(join(3));
  EXPECT_TRUE(groups.is_active(1, "g", "t"));
  EXPECT_FALSE(groups.is_active(2, "g", "t"));
  EXPECT_EQ(groups.leave(2), std::nullopt) << "it was not active";
  EXPECT_EQ(groups.leave(1), 3U);
  EXPECT_TRUE(groups.is_active(3, "g", "t"));
  EXPECT_EQ(groups.memberships().front().generation, 2);
  EXPECT_EQ(groups.leave(3), std::nullopt);
  EXPECT_FALSE(groups.has_members("g"));
  EXPECT_TRUE(join(4));
}

TEST_F(Coordinator, GroupsAndTopicsAreApart) {
  EXPECT_TRUE(join(1, "g", "t"));
  EXPECT_TRUE(join(2, "g", "u"));
  EXPECT_TRUE(join(3, "h", "t"));
  EXPECT_FALSE(groups.is_active(1, "g", "u"));
  EXPECT_EQ(groups.memberships().size(), 3U);
}

TEST_F(Coordinator, AMemberIsInOneGroupAndNamesAreChecked) {
  EXPECT_TRUE(join(1));
  EXPECT_FALSE(groups.join("h", "t", {1, "", 0}));
  EXPECT_FALSE(groups.join("bridge.cloud", "t", {2, "", 0}));
  EXPECT_FALSE(groups.join("", "t", {2, "", 0}));
  EXPECT_FALSE(groups.join("a\nb", "t", {2, "", 0}));
  EXPECT_FALSE(groups.join(std::string(250, 'x'), "t", {2, "", 0}));
  EXPECT_EQ(groups.leave(99), std::nullopt);
}

}  // namespace
}  // namespace wayside
