// Segments: opened, rolled, indexed, dropped. Retention drops whole segments and moves log start
// offsets; it acts on trusted time only, and a bounded part per step.
#include <algorithm>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/sessions.h"
#include "storage/engine/sources.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"
#include "storage/engine/views.h"
#include "storage/recovery/recovery.h"

namespace wayside {
namespace {

constexpr std::int64_t kRetentionEveryMs = 1000;
// A segment closes after this part of its chain's retention, so that a quiet log expires too.
constexpr std::int64_t kSegmentsPerRetention = 48;
constexpr std::int64_t kSegmentAgeLeastMs = 60'000;
// An index that could not be built is optional: it is tried again now and then.
constexpr std::int64_t kIndexRetryMs = 60'000;

// A clock that went so far from where it was believed to be is doubted for as long.
std::int64_t doubt_of(std::int64_t distance_ms) {
  return std::clamp(std::abs(distance_ms), limits::kClockJumpHoldMs, limits::kClockDoubtMostMs);
}

// How many of the oldest closed segments have expired. Only trusted times count, and none of the
// future, for that was a wrong clock; a segment without such a time is as old as the next that has
// one. The first that is not old enough ends it: times need not rise, arrival does.
std::size_t expired_segments(const engine_state::Chain& chain, std::int64_t now_ms,
                             std::int64_t retention_ms) {
  std::size_t expired = 0;
  if (retention_ms == kForever) return 0;
  for (std::size_t i = 0; i < chain.closed.size(); ++i) {
    const auto& s = chain.closed[i];
    if (!s.clock_trusted || s.max_append_ms > now_ms) continue;
    if (s.max_append_ms >= now_ms - retention_ms) break;
    expired = i + 1;
  }
  return expired;
}

}  // namespace

// Within a transaction: the table, its row, and where every partition stands.
Status Engine::open_segment(ChainId chain, std::int64_t segment) {
  WS_TRY(db_.exec(create_segment_sql(chain, segment)));
  WS_ASSIGN(Statement row,
            db_.prepare("INSERT INTO _ws_segments(chain, segment, format, epoch, opened_ms,"
                        " clock_trusted, first_seq) VALUES(?1,?2,?3,?4,?5,?6,?7)"));
  row.bind(1, chain.value).bind(2, segment).bind(3, kSegmentFormat).bind(4, identity_.epoch);
  row.bind(5, append_ms_).bind(6, clock_.trusted() ? 1 : 0).bind(7, positions_.next_seq);
  WS_TRY(row.run());
  WS_ASSIGN(Statement start, db_.prepare("INSERT INTO _ws_segment_starts VALUES(?1,?2,?3,?4)"));
  for (const Topic& t : catalog_.topics()) {
    if (t.chain != chain) continue;
    for (const Partition& p : t.partitions) {
      start.bind(1, chain.value).bind(2, segment).bind(3, p.tp.value);
      WS_TRY(start.bind(4, next_offset(p.tp).value).run());
    }
  }
  return {};
}

// Within a transaction: what is known of it is written down.
Status Engine::close_segment(std::size_t place, std::int64_t last_seq) {
  const SegmentStats& stats = positions_.open[place];
  WS_ASSIGN(Statement close,
            db_.prepare("UPDATE _ws_segments SET last_seq=?1, rows=?2, bytes=?3, min_ts=?4,"
                        " max_ts=?5, min_append_ms=?6, max_append_ms=?7"
                        " WHERE chain=?8 AND segment=?9"));
  close.bind(1, last_seq).bind(2, stats.rows).bind(3, stats.bytes).bind(4, stats.min_ts);
  close.bind(5, stats.max_ts).bind(6, stats.min_append_ms).bind(7, stats.max_append_ms);
  return close.bind(8, chains_[place].id.value).bind(9, chains_[place].segment).run();
}

Status Engine::roll(std::size_t place) {
  Chain& chain = chains_[place];
  SegmentStats& stats = positions_.open[place];
  const bool trusted = clock_.trusted();
  const std::string where = cat(" WHERE chain=", chain.id.value, " AND segment=", chain.segment);
  if (stats.rows == 0) {  // an empty one never rolls
    WS_TRY(transaction([&] {
      return db_.exec(cat("UPDATE _ws_segments SET clock_trusted=", trusted ? 1 : 0,
                          ", opened_ms=", append_ms_, where));
    }));
    chain.clock_trusted = trusted;
    chain.opened_ms = append_ms_;
    return {};
  }
  Statement insert;
  const std::int64_t next = chain.segment + 1;
  WS_TRY(transaction([&]() -> Status {
    WS_TRY(close_segment(place, positions_.next_seq - 1));
    WS_TRY(open_segment(chain.id, next));
    WS_ASSIGN(insert, prepare_insert(db_, chain.id, next));
    // Who asks with SQL misses nothing. Of 501 segments no view can be made: then without.
    if (auto view = write_chain_view(db_, chain.id); !view) upkeep_.views_stale = true;
    return {};
  }));
  chain.closed.push_back(
      {chain.segment, stats.bytes, stats.max_append_ms, stats.rows, chain.clock_trusted, false});
  chain.segment = next;
  chain.opened_ms = append_ms_;
  chain.clock_trusted = trusted;
  chain.insert = std::move(insert);
  stats = SegmentStats{};
  stats.first_seq = positions_.next_seq;
  return {};
}

// At the bounds the open segment grows on, until retention has dropped one.
bool Engine::may_roll(std::size_t place) const {
  std::int64_t segments = 0;
  for (const Chain& c : chains_) segments += static_cast<std::int64_t>(c.closed.size()) + 1;
  return segments < limits::kSegmentsMax &&
         static_cast<std::int64_t>(chains_[place].closed.size()) + 1 < limits::kSegmentsPerChainMax;
}

bool Engine::is_full(std::size_t place) const {
  const Chain& chain = chains_[place];
  const SegmentStats& stats = positions_.open[place];
  const auto closed = static_cast<std::int64_t>(chain.closed.size());
  if (!may_roll(place)) return false;
  // Beyond half of what a chain may have, segments get larger, so that the rest lasts.
  std::int64_t times = 1;
  for (std::int64_t n = limits::kSegmentsPerChainMax / 2; n < closed; n += 50) times *= 2;
  std::int64_t bytes_most = space_->segment_bytes_most() * times;
  if (chain.retention_bytes != kUnbounded) {
    bytes_most = std::min(bytes_most, std::max<std::int64_t>(chain.retention_bytes / 8, 1));
  }
  return stats.rows >= chain.segment_rows * times || stats.bytes >= bytes_most;
}

bool Engine::is_old(std::size_t place) const {
  const Chain& chain = chains_[place];
  if (positions_.open[place].rows == 0 || chain.retention_ms == kForever || !may_roll(place)) {
    return false;
  }
  const std::int64_t most =
      std::max(chain.retention_ms / kSegmentsPerRetention, kSegmentAgeLeastMs);
  return clock_.wall_ms() - positions_.open[place].min_append_ms >= most;
}

Status Engine::roll_full_segments() {
  recovery_->keep_sidecar(false);
  WS_TRY(space_->note_commit());
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    if (is_full(i)) WS_TRY(roll(i));
  }
  return {};
}

