#include "gateway/control/changes.h"

#include <algorithm>
#include <future>
#include <map>
#include <mutex>
#include <set>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "gateway/control/bridge_change.h"
#include "gateway/control/socket_client.h"
#include "gateway/plan/ingest.h"
#include "storage/bridge_ops.h"
#include "storage/coordinator.h"
#include "storage/quarantine.h"
#include "storage/reader.h"
#include "storage/recovery/recovery.h"

namespace wayside {
namespace {

class Request {
 public:
  Request(Log& log, const Plan& plan, const Clock& clock, const Json& request, Answer answer)
      : log_(log), plan_(plan), clock_(clock), json_(request), answer_(std::move(answer)) {}

  bool run() {
    const std::string what = json_.text("do");
    Status status;
    if (what == "topics.create") {
      status = create_topic();
    } else if (what == "topics.alter") {
      status = alter_topic();
    } else if (what == "topics.relearn") {
      relearn_columns();
    } else if (what == "topics.delete") {
      status = delete_topic();
    } else if (what == "groups.reset") {
      status = reset_group();
    } else if (what == "groups.delete") {
      status = delete_group();
    } else if (what == "quarantine.settle") {
      status = settle();
    } else if (what == "bridge.skip" || what == "bridge.rewind" || what == "bridge.resend") {
      status = move_bridge(what);
    } else if (what == "bridge.pause" || what == "bridge.resume") {
      status = pause_bridge(what == "bridge.pause");
    } else if (what == "restored") {
      change([](Engine& engine) { return engine.recovery().note_restored(); });
    } else {
      return false;
    }
    if (!status) answer_(error_json(status.error()));
    return true;
  }

 private:
  void commit(std::vector<Op> ops) {
    Batch batch;
    batch.ops = std::move(ops);
    batch.flush_now = true;
    batch.done = [answer = answer_](Batch&, const Status& status) {
      answer(status ? "{\"ok\":true}" : error_json(status.error()));
    };
    log_.submit(std::move(batch));
  }
  void change(Log::Work work) {
    log_.change(std::move(work), [answer = answer_](const Status& status) {
      answer(status ? "{\"ok\":true}" : error_json(status.error()));
    });
  }
  void ensure(const TopicSpec& spec) {
    change([spec](Engine& engine) -> Status {
      WS_ASSIGN([[maybe_unused]] const auto warnings, engine.ensure_topics({&spec, 1}));
      return {};
    });
  }
  [[nodiscard]] bool configured(const std::string& topic) const {
    return Catalog::of(plan_.topics).find(topic) != nullptr;  // names are compared as there
  }
  [[nodiscard]] Result<const Topic*> known_topic(const Catalog& catalog) const {
    const Topic* topic = catalog.find(json_.text("topic"));
    if (topic == nullptr) return tl::unexpected<Error>(catalog.unknown_topic(json_.text("topic")));
    return topic;
  }
  [[nodiscard]] Status not_configured(const std::string& topic, std::string_view doing) const {
    if (!configured(topic)) return {};
    return fail(ErrorCode::refused,
                cat("topic ", topic, " is of the configuration file, which would undo ", doing),
                cat("change [[topic]] in ", plan_.config.file, ", then: wayside reload"));
  }

