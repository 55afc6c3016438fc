// The two ends of the control socket, talking to each other.
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/limits.h"
#include "base/text.h"
#include "gateway/control/socket_client.h"
#include "gateway/control/socket_server.h"
#include "tests/support.h"

namespace wayside::test {
namespace {

// A server on a thread of its own, which answers as a gateway on this directory would: hello with
// ok, `later` from another thread, `error` with an error, all else with its own words.
class ControlTest : public testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("RUNTIME_DIRECTORY");
    server_ = must(ControlServer::listen(
        control_path(dir_.path()),
        {[this](PeerId peer, const std::string& line) { on_request(peer, line); },
         [this](PeerId) { ++gone_; }}));
    thread_ = std::jthread([this](std::stop_token stop) {
      while (!stop.stop_requested()) server_->serve(100);
    });
  }
  void TearDown() override {
    thread_.request_stop();
    if (server_) server_->wake();
    thread_ = {};
  }
  void on_request(PeerId peer, const std::string& line) {
    const auto json = Json::parse(line);
    const std::string what = json ? json->text("do") : "";
    if (what == "hello") return server_->answer(peer, "{\"ok\":true}");
    if (what == "error") {
      return server_->answer(peer, error_json({ErrorCode::busy, "it is \"busy\"", "wait"}));
    }
    if (what == "later") {
      later_ = std::jthread([this, peer] { server_->answer(peer, "{\"late\":1}"); });
      return;
    }
    if (what != "silence") server_->answer(peer, line);
  }
  ControlClient client() { return must(ControlClient::connect(dir_.path())); }

  TempDir dir_;
  std::unique_ptr<ControlServer> server_;
  std::jthread thread_, later_;
  std::atomic<int> gone_{0};
};

TEST_F(ControlTest, AnswersAndErrorsComeBackAsTheyWere) {
  ControlClient c = client();
  EXPECT_EQ(must(c.ask(R"({"do":"x","n":7})")).number("n"), 7);
  EXPECT_EQ(must(c.ask(R"({"do":"later"})")).number("late"), 1);
  const auto error = c.ask(R"({"do":"error"})");
  ASSERT_FALSE(error);
  EXPECT_EQ(error.error().code, ErrorCode::busy);
  EXPECT_EQ(error.error().what, "it is \"busy\"");
  EXPECT_EQ(error.error().hint, "wait");
  EXPECT_EQ(c.ask(R"({"do":"silence"})", 50).error().code, ErrorCode::timeout);
}

TEST_F(ControlTest, ManyRequestsInOnePieceAreAnsweredInOrder) {
  ControlClient c = client();
  std::string all;
  for (int i = 0; i < 200; ++i) all += cat("{\"do\":\"x\",\"n\":", i, "}", i == 199 ? "" : "\n");
  must(c.send(all));
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(must(parse_answer(must(c.line(5000)))).number("n"), i);
  }
}

TEST_F(ControlTest, ARequestThatIsTooLargeEndsItsOwnPeerOnly) {
  ControlClient other = client(), c = client();
  std::string large = "{\"x\":\"";
  large.append(limits::kControlLineBytesMax + (1 << 20), 'x');
  const auto refused = c.ask(large + "\"}", 10'000);
  EXPECT_FALSE(refused);
  EXPECT_EQ(must(other.ask(R"({"n":1})")).number("n"), 1);
}

TEST_F(ControlTest, WhoIsOneTooManyIsToldSo) {
  std::vector<ControlClient> clients;
  for (std::size_t i = 0; i < limits::kControlPeersMax; ++i) clients.push_back(client());
  for (int i = 0; i < 10; ++i) {
    // Who has not asked for 5 s makes room for another.
    for (ControlClient& c : clients) (void)must(c.ask(R"({"do":"x"})"));
    const auto refused = ControlClient::connect(dir_.path());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::refused) << refused.error().text();
  }
}

TEST_F(ControlTest, AGatewayThatGoesIsUnavailable) {
  ControlClient c = client();
  TearDown();
  server_.reset();
  EXPECT_EQ(c.ask(R"({"do":"x"})").error().code, ErrorCode::unavailable);
  EXPECT_EQ(ControlClient::connect(dir_.path()).error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace wayside::test
