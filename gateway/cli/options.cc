#include "gateway/cli/options.h"

#include <CLI/CLI.hpp>
#include <map>

#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kYearMs = 365LL * 86'400'000;  // as good as for ever

const std::map<std::string, Format> kFormats = {
    {"table", Format::table}, {"json", Format::json}, {"csv", Format::csv}, {"raw", Format::raw}};

void format_option(CLI::App* verb, Format& format, const char* which) {
  verb->add_option("--format", format, which)
      ->transform(CLI::CheckedTransformer(kFormats).description(""))
      ->type_name("FORMAT");
  verb->add_flag_callback(
      "--json", [&format] { format = Format::json; }, "Short for --format json");
}

std::int64_t duration_of(const char* option, const std::string& text) {
  const auto ms = parse_duration_ms(text);
  if (!ms) throw CLI::ValidationError(option, "write a duration such as 10s or 2m");
  return *ms;
}

CLI::App* family(CLI::App& app, const char* name, const char* doc) {
  auto* verb = app.add_subcommand(name, doc);
  verb->require_subcommand(1);
  return verb;
}

void add_topics(CLI::App& app, TopicsArgs& args, int& code) {
  auto* topics = family(app, "topics", "The topics of the log");
  auto* list = topics->add_subcommand("list", "All topics, with their records and retention");
  auto* describe = topics->add_subcommand("describe", "One topic: its partitions and offsets");
  auto* create = topics->add_subcommand("create", "Make a topic that no configuration names");
  auto* alter = topics->add_subcommand("alter", "Change such a topic");
  auto* remove = topics->add_subcommand("delete", "Delete such a topic, with its records");
  auto* relearn =
      topics->add_subcommand("relearn", "Learn its SQL columns anew, from what came last");
  for (CLI::App* verb : {list, describe}) look_option(verb, args.config);
  for (CLI::App* verb : {create, alter, remove, relearn}) config_option(verb, args.config);
  for (CLI::App* verb : {describe, create, alter, remove, relearn}) {
    verb->add_option("topic", args.topic, "The topic")->required();
  }
  for (CLI::App* verb : {list, describe}) verb->add_flag("--json", args.json, "As JSON");
  for (CLI::App* verb : {create, alter}) {
    verb->add_option("-p,--partitions", args.partitions, "Partitions; they cannot become fewer")
        ->check(CLI::Range(1, 1000));
    verb->add_option("--retention", args.retention, "How long records are kept: 12h, 7d, forever");
    verb->add_option("--retention-bytes", args.retention_bytes,
                     "Bytes that are kept at most: 64MiB");
  }
  remove->add_flag("-y,--yes", args.yes, "Do not ask");
  topics->footer(
      "Examples:\n  wayside topics list\n  wayside topics create probe -p 3 --retention 2d\n"
      "  wayside topics alter probe --retention 4d\n  wayside topics delete probe --yes\n"
      "  wayside topics relearn truck_gps\n"
      "Topics of the configuration file are changed there: wayside reload applies it.");
  list->callback([&] { code = cmd_topics_list(args); });
  describe->callback([&] { code = cmd_topics_describe(args); });
  create->callback([&] { code = cmd_topics_create(args); });
  alter->callback([&] { code = cmd_topics_alter(args); });
  remove->callback([&] { code = cmd_topics_delete(args); });
  relearn->callback([&] { code = cmd_topics_relearn(args); });
}

