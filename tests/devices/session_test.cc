#include "devices/mqtt/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

#include "devices/mqtt/wire.h"

namespace wayside::mqtt {
namespace {

std::string packet(unsigned first, const std::string& body) {
  std::string out;
  put_u8(out, first);
  put_variable(out, body.size());
  return out + body;
}

std::string connect_packet(int version, std::string_view client_id) {
  std::string body;
  put_prefixed(body, "MQTT");
  put_u8(body, static_cast<unsigned>(version));
  put_u8(body, 2);
  put_u16(body, 60);
  if (version == 5) put_u8(body, 0);
  put_prefixed(body, client_id);
  return packet(0x10, body);
}

std::string publish_packet(int qos, unsigned id, std::string_view payload, int version = 4) {
  std::string body;
  put_prefixed(body, "t/1");
  if (qos > 0) put_u16(body, id);
  if (version == 5) put_u8(body, 0);
  return packet(0x30U | static_cast<unsigned>(qos) << 1, body + std::string(payload));
}

std::string pubrel_packet(unsigned id) {
  std::string body;
  put_u16(body, id);
  return packet(0x62, body);
}

std::span<const std::uint8_t> bytes(const std::string& s) {
  return {reinterpret_cast<const std::uint8_t*>(s.data()), s.size()};
}

// A session that is connected, and what it has said.
class SessionTest : public testing::Test {
 protected:
  void connect(int version = 4, const StoredSession& stored = {}) {
    feed(connect_packet(version, "c"));
    ASSERT_TRUE(std::holds_alternative<ConnectRequested>(session.next(0)));
    ASSERT_TRUE(session.accept(stored, {}));
    session.output().clear();
  }
  void feed(std::string data) {
    fed.push_back(std::move(data));
    session.feed(bytes(fed.back()));
  }
  template <class E>
  E expect(std::uint64_t ticket = 1) {
    Event e = session.next(ticket);
    EXPECT_TRUE(std::holds_alternative<E>(e)) << e.index();
    return std::holds_alternative<E>(e) ? std::get<E>(e) : E{};
  }
  std::string said() { return std::exchange(session.output(), {}); }

