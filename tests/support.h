// What the unit tests share: a fresh directory, a seed that is printed and taken back, a log made
// in one line. Thread: the test's.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "storage/engine/engine.h"
#include "storage/reader.h"

namespace wayside::test {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "wayside-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// mt19937 whose numbers are of 32 bits by type, too.
class Random {
 public:
  explicit Random(std::uint32_t s) : engine_(s) {}
  std::uint32_t operator()() { return static_cast<std::uint32_t>(engine_()); }

 private:
  std::mt19937 engine_;
};

// $SEED, or a random one; printed either way.
inline std::uint32_t seed() {
  const char* given = std::getenv("SEED");
  const auto value = given != nullptr ? static_cast<std::uint32_t>(std::strtoul(given, nullptr, 10))
                                      : std::random_device{}();
  std::cout << "SEED=" << value << std::endl;
  return value;
}

// How many rounds a random test makes: $ROUNDS times as many in a long run.
inline std::uint32_t rounds(std::uint32_t n) {
  const char* times = std::getenv("ROUNDS");
  return times == nullptr ? n : n * static_cast<std::uint32_t>(std::strtoul(times, nullptr, 10));
}

// What it did, for the table of a long run (tests/long.py).
inline void tell(const std::string& what, std::int64_t n, std::int64_t acknowledged) {
  std::cout << "DID " << what << " | " << n << " | " << acknowledged << std::endl;
}

// Unwraps, or fails the test with the error's text.
template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline constexpr std::int64_t kNow = 1'795'000'000'000;  // a trusted moment in 2026

inline Append reading(TpId tp, std::string key, std::string value) {
  Append a;
  a.tp = tp;
  a.record.key = std::move(key);
  a.record.value = std::move(value);
  return a;
}

inline Batch batch_of(std::vector<Op> ops) {
  Batch b;
  b.ops = std::move(ops);
  return b;
}

// Commits one batch.
inline Status commit(Engine& engine, Batch& batch) {
  WS_TRY(engine.begin());
  return engine.commit({&batch, 1});
}
inline Status commit(Engine& engine, std::vector<Op> ops) {
  Batch b = batch_of(std::move(ops));
  return commit(engine, b);
}

// All records of a topic in arrival order.
inline std::vector<StoredRecord> all_records(const std::string& path, const std::string& topic) {
  LogReader reader = must(LogReader::open(path));
  const Catalog catalog = must(reader.catalog());
  const Topic* t = catalog.find(topic);
  std::vector<TpId> tps;
  for (const Partition& p : t->partitions) tps.push_back(p.tp);
  std::vector<StoredRecord> out;
  for (Seq next{0};;) {
    auto page = must(reader.read(t->chain, next, tps, {}));
    out.insert(out.end(), page.records.begin(), page.records.end());
    next = page.next;
    if (page.at_end) return out;
  }
}

}  // namespace wayside::test
