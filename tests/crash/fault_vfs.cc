#include "tests/crash/fault_vfs.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

#include "base/file.h"

namespace wayside::test {
namespace {

constexpr std::size_t kSector = 512;
int next_name = 0;

}  // namespace

struct FaultFile {
  sqlite3_file base;
  FaultVfs* vfs;
  FaultVfs::FileState* state;  // none: a temporary file, which a cut forgets
  bool database;
  sqlite3_file* real;

  static FaultFile* of(sqlite3_file* f) { return reinterpret_cast<FaultFile*>(f); }
  static const sqlite3_io_methods kMethods;

  static int close(sqlite3_file* f) { return of(f)->real->pMethods->xClose(of(f)->real); }
  static int read(sqlite3_file* f, void* to, int n, sqlite3_int64 at) {
    if (of(f)->vfs->off_ || of(f)->vfs->dead_) return SQLITE_IOERR;
    if (of(f)->state != nullptr) {
      if (const int rc = of(f)->vfs->injected(FaultVfs::Call::read); rc != SQLITE_OK) return rc;
    }
    return of(f)->real->pMethods->xRead(of(f)->real, to, n, at);
  }
  static int write(sqlite3_file* f, const void* from, int n, sqlite3_int64 at) {
    FaultFile* me = of(f);
    if (me->state == nullptr) return me->real->pMethods->xWrite(me->real, from, n, at);
    if (const int rc = me->vfs->before(me->database); rc != SQLITE_OK) return rc;
    if (me->vfs->room_ < n) return SQLITE_FULL;
    if (me->vfs->room_ != INT64_MAX) me->vfs->room_ -= n;
    const auto* p = static_cast<const std::uint8_t*>(from);
    if (const int rc = me->vfs->injected(FaultVfs::Call::write); rc != SQLITE_OK) {
      if (rc != SQLITE_READONLY && me->vfs->random_() % 2 == 0) {  // a short write
        me->state->unsynced.push_back({at, {p, p + n / 2}, {}});
        (void)me->real->pMethods->xWrite(me->real, from, n / 2, at);
      }
      return rc;
    }
    me->state->unsynced.push_back({at, {p, p + n}, {}});
    return me->real->pMethods->xWrite(me->real, from, n, at);
  }
  static int truncate(sqlite3_file* f, sqlite3_int64 size) {
    FaultFile* me = of(f);
    if (me->state != nullptr) {
      if (const int rc = me->vfs->before(me->database); rc != SQLITE_OK) return rc;
      if (const int rc = me->vfs->injected(FaultVfs::Call::truncate); rc != SQLITE_OK) return rc;
      me->state->unsynced.push_back({0, {}, size});
    }
    return me->real->pMethods->xTruncate(me->real, size);
  }
  static int sync(sqlite3_file* f, int flags) {
    FaultFile* me = of(f);
    FaultVfs& v = *me->vfs;
    if (me->state == nullptr) return SQLITE_OK;
    if (const int rc = v.before(false); rc != SQLITE_OK) return rc;
    if (v.ignore_syncs_ || (v.ignore_wal_syncs_ && me->state->wal)) return SQLITE_OK;
    if (const int rc = v.injected(FaultVfs::Call::sync); rc != SQLITE_OK) {
      v.sync_failed_ = true;
      me->state->unsynced.clear();
      return rc;
    }
    if (v.fail_sync_ > 0 && --v.fail_sync_ == 0) {
      v.sync_failed_ = true;
      me->state->unsynced.clear();  // believed clean, and not on the disk
      return SQLITE_IOERR_FSYNC;
    }
    for (const auto& change : me->state->unsynced) v.apply(me->state->durable, change, false);
    me->state->unsynced.clear();
    (void)flags;  // the real file need not be synced: the simulated disk is what counts
    return SQLITE_OK;
  }
  static int file_size(sqlite3_file* f, sqlite3_int64* size) {
    return of(f)->real->pMethods->xFileSize(of(f)->real, size);
  }
  static int lock(sqlite3_file* f, int l) { return of(f)->real->pMethods->xLock(of(f)->real, l); }
  static int unlock(sqlite3_file* f, int l) {
    return of(f)->real->pMethods->xUnlock(of(f)->real, l);
  }
  static int reserved(sqlite3_file* f, int* out) {
    return of(f)->real->pMethods->xCheckReservedLock(of(f)->real, out);
  }
  static int control(sqlite3_file* f, int op, void* arg) {
    return of(f)->real->pMethods->xFileControl(of(f)->real, op, arg);
  }
  static int sector_size(sqlite3_file* f) {
    return of(f)->real->pMethods->xSectorSize(of(f)->real);
  }
  // As on Linux: a write that is torn leaves the bytes beside it alone; itself it may tear.
  static int characteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }
  static int shm_map(sqlite3_file* f, int page, int size, int extend, void volatile** out) {
    return of(f)->real->pMethods->xShmMap(of(f)->real, page, size, extend, out);
  }
  static int shm_lock(sqlite3_file* f, int at, int n, int flags) {
    return of(f)->real->pMethods->xShmLock(of(f)->real, at, n, flags);
  }
  static void shm_barrier(sqlite3_file* f) { of(f)->real->pMethods->xShmBarrier(of(f)->real); }
  static int shm_unmap(sqlite3_file* f, int remove) {
    return of(f)->real->pMethods->xShmUnmap(of(f)->real, remove);
  }

