#include "storage/engine/sources.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"

namespace wayside {
namespace {

constexpr std::int64_t kPassEveryMs = 600'000;     // rows are looked at this often at most,
constexpr std::int64_t kPassInNeedEveryMs = 60'000;  // and this often when names are refused
constexpr std::int64_t kSearchEveryMs = 3'600'000;
constexpr int kRowsPerStep = 500, kRecordsPerStep = 2000, kWantedMost = 20'000;

}  // namespace

Status Sources::prepare() {
  Database& db = engine_.db_;
  WS_ASSIGN(find_, db.prepare("SELECT src, unused_from_seq IS NOT NULL FROM _ws_sources"
                              " WHERE client_id=?1 AND mqtt_topic=?2",
                              true));
  WS_ASSIGN(add_, db.prepare("INSERT INTO _ws_sources(client_id, mqtt_topic) VALUES(?1, ?2)"
                             " RETURNING src",
                             true));
  WS_ASSIGN(use_,
            db.prepare("UPDATE _ws_sources SET unused_from_seq=NULL WHERE src=?1", true));
  WS_ASSIGN(Statement costs,
            db.prepare(row_costs_sql("SELECT length(CAST(client_id AS BLOB)) +"
                                     " length(CAST(mqtt_topic AS BLOB)) AS n FROM _ws_sources")));
  WS_ASSIGN(const bool row, costs.step());
  bytes_ = row ? costs.integer(1) : 0;
  era_first_seq_ = engine_.positions_.next_seq;
  return {};
}

std::int64_t Sources::bytes_most() const {
  return engine_.space_->part_of_limit(limits::kSourcesBytesMax, limits::kSourcesPart);
}

void Sources::begin() {
  touched_.clear();
  bytes_before_ = bytes_;
  share_.begin();
}

void Sources::rolled_back() {
  for (const auto& source : touched_) source->id = 0, source->era = 0;
  touched_.clear();
  bytes_ = bytes_before_;
  share_.rolled_back();
}

Status Sources::look_up(const std::shared_ptr<Source>& shared) {
  Source& source = *shared;
  touched_.push_back(shared);
  find_.bind_text(1, source.client_id).bind_text(2, source.mqtt_topic);
  WS_ASSIGN(const bool known, find_.step());
  source.era = era_;
  if (known) {
    source.id = find_.integer(0);
    const bool was_unused = find_.integer(1) != 0;
    find_.reset();
    if (was_unused) WS_TRY(use_.bind(1, source.id).run());
    note_used(source.id);
    return {};
  }
  const std::int64_t cost =
      row_cost(static_cast<std::int64_t>(source.client_id.size() + source.mqtt_topic.size()));
  if (!engine_.space_->has_room() ||
      !share_.allows(source.origin, cost, bytes_, bytes_most())) {
    engine_.logger_.repeated(
        LogLevel::warning, "sources",
        cat("new names of senders are not taken: ", format_bytes(bytes_), " of ",
            format_bytes(bytes_most()), " for them are used, or the disk is full; records of '",
            printable(source.client_id), "' on ", printable(source.mqtt_topic),
            " (and of others) name no source"));
    source.id = -1;
    refused_ = true;
    ++unnamed_;
    return {};
  }
  add_.bind_text(1, source.client_id).bind_text(2, source.mqtt_topic);
  WS_ASSIGN(const bool row, add_.step());
  WS_CHECK(row);
  source.id = add_.integer(0);
  add_.reset();
  bytes_ += cost;
  share_.add(source.origin, cost);
  note_used(source.id);
  return {};
}

void Sources::note_used(std::int64_t id) {
  used_.push_back(id);
  if (used_.size() >= 2 * sorted_ + 1024) sort_used();
}

void Sources::sort_used() {
  std::sort(used_.begin(), used_.end());
  used_.erase(std::unique(used_.begin(), used_.end()), used_.end());
  sorted_ = used_.size();
}

// What is forgotten: what no record with this seq or a later one names, and there are none before.
Status Sources::begin_pass() {
  Engine& e = engine_;
  WS_ASSIGN(oldest_seq_, e.db_.number("SELECT ifnull(min(first_seq), 9223372036854775807) FROM"
                                      " _ws_segments WHERE last_seq IS NOT NULL"));
  for (const auto& open : e.positions_.open) {  // one that is empty says nothing
    oldest_seq_ = std::min(oldest_seq_, open.rows > 0 ? open.first_seq : e.positions_.next_seq);
  }
  const std::int64_t now = e.clock_.steady_ms();
  last_pass_ms_ = now;
  if (oldest_seq_ == oldest_at_last_pass_ && !refused_) return {};
  // Records that are still in a file that was set aside may come back, and name theirs.
  WS_ASSIGN(keep_below_, e.db_.number("SELECT ifnull(max(before_source), 0) FROM _ws_damaged"
                                      " WHERE state <> 'salvaged'"));
  // The highest id stays, so that none is given twice.
  WS_ASSIGN(last_id_, e.db_.number("SELECT ifnull(max(src), 0) FROM _ws_sources"));
  oldest_at_last_pass_ = oldest_seq_;
  passing_ = true, forgot_ = false;
  cursor_ = 0;
  return {};
}

Result<bool> Sources::forget_some() {
  Engine& e = engine_;
  const std::int64_t now = e.clock_.steady_ms();
  if (!wanted_.empty()) {
    WS_TRY(search());
    return false;
  }
  if (!passing_) {
    const std::int64_t every = refused_ ? kPassInNeedEveryMs : kPassEveryMs;
    if (now - last_pass_ms_ < every) return false;
    if (unnamed_ > 0) {
      WS_TRY(e.transaction([&] {
        Count count{"sources.unnamed", unnamed_};
        return e.apply(count);
      }));
      unnamed_ = 0;
    }
    WS_TRY(begin_pass());
    if (!passing_) return false;
  }
  return pass();
}

Result<bool> Sources::pass() {
  Engine& e = engine_;
  sort_used();
  std::vector<std::int64_t> unused, gone;
  std::int64_t gone_bytes = 0;
  int rows = 0;
  // A broker's retained value that was stored is told from a new one by its source, so that stays;
  // unless names are short.
  const bool all = bytes_ > bytes_most() / 4 * 3;
  {
    WS_ASSIGN(Statement s,
              e.db_.prepare("SELECT src, unused_from_seq, length(CAST(client_id AS BLOB)),"
                            " length(CAST(mqtt_topic AS BLOB)), retained_mark IS NOT NULL"
                            " FROM _ws_sources WHERE src > ?1 ORDER BY src LIMIT ?2"));
    s.bind(1, cursor_).bind(2, kRowsPerStep);
    for (;; ++rows) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      const std::int64_t id = cursor_ = s.integer(0);
      if (std::binary_search(used_.begin(), used_.end(), id)) continue;
      if (s.is_null(1)) {
        unused.push_back(id);
      } else if (s.integer(1) <= oldest_seq_ && id >= keep_below_ && id < last_id_ &&
                 (all || s.integer(4) == 0)) {
        gone.push_back(id);
        gone_bytes += row_cost(s.integer(2) + s.integer(3));
      }
    }
  }
  if (!unused.empty() || !gone.empty()) {
    WS_TRY(e.transaction([&]() -> Status {
      WS_ASSIGN(Statement mark,
                e.db_.prepare("UPDATE _ws_sources SET unused_from_seq=?2 WHERE src=?1"));
      for (const std::int64_t id : unused) WS_TRY(mark.bind(1, id).bind(2, era_first_seq_).run());
      WS_ASSIGN(Statement drop, e.db_.prepare("DELETE FROM _ws_sources WHERE src=?1"));
      for (const std::int64_t id : gone) WS_TRY(drop.bind(1, id).run());
      return {};
    }));
    bytes_ -= gone_bytes;
    forgot_ = forgot_ || !gone.empty();
  }
  if (rows < kRowsPerStep) WS_TRY(end_pass());
  return passing_;
}

