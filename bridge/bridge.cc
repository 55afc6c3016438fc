#include "bridge/bridge.h"

#include <algorithm>
#include <future>

#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kFirstPauseMs = 500;
constexpr std::int64_t kRetryAfterMostMs = 3'600'000;
constexpr std::int64_t kIdleMs = 1000;

}  // namespace

Bridge::Bridge(const BridgeOptions& options, std::unique_ptr<Sink> sink, Log& log,
               BatchSink& commits, const Clock& clock, Logger& logger)
    : options_(options),
      sink_(std::move(sink)),
      log_(log),
      commits_(commits),
      clock_(clock),
      logger_(logger),
      unsent_(options.name, options.topics, log, logger),
      prober_(log),
      records_most_(options.batch_records),
      random_(std::random_device{}()) {
  set_paused(options.paused);
  thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
}

void Bridge::wait_stopped() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Bridge::~Bridge() {
  wait_stopped();
  do_edits();
}

BridgeStatus Bridge::status() const {
  const MutexLock lock(mutex_);
  return status_;
}

void Bridge::set_paused(bool paused) {
  {
    const MutexLock lock(mutex_);
    status_.paused = paused;
  }
  wake_.notify_all();
}

void Bridge::edit(std::function<void()> work) {
  {
    const MutexLock lock(mutex_);
    edits_.push_back(std::move(work));
  }
  wake_.notify_all();
}

bool Bridge::has_edits() const {
  const MutexLock lock(mutex_);
  return !edits_.empty();
}

void Bridge::do_edits() {
  std::vector<std::function<void()>> edits;
  {
    const MutexLock lock(mutex_);
    edits.swap(edits_);
  }
  for (const auto& work : edits) work();
}

void Bridge::wait_while_paused(std::stop_token stop) {
  const auto go_on = [&]() REQUIRES_LOCK(mutex_) { return !status_.paused || !edits_.empty(); };
  mutex_.lock();
  const bool now = go_on();
  mutex_.unlock();
  if (now) return;
  set_state("paused by 'wayside bridge pause'");
  mutex_.lock();
  wake_.wait(mutex_, stop, go_on);
  mutex_.unlock();
  set_state("going on");
}

void Bridge::set_state(std::string state) {
  const MutexLock lock(mutex_);
  if (status_.state == state) return;
  status_.state = std::move(state);
  status_.since_ms = clock_.wall_ms();
}

// An error of the log (a full disk, a lock) is not the end of a bridge: it starts over from what
// is committed.
void Bridge::run(std::stop_token stop) {
  while (!stop.stop_requested()) {
    const Status status = run_until_error(stop);
    do_edits();
    if (status) continue;
    log_.report_damage(status.error());
    logger_.repeated(LogLevel::error, cat("bridge.", options_.name, ".log"),
                     cat("bridge ", options_.name, ": ", status.error().text()));
    pause({Verdict::retry, status.error().what, {}}, stop, false);
  }
}

Status Bridge::load(LogReader& reader) {
  std::vector<Op> ops;
  WS_TRY(unsent_.load(reader, ops));
  WS_ASSIGN(again_, reader.resends(options_.name));
  WS_ASSIGN(identities_, reader.identities());
  held_.reset();
  if (ops.empty()) return {};
  return commit(std::move(ops));
}

Status Bridge::run_until_error(std::stop_token stop) {
  WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
  WS_TRY(load(reader));
  // Older records that come back from a damaged file go before newer ones.
  for (bool waits = true; waits && !stop.stop_requested() && !has_edits();) {
    waits = false;
    for (const Lane& lane : unsent_.lanes()) {
      WS_ASSIGN(const bool salvaging, reader.is_salvaging(lane.tps));
      waits = waits || salvaging;
    }
    if (!waits) break;
    set_state("waiting until a damaged file has been salvaged");
    log_.wait_for_commit(INT64_MAX, kIdleMs, stop);
  }
  WS_TRY(load(reader));
  prober_.reset();
  // What was tried when the gateway stopped was perhaps taken; that is known before all else.
  WS_ASSIGN(auto tried, resume(reader, BatchKind::probe));
  if (tried) {
    WS_ASSIGN([[maybe_unused]] const Probed probed, send_probe(*tried, true, stop));
  }
  WS_ASSIGN(auto again, resume(reader, BatchKind::again));
  WS_ASSIGN(auto next, resume(reader, BatchKind::next));
  while (!stop.stop_requested() && !has_edits()) {
    wait_while_paused(stop);
    if (stop.stop_requested() || has_edits()) break;
    const std::int64_t commits = log_.stats().commits;
    // What was sealed goes first: a probe of what is sent once more would take records out of it.
    if (next) {
      WS_TRY(send_until_settled(reader, std::move(*next), stop));
      next.reset();
      continue;
    }
    if (!again && !again_.empty()) {
      WS_ASSIGN(again, next_again(reader));
      if (again) WS_TRY(commit({Seal{seal_name(options_.name, again->kind), again->range}}));
    }
    if (again) {
      WS_TRY(send_until_settled(reader, std::move(*again), stop));
      again.reset();
      continue;
    }
    WS_ASSIGN(next, next_batch(reader, stop));
    if (next) {
      WS_TRY(commit({Seal{options_.name, next->range}}));
      continue;
    }
    set_state("waiting for readings");
    blame_.forget();
    content_status_ = 0;
    const auto left = linger_left_ms();
    log_.wait_for_commit(left ? INT64_MAX : commits,
                         std::clamp<std::int64_t>(left.value_or(kIdleMs), 1, kIdleMs), stop);
  }
  return {};
}

