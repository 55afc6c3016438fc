// Segments: opened, rolled, indexed, dropped. Retention drops whole segments and moves log start
// offsets; it acts on trusted time only, and a bounded part per step.
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/transaction.h"
#include "storage/views.h"

namespace wayside {
namespace {

constexpr std::int64_t kRetentionEveryMs = 1000;
// A segment closes after this part of its chain's retention, so that a quiet log expires too.
constexpr std::int64_t kSegmentsPerRetention = 48;
constexpr std::int64_t kSegmentAgeLeastMs = 60'000;

std::int64_t free_bytes(const std::string& path) {
  struct statvfs fs {};
  if (::statvfs(path.c_str(), &fs) != 0) return 0;
  return static_cast<std::int64_t>(fs.f_bavail) * static_cast<std::int64_t>(fs.f_frsize);
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
    WS_ASSIGN(Statement close,
              db_.prepare(cat("UPDATE _ws_segments SET last_seq=?1, rows=?2, bytes=?3, min_ts=?4,"
                              " max_ts=?5, min_append_ms=?6, max_append_ms=?7", where)));
    close.bind(1, positions_.next_seq - 1).bind(2, stats.rows).bind(3, stats.bytes);
    close.bind(4, stats.min_ts).bind(5, stats.max_ts).bind(6, stats.min_append_ms);
    WS_TRY(close.bind(7, stats.max_append_ms).run());
    WS_TRY(open_segment(chain.id, next));
    WS_ASSIGN(insert, db_.prepare(cat("INSERT INTO ", segment_table(chain.id, next),
                                      " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)"),
                                  true));
    return {};
  }));
  chain.closed.push_back(
      {chain.segment, stats.bytes, stats.max_append_ms, chain.clock_trusted, false});
  chain.segment = next;
  chain.opened_ms = append_ms_;
  chain.clock_trusted = trusted;
  chain.insert = std::move(insert);
  stats = SegmentStats{};
  stats.first_seq = positions_.next_seq;
  views_stale_ = true;
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
  std::int64_t bytes_most = options_.segment_bytes * times;
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
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    if (is_full(i)) WS_TRY(roll(i));
  }
  return {};
}

Result<bool> Engine::maintain() {
  if (views_stale_) {
    WS_ASSIGN(const bool done, refresh_views());
    if (done) return true;
  }
  WS_ASSIGN(const bool built, build_one_index());
  if (built) return true;
  const std::int64_t now = clock_.steady_ms();
  if (now - last_retention_ms_ < kRetentionEveryMs) return false;
  last_retention_ms_ = now;
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    if (is_old(i)) WS_TRY(roll(i));
  }
  WS_ASSIGN(const bool dropped, apply_retention());
  if (dropped) return true;
  WS_TRY(expire_sessions());
  WS_ASSIGN(const bool learnt, learn_columns());
  keep_ballast();
  return learnt;
}

