// What the gateway answers on its control socket and over HTTP.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <future>

#include "base/limits.h"
#include "base/text.h"
#include "base/version.h"
#include "gateway/control/answer.h"
#include "gateway/gateway.h"
#include "storage/quarantine.h"

namespace wayside {
namespace {

constexpr auto kHttpWithin = std::chrono::seconds(5);
constexpr std::int64_t kTouchGroupsMostMs = 3'600'000;
// So long another program's lock, or a slow disk, is no news.
constexpr std::int64_t kHeldUpMs = 3000;

// What a program said of a record that it refuses.
std::string refusal_text(const Json& request, std::string_view name) {
  return printable(request.text(name).substr(0, limits::kRefusalTextBytesMax));
}

// What is noted of a record that a program refuses; the record's own headers stay.
QuarantineNote refusal_of(const StoredRecord& r, const std::string& group, const Json& request) {
  QuarantineNote note;
  note.reason = kRefusedByProgram;
  note.detail = refusal_text(request, "detail");
  note.group = group;
  for (const char* name : {"exit", "stderr"}) {
    const std::string text = refusal_text(request, name);
    if (!text.empty()) note.others.emplace_back(name, text);
  }
  constexpr std::array<std::string_view, 8> kOurs = {"reason",    "detail", "group", "topic",
                                                     "partition", "offset", "exit",  "stderr"};
  auto own = decode_headers(r.record.headers);
  for (std::size_t i = 0; own && i < own->size(); ++i) {
    if (std::find(kOurs.begin(), kOurs.end(), (*own)[i].first) == kOurs.end()) {
      note.others.push_back(std::move((*own)[i]));
    }
  }
  return note;
}

}  // namespace

void Gateway::on_request(PeerId peer, const std::string& line) {
  const auto request = Json::parse(line);
  const std::string what = request ? request->text("do") : "";
  const auto answer = [&](std::string text) { control_->answer(peer, std::move(text)); };
  if (what == "hello") {
    // Of another log, this gateway tells nothing.
    const bool mine = request->text("data_dir") == plan_.config.data_dir;
    answer(
        mine ? "{\"ok\":true}"
             : error_json({ErrorCode::not_found, cat("one runs on ", plan_.config.data_dir), ""}));
  } else if (what == "status") {
    answer(status_json());
  } else if (what == "devices") {
    answer(listener_->devices_json());
  } else if (what == "groups") {
    answer(groups_json());
  } else if (what == "join") {
    on_join(peer, *request);
  } else if (what == "commit") {
    on_commit(peer, *request);
  } else if (what == "refuse") {
    on_refuse(peer, *request);
  } else if (what == "damaged") {
    on_damaged(peer, *request);
  } else if (what == "reload") {
    reload([this, peer](const Result<std::vector<std::string>>& changes) {
      if (!changes) return control_->answer(peer, error_json(changes.error()));
      std::string out = "{\"ok\":true,\"changes\":[";
      for (std::size_t i = 0; i < changes->size(); ++i) {
        out += i == 0 ? "" : ",";
        append_json_string(out, printable((*changes)[i]));
      }
      control_->answer(peer, out + "]}");
    });
  } else if (request) {
    on_admin(peer, *request);
  } else {
    answer(error_json(request.error()));
  }
}

void Gateway::on_admin(PeerId peer, const Json& request) {
  const std::string what = request.text("do");
  const auto answer = [this, peer](std::string text) { control_->answer(peer, std::move(text)); };
  if (what.starts_with("groups.") && coordinator_.has_members(request.text("group"))) {
    return answer(error_json({ErrorCode::refused,
                              cat("group ", printable(request.text("group")), " is being read"),
                              "stop its readers first: 'wayside groups describe' names them"}));
  }
  if (reloading_) {
    return answer(error_json(
        {ErrorCode::busy, "the configuration is being reloaded", "try again in a moment"}));
  }
  const auto catalog = log_->catalog();
  const Topic* topic = catalog->find(request.text("topic"));
  if (what == "topics.delete" && topic != nullptr && coordinator_.is_read(topic->name)) {
    return answer(error_json({ErrorCode::refused, cat("topic ", topic->name, " is being read"),
                              "stop its readers first: 'wayside groups list' names them"}));
  }
  // A bridge is paused when that is kept, not before.
  Answer then = answer;
  if (what == "bridge.pause" || what == "bridge.resume") {
    then = [this, answer, name = request.text("bridge"),
            pause = what == "bridge.pause"](std::string text) {
      if (text.starts_with("{\"ok\"")) {
        post([this, name, pause] {
          for (RunningBridge& b : bridges_) {
            if (b.config.name == name) b.bridge->set_paused(pause);
          }
        });
      }
      answer(std::move(text));
    };
  }
  if (what == "restored") {  // noted, it is done by a start
    then = [this, answer](std::string text) {
      if (text.starts_with("{\"ok\"")) log_->reopen("it was put back from a copy");
      answer(std::move(text));
    };
  }
  // Between two requests of the bridge, which then goes on from what is committed.
  if (what == "bridge.skip" || what == "bridge.rewind") {
    for (RunningBridge& b : bridges_) {
      if (b.config.name != request.text("bridge")) continue;
      return b.bridge->edit([this, plan = plan_, request, answer] {
        std::promise<std::string> done;
        if (do_admin_request(*log_, plan, clock_, request,
                             [&](std::string text) { done.set_value(std::move(text)); })) {
          answer(done.get_future().get());
        }
      });
    }
  }
  if (what == "bridge.resend" || what == "quarantine.settle") {
    then = [this, answer](std::string text) {
      post([this] {
        for (RunningBridge& b : bridges_) b.bridge->edit([] {});
      });
      answer(std::move(text));
    };
  }
  if (!do_admin_request(*log_, plan_, clock_, request, then)) {
    answer(error_json({ErrorCode::invalid_argument,
                       cat("the gateway does not know the request '", printable(what), "'"),
                       "are the program and the running gateway of one version?"}));
  }
}

void Gateway::on_join(PeerId peer, const Json& request) {
  const std::string group = request.text("group");
  const auto catalog = log_->catalog();
  const Topic* topic = catalog->find(request.text("topic"));
  if (topic == nullptr) {
    return control_->answer(peer, error_json(catalog->unknown_topic(request.text("topic"))));
  }
  const auto active = coordinator_.join(
      group, topic->name, {peer, printable(request.text("client")), clock_.wall_ms()});
  if (!active) return control_->answer(peer, error_json(active.error()));
  control_->keep(peer);
  member_of_[peer] = {group, topic->name, topic->id};
  Batch touch;
  touch.ops.emplace_back(TouchGroup{group});
  log_->submit(std::move(touch));
  control_->answer(peer, *active ? "{\"active\":true}" : "{\"active\":false}");
}

// The topic that this peer reads as the active member of a group.
Result<const Topic*> Gateway::active_topic(PeerId peer, const Catalog& catalog) const {
  const auto of = member_of_.find(peer);
  if (of == member_of_.end() || !coordinator_.is_active(peer, of->second.group, of->second.topic)) {
    return fail(ErrorCode::refused, "only the active reader of a group commits");
  }
  const Topic* topic = catalog.find(of->second.topic);
  if (topic == nullptr || topic->id != of->second.id) {
    return fail(ErrorCode::not_found, "the topic was deleted while it was read");
  }
  return topic;
}

void Gateway::on_commit(PeerId peer, const Json& request) {
  const auto catalog = log_->catalog();
  const auto topic = active_topic(peer, *catalog);
  if (!topic) return control_->answer(peer, error_json(topic.error()));
  const auto& partitions = (*topic)->partitions;
  Batch batch;
  for (const Json& one : request.list("offsets")) {
    const std::int64_t partition = one.number("partition", -1), offset = one.number("offset", -1);
    if (partition < 0 || offset < 0 || partition >= static_cast<std::int64_t>(partitions.size())) {
      return control_->answer(
          peer, error_json({ErrorCode::invalid_argument, "an offset of no partition", ""}));
    }
    const TpId tp = partitions[static_cast<std::size_t>(partition)].tp;
    batch.ops.emplace_back(CommitOffset{member_of_.at(peer).group, tp, Offset(offset), ""});
  }
  batch.flush_now = true;
  batch.done = [this, peer](Batch&, const Status& status) {
    control_->answer(peer, status ? "{\"ok\":true}" : error_json(status.error()));
  };
  log_->submit(std::move(batch));
}

// A program refuses a record: it goes to quarantine and the group goes on behind it, in one
// transaction. The record is read here, so that what is set aside is what the log has.
void Gateway::on_refuse(PeerId peer, const Json& request) {
  const auto work = [&]() -> Status {
    const auto catalog = log_->catalog();
    WS_ASSIGN(const Topic* topic, active_topic(peer, *catalog));
    const std::int64_t partition = request.number("partition", -1);
    const Offset offset(request.number("offset", -1));
    if (partition < 0 || offset.value < 0 ||
        partition >= static_cast<std::int64_t>(topic->partitions.size())) {
      return fail(ErrorCode::invalid_argument, "an offset of no partition");
    }
    const TpId tp = topic->partitions[static_cast<std::size_t>(partition)].tp;
    const Seq seq(request.number("seq", -1));
    WS_ASSIGN(LogReader reader, LogReader::open(log_->path()));
    WS_ASSIGN(const auto page, reader.read(topic->chain, seq, {{tp}}, {1, SIZE_MAX}, seq));
    if (!page.records.empty() && page.records.front().offset != offset) {
      return fail(ErrorCode::invalid_argument, cat("no record ", partition, ":", offset.value,
                                                   " stands at ", seq.value, " in the log"));
    }
    const std::string& group = member_of_.at(peer).group;
    Batch batch;
    batch.ops.emplace_back(CommitOffset{group, tp, Offset(offset.value + 1), ""});
    const Topic* quarantine = catalog->find(kQuarantineTopic);
    // What expired meanwhile cannot be set aside, and what is in quarantine stays there.
    if (!page.records.empty() && topic != quarantine) {
      const StoredRecord& r = page.records.front();
      batch.ops.emplace_back(set_aside(*catalog, r, refusal_of(r, group, request)));
      batch.ops.emplace_back(Count{"quarantined.refused_by_program", 1});
    }
    logger_.repeated(LogLevel::warning, cat("refused.", group),
                     cat("group ", printable(group), ": its program refuses ", topic->name, " ",
                         partition, ":", offset.value, ", which goes to quarantine: ",
                         refusal_text(request, "detail")));
    batch.flush_now = true;
    batch.done = [this, peer](Batch&, const Status& status) {
      control_->answer(peer, status ? "{\"ok\":true}" : error_json(status.error()));
    };
    log_->submit(std::move(batch));
    return {};
  };
  if (const auto status = work(); !status) control_->answer(peer, error_json(status.error()));
}

// A program found damage that the gateway has no reason to meet: it looks itself, and sets the file
// aside.
void Gateway::on_damaged(PeerId peer, const Json& request) {
  const ChainId chain(static_cast<std::int32_t>(request.number("chain")));
  std::vector<TpId> tps;
  for (const Json& one : request.list("tps")) {
    const auto* tp = std::get_if<std::int64_t>(&one.value);
    if (tp != nullptr) tps.emplace_back(static_cast<std::int32_t>(*tp));
  }
  // The very read that failed: with others it might end before the damage.
  const ReadLimits most;
  const auto bounded = [&](const char* name, std::size_t bound) {
    return static_cast<std::size_t>(std::clamp<std::int64_t>(
        request.number(name), 1, static_cast<std::int64_t>(bound)));
  };
  auto reader = LogReader::open(log_->path());
  const auto page =
      reader ? reader->read(chain, Seq(request.number("seq")), tps,
                            {bounded("records", 10 * most.records), bounded("bytes", most.bytes)})
             : Result<LogReader::Page>(tl::unexpected<Error>(reader.error()));
  if (!page && page.error().damage) {
    log_->report_damage(page.error());
    return control_->answer(peer, "{\"ok\":true}");
  }
  const Error sound{ErrorCode::not_found, "nothing is damaged there", ""};
  control_->answer(peer, error_json(page ? sound : page.error()));
}

void Gateway::on_gone(PeerId peer) {
  member_of_.erase(peer);
  if (const auto next = coordinator_.leave(peer)) control_->answer(*next, "{\"active\":true}");
}

// A group that is read does not grow old, though nothing comes that it could commit.
void Gateway::touch_groups() {
  const std::int64_t now = clock_.steady_ms();
  const std::int64_t retention = plan_.config.groups.offset_retention_ms;
  const std::int64_t every =
      retention == kForever ? kTouchGroupsMostMs : std::min(kTouchGroupsMostMs, retention / 4);
  if (now - groups_touched_ms_ < every) return;
  groups_touched_ms_ = now;
  Batch batch;
  for (const auto& m : coordinator_.memberships()) batch.ops.emplace_back(TouchGroup{m.group});
  if (!batch.ops.empty()) log_->submit(std::move(batch));
}

std::string Gateway::groups_json() const {
  std::string out = "{\"groups\":[";
  bool first = true;
  for (const auto& m : coordinator_.memberships()) {
    out += std::exchange(first, false) ? "{\"group\":" : ",{\"group\":";
    append_json_string(out, m.group);
    out += ",\"topic\":";
    append_json_string(out, m.topic);
    out += ",\"members\":[";
    for (std::size_t i = 0; i < m.members.size(); ++i) {
      out += i == 0 ? "{\"client\":" : ",{\"client\":";
      append_json_string(out, m.members[i].client);
      out += cat(",\"active\":", i == 0 ? "true" : "false",
                 ",\"since_ms\":", m.members[i].joined_ms, "}");
    }
    out += "]}";
  }
  return out + "]}";
}

std::string Gateway::status_json() const {
  const WriterStats w = log_->stats();
  std::string out = "{\"version\":\"" + std::string(kVersion) + "\",\"data_dir\":";
  append_json_string(out, plan_.config.data_dir);
  out += cat(",\"pid\":", ::getpid(), ",\"started_ms\":", started_ms_,
             ",\"epoch\":", log_->identity().epoch, ",\"mqtt_port\":", listener_->port(),
             ",\"http_port\":", http_port(), ",\"connections\":", listener_->connections(),
             ",\"clock_trusted\":", clock_.trusted() ? "true" : "false", ",\"commits\":", w.commits,
             ",\"records\":", w.records, ",\"failed_commits\":", w.failed_commits,
             ",\"failing\":", w.failing ? "true" : "false",
             ",\"waiting_for_commit\":", w.queued_ops + w.committing_ops, ",\"last_error\":");
  append_json_string(out, printable(w.last_error));
  if (!w.blocked.empty()) {
    out += ",\"blocked\":";
    append_json_string(out, w.blocked);
  }
  out += cat(",\"strangers\":", listener_->strangers_json());
  const auto full = growth_.seconds_to_full(plan_.config);
  out += cat(",\"seconds_to_full\":", full ? cat(static_cast<std::int64_t>(*full)) : "null");
  if (const auto p = salvager_->progress(); !p.file.empty()) {
    out += cat(",\"salvage_percent\":", p.percent, ",\"salvaged\":", p.records);
  }
  out += ",\"bridges\":[";
  bool first = true;
  for (const RunningBridge& running : bridges_) {
    const BridgeStatus b = running.bridge->status();
    out += std::exchange(first, false) ? "{\"name\":" : ",{\"name\":";
    append_json_string(out, running.config.name);
    out += ",\"state\":";
    append_json_string(out, printable(b.state));
    out += ",\"note\":";
    append_json_string(out, printable(b.note));
    out += cat(",\"failing\":", b.failing ? "true" : "false", ",\"since_ms\":", b.since_ms,
               ",\"records_sent\":", b.records_sent,
               ",\"batches_sent\":", b.batches_sent, ",\"tries_failed\":", b.tries_failed,
               ",\"last_delivered_ms\":", b.last_delivered_ms,
               ",\"records_per_s\":", static_cast<std::int64_t>(b.records_per_s),
               ",\"paused\":", b.paused ? "true" : "false", "}");
  }
  out += "],\"subscriptions\":[";
  first = true;
  for (const RunningSubscriber& running : subscribers_) {
    const SubscriberStatus s = running.subscriber->status();
    out += std::exchange(first, false) ? "{\"client_id\":" : ",{\"client_id\":";
    append_json_string(out, running.config.client_id);
    out += ",\"broker\":";
    append_json_string(out, running.config.broker);
    out += ",\"state\":";
    append_json_string(out, printable(s.state));
    out += cat(",\"since_ms\":", s.since_ms, ",\"received\":", s.received,
               ",\"known_replays\":", s.known_replays, ",\"sessions_lost\":", s.sessions_lost,
               "}");
  }
  return out + "]}";
}

template <class T>
std::optional<T> Gateway::ask_main(std::function<T()> work) {
  auto promise = std::make_shared<std::promise<T>>();
  auto result = promise->get_future();
  const auto waiting = std::make_shared<bool>(true);
  // The task alone holds the promise: when it is thrown away (the gateway stops), that is known
  // here.
  post(
      [promise = std::move(promise), asked = std::weak_ptr<bool>(waiting), work = std::move(work)] {
        if (asked.lock()) promise->set_value(work());  // else whoever asked has gone
      });
  if (result.wait_for(kHttpWithin) != std::future_status::ready) return std::nullopt;
  try {
    return result.get();
  } catch (const std::future_error&) {
    return std::nullopt;
  }
}

// All state is main's, so main is asked, and one that does not answer is not well. What takes long
// (the log) is read here.
HttpReply Gateway::on_http(std::string_view path) {
  const HttpReply silent{503, "text/plain", "the main loop does not answer\n"};
  if (path == "/metrics") {
    const auto live = ask_main<LiveState>([this] { return live_state(); });
    if (!live) return silent;
    auto text = metrics_.text(*live);
    if (text) return {200, "text/plain; version=0.0.4; charset=utf-8", std::move(*text)};
    return {503, "text/plain", text.error().text() + "\n"};
  }
  if (path == "/healthz" || path == "/readyz") {
    return ask_main<HttpReply>([this, p = std::string(path)] { return health(p); })
        .value_or(silent);
  }
  return {404, "text/plain", "there are /healthz, /readyz and /metrics\n"};
}

HttpReply Gateway::health(std::string_view path) const {
  std::string why = not_alive();
  if (path == "/readyz") {
    const std::string not_ready = this->not_ready();
    why += cat(why.empty() || not_ready.empty() ? "" : "; ", not_ready);
  }
  if (!why.empty()) return {503, "text/plain", why + "\n"};
  return {200, "text/plain", path == "/readyz" ? "ready\n" : "ok\n"};
}

// Why a reading that came now would not be acknowledged soon; empty: it would. An upstream that is
// away is normal here, and no reason.
std::string Gateway::not_ready() const {
  const WriterStats w = log_->stats();
  const std::int64_t now = clock_.steady_ms();
  std::vector<std::string> reasons;
  if (w.failing) reasons.push_back(cat("commits fail: ", w.last_error));
  const std::int64_t committing_ms =
      w.committing_since_steady_ms == 0 ? 0 : now - w.committing_since_steady_ms;
  const std::int64_t held_up_ms =
      w.held_up.empty() ? 0 : std::max(now - w.held_up_since_steady_ms, committing_ms);
  if (held_up_ms >= kHeldUpMs) {
    reasons.push_back(cat("no commit could be made for ", held_up_ms / 1000, " s: ", w.held_up));
  } else if (committing_ms >= kHeldUpMs) {
    reasons.push_back(
        cat("a commit has taken ", committing_ms / 1000, " s so far: the disk does not answer"));
  }
  if (!w.blocked.empty()) reasons.push_back(w.blocked);
  if (!w.sidecar_error.empty()) reasons.push_back(w.sidecar_error);
  const std::int64_t most = plan_.config.mqtt.max_connections;
  if (static_cast<std::int64_t>(listener_->connections()) >= most) {
    reasons.push_back(cat("mqtt.max_connections = ", most,
                          " is reached: a new device is refused, or takes another's place"));
  } else if (!listener_->has_place_for_newcomer()) {
    reasons.push_back(cat("of mqtt.max_connections = ", most, " those for new devices are taken,"
                          " and the rest is for devices known before"));
  }
  std::string out;
  for (const std::string& r : reasons) out += (out.empty() ? "" : "; ") + r;
  return out;
}

LiveState Gateway::live_state() const {
  LiveState live;
  live.config = plan_.config;
  live.writer = log_->stats();
  live.started_ms = started_ms_;
  live.now_ms = clock_.wall_ms();
  live.clock_trusted = clock_.trusted();
  live.seconds_to_full = growth_.seconds_to_full(plan_.config);
  live.connections = listener_->connections();
  live.strangers_bytes = listener_->strangers_bytes();
  live.strangers_bytes_most = listener_->strangers_bytes_most();
  for (const RunningBridge& b : bridges_) {
    live.bridges.emplace_back(b.config.name, b.bridge->status());
  }
  for (const RunningSubscriber& s : subscribers_) {
    const SubscriberStatus status = s.subscriber->status();
    live.subscriptions.push_back({s.config.client_id, status.connected, status.received});
  }
  return live;
}

}  // namespace wayside
