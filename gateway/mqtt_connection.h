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

#include "gateway/mqtt_hub.h"

namespace wayside {

class MqttConnection : public std::enable_shared_from_this<MqttConnection> {
 public:
  // `refused`: one connection too many; it is told so when its CONNECT has come.
  MqttConnection(asio::ip::tcp::socket socket, MqttHub& hub, bool refused);
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
  // Whether it takes one of the places that there are.
  [[nodiscard]] bool admitted() const { return state_ == State::open && !refused_; }

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
  void on(const mqtt::Released& event);
  void on(const mqtt::Ended& event);
  void open_session();
  void session_opened(bool ok, const OpenSession& opened);
  void submit_batch();
  void committed(bool ok, std::uint64_t ticket, std::size_t bytes);
  void write();
  void end(bool publish_will);
  const Ingest::Resolved& resolve(std::string_view topic);

  asio::ip::tcp::socket socket_;
  MqttHub& hub_;
  mqtt::Session session_;
  bool refused_;
  std::string peer_;
  std::string client_id_;
  std::string assigned_client_id_;
  std::optional<mqtt::Will> will_;
  std::int64_t session_id_ = 0;
  bool clean_start_ = false;
  std::uint32_t session_expiry_s_ = 0;
  bool expiry_capped_ = false;      // it is not what the client asked for
  std::int64_t keep_alive_ms_ = 0;  // 1.5 times what the client said; 0: none

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
  std::shared_ptr<MqttConnection> successor_;
  std::int64_t accepted_ms_, last_input_ms_, last_output_ms_, closing_since_ms_ = 0;

  std::uint64_t ticket_ = 1;  // of the batch being filled
  Batch batch_;
  std::size_t batch_bytes_ = 0;
  std::size_t acks_at_submit_ = 0;
  std::size_t pending_bytes_ = 0;
  std::string out_;  // what the socket did not take yet
  std::shared_ptr<PaceKeeper::Member> pace_ = std::make_shared<PaceKeeper::Member>();
  std::unordered_map<std::string, Ingest::Resolved> topics_;
  Ingest::Resolved last_resolved_;
  std::uint64_t resolved_generation_ = 0;
};

}  // namespace wayside
