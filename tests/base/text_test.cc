#include "base/text.h"

#include <gtest/gtest.h>

namespace wayside {
namespace {

TEST(Utf8, AcceptsWhatIsWellFormedAndNothingElse) {
  EXPECT_TRUE(is_valid_utf8("plain text, longer than one word of eight bytes"));
  EXPECT_TRUE(is_valid_utf8("Nürnberg, 東京, 🚚"));
  EXPECT_FALSE(is_valid_utf8("\xC0\xAF"));          // overlong
  EXPECT_FALSE(is_valid_utf8("\xED\xA0\x80"));      // surrogate
  EXPECT_FALSE(is_valid_utf8("\xF4\x90\x80\x80"));  // above U+10FFFF
  EXPECT_FALSE(is_valid_utf8("torn at the end: \xE2\x82"));
  EXPECT_FALSE(is_valid_utf8(std::string("1234567\xFF", 8)));
}

TEST(Utf8, ANulIsTextButNotMqttText) {
  for (std::size_t at = 0; at < 20; ++at) {
    std::string s(20, 'a');
    s[at] = '\0';
    EXPECT_TRUE(is_valid_utf8(s)) << at;
    EXPECT_FALSE(is_mqtt_utf8(s)) << at;
  }
}

TEST(Json, EscapesControlsAndKeepsBytesAsBase64) {
  std::string out;
  append_json_string(out, "a\"\\\n\x01ü");
  EXPECT_EQ(out, "\"a\\\"\\\\\\n\\u0001ü\"");
  out.clear();
  append_json_bytes(out, "\xFF\x00");
  EXPECT_EQ(out, "{\"base64\":\"/w==\"}");
  EXPECT_EQ(base64("Man"), "TWFu");
  EXPECT_EQ(base64("Ma"), "TWE=");
}

TEST(Durations, AreReadWithTheirUnitAndWrittenBack) {
  EXPECT_EQ(parse_duration_ms("100ms"), 100);
  EXPECT_EQ(parse_duration_ms("7d"), 604'800'000);
  EXPECT_EQ(parse_duration_ms("0"), 0);
  EXPECT_EQ(parse_duration_ms("10"), std::nullopt);
  EXPECT_EQ(parse_duration_ms("-1s"), std::nullopt);
  EXPECT_EQ(parse_duration_ms("9999999999999999d"), std::nullopt);
  EXPECT_EQ(format_duration(604'800'000), "7d");
  EXPECT_EQ(format_duration(1500), "1500ms");
}

TEST(Bytes, KnowBothKindsOfKilo) {
  EXPECT_EQ(parse_bytes("64KiB"), 65536);
  EXPECT_EQ(parse_bytes("64 KB"), 64000);
  EXPECT_EQ(parse_bytes("12"), 12);
  EXPECT_EQ(parse_bytes("12kb"), std::nullopt);
}

TEST(Times, Rfc3339IsReadWithZoneAndFraction) {
  EXPECT_EQ(parse_rfc3339_ms("1970-01-01T00:00:00Z"), 0);
  EXPECT_EQ(parse_rfc3339_ms("2026-11-22T10:23:11.25+01:00"), 1'795'339'391'250);
  EXPECT_EQ(format_time_utc(1'795'339'391'250), "2026-11-22T09:23:11.250Z");
  EXPECT_EQ(format_time_utc(-1), "1969-12-31T23:59:59.999Z");
  for (const char* bad : {"2026-13-01T00:00:00Z", "2026-11-22", "2026-11-22T10:23:11",
                          "2026-11-22T10:23:11.Z", "2026-11-22T10:23:11+0100", "x"}) {
    EXPECT_EQ(parse_rfc3339_ms(bad), std::nullopt) << bad;
  }
}

TEST(Printable, NothingReachesATerminalThatCouldSteerIt) {
  EXPECT_EQ(printable("a\x1B[2Jb\xFF"), "a\\x1b[2Jb\\xff");
  EXPECT_EQ(printable("\xC2\x9B"), "\\xc2\\x9b");  // CSI as one character
  EXPECT_EQ(printable("ü"), "ü");
}

TEST(Printable, NothingTurnsHidesOrBreaksALine) {
  EXPECT_EQ(printable("a\u202E" "b"), "a\\xe2\\x80\\xaeb");
  EXPECT_EQ(printable("\xF3\xA0\x81\x81"), "\\xf3\\xa0\\x81\\x81");  // a tag
  for (const char* hidden : {"\u00AD", "\u061C", "\u180E", "\u200B", "\u200D", "\u200E", "\u200F",
                             "\u2028", "\u2029", "\u202A", "\u202D", "\u2060", "\u2066", "\u2069",
                             "\u206F", "\uFEFF", "\uFFF9", "\uFFFB", "\u3164"}) {
    EXPECT_TRUE(printable(hidden).starts_with("\\x")) << printable(hidden);
  }
  EXPECT_EQ(printable("Grüße, 東京, ελ, עברית, 🙂 – “x”"), "Grüße, 東京, ελ, עברית, 🙂 – “x”");
}

TEST(Shortened, CutsBetweenCharacters) {
  EXPECT_EQ(shortened("abc", 3), "abc");
  EXPECT_EQ(shortened("abcd", 3), "ab…");
  EXPECT_EQ(shortened("üüüü", 3), "üü…");
  EXPECT_EQ(shortened("東京都庁", 2), "東…");
  EXPECT_EQ(shortened("", 1), "");
  EXPECT_EQ(display_width(shortened(std::string(1000, 'x'), 48)), 48U);
}

TEST(Nearest, SuggestsOnlyWhatIsNear) {
  const std::vector<std::string> names = {"truck_gps", "alarms"};
  EXPECT_EQ(nearest("truck_gp", names), "truck_gps");
  EXPECT_EQ(nearest("temperature", names), "");
}

}  // namespace
}  // namespace wayside
