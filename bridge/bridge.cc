#include "bridge/bridge.h"

#include <algorithm>
#include <future>

#include "base/check.h"
#include "base/checksum.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kFirstPauseMs = 500;
// While the link is away a try costs a few packets: often, so that it drains as soon as it is back.
constexpr std::int64_t kUnreachablePauseMs = 2000;
constexpr std::int64_t kRetryAfterMostMs = 3'600'000;
constexpr std::int64_t kIdleMs = 1000;
constexpr int kRefusedMost = 10;
constexpr std::size_t kUuidBytes = 36;

}  // namespace

Bridge::Bridge(const BridgeOptions& options, std::unique_ptr<Sink> sink, Log& log,
               BatchSink& commits, const Clock& clock, Logger& logger)
    : options_(options),
      sink_(std::move(sink)),
      log_(log),
      commits_(commits),
      clock_(clock),
      logger_(logger),
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

void Bridge::wait_while_paused(std::stop_token stop) {
  const auto resumed = [&]() REQUIRES_LOCK(mutex_) { return !status_.paused; };
  mutex_.lock();
  const bool now = resumed();
  mutex_.unlock();
  if (now) return;
  set_state("paused by 'wayside bridge pause'");
  mutex_.lock();
  wake_.wait(mutex_, stop, resumed);
  mutex_.unlock();
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
    if (status) continue;
    log_.report_damage(status.error());
    logger_.repeated(LogLevel::error, cat("bridge.", options_.name, ".log"),
                     cat("bridge ", options_.name, ": ", status.error().text()));
    pause({Verdict::retry, status.error().what, {}}, stop, false);
  }
}

Status Bridge::run_until_error(std::stop_token stop) {
  WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
  WS_TRY(find_positions(reader));
  // Older records that come back from a damaged file go before newer ones.
  for (bool waits = true; waits && !stop.stop_requested();) {
    waits = false;
    for (const Lane& lane : lanes_) {
      WS_ASSIGN(const bool salvaging, reader.is_salvaging(lane.tps));
      waits = waits || salvaging;
    }
    if (!waits) break;
    set_state("waiting until a damaged file has been salvaged");
    log_.wait_for_commit(INT64_MAX, kIdleMs, stop);
  }
  WS_TRY(find_positions(reader));
  WS_ASSIGN(std::optional<Sealed> sealed, resume_sealed(reader));
  while (!stop.stop_requested()) {
    wait_while_paused(stop);
    if (stop.stop_requested()) break;
    const std::int64_t commits = log_.stats().commits;
    if (!sealed) {
      WS_ASSIGN(sealed, next_batch(reader, stop));
      if (sealed) WS_TRY(commit({Seal{options_.name, sealed->range}}));
    }
    if (sealed) {
      WS_TRY(send_until_settled(reader, std::move(*sealed), stop));
      sealed.reset();
      continue;
    }
    set_state("waiting for readings");
    const auto left = linger_left_ms();
    log_.wait_for_commit(left ? INT64_MAX : commits,
                         std::clamp<std::int64_t>(left.value_or(kIdleMs), 1, kIdleMs), stop);
  }
  return {};
}

Status Bridge::find_positions(LogReader& reader) {
  lanes_.clear();
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  WS_ASSIGN(const auto committed, reader.positions(group(options_.name)));
  for (const std::string& name : options_.topics) {
    const Topic* topic = catalog.find(name);
    if (topic == nullptr) return tl::unexpected<Error>(catalog.unknown_topic(name));
    auto lane = std::find_if(lanes_.begin(), lanes_.end(),
                             [&](const Lane& l) { return l.chain == topic->chain; });
    if (lane == lanes_.end()) {
      lanes_.emplace_back();
      lane = lanes_.end() - 1;
      lane->chain = topic->chain;
      // Read before the partitions' marks: whatever is committed from now on lies behind it.
      WS_ASSIGN(const std::int64_t first,
                reader.number(cat("SELECT first_seq FROM _ws_segments WHERE last_seq IS NULL"
                                  " AND chain=",
                                  lane->chain.value)));
      lane->next = Seq(first);
    }
    WS_ASSIGN(const auto marks, reader.marks(*topic));
    for (const PartitionMarks& m : marks) {
      const auto it = std::find_if(committed.begin(), committed.end(),
                                   [&](const GroupPosition& p) { return p.tp == m.tp; });
      const std::int64_t position = it == committed.end() ? m.log_start.value : it->next.value;
      lane->tps.push_back(m.tp);
      lane->position[m.tp] = position;
      lane->marks[m.tp] = m;
      if (position >= m.log_end.value) continue;
      WS_ASSIGN(const auto seq,
                reader.seq_of(topic->chain, m.tp, Offset(std::max(position, m.log_start.value))));
      if (seq) lane->next = std::min(lane->next, *seq);
    }
  }
  return {};
}