  Session session{{3, 4096, 5, false, false}};
  std::deque<std::string> fed;
};

TEST_F(SessionTest, NoAcknowledgementLeavesBeforeItsTicketIsReleased) {
  connect();
  feed(publish_packet(1, 1, "a") + publish_packet(2, 2, "b"));
  expect<Published>(1);
  expect<Published>(2);
  expect<NeedMore>();
  EXPECT_EQ(said(), "");
  EXPECT_EQ(session.release(1), 1U);
  EXPECT_EQ(said(), std::string("\x40\x02\x00\x01", 4));
  EXPECT_EQ(session.release(2), 1U);
  EXPECT_EQ(said(), std::string("\x50\x02\x00\x02", 4));
}

TEST_F(SessionTest, APubcompIsHeldUntilTheRemovalIsReleased) {
  connect();
  feed(publish_packet(2, 9, "a"));
  expect<Published>(1);
  session.release(1);
  said();
  feed(pubrel_packet(9));
  EXPECT_TRUE(expect<Released>(2).known);
  EXPECT_EQ(said(), "");
  session.release(2);
  EXPECT_EQ(said(), std::string("\x70\x02\x00\x09", 4));
}

TEST_F(SessionTest, AQos2IdentifierIsADuplicateUntilItsPubrelAndANewReadingAfter) {
  connect(4, {true, {7}});
  feed(publish_packet(2, 7, "again") + pubrel_packet(7) + publish_packet(2, 7, "new"));
  EXPECT_TRUE(expect<Published>().duplicate);
  EXPECT_TRUE(expect<Released>().known);
  EXPECT_FALSE(expect<Published>().duplicate);
}

TEST_F(SessionTest, BytesMayComeInAnyPieces) {
  const std::string all = connect_packet(5, "c") + publish_packet(1, 1, "payload", 5) +
                          publish_packet(1, 2, std::string(300, 'x'), 5);
  for (std::size_t step = 1; step < all.size(); ++step) {
    Session s{{3, 4096, 5, true, false}};
    int published = 0;
    for (std::size_t at = 0; at < all.size(); at += step) {
      const std::string piece = all.substr(at, step);
      s.feed(bytes(piece));
      for (bool more = true; more;) {
        Event e = s.next(1);
        if (std::holds_alternative<ConnectRequested>(e)) (void)s.accept({}, {});
        if (auto* p = std::get_if<Published>(&e)) {
          ++published;
          EXPECT_EQ(p->publish.topic, "t/1");
        }
        more = !std::holds_alternative<NeedMore>(e);
      }
    }
    ASSERT_EQ(published, 2) << step;
  }
}

TEST_F(SessionTest, MoreThanReceiveMaximumEndsAVersion5Client) {
  connect(5);
  for (unsigned i = 1; i <= 3; ++i) {
    feed(publish_packet(1, i, "x", 5));
    expect<Published>();
    expect<NeedMore>();
  }
  feed(publish_packet(1, 4, "x", 5));
  EXPECT_EQ(expect<Ended>().reason, Reason::receive_maximum_exceeded);
}

TEST_F(SessionTest, AcknowledgedPublishesGiveTheirPlaceBack) {
  connect(5);
  for (unsigned i = 1; i <= 50; ++i) {
    feed(publish_packet(2, i, "x", 5));
    expect<Published>(i);
    expect<NeedMore>();
    feed(pubrel_packet(i));
    expect<Released>(i);
    expect<NeedMore>();
    session.release(i);
  }
}

TEST_F(SessionTest, ATooLargePacketIsRefusedByItsHeaderAlone) {
  connect(5);
  feed(std::string("\x30\xFF\xFF\xFF\x7F", 5));
  const Ended e = expect<Ended>();
  EXPECT_EQ(e.reason, Reason::packet_too_large);
  EXPECT_NE(e.what.find("mqtt.max_packet"), std::string::npos);
}

// Whatever comes, a session neither reads past its bytes (the sanitizers watch) nor goes on after
// it has ended.
TEST(SessionFuzz, SurvivesAnyBytes) {
  const char* given = std::getenv("SEED");
  const auto seed =
      given != nullptr ? static_cast<std::uint32_t>(std::atol(given)) : std::random_device{}();
  std::cout << "SEED=" << seed << "\n";
  std::mt19937 random(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  for (int round = 0; round < 20'000; ++round) {
    const int version = below(2) == 0 ? 4 : 5;
    std::string stream = connect_packet(version, "fuzz");
    for (std::size_t k = below(6); k > 0; --k) {
      switch (below(4)) {
        case 0:
          stream += publish_packet(static_cast<int>(below(3)), 1 + random() % 4, "xyz", version);
          break;
        case 1:
          stream += pubrel_packet(1 + random() % 4);
          break;
        case 2:
          stream += packet(0xC0, "");
          break;
        default: {
          std::string body(below(20), '\0');
          for (char& c : body) c = static_cast<char>(random());
          stream += packet(static_cast<unsigned>(random() & 0xFF), body);
        }
      }
    }
    for (std::size_t flips = below(3); flips > 0; --flips) {
      stream[below(stream.size())] = static_cast<char>(random());
    }
    Session s{{3, below(2) == 0 ? 64U : 4096U, 5, below(4) > 0, below(2) == 0}};
    bool over = false;
    for (std::size_t at = 0; at < stream.size() && !over;) {
      // Exactly as many bytes as there are, on the heap: reading on is an error of the sanitizer.
      const std::size_t n = std::min(stream.size() - at, 1 + below(30));
      const std::vector<std::uint8_t> piece(stream.begin() + static_cast<std::ptrdiff_t>(at),
                                            stream.begin() + static_cast<std::ptrdiff_t>(at + n));
      at += n;
      s.feed(piece);
      for (bool more = true; more && !over;) {
        Event e = s.next(1);
        if (std::holds_alternative<ConnectRequested>(e)) (void)s.accept({}, {});
        over = std::holds_alternative<Ended>(e);
        more = !std::holds_alternative<NeedMore>(e);
      }
    }
  }
}

}  // namespace
}  // namespace wayside::mqtt