void add_read(CLI::App& app, LogVerbs& v, int& code) {
  ReadArgs& args = v.read;
  auto* read =
      app.add_subcommand("read", "Print records; alone from the log start to the present end");
  look_option(read, args.config);
  read->add_option("topic", args.topic, "The topic")->required();
  read->add_option("-o,--offset", args.range,
                   "A range: start, end, 100, 100:200, :200, +10 or -10 (first or last ten of each "
                   "partition), @-1h, @2026-11-22T08:00:00Z, @T1:T2 (by append time)");
  read->add_option("-p,--partition", args.partition, "Of this partition only");
  read->add_option("-k,--key", args.key, "Of this key only");
  read->add_option("-n,--count", args.count, "At most so many records")
      ->check(CLI::NonNegativeNumber);
  read->add_flag("-f,--follow", args.follow, "Go on with what comes");
  auto* group = read->add_option("-g,--group", args.group,
                                 "As this consumer group: from its committed offsets on; a second "
                                 "reader stands by. -o says where a new group begins");
  read->add_option("--commit", v.commit,
                   "after printing (at least once) or before it (at most once)")
      ->check(CLI::IsMember({"after", "before"}))
      ->capture_default_str()
      ->needs(group);
  read->add_option("--batch", args.batch, "Records that are committed together")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str()
      ->needs(group);
  auto* exec = read->add_option("-x,--exec", args.exec,
                                "Give them to this command (of /bin/sh), a batch a run, as JSON "
                                "lines on its standard input; committed when it ends with 0")
                   ->type_name("CMD")
                   ->needs(group);
  exec->check([](const std::string& text) {  // of a variable that is not set, perhaps
    return text.find_first_not_of(" \t\n") == std::string::npos ? "it is no command" : "";
  });
  read->add_flag("--stream", args.stream,
                 "Speak the acknowledged stream on standard input and output (docs/STREAM.md), or "
                 "on those of the --exec command, which then goes on running")
      ->needs(group);
  read->add_option("--tries", args.tries,
                   "How often the --exec command may fail before the record that makes it fail is "
                   "found and set aside")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->needs(exec);
  read->add_option("--timeout", v.read_timeout,
                   "Of a run of the command; of a stream: without a word about what was given")
      ->capture_default_str()
      ->needs(group);
  read->add_option("--linger", v.read_linger,
                   "With --exec and --follow: how long a batch waits for company")
      ->capture_default_str()
      ->needs(exec);
  format_option(read, args.format, "table, json (a line each), csv or raw (the value)");
  read->footer(
      "Examples (with -c FILE, or the default file):\n  wayside read truck_gps -o -10\n  wayside "
      "read truck_gps -o @-1h -k truck-007 "
      "--json\n  wayside read truck_gps -o end --follow\n  wayside read truck_gps --group dash "
      "--json\n  wayside read truck_gps --group count --exec 'wc -l'\n"
      "Into a pipe, what was written counts as read, not what a program has processed: --exec or "
      "--stream.");
  read->callback([&] {
    args.commit_before = v.commit == "before";
    args.timeout_ms = duration_of("--timeout", v.read_timeout);
    args.linger_ms = duration_of("--linger", v.read_linger);
    if (args.timeout_ms == 0) throw CLI::ValidationError("--timeout", "is no time at all");
    // A table is for people.
    if (!args.exec.empty() && args.format == Format::table) args.format = Format::json;
    code = args.group.empty() ? cmd_read(args) : cmd_read_group(args);
  });

  auto* latest = app.add_subcommand("latest", "The last record of each key");
  look_option(latest, v.latest.config);
  latest->add_option("topic", v.latest.topic, "The topic")->required();
  latest->add_option("--since", v.latest.since, "Only keys that came within, such as 1h or 7d");
  latest->add_flag("--wide", v.latest.wide, "Long keys whole");
  format_option(latest, v.latest.format, "table, json (a line each), csv or raw (the value)");
  latest->footer("Example:\n  wayside latest truck_gps --since 1h");
  latest->callback([&] { code = cmd_latest(v.latest); });
}

void add_query(CLI::App& app, LogVerbs& v, int& code) {
  auto* query = app.add_subcommand("query", "Read-only SQL over the log; each topic is a view");
  look_option(query, v.query.config);
  query->add_option("sql", v.query.sql, "The SQL statement")->required();
  query->add_option("--timeout", v.query_timeout, "A time limit")->capture_default_str();
  query->add_option("--max-output", v.query_output, "Bytes of its output at most")
      ->capture_default_str();
  format_option(query, v.query.format, "table, json (a line each) or csv");
  query->footer(
      "Example:\n  wayside query \"SELECT key, max(time), speed FROM truck_gps GROUP BY key\"");
  query->callback([&] {
    v.query.timeout_ms = std::min(duration_of("--timeout", v.query_timeout), kYearMs);
    const auto bytes = parse_bytes(v.query_output);
    if (!bytes) throw CLI::ValidationError("--max-output", "write a size such as 16MiB");
    v.query.output_bytes = *bytes;
    code = cmd_query(v.query);
  });
}