// What was sealed when the gateway stopped goes out again, the same, under the same key.
Result<std::optional<Bridge::Sealed>> Bridge::resume_sealed(LogReader& reader) {
  WS_ASSIGN(const auto range, reader.sealed(options_.name));
  if (!range) return std::optional<Sealed>{};
  const auto lane = std::find_if(lanes_.begin(), lanes_.end(),
                                 [&](const Lane& l) { return l.chain == range->chain; });
  if (lane == lanes_.end()) {
    WS_TRY(commit({Unseal{options_.name}}));  // its topics were taken out of the configuration
    return std::optional<Sealed>{};
  }
  // A topic may have been deleted since: what is left of the batch is sent.
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  const std::size_t sealed_tps = range->tps.size();
  std::vector<TpId> tps = range->tps;
  std::erase_if(tps, [&](TpId tp) { return catalog.find(tp) == nullptr; });
  if (tps.empty()) {
    WS_TRY(commit({Unseal{options_.name}}));
    return std::optional<Sealed>{};
  }
  Lane sealed_lane = *lane;
  sealed_lane.tps = tps;
  ReadLimits all;
  all.records = static_cast<std::size_t>(range->rows) + 1;
  all.bytes = SIZE_MAX;
  WS_ASSIGN(auto page, reader.read(range->chain, range->first, tps, all, range->last));
  std::erase_if(page.records, [&](const StoredRecord& r) {
    const auto position = lane->position.find(r.tp);
    return position != lane->position.end() && r.offset.value < position->second;
  });
  if (page.records.empty()) {
    WS_TRY(commit({Unseal{options_.name}}));
    return std::optional<Sealed>{};
  }
  std::string key = range->idempotency_key;
  if (key.empty()) {
    WS_ASSIGN(key, old_key(reader, *range));
  }
  Sealed sealed = make_sealed(sealed_lane, std::move(page.records), key);
  if (sealed.range.rows != range->rows || sealed.range.crc != range->crc ||
      tps.size() != sealed_tps) {
    sealed = make_sealed(sealed_lane, std::move(sealed.records), new_key());
    logger_.warning(cat("bridge ", options_.name, ": a sealed batch is no longer whole (",
                        sealed.range.rows, " of ", range->rows,
                        " records are left); what is left is sent under a new key"));
    WS_TRY(commit({Seal{options_.name, sealed.range}}));
  }
  return std::optional(std::move(sealed));
}

Result<std::optional<Bridge::Sealed>> Bridge::next_batch(LogReader& reader, std::stop_token stop) {
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    Lane& lane = lanes_[(next_lane_ + i) % lanes_.size()];
    WS_ASSIGN(auto sealed, fill(reader, lane, stop));
    if (!sealed) continue;
    next_lane_ = (next_lane_ + i + 1) % lanes_.size();
    return sealed;
  }
  return std::optional<Sealed>{};
}

Result<std::optional<Bridge::Sealed>> Bridge::fill(LogReader& reader, Lane& lane,
                                                   std::stop_token stop) {
  const ReadLimits limits{static_cast<std::size_t>(records_most_),
                          static_cast<std::size_t>(options_.batch_bytes)};
  LogReader::Page page;
  // What was sent already (by a topic that is further than its neighbours) is stepped over.
  do {
    WS_ASSIGN(page, reader.read(lane.chain, lane.next, lane.tps, limits));
    std::erase_if(page.records,
                  [&](const StoredRecord& r) { return r.offset.value < lane.position[r.tp]; });
    if (page.records.empty()) lane.next = page.next;
  } while (page.records.empty() && !page.at_end && !stop.stop_requested());
  if (page.records.empty()) return std::optional<Sealed>{};
  // A batch that is not full waits for more, but not for ever.
  const std::int64_t now = clock_.steady_ms();
  if (page.at_end) {
    if (lane.waiting_since_ms == 0) lane.waiting_since_ms = std::max<std::int64_t>(now, 1);
    if (now - lane.waiting_since_ms < options_.linger_ms) return std::optional<Sealed>{};
  }
  lane.waiting_since_ms = 0;
  return std::optional(make_sealed(lane, std::move(page.records), new_key()));
}

std::optional<std::int64_t> Bridge::linger_left_ms() const {
  std::optional<std::int64_t> least;
  for (const Lane& lane : lanes_) {
    if (lane.waiting_since_ms == 0) continue;
    const std::int64_t left = options_.linger_ms - (clock_.steady_ms() - lane.waiting_since_ms);
    least = std::min(least.value_or(left), left);
  }
  return least;
}

