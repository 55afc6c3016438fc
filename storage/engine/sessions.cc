#include "storage/engine/sessions.h"

#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"

namespace wayside {
namespace {

constexpr std::int64_t kDayMs = 86'400'000;
constexpr std::int64_t kExpireEveryMs = 10'000;
constexpr std::int64_t kManyRows = 1000;  // fewer are looked at each second
constexpr int kLookedAt = 500, kEndedMost = 64;
constexpr std::size_t kOriginsMax = 1024;

}  // namespace

Status Sessions::prepare() {
  Database& db = engine_.db_;
  WS_ASSIGN(add_, db.prepare("INSERT OR IGNORE INTO _ws_qos2 VALUES(?1, ?2)", true));
  WS_ASSIGN(remove_, db.prepare("DELETE FROM _ws_qos2 WHERE session_id=?1 AND packet_id=?2", true));
  WS_ASSIGN(stored_, db.prepare("SELECT 1 FROM _ws_sources WHERE client_id=?1 LIMIT 1", true));
  WS_ASSIGN(ids_of_, db.prepare("SELECT count(*) FROM _ws_qos2 WHERE session_id=?1", true));
  return {};
}

Status Sessions::load() {
  WS_ASSIGN(Statement s,
            engine_.db_.prepare(row_costs_sql(
                "SELECT length(CAST(client_id AS BLOB)) AS n FROM _ws_sessions")));
  WS_ASSIGN(const bool row, s.step());
  if (row) now_.rows = s.integer(0), now_.bytes = s.integer(1);
  WS_ASSIGN(now_.ids, engine_.db_.number("SELECT count(*) FROM _ws_qos2"));
  return {};
}

std::int64_t Sessions::bytes_most() const {
  return engine_.space_->part_of_limit(limits::kSessionsBytesMax, limits::kSessionsPart);
}
std::int64_t Sessions::qos2_bytes() const {
  return now_.ids * limits::kQos2IdBytes;
}
std::int64_t Sessions::qos2_bytes_most() const {
  return engine_.space_->part_of_limit(limits::kQos2BytesMax, limits::kQos2Part);
}

void Sessions::begin() {
  before_ = now_;
  share_.begin();
  qos2_share_.begin();
  opened_.clear(), closed_.clear(), took_.clear();
}

void Sessions::committed() {
  for (const CloseSession& op : closed_) unclosed_.erase(op.session_id);
  for (const std::int64_t id : opened_) unclosed_.erase(id);
}

// The client of a session that could not be closed is gone all the same.
void Sessions::rolled_back() {
  now_ = before_;
  share_.rolled_back();
  qos2_share_.rolled_back();
  for (const std::uint64_t origin : took_) ++of_origin_[origin].left, ++all_.left;
  for (const CloseSession& op : closed_) unclosed_[op.session_id] = op.expiry_s;
}

Status Sessions::open(OpenSession& op) {
  op.present = op.not_kept = false;
  op.session_id = 0;
  op.qos2_ids.clear();
  Database& db = engine_.db_;
  WS_ASSIGN(Statement find, db.prepare("SELECT session_id, disconnected_ms > 0 AND"
                                       " expiry_s < 4294967295 AND"
                                       " disconnected_ms + expiry_s * 1000 < ?2"
                                       " FROM _ws_sessions WHERE client_id=?1"));
  find.bind_text(1, op.client_id).bind(2, engine_.trusted_ ? engine_.append_ms_ : 0);
  WS_ASSIGN(const bool known, find.step());
  const std::int64_t id = known ? find.integer(0) : 0;
  const bool over = op.clean_start || (known && find.integer(1) != 0);
  find.reset();
  if (known && over) WS_TRY(end(id));
  if (known && !over) {
    op.present = true;
    op.session_id = id;
    opened_.push_back(id);
    WS_ASSIGN(Statement ids, db.prepare("SELECT packet_id FROM _ws_qos2 WHERE session_id=?1"));
    ids.bind(1, id);
    for (;;) {
      WS_ASSIGN(const bool row, ids.step());
      if (!row) break;
      op.qos2_ids.push_back(static_cast<std::uint16_t>(ids.integer(0)));
    }
    WS_ASSIGN(Statement update, db.prepare("UPDATE _ws_sessions SET expiry_s=?2,"
                                           " disconnected_ms=NULL WHERE session_id=?1"));
    return update.bind(1, id).bind(2, op.expiry_s).run();
  }
  if (op.expiry_s == 0) return {};
  WS_ASSIGN(const bool keep, may_keep(op));
  op.not_kept = !keep;
  if (!keep) return {};
  WS_ASSIGN(Statement add, db.prepare("INSERT INTO _ws_sessions(client_id, expiry_s) "
                                      "VALUES(?1, ?2) RETURNING session_id"));
  WS_ASSIGN(const bool row, add.bind_text(1, op.client_id).bind(2, op.expiry_s).step());
  if (row) op.session_id = add.integer(0);
  opened_.push_back(op.session_id);
  add.reset();
  const std::int64_t cost = row_cost(static_cast<std::int64_t>(op.client_id.size()));
  ++now_.rows;
  now_.bytes += cost;
  share_.add(op.origin, cost);
  return {};
}

bool Sessions::Bucket::take(std::int64_t most, std::int64_t every_ms, std::int64_t now_ms) {
  if (at_ms < 0) left = most, at_ms = now_ms;
  const std::int64_t filled = (now_ms - at_ms) / every_ms;
  left = std::min(most, left + filled);
  at_ms += filled * every_ms;
  if (left == 0) return false;
  --left;
  return true;
}

// Of a client that has stored a reading always, as long as there is room. Others are told that
// their session ends with the connection; theirs is kept when they come again after a reading.
Result<bool> Sessions::may_keep(const OpenSession& op) {
  if (!engine_.space_->has_room()) return false;
  WS_ASSIGN(const bool stored, stored_.bind_text(1, op.client_id).step());
  stored_.reset();
  const std::int64_t cost = row_cost(static_cast<std::int64_t>(op.client_id.size()));
  if (!stored && op.origin != 0) {
    const std::int64_t now = engine_.clock_.steady_ms();
    if (of_origin_.size() >= kOriginsMax && !of_origin_.contains(op.origin)) {
      std::erase_if(of_origin_, [&](const auto& b) {
        return now - b.second.at_ms > limits::kNewSessionsOfAddress * limits::kNewSessionEveryMs;
      });
      if (of_origin_.size() >= kOriginsMax) return false;
    }
    Bucket& own = of_origin_[op.origin];
    if (!own.take(limits::kNewSessionsOfAddress, limits::kNewSessionEveryMs, now)) return false;
    if (!all_.take(limits::kNewSessions, limits::kNewSessionEveryMs / 10, now)) {
      ++own.left;  // it is not the address that has had too many
      return false;
    }
    took_.push_back(op.origin);
  }
  if (now_.bytes + cost > bytes_most()) {
    WS_ASSIGN(const auto useless, find_useless(INT64_MAX, true));
    for (const std::int64_t id : useless) WS_TRY(end(id));
  }
  if (stored && now_.bytes + cost > bytes_most()) WS_TRY(end_some_of_the_newer());
  return share_.allows(stored ? 0 : op.origin, cost, now_.bytes, bytes_most());
}

Status Sessions::close(const CloseSession& op) {
  closed_.push_back(op);
  if (op.expiry_s == 0) return end(op.session_id);
  WS_ASSIGN(Statement s,
            engine_.db_.prepare("UPDATE _ws_sessions SET expiry_s=?2, disconnected_ms=?3 "
                                "WHERE session_id=?1"));
  // By a clock that is not trusted, the client has been away since an unknown time.
  s.bind(1, op.session_id).bind(2, op.expiry_s);
  return s.bind(3, engine_.trusted_ ? engine_.append_ms_ : 0).run();
}

Status Sessions::add(const AddQos2Id& op) {
  WS_TRY(add_.bind(1, op.session_id).bind(2, op.packet_id).run());
  const std::int64_t added = engine_.db_.changes();
  now_.ids += added;
  qos2_share_.add(op.origin, added * limits::kQos2IdBytes);
  return {};
}

Status Sessions::remove(const RemoveQos2Id& op) {
  WS_TRY(remove_.bind(1, op.session_id).bind(2, op.packet_id).run());
  now_.ids -= engine_.db_.changes();
  return {};
}

Result<std::string> Sessions::refusal(const Batch& batch) {
  const std::int64_t most = qos2_bytes_most();
  if (qos2_bytes() < most / 2) return std::string();
  std::int64_t added = 0, removed = 0, session = 0;
  std::uint64_t origin = 0;
  for (const Op& op : batch.ops) {
    if (const auto* a = std::get_if<AddQos2Id>(&op)) {
      ++added, session = a->session_id, origin = a->origin;
    }
    if (std::holds_alternative<RemoveQos2Id>(op)) ++removed;
  }
  if (added <= removed) return std::string();
  ids_of_.bind(1, session);
  WS_ASSIGN(const bool row, ids_of_.step());
  const std::int64_t of_session = row ? ids_of_.integer(0) : 0;
  ids_of_.reset();
  // Who holds few may have as many more as it sends at once: it could not send them in parts.
  if (of_session - removed < limits::kQos2IdsWhenShort &&
      qos2_share_.allows(origin, (added - removed) * limits::kQos2IdBytes, qos2_bytes(), most)) {
    return std::string();
  }
  return cat(now_.ids, " QoS 2 readings have no PUBREL yet, ", of_session,
             " of them of this client; there may be ", most / limits::kQos2IdBytes,
             ", and above half of it a sixteenth of an address, and ", limits::kQos2IdsWhenShort,
             " of a client");
}

Status Sessions::end(std::int64_t session_id) {
  Database& db = engine_.db_;
  WS_ASSIGN(Statement ids, db.prepare("DELETE FROM _ws_qos2 WHERE session_id=?1"));
  WS_TRY(ids.bind(1, session_id).run());
  now_.ids -= db.changes();
  WS_ASSIGN(Statement row, db.prepare("DELETE FROM _ws_sessions WHERE session_id=?1"
                                      " RETURNING length(CAST(client_id AS BLOB))"));
  WS_ASSIGN(const bool was, row.bind(1, session_id).step());
  if (!was) return {};
  now_.bytes -= row_cost(row.integer(0));
  --now_.rows;
  row.reset();
  return {};
}

// Whoever made up sessions that fill the room made them last. So of the newer half of all those go
// that are away longest and hold no identifier; the older half are devices that were here before.
Status Sessions::end_some_of_the_newer() {
  std::vector<std::int64_t> ids;
  {
    WS_ASSIGN(Statement s,
              engine_.db_.prepare(
                  cat("SELECT session_id FROM _ws_sessions s WHERE disconnected_ms IS NOT NULL AND"
                      " session_id >= (SELECT session_id FROM _ws_sessions ORDER BY session_id"
                      " LIMIT 1 OFFSET ?1) AND NOT EXISTS(SELECT 1 FROM _ws_qos2 q WHERE"
                      " q.session_id = s.session_id) ORDER BY disconnected_ms LIMIT ",
                      kEndedMost)));
    s.bind(1, now_.rows / 2);
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      ids.push_back(s.integer(0));
    }
  }
  for (const std::int64_t id : ids) WS_TRY(end(id));
  return {};
}

