#include "devices/route.h"

#include <algorithm>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

bool is_name(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

Result<TopicPattern> TopicPattern::parse(std::string_view text) {
  TopicPattern p;
  p.text_ = text;
  const auto wrong = [&](std::string_view why) {
    return fail(ErrorCode::invalid_argument, cat("'", printable(text), "' ", why),
                "write levels such as fleet/{truck}/gps; {name} is one level, a last # the rest");
  };
  if (text.empty() || !is_mqtt_utf8(text)) return wrong("is no MQTT topic");
  const auto levels = split(text, '/');
  if (levels.size() > limits::kTopicLevelsMax) return wrong("has too many levels");
  for (std::size_t i = 0; i < levels.size(); ++i) {
    const std::string_view level = levels[i];
    if (level == "#") {
      if (i + 1 != levels.size()) return wrong("has # before its end");
      p.rest_ = true;
    } else if (level == "+") {
      return wrong("has a + where {name} is meant");
    } else if (level.size() >= 2 && level.front() == '{' && level.back() == '}') {
      const std::string_view name = level.substr(1, level.size() - 2);
      if (!is_name(name)) return wrong("has a capture whose name is not letters, digits and _");
      if (std::find(p.names_.begin(), p.names_.end(), name) != p.names_.end()) {
        return wrong(cat("captures {", name, "} twice"));
      }
      p.names_.emplace_back(name);
      p.levels_.emplace_back(std::nullopt);
    } else if (level.find_first_of("{}+#") != std::string_view::npos) {
      return wrong("mixes text with {, }, + or # in one level");
    } else {
      p.levels_.emplace_back(std::string(level));
    }
  }
  return p;
}

std::optional<std::vector<std::string_view>> TopicPattern::match(std::string_view topic) const {
  std::vector<std::string_view> captures;
  std::size_t at = 0;
  bool more = true;  // a level is left in `topic`
  for (const auto& level : levels_) {
    if (!more) return std::nullopt;
    const std::size_t slash = topic.find('/', at);
    const std::string_view here =
        topic.substr(at, slash == std::string_view::npos ? slash : slash - at);
    more = slash != std::string_view::npos;
    at = slash + 1;
    // A wildcard at the first level does not take the server's own $ topics (4.7.2).
    if (!level && captures.empty() && &level == levels_.data() && here.starts_with('$')) {
      return std::nullopt;
    }
    if (!level) {
      captures.push_back(here);
    } else if (*level != here) {
      return std::nullopt;
    }
  }
  if (levels_.empty() && topic.starts_with('$')) return std::nullopt;
  // "a/#" takes "a" too (4.7.1.2).
  if (more && !rest_ && !levels_.empty()) return std::nullopt;
  return captures;
}

bool TopicPattern::overlaps(const TopicPattern& other) const {
  const std::size_t both = std::min(levels_.size(), other.levels_.size());
  for (std::size_t i = 0; i < both; ++i) {
    if (levels_[i] && other.levels_[i] && *levels_[i] != *other.levels_[i]) return false;
  }
  if (levels_.size() == other.levels_.size()) return true;
  return levels_.size() < other.levels_.size() ? rest_ : other.rest_;
}

Result<JsonPointer> parse_json_pointer(std::string_view text) {
  if (!text.starts_with('/')) {
    return fail(ErrorCode::invalid_argument, cat("'", printable(text), "' is no JSON pointer"),
                "write /field or /outer/field");
  }
  JsonPointer out;
  for (const std::string_view raw : split(text.substr(1), '/')) {
    std::string token;
    for (std::size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '~') {
        token.push_back(raw[i]);
      } else if (i + 1 < raw.size() && (raw[i + 1] == '0' || raw[i + 1] == '1')) {
        token.push_back(raw[++i] == '0' ? '~' : '/');
      } else {
        return fail(ErrorCode::invalid_argument, cat("'", printable(text), "' is no JSON pointer"),
                    "a ~ is written ~0 and a / in a name ~1");
      }
    }
    out.push_back(std::move(token));
  }
  return out;
}

