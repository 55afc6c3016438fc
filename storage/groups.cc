// What groups have committed, and the other small things that are said once: settled quarantine,
// facts.
#include "base/limits.h"
#include "base/text.h"
#include "storage/transaction.h"

namespace wayside {

// By a clock that is not trusted, the commit is of an unknown time.
Status Engine::apply(CommitOffset& op) {
  commit_offset_.bind_text(1, op.group).bind(2, op.tp.value).bind(3, op.next.value);
  return commit_offset_.bind_text(4, op.metadata).bind(5, trusted_ ? append_ms_ : 0).run();
}

Status Engine::apply(DropGroup& op) {
  WS_ASSIGN(Statement s, db_.prepare("DELETE FROM _ws_consumer_offsets WHERE group_id=?1"));
  return s.bind_text(1, op.group).run();
}

Status Engine::apply(TouchGroup& op) {
  WS_ASSIGN(Statement s,
            db_.prepare("UPDATE _ws_consumer_offsets SET commit_ms=?2 WHERE group_id=?1"));
  return s.bind_text(1, op.group).bind(2, trusted_ ? append_ms_ : 0).run();
}

// Offsets of groups that nobody reads are forgotten; those of bridges never. By trusted time only:
// of a commit by an untrusted clock the age is counted from when the clock is trusted.
Status Engine::expire_offsets(bool by_time) {
  if (!by_time || options_.offset_retention_ms == kForever) return {};
  const std::int64_t now = clock_.wall_ms();
  const std::string unknown = cat("commit_ms < ", limits::kPlausibleFromMs);
  const std::string old =
      cat("group_id NOT LIKE 'bridge.%' AND commit_ms < ", now - options_.offset_retention_ms);
  WS_ASSIGN(const std::int64_t any,
            db_.number(cat("SELECT count(*) FROM _ws_consumer_offsets WHERE (", unknown, ") OR (",
                           old, ")")));
  if (any == 0) return {};
  return transaction([&]() -> Status {
    WS_TRY(db_.exec(cat("UPDATE _ws_consumer_offsets SET commit_ms=", now, " WHERE ", unknown)));
    // A group as a whole: half of its offsets would let it begin anew in half of its partitions.
    return db_.exec(cat("DELETE FROM _ws_consumer_offsets WHERE ", old,
                        " AND group_id NOT IN (SELECT group_id FROM _ws_consumer_offsets"
                        " WHERE commit_ms >= ",
                        now - options_.offset_retention_ms, ")"));
  });
}

Status Engine::apply(SettleQuarantined& op) {
  WS_ASSIGN(Statement s,
            db_.prepare("INSERT OR IGNORE INTO _ws_quarantine_settled VALUES(?1, ?2, ?3)"));
  return s.bind(1, op.offset.value).bind_text(2, op.outcome).bind(3, append_ms_).run();
}

Status Engine::apply(SetFact& op) {
  if (!op.value) {
    WS_ASSIGN(Statement s, db_.prepare("DELETE FROM _ws_meta WHERE name=?1"));
    return s.bind_text(1, op.name).run();
  }
  WS_ASSIGN(Statement s, db_.prepare("INSERT OR REPLACE INTO _ws_meta VALUES(?1, ?2)"));
  return s.bind_text(1, op.name).bind_text(2, *op.value).run();
}

}  // namespace wayside
