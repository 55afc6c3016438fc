#include "bridge/http_sink.h"

#include <curl/curl.h>
#include <sys/socket.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr int kConnectTimeoutMs = 10'000;
constexpr int kSendBufferBytes = 32 * 1024;

Result<std::string> gzipped(const std::string& in) {
  z_stream z{};
  if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    return fail(ErrorCode::io, "gzip could not be started");
  }
  std::string out(deflateBound(&z, static_cast<uLong>(in.size())), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  const int rc = deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  if (rc != Z_STREAM_END) return fail(ErrorCode::io, "gzip failed");
  return out;
}

// What lies in the kernel's send buffer counts as sent: on a slow link that must not be much.
int bound_send_buffer(void*, curl_socket_t socket, curlsocktype) noexcept {
  const int bytes = kSendBufferBytes;
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  return CURL_SOCKOPT_OK;
}

struct FreeEasy {
  void operator()(CURL* p) const { curl_easy_cleanup(p); }
};
struct FreeMulti {
  void operator()(CURLM* p) const { curl_multi_cleanup(p); }
};
struct FreeList {
  void operator()(curl_slist* p) const { curl_slist_free_all(p); }
};

// Of an answer this much is read; a longer one ends the request: its status has been seen by then.
std::size_t keep_reply(char* data, std::size_t, std::size_t n, void* to) noexcept {
  auto& reply = *static_cast<std::string*>(to);
  if (reply.size() + n > limits::kReplyBytesMax) return 0;
  reply.append(data, n);
  return n;
}

// Bytes that went up are progress; those of the answer are not: an answer may take the timeout in
// all, however it drips.
struct Progress {
  std::chrono::steady_clock::time_point since;
  curl_off_t uploaded = 0;
  std::int64_t timeout_ms = 0;
};
int watch(void* p, curl_off_t, curl_off_t, curl_off_t, curl_off_t uploaded) noexcept {
  auto& progress = *static_cast<Progress*>(p);
  const auto now = std::chrono::steady_clock::now();
  if (uploaded > progress.uploaded) progress.uploaded = uploaded, progress.since = now;
  return now - progress.since > std::chrono::milliseconds(progress.timeout_ms) ? 1 : 0;
}

Verdict verdict_of(long status) {
  if (status >= 200 && status < 300) return Verdict::delivered;
  switch (status) {
    case 400:
    case 422:
      return Verdict::refused;
    case 413:
      return Verdict::too_large;
    case 408:
    case 425:
    case 429:
      return Verdict::retry;
    default:
      return status >= 500 ? Verdict::retry : Verdict::misconfigured;
  }
}

// Counted by libcurl, and safe beside other threads since its 7.84. Only who forwards by HTTP pays
// for it: OpenSSL's start alone is 2 MB of memory.
struct CurlLibrary {
  CurlLibrary() { curl_global_init(CURL_GLOBAL_DEFAULT); }
  ~CurlLibrary() { curl_global_cleanup(); }
  CurlLibrary(const CurlLibrary&) = delete;
  CurlLibrary& operator=(const CurlLibrary&) = delete;
};

class HttpSink final : public Sink {
 public:
  explicit HttpSink(const HttpSinkOptions& options) : options_(options) {}

