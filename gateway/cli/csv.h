// One line of CSV (RFC 4180). Thread: pure function.
#pragma once

#include <string>
#include <vector>

namespace wayside {

[[nodiscard]] inline std::string csv_line(const std::vector<std::string>& cells) {
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) out.push_back(',');
    if (cells[i].find_first_of(",\"\r\n") == std::string::npos) {
      out += cells[i];
      continue;
    }
    out.push_back('"');
    for (const char c : cells[i]) out.append(c == '"' ? 2 : 1, c);
    out.push_back('"');
  }
  return out;
}

}  // namespace wayside
