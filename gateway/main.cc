// The command line: every verb and its options; CLI11 is included here alone.
#include <CLI/CLI.hpp>
#include <map>

#include "base/text.h"
#include "gateway/cli.h"
#include "gateway/gateway.h"
#include "gateway/version.h"

namespace {

using namespace wayside;

constexpr const char* kExitCodes =
    "Exit codes: 0 done; 1 the disk or the network failed; 2 wrong command line; 3 no such topic "
    "or\n"
    "log; 4 the range holds nothing; 5 no gateway answers; 6 time limit; 78 wrong configuration, "
    "or\n"
    "a log of a newer version.";

const std::map<std::string, Format> kFormats = {
    {"table", Format::table}, {"json", Format::json}, {"csv", Format::csv}, {"raw", Format::raw}};

void config_option(CLI::App* verb, std::string& path) {
  path = std::string(kDefaultConfigPath);
  verb->add_option("-c,--config", path, "The configuration file")->capture_default_str();
}

void listener_options(CLI::App* verb, std::string& host, int& port, int& qos) {
  verb->add_option("--host", host, "The listener's host; else as configured");
  verb->add_option("-p,--port", port, "The listener's port; else as configured")
      ->check(CLI::Range(1, 65535));
  verb->add_option("-q,--qos", qos, "QoS 0, 1 or 2")
      ->check(CLI::Range(0, 2))
      ->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Wayside: an IoT edge gateway. Devices publish over MQTT; readings are kept, synced "
      "before they are acknowledged, in a partitioned log in SQLite, read here and "
      "forwarded upstream when the link is there.",
      "wayside"};
  app.footer(kExitCodes);
  app.set_version_flag("--version", std::string(kVersion));
  app.require_subcommand(1);
  int code = kExitOk;

  std::string run_config;
  auto* run = app.add_subcommand("run", "Run the gateway until SIGTERM or SIGINT");
  config_option(run, run_config);
  run->callback([&] { code = run_gateway(run_config); });

  CheckArgs check_args;
  auto* check = app.add_subcommand("check", "Check a configuration file; starts nothing");
  config_option(check, check_args.config);
  check->add_flag("--print-default", check_args.print_default, "Print a commented default file");
  check->add_flag("--print-reference", check_args.print_reference,
                  "Print the reference (Markdown)");
  check->callback([&] { code = cmd_check(check_args); });

  StatusArgs status_args;
  auto* status = app.add_subcommand("status", "What the gateway does and what the log holds");
  config_option(status, status_args.config);
  status->add_flag("--json", status_args.json, "As JSON");
  status->callback([&] { code = cmd_status(status_args); });

  TopicsArgs topics_args;
  auto* topics = app.add_subcommand("topics", "The topics of the log");
  topics->require_subcommand(1);
  auto* list = topics->add_subcommand("list", "All topics, with their records and retention");
  config_option(list, topics_args.config);
  list->add_flag("--json", topics_args.json, "As JSON");
  list->callback([&] { code = cmd_topics_list(topics_args); });
  auto* describe = topics->add_subcommand("describe", "One topic: its partitions and offsets");
  config_option(describe, topics_args.config);
  describe->add_option("topic", topics_args.topic, "The topic")->required();
  describe->add_flag("--json", topics_args.json, "As JSON");
  describe->callback([&] { code = cmd_topics_describe(topics_args); });

  ReadArgs read_args;
  auto* read =
      app.add_subcommand("read", "Print records; alone from the log start to the present end");
  config_option(read, read_args.config);
  read->add_option("topic", read_args.topic, "The topic")->required();
  read->add_option("-o,--offset", read_args.range,
                   "A range: start, end, 100, 100:200, :200, +10 or -10 (first or last ten of each "
                   "partition), @-1h, @2026-11-22T08:00:00Z, @T1:T2 (by append time)");
  read->add_option("-p,--partition", read_args.partition, "Of this partition only");
  read->add_option("-k,--key", read_args.key, "Of this key only");
  read->add_option("-n,--count", read_args.count, "At most so many records")
      ->check(CLI::NonNegativeNumber);
  read->add_flag("-f,--follow", read_args.follow, "Go on with what comes");
  read->add_option("--format", read_args.format,
                   "table, json (a line each), csv or raw (the value)")
      ->transform(CLI::CheckedTransformer(kFormats).description(""))
      ->type_name("FORMAT");
  read->add_flag_callback(
      "--json", [&] { read_args.format = Format::json; }, "Short for --format json");
  read->footer(
      "Examples (with -c FILE, or the default file):\n  wayside read truck_gps -o -10\n  wayside "
      "read truck_gps -o @-1h -k truck-007 "
      "--json\n  wayside read truck_gps -o end --follow");
  read->callback([&] { code = cmd_read(read_args); });

