// The HTTP sink: POST of NDJSON through libcurl (http_sink.cc alone includes it), gzip, one
// connection that is kept. Source: RFC 9110 for the meaning of status codes; the header
// Idempotency-Key as in draft-ietf-httpapi-idempotency-key-header-07.
// Thread: one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "bridge/sink.h"

namespace wayside {

struct HttpSinkOptions {
  std::string url;
  std::string bridge;
  std::string token_file, ca_file;
  std::int64_t timeout_ms = 30'000;  // without any progress
  bool gzip = true;
};

[[nodiscard]] Result<std::unique_ptr<Sink>> make_http_sink(const HttpSinkOptions& options);

}  // namespace wayside
