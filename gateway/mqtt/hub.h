// What the MQTT connections of a gateway share: the way into the log, the clients by id, delayed
// wills, the bound on bytes that wait, the counters, and the rule when to ask for a commit.
// Thread: all of it is the I/O thread's; `done` of a batch hops there from the writer's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "config/config.h"
#include "devices/mqtt/session.h"
#include "gateway/mqtt/strangers.h"
#include "gateway/plan/ingest.h"
#include "storage/batch.h"

namespace wayside {

class MqttConnection;

// When everybody who will send soon has sent, waiting longer for company is in vain.
// A connection is *hungry* when its last reading came sooner than the linger after our last
// acknowledgement to it, and no later than a slow network's round trip: with a long linger a device
// that sends once a second waits for nobody. A commit is due at once when a hungry connection waits
// and none is expected: acknowledged less than this ago, and not back yet.
class PaceKeeper {
 public:
  struct Member {
    enum class State { idle, waiting, expected } state = State::idle;
    bool hungry = false;
    std::int64_t acked_us = INT64_MIN / 2;
  };
  explicit PaceKeeper(std::int64_t linger_us) { set_linger_us(linger_us); }
  void set_linger_us(std::int64_t linger_us) {
    soon_us_ = std::min(linger_us, limits::kRoundTripMostMs * 1000);
  }

  void reading_came(Member& m, std::int64_t now_us);
  void all_acknowledged(const std::shared_ptr<Member>& m, std::int64_t now_us);
  void gone(Member& m);
  [[nodiscard]] bool commit_now(std::int64_t now_us);

 private:
  struct Expected {
    std::weak_ptr<Member> member;
    std::int64_t acked_us;
  };
  std::int64_t soon_us_ = 0;
  std::size_t hungry_waiting_ = 0;
  std::size_t expected_ = 0;
  std::deque<Expected> expected_until_;  // in order of time
};

struct MqttHub {
  MqttHub(const Config& the_config, BatchSink& the_log, std::unique_ptr<Ingest> the_ingest,
          const Clock& the_clock, Logger& the_logger)
      : config(the_config),
        sink(the_log),
        ingest(std::move(the_ingest)),
        clock(the_clock),
        logger(the_logger),
        pace(the_config.commit.linger_ms * 1000) {}

  Config config;  // a reload puts another one here, and another ingest
  BatchSink& sink;
  std::unique_ptr<Ingest> ingest;
  std::uint64_t generation = 1;  // of the routes: what a connection remembers is of one of them
  const Clock& clock;
  Logger& logger;
  PaceKeeper pace;
  Strangers strangers{*this};
  // Runs it on the I/O thread, soon.
  std::function<void(std::function<void()>)> post;

  std::unordered_map<std::string, std::weak_ptr<MqttConnection>> clients;
  std::vector<std::uint8_t> read_buffer;  // one read at a time is decoded
  std::size_t pending_bytes = 0;          // of readings that wait for their commit
  std::size_t outstanding = 0;            // batches that wait for their commit
  bool submitted_since_flush = false;
  std::size_t in_flight = 0;  // of the outstanding ones, those that a commit was asked for
  bool stopping = false;

  struct DelayedWill {
    std::string client_id;
    mqtt::Will will;
    std::int64_t due_ms = 0;  // steady
  };
  std::vector<DelayedWill> delayed_wills;
  void count_wills();
  // Something is refused or ended: counted, and stored with the next batch.
  void count(const std::string& name, std::int64_t n = 1) { counts[name] += n; }
  using Counts = std::map<std::string, std::int64_t>;
  static void store_counts(const Counts& counts, std::vector<Op>& ops);
  [[nodiscard]] Counts take_counts(std::vector<Op>& ops);
  void put_back(const Counts& taken);
  // Asks for a commit if nobody else is worth waiting for. Not while one is under way: whose
  // readings are in it will be back, and else two halves of a fleet would take turns for ever.
  void consider_commit();
  // A batch is committed, or was not.
  void settled() {
    --outstanding;
    in_flight -= in_flight > 0 ? 1 : 0;
  }
  // What MQTT 5's properties say about a payload, as a record's headers; what is beyond the bound
  // is dropped, counted, and said in a header of its own. `of_readings`: counts that are stored
  // with the reading or, like it, not at all: who is not acknowledged sends it again.
  [[nodiscard]] std::string headers_of(std::string_view properties, Counts& of_readings);
  // The record, in quarantine, of a reading beyond a limit.
  struct TooLarge {
    std::string_view topic, payload;  // as far as they were kept
    std::size_t topic_bytes = 0, payload_bytes = 0;
    std::string_view properties;
    std::string what;
    bool properties_dropped = false;  // there were too many to keep any
  };
  void set_aside(const std::string& client_id, const TooLarge& reading, std::vector<Op>& ops,
                 Counts& of_readings);
  // Publishes a client's will as a reading; at once, or after its delay.
  void leave_will(const std::string& client_id, const mqtt::Will& will, std::int64_t delay_ms);
  void publish_will(const std::string& client_id, const mqtt::Will& will);
  // The client is back: its delayed will is dropped, or (its session ended) published.
  void client_is_back(const std::string& client_id, bool same_session);
  void publish_due_wills();

  Counts counts;
  // What went wrong with a client last, for the technician; of so many clients at most.
  struct Trouble {
    std::string what;
    std::int64_t at_ms = 0;  // wall
  };
  void note_trouble(const std::string& client_id, std::string what);
  // Counts what became of a reading, and notes what went wrong with it.
  void note_outcome(const std::string& client_id, const Ingest::Outcome& made,
                    Counts& of_readings);
  std::map<std::string, Trouble> troubles;
};

[[nodiscard]] std::int64_t steady_us();
// What it holds in memory, about.
[[nodiscard]] std::size_t bytes_of(const mqtt::Will& will);

}  // namespace wayside
