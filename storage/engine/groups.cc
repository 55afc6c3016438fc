// What groups have committed, and the other small things that are said once: settled quarantine,
// facts.
#include <algorithm>

#include "base/text.h"
#include "storage/engine/transaction.h"

namespace wayside {

// By a clock that is not trusted, the commit is of an unknown time. Offsets are never ahead of the
// log, and nobody's partition has none.
Status Engine::apply(CommitOffset& op) {
  const auto tp = static_cast<std::size_t>(op.tp.value);
  if (tp >= chain_of_.size() || chain_of_[tp] == kNoChain) return {};
  op.next = std::min(op.next, next_offset(op.tp));
  commit_offset_.bind_text(1, op.group).bind(2, op.tp.value).bind(3, op.next.value);
  commit_offset_.bind_text(4, op.metadata).bind(5, append_ms_);
  if (trusted_) {
    commit_offset_.bind(6, append_ms_);
  } else {
    commit_offset_.bind_null(6);
  }
  return commit_offset_.run();
}

Status Engine::apply(DropGroup& op) {
  WS_ASSIGN(Statement s, db_.prepare("DELETE FROM _ws_consumer_offsets WHERE group_id=?1"));
  return s.bind_text(1, op.group).run();
}

Status Engine::apply(TouchGroup& op) {
  if (!trusted_) return {};
  WS_ASSIGN(Statement s,
            db_.prepare("UPDATE _ws_consumer_offsets SET age_from_ms=?2 WHERE group_id=?1"));
  return s.bind_text(1, op.group).bind(2, append_ms_).run();
}

// Offsets of groups that nobody reads are forgotten; those of bridges never. By trusted time only:
// the age of a commit by an untrusted clock is counted from when the clock is trusted.
Status Engine::expire_offsets(bool by_time) {
  if (!by_time || options_.offset_retention_ms == kForever) return {};
  const std::int64_t now = clock_.wall_ms(), old = now - options_.offset_retention_ms;
  // A group as a whole: half of its offsets would let it begin anew in half of its partitions.
  const std::string expired =
      cat("substr(group_id, 1, 7) <> 'bridge.' AND group_id IN (SELECT group_id FROM "
          "_ws_consumer_offsets"
          " GROUP BY group_id HAVING max(age_from_ms) < ",
          old, ")");
  WS_ASSIGN(const std::int64_t any,
            db_.number(cat("SELECT count(*) FROM _ws_consumer_offsets WHERE age_from_ms IS NULL"
                           " OR (",
                           expired, ")")));
  if (any == 0) return {};
  return transaction([&]() -> Status {
    WS_TRY(db_.exec(
        cat("UPDATE _ws_consumer_offsets SET age_from_ms=", now, " WHERE age_from_ms IS NULL")));
    return db_.exec("DELETE FROM _ws_consumer_offsets WHERE " + expired);
  });
}

Status Engine::apply(SettleQuarantined& op) {
  WS_ASSIGN(Statement s,
            db_.prepare("INSERT OR IGNORE INTO _ws_quarantine_settled VALUES(?1, ?2, ?3)"));
  WS_TRY(s.bind(1, op.offset.value).bind_text(2, op.outcome).bind(3, append_ms_).run());
  op.already = db_.changes() == 0;
  return {};
}

Status Engine::apply(SetFact& op) {
  if (!op.value) {
    WS_ASSIGN(Statement s, db_.prepare("DELETE FROM _ws_meta WHERE name=?1"));
    return s.bind_text(1, op.name).run();
  }
  WS_ASSIGN(Statement s, db_.prepare("INSERT OR REPLACE INTO _ws_meta VALUES(?1, ?2)"));
  return s.bind_text(1, op.name).bind_text(2, *op.value).run();
}

Status Engine::apply(Seal& op) {
  std::string tps = "[";
  for (const TpId tp : op.range.tps) tps += cat(tps.size() > 1 ? "," : "", tp.value);
  tps += "]";
  WS_ASSIGN(Statement s, db_.prepare("INSERT OR REPLACE INTO _ws_sealed VALUES"
                                     "(?1,?2,?3,?4,?5,?6,?7,?8,?9)"));
  s.bind_text(1, op.bridge).bind(2, op.range.chain.value).bind(3, op.range.first.value);
  s.bind(4, op.range.last.value).bind(5, op.range.rows).bind(6, op.range.crc);
  s.bind_text(7, tps).bind(8, append_ms_).bind_text(9, op.range.idempotency_key);
  return s.run();
}

Status Engine::apply(Unseal& op) {
  WS_ASSIGN(Statement s, db_.prepare("DELETE FROM _ws_sealed WHERE bridge=?1"));
  return s.bind_text(1, op.bridge).run();
}

// What it overlaps is cut, so no offset is in two rows.
Status Engine::apply(Resend& op) {
  std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
  WS_ASSIGN(Statement s, db_.prepare("DELETE FROM _ws_resend WHERE bridge=?1 AND tp=?2 AND"
                                     " from_offset < ?4 AND to_offset > ?3"
                                     " RETURNING from_offset, to_offset"));
  s.bind_text(1, op.bridge).bind(2, op.tp.value).bind(3, op.from.value).bind(4, op.to.value);
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    if (s.integer(0) < op.from.value) pieces.emplace_back(s.integer(0), op.from.value);
    if (s.integer(1) > op.to.value) pieces.emplace_back(op.to.value, s.integer(1));
  }
  if (!op.done && op.from < op.to) pieces.emplace_back(op.from.value, op.to.value);
  WS_ASSIGN(Statement put, db_.prepare("INSERT OR REPLACE INTO _ws_resend VALUES(?1,?2,?3,?4)"));
  for (const auto& [from, to] : pieces) {
    put.bind_text(1, op.bridge).bind(2, op.tp.value).bind(3, from).bind(4, to);
    WS_TRY(put.run());
  }
  return {};
}

}  // namespace wayside
