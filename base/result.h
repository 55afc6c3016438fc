// Result<T>: what a function gives back when the world can make it fail. Errors are values; a bug
// is a failed WS_CHECK (base/check.h). Thread: plain values, no sharing.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace wayside {

enum class ErrorCode {
  invalid_argument,  // the caller's words are wrong: configuration, command line, wire
  not_found,         // no such topic, file, group
  out_of_range,      // an offset, time or number outside what exists
  refused,           // a bound was reached; `what` names limit, value and key
  corrupt,           // bytes on disk are not what was written
  io,                // the disk or the network answered with an error
  no_space,          // the disk or the budget is full
  busy,              // somebody else holds a lock
  too_new,           // written by a newer version; left untouched
  unavailable,       // not running, not reachable
  timeout,
};

struct Error {
  ErrorCode code;
  std::string what;  // what happened, one line
  std::string hint;  // what the technician does about it; may be empty
  bool damage = false;  // the log's file is not what was written there: it must be set aside

  // "what; hint": for a log line or a terminal.
  [[nodiscard]] std::string text() const { return hint.empty() ? what : what + "; " + hint; }
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

[[nodiscard]] inline tl::unexpected<Error> fail(ErrorCode code, std::string what,
                                                std::string hint = {}) {
  return tl::unexpected<Error>(Error{code, std::move(what), std::move(hint)});
}

}  // namespace wayside

#define WS_CONCAT_INNER(a, b) a##b
#define WS_CONCAT(a, b) WS_CONCAT_INNER(a, b)

// Evaluates a Status; leaves the function with its error, if it has one.
#define WS_TRY_INNER(tmp, expr)                                                \
  do {                                                                         \
    auto tmp = (expr);                                                         \
    if (!tmp) return tl::unexpected<::wayside::Error>(std::move(tmp).error()); \
  } while (false)
#define WS_TRY(expr) WS_TRY_INNER(WS_CONCAT(ws_status_, __COUNTER__), expr)

// WS_ASSIGN(auto x, f()): x is f()'s value, or the function leaves with its error.
#define WS_ASSIGN_INNER(tmp, decl, expr)                                     \
  auto tmp = (expr);                                                         \
  if (!tmp) return tl::unexpected<::wayside::Error>(std::move(tmp).error()); \
  decl = std::move(*tmp)
#define WS_ASSIGN(decl, expr) WS_ASSIGN_INNER(WS_CONCAT(ws_result_, __COUNTER__), decl, expr)
