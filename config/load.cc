// TOML to structs, by the table of keys. toml++ is included here alone.
#include <toml++/toml.h>
#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "config/keys.h"

namespace wayside {
namespace {

constexpr int kNestingMost = 1000;

int line_of(const toml::node& node) {
  return static_cast<int>(node.source().begin.line);
}

// A scalar as it is written in the file.
std::string written(const toml::node& node) {
  if (const auto* s = node.as_string()) return cat('"', s->get(), '"');
  if (const auto* i = node.as_integer()) return cat(i->get());
  if (const auto* b = node.as_boolean()) return b->get() ? "true" : "false";
  return {};
}

bool right_toml_type(const Key& key, const toml::node& node) {
  switch (key.type) {
    case KeyType::integer:
      return node.is_integer();
    case KeyType::boolean:
      return node.is_boolean();
    case KeyType::bytes:
      return node.is_integer() || node.is_string();
    case KeyType::strings: {
      const auto* array = node.as_array();
      return array != nullptr &&
             std::all_of(array->begin(), array->end(), [](const auto& e) { return e.is_string(); });
    }
    default:
      return node.is_string();
  }
}

class Loader {
 public:
  explicit Loader(LoadedConfig& out) : out_(out) {}

  void load(const toml::table& root) {
    for (const auto& [name, node] : root) {
      if (!node.is_table() && !node.is_array_of_tables() && find_key("", name.str()) == nullptr) {
        unknown_top(name.str(), node);
      }
    }
    fill("", root, 1);
    for (const auto& [name, node] : root) {
      const Section* section = find_section(name.str());
      const auto* array = node.as_array();
      if (section == nullptr) {
        if (node.is_table() || node.is_array_of_tables()) unknown_top(name.str(), node);
      } else if (section->array && node.is_array_of_tables()) {
        for (const auto& element : *array) add_element(*section, *element.as_table());
      } else if (!section->array && node.is_table()) {
        fill(section->name, *node.as_table(), line_of(node));
      } else {
        problem(line_of(node), cat("'", name.str(), "' is not written as a table"),
                section->array ? cat("write [[", name.str(), "]] above its keys")
                               : cat("write [", name.str(), "] above its keys"));
      }
    }
  }

  void defaults(std::string_view section) {
    for (const Key& key : config_keys()) {
      if (key.section != section || key.fallback.empty()) continue;
      if (const auto value = parse_key_value(key, key.fallback)) key.set(out_.config, *value);
      note(key, std::string(key.fallback));
    }
  }

 private:
  void add_element(const Section& section, const toml::table& table) {
    Config& c = out_.config;
    const int line = line_of(table);
    if (section.name == "topic") c.topics.emplace_back().line = line;
    if (section.name == "route") c.routes.emplace_back().line = line;
    if (section.name == "bridge") c.bridges.emplace_back().line = line;
    if (section.name == "subscribe") c.subscriptions.emplace_back().line = line;
    element_.clear();
    defaults(section.name);
    fill(section.name, table, line);
    // Its name is its first required key; routes may share theirs.
    const auto keys = config_keys();
    const auto id = std::find_if(keys.begin(), keys.end(),
                                 [&](const Key& k) { return k.section == section.name; });
    std::string quoted = element_[std::string(id->name)];
    if (quoted.size() >= 2) quoted = quoted.substr(1, quoted.size() - 2);
    std::string name = cat(section.name, " ", quoted);
    while (!names_.insert(name).second) name += "'";
    for (auto& [key, value] : element_) c.settings[cat(name, " ", key)] = std::move(value);
  }

  // What a key says, for the comparison of a reload.
  void note(const Key& key, std::string text) {
    const bool array = key.section == "topic" || key.section == "route" ||
                       key.section == "bridge" || key.section == "subscribe";
    auto& settings = array ? element_ : out_.config.settings;
    settings[key.section.empty() || array ? std::string(key.name)
                                          : cat(key.section, ".", key.name)] = std::move(text);
  }

  void fill(std::string_view section, const toml::table& table, int line) {
    for (const auto& [name, node] : table) {
      if (const Key* key = find_key(section, name.str())) {
        set(*key, node);
      } else if (!section.empty()) {
        problem(line_of(node), cat("[", section, "] has no key '", name.str(), "'"),
                suggestion(section, name.str()));
      }
    }
    for (const Key& key : config_keys()) {
      if (key.section == section && key.required && !table.contains(key.name)) {
        problem(line, cat("[[", section, "]] has no '", key.name, "'"),
                cat("add ", key.name, " = …: ", key_form(key)));
      }
    }
  }

