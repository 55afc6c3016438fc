#include "bridge/http_sink.h"

#include <curl/curl.h>
#include <sys/socket.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr int kConnectTimeoutMs = 10'000;
constexpr int kSendBufferBytes = 32 * 1024;
// Of refusals in a row, at each so many it is asked anew whether gzip is what is refused.
constexpr int kRefusedMost = 8;

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
    case 501:  // somebody must mend these, too: the upstream cannot do this at all
    case 505:
    case 511:  // a portal that says so
      return Verdict::misconfigured;
    default:
      return status >= 500 ? Verdict::retry : Verdict::misconfigured;
  }
}

// Not those that speak of the upstream's load, of a proxy, or of whether it can be reached.
bool may_be_of_content(long status) {
  switch (status) {
    case 407:
    case 408:
    case 425:
    case 429:
    case 502:
    case 503:
    case 504:
    case 511:
      return false;
    default:
      return status >= 400;
  }
}

// What an upstream may answer that takes compressed bytes for NDJSON.
bool may_be_of_gzip(long status) {
  return status == 400 || status == 406 || status == 415 || status == 422 || status == 500 ||
         status == 501;
}

// A page for people: a portal, or a proxy, has answered instead of the upstream. "text/html" alone
// is what some frameworks say of a plain "ok".
bool is_page(std::string_view type, bool encoded, std::string_view body) {
  std::string head(body.substr(0, 1024));
  std::transform(head.begin(), head.end(), head.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  });
  const std::size_t begin = head.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  const std::string_view text =
      begin == std::string::npos ? std::string_view() : std::string_view(head).substr(begin);
  if (text.starts_with("<!doctype html") || text.starts_with("<html")) return true;
  const bool html = type.starts_with("text/html") || type.starts_with("application/xhtml");
  return html && (body.find('<') != std::string_view::npos || (encoded && !body.empty()));
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
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error_.data());
    if (!options_.ca_file.empty()) curl_easy_setopt(e, CURLOPT_CAINFO, options_.ca_file.c_str());
    return {};
  }

  SinkReply send(const OutgoingBatch& batch, std::stop_token stop) override {
    const bool gzip = options_.gzip && plain_because_.empty();
    SinkReply reply = send_as(batch, gzip, stop);
    const long status = status_;
    if (reply.verdict == Verdict::delivered) {
      if (gzip) gzip_taken_ = true;
      refused_ = 0;
      return reply;
    }
    if (!gzip || !may_be_of_gzip(status)) return reply;
    // Where gzip was taken before, or the fault seems to be another, it is asked only now and then.
    const bool doubted = !gzip_taken_ && status < 500 && refused_ < kRefusedMost / 2;
    if (++refused_ % kRefusedMost != 0 && !doubted && status != 415) return reply;
    SinkReply plain = send_as(batch, false, stop);
    if (plain.verdict == Verdict::delivered) plain_because_ = reply.what;
    return plain;
  }

  std::string note() const override {
    if (plain_because_.empty()) return {};
    return cat("it is sent without gzip, which the upstream does not take (", plain_because_,
               "); gzip = false in its [[bridge]] says so from the start");
  }

 private:
  using Headers = std::unique_ptr<curl_slist, FreeList>;

  SinkReply send_as(const OutgoingBatch& batch, bool gzip, std::stop_token stop) {
    status_ = 0;
    std::string compressed;
    const std::string* body = &batch.body;
    if (gzip) {
      auto packed = gzipped(batch.body);
      if (!packed) return {Verdict::retry, packed.error().what, {}};
      compressed = std::move(*packed);
      body = &compressed;
    }
    auto headers = make_headers(batch, gzip);
    if (!headers) return {Verdict::misconfigured, headers.error().text(), {}};
    CURL* e = easy_.get();
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers->get());
    curl_easy_setopt(e, CURLOPT_POSTFIELDS, body->data());
    curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body->size()));
    reply_.clear();
    error_.fill('\0');
    progress_ = {std::chrono::steady_clock::now(), 0, options_.timeout_ms};
    const CURLcode code = perform(stop);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, nullptr);
    if (stop.stop_requested()) return {Verdict::stopped, "stopped", {}};
    return judge(code);
  }

  Result<Headers> make_headers(const OutgoingBatch& batch, bool gzip) const {
    Headers list;
    const auto add = [&](const std::string& line) {
      list.reset(curl_slist_append(list.release(), line.c_str()));
    };
    add("Content-Type: application/x-ndjson");
    if (gzip) add("Content-Encoding: gzip");
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

  SinkReply broken_off(std::string what) const {
    curl_off_t sent = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_SIZE_UPLOAD_T, &sent);
    SinkReply reply{Verdict::retry, std::move(what), {}};
    if (sent > 0) reply.status = SinkReply::kBrokenOff;
    return reply;
  }

  // There was no answer.
  SinkReply no_answer(CURLcode code) {
    switch (code) {
      case CURLE_COULDNT_CONNECT:
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_COULDNT_RESOLVE_PROXY:
      case CURLE_OPERATION_TIMEDOUT:
        return {Verdict::unreachable, curl_easy_strerror(code), {}};
      case CURLE_ABORTED_BY_CALLBACK:
        return broken_off(
            cat("no progress, or no whole answer, within ", options_.timeout_ms, " ms"));
      case CURLE_GOT_NOTHING:
      case CURLE_SEND_ERROR:
      case CURLE_RECV_ERROR:
      case CURLE_PARTIAL_FILE:
      case CURLE_HTTP2:
      case CURLE_HTTP2_STREAM:
        return broken_off(curl_easy_strerror(code));
      case CURLE_WRITE_ERROR:
        return {Verdict::retry,
                cat("an answer of more than ", limits::kReplyBytesMax, " bytes"),
                {}};
      case CURLE_PEER_FAILED_VERIFICATION:
      case CURLE_SSL_CACERT_BADFILE: {
        const std::string why = printable(error_.data());
        const bool time = why.find("not yet valid") != std::string::npos ||
                          why.find("expired") != std::string::npos;
        return {Verdict::misconfigured,
                cat(why.empty() ? curl_easy_strerror(code) : why,
                    time ? " (is the clock of this gateway right?)"
                         : " (ca_file of the [[bridge]] names whose certificates are believed)"),
                {}};
      }
      default: {
        long proxy = 0;
        curl_easy_getinfo(easy_.get(), CURLINFO_HTTP_CONNECTCODE, &proxy);
        if (proxy >= 300) return {Verdict::misconfigured, cat("the proxy: HTTP ", proxy), {}};
        return {Verdict::retry, curl_easy_strerror(code), {}};
      }
    }
  }

  SinkReply judge(CURLcode code) {
    CURL* e = easy_.get();
    curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status_);
    const bool too_long = code == CURLE_WRITE_ERROR && status_ != 0;
    if (code != CURLE_OK && !too_long) {
      status_ = 0;
      return no_answer(code);
    }
    std::string what = cat("HTTP ", status_);
    if (!reply_.empty()) what += ": " + printable(std::string_view(reply_).substr(0, 200));
    SinkReply reply{verdict_of(status_), std::move(what), {}, may_be_of_content(status_)};
    // A proxy says 502 when the upstream behind it broke off.
    reply.status = status_ == 502         ? SinkReply::kBrokenOff
                   : reply.maybe_content ? static_cast<int>(status_)
                                         : 0;
    if (status_ >= 300 && status_ < 400) {
      reply.what = cat("HTTP ", status_, ", a redirection, which is not followed");
    }
    const char* type = nullptr;
    curl_easy_getinfo(e, CURLINFO_CONTENT_TYPE, &type);
    curl_header* encoding = nullptr;
    const bool encoded = curl_easy_header(e, "Content-Encoding", 0, CURLH_HEADER, -1, &encoding) ==
                         CURLHE_OK;
    std::string kind = type == nullptr ? "" : type;
    std::transform(kind.begin(), kind.end(), kind.begin(), [](unsigned char c) {
      return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    });
    if (reply.verdict == Verdict::delivered && is_page(kind, encoded, reply_)) {
      reply.verdict = Verdict::misconfigured;
      reply.what = cat("HTTP ", status_, " with a web page: a portal or a proxy answers instead of"
                       " the upstream, and nothing counts as delivered");
    }
    curl_off_t seconds = 0;
    if (curl_easy_getinfo(e, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK && seconds > 0) {
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
  std::array<char, CURL_ERROR_SIZE> error_{};
  long status_ = 0;  // of the last answer; 0: there was none
  Progress progress_;
  bool gzip_taken_ = false;     // by this upstream, since the start
  std::string plain_because_;   // not empty: gzip is not taken, until the next start
  int refused_ = 0;             // answers in a row that may be about gzip
};

}  // namespace

Result<std::unique_ptr<Sink>> make_http_sink(const HttpSinkOptions& options) {
  auto sink = std::make_unique<HttpSink>(options);
  WS_TRY(sink->init());
  return sink;
}

}  // namespace wayside
