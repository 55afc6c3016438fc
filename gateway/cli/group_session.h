// Reading for a consumer group, for all forms of `read --group`: the running gateway says who of
// the group reads (one at a time; the others stand by), and commits; the records are read from the
// log directly. What was handed out and is not committed is given again, to whoever reads next.
// Errors: `unavailable`: the gateway is gone. Thread: one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gateway/cli/verbs.h"
#include "gateway/control/socket_client.h"

namespace wayside {

// Records in arrival order, and whether the log has no more at present.
struct GroupPage {
  std::vector<StoredRecord> records;
  bool at_end = false;
};

class GroupSession {
 public:
  // Positions by partition: the next offset to read.
  using Positions = std::map<std::int32_t, std::int64_t>;
  // Called while one waits, several times a second; false: give up.
  using GoOn = std::function<bool()>;

  // args, log and go_on must outlive it.
  GroupSession(const ReadArgs& args, OpenedLog& log, const Topic& topic, const GoOn& go_on)
      : args_(args), log_(log), topic_(topic), go_on_(go_on) {}

  // Joins the group and does `work` as its active reader; again, when the gateway went away and is
  // back. Done when `work` is, or go_on says no.
  [[nodiscard]] Status run(const std::function<Status()>& work);

  // --- for `work` ---
  // The next records, at most so many; and those that come behind them, without going on.
  [[nodiscard]] Result<GroupPage> next(std::size_t most);
  [[nodiscard]] Result<GroupPage> peek(std::size_t most);
  // Waits at most so long until something was committed to the log by anybody, or go_on says no;
  // true: something was, since this was last called or records were last read.
  [[nodiscard]] Result<bool> wait_for_more(std::int64_t ms);
  // Partitions were added: true, and the group's positions are found anew.
  [[nodiscard]] Result<bool> begin_anew_if_changed();
  [[nodiscard]] Status commit(const Positions& next);
  [[nodiscard]] Status commit(std::span<const StoredRecord> records);
  // Into quarantine, and the group goes on behind it: one transaction. `detail` says why, `exit`
  // how the program ended, `stderr_line` what it said last; the latter two may be empty.
  [[nodiscard]] Status refuse(const StoredRecord& record, const std::string& detail,
                              const std::string& exit, const std::string& stderr_line);

  [[nodiscard]] const Topic& topic() const { return topic_; }
  [[nodiscard]] std::int32_t partition_of(TpId tp) const { return log_.catalog.partition_of(tp); }
  // Where the group stands, as it was found.
  [[nodiscard]] const Positions& found() const { return found_; }
  // Becomes readable when the gateway is gone. REQUIRES: called within `work`.
  [[nodiscard]] int gateway_fd() const { return client_->fd(); }
  // `unavailable`, when it is gone.
  [[nodiscard]] Status check_gateway();

 private:
  [[nodiscard]] Result<bool> join();
  [[nodiscard]] Result<bool> wait_for_gateway();
  [[nodiscard]] Result<bool> wait_for_salvage();
  [[nodiscard]] Status reopen_if_replaced();
  [[nodiscard]] Status find_positions();
  [[nodiscard]] Result<LogReader::Page> read_page(std::size_t most);
  [[nodiscard]] Status ask(const std::string& request);
  [[nodiscard]] std::vector<TpId> tps_of_topic() const;

  const ReadArgs& args_;
  OpenedLog& log_;
  Topic topic_;
  const GoOn& go_on_;
  std::optional<ControlClient> client_;
  std::vector<TpId> tps_;
  std::map<TpId, std::int64_t> positions_;  // what is handed out next
  Positions found_;
  Seq next_{};
  std::int64_t version_ = 0;  // of the database, before records were read last
  bool was_member_ = false;
};

// A line on stderr, which stdout's reader does not see.
void say(const std::string& text);

}  // namespace wayside