  void set(const Key& key, const toml::node& node) {
    const std::string name =
        key.section.empty() ? std::string(key.name) : cat(key.section, ".", key.name);
    if (!right_toml_type(key, node)) {
      return problem(line_of(node), cat(name, " is of the wrong type"),
                     cat("write ", key_form(key)));
    }
    KeyValue value;
    if (const auto* array = node.as_array()) {
      std::string all;
      for (const auto& element : *array) {
        value.strings.push_back(element.as_string()->get());
        all += cat(all.empty() ? "" : ", ", '"', value.strings.back(), '"');
      }
      note(key, cat("[", all, "]"));
    } else {
      note(key, written(node));
      auto parsed = parse_key_value(key, written(node));
      if (!parsed) {
        return problem(line_of(node), cat(name, " = ", written(node), " cannot be"),
                       cat("write ", key_form(key)));
      }
      value = std::move(*parsed);
    }
    if (key.required && value.text.empty() && value.strings.empty()) {
      return problem(line_of(node), cat(name, " is empty"), cat("write ", key_form(key)));
    }
    key.set(out_.config, value);
  }

  void unknown_top(std::string_view name, const toml::node& node) {
    problem(line_of(node), cat("there is no key or section '", name, "'"), suggestion("", name));
  }

  static std::string suggestion(std::string_view section, std::string_view name) {
    std::vector<std::string> names;
    for (const Key& key : config_keys()) {
      if (key.section == section) names.emplace_back(key.name);
    }
    if (section.empty()) {
      for (const Section& s : config_sections()) names.emplace_back(s.name);
    }
    const std::string near = nearest(name, names);
    if (!near.empty()) return cat("did you mean '", near, "'?");
    std::string all;
    for (const std::string& n : names) all += cat(all.empty() || n.empty() ? "" : ", ", n);
    return cat("there are: ", all);
  }

  static const Key* find_key(std::string_view section, std::string_view name) {
    const auto keys = config_keys();
    const auto it = std::find_if(keys.begin(), keys.end(), [&](const Key& k) {
      return k.section == section && k.name == name;
    });
    return it == keys.end() ? nullptr : &*it;
  }

  static const Section* find_section(std::string_view name) {
    const auto sections = config_sections();
    const auto it = std::find_if(sections.begin(), sections.end(), [&](const Section& s) {
      return !s.name.empty() && s.name == name;
    });
    return it == sections.end() ? nullptr : &*it;
  }

  void problem(int line, std::string what, std::string hint) {
    out_.problems.push_back({line, std::move(what), std::move(hint)});
  }

  LoadedConfig& out_;
  std::map<std::string, std::string> element_;  // what the present element's keys say
  std::set<std::string> names_;                 // of elements
};

// The parser calls itself for each level of a dotted name, and there is an end of its stack. The
// line of a name that is nested deeper than any could be; 0: there is none.
int line_nested_too_deep(std::string_view text) {
  int line = 0;
  for (const std::string_view l : split(text, '\n')) {
    ++line;
    char quote = 0;
    int dots = 0;
    for (const char c : l) {
      if (quote != 0) {
        if (c == quote) quote = 0;
      } else if (c == '"' || c == '\'') {
        quote = c;
      } else if (c == '#') {
        break;
      } else if (c == '.') {
        if (++dots > kNestingMost) return line;
      } else if (c == '=' || c == ',' || c == '{' || c == '[') {
        dots = 0;  // another name begins
      }
    }
  }
  return 0;
}

}  // namespace

LoadedConfig parse_config(std::string_view text, const std::string& file) {
  LoadedConfig out;
  out.config.file = file;
  if (const int line = line_nested_too_deep(text); line > 0) {
    out.problems.push_back({line, "this name has too many parts", "sections have one level"});
    return out;
  }
  Loader loader(out);
  for (const Section& s : config_sections()) {
    if (!s.array) loader.defaults(s.name);
  }
  try {
    loader.load(toml::parse(text, file));
  } catch (const toml::parse_error& e) {
    out.problems.push_back({static_cast<int>(e.source().begin.line),
                            cat("this is not TOML: ", e.description()),
                            "texts stand in quotes, lists in [ ], sections as [name] or [[name]]"});
  }
  return out;
}

Result<LoadedConfig> load_config(const std::string& path) {
  if (file_exists(path) && !is_regular_file(path)) {
    return fail(ErrorCode::invalid_argument, cat(path, " is no ordinary file"),
                "a configuration is a file, not a directory, a pipe or a device");
  }
  auto text = read_file(path);
  if (!text) {
    Error e = std::move(text).error();
    e.hint =
        cat("give its path with --config, or make one: wayside check --print-default > ", path);
    return tl::unexpected<Error>(std::move(e));
  }
  return parse_config(*text, path);
}

std::string problems_text(std::string_view file, const std::vector<Problem>& problems) {
  std::vector<Problem> sorted = problems;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Problem& a, const Problem& b) { return a.line < b.line; });
  std::string out;
  for (const Problem& p : sorted) {
    out += cat(file, ":");
    if (p.line > 0) out += cat(p.line, ":");
    out += cat(" ", p.what, p.hint.empty() ? "" : "; ", p.hint, "\n");
  }
  return out;
}

}  // namespace wayside
