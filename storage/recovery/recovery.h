// The engine's part in recovery: it goes on beyond what a log that went back may have given, keeps
// the sidecar, and takes back what the salvager finds. Thread: the writer's.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/ids.h"
#include "storage/engine/state.h"
#include "storage/record.h"
#include "storage/recovery/rescue.h"

namespace wayside {

class Engine;

class Recovery {
 public:
  explicit Recovery(Engine& engine) : engine_(engine) {}

  // After the database was loaded, before its first epoch: not empty: why it must be set aside.
  [[nodiscard]] Result<std::string> resume(const FilesFound& found);
  // A start that may append (the place within its transaction), and an end in order; after it the
  // database has been closed.
  [[nodiscard]] Status note_place();
  [[nodiscard]] Status note_start();
  void note_end();
  void note_closed();
  // Somebody says that the log was put back from a copy that looks like the original: the next
  // start goes on under a new identity.
  [[nodiscard]] Status note_restored();
  void keep_note();  // of the WAL's salt, when another program has begun it anew
  // Writes the sidecar when it is due; `changed`: topics are. Failing is told, and tried again.
  void keep_sidecar(bool changed);
  // Before an append: an error when the sidecar is so far behind that one more might give an offset
  // which a lost log would give again.
  [[nodiscard]] Status check_sidecar();
  [[nodiscard]] const Status& sidecar_status() const { return sidecar_status_; }
  void end_sidecar() { ended_ = true; }  // what is in memory is not sure any more

  // --- salvage; see storage/recovery/salvager.h ---
  // Starts anew with all files that wait: what an earlier try had brought is gone.
  [[nodiscard]] Status begin_salvage(std::int64_t all_bytes);
  // The file that the next records are of.
  [[nodiscard]] Status use_file(const std::string& file);
  // Takes those records that are missing; no_space: what there is room for has been taken.
  [[nodiscard]] Status add_salvaged(std::span<const StoredRecord> records);
  // Makes them part of the log, and names what is lost. `whole`: everything was read.
  [[nodiscard]] Status finish_salvage(bool whole);
  // Readers go on; what is left in the files is lost, and the files stay.
  [[nodiscard]] Status give_up_salvage();
  // Files for which there was no room, or no way, are looked into once more.
  [[nodiscard]] Status retry_salvage();
  // The same, when there seems to be room for all of them.
  [[nodiscard]] Status retry_with_room();
  // The first `ranges` that were not told have their record in gateway.events, and a new identity.
  [[nodiscard]] Status note_told(std::int64_t ranges);
  // Deletes a file that has been salvaged whole; false: there is none.
  [[nodiscard]] bool give_up_damaged_file();
  [[nodiscard]] std::int64_t salvaged() const { return salvaged_; }
  // A WAL was gone at the start: what it had begun to copy may have left the database torn.
  [[nodiscard]] bool must_check() const { return must_check_; }

 private:
  struct Range {
    std::int64_t from = 0, to = 0;
    bool skipped = false;
    std::string why;
  };
  struct Oldest {  // of the segments that are there
    std::int64_t segment = 0, first_seq = 0;
  };
  struct Bucket {
    engine_state::SegmentStats stats;
    std::int64_t last_seq = 0;
    bool clock_trusted = true;
    std::map<TpId, std::int64_t> first_offset;
    Statement insert;
  };
  [[nodiscard]] Result<std::string> why_a_copy(const FilesFound& found);
  [[nodiscard]] Status go_beyond(const Sidecar* sidecar, const std::string& why, bool is_copy);
  [[nodiscard]] Status take_new_identity(const std::string& why);
  [[nodiscard]] Status add_lost(TpId tp, std::int64_t from, std::int64_t to, std::string_view kind,
                                std::string_view why);
  [[nodiscard]] Status start_at_next(std::size_t chain);
  [[nodiscard]] Status drop_strays();
  [[nodiscard]] Status load_missing();
  [[nodiscard]] std::string beside_the_database(std::string_view file) const;
  [[nodiscard]] Result<Bucket*> bucket_of(ChainId chain, std::int64_t seq);
  [[nodiscard]] Status close_bucket(ChainId chain, std::int64_t segment, Bucket& bucket,
                                    std::map<TpId, std::int64_t>& starts);
  [[nodiscard]] bool is_found(TpId tp, std::int64_t offset) const;
  [[nodiscard]] Status name_lost(TpId tp, const std::vector<Range>& ranges);
  [[nodiscard]] engine_state::Chain* chain_at(ChainId id);
  [[nodiscard]] Result<Sidecar> sidecar_now();
  [[nodiscard]] Status write_sidecar_now(std::int64_t now);
  [[nodiscard]] Status note_salt();

  Engine& engine_;
  std::int64_t written_seq_ = 0, written_ms_ = 0;  // of the last sidecar; steady
  std::int64_t serial_ = 0, retry_ms_ = 0;
  std::string written_;
  Status sidecar_status_;
  bool stale_ = false, ended_ = false, must_check_ = false;
  bool strangers_ = false;  // a file has records of partitions that are not known
  std::int64_t noted_ = 0;  // salt of the WAL
  UniqueFd wal_;
  std::uint64_t wal_inode_ = 0;

  std::string file_;
  std::map<std::string, std::int64_t> salvaged_of_;  // by file
  std::int64_t before_source_ = 0, bucket_rows_ = 0, salvaged_ = 0;
  std::map<TpId, std::vector<Range>> missing_;                  // to be looked for
  std::map<TpId, std::map<std::int64_t, std::int64_t>> found_;  // from, to
  std::map<ChainId, Oldest> oldest_;                            // what is salvaged comes before it
  std::map<std::pair<ChainId, std::int64_t>, Bucket> buckets_;  // by segment
};

}  // namespace wayside