  [[nodiscard]] Status wanted_limits(TopicSpec& spec) const {
    const std::int64_t most = limits::kPartitionsMax + 1;  // and more is refused as that
    spec.partitions = static_cast<std::int32_t>(
        std::clamp<std::int64_t>(json_.number("partitions", spec.partitions), 0, most));
    spec.retention_ms = json_.number("retention_ms", spec.retention_ms);
    spec.retention_bytes = json_.number("retention_bytes", spec.retention_bytes);
    if ((spec.retention_ms < 60'000 && spec.retention_ms != kForever) ||
        (spec.retention_bytes < 1 && spec.retention_bytes != kUnbounded)) {
      return fail(ErrorCode::invalid_argument, "a retention of less than a minute, or of no bytes",
                  "write a duration from 1m on, or forever; and bytes such as 64MiB");
    }
    return {};
  }

  Status create_topic() {
    TopicSpec spec;
    spec.name = json_.text("topic");
    WS_TRY(check_topic_name(spec.name));
    if (log_.catalog()->find(spec.name) != nullptr) {
      return fail(ErrorCode::refused, cat("there is a topic '", spec.name, "' already"),
                  cat("see it: wayside topics describe ", spec.name));
    }
    WS_TRY(wanted_limits(spec));
    ensure(spec);
    return {};
  }

  Status alter_topic() {
    const auto catalog = log_.catalog();
    WS_ASSIGN(const Topic* topic, known_topic(*catalog));
    WS_TRY(not_configured(topic->name, "this"));
    TopicSpec spec{topic->name,         static_cast<std::int32_t>(topic->partitions.size()),
                   topic->retention_ms, topic->retention_bytes,
                   topic->columns,      topic->priority,
                   topic->keep_for};
    WS_TRY(wanted_limits(spec));
    if (spec.partitions < static_cast<std::int32_t>(topic->partitions.size())) {
      return fail(ErrorCode::refused, cat("topic ", topic->name, " has ", topic->partitions.size(),
                                          " partitions and cannot shrink to ", spec.partitions));
    }
    if ((spec.retention_bytes == kUnbounded) != (topic->retention_bytes == kUnbounded)) {
      return fail(
          ErrorCode::refused,
          "a bound in bytes can only be given to a topic, or taken away, when it is created");
    }
    ensure(spec);
    return {};
  }

  // What was learnt is forgotten, and learnt from the newest readings.
  void relearn_columns() {
    change([name = json_.text("topic")](Engine& engine) -> Status {
      const Topic* topic = engine.catalog().find(name);
      if (topic == nullptr) return tl::unexpected<Error>(engine.catalog().unknown_topic(name));
      if (topic->columns) {
        return fail(ErrorCode::refused,
                    cat("the columns of topic ", topic->name, " are not learnt"),
                    "they are those of its [[topic]] in the configuration");
      }
      const Topic copy = *topic;
      WS_ASSIGN([[maybe_unused]] const bool changed, engine.learn_columns(copy, {}));
      return {};
    });
  }

  Status delete_topic() {
    const auto catalog = log_.catalog();
    WS_ASSIGN(const Topic* topic, known_topic(*catalog));
    WS_TRY(not_configured(topic->name, "its removal"));
    change([name = topic->name](Engine& engine) { return engine.delete_topic(name); });
    return {};
  }

  Status reset_group() {
    const std::string group = json_.text("group");
    WS_TRY(check_group_name(group));
    const auto catalog = log_.catalog();
    WS_ASSIGN(const Topic* topic, known_topic(*catalog));
    std::vector<Op> ops;
    for (const Json& one : json_.list("offsets")) {
      const std::int64_t partition = one.number("partition", -1), offset = one.number("offset", -1);
      if (partition < 0 || partition >= static_cast<std::int64_t>(topic->partitions.size()) ||
          offset < 0) {
        return fail(ErrorCode::invalid_argument, "an offset of no partition of the topic");
      }
      const TpId tp = topic->partitions[static_cast<std::size_t>(partition)].tp;
      ops.emplace_back(CommitOffset{group, tp, Offset(offset), "reset"});
    }
    commit(std::move(ops));
    return {};
  }

  Status delete_group() {
    const std::string group = json_.text("group");
    WS_TRY(check_group_name(group));
    commit({DropGroup{group}});
    return {};
  }

  Status pause_bridge(bool pause) {
    const std::string name = json_.text("bridge");
    if (!has_bridge(name)) {
      std::vector<std::string> names;
      for (const BridgeConfig& b : plan_.config.bridges) names.push_back(b.name);
      const std::string near = nearest(name, names);
      return fail(ErrorCode::not_found, cat("there is no bridge '", printable(name), "'"),
                  near.empty() ? "'wayside bridge status' shows what there is"
                               : cat("did you mean '", near, "'?"));
    }
    commit(
        {SetFact{pause_fact(name), pause ? std::optional(cat(clock_.wall_ms())) : std::nullopt}});
    return {};
  }

  [[nodiscard]] bool has_bridge(const std::string& name) const {
    const auto& bridges = plan_.config.bridges;
    return std::any_of(bridges.begin(), bridges.end(),
                       [&](const BridgeConfig& b) { return b.name == name; });
  }

  [[nodiscard]] Result<TpId> partition_of(const Topic& topic, std::int64_t partition) const {
    if (partition < 0 || partition >= static_cast<std::int64_t>(topic.partitions.size())) {
      return fail(ErrorCode::invalid_argument, cat(topic.name, " has no partition ", partition));
    }
    return topic.partitions[static_cast<std::size_t>(partition)].tp;
  }

  // While this is done the bridge stands: see Bridge::edit.
  Status move_bridge(const std::string& what) {
    const std::string name = json_.text("bridge");
    const auto catalog = log_.catalog();
    WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
    BridgeChange change;
    if (what == "bridge.resend") {
      WS_ASSIGN(const Topic* topic, known_topic(*catalog));
      WS_ASSIGN(const TpId tp, partition_of(*topic, json_.number("partition", -1)));
      if (!has_bridge(name)) {
        return fail(ErrorCode::not_found, cat("there is no bridge '", printable(name), "'"));
      }
      WS_ASSIGN(change,
                resend_change(reader, name, tp, json_.number("from", -1), json_.number("to", -1)));
    } else {
      std::vector<Target> here, left;  // of the bridge's topics, and of others
      for (const Json& one : json_.list("offsets")) {
        const Topic* topic = catalog->find(one.text("topic"));
        if (topic == nullptr) {
          return tl::unexpected<Error>(catalog->unknown_topic(one.text("topic")));
        }
        WS_ASSIGN(const TpId tp, partition_of(*topic, one.number("partition", -1)));
        const auto& bridges = plan_.config.bridges;
        const bool forwards = std::any_of(
            bridges.begin(), bridges.end(), [&](const BridgeConfig& b) {
              return b.name == name && std::any_of(b.topics.begin(), b.topics.end(),
                                                   [&](const std::string& t) {
                                                     return catalog->find(t) == topic;
                                                   });
            });
        (forwards ? here : left).push_back({tp, one.number("offset", -1)});
      }
      if (what == "bridge.rewind") {
        WS_ASSIGN(change, rewind_change(reader, name, here));
      } else {
        WS_ASSIGN(change, skip_change(reader, name, here, false));
        if (here.empty()) {
          WS_ASSIGN(change, skip_change(reader, name, left, true));
        }
      }
    }
    Batch batch;
    batch.ops = std::move(change.ops);
    batch.flush_now = true;
    batch.done = [answer = answer_, n = change.records](Batch&, const Status& status) {
      answer(status ? cat("{\"ok\":true,\"records\":", n, "}") : error_json(status.error()));
    };
    log_.submit(std::move(batch));
    return {};
  }

  // What becomes of several readings, told when all of them are done.
  struct Settling {
    std::mutex mutex;
    std::map<std::int64_t, std::string> results;
    std::size_t left = 0;
    Answer answer;
    void done(std::int64_t offset, std::string result) {
      std::string out;
      {
        const std::lock_guard lock(mutex);
        results[offset] = std::move(result);
        if (--left > 0) return;
        for (const auto& [at, what] : results) {
          out += cat(out.empty() ? "" : ",", "{\"offset\":", at, ",\"result\":");
          append_json_string(out, printable(what));
          out += "}";
        }
      }
      answer(cat("{\"ok\":true,\"results\":[", out, "]}"));
    }
  };

  // Quarantined readings: tried again by the routes as they are now, or dropped. Each is a batch of
  // its own, which the writer does only if nobody has settled the reading before.
  Status settle() {
    const bool retry = json_.text("how") == "retry";
    std::set<std::int64_t> offsets;
    for (const Json& one : json_.list("offsets")) {
      if (const auto* number = std::get_if<std::int64_t>(&one.value)) offsets.insert(*number);
    }
    if (offsets.empty() || offsets.size() > limits::kQuarantinePerRequestMax) {
      return fail(ErrorCode::refused, cat(offsets.size(), " readings in one request; 1 to ",
                                          limits::kQuarantinePerRequestMax, " are allowed"));
    }
    WS_ASSIGN(LogReader reader, LogReader::open(log_.path()));
    const auto catalog = log_.catalog();
    const Topic* quarantine = catalog->find(kQuarantineTopic);
    const TpId tp = quarantine->partitions.front().tp;
    Ingest ingest(plan_.routes, *catalog, clock_);
    auto settling = std::make_shared<Settling>();
    settling->left = offsets.size();
    settling->answer = answer_;
    // In the order of the log: one way through it.
    WS_ASSIGN(auto next, reader.seq_of(quarantine->chain, tp, Offset(*offsets.begin())));
    while (next && !offsets.empty()) {
      auto page = reader.read(quarantine->chain, *next, {{tp}}, {});
      if (!page) break;
      for (const StoredRecord& r : page->records) {
        if (offsets.erase(r.offset.value) == 0) continue;
        const QuarantineNote note = note_of(r.record);
        if (!retry || note.reason != kRefusedUpstream) {
          settle_one(ingest, r, note, retry, settling);
        } else if (auto sent = send_again(reader, note, r, settling); !sent) {
          settling->done(r.offset.value, "kept: " + sent.error().what);
        }
      }
      next = page->next;
      if (page->at_end) break;
    }
    for (const std::int64_t offset : offsets) {
      settling->done(offset, "gone: it is not there any more");
    }
    return {};
  }

  void settle_one(Ingest& ingest, const StoredRecord& r, const QuarantineNote& note, bool retry,
                  const std::shared_ptr<Settling>& settling) {
    Batch batch;
    std::string result = "dropped";
    batch.ops.emplace_back(SettleQuarantined{r.offset, retry ? "retried" : "dropped"});
    if (retry) {
      result = retry_one(ingest, r, note, batch.ops);
      if (batch.ops.size() == 1) return settling->done(r.offset.value, std::move(result));
    }
    batch.ops.emplace_back(Count{retry ? "quarantine.retried" : "quarantine.dropped", 1});
    batch.done = [settling, result, offset = r.offset.value](Batch& done, const Status& status) {
      const bool already = std::get<SettleQuarantined>(done.ops.front()).already;
      settling->done(offset, !status   ? "kept: " + status.error().what
                             : already ? std::string("settled before")
                                       : result);
    };
    log_.submit(std::move(batch));
  }

  // What the upstream refused goes to it once more, as it is in its topic; it is settled here when
  // the upstream has taken it.
  Status send_again(LogReader& reader, const QuarantineNote& note, const StoredRecord& r,
                    const std::shared_ptr<Settling>& settling) {
    const auto catalog = log_.catalog();
    const auto tp = wayside::partition_of(*catalog, note);
    if (!tp) return fail(ErrorCode::not_found, "its topic is not there any more");
    if (!has_bridge(note.bridge)) {
      return fail(ErrorCode::not_found,
                  cat("there is no bridge '", printable(note.bridge), "' any more"));
    }
    WS_ASSIGN(const auto settled, reader.settled());
    if (settled.contains(r.offset.value)) {
      settling->done(r.offset.value, "settled before");
      return {};
    }
    const ChainId chain = catalog->find(*tp)->chain;
    WS_ASSIGN(const auto seq, reader.seq_of(chain, *tp, Offset(note.offset)));
    LogReader::Page page;
    if (seq) {
      WS_ASSIGN(page, reader.read(chain, *seq, {{*tp}}, {1, SIZE_MAX}));
    }
    if (page.records.empty() || page.records.front().offset.value != note.offset) {
      return fail(ErrorCode::out_of_range,
                  cat(note.topic, " ", note.partition, ":", note.offset,
                      " is not in the log any more; 'wayside quarantine export' has this copy"));
    }
    Batch batch;
    batch.flush_now = true;
    batch.ops.emplace_back(
        Resend{note.bridge, *tp, Offset(note.offset), Offset(note.offset + 1)});
    batch.done = [settling, bridge = note.bridge, at = r.offset](Batch&, const Status& status) {
      settling->done(at.value,
                     status ? cat("goes to bridge ", bridge,
                                  " again; it is dealt with when the upstream takes it")
                            : "kept: " + status.error().what);
    };
    log_.submit(std::move(batch));
    return {};
  }

  static std::string retry_one(Ingest& ingest, const StoredRecord& r, const QuarantineNote& note,
                               std::vector<Op>& ops) {
    if (!note.group.empty()) {
      const std::string place = cat(note.topic, " -p ", note.partition);
      return cat("kept: the program of group ", note.group, " refused it; it is in ", note.topic,
                 " ", note.partition, ":", note.offset,
                 " too. Once the program is mended, it alone: wayside read ", place, " -o ",
                 note.offset, " -n 1 --json | PROGRAM; or all from there on: wayside groups reset ",
                 note.group, " ", place, " --to ", note.offset, " --execute. Then drop it");
    }
    if (note.reason == kTooLarge) {
      return cat("kept: it was too large (", note.detail,
                 ") and only its beginning is here; drop it, and let the device send less");
    }
    // What MQTT 5 said about the reading is the reading's; the rest says why it is here.
    std::vector<Header> own;
    for (const Header& h : note.others) {
      if (h.first.starts_with("mqtt.")) own.push_back(h);
    }
    const std::string encoded = encode_headers(own);
    std::vector<Op> made;
    const auto outcome = ingest.make(ingest.resolve(note.mqtt_topic, note.client_id),
                                     r.record.value.value_or(""),
                                     (r.record.attributes & kRetained) != 0, made,
                                     {encoded, false});
    if (outcome.quarantined != nullptr) {
      return cat("kept: ", outcome.quarantined, ": ",
                 note_of(std::get<Append>(made.front()).record).detail);
    }
    for (Op& op : made) {
      Record& record = std::get<Append>(op).record;
      // When it came stays true, though it is stored only now.
      if (record.timestamp_ms == kNoTimestamp) record.timestamp_ms = r.append_ms;
      ops.push_back(std::move(op));
    }
    return cat("stored in ", outcome.route->topic,
               made.size() > 1 ? cat(", ", made.size(), " records") : std::string());
  }

  Log& log_;
  const Plan& plan_;
  const Clock& clock_;
  const Json& json_;
  const Answer answer_;
};

}  // namespace

bool do_admin_request(Log& log, const Plan& plan, const Clock& clock, const Json& request,
                      Answer answer) {
  return Request(log, plan, clock, request, std::move(answer)).run();
}

Result<Json> change_log(const std::string& config_path, std::string_view request) {
  WS_ASSIGN(const Plan plan, load_plan(config_path));
  auto client = ControlClient::connect(plan.config.data_dir);
  if (client) return client->ask(request);
  if (!file_exists(plan.config.database_path())) return tl::unexpected<Error>(client.error());
  auto lock = lock_file(plan.config.data_dir + "/wayside.lock");
  // Somebody runs it, and does not let us ask.
  if (!lock) return tl::unexpected<Error>(client.error());
  Logger logger(LogLevel::error);
  const SystemClock clock(plan.config.clock_trust);
  WS_ASSIGN(auto log, Log::open(engine_options(plan.config), {}, plan.topics, clock, logger));
  WS_ASSIGN(const Json parsed, Json::parse(request));
  std::promise<std::string> promise;
  if (!do_admin_request(*log, plan, clock, parsed,
                        [&](std::string text) { promise.set_value(std::move(text)); })) {
    return tl::unexpected<Error>(client.error());
  }
  return parse_answer(promise.get_future().get());
}

}  // namespace wayside
