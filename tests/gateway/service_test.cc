#include "gateway/service.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/file.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

struct ServiceTest : testing::Test {
  TempDir dir;
  UniqueFd manager;
  ServiceTest() {
    const std::string path = dir / "notify";
    manager = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    ::bind(manager.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    ::setenv("RUNTIME_DIRECTORY", dir.path().c_str(), 1);
    ::setenv("WATCHDOG_USEC", "3000000", 1);
  }
  ~ServiceTest() override {
    for (const char* name : {"NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "WATCHDOG_USEC"}) {
      ::unsetenv(name);
    }
  }
  std::string received() const {
    char buffer[256];
    const ssize_t n = ::recv(manager.get(), buffer, sizeof buffer, 0);
    return n < 0 ? "" : std::string(buffer, static_cast<std::size_t>(n));
  }
};

TEST_F(ServiceTest, NotifiesAndFeedsInTime) {
  Service service;
  service.notify("READY=1");
  EXPECT_EQ(received(), "READY=1");
  service.feed_watchdog(10'000);
  EXPECT_EQ(received(), "WATCHDOG=1");
  service.feed_watchdog(10'999);
  EXPECT_EQ(received(), "") << "a third of the period has not passed";
  service.feed_watchdog(11'000);
  EXPECT_EQ(received(), "WATCHDOG=1");
}

TEST_F(ServiceTest, StartsThatDoNotLastAreDelayedLongerAndLonger) {
  std::vector<std::int64_t> delays;
  for (int i = 0; i < 11; ++i) delays.push_back(Service().start_delay_ms());
  EXPECT_EQ(delays, (std::vector<std::int64_t>{0, 0, 1000, 2000, 4000, 8000, 16'000, 32'000, 60'000,
                                               60'000, 60'000}));
  Service().lasted();
  EXPECT_EQ(Service().start_delay_ms(), 0);
}

TEST_F(ServiceTest, WithoutAManagerNothingHappens) {
  ::unsetenv("NOTIFY_SOCKET");
  Service service;
  service.notify("READY=1");
  service.feed_watchdog(10'000);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(service.start_delay_ms(), 0);
  EXPECT_EQ(received(), "");
}

}  // namespace
}  // namespace wayside::test