Result<std::vector<std::int64_t>> Sessions::find_useless(std::int64_t away_before_ms,
                                                         bool only_strangers) {
  std::vector<std::int64_t> useless;
  int rows = 0;
  {
    WS_ASSIGN(Statement s, engine_.db_.prepare(cat(
                               "SELECT session_id, ifnull(disconnected_ms, -1) >= ?3 AND"
                               " disconnected_ms < ?2 AND NOT EXISTS(SELECT 1 FROM _ws_qos2 q"
                               " WHERE q.session_id = s.session_id)",
                               only_strangers ? " AND NOT EXISTS(SELECT 1 FROM _ws_sources x"
                                                " WHERE x.client_id = s.client_id)"
                                              : "",
                               " FROM _ws_sessions s WHERE session_id > ?1 ORDER BY session_id"
                               " LIMIT ",
                               kLookedAt)));
    // 0: since an unknown time.
    s.bind(1, cursor_).bind(2, away_before_ms).bind(3, away_before_ms == INT64_MAX ? 0 : 1);
    for (; useless.size() < kEndedMost; ++rows) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      cursor_ = s.integer(0);
      if (s.integer(1) != 0) useless.push_back(cursor_);
    }
  }
  if (rows < kLookedAt && useless.size() < kEndedMost) cursor_ = 0;  // that was the last
  return useless;
}