// Each step stands alone: one that fails is told, and the others go on. What frees space is first.
Result<bool> Engine::maintain() {
  const std::int64_t now = clock_.steady_ms();
  const auto once = [](const Status& s) {
    return s ? Result<bool>(false) : Result<bool>(tl::unexpected<Error>(s.error()));
  };
  bool more = false;
  if (now - upkeep_.last_step_ms >= kRetentionEveryMs) {
    upkeep_.last_step_ms = now;
    WS_TRY(check_wal());
    recovery_->keep_sidecar(false);
    recovery_->keep_note();
    const bool by_time = time_is_steady();
    WS_ASSIGN(more, step("retention", apply_retention(by_time)));
    if (more) return true;
    for (std::size_t i = 0; i < chains_.size(); ++i) {
      if (is_old(i)) WS_TRY(step("roll", once(roll(i))));
    }
    WS_TRY(step("sessions", once(sessions_->expire(by_time))));
    WS_TRY(step("offsets", once(expire_offsets(by_time))));
    WS_ASSIGN(more, step("columns", learn_columns()));
    if (more) return true;
    space_->keep_ballast();
  }
  if (upkeep_.views_stale && now >= upkeep_.views_not_before_ms) {
    WS_ASSIGN(more, step("views", refresh_views()));
    if (more) return true;
  }
  if (now >= upkeep_.index_not_before_ms) {
    auto built = build_one_index();
    if (!built) upkeep_.index_not_before_ms = now + kIndexRetryMs;
    WS_ASSIGN(more, step("index", built));
    if (more) return true;
  }
  return step("sources", sources_->forget_some());
}