  QueryArgs query_args;
  auto* query = app.add_subcommand("query", "Read-only SQL over the log; each topic is a view");
  config_option(query, query_args.config);
  query->add_option("sql", query_args.sql, "The SQL statement")->required();
  std::string timeout = "10s";
  query->add_option("--timeout", timeout, "A time limit")->capture_default_str();
  query->add_option("--format", query_args.format, "table, json (a line each) or csv")
      ->transform(CLI::CheckedTransformer(kFormats).description(""))
      ->type_name("FORMAT");
  query->add_flag_callback(
      "--json", [&] { query_args.format = Format::json; }, "Short for --format json");
  query->footer(
      "Example:\n  wayside query \"SELECT key, max(time), speed FROM truck_gps GROUP BY key\"");
  query->callback([&] {
    const auto ms = parse_duration_ms(timeout);
    if (!ms) throw CLI::ValidationError("--timeout", "write a duration such as 10s or 2m");
    query_args.timeout_ms = *ms;
    code = cmd_query(query_args);
  });

  PublishArgs publish_args;
  auto* publish = app.add_subcommand("publish", "Publish a reading to the gateway over MQTT");
  config_option(publish, publish_args.config);
  listener_options(publish, publish_args.host, publish_args.port, publish_args.qos);
  publish->add_option("-t,--topic", publish_args.topic, "The MQTT topic")->required();
  publish->add_option("-m,--message", publish_args.message, "The payload");
  publish->add_flag("-l,--lines", publish_args.lines,
                    "Each line of the standard input is a payload");
  publish->add_option("-i,--id", publish_args.client_id,
                      "The client id; else the gateway gives one");
  publish->add_flag("--v311", publish_args.v311, "Speak MQTT 3.1.1 instead of 5");
  publish->footer("Example:\n  wayside publish -t fleet/truck-007/gps -m '{\"speed\":61.5}'");
  publish->callback([&] { code = cmd_publish(publish_args); });

  SimulateArgs simulate_args;
  auto* simulate = app.add_subcommand("simulate", "A fleet of trucks that publish where they are");
  config_option(simulate, simulate_args.config);
  listener_options(simulate, simulate_args.host, simulate_args.port, simulate_args.qos);
  simulate->add_option("--trucks", simulate_args.trucks, "Trucks")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  simulate->add_option("--count", simulate_args.count, "Readings of each truck")
      ->capture_default_str();
  simulate
      ->add_option("--rate", simulate_args.rate,
                   "Readings of each truck per second; 0: as fast "
                   "as they are acknowledged")
      ->capture_default_str();
  simulate->add_option("--connections", simulate_args.connections, "MQTT connections they share")
      ->check(CLI::Range(1, 500))
      ->capture_default_str();
  simulate
      ->add_option("-t,--topic", simulate_args.topic, "The MQTT topic; {truck} is the truck's name")
      ->capture_default_str();
  simulate->add_option("--seed", simulate_args.seed, "For the same tracks again");
  simulate->callback([&] { code = cmd_simulate(simulate_args); });

  for (CLI::App* verb : app.get_subcommands({})) {
    verb->footer(verb->get_footer() + (verb->get_footer().empty() ? "" : "\n\n") + kExitCodes);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  // An export that did not fit is not done.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    code = report({ErrorCode::io, "the output could not be written whole", "is the disk full?"});
  }
  return code;
}
