// The sidecar: a small file beside the database that says how far the log has come, for when the
// database cannot. Written and synced at each start, at each change of the topics, and before
// either a minute or kSidecarRecords records have passed since the last one; so offsets that a lost
// log had given are below `next_offset` + limits::kResumeGap. It has two slots, written in turn and
// in place: one is always whole, and a full disk does not keep it from being written. Format:
// docs/FORMAT.md, "The sidecar". Thread: the writer's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/batch.h"
#include "storage/catalog.h"
#include "storage/place.h"
#include "storage/sqlite/schema.h"

namespace wayside {

struct Sidecar {
  struct Chain {
    ChainId id;
    std::int64_t retention_ms = kForever, retention_bytes = kUnbounded, segment_rows = 0;
    std::int64_t segment = 0;  // the open one
  };
  struct Marks {
    std::int64_t log_start = 0, next_offset = 0;
  };
  struct Lost {  // a range that is named as missing, see _ws_lost
    TpId tp;
    std::int64_t from = 0, to = 0;
    std::string kind, why;
  };
  Identity identity;
  std::int64_t serial = 0;  // the higher one is the newer
  std::int64_t written_ms = 0, next_seq = 0;
  std::vector<Chain> chains;
  std::vector<Topic> topics;
  std::map<TpId, Marks> marks;
  std::vector<CommitOffset> offsets;
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<std::pair<std::string, std::int64_t>> counters;
  std::vector<Lost> lost;
  Place place;  // of the database after an end in order; empty: there was none yet
};

[[nodiscard]] std::string sidecar_path(const std::string& database);
// One line: CRC-32C of the JSON as eight hexadecimal digits, a space, JSON; spaces may fill it up.
[[nodiscard]] std::string dump_sidecar(const Sidecar& s);
[[nodiscard]] Result<Sidecar> parse_sidecar(std::string_view line);
// The newer one that is whole. not_found: there is none; corrupt: both slots are torn.
[[nodiscard]] Result<Sidecar> read_sidecar(const std::string& database);
// Over the older one, synced; where that fails or does not fit, as a new file.
[[nodiscard]] Status write_sidecar(const std::string& database, const Sidecar& s);

}  // namespace wayside
