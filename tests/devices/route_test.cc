#include "devices/route.h"

#include <gtest/gtest.h>

#include "devices/payload.h"

namespace wayside {
namespace {

TopicPattern pattern(std::string_view text) {
  return *TopicPattern::parse(text);
}

TEST(TopicPattern, CapturesOneLevelEach) {
  const auto m = pattern("fleet/{truck}/{what}").match("fleet/7/gps");
  ASSERT_TRUE(m);
  EXPECT_EQ((*m)[0], "7");
  EXPECT_EQ((*m)[1], "gps");
  EXPECT_FALSE(pattern("fleet/{truck}").match("fleet/7/gps"));
  EXPECT_FALSE(pattern("fleet/{truck}/gps").match("fleet/7"));
  EXPECT_TRUE(pattern("fleet/{truck}/gps").match("fleet//gps"));
}

TEST(TopicPattern, ALastHashTakesTheRestAndTheParent) {
  EXPECT_TRUE(pattern("a/#").match("a"));
  EXPECT_TRUE(pattern("a/#").match("a/b/c"));
  EXPECT_TRUE(pattern("#").match("x/y"));
  EXPECT_FALSE(pattern("#").match("$SYS/x"));
  EXPECT_FALSE(pattern("{a}/x").match("$SYS/x"));
}

TEST(TopicPattern, RefusesWhatCannotBe) {
  for (const char* bad : {"", "a/#/b", "a/+/b", "a/b{c}", "{a}/{a}", "{}/x", "a/{b c}"}) {
    EXPECT_FALSE(TopicPattern::parse(bad)) << bad;
  }
}

TEST(TopicPattern, OverlapMeansATopicThatBothTake) {
  const auto overlap = [](const char* a, const char* b) {
    EXPECT_EQ(pattern(a).overlaps(pattern(b)), pattern(b).overlaps(pattern(a)));
    return pattern(a).overlaps(pattern(b));
  };
  EXPECT_TRUE(overlap("fleet/{truck}/gps", "fleet/7/gps"));
  EXPECT_TRUE(overlap("fleet/#", "fleet/{truck}/gps"));
  EXPECT_TRUE(overlap("fleet/#", "fleet"));
  EXPECT_FALSE(overlap("fleet/{truck}/gps", "fleet/{truck}/temp"));
  EXPECT_FALSE(overlap("fleet/{truck}", "fleet/{truck}/gps"));
  EXPECT_FALSE(overlap("a/#", "b/#"));
}

TEST(KeyRule, RendersCapturesOrPointsIntoThePayload) {
  const TopicPattern p = pattern("fleet/{truck}/{unit}");
  EXPECT_EQ(KeyRule::parse("{unit}-{truck}", p)->render({"7", "x"}), "x-7");
  EXPECT_TRUE(KeyRule::parse("", p)->none());
  EXPECT_EQ(KeyRule::parse("/a~1b/c", p)->pointer()->front(), "a/b");
  EXPECT_FALSE(KeyRule::parse("{nothing}", p));
  EXPECT_FALSE(KeyRule::parse("{truck", p));
}

JsonScalar key_of(std::string_view json, std::string_view pointer) {
  const JsonPointer at = *parse_json_pointer(pointer);
  return inspect_json(json, &at, nullptr)->key.value_or(JsonScalar{});
}

TEST(Payload, FindsWhatIsBelowAPointer) {
  EXPECT_EQ(key_of(R"({"a":{"b":[1,{"c":"x"}]},"c":"no"})", "/a/b/1/c").text, "x");
  EXPECT_EQ(key_of(R"({"x":{"vin":"inner"},"vin":"outer"})", "/vin").text, "outer");
  EXPECT_EQ(key_of(R"({"vin":"outer","x":{"vin":"inner"}})", "/vin").text, "outer");
  EXPECT_EQ(key_of(R"({"a":[[1,2],[3,4]]})", "/a/1/0").text, "3");
  EXPECT_EQ(key_of(R"({"n":18446744073709551615})", "/n").text, "18446744073709551615");
  EXPECT_EQ(key_of(R"({"n":1.50})", "/n").text, "1.50");
  EXPECT_EQ(key_of(R"({"a":null})", "/a").kind, JsonScalar::Kind::null);
  EXPECT_EQ(key_of(R"({"a":{}})", "/a").kind, JsonScalar::Kind::structure);
  EXPECT_EQ(key_of(R"({"a":1,"a":2})", "/a").text, "2");
}

TEST(Payload, RefusesWhatIsNotJsonAndSaysWhere) {
  for (const char* bad :
       {"", "hi", "{\"a\":1", "{\"a\":1}x", "{'a':1}", "{\"a\":NaN}", "[1,]", "{\"a\":\"\xFF\"}"}) {
    EXPECT_FALSE(inspect_json(bad, nullptr, nullptr)) << bad;
  }
  EXPECT_EQ(inspect_json("[1,x]", nullptr, nullptr).error().what, "not JSON at byte 4");
  // Deep nesting is data, not a reason to fall over.
  EXPECT_TRUE(
      inspect_json(std::string(100'000, '[') + std::string(100'000, ']'), nullptr, nullptr));
}

}  // namespace
}  // namespace wayside
