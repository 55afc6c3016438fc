#include "gateway/cli/cli.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "base/address.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "gateway/control/socket_client.h"

namespace wayside {

namespace {

constexpr std::size_t kNameWidth = 48, kColumnWidth = 80;

}  // namespace

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

int exit_of(const Status& status) {
  return status ? kExitOk : report(status.error());
}

std::string shown_name(std::string_view name, bool wide) {
  const std::string text = printable(name);
  return wide ? text : shortened(text, kNameWidth);
}

void Table::print() const {
  std::vector<std::size_t> width(rows_.front().size(), 0);
  std::vector<bool> right(width.size(), rows_.size() > 1);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < width.size(); ++c) {
      width[c] = std::max(width[c], std::min(display_width(rows_[r][c]), kColumnWidth));
      const bool number = !rows_[r][c].empty() &&
                          rows_[r][c].find_first_not_of("0123456789.-") == std::string::npos;
      if (r > 0 && !number && rows_[r][c] != "-") right[c] = false;
    }
  }
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string pad(width[c] - std::min(display_width(row[c]), width[c]), ' ');
      line += right[c] ? pad + row[c] : row[c] + pad;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    std::printf("%s\n", line.c_str());
  }
}

Result<OpenedLog> open_log(const std::string& config_path) {
  auto log = look_at_log(config_path);
  if (!log) return log;
  for (const std::string& doubt : log->reader.doubts()) {
    std::fprintf(stderr, "wayside: the log may not be whole: %s\n", printable(doubt).c_str());
  }
  return log;
}

Result<OpenedLog> look_at_log(const std::string& config_path) {
  Plan plan;
  const bool directory = is_directory(config_path);
  if (directory) {
    std::string text = "data_dir = ";
    append_json_string(text, config_path.substr(0, config_path.find_last_not_of('/') + 1));
    LoadedConfig defaults = parse_config(text, config_path);
    plan = make_plan(defaults.config, defaults.problems);
  } else {
    WS_ASSIGN(plan, load_plan(config_path));
  }
  WS_ASSIGN(LogReader reader, LogReader::look(plan.config.database_path(), directory));
  WS_ASSIGN(Catalog catalog, reader.catalog());
  return OpenedLog{std::move(plan), std::move(reader), std::move(catalog)};
}

std::string long_duration(std::int64_t ms) {
  const std::int64_t s = ms / 1000;
  if (s < 0) return "0 s";
  if (s < 120) return cat(s, " s");
  if (s < 7200) return cat(s / 60, " min");
  if (s < 48 * 3600) return cat(s / 3600, " h ", s / 60 % 60, " min");
  return cat(s / 86'400, " d ", s / 3600 % 24, " h");
}

// Records of a gateway without a clock battery may be of 1970, or of tomorrow.
std::string ago(std::int64_t ms, std::int64_t now_ms) {
  if (ms < limits::kPlausibleFromMs) return "-";
  return ms > now_ms + 1000 ? cat("in ", long_duration(ms - now_ms))
                            : cat(long_duration(std::max<std::int64_t>(now_ms - ms, 0)), " ago");
}

bool on_terminal() {
  return ::isatty(STDOUT_FILENO) == 1;
}

Status confirm(const std::string& question, bool yes) {
  if (yes) return {};
  if (::isatty(STDIN_FILENO) != 1) {
    return fail(ErrorCode::invalid_argument, question,
                "say so with --yes: nobody can be asked here");
  }
  std::printf("%s [y/N] ", question.c_str());
  std::fflush(stdout);
  std::string line;
  if (std::getline(std::cin, line) && (line == "y" || line == "Y" || line == "yes")) return {};
  return fail(ErrorCode::invalid_argument, "nothing was changed");
}

Result<LogReader::Page> read_page(OpenedLog& log, ChainId chain, Seq from,
                                  std::span<const TpId> tps, const ReadLimits& limits) {
  auto page = log.reader.read(chain, from, tps, limits);
  if (page || !page.error().damage) return page;
  std::string of;
  for (const TpId tp : tps) of += cat(of.empty() ? "" : ",", tp.value);
  const auto told = ask_gateway(
      log.plan.config.data_dir,
      cat("{\"do\":\"damaged\",\"chain\":", chain.value, ",\"seq\":", from.value, ",\"tps\":[", of,
          "],\"records\":", limits.records,
          ",\"bytes\":", std::min(limits.bytes, ReadLimits{}.bytes), "}"));
  if (told) {
    page.error().hint =
        "the gateway was told, and sets the damaged file aside: try again in a moment, and see "
        "'wayside status' for what comes back";
  }
  return page;
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
    WS_ASSIGN(const Json state, ask_gateway(plan.config.data_dir, R"({"do":"status"})"));
    out.port = static_cast<std::uint16_t>(state.number("mqtt_port"));
  }
  return out;
}

}  // namespace wayside
