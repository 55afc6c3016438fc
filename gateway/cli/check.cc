#include <cstdio>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "gateway/cli/verbs.h"
#include "gateway/plan/ingest.h"
#include "gateway/plan/warnings.h"

namespace wayside {
namespace {

// What would become of a message, and why.
Status try_message(const Plan& plan, const std::string& mqtt_topic, const std::string& file) {
  WS_ASSIGN(const std::string payload, read_file(file == "-" ? "/dev/stdin" : file));
  const SystemClock clock(plan.config.clock_trust);
  const Catalog catalog = Catalog::of(plan.topics);
  Ingest ingest(plan.routes, catalog, clock);
  for (const Route& r : plan.routes) {
    if (!r.pattern.match(mqtt_topic)) continue;
    std::printf("route in line %d, mqtt = \"%s\": the topic matches", r.line,
                r.pattern.text().c_str());
    if (r.when) {
      const auto tree = parse_payload(payload, r.payload);
      std::printf("; when %s: %s", r.when->text().c_str(),
                  !tree                  ? tree.error().what.c_str()
                  : r.when->holds(*tree) ? "holds"
                                         : "does not hold");
    }
    std::printf("\n");
  }
  std::vector<Op> ops;
  const auto outcome = ingest.make(ingest.resolve(mqtt_topic, "check"), payload, false, ops);
  if (outcome.quarantined != nullptr) {
    std::printf("it would go to quarantine, because of %s\n", outcome.quarantined);
  } else {
    std::printf("%zu %s would be stored by the route in line %d\n", ops.size(),
                ops.size() == 1 ? "record" : "records", outcome.route->line);
  }
  std::string not_taken;
  if (!outcome.time_fault.empty()) {
    not_taken = cat("; the device's time is not taken: ", outcome.time_fault);
  }
  for (const Op& op : ops) {
    const auto& made = std::get<Append>(op);
    const Record& r = made.record;
    std::printf("\ntopic      %s\n", catalog.find(made.tp)->name.c_str());
    std::printf("partition  %d%s\n", catalog.partition_of(made.tp),
                r.key ? "" : " (without a key: in turn)");
    std::printf("key        %s\n", r.key ? printable(*r.key).c_str() : "none");
    std::printf("timestamp  %s\n", r.timestamp_ms == kNoTimestamp
                                       ? cat("when it is stored", not_taken).c_str()
                                       : format_time_utc(r.timestamp_ms).c_str());
    const auto headers = decode_headers(r.headers);
    for (const auto& [name, value] : headers ? *headers : std::vector<Header>{}) {
      std::printf("header     %s: %s\n", name.c_str(), printable(value.value_or("")).c_str());
    }
    std::printf("value      %s\n", printable(shown_value(r).value_or("")).c_str());
  }
  return {};
}

}  // namespace

int cmd_check(const CheckArgs& args) {
  if (args.print_default || args.print_reference) {
    const std::string text = args.print_default ? render_default_config() : render_reference();
    std::fputs(text.c_str(), stdout);
    return kExitOk;
  }
  auto loaded = load_config(args.config);
  if (!loaded) {
    report(loaded.error());
    return kExitConfiguration;
  }
  const Plan plan = make_plan(loaded->config, loaded->problems);
  if (!loaded->problems.empty()) {
    std::fputs(problems_text(args.config, loaded->problems).c_str(), stderr);
    std::fprintf(stderr, "wayside: %zu problem%s in %s\n", loaded->problems.size(),
                 loaded->problems.size() == 1 ? "" : "s", args.config.c_str());
    return kExitConfiguration;
  }
  if (!args.try_message.empty()) {
    const Status tried = try_message(plan, args.try_message[0], args.try_message[1]);
    return tried ? kExitOk : report(tried.error());
  }
  for (const Warning& w : warnings_of(plan)) {
    std::fprintf(stderr, "%s: warning: %s\n", args.config.c_str(), w.text.c_str());
  }
  std::printf("%s is sound: %zu topics, %zu routes, %zu bridges\n", args.config.c_str(),
              plan.config.topics.size(), plan.routes.size(), plan.config.bridges.size());
  return kExitOk;
}

}  // namespace wayside