  static int open(sqlite3_vfs* v, sqlite3_filename name, sqlite3_file* f, int flags, int* out) {
    auto* vfs = static_cast<FaultVfs*>(v->pAppData);
    FaultFile* me = of(f);
    me->base.pMethods = nullptr;
    if (vfs->off_ || vfs->dead_) return SQLITE_CANTOPEN;
    me->vfs = vfs;
    me->real = reinterpret_cast<sqlite3_file*>(me + 1);
    me->database = (flags & SQLITE_OPEN_MAIN_DB) != 0;
    const bool kept =
        (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0;
    me->state = kept && name != nullptr ? &vfs->state(name) : nullptr;
    if (me->state != nullptr) {
      me->state->wal = (flags & SQLITE_OPEN_WAL) != 0;
      if (const int rc = vfs->injected(FaultVfs::Call::open); rc != SQLITE_OK) return rc;
    }
    const int rc = vfs->real_->xOpen(vfs->real_, name, me->real, flags, out);
    if (rc == SQLITE_OK && me->state != nullptr) me->state->inode = file_inode(name);
    if (rc == SQLITE_OK) me->base.pMethods = &kMethods;
    return rc;
  }
  static int remove(sqlite3_vfs* v, const char* name, int sync_directory) {
    auto* vfs = static_cast<FaultVfs*>(v->pAppData);
    if (const int rc = vfs->before(false); rc != SQLITE_OK) return rc;
    vfs->state(name) = {};
    return vfs->real_->xDelete(vfs->real_, name, sync_directory);
  }
};

const sqlite3_io_methods FaultFile::kMethods = {
    2,         close,    read,    write,       truncate,        sync,    file_size, lock,
    unlock,    reserved, control, sector_size, characteristics, shm_map, shm_lock,  shm_barrier,
    shm_unmap, nullptr,  nullptr};

FaultVfs::FaultVfs(std::uint32_t seed)
    : name_("fault" + std::to_string(next_name++)),
      real_(sqlite3_vfs_find(nullptr)),
      random_(seed) {
  vfs_ = *real_;
  vfs_.iVersion = 2;
  vfs_.szOsFile = static_cast<int>(sizeof(FaultFile)) + real_->szOsFile;
  vfs_.zName = name_.c_str();
  vfs_.pAppData = this;
  vfs_.xOpen = FaultFile::open;
  vfs_.xDelete = FaultFile::remove;
  sqlite3_vfs_register(&vfs_, 0);
}

FaultVfs::~FaultVfs() {
  sqlite3_vfs_unregister(&vfs_);
}

FaultVfs::FileState& FaultVfs::state(const std::string& path) {
  auto [it, fresh] = files_.try_emplace(path);
  if (!fresh && it->second.inode != 0 && it->second.inode != file_inode(path)) {
    it->second = {};
    fresh = true;
  }
  if (fresh) {  // what was there before is on the disk
    std::ifstream in(path, std::ios::binary);
    it->second.durable.assign(std::istreambuf_iterator<char>(in), {});
  }
  return it->second;
}

void FaultVfs::cut_after(std::int64_t operations, bool in_checkpoint) {
  cut_after_ = operations;
  count_database_only_ = in_checkpoint;
}

int FaultVfs::injected(Call kind) {
  if (fault_.count == 0 || fault_.kind != kind || --fault_.from > 0) return SQLITE_OK;
  --fault_.count;
  ++failed_calls_;
  return fault_.code;
}

int FaultVfs::before(bool is_database_write) {
  if (off_ || dead_) return SQLITE_IOERR_WRITE;
  if (cut_after_ > 0 && (is_database_write || !count_database_only_) && --cut_after_ == 0) {
    power_off();
    return SQLITE_IOERR_WRITE;
  }
  return SQLITE_OK;
}

void FaultVfs::apply(std::vector<std::uint8_t>& image, const Change& change, bool torn) {
  if (change.truncate_to) {
    image.resize(static_cast<std::size_t>(*change.truncate_to));
    return;
  }
  const auto at = static_cast<std::size_t>(change.at);
  if (image.size() < at + change.bytes.size()) image.resize(at + change.bytes.size());
  for (std::size_t i = 0; i < change.bytes.size(); i += kSector) {
    if (torn && random_() % 2 == 0) continue;
    const std::size_t n = std::min(kSector, change.bytes.size() - i);
    std::memcpy(image.data() + at + i, change.bytes.data() + i, n);
  }
}

void FaultVfs::power_off() {
  off_ = true;
  const auto mood = random_() % 4;  // all kept, all dropped, or each change its own way
  for (auto& [path, file] : files_) {
    // Renamed since, and perhaps another one has its name: that was written whole, and synced.
    if (file.inode != 0 && file.inode != file_inode(path)) continue;
    auto image = file.durable;
    for (const Change& change : file.unsynced) {
      const auto fate = mood == 0 ? 0U : mood == 1 ? 1U : random_() % 3;
      if (fate == 1) continue;
      apply(image, change, fate == 2);
    }
    directory_ = std::filesystem::path(path).parent_path();
    if (std::filesystem::exists(path) || !image.empty()) {
      after_cut_[std::filesystem::path(path).filename()] = std::move(image);
    }
  }
}

void FaultVfs::write_after_cut(const std::string& directory) const {
  // What is not written through SQLite is written, synced and renamed: it is there, or is not.
  for (const auto& e : std::filesystem::directory_iterator(directory_)) {
    const std::string name = e.path().filename();
    if (e.is_regular_file() && !after_cut_.contains(name) && !name.ends_with("-shm")) {
      std::filesystem::copy_file(e.path(), directory + "/" + name);
    }
  }
  for (const auto& [name, image] : after_cut_) {
    // The same file as before: in another one the log would be a copy, and know it.
    std::error_code none;
    std::filesystem::rename(directory_ + "/" + name, directory + "/" + name, none);
    std::ofstream out(directory + "/" + name, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(image.data()),
              static_cast<std::streamsize>(image.size()));
  }
}

}  // namespace wayside::test
