#include <algorithm>
#include <cstdio>
#include <deque>
#include <set>

#include "base/clock.h"
#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "gateway/control/changes.h"
#include "storage/quarantine.h"

namespace wayside {
namespace {

constexpr std::size_t kOffsetsPerRequest = 500;

// A quarantined reading and what is known of it.
struct Held {
  StoredRecord record;
  QuarantineNote note;
  std::string settled;  // how it was dealt with; empty: it waits
  bool on_its_way = false;  // a bridge sends it once more
  [[nodiscard]] std::string state() const {
    return !settled.empty() ? settled : on_its_way ? "waiting, sent again" : "waiting";
  }
};

bool is_on_its_way(const Catalog& catalog, const Held& held, const std::vector<Resend>& resends) {
  const auto tp = partition_of(catalog, held.note);
  return tp && std::any_of(resends.begin(), resends.end(), [&](const Resend& r) {
           return r.bridge == held.note.bridge && r.tp == *tp && r.from.value <= held.note.offset &&
                  held.note.offset < r.to.value;
         });
}

// Calls `each` for every reading in quarantine, settled ones too, oldest first.
template <class Each>
Status for_each(OpenedLog& log, Each each) {
  const Topic* topic = log.catalog.find(kQuarantineTopic);
  if (topic == nullptr) return {};
  const TpId tp = topic->partitions.front().tp;
  WS_ASSIGN(const auto settled, log.reader.settled());
  WS_ASSIGN(const auto resends, log.reader.resends(""));
  WS_ASSIGN(const auto marks, log.reader.marks(*topic));
  WS_ASSIGN(const auto first, log.reader.seq_of(topic->chain, tp, marks.front().log_start));
  if (!first) return {};
  for (Seq next = *first;;) {
    WS_ASSIGN(auto page, read_page(log, topic->chain, next, {{tp}}));
    for (StoredRecord& r : page.records) {
      const auto it = settled.find(r.offset.value);
      Held held{std::move(r), {}, it == settled.end() ? "" : it->second};
      held.note = note_of(held.record.record);
      held.on_its_way = is_on_its_way(log.catalog, held, resends);
      each(std::move(held));
    }
    next = page.next;
    if (page.at_end) return {};
  }
}

std::string short_text(std::string_view s, std::size_t most) {
  return shortened(printable(s.substr(0, 8 * most)), most);  // of a long one the rest is not shown
}

void append_held_json(std::string& out, const Held& held) {
  std::string record;
  append_record_json(record, kQuarantineTopic, 0, held.record.offset, held.record.record);
  record.pop_back();
  out += cat(record, ",\"state\":\"", held.state(), "\"}\n");
}

Status list(const QuarantineArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  std::deque<std::vector<std::string>> rows;  // the newest
  std::int64_t waiting = 0, settled = 0, left_out = 0;
  const std::int64_t now = SystemClock().wall_ms();
  WS_TRY(for_each(log, [&](const Held& h) {
    ++(h.settled.empty() ? waiting : settled);
    if (!h.settled.empty() && !args.all) return;
    if (args.json) {
      std::string json;
      append_held_json(json, h);
      std::fputs(json.c_str(), stdout);
      return;
    }
    if (args.limit > 0 && rows.size() == static_cast<std::size_t>(args.limit)) {
      rows.pop_front();
      ++left_out;
    }
    const std::string value = h.record.record.value.value_or("");
    const QuarantineNote& note = h.note;
    rows.push_back({cat(h.record.offset.value), ago(h.record.append_ms, now),
               cat(note.reason, note.bridge.empty() ? "" : " of " + short_text(note.bridge, 24),
                   h.state() == "waiting" ? "" : cat(" (", h.state(), ")")),
               short_text(!note.client_id.empty() ? note.client_id
                          : !note.group.empty()   ? cat("group ", note.group)
                                                  : "-",
                          24),
               short_text(note.mqtt_topic.empty() ? note.topic : note.mqtt_topic, 40),
               cat(value.size()),
               short_text(value, 30)});
  }));
  if (args.json) return {};
  Table table({"OFFSET", "CAME", "REASON", "CLIENT", "MQTT-TOPIC", "BYTES", "VALUE"});
  for (auto& row : rows) table.add(std::move(row));
  if (waiting > 0 || args.all) table.print();
  if (left_out > 0) {
    std::printf("\n%lld older ones are not shown: --limit 0 shows all, --json too\n",
                static_cast<long long>(left_out));
  }
  std::printf("%s%lld waiting, %lld dealt with%s\n", waiting > 0 || args.all ? "\n" : "",
              static_cast<long long>(waiting), static_cast<long long>(settled),
              waiting > 0 ? "; why: wayside quarantine show OFFSET" : "");
  return {};
}

// Calls `each` for the readings that the offsets name, or with `all` for those that wait.
template <class Each>
Status for_wanted(OpenedLog& log, const QuarantineArgs& args, Each each) {
  if (args.offsets.empty() && !args.all) {
    return fail(ErrorCode::invalid_argument, "which readings?", "give their offsets, or --all");
  }
  std::set<std::int64_t> not_found(args.offsets.begin(), args.offsets.end());
  WS_TRY(for_each(log, [&](const Held& h) {
    const bool named = not_found.erase(h.record.offset.value) > 0;
    if (named || (args.all && h.settled.empty())) each(h);
  }));
  if (not_found.empty()) return {};
  return fail(ErrorCode::out_of_range,
              cat("nothing in quarantine has the offset ", *not_found.begin()),
              "'wayside quarantine list' shows what there is");
}

Status show(const QuarantineArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  return for_wanted(log, args, [&](const Held& h) {
    if (args.json) {
      std::string json;
      append_held_json(json, h);
      std::fputs(json.c_str(), stdout);
      return;
    }
    const auto line = [](const std::string& head, const std::string& text) {
      std::printf("%-15s %s\n", head.c_str(), text.c_str());
    };
    line("offset", cat(h.record.offset.value));
    line("came", format_time_utc(h.record.append_ms));
    line("state", h.state());
    if (const auto headers = decode_headers(h.record.record.headers)) {
      for (const auto& [key, value] : *headers) line(key, printable(value.value_or("")));
    }
    line("value", printable(h.record.record.value.value_or("")));
    if (h.state() == "waiting" && h.note.group.empty()) {
      std::printf("\n%s: wayside quarantine retry %lld\n",
                  !h.note.bridge.empty() ? "once the upstream takes it, to send it there again"
                                              : "once a [[route]] takes it",
                  static_cast<long long>(h.record.offset.value));
    }
  });
}

Status settle(const QuarantineArgs& args, const std::string& how) {
  std::vector<std::int64_t> offsets;
  {
    WS_ASSIGN(OpenedLog log, open_log(args.config));
    WS_TRY(for_wanted(log, args,
                      [&](const Held& h) { offsets.push_back(h.record.offset.value); }));
  }
  if (offsets.empty()) {
    std::printf("nothing waits in quarantine\n");
    return {};
  }
  if (how == "drop") {
    WS_TRY(confirm(cat("drop ", offsets.size(), " readings from quarantine for good?"), args.yes));
  }
  Table table({"OFFSET", "RESULT"});
  std::int64_t done = 0, sent = 0;
  for (std::size_t at = 0; at < offsets.size(); at += kOffsetsPerRequest) {
    std::string list;
    for (std::size_t i = at; i < std::min(at + kOffsetsPerRequest, offsets.size()); ++i) {
      list += cat(list.empty() ? "" : ",", offsets[i]);
    }
    WS_ASSIGN(const Json answer,
              change_log(args.config, cat("{\"do\":\"quarantine.settle\",\"how\":\"", how,
                                          "\",\"offsets\":[", list, "]}")));
    for (const Json& one : answer.list("results")) {
      const std::string result = one.text("result");
      if (result.starts_with("stored") || result == "dropped") ++done;
      if (result.starts_with("goes to")) ++sent;
      table.add({cat(one.number("offset")), result});
    }
  }
  table.print();
  std::printf("\n%lld of %zu %s\n", static_cast<long long>(done), offsets.size(),
              how == "retry" ? "stored" : "dropped");
  if (sent > 0) {
    std::printf("%lld go upstream again: 'wayside quarantine list' shows those that wait still\n",
                static_cast<long long>(sent));
  }
  return {};
}

Status export_all(const QuarantineArgs& args) {
  WS_ASSIGN(OpenedLog log, open_log(args.config));
  return for_each(log, [&](const Held& h) {
    if (!h.settled.empty() && !args.all) return;
    std::string json;
    append_held_json(json, h);
    std::fputs(json.c_str(), stdout);
  });
}

}  // namespace

int cmd_quarantine_list(const QuarantineArgs& args) {
  return exit_of(list(args));
}
int cmd_quarantine_show(const QuarantineArgs& args) {
  return exit_of(show(args));
}
int cmd_quarantine_retry(const QuarantineArgs& args) {
  return exit_of(settle(args, "retry"));
}
int cmd_quarantine_drop(const QuarantineArgs& args) {
  return exit_of(settle(args, "drop"));
}
int cmd_quarantine_export(const QuarantineArgs& args) {
  return exit_of(export_all(args));
}

}  // namespace wayside