Result<KeyRule> KeyRule::parse(std::string_view text, const TopicPattern& pattern) {
  KeyRule rule;
  if (text.starts_with('/')) {
    WS_ASSIGN(rule.pointer_, parse_json_pointer(text));
    return rule;
  }
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t open = text.find('{', at);
    if (open != at) rule.parts_.push_back({std::string(text.substr(at, open - at)), std::nullopt});
    if (open == std::string_view::npos) break;
    const std::size_t close = text.find('}', open);
    const std::string_view name = close == std::string_view::npos
                                      ? std::string_view{}
                                      : text.substr(open + 1, close - open - 1);
    const auto& names = pattern.names();
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) {
      std::string all;
      for (const std::string& n : names) all += cat(all.empty() ? "{" : ", {", n, "}");
      return fail(
          ErrorCode::invalid_argument,
          cat("key '", printable(text), "' names no captured level of '", pattern.text(), "'"),
          all.empty() ? "capture a level with {name} in mqtt, or write a JSON pointer"
                      : cat("there are: ", all));
    }
    rule.parts_.push_back({"", static_cast<std::size_t>(it - names.begin())});
    at = close + 1;
  }
  return rule;
}

std::string KeyRule::render(const std::vector<std::string_view>& captures) const {
  std::string out;
  for (const Part& p : parts_)
    out += p.capture ? captures[*p.capture] : std::string_view(p.literal);
  return out;
}

Result<Condition> Condition::parse(std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return fail(ErrorCode::invalid_argument, cat("the condition '", printable(text), "' ", why),
                "write '/field', '/type == \"gps\"' or '/speed > 0'; with ==, !=, <, <=, >, >=");
  };
  Condition c;
  c.text_ = std::string(text);
  const std::size_t space = std::min(text.find(' '), text.size());
  auto at = parse_json_pointer(text.substr(0, space));
  if (!at || at->empty()) return wrong("does not begin with a field");
  c.at_ = std::move(*at);
  text.remove_prefix(space);
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  if (text.empty()) return c;
  constexpr std::pair<std::string_view, Op> kOps[] = {
      {"==", Op::eq}, {"!=", Op::ne}, {"<=", Op::le}, {">=", Op::ge}, {"<", Op::lt}, {">", Op::gt}};
  for (const auto& [sign, op] : kOps) {
    if (!text.starts_with(sign)) continue;
    c.op_ = op;
    auto operand = Json::parse(text.substr(sign.size()));
    if (!operand || std::holds_alternative<Json::Array>(operand->value) ||
        std::holds_alternative<Json::Object>(operand->value)) {
      return wrong("compares with neither a number nor a string in quotes");
    }
    c.operand_ = std::move(*operand);
    return c;
  }
  return wrong("has no comparison after its field");
}

bool Condition::holds(const Json& payload) const {
  const Json* found = payload.at(at_);
  if (op_ == Op::present) {
    return found != nullptr && !std::holds_alternative<std::nullptr_t>(found->value);
  }
  const auto number = [](const Json& j) -> std::optional<double> {
    if (const auto* i = std::get_if<std::int64_t>(&j.value)) return static_cast<double>(*i);
    if (const auto* u = std::get_if<std::uint64_t>(&j.value)) return static_cast<double>(*u);
    if (const auto* d = std::get_if<double>(&j.value)) return *d;
    return std::nullopt;
  };
  // -1, 0, 1; nothing: they cannot be compared.
  const auto compare = [&]() -> std::optional<int> {
    if (found == nullptr) return std::nullopt;
    const auto sign = [](const auto& a, const auto& b) { return a < b ? -1 : b < a ? 1 : 0; };
    if (const auto a = number(*found), b = number(operand_); a && b) return sign(*a, *b);
    if (found->value.index() != operand_.value.index()) return std::nullopt;
    if (const auto* s = std::get_if<std::string>(&found->value)) {
      return sign(*s, std::get<std::string>(operand_.value));
    }
    if (const auto* b = std::get_if<bool>(&found->value)) {
      return sign(*b, std::get<bool>(operand_.value));
    }
    return 0;  // null and null
  };
  const auto order = compare();
  if (!order) return op_ == Op::ne;
  switch (op_) {
    case Op::eq:
      return *order == 0;
    case Op::ne:
      return *order != 0;
    case Op::lt:
      return *order < 0;
    case Op::le:
      return *order <= 0;
    case Op::gt:
      return *order > 0;
    default:
      return *order >= 0;
  }
}

}  // namespace wayside
