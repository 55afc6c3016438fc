// One client's socket: bytes between it and its mqtt::Session, readings into batches, and
// acknowledgements out when the batch they wait for has committed. Reads stop at the bounds.
// Thread: the I/O thread's.
#pragma once

#include <asio/ip/tcp.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "gateway/mqtt/hub.h"

namespace wayside {

class MqttConnection : public std::enable_shared_from_this<MqttConnection> {
 public:
  MqttConnection(asio::ip::tcp::socket socket, MqttHub& hub);
  ~MqttConnection();
  MqttConnection(const MqttConnection&) = delete;
  MqttConnection& operator=(const MqttConnection&) = delete;

  void start();
  // Timeouts; called several times a second.
  void tick(std::int64_t now_ms);
  // The same client connected anew: what the kernel has received of this connection by now is
  // still taken, then it ends, then the successor's session is opened.
  void take_over(std::shared_ptr<MqttConnection> successor);
  // The gateway stops: what the kernel has received by now is still taken and acknowledged.
  void stop_reading();
  void shut_down();
  void close();
  [[nodiscard]] bool closed() const { return state_ == State::closed; }
  [[nodiscard]] bool connected() const { return state_ == State::open && session_.connected(); }
  // The name its readings are kept under: its client id, unless that was given for this connection.
  [[nodiscard]] std::string known_as() const;

  // What Strangers decides by. Its CONNECT has not come; it takes one of the places that there are;
  // it is over, and waits for its peer.
  [[nodiscard]] bool silent() const { return state_ == State::open && !registered_ && !ended_; }
  [[nodiscard]] bool has_place() const { return state_ == State::open && registered_; }
  [[nodiscard]] bool draining() const { return state_ == State::draining; }
  // A reading of it is stored, or on its way; its client had stored one before it connected.
  [[nodiscard]] bool has_sent() const { return stored_ || pending_bytes_ + batch_bytes_ > 0; }
  // A reading of it waits for its commit, or it is we who do not read it.
  [[nodiscard]] bool waits_for_us() const { return pending_bytes_ + batch_bytes_ > 0 || paused(); }
  [[nodiscard]] bool known_before() const { return known_before_; }
  [[nodiscard]] const Strangers::Held& held() const { return held_; }
  [[nodiscard]] std::int64_t last_packet_ms() const { return last_packet_ms_; }
  // Of this connection; when it began, if none has come.
  [[nodiscard]] std::int64_t last_reading_ms() const { return last_reading_ms_; }
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] std::uint64_t origin() const { return origin_; }
  // Forgets what can be found again. False: there was not much of it.
  bool give_up_caches();
  // It goes, for the sake of others.
  void give_way(const std::string& why);

 private:
  enum class State { open, draining, closed };  // draining: output is out, waiting for the peer

  void wait_readable();
  void on_readable();
  void pump();
  void decode();
  [[nodiscard]] bool read_last_bytes();
  [[nodiscard]] std::size_t received_bytes();
  [[nodiscard]] bool paused() const;
  void on(mqtt::ConnectRequested&& event);
  void on(mqtt::Published&& event);
  void on(const mqtt::Oversized& event);
  void on(const mqtt::SubscribeAsked& event);
  void on(const mqtt::Released& event);
  void on(const mqtt::Ended& event);
  void open_session();
  void session_opened(bool ok, const OpenSession& opened);
  void submit_batch();
  void committed(bool ok, std::uint64_t ticket, std::size_t bytes);
  void write();
  void end(bool publish_will);
  const Ingest::Resolved& resolve(std::string_view topic);
  void forget_topics();
  void leave_queue();
  void count_memory();  // last of all that a function does: somebody may have to go

  asio::ip::tcp::socket socket_;
  MqttHub& hub_;
  mqtt::Session session_;
  std::string peer_;     // address and port
  std::string address_;
  std::uint64_t origin_ = 0;
  Strangers::Held held_;
  bool known_before_ = false, stored_ = false;
  std::string client_id_;
  std::string assigned_client_id_;
  std::optional<mqtt::Will> will_;
  std::int64_t session_id_ = 0;
  bool clean_start_ = false;
  std::uint32_t session_expiry_s_ = 0;
  bool expiry_capped_ = false;      // it is not what the client asked for
  std::int64_t keep_alive_ms_ = 0;  // the longest silence: 1.5 times the keep-alive
  std::optional<std::uint16_t> server_keep_alive_s_;

  State state_ = State::open;
  bool waiting_readable_ = false, waiting_writable_ = false;
  bool opening_session_ = false;
  bool ended_ = false;  // no more events from the session
  bool registered_ = false;
  bool accepted_ = false;    // its CONNACK was made: from then on it has a will
  bool was_paused_ = false;  // a bound stopped the reading; the tick looks whether it is over
  bool failed_ = false;      // a commit failed: nothing more is acknowledged here
  bool mute_ = false;        // the peer takes no more output; its input is still read
  std::optional<std::size_t> last_bytes_;  // nothing is read beyond these
  bool taken_over_ = false;  // another connection has its client id; it ends when all is taken
  std::shared_ptr<MqttConnection> successor_;  // which waits until then
  std::weak_ptr<MqttConnection> predecessor_;  // for which it waits, or waited
  std::size_t unfinished_bytes_ = 0;  // that came since last_input_ms_
  std::int64_t accepted_ms_, last_input_ms_, last_output_ms_, closing_since_ms_ = 0;
  std::int64_t last_packet_ms_, last_reading_ms_;

  std::uint64_t ticket_ = 1;  // of the batch being filled
  Batch batch_;
  MqttHub::Counts batch_counts_;  // what is counted of its readings
  std::size_t batch_bytes_ = 0;
  std::size_t acks_at_submit_ = 0;
  std::size_t pending_bytes_ = 0;
  std::string out_;  // what the socket did not take yet
  std::shared_ptr<PaceKeeper::Member> pace_ = std::make_shared<PaceKeeper::Member>();
  std::unordered_map<std::string, Ingest::Resolved> topics_;
  std::size_t topics_bytes_ = 0;
  Ingest::Resolved last_resolved_;
  std::uint64_t resolved_generation_ = 0;
};

}  // namespace wayside