Status Sources::end_pass() {
  passing_ = false;
  if (bytes_ <= bytes_most() / 2) share_.clear();
  if (forgot_) refused_ = false;
  used_.clear();
  used_.shrink_to_fit();
  sorted_ = 0;
  era_first_seq_ = engine_.positions_.next_seq;
  ++era_;  // every source is looked up once more, those that were refused, too
  return refused_ ? begin_search() : Status{};
}

// A topic that is kept for ever has old segments, and what they name stays. Which names that is can
// only be found by looking at every record, a part at a time.
Status Sources::begin_search() {
  Engine& e = engine_;
  if (e.clock_.steady_ms() - last_search_ms_ < kSearchEveryMs) return {};
  last_search_ms_ = e.clock_.steady_ms();
  WS_ASSIGN(Statement ids, e.db_.prepare("SELECT src FROM _ws_sources WHERE unused_from_seq IS NOT"
                                         " NULL AND src >= ?1 AND src < ?2 ORDER BY src LIMIT ?3"));
  ids.bind(1, keep_below_).bind(2, last_id_).bind(3, kWantedMost);
  for (;;) {
    WS_ASSIGN(const bool row, ids.step());
    if (!row) break;
    wanted_.push_back(ids.integer(0));
  }
  found_.assign(wanted_.size(), false);
  tables_.clear();
  seq_ = INT64_MIN;
  WS_ASSIGN(Statement tables, e.db_.prepare("SELECT chain, segment FROM _ws_segments"));
  for (;;) {
    WS_ASSIGN(const bool row, tables.step());
    if (!row) return {};
    tables_.push_back(segment_table(ChainId(static_cast<std::int32_t>(tables.integer(0))),
                                    tables.integer(1)));
  }
}

