// A batch whose content is fixed: it is in the database (its range, its CRC, its key) before its
// first send, and goes out the same, under the same key, until it is settled. Thread: plain values.
#pragma once

#include <string>
#include <vector>

#include "bridge/sink.h"
#include "storage/batch.h"
#include "storage/catalog.h"
#include "storage/sqlite/schema.h"

namespace wayside {

// A bridge has at most one of each: the next batch of its order; one record from further behind,
// that tells whether the upstream takes anything; and what is sent once more.
enum class BatchKind { next, probe, again };

struct SealedBatch {
  BatchKind kind = BatchKind::next;
  SealedRange range;
  OutgoingBatch batch;
  std::vector<StoredRecord> records;
};

// Its row of _ws_sealed: the bridge's name, "<name>/probe", "<name>/again".
[[nodiscard]] std::string seal_name(const std::string& bridge, BatchKind kind);

// <gateway>.<log>.<bridge>.<128 random bits>: no two logs that were one once (a copy, a card's
// image) ever have the same key for different records.
[[nodiscard]] std::string new_key(const Identity& identity, const std::string& bridge);

// REQUIRES: there are records, of one chain, in the order of seq. `tps`: of which partitions the
// range of seq holds nothing else that is unsent.
[[nodiscard]] SealedBatch make_sealed(BatchKind kind, const Catalog& catalog, ChainId chain,
                                      const std::vector<TpId>& tps,
                                      std::vector<StoredRecord> records, const std::string& key);

}  // namespace wayside
