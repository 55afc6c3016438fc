// What a broker sends again at each subscription because it had kept it (retained).
#include "storage/engine/engine.h"
#include "storage/engine/sources.h"

namespace wayside {

// `retained_mark` of a source: above, the CRC of the replay that was stored last; below, that of
// the message that came last when it was published. Two, because a topic may have both: one value
// that the broker keeps for ever, and others that it does not keep. 0: none.
Status Engine::apply(CheckReplay& op) {
  op.known = false;  // the batch may be tried again
  WS_TRY(sources_->resolve(op.source));
  if (op.source->id < 0) return {};  // the dictionary is full: nothing is known of it
  WS_ASSIGN(Statement find, db_.prepare("SELECT retained_mark FROM _ws_sources WHERE src=?1"));
  find.bind(1, op.source->id);
  WS_ASSIGN(const bool row, find.step());
  const auto mark = static_cast<std::uint64_t>(row ? find.integer(0) : 0);
  find.reset();
  const std::uint64_t crc = op.crc == 0 ? 1 : op.crc;
  const std::uint64_t replayed = mark >> 32, published = mark & 0xFFFFFFFFU;
  op.known = op.replay && (crc == replayed || crc == published);
  if (op.known) return {};
  const std::uint64_t now = op.replay ? crc << 32 | published : replayed << 32 | crc;
  if (now == mark) return {};
  WS_ASSIGN(Statement set, db_.prepare("UPDATE _ws_sources SET retained_mark=?2 WHERE src=?1"));
  return set.bind(1, op.source->id).bind(2, static_cast<std::int64_t>(now)).run();
}

}  // namespace wayside
