// Looking at a log from outside, and comparing it with what its sidecar knows.
#include "base/file.h"
#include "base/text.h"
#include "storage/reader.h"
#include "storage/recovery/raw_file.h"
#include "storage/recovery/rescue.h"

namespace wayside {
namespace {

constexpr std::size_t kRangesNamed = 3;

std::string beside(const std::string& path, std::string_view name) {
  return cat(path.substr(0, path.rfind('/') + 1), name);
}

// Offsets that the sidecar says were given, and the database does not know.
Result<std::string> behind_sidecar(LogReader& reader, const Sidecar& sidecar) {
  WS_ASSIGN(const Identity identity, reader.identity());
  if (sidecar.identity.log_uuid != identity.log_uuid) return std::string();
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  std::int64_t missing = 0;
  std::size_t ranges = 0;
  std::string named;
  for (const Topic& t : catalog.topics()) {
    WS_ASSIGN(const auto marks, reader.marks(t));
    for (const PartitionMarks& m : marks) {
      const auto known = sidecar.marks.find(m.tp);
      if (known == sidecar.marks.end()) continue;
      const std::int64_t from = m.log_end.value, to = known->second.next_offset;
      if (to <= from) continue;
      missing += to - from;
      if (++ranges > kRangesNamed) continue;
      named += cat(named.empty() ? "" : ", ", t.name, " ", m.partition, ": ", from, " to ", to - 1);
    }
  }
  for (const Topic& t : sidecar.topics) {
    if (catalog.find(t.name) == nullptr) named += cat(named.empty() ? "" : ", ", "topic ", t.name);
  }
  if (named.empty()) return std::string();
  return cat("its sidecar knows of ", missing, " records that are not there (", named,
             ranges > kRangesNamed ? cat(" and ", ranges - kRangesNamed, " partitions more") : "",
             "): a copy without its WAL, or an older one");
}

}  // namespace

Result<LogReader> LogReader::look(const std::string& path, bool untouched) {
  // A running gateway has looked itself, and changes the files while we look.
  if (is_locked(beside(path, "wayside.lock"))) return open(path);
  EngineOptions options;
  options.path = path;
  WS_ASSIGN(const FilesFound found, examine_files(options));
  if (file_size(path) <= 1 && !found.damage.empty()) {
    const WalLook wal = look_at_wal(path + "-wal");
    return fail(ErrorCode::corrupt,
                cat(found.damage,
                    wal.commits > 0 ? cat("; its WAL is there, with ", wal.commits,
                                          " transactions. Looking has not touched it")
                                    : std::string()),
                "start the gateway, or wayside repair with it stopped: what can be read comes back "
                "(do not open it with sqlite3, which removes the WAL beside an empty database)");
  }
  // Of a foreign WAL SQLite would show records that are not of this log.
  auto reader = found.foreign_wal ? open_as(path, OpenMode::immutable)
                : untouched       ? open_as(path, OpenMode::untouched)
                                  : open(path);
  if (!reader) {
    if (!found.damage.empty()) reader.error().what += "; " + found.damage;
    return reader;
  }
  std::vector<std::string>& doubts = reader->doubts_;
  if (!found.damage.empty()) doubts.push_back(found.damage);
  if (found.foreign_wal) doubts.emplace_back("the WAL beside it is of another log and is not read");
  if (!found.wal_gone.empty() && !found.foreign_wal) {
    doubts.push_back(cat(found.wal_gone, ": what was only there is missing"));
  }
  if (!found.sidecar_error.empty()) {
    doubts.push_back(cat("the sidecar cannot be read: ", found.sidecar_error));
  }
  if (found.sidecar) {
    WS_ASSIGN(std::string behind, behind_sidecar(*reader, *found.sidecar));
    if (!behind.empty()) doubts.push_back(std::move(behind));
  }
  return reader;
}

}  // namespace wayside
