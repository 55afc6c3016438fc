// What is done for a log that is damaged, or has gone back: files are looked at before SQLite opens
// them; a damaged database is set aside, and a fresh one made that goes on beyond every offset the
// old one may have given. Records come back later, by storage/recovery/salvager.h.
// Decision: docs/decisions/0007. Thread: the opener's; the gateway's lock is held.
#pragma once

#include <optional>
#include <string>

#include "base/clock.h"
#include "base/log.h"
#include "storage/engine_options.h"
#include "storage/place.h"
#include "storage/recovery/sidecar.h"

namespace wayside {

// Whether an error of our own SQL says that the file is damaged: it has no mistakes, so "no such
// table" is a schema that has lost rows.
[[nodiscard]] bool is_damage(const Error& error);

struct FilesFound {
  std::string damage;    // why the database must be set aside; empty: it may be opened
  std::string wal_gone;  // why records may be missing that only the WAL had; empty: none is
  std::optional<std::uint32_t> foreign_wal;  // the salt of a WAL that is another database's
  std::optional<Sidecar> sidecar;
  std::string sidecar_error;  // why there is none, though there is a file
  Place place;                // of the database, before it is opened
};
// What the files say of each other. Changes nothing, and gives nothing to SQLite that it would
// change.
[[nodiscard]] Result<FilesFound> examine_files(const EngineOptions& options);
// The same, before the log is opened for writing. What stands in a file's place and is none, and a
// WAL of another database, are set aside.
[[nodiscard]] Result<FilesFound> look_at_files(const EngineOptions& options, Logger& logger);

// Sets the database aside, if it is there, and makes a fresh one in its place. Cut off anywhere, it
// is done again at the next start.
[[nodiscard]] Status renew_database(const EngineOptions& options, const std::string& why,
                                    const std::optional<Sidecar>& sidecar, const Clock& clock,
                                    Logger& logger);

// Its second half: `path` goes on beyond what `damaged` (empty: there is none) and sidecar know.
[[nodiscard]] Status build_fresh_database(const EngineOptions& options, const std::string& path,
                                          const std::string& damaged, const std::string& why,
                                          const std::optional<Sidecar>& sidecar, const Clock& clock,
                                          Logger& logger);

// Damaged files beside the database, oldest first; full paths.
[[nodiscard]] std::vector<std::string> damaged_files(const std::string& database);

}  // namespace wayside
