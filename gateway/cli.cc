#include "gateway/cli.h"

#include <algorithm>
#include <cstdio>

#include "base/text.h"
#include "gateway/control.h"

namespace wayside {

int exit_code(const Error& error) {
  switch (error.code) {
    case ErrorCode::invalid_argument:
      return kExitUsage;
    case ErrorCode::not_found:
      return kExitNotFound;
    case ErrorCode::out_of_range:
      return kExitRange;
    case ErrorCode::unavailable:
      return kExitUnavailable;
    case ErrorCode::timeout:
      return kExitTimeout;
    case ErrorCode::too_new:
      return kExitConfiguration;
    default:
      return kExitFailed;
  }
}

int report(const Error& error) {
  std::fprintf(stderr, "wayside: %s\n", error.what.c_str());
  if (!error.hint.empty()) std::fprintf(stderr, "  %s\n", error.hint.c_str());
  return exit_code(error);
}

void Table::print() const {
  std::vector<std::size_t> width(rows_.front().size(), 0);
  std::vector<bool> right(width.size(), rows_.size() > 1);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < width.size(); ++c) {
      width[c] = std::max(width[c], display_width(rows_[r][c]));
      const bool number = !rows_[r][c].empty() &&
                          rows_[r][c].find_first_not_of("0123456789.-") == std::string::npos;
      if (r > 0 && !number && rows_[r][c] != "-") right[c] = false;
    }
  }
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string pad(width[c] - display_width(row[c]), ' ');
      line += right[c] ? pad + row[c] : row[c] + pad;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    std::printf("%s\n", line.c_str());
  }
}

Result<OpenedLog> open_log(const std::string& config_path) {
  WS_ASSIGN(Plan plan, load_plan(config_path));
  WS_ASSIGN(LogReader reader, LogReader::open(plan.config.database_path()));
  WS_ASSIGN(Catalog catalog, reader.catalog());
  return OpenedLog{std::move(plan), std::move(reader), std::move(catalog)};
}

std::optional<std::int64_t> json_number(std::string_view json, std::string_view name) {
  const std::string needle = cat("\"", name, "\":");
  const std::size_t at = json.find(needle);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = json.substr(at + needle.size());
  return parse_int(rest.substr(0, rest.find_first_not_of("-0123456789")));
}

Result<HostPort> find_listener(const std::string& config_path, std::string host, int port) {
  HostPort out{std::move(host), static_cast<std::uint16_t>(port)};
  if (!out.host.empty() && port > 0) return out;
  WS_ASSIGN(const Plan plan, load_plan(config_path));
  WS_ASSIGN(const HostPort listen, parse_host_port(plan.config.mqtt.listen));
  if (out.host.empty()) {
    out.host = listen.host == "0.0.0.0" || listen.host == "::" ? "127.0.0.1" : listen.host;
  }
  if (out.port == 0) out.port = listen.port;
  if (out.port == 0) {  // a free one, which only the running gateway knows
    WS_ASSIGN(const std::string state, ask_gateway(plan.config.data_dir));
    out.port = static_cast<std::uint16_t>(json_number(state, "mqtt_port").value_or(0));
  }
  return out;
}

}  // namespace wayside