void add_groups(CLI::App& app, GroupsArgs& args, int& code) {
  auto* groups = family(app, "groups", "Consumer groups: who has read how far");
  auto* list = groups->add_subcommand("list", "All groups, their lag and who reads");
  auto* describe = groups->add_subcommand("describe", "One group: offsets and lag by partition");
  auto* reset =
      groups->add_subcommand("reset", "Set a group's offsets; shows first what it would do");
  auto* remove = groups->add_subcommand("delete", "Forget a group; the records stay");
  for (CLI::App* verb : {list, describe}) look_option(verb, args.config);
  for (CLI::App* verb : {reset, remove}) config_option(verb, args.config);
  for (CLI::App* verb : {describe, reset, remove}) {
    verb->add_option("group", args.group, "The group")->required();
  }
  for (CLI::App* verb : {list, describe}) verb->add_flag("--json", args.json, "As JSON");
  reset->add_option("topic", args.topic, "The topic")->required();
  reset
      ->add_option("--to", args.to,
                   "start, end, an offset, -100 (so many before the end), @-1h, "
                   "@2026-11-22T08:00:00Z (by append time)")
      ->required();
  reset->add_option("-p,--partition", args.partition, "Of this partition only");
  reset->add_flag("--execute", args.execute, "Do it; otherwise it is only shown");
  remove->add_flag("-y,--yes", args.yes, "Do not ask");
  groups->footer(
      "Examples:\n  wayside groups list\n  wayside groups describe dash\n"
      "  wayside groups reset dash truck_gps --to @-1h\n"
      "  wayside groups reset dash truck_gps --to start --execute\n"
      "  wayside groups delete dash --yes");
  list->callback([&] { code = cmd_groups_list(args); });
  describe->callback([&] { code = cmd_groups_describe(args); });
  reset->callback([&] { code = cmd_groups_reset(args); });
  remove->callback([&] { code = cmd_groups_delete(args); });
}

void add_bridge_moves(CLI::App* bridge, BridgeMoveArgs& args, int& code) {
  auto* skip = bridge->add_subcommand(
      "skip", "Step over unsent records: they stay in the log, and are counted");
  auto* rewind = bridge->add_subcommand("rewind", "Go back, and send all from there again");
  auto* resend = bridge->add_subcommand("resend", "Send a range of one partition again");
  for (CLI::App* verb : {skip, rewind, resend}) {
    config_option(verb, args.config);
    verb->add_option("name", args.name, "The bridge")->required();
    verb->add_flag("--dry-run", args.dry_run, "Only show what would be done");
    verb->add_flag("-y,--yes", args.yes, "Do not ask");
    verb->callback([&args, verb, &code] {
      args.what = verb->get_name();
      code = cmd_bridge_move(args);
    });
  }
  const char* const to = "end, an offset, @-1h, @2026-11-22T08:00:00Z (by append time), -100";
  for (CLI::App* verb : {skip, rewind}) {
    verb->add_option("--topic", args.topic, "In this topic only");
    verb->add_option("-p,--partition", args.partition, "In this partition only");
  }
  auto* how_far = skip->add_option("--to", args.to, cat("Where to go on: ", to));
  skip->add_option("--records", args.records, "Over so many, in the order in which they came")
      ->check(CLI::PositiveNumber)
      ->excludes(how_far);
  rewind->add_option("--to", args.to, cat("Where to begin: start, ", to))->required();
  resend->add_option("--topic", args.topic, "The topic")->required();
  resend->add_option("-p,--partition", args.partition, "The partition")->required();
  resend->add_option("--from", args.from, "From this offset")->required();
  resend->add_option("--to", args.until, "To before this offset")->required();
}

void add_bridge(CLI::App& app, BridgeArgs& args, BridgeMoveArgs& move, int& code) {
  auto* bridge = family(app, "bridge", "What is forwarded upstream");
  auto* status = bridge->add_subcommand("status", "What each bridge does, and what is left");
  auto* pause = bridge->add_subcommand("pause", "Stop forwarding for a while; nothing is lost");
  auto* resume = bridge->add_subcommand("resume", "Go on");
  for (CLI::App* verb : {status, pause, resume}) config_option(verb, args.config);
  status->add_option("name", args.name, "This bridge only");
  status->add_flag("--json", args.json, "As JSON");
  for (CLI::App* verb : {pause, resume}) {
    verb->add_option("name", args.name, "The bridge")->required();
  }
  bridge->footer(
      "Examples:\n  wayside bridge status\n  wayside bridge pause cloud\n"
      "  wayside bridge resume cloud\n  wayside bridge skip cloud --records 1 --dry-run\n"
      "  wayside bridge rewind cloud --to @-1h --dry-run\n"
      "  wayside bridge resend cloud --topic truck_gps -p 3 --from 100 --to 200 --dry-run");
  add_bridge_moves(bridge, move, code);
  status->callback([&] { code = cmd_bridge_status(args); });
  pause->callback([&] { code = cmd_bridge_pause(args, true); });
  resume->callback([&] { code = cmd_bridge_pause(args, false); });
}

