#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/limits.h"

namespace wayside {
namespace {

std::string round_trip(std::string_view text) {
  const auto tree = Json::parse(text);
  return tree ? tree->dump() : tree.error().what;
}

TEST(Json, TextComesOutAsItMeans) {
  EXPECT_EQ(round_trip(R"( {"a" : [1, -2, 1.5, true, null, "x\n\u00e9"], "b":{}} )"),
            "{\"a\":[1,-2,1.5,true,null,\"x\\n\xC3\xA9\"],\"b\":{}}");
  EXPECT_EQ(round_trip("18446744073709551615"), "18446744073709551615");
  EXPECT_EQ(round_trip("{\"a\":1"), "not JSON at byte 7");
  EXPECT_FALSE(Json::parse(std::string_view("{}\0x", 4))) << "a U+0000 is not the end";
}

TEST(Json, NestingIsBounded) {
  const auto nested = [](std::size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_TRUE(Json::parse(nested(limits::kJsonDepthMax)));
  EXPECT_FALSE(Json::parse(nested(limits::kJsonDepthMax + 1)));
  EXPECT_FALSE(Json::parse_cbor(std::string(1'000'000, '\x81')));
}

TEST(Json, MembersAndPointers) {
  const Json tree = *Json::parse(R"({"a":[{"b":7}],"s":"x","n":1,"n":2,"t":true})");
  EXPECT_EQ(tree.number("n"), 2) << "the last of several";
  EXPECT_EQ(tree.text("s"), "x");
  EXPECT_EQ(tree.text("n", "other type"), "other type");
  EXPECT_TRUE(tree.flag("t"));
  EXPECT_EQ(tree.list("a").size(), 1U);
  EXPECT_TRUE(tree.list("s").empty());
  EXPECT_EQ(tree.at({"a", "0", "b"})->dump(), "7");
  EXPECT_EQ(tree.at({"a", "1"}), nullptr);
  EXPECT_EQ(tree.at({"a", "-1"}), nullptr);
  EXPECT_EQ(tree.at({"s", "x"}), nullptr);
  EXPECT_EQ(tree.at({}), &tree);
}

TEST(Json, CborOfTheSpecification) {
  // RFC 8949, appendix A.
  const auto text = [](std::string_view cbor) {
    const auto tree = Json::parse_cbor(cbor);
    return tree ? tree->dump() : tree.error().what;
  };
  using namespace std::string_literals;
  EXPECT_EQ(text("\x1b\xff\xff\xff\xff\xff\xff\xff\xff"s), "18446744073709551615");
  EXPECT_EQ(text("\x39\x03\xe7"s), "-1000");
  EXPECT_EQ(text("\xf9\x3c\x00"s), "1");
  EXPECT_EQ(text("\xf9\x7e\x00"s), "null") << "JSON has no NaN";
  EXPECT_EQ(text("\x44\x01\x02\x03\x04"s), R"({"base64":"AQIDBA=="})");
  EXPECT_EQ(text("\x9f\x01\x82\x02\x03\x9f\x04\x05\xff\xff"s), "[1,[2,3],[4,5]]");
  EXPECT_EQ(text("\xbf\x63"
                 "Fun\xf5\x63"
                 "Amt\x21\xff"s),
            R"({"Fun":true,"Amt":-2})");
  EXPECT_EQ(text("\x62\xc3\x28"s), R"("\\xc3(")") << "a text that is not UTF-8";
  for (const auto& bad : {""s, "\x18"s, "\xff"s, "\x01\x01"s, "\x7f\x61"s, "\x1c"s, "\x1f"s,
                          "\xdf\x01"s, "\x7f\x41\x61\xff"s, "\xa1\x01\xff"s}) {
    EXPECT_FALSE(Json::parse_cbor(bad));
  }
  EXPECT_EQ(text("\x7f\x61\x61\x62\x62\x63\xff"s), R"("abc")") << "a string in chunks";
  // Strings of strings would take the parser down as deep as there are bytes.
  EXPECT_FALSE(Json::parse_cbor(std::string(200'000, '\x7f')));
  EXPECT_FALSE(Json::parse_cbor(std::string(200'000, '\x5f')));
  EXPECT_FALSE(Json::parse_cbor(std::string(200'000, '\xc1'))) << "tags of tags";
  EXPECT_EQ(text("\x3b\x7f\xff\xff\xff\xff\xff\xff\xff"s), "-9223372036854775808");
  EXPECT_FALSE(Json::parse_cbor("\x3b\x80\x00\x00\x00\x00\x00\x00\x00"s)) << "not another number";
}

TEST(Json, CborComesBack) {
  for (const char* text : {"0", "23", "24", "255", "65536", "4294967296", "-1", "-4294967297",
                           "1.1", "-0.5", "true", "null", "\"\"", "\"\xC3\xA9\"", "[]", "{}",
                           R"({"a":[1,{"b":[false,"x"]}],"c":18446744073709551615})"}) {
    const Json tree = *Json::parse(text);
    EXPECT_EQ(Json::parse_cbor(tree.dump_cbor())->dump(), text);
  }
}

}  // namespace
}  // namespace wayside
