#include "config/config.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/text.h"
#include "config/keys.h"

namespace wayside {
namespace {

TEST(Keys, EveryDefaultIsWithinItsOwnRange) {
  for (const Key& k : config_keys()) {
    if (!k.fallback.empty() && k.type != KeyType::strings) {
      EXPECT_TRUE(parse_key_value(k, k.fallback)) << k.section << "." << k.name;
    }
    EXPECT_FALSE(k.doc.empty()) << k.name;
  }
}

TEST(DefaultFile, IsSoundAsItStandsAndUncommented) {
  EXPECT_TRUE(parse_config(render_default_config(), "x").problems.empty());
  std::string uncommented;
  std::string text = render_default_config();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    std::string line = text.substr(at, end - at);
    // "#key = value" is a key; "# words" are words.
    if (line.size() > 1 && line[0] == '#' && line[1] != ' ') line.erase(0, 1);
    uncommented += line + "\n";
    at = end + 1;
  }
  const auto loaded = parse_config(uncommented, "x");
  EXPECT_TRUE(loaded.problems.empty()) << problems_text("x", loaded.problems);
  EXPECT_EQ(loaded.config.topics.size(), 1U);
  EXPECT_EQ(loaded.config.commit.linger_ms, 100);
}

TEST(Reference, IsWhatTheTableOfKeysSays) {
  const auto page = read_file(SOURCE_DIR "/docs/CONFIGURATION.md");
  ASSERT_TRUE(page) << page.error().text();
  EXPECT_EQ(*page, render_reference())
      << "run: wayside check --print-reference > docs/CONFIGURATION.md";
  const auto file = read_file(SOURCE_DIR "/config/wayside.toml");
  ASSERT_TRUE(file) << file.error().text();
  EXPECT_EQ(*file, render_default_config())
      << "run: wayside check --print-default > config/wayside.toml";
}

TEST(Load, SaysWhereTheFileIsNotToml) {
  const auto loaded = parse_config("a = 1\nb = = 2\n", "x");
  ASSERT_EQ(loaded.problems.size(), 1U);
  EXPECT_EQ(loaded.problems[0].line, 2);
}

TEST(Load, SuggestsTheNearestKey) {
  const auto loaded = parse_config("[commit]\nlingr = \"1s\"\n", "x");
  ASSERT_EQ(loaded.problems.size(), 1U);
  EXPECT_EQ(loaded.problems[0].hint, "did you mean 'linger'?");
}

TEST(Load, ARetentionMayBeForever) {
  const auto loaded = parse_config("[[topic]]\nname = \"a\"\nretention = \"forever\"\n", "x");
  EXPECT_TRUE(loaded.problems.empty());
  EXPECT_EQ(loaded.config.topics.at(0).retention_ms, -1);
}

TEST(Load, ANameOfManyPartsDoesNotEndTheProgram) {
  for (const char* end : {"]", " = 1", "", " = 1 }"}) {
    std::string name = "a";
    for (int i = 0; i < 60'000; ++i) name += ".a";
    const bool inside = std::string_view(end).ends_with('}');
    const std::string line = cat(*end == ']' ? "[" : inside ? "x = { " : "", name, end);
    const auto loaded = parse_config(cat("data_dir = \"/tmp\"\n", line), "f.toml");
    ASSERT_EQ(loaded.problems.size(), 1U);
    EXPECT_EQ(loaded.problems.front().line, 2);
  }
}

}  // namespace
}  // namespace wayside
