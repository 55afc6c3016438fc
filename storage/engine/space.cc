#include "storage/engine/space.h"

#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/engine.h"
#include "storage/engine/sessions.h"
#include "storage/engine/sources.h"
#include "storage/recovery/recovery.h"

namespace wayside {
namespace {

constexpr std::int64_t kPage = 4096;
// With so many unused pages (4 MiB) in the database, it is not the database that is full.
constexpr std::int64_t kFreePagesEnough = 1024;
constexpr std::int64_t kPagesLeast = 1024;
// What a roll and a drop may need beside what they give back.
constexpr std::int64_t kPagesForADrop = 256;
// A log that the disk limits, and not its budget, may be small: it is kept as long as it can be.
constexpr std::int64_t kReserveOnAFullDisk = 512;
// For so long after a commit failed for want of room nothing but readings is let grow.
constexpr std::int64_t kFullForMs = 10'000;
constexpr std::int64_t kNoPageLimit = 4294967294;  // the greatest that SQLite knows

}  // namespace

std::int64_t Space::free_bytes() const {
  const auto disk = disk_space(engine_.options_.path);
  return disk ? disk->free_bytes : INT64_MAX / 2;
}

std::int64_t Space::keep_free_bytes() const {
  const auto disk = disk_space(engine_.options_.path);
  return disk ? std::min(engine_.options_.keep_free_bytes, disk->size_bytes / 16) : 0;
}

Status Space::set_page_limit() {
  Engine& e = engine_;
  const std::int64_t budget = e.options_.budget_bytes;
  const std::int64_t by_budget =
      budget == 0 ? INT64_MAX
                  : std::max<std::int64_t>((budget - limits::kJournalSizeLimitBytes) / kPage, 2048);
  std::int64_t by_disk = INT64_MAX;
  if (e.options_.vfs.empty()) {
    const bool ballast = file_exists(e.options_.path + ".ballast");
    // The WAL may still grow, and a ballast wants to be made.
    std::int64_t spare = free_bytes() - keep_free_bytes();
    spare -= ballast ? 0 : 2 * limits::kBallastBytes;
    spare -= std::max<std::int64_t>(
        limits::kJournalSizeLimitBytes / 2 - file_size(e.options_.path + "-wal"), 0);
    WS_ASSIGN(const std::int64_t pages, e.db_.number("PRAGMA page_count"));
    // Not so small that what is acknowledged would be dropped at once.
    by_disk = std::max(pages + std::max<std::int64_t>(spare, 0) / kPage, kPagesLeast);
  }
  page_limit_ = std::min(by_budget, by_disk);
  by_budget_ = by_budget <= by_disk;
  return e.db_.exec(cat("PRAGMA max_page_count=", std::min(page_limit_, kNoPageLimit)));
}

std::int64_t Space::segment_bytes_most() const {
  const auto chains = static_cast<std::int64_t>(std::max<std::size_t>(engine_.chains_.size(), 1));
  if (page_limit_ == INT64_MAX) return engine_.options_.segment_bytes;
  return std::min(engine_.options_.segment_bytes, page_limit_ * kPage / (8 * chains));
}

std::int64_t Space::room_bytes() {
  // Pages that are not used need none of the disk.
  const std::int64_t unused =
      engine_.db_.number("PRAGMA freelist_count").value_or(0) * static_cast<std::int64_t>(kPage);
  std::int64_t room = free_bytes() + unused - keep_free_bytes() - 3 * limits::kBallastBytes;
  if (page_limit_ != INT64_MAX) {
    room = std::min(room, (page_limit_ - page_limit_ / 4 - used_pages()) * kPage);
  }
  return std::max<std::int64_t>(room, 0);
}

std::int64_t Space::used_pages() {
  const auto pages = engine_.db_.number("PRAGMA page_count");
  const auto unused = engine_.db_.number("PRAGMA freelist_count");
  return pages && unused ? *pages - *unused : 0;
}

std::int64_t Space::part_of_limit(std::int64_t most, std::int64_t part) const {
  return page_limit_ == INT64_MAX ? most : std::min(most, page_limit_ / part * kPage);
}

bool Space::has_room() const {
  return engine_.clock_.steady_ms() - full_ms_ >= kFullForMs;
}

void Space::note_full() {
  full_ms_ = engine_.clock_.steady_ms();
}

std::int64_t Space::claimed_pages() {
  const auto left = [](std::int64_t most, std::int64_t used) {
    return std::max<std::int64_t>(most - used, 0);
  };
  const Sources& names = *engine_.sources_;
  const Sessions& sessions = *engine_.sessions_;
  const std::int64_t bytes = left(names.bytes_most(), names.bytes()) +
                             left(sessions.bytes_most(), sessions.bytes()) +
                             left(sessions.qos2_bytes_most(), sessions.qos2_bytes());
  return used_pages() + bytes / kPage;
}

// True: the whole WAL is in the database, and its file starts anew.
bool Space::checkpoint() {
  const auto busy = engine_.db_.number("PRAGMA wal_checkpoint(TRUNCATE)", 1);
  return busy && *busy == 0;
}

// Dropping begins above the upper mark and ends below the lower one, so that it does not begin anew
// with every segment.
Result<bool> Space::keep_within() {
  WS_TRY(set_page_limit());
  if (page_limit_ == INT64_MAX) {
    block({});
    dropping_ = false;
    return false;
  }
  // Sessions and names have room of their own: what they may still take is not for readings, so
  // that no reading ever makes room for them.
  // On a disk that others fill, they get no more than they have: has_room() says so.
  const std::int64_t used = by_budget_ ? claimed_pages() : used_pages();
  const std::int64_t reserve =
      by_budget_ ? page_limit_ / 8 : std::min(page_limit_ / 8, kReserveOnAFullDisk);
  if (used > page_limit_ - reserve / 2) dropping_ = true;
  if (used <= page_limit_ - reserve) {
    dropping_ = false;
    block({});
  }
  watch_wal();
  if (!dropping_) return false;
  if (auto dropped = drop_one("no room"); !dropped) {
    if (dropped.error().code != ErrorCode::no_space) return tl::unexpected<Error>(dropped.error());
    engine_.logger_.repeated(LogLevel::error, "room", dropped.error().text());
    return false;
  }
  return true;
}

// Within its pages, but with a WAL that cannot start anew: dropping records would not shrink it.
void Space::watch_wal() {
  Engine& e = engine_;
  const std::int64_t wal = file_size(e.options_.path + "-wal");
  if (e.options_.budget_bytes == 0 || used_pages() * kPage + wal <= e.options_.budget_bytes ||
      checkpoint()) {
    return;
  }
  e.logger_.repeated(LogLevel::error, "wal",
                     cat("the WAL has grown to ", format_bytes(wal),
                         ": another program keeps an old snapshot of the database open; end its "
                         "transaction (lsof ",
                         e.options_.path, "-shm names it)"));
}

Result<std::string> Space::unsent_in_oldest(std::size_t place) {
  Engine& e = engine_;
  const auto& chain = e.chains_[place];
  if (chain.closed.empty()) return std::string();
  const std::int64_t behind = chain.closed.size() > 1 ? chain.closed[1].segment : chain.segment;
  for (const Topic& t : e.catalog_.topics()) {
    if (t.chain != chain.id) continue;
    WS_ASSIGN(const bool unsent, is_unsent(t, behind));
    if (unsent) return t.name;
  }
  return std::string();
}

// Offsets that no record has need not be read by anybody.
Result<bool> Space::is_unsent(const Topic& topic, std::int64_t before_segment) {
  Engine& e = engine_;
  for (const std::string& group : topic.keep_for) {
    WS_ASSIGN(Statement s,
              e.db_.prepare("SELECT count(*) FROM _ws_segment_starts s JOIN _ws_partitions p"
                            " USING (tp) LEFT JOIN _ws_consumer_offsets o ON o.tp = s.tp AND"
                            " o.group_id=?4 WHERE s.chain=?1 AND s.segment=?2 AND p.topic_id=?3"
                            " AND s.next_offset - max(ifnull(o.committed_offset, 0), p.log_start) >"
                            " (SELECT ifnull(sum(max(0, min(l.to_offset, s.next_offset) -"
                            " max(l.from_offset, ifnull(o.committed_offset, 0), p.log_start))), 0)"
                            " FROM _ws_lost l WHERE l.tp = s.tp AND l.kind <> 'salvaging')"));
    s.bind(1, topic.chain.value).bind(2, before_segment).bind(3, topic.id.value);
    WS_ASSIGN(const bool row, s.bind_text(4, group).step());
    const bool unsent = row && s.integer(0) > 0;
    s.reset();
    if (unsent) return true;
  }
  return false;
}

// Of what has more than its retention_bytes, else of the lowest priority, the oldest closed
// segment; what a topic keeps until it has been sent is passed over. When only that is left,
// readings for these topics are not taken.
Status Space::drop_one(std::string_view why) {
  Engine& e = engine_;
  const auto rank = [&](std::size_t i) {
    const auto& chain = e.chains_[i];
    return std::tuple(!chain.is_over_its_bytes(e.positions_.open[i].bytes), chain.priority,
                      chain.closed.front().max_append_ms);
  };
  std::size_t victim = e.chains_.size();
  std::vector<std::string> keeping;
  for (std::size_t i = 0; i < e.chains_.size(); ++i) {
    const auto& chain = e.chains_[i];
    if (chain.closed.empty()) continue;
    WS_ASSIGN(const std::string unsent, unsent_in_oldest(i));
    if (!unsent.empty()) {
      keeping.push_back(unsent);
      continue;
    }
    if (victim == e.chains_.size() || rank(i) < rank(victim)) victim = i;
  }
  if (victim < e.chains_.size()) return e.drop_oldest(victim, why);
  block(keeping);
  if (!keeping.empty()) return fail(ErrorCode::no_space, why_blocked_);
  return fail(ErrorCode::no_space, "there is no room, and no closed segment to drop",
              "free some space on this file system, or raise storage.budget");
}

void Space::block(const std::vector<std::string>& topics) {
  blocked_.clear();
  why_blocked_.clear();
  for (const Topic& t : engine_.catalog_.topics()) {
    if (std::find(topics.begin(), topics.end(), t.name) == topics.end()) continue;
    blocked_.push_back(t.id);
    why_blocked_ += cat(why_blocked_.empty() ? "" : ", ", t.name);
  }
  if (blocked_.empty()) return;
  dropping_ = true;  // until there is room, which ends it
  why_blocked_ = cat("no readings are taken for ", why_blocked_,
                     ": there is no room, and it keeps what has not been sent (keep_unsent); "
                     "bring the upstream back, or raise storage.budget");
}

std::string Space::refusal(TpId tp) const {
  if (blocked_.empty()) return {};
  const Topic* topic = engine_.catalog_.find(tp);
  const bool blocked =
      topic != nullptr && std::find(blocked_.begin(), blocked_.end(), topic->id) != blocked_.end();
  return blocked ? why_blocked_ : std::string();
}

// In the order of what it costs.
Status Space::make_room() {
  Engine& e = engine_;
  note_full();
  if (by_budget_ && used_pages() + kPagesForADrop >= page_limit_) return drop_within_limit();
  if (e.recovery_->give_up_damaged_file()) return {};
  if (used_pages() + kPagesForADrop >= page_limit_) return drop_within_limit();
  // The disk itself is full, perhaps of others' files. The WAL may only need its beginning back.
  // Only once: if no commit succeeds after it, it was not that.
  if (!checkpointed_ && file_size(e.options_.path + "-wal") > 0 && checkpoint()) {
    checkpointed_ = true;
    return {};
  }
  const std::string ballast = e.options_.path + ".ballast";
  const bool had_ballast = e.options_.vfs.empty() && ::unlink(ballast.c_str()) == 0;
  const auto unused = e.db_.number("PRAGMA freelist_count");
  if (!had_ballast && unused && *unused > kFreePagesEnough) {
    return fail(ErrorCode::no_space,
                "the disk is full, and not of this log, which has unused pages of its own",
                "free some space on this file system; dropping records would not help");
  }
  // From now on the log lives within the pages it has, and the ballast's space is the WAL's: what
  // it needs to drop old segments is never used up by new ones.
  e.logger_.warning("the disk is full: the log grows no further and drops its oldest records");
  (void)checkpoint();
  WS_ASSIGN(const std::int64_t pages, e.db_.number("PRAGMA page_count"));
  page_limit_ = std::min(page_limit_, std::max(pages, kPagesLeast));
  WS_TRY(e.db_.exec(cat("PRAGMA max_page_count=", page_limit_)));
  return drop_within_limit();
}

// At the limit even a roll has no room: it is lent some pages.
Status Space::drop_within_limit() {
  Engine& e = engine_;
  WS_TRY(e.db_.exec(cat("PRAGMA max_page_count=", page_limit_ + kPagesForADrop)));
  Status status = drop_one("no room");
  if (!status && status.error().code == ErrorCode::no_space) {
    // What is open can go once it is closed; not of a topic that keeps it.
    std::size_t largest = e.chains_.size();
    for (std::size_t i = 0; i < e.chains_.size(); ++i) {
      const bool keeps = std::any_of(
          e.catalog_.topics().begin(), e.catalog_.topics().end(),
          [&](const Topic& t) { return t.chain == e.chains_[i].id && !t.keep_for.empty(); });
      if (keeps || e.positions_.open[i].rows == 0) continue;
      if (largest == e.chains_.size() ||
          e.positions_.open[i].bytes > e.positions_.open[largest].bytes) {
        largest = i;
      }
    }
    if (largest < e.chains_.size()) {
      status = e.roll(largest);
      if (status) status = drop_one("no room");
    }
  }
  WS_TRY(e.db_.exec(cat("PRAGMA max_page_count=", page_limit_)));
  return status;
}

// Between two maintenances a fast writer fills the reserve: it is looked at now and then.
Status Space::note_commit() {
  checkpointed_ = false;
  if (page_limit_ == INT64_MAX || ++commits_ % 64 != 0) return {};
  WS_ASSIGN([[maybe_unused]] const bool dropped, keep_within());
  return {};
}

// With room enough again, the ballast is made anew. Without one the log does not grow into the room
// that its WAL needs.
void Space::keep_ballast() {
  Engine& e = engine_;
  const std::string ballast = e.options_.path + ".ballast";
  if (!e.options_.vfs.empty() || file_exists(ballast)) return;
  if (free_bytes() < 3 * limits::kBallastBytes) return;
  if (auto made = write_ballast(ballast, limits::kBallastBytes); !made) {
    e.logger_.repeated(LogLevel::warning, "ballast", made.error().text());
  }
}

}  // namespace wayside