// A random part, so that no two logs that were one once (a copy, a card's image) ever have the same
// key for different records.
std::string Bridge::new_key() const {
  const Identity& id = log_.identity();
  return cat(id.gateway_id, ".", id.log_uuid, ".", options_.name, ".", random_128());
}

// As version 3 made it, for a batch that it had sealed in a file that has been set aside since.
Result<std::string> Bridge::old_key(LogReader& reader, const SealedRange& range) const {
  WS_ASSIGN(const auto log_uuid, reader.fact("renewed_from"));
  const Identity& id = log_.identity();
  return cat(id.gateway_id, ".", log_uuid.value_or(id.log_uuid), ".", options_.name, ".",
             range.first.value, "-", range.last.value, "-", range.rows);
}

Bridge::Sealed Bridge::make_sealed(const Lane& lane, std::vector<StoredRecord> records,
                                   const std::string& key) const {
  Sealed s;
  const auto catalog = log_.catalog();
  for (const StoredRecord& r : records) {
    append_record_json(s.batch.body, catalog->find(r.tp)->name, catalog->partition_of(r.tp),
                       r.offset, r.record);
    s.batch.body.push_back('\n');
  }
  s.range.chain = lane.chain;
  s.range.first = records.front().seq;
  s.range.last = records.back().seq;
  s.range.rows = static_cast<std::int64_t>(records.size());
  s.range.crc = crc32c(0, s.batch.body);
  s.range.tps = lane.tps;
  s.batch.records = s.range.rows;
  s.batch.idempotency_key = s.range.idempotency_key = key;
  // <gateway>.<log>.…: ids are UUIDs. The log may have got another id since the batch was sealed.
  s.batch.gateway_id = key.substr(0, kUuidBytes);
  s.batch.log_uuid = key.substr(std::min(key.size(), kUuidBytes + 1), kUuidBytes);
  s.records = std::move(records);
  return s;
}

Status Bridge::send_until_settled(LogReader& reader, Sealed sealed, std::stop_token stop) {
  std::optional<Sealed> now = std::move(sealed);
  while (now && !stop.stop_requested()) {
    wait_while_paused(stop);
    if (failures_ == 0) set_state("sending");
    const std::int64_t begin_ms = clock_.steady_ms();
    const SinkReply reply = sink_->send(now->batch, stop);
    switch (reply.verdict) {
      case Verdict::stopped:
        return {};
      case Verdict::delivered: {
        if (failures_ > 0) logger_.info(cat("bridge ", options_.name, ": upstream takes again"));
        failures_ = 0;
        refused_ = 0;
        const MutexLock lock(mutex_);
        const double ms =
            static_cast<double>(std::max<std::int64_t>(clock_.steady_ms() - begin_ms, 1));
        const double rate = static_cast<double>(now->range.rows) * 1000 / ms;
        status_.records_per_s =
            status_.records_per_s == 0 ? rate : 0.9 * status_.records_per_s + 0.1 * rate;
        status_.records_sent += now->range.rows;
        ++status_.batches_sent;
        status_.last_delivered_ms = clock_.wall_ms();
        break;
      }
      case Verdict::too_large:
      case Verdict::refused:
        if (now->range.rows > 1) {
          // Not taken as a whole, so it may be cut: halves find the record that is to blame.
          const auto half = static_cast<std::size_t>(now->range.rows / 2);
          records_most_ = static_cast<std::int64_t>(half);
          const Lane lane{now->range.chain, now->range.tps, {}, 0, {}};
          now->records.resize(half);
          now = make_sealed(lane, std::move(now->records), new_key());
          WS_TRY(commit({Seal{options_.name, now->range}}));
          continue;
        }
        // One record after the other: it is not the records that are wrong.
        if (++refused_ > kRefusedMost) {
          pause({Verdict::misconfigured, reply.what, {}}, stop);
          continue;
        }
        break;  // settled into quarantine
      default:
        pause(reply, stop);
        continue;
    }
    std::optional<Sealed> next;
    WS_TRY(settle(reader, *now, next, reply, stop));
    now = std::move(next);
  }
  return {};
}

