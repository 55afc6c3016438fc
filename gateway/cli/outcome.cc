#include "gateway/cli/outcome.h"

#include <algorithm>
#include <cstdio>

#include "base/address.h"
#include "base/text.h"
#include "gateway/cli/cli.h"
#include "gateway/control/socket_client.h"
#include "storage/quarantine.h"

namespace wayside {

std::optional<QuarantineWatch> QuarantineWatch::begin(const std::string& config,
                                                      const HostPort& at) {
  const auto log = open_log(config);
  if (!log) return std::nullopt;
  const auto listen = parse_host_port(log->plan.config.mqtt.listen);
  const bool here = at.host == "localhost" || at.host.starts_with("127.") || at.host == "::1" ||
                    (listen && at.host == listen->host);
  const auto running = ask_gateway(log->plan.config.data_dir, R"({"do":"status"})");
  if (!here || !running || running->number("mqtt_port") != at.port) return std::nullopt;
  auto reader = LogReader::open(log->plan.config.database_path());
  const Topic* topic = log->catalog.find(kQuarantineTopic);
  if (!reader || topic == nullptr) return std::nullopt;
  const auto marks = reader->marks(*topic);
  if (!marks) return std::nullopt;
  return QuarantineWatch(log->plan.config.database_path(), marks->front().log_end);
}

Result<std::vector<QuarantineWatch::Reason>> QuarantineWatch::look(
    const std::function<bool(const SetAside&)>& mine) const {
  std::vector<Reason> reasons;
  WS_ASSIGN(LogReader reader, LogReader::open(path_));
  WS_ASSIGN(const Catalog catalog, reader.catalog());
  const Topic* topic = catalog.find(kQuarantineTopic);
  if (topic == nullptr) return reasons;
  const TpId tp = topic->partitions.front().tp;
  WS_ASSIGN(const auto first, reader.seq_of(topic->chain, tp, end_));
  if (!first) return reasons;
  for (Seq next = *first;;) {
    WS_ASSIGN(const auto page, reader.read(topic->chain, next, {{tp}}, {}));
    for (const StoredRecord& r : page.records) {
      const QuarantineNote note = note_of(r.record);
      if (!mine({note.client_id, note.mqtt_topic,
                 r.record.value ? std::string_view(*r.record.value) : std::string_view()})) {
        continue;
      }
      auto it = std::find_if(reasons.begin(), reasons.end(),
                             [&](const Reason& known) { return known.name == note.reason; });
      if (it == reasons.end()) {
        it = reasons.insert(reasons.end(), {note.reason, note.detail, 0});
      }
      ++it->readings;
    }
    next = page.next;
    if (page.at_end) return reasons;
  }
}

int report_quarantined(const std::vector<QuarantineWatch::Reason>& quarantined) {
  for (const auto& reason : quarantined) {
    std::printf("%lld stored in quarantine: %s, because %s\n",
                static_cast<long long>(reason.readings), printable(reason.name).c_str(),
                printable(reason.detail).c_str());
  }
  if (quarantined.empty()) return kExitOk;
  std::printf("see 'wayside quarantine list'\n");
  return kExitQuarantined;
}

}  // namespace wayside