// Whether a record of a sealed range is of the batch.
bool Bridge::belongs(BatchKind kind, const StoredRecord& r) const {
  if (kind != BatchKind::again) return unsent_.is_unsent(r);
  return std::any_of(again_.begin(), again_.end(), [&](const Resend& a) {
    return a.tp == r.tp && a.from <= r.offset && r.offset < a.to;
  });
}

// What was sealed when the gateway stopped goes out again, the same, under the same key, also when
// the log was renewed, or has another id since.
Result<std::optional<SealedBatch>> Bridge::resume(LogReader& reader, BatchKind kind) {
  const std::string name = seal_name(options_.name, kind);
  WS_ASSIGN(const auto range, reader.sealed(name));
  if (!range) return std::optional<SealedBatch>{};
  // A topic may have been deleted since, or taken out of the configuration: what is left is sent.
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  std::vector<TpId> tps = range->tps;
  std::erase_if(tps, [&](TpId tp) { return catalog.find(tp) == nullptr; });
  std::vector<StoredRecord> records;
  if (!tps.empty()) {
    ReadLimits all;
    all.records = static_cast<std::size_t>(range->rows) + 1;
    all.bytes = SIZE_MAX;
    // Some records in the range may be settled already, so it is read to its end.
    for (Seq from = range->first;;) {
      WS_ASSIGN(auto page, reader.read(range->chain, from, tps, all, range->last));
      std::erase_if(page.records, [&](const StoredRecord& r) { return !belongs(kind, r); });
      std::move(page.records.begin(), page.records.end(), std::back_inserter(records));
      from = page.next;
      if (page.at_end || from > range->last) break;
    }
  }
  if (records.empty()) {
    WS_TRY(commit({Unseal{name}}));
    return std::optional<SealedBatch>{};
  }
  std::string key = range->idempotency_key;
  if (key.empty()) {
    WS_ASSIGN(key, old_key(reader, *range));
  }
  SealedBatch sealed = make_sealed(kind, catalog, range->chain, tps, std::move(records), key);
  if (sealed.range.rows == range->rows && sealed.range.crc == range->crc && tps == range->tps) {
    return std::optional(std::move(sealed));
  }
  logger_.warning(cat("bridge ", options_.name, ": a sealed batch is no longer whole (",
                      sealed.range.rows, " of ", range->rows,
                      " records are left); what is left is sent under a new key"));
  sealed = seal(kind, range->chain, tps, std::move(sealed.records));
  WS_TRY(commit({Seal{name, sealed.range}}));
  return std::optional(std::move(sealed));
}

// As version 3 made it, for a batch that it had sealed in a file that has been set aside since.
Result<std::string> Bridge::old_key(LogReader& reader, const SealedRange& range) const {
  WS_ASSIGN(const auto log_uuid, reader.fact("renewed_from"));
  const Identity& id = log_.identity();
  return cat(id.gateway_id, ".", log_uuid.value_or(id.log_uuid), ".", options_.name, ".",
             range.first.value, "-", range.last.value, "-", range.rows);
}

SealedBatch Bridge::seal(BatchKind kind, ChainId chain, const std::vector<TpId>& tps,
                         std::vector<StoredRecord> records) const {
  // Records keep the identity of the log that they were stored under, and a batch has one.
  Identity identity = log_.identity();
  const auto next = identities_.upper_bound(records.front().seq);
  if (next != identities_.begin()) identity.log_uuid = std::prev(next)->second;
  if (next != identities_.end()) {
    std::erase_if(records, [&](const StoredRecord& r) { return r.seq >= next->first; });
  }
  return make_sealed(kind, *log_.catalog(), chain, tps, std::move(records),
                     new_key(identity, options_.name));
}

Result<std::optional<SealedBatch>> Bridge::next_batch(LogReader& reader, std::stop_token stop) {
  auto& lanes = unsent_.lanes();
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    WS_ASSIGN(auto sealed, fill(reader, lanes[(next_lane_ + i) % lanes.size()], stop));
    if (!sealed) continue;
    next_lane_ = (next_lane_ + i + 1) % lanes.size();
    return sealed;
  }
  return std::optional<SealedBatch>{};
}

