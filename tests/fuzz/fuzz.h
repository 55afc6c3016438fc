// What the fuzz targets share: a claim that ends the program when it is wrong, and the input taken
// apart. A target reads its input as the wire or the disk would give it, drives the real class, and
// checks what must hold whatever comes. Thread: the fuzzer's.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace wayside::fuzz {

inline void require(bool holds, std::string_view claim) {
  if (holds) return;
  std::fprintf(stderr, "WRONG: %.*s\n", static_cast<int>(claim.size()), claim.data());
  std::abort();
}

// Unwraps what cannot fail here.
template <class T>
T must(Result<T> result, std::string_view claim) {
  if (!result) std::fprintf(stderr, "%s\n", result.error().text().c_str());
  require(result.has_value(), claim);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// A directory of this process, in memory where the machine has that; removed at its end.
class Directory {
 public:
  Directory() {
    const bool memory = std::filesystem::exists("/dev/shm");
    std::string name = memory ? "/dev/shm/wayside-fuzz-XXXXXX" : "/tmp/wayside-fuzz-XXXXXX";
    require(::mkdtemp(name.data()) != nullptr, "a directory can be made");
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace wayside::fuzz