Result<bool> Engine::build_one_index() {
  for (Chain& chain : chains_) {
    for (ClosedSegment& segment : chain.closed) {
      if (segment.indexed) continue;
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

// A wall clock that jumped against the steady one is not believed for a while, even if the kernel
// says that it is right.
bool Engine::time_is_steady() {
  const std::int64_t wall = clock_.wall_ms(), steady = clock_.steady_ms();
  const std::int64_t drift = (wall - anchor_wall_ms_) - (steady - anchor_steady_ms_);
  const bool first = anchor_wall_ms_ == 0;
  const bool jumped = !first && std::abs(drift) > limits::kClockJumpMs;
  if (jumped) {
    steady_since_ms_ = steady;
    logger_.warning(cat("the clock jumped by ", drift / 1000, " s; retention by time waits ",
                        limits::kClockJumpHoldMs / 60'000, " minutes"));
  }
  anchor_wall_ms_ = wall, anchor_steady_ms_ = steady;
  return clock_.trusted() && (steady_since_ms_ == INT64_MIN ||
                              steady - steady_since_ms_ >= limits::kClockJumpHoldMs);
}

// At most one segment per chain and call.
Result<bool> Engine::apply_retention() {
  bool dropped = false;
  const std::int64_t now = clock_.wall_ms();
  const bool by_time = time_is_steady();
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    Chain& chain = chains_[i];
    if (chain.closed.empty()) continue;
    // The oldest has expired when a segment of trusted time, itself or a later one, has: what
    // came before it is older, whatever an untrusted clock wrote into it.
    const bool expired =
        by_time && chain.retention_ms != kForever &&
        std::any_of(chain.closed.begin(), chain.closed.end(), [&](const ClosedSegment& s) {
          return s.clock_trusted && s.max_append_ms < now - chain.retention_ms;
        });
    std::int64_t bytes = positions_.open[i].bytes;
    for (const ClosedSegment& s : chain.closed) bytes += s.bytes;
    const bool too_many_bytes = chain.retention_bytes != kUnbounded &&
                                bytes - chain.closed.front().bytes >= chain.retention_bytes;
    if (!expired && !too_many_bytes) continue;
    WS_TRY(drop_oldest(i, expired ? "retention" : "retention_bytes"));
    dropped = true;
  }
  if (over_budget()) {
    if (auto freed = free_space(); !freed) {
      logger_.repeated(LogLevel::error, "budget", freed.error().text());
    } else {
      dropped = true;
    }
  }
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
    std::int64_t through = -1;
    for (const ClosedSegment& s : chain->closed) {
      if (s.clock_trusted && s.max_append_ms < now_ms - t.retention_ms) through = s.segment;
    }
    if (through < 0) continue;
    WS_TRY(transaction([&] { return move_log_starts(t, through + 1); }));
    moved = moved || db_.changes() > 0;
  }
  return moved;
}

// Within a transaction: nothing of the topic before `segment` is in the log any more.
Status Engine::move_log_starts(const Topic& topic, std::int64_t segment) {
  WS_ASSIGN(Statement s, db_.prepare(
      "UPDATE _ws_partitions SET log_start = s.next_offset FROM _ws_segment_starts s"
      " WHERE s.chain=?1 AND s.segment=?2 AND s.tp = _ws_partitions.tp"
      " AND _ws_partitions.topic_id=?3 AND s.next_offset > log_start"));
  return s.bind(1, topic.chain.value).bind(2, segment).bind(3, topic.id.value).run();
}

Status Engine::drop_oldest(std::size_t place, std::string_view why) {
  Chain& chain = chains_[place];
  const std::int64_t gone = chain.closed.front().segment;
  const std::int64_t first_left =
      chain.closed.size() > 1 ? chain.closed[1].segment : chain.segment;
  WS_TRY(transaction([&]() -> Status {
    for (const Topic& t : catalog_.topics()) {
      if (t.chain == chain.id) WS_TRY(move_log_starts(t, first_left));
    }
    const std::string where = cat(" WHERE chain=", chain.id.value, " AND segment=", gone);
    WS_TRY(db_.exec("DELETE FROM _ws_segments" + where));
    WS_TRY(db_.exec("DELETE FROM _ws_segment_starts" + where));
    WS_TRY(write_chain_view(db_, chain.id));
    return db_.exec("DROP TABLE " + segment_table(chain.id, gone));
  }));
  logger_.info(cat("segment ", gone, " of chain ", chain.id.value, " expired (", why, "), ",
                   format_bytes(chain.closed.front().bytes), " of records"));
  chain.closed.erase(chain.closed.begin());
  return {};
}

Status Engine::free_space() {
  if (options_.vfs.empty()) {
    const std::string ballast = options_.path + ".ballast";
    if (free_bytes(options_.path) < limits::kBallastBytes / 2 && ::unlink(ballast.c_str()) == 0) {
      logger_.warning("the disk is full; the ballast file is given up to drop old segments");
    }
  }
  // The chain whose oldest segment is the oldest of all gives it.
  std::size_t oldest = chains_.size();
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    if (chains_[i].closed.empty()) continue;
    if (oldest == chains_.size() || chains_[i].closed.front().max_append_ms <
                                        chains_[oldest].closed.front().max_append_ms) {
      oldest = i;
    }
  }
  if (oldest == chains_.size()) {
    return fail(ErrorCode::no_space, "the disk or storage.budget is full and no segment is closed",
                "free some space on this file system, or raise storage.budget");
  }
  return drop_oldest(oldest, "no space");
}

bool Engine::over_budget() {
  if (options_.budget_bytes == 0) return false;
  const auto pages = db_.number("PRAGMA page_count"), unused = db_.number("PRAGMA freelist_count");
  if (!pages || !unused) return false;
  const std::int64_t used = (*pages - *unused) * 4096;
  return used + file_size(options_.path + "-wal") > options_.budget_bytes -
                                                        options_.budget_bytes / 16;
}

void Engine::keep_ballast() {
  const std::string ballast = options_.path + ".ballast";
  if (!options_.vfs.empty() || file_exists(ballast) ||
      free_bytes(options_.path) < 4 * limits::kBallastBytes) {
    return;
  }
  if (auto made = write_ballast(ballast, limits::kBallastBytes); !made) {
    logger_.repeated(LogLevel::warning, "ballast", made.error().text());
  }
}

}  // namespace wayside
