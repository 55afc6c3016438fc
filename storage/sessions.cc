// MQTT sessions that outlive their connection, and the QoS 2 identifiers they hold.
#include "base/limits.h"
#include "base/text.h"
#include "storage/transaction.h"

namespace wayside {

Status Engine::apply(OpenSession& op) {
  op.present = false;
  op.session_id = 0;
  op.qos2_ids.clear();
  WS_ASSIGN(Statement find, db_.prepare("SELECT session_id, disconnected_ms > 0 AND"
                                        " expiry_s < 4294967295 AND"
                                        " disconnected_ms + expiry_s * 1000 < ?2"
                                        " FROM _ws_sessions WHERE client_id=?1"));
  find.bind_text(1, op.client_id).bind(2, trusted_ ? append_ms_ : 0);
  WS_ASSIGN(const bool known, find.step());
  const std::int64_t id = known ? find.integer(0) : 0;
  const bool over = op.clean_start || (known && find.integer(1) != 0);
  find.reset();
  if (known && over) WS_TRY(end_session(id));
  if (known && !over) {
    op.present = true;
    op.session_id = id;
    WS_ASSIGN(Statement ids, db_.prepare("SELECT packet_id FROM _ws_qos2 WHERE session_id=?1"));
    ids.bind(1, id);
    for (;;) {
      WS_ASSIGN(const bool row, ids.step());
      if (!row) break;
      op.qos2_ids.push_back(static_cast<std::uint16_t>(ids.integer(0)));
    }
    WS_ASSIGN(Statement update, db_.prepare("UPDATE _ws_sessions SET expiry_s=?2,"
                                            " disconnected_ms=NULL WHERE session_id=?1"));
    return update.bind(1, id).bind(2, op.expiry_s).run();
  }
  if (op.expiry_s == 0) return {};
  WS_ASSIGN(Statement add, db_.prepare("INSERT INTO _ws_sessions(client_id, expiry_s) "
                                       "VALUES(?1, ?2) RETURNING session_id"));
  WS_ASSIGN(const bool row, add.bind_text(1, op.client_id).bind(2, op.expiry_s).step());
  if (row) op.session_id = add.integer(0);
  add.reset();
  return {};
}

Status Engine::apply(CloseSession& op) {
  if (op.expiry_s == 0) return end_session(op.session_id);
  WS_ASSIGN(Statement s, db_.prepare("UPDATE _ws_sessions SET expiry_s=?2, disconnected_ms=?3 "
                                     "WHERE session_id=?1"));
  // By a clock that is not trusted, the client has been away since an unknown time.
  return s.bind(1, op.session_id).bind(2, op.expiry_s).bind(3, trusted_ ? append_ms_ : 0).run();
}

Status Engine::apply(AddQos2Id& op) {
  return add_qos2_.bind(1, op.session_id).bind(2, op.packet_id).run();
}

Status Engine::apply(RemoveQos2Id& op) {
  return remove_qos2_.bind(1, op.session_id).bind(2, op.packet_id).run();
}

Status Engine::end_session(std::int64_t session_id) {
  WS_ASSIGN(Statement ids, db_.prepare("DELETE FROM _ws_qos2 WHERE session_id=?1"));
  WS_TRY(ids.bind(1, session_id).run());
  WS_ASSIGN(Statement row, db_.prepare("DELETE FROM _ws_sessions WHERE session_id=?1"));
  return row.bind(1, session_id).run();
}

// By trusted time only; and by number, the one absent longest first. Who has been away since an
// unknown time is away since now.
Status Engine::expire_sessions(bool by_time) {
  const std::int64_t now = clock_.wall_ms();
  if (by_time) {
    WS_ASSIGN(const std::int64_t unknown, db_.number("SELECT count(*) FROM _ws_sessions"
                                                     " WHERE disconnected_ms = 0"));
    if (unknown > 0) {
      WS_TRY(transaction([&] {
        return db_.exec(
            cat("UPDATE _ws_sessions SET disconnected_ms=", now, " WHERE disconnected_ms=0"));
      }));
    }
  }
  const std::string expired =
      by_time ? cat("disconnected_ms + expiry_s * 1000 < ", now, " AND expiry_s < 4294967295")
              : "0";
  WS_ASSIGN(Statement s,
            db_.prepare(
                cat("SELECT session_id FROM _ws_sessions WHERE disconnected_ms IS NOT NULL AND ((",
                    expired, ") OR (SELECT count(*) FROM _ws_sessions) > ", limits::kSessionsMax,
                    ") ORDER BY disconnected_ms LIMIT 100")));
  std::vector<std::int64_t> ids;
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    ids.push_back(s.integer(0));
  }
  if (ids.empty()) return {};
  return transaction([&]() -> Status {
    for (const std::int64_t id : ids) WS_TRY(end_session(id));
    return {};
  });
}

}  // namespace wayside
