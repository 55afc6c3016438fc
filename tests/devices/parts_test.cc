// Payloads taken apart: conditions, and parts that are cut out of JSON byte for byte.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/text.h"
#include "devices/payload.h"
#include "tests/support.h"

namespace wayside {
namespace {

bool holds(const char* condition, const char* json) {
  return Condition::parse(condition).value().holds(Json::parse(json).value());
}

TEST(Condition, ComparesWhatCanBeCompared) {
  EXPECT_TRUE(holds("/a", R"({"a":0})"));
  EXPECT_FALSE(holds("/a", R"({"a":null})"));
  EXPECT_FALSE(holds("/a", "{}"));
  EXPECT_TRUE(holds(R"(/a/b == "x y")", R"({"a":{"b":"x y"}})"));
  EXPECT_TRUE(holds("/a==1.0", R"({"a==1.0":1})")) << "without spaces it is all a pointer";
  EXPECT_TRUE(holds("/a == 1", R"({"a":1.0})"));
  EXPECT_TRUE(holds("/a > -2.5", R"({"a":-2})"));
  EXPECT_TRUE(holds("/a <= 18446744073709551615", R"({"a":18446744073709551615})"));
  EXPECT_FALSE(holds("/a > 1", R"({"a":"2"})"));
  EXPECT_TRUE(holds("/a != 1", R"({"a":"2"})"));
  EXPECT_TRUE(holds("/a != 1", "{}"));
  EXPECT_TRUE(holds("/a >= \"b\"", R"({"a":"c"})"));
  EXPECT_TRUE(holds("/a == true", R"({"a":true})"));
  EXPECT_TRUE(holds("/a == null", R"({"a":null})"));
  EXPECT_TRUE(holds("/0 == 1", "[1]"));
}

TEST(Condition, WrongOnesAreRefused) {
  for (const char* bad :
       {"", "a == 1", "/a = 1", "/a == x", "/a == [1]", "/a ==", "/a ~ 1", " /a"}) {
    EXPECT_FALSE(Condition::parse(bad)) << bad;
  }
}

TEST(Parts, AByteOrderMarkIsNoPartOfThem) {
  const std::string text = "\xEF\xBB\xBF[{\"a\":1},[2, 3]]";
  Route route;
  route.split.emplace();
  const auto parts = take_apart(Json::parse(text).value(), text, route).value();
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].value, "{\"a\":1}");
  EXPECT_EQ(parts[1].value, "[2, 3]");
  Route other;
  other.value.emplace(JsonPointer{"1", "0"});
  EXPECT_EQ(take_apart(Json::parse(text).value(), text, other).value().at(0).value, "2");
}

// Random JSON, written with odd spaces and escapes.
class Writer {
 public:
  explicit Writer(std::uint32_t seed) : random_(seed) {}
  std::string value(int depth) {
    switch (random_() % (depth > 3 ? 5 : 7)) {
      case 0:
        return pick({"0", "-1.50", "1e3", "12345678901234567890", "0.1E-2"});
      case 1:
        return pick({"true", "false", "null"});
      case 2:
      case 3:
      case 4:
        return string();
      case 5: {
        std::string out = "[" + space();
        for (std::uint32_t n = random_() % 4; n > 0; --n) {
          out += value(depth + 1) + space() + (n > 1 ? "," + space() : "");
        }
        return out + "]";
      }
      default: {
        std::string out = "{" + space();
        for (std::uint32_t n = random_() % 4; n > 0; --n) {
          out += string() + space() + ":" + space() + value(depth + 1) + space() +
                 (n > 1 ? "," + space() : "");
        }
        return out + "}";
      }
    }
  }

 private:
  std::string pick(std::vector<std::string> from) { return from[random_() % from.size()]; }
  std::string space() { return pick({"", "", " ", "\n\t ", "\r"}); }
  std::string string() {
    return pick({R"("a")", R"("b")", R"("]")", R"("}{")", R"("\"")", R"("\\")", R"("a\u0062")",
                 "\"\xC3\xA9\"", R"("")", R"("1")", R"("\ud83d\ude00")"});
  }
  test::Random random_;
};

// Every place below this one, as a pointer from the root.
void pointers(const Json& tree, JsonPointer at, std::vector<JsonPointer>& out) {
  out.push_back(at);
  if (const auto* array = std::get_if<Json::Array>(&tree.value)) {
    for (std::size_t i = 0; i < array->size(); ++i) {
      at.push_back(cat(i));
      pointers((*array)[i], at, out);
      at.pop_back();
    }
  }
  if (const auto* object = std::get_if<Json::Object>(&tree.value)) {
    for (const auto& [name, child] : *object) {
      at.push_back(name);
      pointers(child, at, out);
      at.pop_back();
    }
  }
}

TEST(Parts, WhatIsCutOutMeansWhatTheTreeSays) {
  // As many random trees as it takes for so many cuts below a root: a fixed number of trees has
  // now and then fewer. A writer of mere scalars comes to the last round, and is found out.
  constexpr std::size_t kCuts = 5000;
  constexpr std::size_t kSplits = 1000;
  Writer writer(test::seed());
  std::size_t cuts = 0;
  std::size_t splits = 0;
  for (int round = 0; round < 1'000'000 && (cuts < kCuts || splits < kSplits); ++round) {
    const std::string text = writer.value(0);
    const Json tree = Json::parse(text).value();
    std::vector<JsonPointer> all;
    pointers(tree, {}, all);
    for (const JsonPointer& at : all) {
      const Json* here = tree.at(at);
      if (here == nullptr) continue;  // shadowed by a later member of the same name
      Route route;
      route.value.emplace(at);
      const auto parts = take_apart(tree, text, route).value();
      ASSERT_EQ(parts.size(), 1U);
      ASSERT_EQ(Json::parse(parts[0].value).value().dump(), here->dump()) << text;
      ASSERT_NE(text.find(parts[0].value), std::string::npos);
      if (!at.empty()) ++cuts;
      const auto* array = std::get_if<Json::Array>(&here->value);
      if (array == nullptr || array->empty()) continue;
      route.value.reset();
      route.split.emplace(at);
      const auto elements = take_apart(tree, text, route).value();
      ASSERT_EQ(elements.size(), array->size());
      for (std::size_t i = 0; i < elements.size(); ++i) {
        ASSERT_EQ(Json::parse(elements[i].value).value().dump(), (*array)[i].dump()) << text;
      }
      ++splits;
    }
  }
  EXPECT_GE(cuts, kCuts);
  EXPECT_GE(splits, kSplits);
}

}  // namespace
}  // namespace wayside
