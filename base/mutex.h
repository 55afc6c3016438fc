// A mutex that clang's thread-safety analysis understands (it rejects libstdc++'s bare one), and
// the annotations. With other compilers the annotations are nothing.
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define WS_TSA(x) __attribute__((x))
#else
#define WS_TSA(x)
#endif
#define GUARDED_BY(m) WS_TSA(guarded_by(m))
#define REQUIRES_LOCK(m) WS_TSA(requires_capability(m))

namespace wayside {

class WS_TSA(capability("mutex")) Mutex {
 public:
  void lock() WS_TSA(acquire_capability()) { m_.lock(); }
  void unlock() WS_TSA(release_capability()) { m_.unlock(); }

 private:
  std::mutex m_;
};

class WS_TSA(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& m) WS_TSA(acquire_capability(m)) : m_(m) { m_.lock(); }
  ~MutexLock() WS_TSA(release_capability()) { m_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& m_;
};

}  // namespace wayside
