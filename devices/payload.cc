#include "devices/payload.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

using nlohmann::json;

// Follows the events of the parser and keeps what stands at a pointer. For each pointer it knows
// how many of its tokens the way to the present value matches.
class Walker {
 public:
  Walker(const JsonPointer* key, const JsonPointer* time) : targets_{{{key}, {time}}} {}

  bool null() { return scalar({JsonScalar::Kind::null, {}}); }
  bool boolean(bool v) { return scalar({JsonScalar::Kind::boolean, v ? "true" : "false"}); }
  bool number_integer(json::number_integer_t v) { return number(v); }
  bool number_unsigned(json::number_unsigned_t v) { return number(v); }
  bool number_float(json::number_float_t, const std::string& written) {
    return scalar({JsonScalar::Kind::number, wanted() ? written : std::string()});
  }
  bool string(std::string& v) {
    return scalar({JsonScalar::Kind::text, wanted() ? v : std::string()});
  }
  bool binary(json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(false); }
  bool start_array(std::size_t) { return open(true); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    step_to(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) {
    error_at = position;
    return false;
  }

  [[nodiscard]] InspectedJson take() {
    return {std::move(targets_[0].found), std::move(targets_[1].found)};
  }
  std::size_t error_at = 0;

 private:
  struct Target {
    const JsonPointer* pointer;
    std::size_t matched = 0;
    std::optional<JsonScalar> found{};
  };
  struct Frame {
    bool array;
    std::size_t index = 0;
  };

  template <class N>
  bool number(N v) {
    return scalar({JsonScalar::Kind::number, wanted() ? cat(v) : std::string()});
  }
  // A child of the innermost structure begins, under this name.
  void step_to(std::string_view token) {
    const std::size_t depth = stack_.size();
    for (Target& t : targets_) {
      if (t.pointer == nullptr) continue;
      if (t.matched >= depth) t.matched = depth - 1;
      if (t.matched == depth - 1 && depth <= t.pointer->size() &&
          (*t.pointer)[depth - 1] == token) {
        t.matched = depth;
      }
    }
  }
  void step_in_array() {
    if (stack_.empty() || !stack_.back().array) return;
    const std::size_t index = stack_.back().index++;
    for (const Target& t : targets_) {
      if (t.pointer != nullptr) return step_to(cat(index));
    }
  }
  // Whether the value that begins now stands at a pointer (of an array: after step_in_array).
  [[nodiscard]] bool wanted() const {
    for (const Target& t : targets_) {
      if (t.pointer != nullptr && t.matched + 1 >= t.pointer->size()) return true;
    }
    return false;
  }
  bool scalar(JsonScalar value) {
    step_in_array();
    keep(std::move(value));
    return true;
  }
  void keep(JsonScalar value) {
    for (Target& t : targets_) {
      if (t.pointer != nullptr && t.matched == t.pointer->size() &&
          stack_.size() == t.pointer->size()) {
        t.found = value;
      }
    }
  }
  bool open(bool array) {
    step_in_array();
    keep({JsonScalar::Kind::structure, {}});
    stack_.push_back({array});
    return true;
  }
  bool close() {
    stack_.pop_back();
    for (Target& t : targets_) t.matched = std::min(t.matched, stack_.size());
    return true;
  }

  std::array<Target, 2> targets_;
  std::vector<Frame> stack_;
};

}  // namespace

Result<InspectedJson> inspect_json(std::string_view payload, const JsonPointer* key,
                                   const JsonPointer* time) {
  // The parser would take it for the end.
  if (const std::size_t nul = payload.find('\0'); nul != std::string_view::npos) {
    return fail(ErrorCode::invalid_argument, cat("not JSON at byte ", nul + 1));
  }
  Walker walker(key, time);
  if (!json::sax_parse(payload.begin(), payload.end(), &walker)) {
    return fail(ErrorCode::invalid_argument, cat("not JSON at byte ", walker.error_at));
  }
  return walker.take();
}

}  // namespace wayside
