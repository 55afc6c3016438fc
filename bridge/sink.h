// Where a bridge sends to. A sink sends one sealed batch and says what became of it; it keeps
// nothing and decides nothing: what a verdict leads to is the bridge's. Thread: the bridge's.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

namespace wayside {

struct OutgoingBatch {
  std::string body;                  // NDJSON: one record a line
  std::string idempotency_key;       // the same at every try of the same batch
  std::string gateway_id, log_uuid;  // whose offsets these are; of the log as it was then
  std::int64_t records = 0;
};

enum class Verdict {
  delivered,
  retry,          // the upstream is busy or broken: soon again
  unreachable,    // no connection: the link is away
  misconfigured,  // it answers, but not to us (401, 404, a portal, …): somebody must mend that
  too_large,
  refused,  // it says that the content is wrong
  stopped,  // a stop was asked for before there was an answer
};

struct SinkReply {
  Verdict verdict = Verdict::retry;
  std::string what;  // "HTTP 503: try later", "connection refused"
  std::optional<std::int64_t> retry_after_ms;
  bool maybe_content = false;  // an answer that one record may be the cause of, too: 403, 500, …
  // HTTP's; kBrokenOff: the connection ended while the upstream had the batch, and a record that
  // makes it crash may be the cause. 0: it says nothing about the content.
  int status = 0;
  static constexpr int kBrokenOff = -1;
};

class Sink {
 public:
  virtual ~Sink() = default;
  [[nodiscard]] virtual SinkReply send(const OutgoingBatch& batch, std::stop_token stop) = 0;
  // What is not as it was configured, in words, while it works all the same.
  [[nodiscard]] virtual std::string note() const { return {}; }
};

}  // namespace wayside