  Status init() {
    easy_.reset(curl_easy_init());
    multi_.reset(curl_multi_init());
    if (!easy_ || !multi_) return fail(ErrorCode::io, "libcurl could not be started");
    CURL* e = easy_.get();
    curl_easy_setopt(e, CURLOPT_URL, options_.url.c_str());
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_POST, 1L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS,
                     std::min<long>(kConnectTimeoutMs, static_cast<long>(options_.timeout_ms)));
    // A dead link is one without progress; a slow one may take its time.
    curl_easy_setopt(e, CURLOPT_SOCKOPTFUNCTION, bound_send_buffer);
    curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, watch);
    curl_easy_setopt(e, CURLOPT_XFERINFODATA, &progress_);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);  // a dead resolver must not hold up a stop
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, keep_reply);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, &reply_);
    if (!options_.ca_file.empty()) curl_easy_setopt(e, CURLOPT_CAINFO, options_.ca_file.c_str());
    return {};
  }

  SinkReply send(const OutgoingBatch& batch, std::stop_token stop) override {
    std::string compressed;
    const std::string* body = &batch.body;
    if (options_.gzip) {
      auto packed = gzipped(batch.body);
      if (!packed) return {Verdict::retry, packed.error().what, {}};
      compressed = std::move(*packed);
      body = &compressed;
    }
    auto headers = make_headers(batch);
    if (!headers) return {Verdict::misconfigured, headers.error().text(), {}};
    CURL* e = easy_.get();
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers->get());
    curl_easy_setopt(e, CURLOPT_POSTFIELDS, body->data());
    curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body->size()));
    reply_.clear();
    progress_ = {std::chrono::steady_clock::now(), 0, options_.timeout_ms};
    const CURLcode code = perform(stop);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, nullptr);
    if (stop.stop_requested()) return {Verdict::stopped, "stopped", {}};
    return judge(code);
  }

 private:
  using Headers = std::unique_ptr<curl_slist, FreeList>;

  Result<Headers> make_headers(const OutgoingBatch& batch) const {
    Headers list;
    const auto add = [&](const std::string& line) {
      list.reset(curl_slist_append(list.release(), line.c_str()));
    };
    add("Content-Type: application/x-ndjson");
    if (options_.gzip) add("Content-Encoding: gzip");
    add("Expect:");  // no round trip before the body
    add(cat("Idempotency-Key: \"", batch.idempotency_key, "\""));
    add(cat("X-Wayside-Gateway: ", batch.gateway_id));
    add(cat("X-Wayside-Log: ", batch.log_uuid));
    add(cat("X-Wayside-Bridge: ", options_.bridge));
    add(cat("X-Wayside-Records: ", batch.records));
    if (!options_.token_file.empty()) {
      WS_ASSIGN(std::string token, read_file(options_.token_file));
      while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
      if (token.empty() || token.find_first_of("\r\n") != std::string::npos) {
        return fail(ErrorCode::invalid_argument, cat(options_.token_file, " holds no token"),
                    "write the bearer token into it, in one line");
      }
      add("Authorization: Bearer " + token);
    }
    return list;
  }

  // Through a multi handle, so that a stop need not wait for the network.
  CURLcode perform(std::stop_token stop) {
    CURLM* m = multi_.get();
    curl_multi_add_handle(m, easy_.get());
    const std::stop_callback wake(stop, [m] { curl_multi_wakeup(m); });
    CURLcode result = CURLE_FAILED_INIT;  // until the transfer says otherwise
    int running = 1;
    while (running > 0 && !stop.stop_requested()) {
      if (curl_multi_perform(m, &running) != CURLM_OK) break;
      if (running > 0) curl_multi_poll(m, nullptr, 0, 200, nullptr);
    }
    int left = 0;
    while (const CURLMsg* msg = curl_multi_info_read(m, &left)) {
      if (msg->msg == CURLMSG_DONE) result = msg->data.result;
    }
    curl_multi_remove_handle(m, easy_.get());
    return result;
  }

  SinkReply judge(CURLcode code) {
    long status = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &status);
    const bool too_long = code == CURLE_WRITE_ERROR && status != 0;
    if (code != CURLE_OK && !too_long) {
      const bool away = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
                        code == CURLE_COULDNT_RESOLVE_PROXY;
      const std::string what =
          code == CURLE_ABORTED_BY_CALLBACK
              ? cat("no progress, or no whole answer, within ", options_.timeout_ms, " ms")
          : code == CURLE_WRITE_ERROR
              ? cat("an answer of more than ", limits::kReplyBytesMax, " bytes")
              : std::string(curl_easy_strerror(code));
      return {away ? Verdict::unreachable : Verdict::retry, what, {}};
    }
    std::string what = cat("HTTP ", status);
    if (!reply_.empty()) what += ": " + printable(std::string_view(reply_).substr(0, 200));
    SinkReply reply{verdict_of(status), std::move(what), {}};
    curl_off_t seconds = 0;
    if (curl_easy_getinfo(easy_.get(), CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK && seconds > 0) {
      seconds = std::min<curl_off_t>(seconds, 86'400);
      reply.retry_after_ms = static_cast<std::int64_t>(seconds) * 1000;
    }
    return reply;
  }

  HttpSinkOptions options_;
  CurlLibrary library_;
  std::unique_ptr<CURL, FreeEasy> easy_;
  std::unique_ptr<CURLM, FreeMulti> multi_;
  std::string reply_;
  Progress progress_;
};

}  // namespace

Result<std::unique_ptr<Sink>> make_http_sink(const HttpSinkOptions& options) {
  auto sink = std::make_unique<HttpSink>(options);
  WS_TRY(sink->init());
  return sink;
}

}  // namespace wayside
