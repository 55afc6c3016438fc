#include "storage/recovery/salvager.h"

#include <algorithm>
#include <future>

#include "base/file.h"
#include "base/text.h"
#include "storage/engine/space.h"
#include "storage/quarantine.h"
#include "storage/reader.h"
#include "storage/recovery/raw_file.h"
#include "storage/recovery/recovery.h"

namespace wayside {
namespace {

// What the writer takes between two commits: some milliseconds of its time.
constexpr std::size_t kSliceRecords = 500;
constexpr std::size_t kSliceBytes = 256 * 1024;
constexpr int kTriesMost = 5;
// Of so many records one is looked at to find out how many of the newest there is room for.
constexpr std::int64_t kSampleEvery = 64;
constexpr int kSmallerMost = 5;               // tries with less and less room
constexpr std::int64_t kRoomLeast = 1 << 20;  // less is none
constexpr std::size_t kSampleMost = 1 << 16;
constexpr std::int64_t kToldAtOnce = 500;  // events of one batch

Status stopped(const std::stop_token& stop) {
  if (!stop.stop_requested()) return {};
  return fail(ErrorCode::unavailable, "the gateway stops");
}

// About what a record takes in the database.
std::int64_t stored_bytes(const Record& record) {
  return record.payload_bytes() * 4 / 3 + 100;
}

}  // namespace

Salvager::Salvager(Log& log, Logger& logger) : log_(log), logger_(logger) {
  thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
}

Salvager::~Salvager() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Status Salvager::wait() {
  if (thread_.joinable()) thread_.join();
  return result_;
}

Salvager::Progress Salvager::progress() const {
  const MutexLock lock(mutex_);
  return progress_;
}

void Salvager::run(std::stop_token stop) {
  const auto all = [&]() -> Status {
    WS_TRY(check_tables(stop));
    WS_TRY(log_.change_and_wait([](Engine& e) { return e.recovery().retry_with_room(); }));
    WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
    WS_ASSIGN(const auto files, reader.damaged());
    std::vector<std::string> waiting;  // the newest first: what it has is the later word
    for (auto f = files.rbegin(); f != files.rend(); ++f) {
      if (f->state == "waiting") waiting.push_back(f->file);
    }
    if (!waiting.empty()) WS_TRY(salvage(waiting, stop));
    for (bool more = true; more && !stop.stop_requested();) {
      WS_ASSIGN(more, tell());
    }
    return {};
  };
  // Readers wait for it: so it is tried again, and given up only when that does not help. A lock
  // passes, and is waited for.
  for (int tries = 1;;) {
    result_ = all();
    if (result_ || stop.stop_requested()) break;
    const bool passes = result_.error().code == ErrorCode::busy;
    logger_.error(cat("salvaging failed: ", result_.error().text()));
    log_.report_damage(result_.error());
    if (!log_.damage().empty()) break;  // the log is opened anew, and so is this
    if (tries == kTriesMost &&
        log_.change_and_wait([](Engine& e) { return e.recovery().give_up_salvage(); })) {
      break;
    }
    if (!passes && tries < kTriesMost) ++tries;
    MutexLock lock(mutex_);
    // A moment, 1, 4, 16 s.
    const auto pause = std::chrono::milliseconds(250) * (1 << 2 * std::min(tries - 1, 3));
    wake_.wait_for(mutex_, stop, pause, [] { return false; });
  }
  const MutexLock lock(mutex_);
  progress_.file.clear();
}

// Table by table: a snapshot that lasts keeps the WAL from starting anew.
Status Salvager::check_tables(const std::stop_token& stop) {
  bool must = false;
  WS_TRY(log_.change_and_wait([&](Engine& e) -> Status {
    must = e.recovery().must_check();
    return {};
  }));
  if (!must) return {};
  WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
  std::vector<std::string> tables;
  {
    WS_ASSIGN(Statement s, reader.database().prepare("SELECT name FROM sqlite_schema"
                                                     " WHERE type='table'"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      tables.emplace_back(s.bytes(0));
    }
  }
  for (const std::string& table : tables) {
    if (stop.stop_requested()) return {};
    WS_ASSIGN(const std::int64_t torn,
              reader.number(cat("SELECT count(*) FROM pragma_quick_check(", quoted_text(table),
                                ") WHERE quick_check<>'ok'")));
    if (torn == 0) continue;
    return fail_damaged(cat("a WAL was gone, and table ", table, " is torn"));
  }
  return {};
}

Result<bool> Salvager::tell() {
  WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  std::vector<std::pair<std::string, std::string>> events;  // key, value
  std::int64_t ranges = 0;
  {
    WS_ASSIGN(Statement s,
              reader.database().prepare("SELECT tp, from_offset, to_offset, kind, why FROM _ws_lost"
                                        " WHERE told=0 AND kind<>'salvaging'"
                                        " ORDER BY tp, from_offset LIMIT ?1"));
    s.bind(1, kToldAtOnce);
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      const TpId tp(static_cast<std::int32_t>(s.integer(0)));
      ++ranges;
      const Topic* topic = catalog.find(tp);
      if (topic == nullptr) continue;
      std::string value = cat("{\"event\":\"", s.bytes(3), "\",\"topic\":\"", topic->name,
                              "\",\"partition\":", catalog.partition_of(tp),
                              ",\"from\":", s.integer(1), ",\"to\":", s.integer(2), ",\"why\":");
      append_json_string(value, printable(s.bytes(4)));
      events.emplace_back(topic->name, value + "}");
    }
  }
  {
    WS_ASSIGN(Statement s, reader.database().prepare(
                               "SELECT log_uuid, from_seq, why FROM _ws_logs WHERE told=0"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      std::string value = cat("{\"event\":\"new_identity\",\"log\":\"", s.bytes(0),
                              "\",\"from_seq\":", s.integer(1), ",\"why\":");
      append_json_string(value, printable(s.bytes(2)));
      events.emplace_back("log", value + "}");
    }
  }
  const auto note = [&] {
    return log_.change_and_wait([=](Engine& e) { return e.recovery().note_told(ranges); });
  };
  if (ranges == 0 && events.empty()) return false;
  if (events.empty()) {  // of deleted topics, all of them
    WS_TRY(note());
    return ranges == kToldAtOnce;
  }
  const TopicSpec spec{kEventsTopic, 1, kForever, kUnbounded, {}};
  if (log_.catalog()->find(kEventsTopic) == nullptr) {
    WS_TRY(log_.change_and_wait([&](Engine& e) -> Status {
      WS_ASSIGN([[maybe_unused]] const auto warnings, e.ensure_topics({&spec, 1}));
      return {};
    }));
  }
  const TpId to = log_.catalog()->find(kEventsTopic)->partitions.front().tp;
  Batch batch;
  for (auto& [key, value] : events) {
    Append a;
    a.tp = to;
    a.record.key = key;
    a.record.value = std::move(value);
    batch.ops.emplace_back(std::move(a));
  }
  batch.flush_now = true;
  auto done = std::make_shared<std::promise<Status>>();
  std::future<Status> result = done->get_future();
  batch.done = [done](Batch&, const Status& status) { done->set_value(status); };
  log_.submit(std::move(batch));
  WS_TRY(result.get());
  WS_TRY(note());
  return ranges == kToldAtOnce;
}

Status Salvager::salvage(const std::vector<std::string>& files, std::stop_token stop) {
  Attempt attempt;
  for (const std::string& f : files) {
    attempt.files.push_back({f, log_.path().substr(0, log_.path().rfind('/') + 1) + f});
    attempt.bytes +=
        file_size(attempt.files.back().path) + file_size(attempt.files.back().path + "-wal");
    attempt.names += cat(attempt.names.empty() ? "" : ", ", f);
  }
  // Of all there is room for the newest. When it was less than it seemed, less is tried, so that
  // nothing is missing among them; at last nothing.
  std::int64_t room = INT64_MAX;
  for (int tries = 1; tries == 1 || attempt.full; ++tries) {
    WS_TRY(log_.change_and_wait([&](Engine& e) -> Status {
      WS_TRY(e.recovery().begin_salvage(attempt.bytes));  // what a try before had brought is gone
      room = std::min(room, e.space().room_bytes());
      return {};
    }));
    if (tries > kSmallerMost || room < kRoomLeast) room = 0;
    WS_TRY(attempt_within(attempt, room, stop));
    if (!attempt.full) break;
    std::int64_t left = 0;
    WS_TRY(log_.change_and_wait([&](Engine& e) -> Status {
      left = e.space().room_bytes();
      return {};
    }));
    if (left > attempt.bytes) return fail(ErrorCode::no_space, "the disk was full for a while");
    logger_.warning(cat("there is less room than it seemed for what ", attempt.names,
                        " has; it is tried with less"));
    room = std::min(room, attempt.taken_bytes) / 4 * 3;
  }
  const bool whole = attempt.from_seq == 0;
  std::int64_t salvaged = 0;
  WS_TRY(log_.change_and_wait([&](Engine& e) {
    Status s = e.recovery().finish_salvage(whole);
    salvaged = e.recovery().salvaged();
    return s;
  }));
  logger_.warning(cat(
      salvaged, " records were salvaged from ", attempt.names,
      whole ? "" : "; there was no room for the older ones",
      attempt.unreadable > 0 ? cat("; the disk does not give ", attempt.unreadable, " pages") : "",
      "; 'wayside verify' names what is lost"));
  return {};
}

// From which record on there is room for all.
std::int64_t Salvager::newest_within(const Attempt& attempt, std::int64_t room,
                                     std::stop_token stop) {
  if (attempt.bytes <= room) return 0;
  if (room == 0) return INT64_MAX;
  std::vector<std::pair<std::int64_t, std::int64_t>> sample;  // seq, bytes
  std::int64_t n = 0, every = kSampleEvery;
  const auto look = [&](StoredRecord&& r) -> Status {
    if (n++ % every == 0) sample.emplace_back(r.seq.value, stored_bytes(r.record));
    if (sample.size() == kSampleMost) {  // every other one goes: it stays even, and small
      for (std::size_t i = 0; i < kSampleMost / 2; ++i) sample[i] = sample[2 * i];
      sample.resize(kSampleMost / 2);
      every *= 2;
    }
    return stopped(stop);
  };
  for (const auto& f : attempt.files) {
    (void)scan_records(f.path, look, [&](std::int64_t) { return stopped(stop); });
  }
  std::sort(sample.begin(), sample.end());
  std::int64_t taken = 0;
  for (auto s = sample.rbegin(); s != sample.rend(); ++s) {
    taken += s->second * every;
    if (taken > room - room / 8) return s->first + 1;
  }
  return 0;
}

Status Salvager::attempt_within(Attempt& attempt, std::int64_t room, std::stop_token stop) {
  {
    const MutexLock lock(mutex_);
    progress_ = {attempt.names, 0, 0};
  }
  attempt.from_seq = newest_within(attempt, room, stop);
  attempt.full = false;
  attempt.taken_bytes = attempt.unreadable = 0;
  WS_TRY(stopped(stop));
  std::vector<StoredRecord> slice;
  std::size_t slice_bytes = 0;
  std::int64_t done_bytes = 0, before_bytes = 0;
  const auto flush = [&]() -> Status {
    std::int64_t salvaged = 0;
    Status added = log_.change_and_wait([&](Engine& e) {
      Status s = e.recovery().add_salvaged(slice);
      salvaged = e.recovery().salvaged();
      return s;
    });
    slice.clear();
    slice_bytes = 0;
    attempt.full = !added && added.error().code == ErrorCode::no_space;
    const MutexLock lock(mutex_);
    progress_.records = salvaged;
    progress_.percent =
        static_cast<int>(done_bytes * 100 / std::max<std::int64_t>(attempt.bytes, 1));
    return added;
  };
  const auto take = [&](StoredRecord&& r) -> Status {
    if (r.seq.value < attempt.from_seq) return {};
    attempt.taken_bytes += stored_bytes(r.record);
    slice_bytes += static_cast<std::size_t>(r.record.payload_bytes());
    slice.push_back(std::move(r));
    if (slice.size() < kSliceRecords && slice_bytes < kSliceBytes) return {};
    WS_TRY(stopped(stop));
    return flush();
  };
  for (const auto& f : attempt.files) {
    WS_TRY(log_.change_and_wait([&](Engine& e) { return e.recovery().use_file(f.name); }));
    if (!file_exists(f.path)) continue;  // somebody took it away
    const auto scanned = scan_records(f.path, take, [&](std::int64_t at) {
      done_bytes = before_bytes + at;
      return stopped(stop);
    });
    Status last = scanned ? Status{} : Status(tl::unexpected<Error>(scanned.error()));
    if (last && !slice.empty()) last = flush();
    if (attempt.full) return {};
    WS_TRY(std::move(last));
    attempt.unreadable += scanned->unreadable_pages;
    before_bytes += file_size(f.path) + file_size(f.path + "-wal");
  }
  return {};
}

}  // namespace wayside
