// A card: every fsync and fdatasync takes SLOW_SYNC_MS longer. For LD_PRELOAD.
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <thread>

namespace {

int slowly(const char* name, int fd) {
  const char* ms = std::getenv("SLOW_SYNC_MS");
  std::this_thread::sleep_for(std::chrono::milliseconds(ms != nullptr ? std::atoi(ms) : 0));
  return reinterpret_cast<int (*)(int)>(::dlsym(RTLD_NEXT, name))(fd);
}

}  // namespace

extern "C" int fsync(int fd) {
  return slowly("fsync", fd);
}
extern "C" int fdatasync(int fd) {
  return slowly("fdatasync", fd);
}