Status Sessions::close_again() {
  const std::map<std::int64_t, std::uint32_t> unclosed = unclosed_;
  begin();
  const Status status = engine_.transaction([&]() -> Status {
    for (const auto& [id, expiry_s] : unclosed) WS_TRY(close({id, expiry_s}));
    return {};
  });
  status ? committed() : rolled_back();
  return status;
}

// By trusted time only. Who has been away since an unknown time is away since now.
Status Sessions::expire(bool by_time) {
  Engine& e = engine_;
  if (!unclosed_.empty() && e.space_->has_room()) WS_TRY(close_again());
  const std::int64_t steady = e.clock_.steady_ms(), now = e.clock_.wall_ms();
  if (!by_time || (now_.rows > kManyRows && steady - last_expire_ms_ < kExpireEveryMs)) return {};
  last_expire_ms_ = steady;
  const bool short_of_room = now_.bytes > bytes_most() / 4 * 3;
  if (now_.bytes <= bytes_most() / 2) share_.clear();
  if (qos2_bytes() <= qos2_bytes_most() / 2) qos2_share_.clear();
  WS_ASSIGN(const std::int64_t unknown, e.db_.number("SELECT count(*) FROM _ws_sessions"
                                                     " WHERE disconnected_ms = 0"));
  WS_ASSIGN(Statement s, e.db_.prepare(
                             cat("SELECT session_id FROM _ws_sessions WHERE disconnected_ms IS NOT"
                                 " NULL AND disconnected_ms + expiry_s * 1000 < ", now,
                                 " AND expiry_s < 4294967295 AND disconnected_ms > 0 ORDER BY"
                                 " disconnected_ms LIMIT 100")));
  std::vector<std::int64_t> ids;
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    ids.push_back(s.integer(0));
  }
  WS_ASSIGN(const auto useless, find_useless(now - kDayMs, !short_of_room));
  ids.insert(ids.end(), useless.begin(), useless.end());
  if (ids.empty() && unknown == 0) return {};
  begin();
  const Status status = e.transaction([&]() -> Status {
    if (unknown > 0) {
      WS_TRY(e.db_.exec(
          cat("UPDATE _ws_sessions SET disconnected_ms=", now, " WHERE disconnected_ms=0")));
    }
    for (const std::int64_t id : ids) WS_TRY(end(id));
    return {};
  });
  status ? committed() : rolled_back();
  return status;
}

}  // namespace wayside
