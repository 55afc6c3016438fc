#include "bridge/sealed.h"

#include <algorithm>

#include "base/checksum.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::size_t kUuidBytes = 36;

}  // namespace

std::string seal_name(const std::string& bridge, BatchKind kind) {
  return cat(bridge, kind == BatchKind::probe   ? "/probe"
                     : kind == BatchKind::again ? "/again"
                                                : "");
}

std::string new_key(const Identity& identity, const std::string& bridge) {
  return cat(identity.gateway_id, ".", identity.log_uuid, ".", bridge, ".", random_128());
}

SealedBatch make_sealed(BatchKind kind, const Catalog& catalog, ChainId chain,
                        const std::vector<TpId>& tps, std::vector<StoredRecord> records,
                        const std::string& key) {
  SealedBatch s;
  s.kind = kind;
  for (const StoredRecord& r : records) {
    append_record_json(s.batch.body, catalog.find(r.tp)->name, catalog.partition_of(r.tp), r.offset,
                       r.record);
    s.batch.body.push_back('\n');
  }
  s.range.chain = chain;
  s.range.first = records.front().seq;
  s.range.last = records.back().seq;
  s.range.rows = static_cast<std::int64_t>(records.size());
  s.range.crc = crc32c(0, s.batch.body);
  s.range.tps = tps;
  s.range.idempotency_key = key;
  s.batch.records = s.range.rows;
  s.batch.idempotency_key = key;
  // Both ids are UUIDs. The log may have got another one since the batch was sealed.
  s.batch.gateway_id = key.substr(0, kUuidBytes);
  s.batch.log_uuid = key.substr(std::min(key.size(), kUuidBytes + 1), kUuidBytes);
  s.records = std::move(records);
  return s;
}

}  // namespace wayside
