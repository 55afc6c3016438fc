// What the files of the reader share: a snapshot around some reads, and rows as records.
// Thread: the reader's owner.
#pragma once

#include <span>
#include <string>

#include "base/text.h"
#include "storage/reader.h"

namespace wayside {

inline std::string tp_list(std::span<const TpId> tps) {
  std::string out;
  for (const TpId tp : tps) out += cat(out.empty() ? "" : ",", tp.value);
  return out;
}

// Of: seq, tp, offset, ts, append_ms, key, value, headers, attrs, src, crc.
inline StoredRecord record_of(const Statement& s) {
  StoredRecord r;
  r.seq = Seq(s.integer(0));
  r.tp = TpId(static_cast<std::int32_t>(s.integer(1)));
  r.offset = Offset(s.integer(2));
  r.record.timestamp_ms = s.integer(3);
  r.append_ms = s.integer(4);
  r.record.key = s.optional_bytes(5);
  r.record.value = s.optional_bytes(6);
  r.record.headers = std::string(s.bytes(7));
  r.record.attributes = static_cast<std::int32_t>(s.integer(8));
  r.source = s.integer(9);
  r.crc = static_cast<std::uint32_t>(s.integer(10));
  return r;
}

template <class Work>
auto LogReader::in_snapshot(Work work) -> decltype(work()) {
  if (auto begun = db_.exec("BEGIN"); !begun) return tl::unexpected<Error>(begun.error());
  auto result = work();
  if (auto ended = db_.exec("COMMIT"); !ended && result) {
    return tl::unexpected<Error>(ended.error());
  }
  return result;
}

}  // namespace wayside
