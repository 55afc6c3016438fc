// The command line: every verb and its options; CLI11 is included here alone.
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "base/text.h"
#include "base/version.h"
#include "gateway/cli/options.h"
#include "gateway/cli/verbs.h"
#include "gateway/gateway.h"

namespace {

using namespace wayside;

constexpr const char* kExitCodes =
    "Exit codes: 0 done; 1 the disk or the network failed; 2 wrong command line; 3 no such topic "
    "or\n"
    "log; 4 the range holds nothing; 5 no gateway answers; 6 time limit; 7 stored in quarantine\n"
    "(publish, simulate); 78 wrong configuration, or a log of a newer version.";

void listener_options(CLI::App* verb, std::string& host, int& port, int& qos) {
  verb->add_option("--host", host, "The listener's host; else as configured");
  verb->add_option("-p,--port", port, "The listener's port; else as configured")
      ->check(CLI::Range(1, 65535));
  verb->add_option("-q,--qos", qos, "QoS 0, 1 or 2")
      ->check(CLI::Range(0, 2))
      ->capture_default_str();
}

// Reads the line and does what its verb says; but `run` only comes back, with the name of its
// configuration file, so that a gateway does not keep the parser's 200 KiB for months.
int run_verb(int argc, char** argv, std::optional<std::string>& run) {
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
  auto* gateway_verb = app.add_subcommand("run", "Run the gateway until SIGTERM or SIGINT");
  config_option(gateway_verb, run_config);
  gateway_verb->callback([&] { run = run_config; });

  CheckArgs check_args;
  auto* check = app.add_subcommand("check", "Check a configuration file; starts nothing");
  config_option(check, check_args.config);
  check->add_flag("--print-default", check_args.print_default, "Print a commented default file");
  check->add_flag("--print-reference", check_args.print_reference,
                  "Print the reference (Markdown)");
  check
      ->add_option("--try", check_args.try_message,
                   "What would become of a message: its MQTT topic, and a file with its payload "
                   "(-: standard input)")
      ->expected(2)
      ->type_name("TOPIC FILE");
  check->footer(
      "Examples:\n  wayside check\n"
      "  echo '{\"speed\":61.5}' | wayside check --try fleet/truck-007/gps -");
  check->callback([&] { code = cmd_check(check_args); });

  LogVerbs log_verbs;
  add_log_verbs(app, log_verbs, code);

  std::string reload_config;
  auto* reload =
      app.add_subcommand("reload", "Apply the changed configuration file to the running gateway");
  config_option(reload, reload_config);
  reload->footer(
      "Prints what differs; what needs a restart says so. A wrong file changes nothing.\n"
      "Example:\n  wayside reload");
  reload->callback([&] { code = cmd_reload(reload_config); });

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

  auto* completion = app.add_subcommand("completion", "Print the completion script for a shell");
  std::string shell;
  completion->add_option("shell", shell, "bash")->required()->check(CLI::IsMember({"bash"}));
  completion->footer("Example:\n  wayside completion bash > /etc/bash_completion.d/wayside");
  completion->callback([&] { std::fputs(bash_completion(app).c_str(), stdout); });

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

}  // namespace

int main(int argc, char** argv) {
  // What is made in data_dir is nobody else's, whoever starts it.
  ::umask(::umask(0) | 027);
  std::optional<std::string> run;
  const int code = run_verb(argc, argv, run);
  return run ? run_gateway(*run) : code;
}