void add_quarantine(CLI::App& app, QuarantineArgs& args, int& code) {
  auto* quarantine = family(app, "quarantine", "Readings that could not be mapped or forwarded");
  auto* list = quarantine->add_subcommand("list", "Those that wait, and why");
  auto* show = quarantine->add_subcommand("show", "One of them, whole");
  auto* retry =
      quarantine->add_subcommand("retry", "Through the routes as they are now, or upstream again");
  auto* drop = quarantine->add_subcommand("drop", "Have done with them");
  auto* save = quarantine->add_subcommand("export", "All that wait, as JSON lines");
  for (CLI::App* verb : {list, show, save}) look_option(verb, args.config);
  for (CLI::App* verb : {retry, drop}) config_option(verb, args.config);
  for (CLI::App* verb : {show, retry, drop}) {
    verb->add_option("offset", args.offsets, "Their offsets in the topic 'quarantine'");
  }
  for (CLI::App* verb : {retry, drop}) verb->add_flag("--all", args.all, "All that wait");
  for (CLI::App* verb : {list, save}) {
    verb->add_flag("--all", args.all, "Those that are dealt with, too");
  }
  list->add_option("-n,--limit", args.limit, "So many at most: the newest. 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  list->add_flag("--json", args.json, "As JSON lines; all of them");
  show->add_flag("--json", args.json, "As JSON lines");
  drop->add_flag("-y,--yes", args.yes, "Do not ask");
  quarantine->footer(
      "Examples:\n  wayside quarantine list\n  wayside quarantine show 0\n"
      "  wayside quarantine retry --all\n  wayside quarantine drop 0 --yes\n"
      "  wayside quarantine export > quarantine.jsonl");
  list->callback([&] { code = cmd_quarantine_list(args); });
  show->callback([&] { code = cmd_quarantine_show(args); });
  retry->callback([&] { code = cmd_quarantine_retry(args); });
  drop->callback([&] { code = cmd_quarantine_drop(args); });
  save->callback([&] { code = cmd_quarantine_export(args); });
}

}  // namespace

void config_option(CLI::App* verb, std::string& path) {
  path = std::string(kDefaultConfigPath);
  verb->add_option("-c,--config", path, "The configuration file")->capture_default_str();
}

void look_option(CLI::App* verb, std::string& path) {
  config_option(verb, path);
  verb
      ->add_option_function<std::string>(
          "--data", [&path](const std::string& directory) { path = directory; },
          "Look at the log in this directory instead, such as of a mounted card; nothing in it is "
          "changed")
      ->type_name("DIR")
      ->check(CLI::ExistingDirectory.description(""));
}