// One transaction: the positions behind the batch, and the seal of the next one. A record that
// the upstream refuses even alone goes to quarantine in the same transaction.
Status Bridge::settle(LogReader& reader, const Sealed& sealed, std::optional<Sealed>& next,
                      const SinkReply& reply, std::stop_token stop) {
  const auto lane = std::find_if(lanes_.begin(), lanes_.end(),
                                 [&](const Lane& l) { return l.chain == sealed.range.chain; });
  std::vector<Op> ops;
  std::unordered_map<TpId, std::int64_t> moved;
  for (const StoredRecord& r : sealed.records) {
    if (lane != lanes_.end()) note_expired(*lane, r, ops);
    moved[r.tp] = r.offset.value + 1;
    if (lane != lanes_.end()) lane->position[r.tp] = r.offset.value + 1;
  }
  for (const auto& [tp, position] : moved) {
    ops.emplace_back(CommitOffset{group(options_.name), tp, Offset(position), ""});
  }
  if (reply.verdict == Verdict::delivered) {
    records_most_ = std::min(options_.batch_records, records_most_ * 2);
  } else {
    const StoredRecord& r = sealed.records.front();
    const auto catalog = log_.catalog();
    const Topic* topic = catalog->find(r.tp);
    WS_CHECK(topic != nullptr);  // a topic that a bridge forwards is not deleted
    const Topic* quarantine = catalog->find("quarantine");
    if (topic != quarantine) {  // what is there already stays there
      Append append;
      append.tp = quarantine->partitions.front().tp;
      append.record.key = r.record.key;
      append.record.value = r.record.value;
      append.record.headers = encode_headers({{"reason", "refused_upstream"},
                                              {"detail", reply.what},
                                              {"bridge", options_.name},
                                              {"topic", topic->name},
                                              {"partition", cat(catalog->partition_of(r.tp))},
                                              {"offset", cat(r.offset.value)}});
      ops.emplace_back(std::move(append));
    }
    ops.emplace_back(Count{"quarantined.refused_upstream", 1});
    logger_.repeated(LogLevel::warning, cat("bridge.", options_.name, ".poison"),
                     cat("bridge ", options_.name, ": the upstream refuses ", topic->name, " ",
                         catalog->partition_of(r.tp), ":", r.offset.value,
                         ", which goes to quarantine: ", reply.what));
  }
  // A batch sealed for other partitions says nothing of what this lane has read.
  if (lane != lanes_.end() && lane->tps == sealed.range.tps) {
    lane->next = Seq(std::max(lane->next.value, sealed.range.last.value + 1));
  }
  WS_ASSIGN(next, next_batch(reader, stop));
  if (next) {
    ops.emplace_back(Seal{options_.name, next->range});
  } else {
    ops.emplace_back(Unseal{options_.name});
  }
  return commit(std::move(ops));
}

void Bridge::note_expired(const Lane& lane, const StoredRecord& r, std::vector<Op>& ops) {
  const auto position = lane.position.find(r.tp);
  if (position == lane.position.end() || r.offset.value <= position->second) return;
  const std::int64_t between = r.offset.value - position->second;
  const auto marks = lane.marks.find(r.tp);
  const std::int64_t gone = marks == lane.marks.end()
                                ? between
                                : between - marks->second.missing(position->second, r.offset.value);
  if (gone <= 0) return;  // what was lost with a damaged file is named elsewhere
  ops.emplace_back(Count{cat("expired_unsent.", options_.name), gone});
  const auto catalog = log_.catalog();
  logger_.warning(cat("bridge ", options_.name, ": ", gone, " records of ",
                      catalog->find(r.tp)->name, " partition ", catalog->partition_of(r.tp),
                      " expired before they were sent"));
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

// Full jitter: anything between nothing and a bound that doubles.
void Bridge::pause(const SinkReply& reply, std::stop_token stop, bool sending) {
  ++failures_;
  std::int64_t most = std::min(options_.retry_max_ms, kFirstPauseMs << std::min(failures_ - 1, 20));
  if (reply.verdict == Verdict::unreachable) most = std::min(most, kUnreachablePauseMs);
  if (reply.verdict == Verdict::misconfigured) most = options_.retry_max_ms;
  std::int64_t ms =
      std::uniform_int_distribution<std::int64_t>(1, std::max<std::int64_t>(most, 1))(random_);
  if (reply.retry_after_ms) ms = std::max(ms, std::min(*reply.retry_after_ms, kRetryAfterMostMs));
  set_state(cat(reply.verdict == Verdict::unreachable     ? "upstream unreachable: "
                : reply.verdict == Verdict::misconfigured ? "upstream refuses us: "
                                                          : "trying again: ",
                reply.what));
  logger_.repeated(LogLevel::warning, cat("bridge.", options_.name),
                   cat("bridge ", options_.name, ": ", reply.what, "; trying again for ever"));
  MutexLock lock(mutex_);
  ++status_.tries_failed;
  wake_.wait_for(mutex_, stop, std::chrono::milliseconds(ms),
                 [&]() REQUIRES_LOCK(mutex_) { return sending && status_.paused; });
}

}  // namespace wayside
