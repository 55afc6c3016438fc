#include "base/json.h"

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

using nlohmann::json;

// Builds the tree from the parser's events; refuses what is nested too deeply before the parser
// goes down there.
class Builder {
 public:
  bool null() { return add(Json()); }
  bool boolean(bool v) { return add(Json(v)); }
  bool number_integer(json::number_integer_t v) { return add(Json(std::int64_t{v})); }
  bool number_unsigned(json::number_unsigned_t v) {
    return add(v <= INT64_MAX ? Json(static_cast<std::int64_t>(v)) : Json(std::uint64_t{v}));
  }
  bool number_float(json::number_float_t v, const std::string&) { return add(Json(double{v})); }
  bool string(std::string& v) { return add(Json(std::move(v))); }
  bool binary(json::binary_t& v) { return add(Json(Json::Bytes{std::string(v.begin(), v.end())})); }
  bool start_object(std::size_t) { return open(Json(Json::Object{})); }
  bool start_array(std::size_t) { return open(Json(Json::Array{})); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    names_.back() = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) {
    error_at = position;
    return false;
  }

  Json root;
  std::size_t error_at = 0;
  bool too_deep = false;

 private:
  bool add(Json v) {
    if (open_.empty()) {
      root = std::move(v);
      return true;
    }
    if (auto* array = std::get_if<Json::Array>(&open_.back().value)) {
      array->push_back(std::move(v));
    } else {
      std::get<Json::Object>(open_.back().value)
          .emplace_back(std::move(names_.back()), std::move(v));
    }
    return true;
  }
  bool open(Json v) {
    too_deep = open_.size() >= limits::kJsonDepthMax;
    if (too_deep) return false;
    open_.push_back(std::move(v));
    names_.emplace_back();
    return true;
  }
  bool close() {
    Json v = std::move(open_.back());
    open_.pop_back();
    names_.pop_back();
    return add(std::move(v));
  }

  std::vector<Json> open_;
  std::vector<std::string> names_;  // of the member that comes next, per open structure
};

// Steps over one item of CBOR. The parser goes down into every structure, and into strings of
// strings, which the specification forbids: so what comes to it is looked through first.
class CborCheck {
 public:
  explicit CborCheck(std::string_view bytes) : bytes_(bytes) {}
  [[nodiscard]] bool whole() { return item(0) && at_ == bytes_.size(); }
  [[nodiscard]] std::size_t at() const { return at_; }

 private:
  // False: there is no such head here. `n` is its argument; with info 31 there is none.
  bool head(unsigned& major, unsigned& info, std::uint64_t& n) {
    if (at_ >= bytes_.size()) return false;
    const auto first = static_cast<unsigned char>(bytes_[at_++]);
    major = first >> 5;
    info = first & 31U;
    n = info;
    if (info < 24 || info == 31) return true;
    if (info > 27) return false;
    const std::size_t size = std::size_t{1} << (info - 24);
    if (bytes_.size() - at_ < size) return false;
    n = 0;
    for (std::size_t i = 0; i < size; ++i) {
      n = n << 8 | static_cast<unsigned char>(bytes_[at_++]);
    }
    return true;
  }
  bool string(unsigned major, unsigned info, std::uint64_t n) {
    if (info != 31) {
      if (n > bytes_.size() - at_) return false;
      at_ += static_cast<std::size_t>(n);
      return true;
    }
    while (!at_break()) {
      unsigned chunk_major = 0, chunk_info = 0;
      if (!head(chunk_major, chunk_info, n) || chunk_major != major || chunk_info == 31 ||
          !string(chunk_major, chunk_info, n)) {
        return false;
      }
    }
    return true;
  }
  bool at_break() {
    const bool is = at_ < bytes_.size() && bytes_[at_] == '\xFF';
    if (is) ++at_;
    return is;
  }
  bool item(std::size_t depth) {
    unsigned major = 0, info = 0;
    std::uint64_t n = 0;
    if (depth > limits::kJsonDepthMax || !head(major, info, n)) return false;
    switch (major) {
      case 0:
        return info != 31;
      case 1:
        return info != 31 && n <= INT64_MAX;  // beyond, it would come out as another number
      case 2:
      case 3:
        return string(major, info, n);
      case 4:
      case 5:
        for (std::uint64_t i = 0; info == 31 ? !at_break() : i < n; ++i) {
          if (!item(depth + 1) || (major == 5 && !item(depth + 1))) return false;
        }
        return true;
      case 6:
        return info != 31 && item(depth + 1);
      default:
        return info != 31;
    }
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
};

Result<Json> build(std::string_view input, json::input_format_t format, std::string_view name) {
  Builder builder;
  if (json::sax_parse(input.begin(), input.end(), &builder, format)) return std::move(builder.root);
  if (builder.too_deep) {
    return fail(ErrorCode::invalid_argument,
                cat(name, " nested deeper than ", limits::kJsonDepthMax, " levels"));
  }
  return fail(ErrorCode::invalid_argument, cat("not ", name, " at byte ", builder.error_at));
}

void write(std::string& out, const Json& tree);

template <class Items, class One>
void write_list(std::string& out, char open, char close, const Items& items, One one) {
  out.push_back(open);
  bool first = true;
  for (const auto& item : items) {
    if (!std::exchange(first, false)) out.push_back(',');
    one(item);
  }
  out.push_back(close);
}

// A string of CBOR is not always the UTF-8 that it should be.
void write_string(std::string& out, const std::string& s) {
  append_json_string(out, is_valid_utf8(s) ? s : printable(s));
}

void write(std::string& out, const Json& tree) {
  struct Visitor {
    std::string& to;
    void operator()(std::nullptr_t) const { to += "null"; }
    void operator()(bool v) const { to += v ? "true" : "false"; }
    void operator()(std::int64_t v) const { append_text(to, v); }
    void operator()(std::uint64_t v) const { append_text(to, v); }
    void operator()(double v) const {
      if (std::isfinite(v)) {
        append_text(to, v);
      } else {
        to += "null";
      }
    }
    void operator()(const std::string& v) const { write_string(to, v); }
    void operator()(const Json::Bytes& v) const {
      to += "{\"base64\":\"" + base64(v.bytes) + "\"}";
    }
    void operator()(const Json::Array& v) const {
      write_list(to, '[', ']', v, [&](const Json& item) { write(to, item); });
    }
    void operator()(const Json::Object& v) const {
      write_list(to, '{', '}', v, [&](const auto& member) {
        write_string(to, member.first);
        to.push_back(':');
        write(to, member.second);
      });
    }
  };
  std::visit(Visitor{out}, tree.value);
}

// A head of CBOR: major type and argument, in its shortest form (RFC 8949, 4.2.1).
void cbor_head(std::string& out, unsigned major, std::uint64_t n) {
  const int bytes = n < 24 ? 0 : n <= 0xFF ? 1 : n <= 0xFFFF ? 2 : n <= 0xFFFFFFFF ? 4 : 8;
  const unsigned info = bytes == 0   ? static_cast<unsigned>(n)
                        : bytes == 1 ? 24
                        : bytes == 2 ? 25
                        : bytes == 4 ? 26
                                     : 27;
  out.push_back(static_cast<char>(major << 5 | info));
  for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(n >> (8 * i)));
}

