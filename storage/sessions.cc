// MQTT sessions that outlive their connection, and the QoS 2 identifiers they hold.
#include "base/limits.h"
#include "base/text.h"
#include "storage/transaction.h"

namespace wayside {

Status Engine::apply(OpenSession& op) {
  op.present = false;
  op.session_id = 0;
  op.qos2_ids.clear();
  WS_ASSIGN(Statement find, db_.prepare("SELECT session_id FROM _ws_sessions WHERE client_id=?1"));
  WS_ASSIGN(const bool known, find.bind_text(1, op.client_id).step());
  const std::int64_t id = known ? find.integer(0) : 0;
  find.reset();
  if (known && op.clean_start) WS_TRY(end_session(id));
  if (known && !op.clean_start) {
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
  return s.bind(1, op.session_id).bind(2, op.expiry_s).bind(3, append_ms_).run();
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

// By trusted time only; and by number, the one absent longest first.
Status Engine::expire_sessions() {
  const std::string expired =
      clock_.trusted() ? cat("disconnected_ms + expiry_s * 1000 < ", clock_.wall_ms(),
                             " AND expiry_s < 4294967295")
                       : "0";
  WS_ASSIGN(Statement s, db_.prepare(cat(
      "SELECT session_id FROM _ws_sessions WHERE disconnected_ms IS NOT NULL AND ((", expired,
      ") OR (SELECT count(*) FROM _ws_sessions) > ", limits::kSessionsMax,
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