// Damage is for whoever can set the file aside; every other error is told, and the rest goes on.
Result<bool> Engine::step(std::string_view what, const Result<bool>& result) {
  if (result || result.error().code == ErrorCode::corrupt) return result;
  logger_.repeated(LogLevel::error, what, cat(what, ": ", result.error().text()));
  return false;
}

Result<bool> Engine::build_one_index() {
  for (Chain& chain : chains_) {
    for (auto& segment : chain.closed) {
      // While an index is built nothing is acknowledged. Where that would take long, finding one
      // record by its offset may.
      if (segment.indexed || segment.rows > limits::kIndexedRowsMost) continue;
      WS_TRY(transaction([&]() -> Status {
        WS_TRY(db_.exec(cat("CREATE INDEX _ws_ix_", chain.id.value, "_", segment.segment, " ON ",
                            segment_table(chain.id, segment.segment), "(tp, \"offset\")")));
        return db_.exec(cat("UPDATE _ws_segments SET indexed=1 WHERE chain=", chain.id.value,
                            " AND segment=", segment.segment));
      }));
      segment.indexed = true;
      return true;
    }
  }
  return false;
}

Status Engine::mark_untrusted(std::size_t place) {
  Chain& chain = chains_[place];
  WS_TRY(transaction([&] {
    return db_.exec(cat("UPDATE _ws_segments SET clock_trusted=0 WHERE chain=", chain.id.value,
                        " AND segment=", chain.segment));
  }));
  chain.clock_trusted = false;
  return {};
}

