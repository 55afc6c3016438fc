// Payloads that are looked into as a tree: split, value, and what stands at pointers.
#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "devices/payload.h"

namespace wayside {
namespace {

// Finds its way in JSON text that is known to be valid, to cut out of it byte for byte.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  // The value that begins here; afterwards the scanner stands behind it.
  std::string_view value() {
    skip_space();
    const std::size_t begin = at_;
    const char c = text_[at_];
    if (c == '"') {
      skip_string();
    } else if (c == '{' || c == '[') {
      skip_structure();
    } else {
      at_ = std::min(text_.find_first_of(",]} \t\r\n", at_), text_.size());
    }
    return text_.substr(begin, at_ - begin);
  }
  // Steps into a structure, then from child to child. False: it has no more.
  void enter() {
    skip_space();
    ++at_;
  }
  bool more() {
    skip_space();
    if (text_[at_] == ',') ++at_;
    skip_space();
    return text_[at_] != ']' && text_[at_] != '}';
  }
  // The name of the member that begins here, with its quotes.
  std::string_view name() {
    const std::string_view quoted = value();
    skip_space();
    ++at_;  // the colon
    return quoted;
  }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size() - 1); }
  void skip_string() {
    for (++at_; text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') ++at_;
    }
    ++at_;
  }
  void skip_structure() {
    int depth = 0;
    do {
      const char c = text_[at_];
      if (c == '"') {
        skip_string();
        continue;
      }
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      ++at_;
    } while (depth > 0);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

bool is_named(std::string_view quoted, const std::string& name) {
  if (quoted.find('\\') == std::string_view::npos) {
    return quoted.substr(1, quoted.size() - 2) == name;
  }
  const auto unquoted = Json::parse(quoted);
  const auto* s = unquoted ? std::get_if<std::string>(&unquoted->value) : nullptr;
  return s != nullptr && *s == name;
}

std::vector<std::string_view> elements_text(std::string_view array) {
  std::vector<std::string_view> out;
  Scanner scanner(array);
  for (scanner.enter(); scanner.more();) out.push_back(scanner.value());
  return out;
}

// The text at a pointer. REQUIRES: something stands there.
std::string_view text_at(std::string_view text, const JsonPointer& pointer) {
  for (const std::string& token : pointer) {
    Scanner scanner(text);
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (text[first] == '[') {
      text = elements_text(text)[static_cast<std::size_t>(parse_int(token).value_or(0))];
      continue;
    }
    std::string_view found;
    for (scanner.enter(); scanner.more();) {
      const bool it = is_named(scanner.name(), token);
      const std::string_view value = scanner.value();
      if (it) found = value;  // of several the last, as Json::find has it
    }
    text = found;
  }
  return text;
}

std::string pointer_text(const JsonPointer& pointer) {
  std::string out;
  for (const std::string& token : pointer) out += "/" + token;
  return out.empty() ? "the payload itself" : out;
}

std::optional<JsonScalar> scalar_of(const Json* found) {
  if (found == nullptr) return std::nullopt;
  using Kind = JsonScalar::Kind;
  const auto& v = found->value;
  if (std::holds_alternative<std::nullptr_t>(v)) return JsonScalar{Kind::null, {}};
  if (const auto* s = std::get_if<std::string>(&v)) return JsonScalar{Kind::text, *s};
  if (std::holds_alternative<bool>(v)) return JsonScalar{Kind::boolean, found->dump()};
  if (std::holds_alternative<Json::Array>(v) || std::holds_alternative<Json::Object>(v) ||
      std::holds_alternative<Json::Bytes>(v)) {
    return JsonScalar{Kind::structure, {}};
  }
  return JsonScalar{Kind::number, found->dump()};
}

}  // namespace

Result<Json> parse_payload(std::string_view payload, PayloadKind kind) {
  return kind == PayloadKind::cbor ? Json::parse_cbor(payload) : Json::parse(payload);
}

Result<std::vector<Part>> take_apart(const Json& tree, std::string_view payload,
                                     const Route& route) {
  const bool text = route.payload == PayloadKind::json;
  // The parser steps over a byte order mark, so the cutting must, too.
  if (text && payload.starts_with("\xEF\xBB\xBF")) payload.remove_prefix(3);
  std::vector<const Json*> elements{&tree};
  std::vector<std::string_view> texts{payload};
  if (route.split) {
    const Json* found = tree.at(*route.split);
    const auto* array = found == nullptr ? nullptr : std::get_if<Json::Array>(&found->value);
    if (array == nullptr) {
      return fail(ErrorCode::not_found, cat("no array to split at ", pointer_text(*route.split)));
    }
    if (array->size() > limits::kSplitRecordsMax || array->empty()) {
      return fail(ErrorCode::refused,
                  cat("an array of ", array->size(), " readings; a message may hold 1 to ",
                      limits::kSplitRecordsMax));
    }
    elements.clear();
    for (const Json& element : *array) elements.push_back(&element);
    if (text) texts = elements_text(text_at(payload, *route.split));
    if (text && texts.size() != elements.size()) {
      return fail(ErrorCode::invalid_argument, "an array that cannot be cut");
    }
  }
  std::vector<Part> out;
  for (std::size_t i = 0; i < elements.size(); ++i) {
    Part part;
    const auto look = [&](const JsonPointer& at) {
      const Json* found = elements[i]->at(at);
      return scalar_of(found == nullptr ? tree.at(at) : found);
    };
    if (route.key.pointer()) part.key = look(*route.key.pointer());
    if (route.time) part.time = look(*route.time);
    const Json* value = route.value ? elements[i]->at(*route.value) : elements[i];
    if (value == nullptr) {
      return fail(ErrorCode::not_found, cat("nothing stands at ", pointer_text(*route.value),
                                            route.split ? cat(" of reading ", i) : std::string()));
    }
    if (text) {
      part.value = route.value ? text_at(texts[i], *route.value) : texts[i];
    } else {
      part.value = value == &tree ? std::string(payload) : value->dump_cbor();
    }
    out.push_back(std::move(part));
  }
  return out;
}

}  // namespace wayside
