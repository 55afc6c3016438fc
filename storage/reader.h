// Reading the log: a connection of its own, read-only. It works beside the running gateway, with
// the gateway stopped, and on a card pulled from a dead box. Every call reads one snapshot and
// ends it: a pinned snapshot would make the WAL grow. Thread: one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "storage/batch.h"
#include "storage/catalog.h"
#include "storage/marks.h"
#include "storage/sqlite/schema.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

struct GroupPosition {
  std::string group;
  TpId tp;
  Offset next;
  std::int64_t commit_ms = 0;
  std::string metadata = {};
};

struct ReadLimits {
  std::size_t records = 1000;
  std::size_t bytes = 1 << 20;
  bool check = true;  // a record whose CRC is wrong is an error, not a record
};

class LogReader {
 public:
  [[nodiscard]] static Result<LogReader> open(const std::string& path);
  [[nodiscard]] static Result<LogReader> open_as(const std::string& path, OpenMode mode);
  // For somebody who looks from outside: unless the gateway runs, the files are examined first, so
  // that looking removes nothing, and doubts() says what seems to be missing. With `untouched` no
  // file is made or changed either (a card that is evidence, or mounted read-only).
  [[nodiscard]] static Result<LogReader> look(const std::string& path, bool untouched);
  [[nodiscard]] const std::vector<std::string>& doubts() const { return doubts_; }

  [[nodiscard]] Result<Catalog> catalog();
  [[nodiscard]] Result<Identity> identity();
  // From which seq on records are known upstream under which identity of the log; see _ws_logs.
  [[nodiscard]] Result<std::map<Seq, std::string>> identities();
  [[nodiscard]] Result<std::vector<PartitionMarks>> marks(const Topic& topic);
  // Records of one chain in arrival order, from `from` on, of these partitions. Stops at the
  // limits, at `last`, or at the end; one record is given even if it is larger than the limit.
  // Returns where to go on.
  struct Page {
    std::vector<StoredRecord> records;
    Seq next;  // to go on from
    bool at_end = false;
  };
  [[nodiscard]] Result<Page> read(ChainId chain, Seq from, std::span<const TpId> tps,
                                  const ReadLimits& limits, Seq last = Seq(INT64_MAX));
  // The first record of the partition with this offset or a later one; none at its end.
  [[nodiscard]] Result<std::optional<Seq>> seq_of(ChainId chain, TpId tp, Offset offset);
  // The first record of these partitions appended at this time or later; none at the end.
  [[nodiscard]] Result<std::optional<Seq>> seq_at(ChainId chain, std::span<const TpId> tps,
                                                  std::int64_t append_ms);

  // Ranges that are named as missing, and files that were set aside, as the database has them.
  [[nodiscard]] Result<std::vector<Missing>> missing();
  [[nodiscard]] Result<std::vector<DamagedFile>> damaged();
  // Whether older records of these partitions may still come back: who reads in order waits.
  [[nodiscard]] Result<bool> is_salvaging(std::span<const TpId> tps);
  // Whether a file has been replaced since it was opened: then a new reader is needed.
  [[nodiscard]] bool is_replaced() const;

  [[nodiscard]] Result<std::vector<GroupPosition>> positions(const std::string& group);  // "": all
  [[nodiscard]] Result<std::optional<SealedRange>> sealed(const std::string& bridge);
  [[nodiscard]] Result<std::vector<Resend>> resends(const std::string& bridge);  // "": all
  [[nodiscard]] Result<std::optional<Source>> source(std::int64_t id);  // none: it names nobody
  [[nodiscard]] Result<std::vector<std::pair<std::string, std::int64_t>>> counters();
  // From now on the topic's view shows CBOR as JSON on this connection, with columns.
  [[nodiscard]] Status show_cbor(const Topic& topic);
  // The last record of each key (records without one are left out), newest first; of those
  // appended at `since_ms` or later. Walks back from the end, looking at keys only.
  [[nodiscard]] Result<std::vector<StoredRecord>> latest(const Topic& topic, std::int64_t since_ms);
  // Every record appended at `since_ms` or later, of all chains, each in arrival order.
  struct Arrival {
    std::int64_t source, append_ms, timestamp_ms;
    std::int32_t attributes;
    TpId tp;
  };
  [[nodiscard]] Status arrivals(std::int64_t since_ms,
                                const std::function<void(const Arrival&)>& each);
  // The rows that are there of each partition from its log start on, and its marks, in one
  // snapshot: the two must agree.
  struct Counted {
    PartitionMarks marks;
    std::int64_t rows = 0;
  };
  [[nodiscard]] Result<std::vector<Counted>> count_rows(const Topic& topic);

  // What a deleted topic leaves for the ledger: all that was stored, and what was live when it
  // was deleted, of all of them.
  struct Deleted {
    std::int64_t stored = 0, live = 0, lost = 0;
  };
  [[nodiscard]] Result<Deleted> deleted();
  // Offsets in quarantine that have been dealt with, and how; of a log of format 1: none.
  [[nodiscard]] Result<std::map<std::int64_t, std::string>> settled();
  // Who sends: the rows of the dictionary, by client id and topic.
  [[nodiscard]] Status sources(const std::function<void(const Source&)>& each);
  // Each client that has stored a reading, once.
  [[nodiscard]] Status clients(const std::function<void(std::string_view)>& each);
  [[nodiscard]] Result<std::optional<std::string>> fact(std::string_view name) {
    return read_fact(db_, name);
  }
  [[nodiscard]] Result<std::int64_t> number(const std::string& sql) { return db_.number(sql); }
  // A number that changes with every commit of anybody: for waiting without reading.
  [[nodiscard]] Result<std::int64_t> data_version() { return db_.number("PRAGMA data_version"); }
  [[nodiscard]] Database& database() { return db_; }

 private:
  struct Segment {
    std::int64_t segment = 0, first_seq = 0, last_seq = INT64_MAX, max_append_ms = INT64_MAX;
    bool open = true, indexed = false;
  };
  LogReader(Database db, const std::string& path);
  template <class Work>
  auto in_snapshot(Work work) -> decltype(work());
  [[nodiscard]] Result<std::vector<Segment>> segments(ChainId chain, Seq from);
  [[nodiscard]] Status scan_open_segment(const Topic& topic);
  [[nodiscard]] Result<std::vector<PartitionMarks>> marks_now(const Topic& topic);
  [[nodiscard]] Result<std::vector<std::string>> cbor_columns(const Topic& topic);
  [[nodiscard]] Status latest_in(const std::string& table, std::span<const TpId> tps,
                                 std::int64_t since_ms, std::unordered_set<std::string>& seen,
                                 std::vector<StoredRecord>& out);

  Database db_;
  std::string path_;
  std::vector<std::string> doubts_;
  std::uint64_t inode_ = 0, wal_inode_ = 0;
  // Next offsets found by scanning the open segment, and how far it was scanned.
  std::unordered_map<TpId, std::int64_t> next_offset_;
  std::unordered_map<ChainId, std::int64_t> scanned_through_;
};

}  // namespace wayside
