#include "storage/salvager.h"

#include <algorithm>
#include <future>

#include "base/file.h"
#include "base/text.h"
#include "storage/raw_file.h"
#include "storage/reader.h"
#include "storage/recovery.h"
#include "storage/space.h"

namespace wayside {
namespace {

// What the writer takes between two commits: some milliseconds of its time.
constexpr std::size_t kSliceRecords = 500;
constexpr std::size_t kSliceBytes = 256 * 1024;
constexpr int kTriesMost = 5;
// Of so many records one is looked at to find out how many of the newest there is room for.
constexpr std::int64_t kSampleEvery = 64;

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

Status Salvager::on_writer(Log::Work work) {
  auto done = std::make_shared<std::promise<Status>>();
  std::future<Status> result = done->get_future();
  log_.change(std::move(work), [done](const Status& status) { done->set_value(status); });
  return result.get();
}

void Salvager::run(std::stop_token stop) {
  const auto all = [&]() -> Status {
    WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
    WS_ASSIGN(const auto files, reader.damaged());
    std::vector<std::string> waiting;  // the newest first: what it has is the later word
    for (auto f = files.rbegin(); f != files.rend(); ++f) {
      if (f->state == "waiting") waiting.push_back(f->file);
    }
    if (!waiting.empty()) WS_TRY(salvage(waiting, stop));
    return stop.stop_requested() ? Status{} : tell();
  };
  // Readers wait for it: so it is tried again, and given up only when that does not help.
  for (int tries = 1;; ++tries) {
    result_ = all();
    if (result_ || stop.stop_requested()) break;
    logger_.error(cat("salvaging failed: ", result_.error().text()));
    log_.report_damage(result_.error());
    if (tries == kTriesMost) {
      (void)on_writer([](Engine& e) { return e.recovery().give_up_salvage(); });
      break;
    }
    MutexLock lock(mutex_);
    wake_.wait_for(mutex_, stop, std::chrono::seconds(1 << tries), [] { return false; });
  }
  const MutexLock lock(mutex_);
  progress_.file.clear();
}

Status Salvager::tell() {
  WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  std::vector<std::pair<std::string, std::string>> events;  // key, value
  {
    WS_ASSIGN(Statement s,
              reader.database().prepare("SELECT tp, from_offset, to_offset, kind, why FROM _ws_lost"
                                        " WHERE told=0 AND kind<>'salvaging'"));
    for (;;) {
      WS_ASSIGN(const bool row, s.step());
      if (!row) break;
      const TpId tp(static_cast<std::int32_t>(s.integer(0)));
      const Topic* topic = catalog.find(tp);
      if (topic == nullptr) continue;
      std::string value = cat("{\"event\":\"", s.bytes(3), "\",\"topic\":\"", topic->name,
                              "\",\"partition\":", catalog.partition_of(tp),
                              ",\"from\":", s.integer(1), ",\"to\":", s.integer(2), ",\"why\":");
      append_json_string(value, printable(s.bytes(4)));
      events.emplace_back(topic->name, value + "}");
    }
  }
  if (events.empty()) return {};
  const TopicSpec spec{kEventsTopic, 1, kForever, kUnbounded, {}};
  if (log_.catalog()->find(kEventsTopic) == nullptr) {
    WS_TRY(on_writer([&](Engine& e) -> Status {
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
  return on_writer([](Engine& e) { return e.recovery().note_told(); });
}

Status Salvager::salvage(const std::vector<std::string>& files, std::stop_token stop) {
  const std::string directory = log_.path().substr(0, log_.path().rfind('/') + 1);
  std::int64_t bytes = 0, room = 0;
  std::string names;
  for (const std::string& f : files) {
    bytes += file_size(directory + f) + file_size(directory + f + "-wal");
    names += cat(names.empty() ? "" : ", ", f);
  }
  {
    const MutexLock lock(mutex_);
    progress_ = {names, 0, 0};
  }
  WS_TRY(on_writer([&](Engine& e) {
    room = e.space().room_bytes();
    return e.recovery().begin_salvage(bytes);
  }));
  const auto stopped = [&]() -> Status {
    if (!stop.stop_requested()) return {};
    return fail(ErrorCode::unavailable, "the gateway stops");
  };
  // With too little room for all, the newest are worth the most.
  std::int64_t from_seq = 0;
  if (bytes > room) {
    std::vector<std::pair<std::int64_t, std::int64_t>> sample;
    std::int64_t n = 0;
    const auto look = [&](StoredRecord&& r) -> Status {
      if (n++ % kSampleEvery == 0) {
        sample.emplace_back(r.seq.value, r.record.payload_bytes() * 4 / 3 + 100);
      }
      return stopped();
    };
    for (const std::string& f : files) {
      (void)scan_records(directory + f, look, [&](std::int64_t) { return stopped(); });
    }
    WS_TRY(stopped());
    std::sort(sample.begin(), sample.end());
    std::int64_t taken = 0;
    for (auto s = sample.rbegin(); s != sample.rend() && from_seq == 0; ++s) {
      taken += s->second * kSampleEvery;
      if (taken > room - room / 8) from_seq = s->first;
    }
  }
  std::vector<StoredRecord> slice;
  std::size_t slice_bytes = 0;
  bool full = false;
  std::int64_t salvaged = 0, done_bytes = 0, before_bytes = 0, unreadable = 0;
  const auto flush = [&]() -> Status {
    Status added = on_writer([&](Engine& e) {
      Status s = e.recovery().add_salvaged(slice);
      salvaged = e.recovery().salvaged();
      return s;
    });
    slice.clear();
    slice_bytes = 0;
    full = full || (!added && added.error().code == ErrorCode::no_space);
    const MutexLock lock(mutex_);
    progress_.records = salvaged;
    progress_.percent = static_cast<int>(done_bytes * 100 / std::max<std::int64_t>(bytes, 1));
    return added;
  };
  const auto take = [&](StoredRecord&& r) -> Status {
    if (r.seq.value < from_seq) return {};
    slice_bytes += static_cast<std::size_t>(r.record.payload_bytes());
    slice.push_back(std::move(r));
    if (slice.size() < kSliceRecords && slice_bytes < kSliceBytes) return {};
    WS_TRY(stopped());
    return flush();
  };
  for (const std::string& f : files) {
    WS_TRY(on_writer([&](Engine& e) { return e.recovery().use_file(f); }));
    if (!file_exists(directory + f)) continue;  // somebody took it away
    const auto scanned = scan_records(directory + f, take, [&](std::int64_t at) {
      done_bytes = before_bytes + at;
      return stopped();
    });
    Status last = scanned ? Status{} : Status(tl::unexpected<Error>(scanned.error()));
    if (last && !slice.empty()) last = flush();
    if (!last && !full) return last;
    if (scanned) unreadable += scanned->unreadable_pages;
    before_bytes += file_size(directory + f) + file_size(directory + f + "-wal");
  }
  const bool whole = !full && from_seq == 0;
  WS_TRY(on_writer([&](Engine& e) {
    Status s = e.recovery().finish_salvage(whole);
    salvaged = e.recovery().salvaged();
    return s;
  }));
  logger_.warning(
      cat(salvaged, " records were salvaged from ", names,
          whole ? "" : "; there was no room for the older ones",
          unreadable > 0 ? cat("; the disk does not give ", unreadable, " pages") : std::string(),
          "; 'wayside verify' names what is lost"));
  return {};
}

}  // namespace wayside