// What is appended meanwhile has looked its source up, which is not unused any more then.
Status Sources::search() {
  Engine& e = engine_;
  if (tables_.empty()) return forget_what_was_not_found();
  WS_ASSIGN(const std::int64_t there,
            e.db_.number(cat("SELECT count(*) FROM sqlite_schema WHERE name=",
                             quoted_text(tables_.back()))));
  int rows = 0;
  if (there > 0) {
    WS_ASSIGN(Statement s, e.db_.prepare(cat("SELECT seq, src FROM ", tables_.back(),
                                             " WHERE seq > ?1 ORDER BY seq LIMIT ",
                                             kRecordsPerStep)));
    s.bind(1, seq_);
    for (;; ++rows) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      seq_ = s.integer(0);
      const auto at = std::lower_bound(wanted_.begin(), wanted_.end(), s.integer(1));
      if (at != wanted_.end() && *at == s.integer(1)) {
        found_[static_cast<std::size_t>(at - wanted_.begin())] = true;
      }
    }
  }
  if (rows == kRecordsPerStep) return {};
  tables_.pop_back();
  seq_ = INT64_MIN;
  return {};
}

Status Sources::forget_what_was_not_found() {
  Engine& e = engine_;
  std::int64_t gone_bytes = 0;
  int gone = 0;
  const Status status = e.transaction([&]() -> Status {
    WS_ASSIGN(Statement drop,
              e.db_.prepare("DELETE FROM _ws_sources WHERE src=?1 AND unused_from_seq IS NOT NULL"
                            " RETURNING length(CAST(client_id AS BLOB)),"
                            " length(CAST(mqtt_topic AS BLOB))"));
    for (; !wanted_.empty() && gone < kRowsPerStep; wanted_.pop_back()) {
      if (found_[wanted_.size() - 1]) continue;
      WS_ASSIGN(const bool row, drop.bind(1, wanted_.back()).step());
      if (row) {
        gone_bytes += row_cost(drop.integer(0) + drop.integer(1));
        ++gone;
      }
      drop.reset();
    }
    return {};
  });
  if (!status) {
    wanted_.clear();
    return status;
  }
  bytes_ -= gone_bytes;
  if (gone > 0) {
    refused_ = false;
    ++era_;
  }
  return {};
}

}  // namespace wayside