void write_cbor(std::string& out, const Json& tree) {
  struct Visitor {
    std::string& to;
    void operator()(std::nullptr_t) const { to.push_back('\xF6'); }
    void operator()(bool v) const { to.push_back(v ? '\xF5' : '\xF4'); }
    void operator()(std::int64_t v) const {
      cbor_head(to, v < 0 ? 1 : 0, static_cast<std::uint64_t>(v < 0 ? -1 - v : v));
    }
    void operator()(std::uint64_t v) const { cbor_head(to, 0, v); }
    void operator()(double v) const {
      to.push_back('\xFB');
      const auto bits = std::bit_cast<std::uint64_t>(v);
      for (int i = 7; i >= 0; --i) to.push_back(static_cast<char>(bits >> (8 * i)));
    }
    void operator()(const std::string& v) const {
      cbor_head(to, 3, v.size());
      to += v;
    }
    void operator()(const Json::Bytes& v) const {
      cbor_head(to, 2, v.bytes.size());
      to += v.bytes;
    }
    void operator()(const Json::Array& v) const {
      cbor_head(to, 4, v.size());
      for (const Json& item : v) write_cbor(to, item);
    }
    void operator()(const Json::Object& v) const {
      cbor_head(to, 5, v.size());
      for (const auto& [name, item] : v) {
        (*this)(name);
        write_cbor(to, item);
      }
    }
  };
  std::visit(Visitor{out}, tree.value);
}

}  // namespace

Result<Json> Json::parse(std::string_view text) {
  // The parser would take it for the end.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return fail(ErrorCode::invalid_argument, cat("not JSON at byte ", nul + 1));
  }
  return build(text, json::input_format_t::json, "JSON");
}
Result<Json> Json::parse_cbor(std::string_view bytes) {
  if (CborCheck check(bytes); !check.whole()) {
    return fail(ErrorCode::invalid_argument,
                cat("not CBOR (or nested deeper than ", limits::kJsonDepthMax,
                    " levels, or a number beyond 64 bits) at byte ", check.at()));
  }
  return build(bytes, json::input_format_t::cbor, "CBOR");
}

// The last of several of one name, as most readers of JSON take it.
const Json* Json::find(std::string_view name) const {
  const auto* object = std::get_if<Object>(&value);
  if (object == nullptr) return nullptr;
  for (auto it = object->rbegin(); it != object->rend(); ++it) {
    if (it->first == name) return &it->second;
  }
  return nullptr;
}

const Json* Json::child(std::string_view token) const {
  const auto* array = std::get_if<Array>(&value);
  if (array == nullptr) return find(token);
  const auto index = parse_int(token);
  const bool inside = index && *index >= 0 && *index < static_cast<std::int64_t>(array->size());
  return inside ? &(*array)[static_cast<std::size_t>(*index)] : nullptr;
}

std::string Json::text(std::string_view name, std::string_view fallback) const {
  const Json* member = find(name);
  const auto* s = member == nullptr ? nullptr : std::get_if<std::string>(&member->value);
  return s == nullptr ? std::string(fallback) : *s;
}

std::int64_t Json::number(std::string_view name, std::int64_t fallback) const {
  const Json* member = find(name);
  const auto* n = member == nullptr ? nullptr : std::get_if<std::int64_t>(&member->value);
  return n == nullptr ? fallback : *n;
}

bool Json::flag(std::string_view name) const {
  const Json* member = find(name);
  const auto* b = member == nullptr ? nullptr : std::get_if<bool>(&member->value);
  return b != nullptr && *b;
}

const Json::Array& Json::list(std::string_view name) const {
  static const Array empty;
  const Json* member = find(name);
  const auto* a = member == nullptr ? nullptr : std::get_if<Array>(&member->value);
  return a == nullptr ? empty : *a;
}

std::string Json::dump() const {
  std::string out;
  write(out, *this);
  return out;
}

std::string Json::dump_cbor() const {
  std::string out;
  write_cbor(out, *this);
  return out;
}

const Json* Json::at(const std::vector<std::string>& pointer) const {
  const Json* here = this;
  for (const std::string& token : pointer) {
    here = here->child(token);
    if (here == nullptr) return nullptr;
  }
  return here;
}

}  // namespace wayside