// A wall clock that jumped against the steady one is not believed for a while, even if the kernel
// says that it is right.
bool Engine::time_is_steady() {
  const std::int64_t wall = clock_.wall_ms(), steady = clock_.steady_ms();
  const std::int64_t drift = (wall - upkeep_.anchor_wall_ms) - (steady - upkeep_.anchor_steady_ms);
  const bool first = upkeep_.anchor_wall_ms == 0;
  const bool jumped = !first && std::abs(drift) > limits::kClockJumpMs;
  // At the start the newest record is the only witness: a clock far ahead of it may be right (a
  // long time without power) or wrong, so it is watched for a while first.
  if (first) {
    std::int64_t newest = INT64_MIN;
    for (std::size_t i = 0; i < chains_.size(); ++i) {
      if (positions_.open[i].rows > 0) newest = std::max(newest, positions_.open[i].max_append_ms);
      if (!chains_[i].closed.empty()) {
        newest = std::max(newest, chains_[i].closed.back().max_append_ms);
      }
    }
    if (newest == INT64_MIN) newest = wall;
    if (wall - newest > limits::kClockJumpMs) upkeep_.hold_ms = doubt_of(wall - newest);
    // What was doubted before is doubted anew: the newest record may be of a wrong time.
    const auto noted = db_.number(
        cat("SELECT CAST(value AS INTEGER) FROM _ws_meta WHERE name='", kClockDoubt, "'"));
    upkeep_.noted_hold_ms = noted.value_or(0);
    upkeep_.hold_ms = std::max(upkeep_.hold_ms, upkeep_.noted_hold_ms);
    if (upkeep_.hold_ms > 0) {
      upkeep_.steady_since_ms = steady;
      logger_.info(cat("the newest record is ", (wall - newest) / 1000,
                       " s old by this clock, or it was doubted before; retention by time waits ",
                       upkeep_.hold_ms / 60'000, " minutes"));
    }
  }
  const bool trusted = clock_.trusted();
  if (jumped) {
    // Set right by what knows the time, or wrong though it was right before.
    upkeep_.hold_ms = limits::kClockJumpHoldMs;
    if (trusted && upkeep_.was_trusted) upkeep_.hold_ms = doubt_of(drift);
    upkeep_.steady_since_ms = steady;
    logger_.warning(cat("the clock jumped by ", drift / 1000, " s; retention by time waits ",
                        upkeep_.hold_ms / 60'000, " minutes"));
  }
  upkeep_.was_trusted = trusted;
  upkeep_.anchor_wall_ms = wall, upkeep_.anchor_steady_ms = steady;
  if (upkeep_.steady_since_ms != INT64_MIN && steady - upkeep_.steady_since_ms >= upkeep_.hold_ms) {
    upkeep_.steady_since_ms = INT64_MIN, upkeep_.hold_ms = 0;
  }
  // A start must know it, for by then records have the time that is doubted.
  if (upkeep_.noted_hold_ms != upkeep_.hold_ms) {
    const auto noted = transaction([&] {
      return db_.exec(upkeep_.hold_ms == 0
                          ? cat("DELETE FROM _ws_meta WHERE name='", kClockDoubt, "'")
                          : cat("INSERT OR REPLACE INTO _ws_meta VALUES('", kClockDoubt, "', ",
                                upkeep_.hold_ms, ")"));
    });
    if (noted) upkeep_.noted_hold_ms = upkeep_.hold_ms;
    if (!noted) logger_.repeated(LogLevel::error, "doubt", noted.error().text());
  }
  return trusted && upkeep_.hold_ms == 0;
}

bool engine_state::Chain::is_over_its_bytes(std::int64_t open_bytes) const {
  std::int64_t bytes = open_bytes;
  for (std::size_t i = 1; i < closed.size(); ++i) bytes += closed[i].bytes;
  return retention_bytes != kUnbounded && !closed.empty() && bytes >= retention_bytes;
}

// At most one segment per chain and call.
Result<bool> Engine::apply_retention(bool by_time) {
  bool dropped = false;
  const std::int64_t now = clock_.wall_ms();
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    Chain& chain = chains_[i];
    if (chain.closed.empty()) continue;
    const bool expired = by_time && expired_segments(chain, now, chain.retention_ms) > 0;
    if (!expired && !chain.is_over_its_bytes(positions_.open[i].bytes)) continue;
    WS_ASSIGN(const std::string unsent, space_->unsent_in_oldest(i));
    if (!unsent.empty()) continue;  // a topic of it keeps what has not been sent
    WS_TRY(drop_oldest(i, expired ? "retention" : "retention_bytes"));
    dropped = true;
  }
  WS_ASSIGN(const bool freed, space_->keep_within());
  dropped = dropped || freed;
  if (!by_time) return dropped;
  WS_ASSIGN(const bool moved, apply_topic_retention(now));
  return dropped || moved;
}

// A topic whose limit is shorter than its chain's: its log start offset moves, and the bytes come
// back with the segment.
Result<bool> Engine::apply_topic_retention(std::int64_t now_ms) {
  bool moved = false;
  for (const Topic& t : catalog_.topics()) {
    const auto chain = std::find_if(chains_.begin(), chains_.end(),
                                    [&](const Chain& c) { return c.id == t.chain; });
    if (t.retention_ms == kForever || t.retention_ms == chain->retention_ms) continue;
    const std::size_t gone = expired_segments(*chain, now_ms, t.retention_ms);
    if (gone == 0) continue;
    const std::int64_t through = chain->closed[gone - 1].segment;
    WS_ASSIGN(const bool unsent, space_->is_unsent(t, through + 1));
    if (unsent) continue;
    WS_TRY(transaction([&] { return move_log_starts(t, through + 1); }));
    moved = moved || db_.changes() > 0;
  }
  return moved;
}

// Within a transaction: nothing of the topic before `segment` is in the log any more.
Status Engine::move_log_starts(const Topic& topic, std::int64_t segment) {
  WS_ASSIGN(
      Statement s,
      db_.prepare("UPDATE _ws_partitions SET log_start = s.next_offset FROM _ws_segment_starts s"
                  " WHERE s.chain=?1 AND s.segment=?2 AND s.tp = _ws_partitions.tp"
                  " AND _ws_partitions.topic_id=?3 AND s.next_offset > log_start"));
  return s.bind(1, topic.chain.value).bind(2, segment).bind(3, topic.id.value).run();
}

Status Engine::drop_oldest(std::size_t place, std::string_view why) {
  Chain& chain = chains_[place];
  const std::int64_t gone = chain.closed.front().segment;
  const std::int64_t first_left = chain.closed.size() > 1 ? chain.closed[1].segment : chain.segment;
  WS_TRY(transaction([&]() -> Status {
    for (const Topic& t : catalog_.topics()) {
      if (t.chain == chain.id) WS_TRY(move_log_starts(t, first_left));
    }
    const std::string where = cat(" WHERE chain=", chain.id.value, " AND segment=", gone);
    WS_TRY(db_.exec("DELETE FROM _ws_segments" + where));
    WS_TRY(db_.exec("DELETE FROM _ws_segment_starts" + where));
    if (auto view = write_chain_view(db_, chain.id); !view) upkeep_.views_stale = true;
    return db_.exec("DROP TABLE " + segment_table(chain.id, gone));
  }));
  logger_.info(cat("segment ", gone, " of chain ", chain.id.value, " expired (", why, "), ",
                   format_bytes(chain.closed.front().bytes), " of records"));
  chain.closed.erase(chain.closed.begin());
  return {};
}

}  // namespace wayside