void add_log_verbs(CLI::App& app, LogVerbs& v, int& code) {
  auto* status = app.add_subcommand("status", "What the gateway does and what the log holds");
  look_option(status, v.status.config);
  status->add_flag("--json", v.status.json, "As JSON");
  status->callback([&] { code = cmd_status(v.status); });

  add_topics(app, v.topics, code);
  add_read(app, v, code);
  add_query(app, v, code);
  add_groups(app, v.groups, code);
  add_bridge(app, v.bridge, v.bridge_move, code);
  add_quarantine(app, v.quarantine, code);

  auto* devices = app.add_subcommand("devices", "Who sends, how often, and who is silent");
  look_option(devices, v.devices.config);
  devices->add_option("--since", v.devices.since, "Readings that came within")
      ->capture_default_str();
  devices->add_option("-n,--limit", v.devices.limit,
                      "So many at most: those that sent last. 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  devices->add_flag("--wide", v.devices.wide, "Long names whole");
  devices->add_flag("--json", v.devices.json, "As JSON; all of them");
  devices->footer("Example:\n  wayside devices --since 1h");
  devices->callback([&] { code = cmd_devices(v.devices); });

  auto* ledger = app.add_subcommand("ledger", "Where every reading went, and whether it adds up");
  look_option(ledger, v.ledger.config);
  ledger->add_flag("--json", v.ledger.json, "As JSON");
  ledger->footer("Exit code 1 when it does not reconcile.\nExample:\n  wayside ledger");
  ledger->callback([&] { code = cmd_ledger(v.ledger); });

  auto* verify = app.add_subcommand("verify", "Check every record and offset of the log");
  look_option(verify, v.verify.config);
  verify->add_flag("--quick", v.verify.quick, "Leave out SQLite's check of its indexes");
  verify->add_flag("--json", v.verify.json, "As JSON");
  verify->footer("Exit code 1 when something is wrong.\nExample:\n  wayside verify");
  verify->callback([&] { code = cmd_verify(v.verify); });

  auto* repair = app.add_subcommand(
      "repair", "With the gateway stopped: mend a damaged log, keep what can be read");
  config_option(repair, v.repair.config);
  repair->add_flag("-y,--yes", v.repair.yes, "Do not ask");
  repair->add_flag("--remove-damaged", v.repair.remove_damaged,
                   "Delete damaged files whose records have come back");
  repair->footer(
      "Checks the log; a damaged one is set aside as wayside.db.damaged-<n>, a fresh one goes on\n"
      "beyond its offsets, every record whose CRC is right is copied back, and what is lost is\n"
      "named. A running gateway does this by itself. Exit code 1 when something is wrong still.\n"
      "With the gateway stopped (systemctl stop wayside): wayside repair --yes");
  repair->callback([&] { code = cmd_repair(v.repair); });

  auto* restored = app.add_subcommand(
      "restored", "Say that the log was put back from an image or a backup");
  config_option(restored, v.restored.config);
  restored->add_flag("-y,--yes", v.restored.yes, "Do not ask");
  restored->footer(
      "The log goes on under a new identity, with offsets 200,000 beyond: no offset and no key is\n"
      "given twice. Nothing is deleted. A copy of the files is recognised without this; an\n"
      "image of the card that was written back on the same board looks like the original.\n"
      "With the gateway running or stopped: wayside restored --yes");
  restored->callback([&] { code = cmd_restored(v.restored); });
}

std::string bash_completion(const CLI::App& app) {
  // For each way of verbs: the verbs and options that may follow.
  std::string cases;
  const auto add = [&](const auto& self, const CLI::App& verb, const std::string& path) -> void {
    std::string words;
    for (const CLI::App* sub : verb.get_subcommands({})) words += " " + sub->get_name();
    for (const CLI::Option* option : verb.get_options()) {
      for (const std::string& name : option->get_lnames()) words += " --" + name;
    }
    cases += cat("    \"", path, "\") words=\"", words.empty() ? "" : words.substr(1), "\" ;;\n");
    for (const CLI::App* sub : verb.get_subcommands({})) {
      self(self, *sub, path.empty() ? sub->get_name() : cat(path, " ", sub->get_name()));
    }
  };
  add(add, app, "");
  return "# bash completion of wayside; made by: wayside completion bash\n"
         "_wayside() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
         "  local path=\"\" words=\"\" config=\"\" i word\n"
         "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "    word=${COMP_WORDS[i]}\n"
         "    case $word in\n"
         "      -c|--config) config=${COMP_WORDS[i+1]}; i=$((i + 1)) ;;\n"
         "      -*) ;;\n"
         "      *) [ \"$(type -t _wayside_words)\" ] && _wayside_words \"${path:+$path }$word\" "
         "&&\n"
         "           path=\"${path:+$path }$word\" ;;\n"
         "    esac\n"
         "  done\n"
         "  case $previous in\n"
         "    -c|--config) COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n"
         "  esac\n"
         "  _wayside_words \"$path\"\n"
         "  case $path in\n"
         "    read|latest|\"topics describe\"|\"topics alter\"|\"topics delete\")\n"
         "      words+=\" $(wayside topics list ${config:+-c \"$config\"} 2>/dev/null |\n"
         "               awk 'NR > 1 { print $1 }')\" ;;\n"
         "    \"groups describe\"|\"groups reset\"|\"groups delete\")\n"
         "      words+=\" $(wayside groups list ${config:+-c \"$config\"} 2>/dev/null |\n"
         "               awk 'NR > 1 { print $1 }')\" ;;\n"
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "}\n"
         "_wayside_words() {\n"
         "  case $1 in\n" +
         cases +
         "    *) return 1 ;;\n"
         "  esac\n"
         "}\n"
         "complete -F _wayside wayside\n";
}

}  // namespace wayside
