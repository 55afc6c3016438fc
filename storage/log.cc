#include "storage/log.h"

#include <algorithm>
#include <chrono>
#include <future>

#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/sessions.h"
#include "storage/engine/space.h"
#include "storage/recovery/recovery.h"
#include "storage/recovery/rescue.h"

namespace wayside {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kIdleStep = milliseconds(250);   // how often an idle writer looks for other work,
constexpr auto kBusyStep = milliseconds(2000);  // and one that always has readings waiting
constexpr std::int64_t kTryEveryMs = 2000;      // how often it tries whether it could commit

std::size_t bytes_of(const Batch& batch) {
  std::size_t bytes = 0;
  for (const Op& op : batch.ops) bytes += op_bytes(op);
  return bytes;
}

// Or anything else that must be written: sessions alone are not worth a record that makes room.
bool has_readings(const std::vector<Batch>& group) {
  const auto is_session = [](const Op& op) {
    return std::holds_alternative<OpenSession>(op) || std::holds_alternative<CloseSession>(op) ||
           std::holds_alternative<Count>(op);
  };
  return std::any_of(group.begin(), group.end(), [&](const Batch& b) {
    return !std::all_of(b.ops.begin(), b.ops.end(), is_session);
  });
}

std::int64_t now_ms() {
  return std::chrono::duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Result<std::unique_ptr<Log>> Log::open(const EngineOptions& options, const CommitPolicy& policy,
                                       std::span<const TopicSpec> topics, const Clock& clock,
                                       Logger& logger) {
  const auto open_ready = [&](const EngineOptions& with) -> Result<std::unique_ptr<Engine>> {
    WS_ASSIGN(auto engine, Engine::open(with, clock, logger));
    const auto make_ready = [&]() -> Status {
      WS_ASSIGN(const auto warnings, engine->ensure_topics(topics));
      for (const std::string& w : warnings) logger.warning(w);
      // The views stand before the first reading does.
      WS_ASSIGN([[maybe_unused]] const bool more, engine->maintain());
      return {};
    };
    if (auto ready = make_ready(); !ready) {
      engine->recovery().end_sidecar();  // the last one is better than what this one knows
      return tl::unexpected<Error>(ready.error());
    }
    return engine;
  };
  auto engine = open_ready(options);
  if (!engine && options.damage.empty() && is_damage(engine.error())) {
    EngineOptions damaged = options;  // met only now
    damaged.damage = engine.error().what;
    engine = open_ready(damaged);
  }
  if (!engine) return tl::unexpected<Error>(engine.error());
  return std::unique_ptr<Log>(new Log(std::move(*engine), policy, options.path, logger));
}

Log::Log(std::unique_ptr<Engine> engine, const CommitPolicy& policy, const std::string& path,
         Logger& logger)
    : path_(path),
      logger_(logger),
      engine_(std::move(engine)),
      identity_(engine_->identity()),
      policy_(policy),
      catalog_(std::make_shared<const Catalog>(engine_->catalog())),
      writer_([this](std::stop_token stop) { run(stop); }) {}

Log::~Log() {
  writer_.request_stop();
  wake_.notify_all();
  writer_.join();
  if (!damage().empty()) engine_->recovery().end_sidecar();
}

void Log::submit(Batch batch) {
  const std::size_t bytes = bytes_of(batch);
  bool wake = false;
  {
    const MutexLock lock(mutex_);
    wake = queue_.empty() || batch.flush_now;
    if (queue_.empty()) oldest_ = steady_clock::now();
    flush_ = flush_ || batch.flush_now;
    stats_.queued_ops += static_cast<std::int64_t>(batch.ops.size());
    stats_.queued_bytes += static_cast<std::int64_t>(bytes);
    queue_.push_back(std::move(batch));
    ++submitted_;
    wake = wake || stats_.queued_ops >= static_cast<std::int64_t>(policy_.records) ||
           stats_.queued_bytes >= static_cast<std::int64_t>(policy_.bytes);
  }
  if (wake) wake_.notify_one();
}

void Log::flush() {
  {
    const MutexLock lock(mutex_);
    if (queue_.empty()) return;
    flush_ = true;
  }
  wake_.notify_one();
}

std::shared_ptr<const Catalog> Log::catalog() const {
  const MutexLock lock(mutex_);
  return catalog_;
}

void Log::change(Work work, Done done) {
  {
    const MutexLock lock(mutex_);
    changes_.push_back({std::move(work), std::move(done), submitted_});
  }
  wake_.notify_one();
}

Status Log::change_and_wait(Work work) {
  auto done = std::make_shared<std::promise<Status>>();
  std::future<Status> result = done->get_future();
  change(std::move(work), [done](const Status& status) { done->set_value(status); });
  return result.get();
}

void Log::set_policy(const CommitPolicy& policy) {
  const MutexLock lock(mutex_);
  policy_ = policy;
}

void Log::run_changes() {
  for (;;) {
    Change change;
    {
      const MutexLock lock(mutex_);
      if (changes_.empty() || changes_.front().behind > taken_) return;
      change = std::move(changes_.front());
      changes_.pop_front();
    }
    const Status status = change.work(*engine_);
    if (!status) report_damage(status.error()), note_reopening(status.error());
    auto catalog = std::make_shared<const Catalog>(engine_->catalog());
    {
      const MutexLock lock(mutex_);
      catalog_ = std::move(catalog);
    }
    // The views stand before whoever asked looks.
    for (int steps = 0; steps < 4 && maintain(); ++steps) {
    }
    change.done(status);
  }
}

void Log::report_damage(const Error& error) {
  if (!error.damage) return;
  const MutexLock lock(mutex_);
  if (damage_.empty()) damage_ = error.what;
}

std::string Log::opened_anew_for() const {
  const MutexLock lock(mutex_);
  return open_anew_;
}

void Log::note_reopening(const Error& error) {
  if (engine_->must_open_anew()) reopen(error.what);
}

void Log::reopen(const std::string& why) {
  const MutexLock lock(mutex_);
  open_anew_ = why;
}

std::string Log::damage() const {
  const MutexLock lock(mutex_);
  return damage_;
}

WriterStats Log::stats() const {
  const MutexLock lock(mutex_);
  return stats_;
}

std::int64_t Log::wait_for_commit(std::int64_t seen, std::int64_t timeout_ms,
                                  std::stop_token stop) {
  mutex_.lock();
  committed_.wait_for(mutex_, stop, milliseconds(timeout_ms),
                      [&]() REQUIRES_LOCK(mutex_) { return stats_.commits > seen; });
  const std::int64_t commits = stats_.commits;
  mutex_.unlock();
  return commits;
}

bool Log::due(steady_clock::time_point now) const {
  return !queue_.empty() &&
         (flush_ || stats_.queued_ops >= static_cast<std::int64_t>(policy_.records) ||
          stats_.queued_bytes >= static_cast<std::int64_t>(policy_.bytes) ||
          now - oldest_ >= milliseconds(policy_.linger_ms));
}

std::vector<Batch> Log::next_group(std::stop_token stop, bool idle_work) {
  std::vector<Batch> group;
  const auto idle_until = steady_clock::now() + (idle_work ? milliseconds(0) : kIdleStep);
  mutex_.lock();
  for (;;) {
    const auto now = steady_clock::now();
    stats_.heartbeat_steady_ms = now_ms();
    if (due(now) || stop.stop_requested() || !changes_.empty()) break;
    if (queue_.empty() && now >= idle_until) break;
    // The first batch in an empty queue begins its linger: wake for it, then wait that long.
    const bool empty = queue_.empty();
    const auto until = empty ? idle_until : oldest_ + milliseconds(policy_.linger_ms);
    wake_.wait_until(mutex_, stop, until, [&]() REQUIRES_LOCK(mutex_) {
      return due(steady_clock::now()) || (empty && !queue_.empty()) || !changes_.empty();
    });
  }
  std::size_t ops = 0, bytes = 0;
  while (!queue_.empty() && ops < limits::kOpsPerCommitMax) {
    ops += queue_.front().ops.size();
    bytes += bytes_of(queue_.front());
    group.push_back(std::move(queue_.front()));
    queue_.pop_front();
    ++taken_;
  }
  stats_.queued_ops -= static_cast<std::int64_t>(ops);
  stats_.queued_bytes -= static_cast<std::int64_t>(bytes);
  stats_.committing_ops = static_cast<std::int64_t>(ops);
  if (queue_.empty()) {
    flush_ = false;
  } else {
    oldest_ = steady_clock::now();
  }
  mutex_.unlock();
  return group;
}

void Log::run(std::stop_token stop) {
  bool more = false;
  auto maintained = steady_clock::now();
  for (;;) {
    std::vector<Batch> group = next_group(stop, more);
    const bool idle = group.empty();
    const bool stopping = stop.stop_requested();  // before the last changes are looked for
    if (!idle) {
      commit_group(group, stop);
      if (auto rolled = engine_->roll_full_segments(); !rolled) {
        report_damage(rolled.error());
        logger_.repeated(LogLevel::error, "roll", rolled.error().text());
      }
    }
    run_changes();
    if (idle && stopping) return;
    if (idle && now_ms() - stats().last_try_steady_ms >= kTryEveryMs) try_writing();
    // Maintenance belongs into idle moments, but a log that is never idle needs it, too.
    const auto now = steady_clock::now();
    const auto every = stats().queued_ops == 0 ? kIdleStep : kBusyStep;
    if (!idle && now - maintained < every) continue;
    more = maintain();
    maintained = now;
    const std::string blocked = engine_->space().blocked();
    const Status& sidecar = engine_->recovery().sidecar_status();
    const MutexLock lock(mutex_);
    stats_.blocked = blocked;
    stats_.sidecar_error = sidecar ? "" : sidecar.error().text();
  }
}

void Log::note_held_up(const std::string& why) {
  const MutexLock lock(mutex_);
  if (!why.empty() && stats_.held_up.empty()) stats_.held_up_since_steady_ms = now_ms();
  stats_.held_up = why;
  stats_.last_try_steady_ms = now_ms();
}

// An idle log does not know whether it could commit, and whoever asks whether it is ready wants to
// know: so the write lock is taken and given back. After a commit that failed something is written,
// too: only that shows that it works again.
void Log::try_writing() {
  if (!damage().empty()) return;
  std::vector<Batch> group;
  if (stats().failing) group.emplace_back().ops.emplace_back(SetFact{"writing_again", "1"});
  Status status = engine_->begin();
  if (status) status = engine_->commit(group);
  note_held_up(status ? "" : status.error().text());
  if (status && !group.empty()) {
    const MutexLock lock(mutex_);
    stats_.failing = false;
  }
  if (status || status.error().code == ErrorCode::busy) return;
  report_damage(status.error());
  note_reopening(status.error());
}

bool Log::maintain() {
  const auto more = engine_->maintain();
  if (more) return *more;
  report_damage(more.error());
  note_reopening(more.error());
  logger_.repeated(LogLevel::error, "maintain", more.error().text());
  return false;
}

// Readings for a topic that must not drop what it has, and has no room, are not taken, nor QoS 2
// readings beyond what may be without their PUBREL; the others of the group are.
void Log::refuse_blocked(std::vector<Batch>& group) {
  const bool blocked = !engine_->space().blocked().empty();
  std::erase_if(group, [&](Batch& b) {
    auto asked = engine_->sessions().refusal(b);
    if (!asked) report_damage(asked.error());
    std::string why = asked ? std::move(*asked) : asked.error().text();
    const bool no_room = blocked && std::any_of(b.ops.begin(), b.ops.end(), [&](const Op& op) {
      const auto* a = std::get_if<Append>(&op);
      return a != nullptr && !engine_->space().refusal(a->tp).empty();
    });
    if (no_room) why = engine_->space().blocked();
    if (why.empty()) return false;
    logger_.repeated(LogLevel::error, "blocked", why);
    if (b.done) b.done(b, fail(ErrorCode::no_space, why));
    return true;
  });
}

void Log::commit_group(std::vector<Batch>& group, std::stop_token stop) {
  refuse_blocked(group);
  if (group.empty()) {
    const MutexLock lock(mutex_);
    stats_.committing_ops = 0;
    return;
  }
  const auto begin = steady_clock::now();
  {
    const MutexLock lock(mutex_);
    stats_.committing_since_steady_ms = now_ms();
  }
  const Status status = try_commit(group, stop);
  const std::int64_t us =
      std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - begin).count();
  std::int64_t records = 0;
  for (const Batch& b : group) {
    for (const Op& op : b.ops) {
      if (ends_batch(op)) break;
      records += std::holds_alternative<Append>(op) ? 1 : 0;
    }
  }
  {
    const MutexLock lock(mutex_);
    stats_.failing = !status;
    stats_.held_up.clear();
    stats_.last_try_steady_ms = now_ms();
    stats_.committing_since_steady_ms = 0;
    stats_.committing_ops = 0;
    stats_.commit_us += us;
    const auto bound = std::find_if(kCommitBoundsMs.begin(), kCommitBoundsMs.end(),
                                    [&](std::int64_t ms) { return us <= ms * 1000; });
    ++stats_.commit_counts[static_cast<std::size_t>(bound - kCommitBoundsMs.begin())];
    if (status) {
      ++stats_.commits;
      stats_.records += records;
    } else {
      ++stats_.failed_commits;
      stats_.last_error = status.error().text();
    }
  }
  if (status) {
    committed_.notify_all();
  } else {
    logger_.repeated(
        LogLevel::error, "commit",
        cat("a commit failed, nothing of it is stored or acknowledged: ", status.error().text()));
  }
  for (Batch& b : group) {
    if (b.done) b.done(b, status);
  }
  // What an unreadable page was needed for is not stored; a second try would meet it again.
  if (!status) report_damage(status.error());
  if (!status && status.error().code == ErrorCode::no_space) {
    if (!has_readings(group)) return engine_->space().note_full();
    if (auto freed = engine_->space().make_room(); !freed) {
      logger_.repeated(LogLevel::error, "room", freed.error().text());
    }
  }
}

Status Log::try_commit(std::vector<Batch>& group, std::stop_token stop) {
  if (const std::string why = damage(); !why.empty()) {
    return fail(ErrorCode::corrupt, why, "the gateway opens its log anew");
  }
  bool nothing = true;
  for (const Batch& b : group) nothing = nothing && b.ops.empty();
  if (nothing) return {};
  for (;;) {
    const Status begun = engine_->begin();
    if (begun) return engine_->commit(group);
    // A lock that another program holds is waited out: nothing has been applied yet.
    if (begun.error().code != ErrorCode::busy || stop.stop_requested() || give_up_waiting_) {
      return begun;
    }
    note_held_up(begun.error().text());
    {  // waiting is not hanging
      const MutexLock lock(mutex_);
      stats_.heartbeat_steady_ms = now_ms();
    }
    logger_.repeated(LogLevel::warning, "busy",
                     "another program holds the database's write lock; readings wait for it");
  }
}

}  // namespace wayside