Result<std::optional<SealedBatch>> Bridge::fill(LogReader& reader, Lane& lane,
                                                std::stop_token stop) {
  const ReadLimits limits{static_cast<std::size_t>(records_most_),
                          static_cast<std::size_t>(options_.batch_bytes)};
  WS_ASSIGN(auto found, unsent_.next(reader, lane, limits, stop));
  if (found.records.empty()) return std::optional<SealedBatch>{};
  // A batch that is not full waits for more, but not for ever.
  const std::int64_t now = clock_.steady_ms();
  if (found.at_end) {
    if (lane.waiting_since_ms == 0) lane.waiting_since_ms = std::max<std::int64_t>(now, 1);
    if (now - lane.waiting_since_ms < options_.linger_ms) return std::optional<SealedBatch>{};
  }
  lane.waiting_since_ms = 0;
  return std::optional(seal(BatchKind::next, lane.chain, lane.tps, std::move(found.records)));
}

std::optional<std::int64_t> Bridge::linger_left_ms() const {
  std::optional<std::int64_t> least;
  for (const Lane& lane : unsent_.lanes()) {
    if (lane.waiting_since_ms == 0) continue;
    const std::int64_t left = options_.linger_ms - (clock_.steady_ms() - lane.waiting_since_ms);
    least = std::min(least.value_or(left), left);
  }
  return least;
}

SinkReply Bridge::send(const SealedBatch& sealed, std::stop_token stop) {
  if (failures_ == 0) set_state("sending");
  const std::int64_t begin_ms = clock_.steady_ms();
  SinkReply reply = sink_->send(sealed.batch, stop);
  if (reply.verdict == Verdict::delivered) {
    note_delivered(sealed.range.rows, clock_.steady_ms() - begin_ms);
    blame_.taken(sealed.kind == BatchKind::probe);
  }
  const MutexLock lock(mutex_);
  if (const std::string note = sink_->note(); note != status_.note) {
    if (!note.empty()) logger_.warning(cat("bridge ", options_.name, ": ", note));
    status_.note = note;
  }
  return reply;
}

void Bridge::note_delivered(std::int64_t records, std::int64_t ms) {
  if (failures_ > 0) logger_.info(cat("bridge ", options_.name, ": upstream takes again"));
  failures_ = 0;
  others_refused_ = -1;
  const MutexLock lock(mutex_);
  const double rate = static_cast<double>(records) * 1000 /
                      static_cast<double>(std::max<std::int64_t>(ms, 1));
  status_.records_per_s =
      status_.records_per_s == 0 ? rate : 0.9 * status_.records_per_s + 0.1 * rate;
  status_.records_sent += records;
  ++status_.batches_sent;
  status_.last_delivered_ms = clock_.wall_ms();
  status_.failing = false;
}

// Commits and waits until it is done.
Status Bridge::commit(std::vector<Op> ops) {
  auto done = std::make_shared<std::promise<Status>>();
  std::future<Status> result = done->get_future();
  Batch batch;
  batch.ops = std::move(ops);
  batch.flush_now = true;
  batch.done = [done](Batch&, const Status& status) { done->set_value(status); };
  commits_.submit(std::move(batch));
  return result.get();
}

// Between half of a bound that doubles and all of it: a link that is away, too, costs a try only
// every retry_max, and many gateways do not come back in step.
void Bridge::pause(const SinkReply& reply, std::stop_token stop, bool sending) {
  ++failures_;
  std::int64_t most = std::min(options_.retry_max_ms, kFirstPauseMs << std::min(failures_ - 1, 20));
  if (reply.verdict == Verdict::misconfigured) most = options_.retry_max_ms;
  std::int64_t ms = std::uniform_int_distribution<std::int64_t>(std::max<std::int64_t>(most / 2, 1),
                                                                most)(random_);
  if (reply.retry_after_ms) ms = std::max(ms, std::min(*reply.retry_after_ms, kRetryAfterMostMs));
  set_state(cat(reply.verdict == Verdict::unreachable     ? "upstream unreachable: "
                : reply.verdict == Verdict::misconfigured ? "upstream refuses us: "
                                                          : "trying again: ",
                reply.what));
  logger_.repeated(LogLevel::warning, cat("bridge.", options_.name),
                   cat("bridge ", options_.name, ": ", reply.what, "; trying again for ever"));
  MutexLock lock(mutex_);
  ++status_.tries_failed;
  status_.failing = true;
  wake_.wait_for(mutex_, stop, std::chrono::milliseconds(ms),
                 [&]() REQUIRES_LOCK(mutex_) {
                   return (sending && status_.paused) || !edits_.empty();
                 });
}

}  // namespace wayside
