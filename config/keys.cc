#include "config/keys.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kSecond = 1000, kMinute = 60 * kSecond, kHour = 60 * kMinute;
constexpr std::int64_t kDay = 24 * kHour, kYear = 366 * kDay;
constexpr std::int64_t kKiB = 1024, kMiB = 1024 * kKiB, kTiB = kMiB * kMiB;
using C = Config;
using V = KeyValue;
using enum KeyType;

LogLevel level_of(std::string_view s) {
  return s == "debug"     ? LogLevel::debug
         : s == "warning" ? LogLevel::warning
         : s == "error"   ? LogLevel::error
                          : LogLevel::info;
}

// clang-format off
const auto kKeys = std::to_array<Key>({
  {"", "data_dir", text, "\"/var/lib/wayside\"", false, 0, 0, "",
   "The directory of the log (wayside.db), its lock and its ballast. Only one gateway may use it.",
   [](C& c, const V& v) { c.data_dir = v.text; }},
  {"", "log_level", choice, "\"info\"", false, 0, 0, "debug|info|warning|error",
   "What is written to stderr (the journal). There is never a line per reading.",
   [](C& c, const V& v) { c.log_level = level_of(v.text); }},

  {"commit", "linger", duration, "\"100ms\"", false, 0, 10 * kSecond, "",
   "How long a reading may wait for others to share its commit. Fewer commits wear the card less "
   "(about 5.5 device bytes per payload byte at 50 records a commit, 69 at 1). A device that waits "
   "for each acknowledgement, and sends the next reading within 100 ms of it, is not made to wait.",
   [](C& c, const V& v) { c.commit.linger_ms = v.number; }},
  {"commit", "records", integer, "200", false, 1, 20'000, "",
   "So many readings waiting are committed at once, while the next ones are read: what a few fast "
   "devices send shares commits of about this size. Slower disks make larger ones by themselves.",
   [](C& c, const V& v) { c.commit.records = v.number; }},
  {"commit", "bytes", bytes, "\"256KiB\"", false, kKiB, 16 * kMiB, "",
   "So many bytes of readings waiting are committed at once.",
   [](C& c, const V& v) { c.commit.bytes = v.number; }},

  {"mqtt", "listen", text, "\"127.0.0.1:1883\"", false, 0, 0, "",
   "Address and port for devices; port 0 takes a free one. There is no authentication yet: whoever "
   "reaches this port can publish. \"0.0.0.0:1883\" or \"[::]:1883\" for devices only.",
   [](C& c, const V& v) { c.mqtt.listen = v.text; }},
  {"mqtt", "max_connections", integer, "1000", false, 1, 50'000, "",
   "Connections at a time. An eighth is kept for devices that have stored a reading before. When "
   "places are short, one that has stored no reading, or has sent none for 30 s, gives way to a "
   "newcomer; if there is none, the newcomer is refused for now. Each needs a file descriptor.",
   [](C& c, const V& v) { c.mqtt.max_connections = v.number; }},
  {"mqtt", "max_connections_per_address", integer, "0", false, 0, 50'000, "",
   "Connections of one network address at a time (of IPv6: of one /64 network); 0: no limit of its "
   "own. Devices behind one router share an address.",
   [](C& c, const V& v) { c.mqtt.max_connections_per_address = v.number; }},
  {"mqtt", "max_silent_per_address", integer, "32", false, 1, 256, "",
   "Connections of one network address that have not said CONNECT yet; the oldest of them gives "
   "way to the next one.",
   [](C& c, const V& v) { c.mqtt.max_silent_per_address = v.number; }},
  {"mqtt", "client_id_max", bytes, "128", false, 23, 1024, "",
   "The longest client id; a longer one is refused (0x85, in 3.1.1 return code 2). Ids are kept "
   "with sessions and with the names of who sent what.",
   [](C& c, const V& v) { c.mqtt.client_id_bytes_max = v.number; }},
  {"mqtt", "receive_maximum", integer, "1000", false, 1, 65'535, "",
   "Readings of QoS 1 and 2 that one client may have unacknowledged. MQTT 5 clients are told; a "
   "3.1.1 client is not read for a while.",
   [](C& c, const V& v) { c.mqtt.receive_maximum = v.number; }},
  {"mqtt", "max_packet", bytes, "\"256KiB\"", false, kKiB, 16 * kMiB, "",
   "The largest MQTT packet taken whole; see oversized. Each connection may hold one that is not "
   "complete yet in memory.",
   [](C& c, const V& v) { c.mqtt.max_packet_bytes = v.number; }},
  {"mqtt", "oversized", choice, "\"quarantine\"", false, 0, 0, "quarantine|disconnect",
   "What becomes of a reading larger than max_packet, or with a topic of more than 1024 bytes. "
   "quarantine: it is acknowledged, and set aside with its topic, its sizes and the first 4 KiB of "
   "its payload; the rest is gone. disconnect: its connection ends, and a device that sends it "
   "again first, at each reconnect, gets nothing else through.",
   [](C& c, const V& v) { c.mqtt.quarantine_oversized = v.text == "quarantine"; }},
  {"mqtt", "subscribe", choice, "\"refuse\"", false, 0, 0, "refuse|grant",
   "The answer to SUBSCRIBE. Wayside sends nothing to devices in either case. grant says yes all "
   "the same, for devices whose program ends when it is refused.",
   [](C& c, const V& v) { c.mqtt.grant_subscriptions = v.text == "grant"; }},
  {"mqtt", "topic_alias_maximum", integer, "0", false, 0, 32, "",
   "MQTT 5 topic aliases that a client may use. 0, for some clients (Paho Java) use one that they "
   "gave on an earlier connection, and never get on.",
   [](C& c, const V& v) { c.mqtt.topic_alias_maximum = v.number; }},
  {"mqtt", "idle_max", duration, "\"2d\"", false, 2 * kSecond, 10 * kYear, "",
   "A connection without keep-alive (or with a longer one) that has sent nothing for so long is "
   "closed. Some clients notice that only when they have lost a reading of QoS 0, so it is longer "
   "than a device that reports once a day is silent. A peer that has vanished is known after two "
   "minutes in any case: TCP asks. MQTT 5 clients are told (Server Keep Alive).",
   [](C& c, const V& v) { c.mqtt.idle_max_ms = v.number; }},
  {"mqtt", "session_expiry_max", duration, "\"30d\"", false, kMinute, 10 * kYear, "",
   "How long the session of an absent client is kept at most, whatever it asked for.",
   [](C& c, const V& v) { c.mqtt.session_expiry_max_ms = v.number; }},

  {"storage", "budget", bytes, "0", false, 0, 1024 * kTiB, "",
   "Bytes that database and WAL may take together; the oldest segments go first. 0: as large as "
   "the disk. At least 64MiB.",
   [](C& c, const V& v) { c.storage.budget_bytes = v.number; }},
  {"storage", "keep_free", bytes, "\"256MiB\"", false, 0, 1024 * kTiB, "",
   "So much of the disk is left free for everything else, but never more than 1/16 of it: near it "
   "the log grows no further, and the oldest segments make room for new readings.",
   [](C& c, const V& v) { c.storage.keep_free_bytes = v.number; }},
  {"storage", "segment_rows", integer, "100000", false, 100, 10'000'000, "",
   "Records after which a segment is closed; retention drops whole segments. Taken by new chains. "
   "A segment of more than 450,000 gets no index by offset.",
   [](C& c, const V& v) { c.storage.segment_rows = v.number; }},

  {"clock", "trust", choice, "\"kernel\"", false, 0, 0, "kernel|always",
   "When the wall clock is believed: when the kernel says that it is synchronised (NTP), or always "
   "(a gateway with a clock battery). Retention by time acts on trusted time only.",
   [](C& c, const V& v) {
     c.clock_trust = v.text == "always" ? ClockTrust::always : ClockTrust::from_kernel;
   }},

  {"http", "listen", text, "\"127.0.0.1:9470\"", false, 0, 0, "",
   "Address and port of /healthz, /readyz and /metrics (Prometheus); \"\" for none. There is no "
   "authentication: leave it on loopback, or on a network that you trust.",
   [](C& c, const V& v) { c.http.listen = v.text; }},

  {"groups", "offset_retention", retention, "\"30d\"", false, kMinute, 100 * kYear, "",
   "The offsets of a consumer group that nobody reads are forgotten after so long, or \"forever\". "
   "By trusted time only; positions of bridges never.",
   [](C& c, const V& v) { c.groups.offset_retention_ms = v.number; }},

  {"quarantine", "retention", retention, "\"30d\"", false, kMinute, 100 * kYear, "",
   "How long readings are kept that no route takes or that cannot be decoded.",
   [](C& c, const V& v) { c.quarantine.retention_ms = v.number; }},
  {"quarantine", "retention_bytes", bytes, "\"64MiB\"", false, kMiB, kTiB, "",
   "Bytes of such readings that are kept at most, and never more than an eighth of storage.budget; "
   "the oldest go first.",
   [](C& c, const V& v) { c.quarantine.retention_bytes = v.number; }},

  {"topic", "name", text, "", true, 0, 0, "",
   "The topic's name: letters, digits, '.', '_' and '-'. It is also the name of its SQL view.",
   [](C& c, const V& v) { c.topics.back().name = v.text; }},
  {"topic", "partitions", integer, "1", false, 1, 1000, "",
   "Partitions. A key always goes to the same one, until their number grows. It cannot shrink.",
   [](C& c, const V& v) { c.topics.back().partitions = v.number; }},
  {"topic", "retention", retention, "\"7d\"", false, kMinute, 100 * kYear, "",
   "How long records are kept, or \"forever\".",
   [](C& c, const V& v) { c.topics.back().retention_ms = v.number; }},
  {"topic", "retention_bytes", bytes, "0", false, 0, 1024 * kTiB, "",
   "Bytes of keys, values and headers that are kept at most; 0: no bound. Given when the topic is "
   "created.",
   [](C& c, const V& v) { c.topics.back().retention_bytes = v.number; }},
  {"topic", "columns", strings, "", false, 0, 0, "",
   "Fields of the JSON payload that the topic's SQL view shows as columns. Without it they are "
   "learnt from the data, up to 32.",
   [](C& c, const V& v) { c.topics.back().columns = v.strings; }},

  {"topic", "priority", choice, "\"normal\"", false, 0, 0, "low|normal|high",
   "What goes first when there is no room: the oldest segments of topics of low priority, then of "
   "normal, then of high.",
   [](C& c, const V& v) {
     c.topics.back().priority = v.text == "low" ? 0 : v.text == "high" ? 2 : 1;
   }},
  {"topic", "keep_unsent", boolean, "false", false, 0, 0, "",
   "Records are never dropped before every bridge that names this topic has sent them, neither by "
   "retention nor for want of room. When there is no room at all, readings for it are not "
   "acknowledged, and 'wayside status' says why.",
   [](C& c, const V& v) { c.topics.back().keep_unsent = v.boolean; }},

  {"route", "mqtt", text, "", true, 0, 0, "",
   "The MQTT topics this route takes: literal levels, {name} for one level, a last # for the rest.",
   [](C& c, const V& v) { c.routes.back().mqtt = v.text; }},
  {"route", "topic", text, "", true, 0, 0, "",
   "The topic of the log where the readings go.",
   [](C& c, const V& v) { c.routes.back().topic = v.text; }},
  {"route", "key", text, "\"\"", false, 0, 0, "",
   "The record's key: a template of the captured levels (\"{truck}\"), or a JSON pointer into the "
   "payload (\"/vin\"). Readings of one key keep their order. Without a key they are spread over "
   "the partitions in turn.",
   [](C& c, const V& v) { c.routes.back().key = v.text; }},
  {"route", "time", text, "\"\"", false, 0, 0, "",
   "A JSON pointer to the device's own time: a number since 1970 (also as text), or a date and "
   "time as devices write it. One that cannot be read, or is not believed (before 2010, more than "
   "a day ahead), is counted and told by 'wayside devices'; the reading is stored all the same.",
   [](C& c, const V& v) { c.routes.back().time = v.text; }},
  {"route", "time_unit", choice, "\"auto\"", false, 0, 0, "auto|s|ms|us|ns",
   "The unit of a time that is a number; auto tells them apart by their size.",
   [](C& c, const V& v) { c.routes.back().time_unit = v.text; }},
  {"route", "time_zone", text, "\"\"", false, 0, 0, "",
   "The zone of times that name none: \"+01:00\", \"UTC\", or a name such as \"Europe/Berlin\". "
   "Without it local times are not read. An hour that the clocks show twice is taken for its first "
   "time; one that they skip, as if they had not been put forward yet.",
   [](C& c, const V& v) { c.routes.back().time_zone = v.text; }},
  {"route", "payload", choice, "\"json\"", false, 0, 0, "json|cbor|raw",
   "What the payload must be; what is not goes to quarantine. CBOR is stored as it came, and shown "
   "as JSON; raw takes any bytes.",
   [](C& c, const V& v) { c.routes.back().payload = v.text; }},
  {"route", "when", text, "\"\"", false, 0, 0, "",
   "A condition on a field of the payload: '/type == \"gps\"', '/speed > 0', '/vin' (it is there). "
   "Routes may overlap when the earlier one has a condition: the first that holds takes the "
   "reading.",
   [](C& c, const V& v) { c.routes.back().when = v.text; }},
  {"route", "split", text, "\"\"", false, 0, 0, "",
   "A JSON pointer to an array of readings, or \".\" when the payload is the array: each element "
   "(up to 5,000) is a record of its own, all of them are stored or none. Key and time are looked "
   "for in the element, then in the payload.",
   [](C& c, const V& v) { c.routes.back().split = v.text; }},
  {"route", "value", text, "\"\"", false, 0, 0, "",
   "A JSON pointer: what stands there is stored, instead of the whole payload (or element).",
   [](C& c, const V& v) { c.routes.back().value = v.text; }},

  {"subscribe", "client_id", text, "", true, 0, 0, "",
   "The client id at the broker, which keeps its session, and so what comes while the gateway is "
   "away. No other client may use it. It also names this subscription.",
   [](C& c, const V& v) { c.subscriptions.back().client_id = v.text; }},
  {"subscribe", "broker", text, "", true, 0, 0, "",
   "The broker: mqtt://host:1883, or mqtts://host:8883 for TLS.",
   [](C& c, const V& v) { c.subscriptions.back().broker = v.text; }},
  {"subscribe", "filter", text, "", true, 0, 0, "",
   "The MQTT topic filter, such as \"fleet/#\". What comes goes through the routes as if the "
   "device had published here.",
   [](C& c, const V& v) { c.subscriptions.back().filter = v.text; }},
  {"subscribe", "qos", integer, "1", false, 0, 1, "",
   "1: a reading is acknowledged to the broker after it is committed. 0: the broker may lose it. "
   "What was published with QoS 2 comes with QoS 1, and may come twice.",
   [](C& c, const V& v) { c.subscriptions.back().qos = v.number; }},
  {"subscribe", "user", text, "\"\"", false, 0, 0, "", "The user name at the broker.",
   [](C& c, const V& v) { c.subscriptions.back().user = v.text; }},
  {"subscribe", "password_file", text, "\"\"", false, 0, 0, "",
   "A file with the password. Read anew for every connection.",
   [](C& c, const V& v) { c.subscriptions.back().password_file = v.text; }},
  {"subscribe", "ca_file", text, "\"\"", false, 0, 0, "",
   "A file of CA certificates (PEM) for mqtts, instead of the system's.",
   [](C& c, const V& v) { c.subscriptions.back().ca_file = v.text; }},
  {"subscribe", "cert_file", text, "\"\"", false, 0, 0, "",
   "The gateway's own certificate (PEM), for brokers that ask for one.",
   [](C& c, const V& v) { c.subscriptions.back().cert_file = v.text; }},
  {"subscribe", "key_file", text, "\"\"", false, 0, 0, "", "The private key of cert_file (PEM).",
   [](C& c, const V& v) { c.subscriptions.back().key_file = v.text; }},

  {"bridge", "name", text, "", true, 0, 0, "",
   "The bridge's name. Its position is the committed offsets of the group bridge.<name>.",
   [](C& c, const V& v) { c.bridges.back().name = v.text; }},
  {"bridge", "topics", strings, "", true, 0, 0, "",
   "The topics it forwards, from their log start.",
   [](C& c, const V& v) { c.bridges.back().topics = v.strings; }},
  {"bridge", "to", text, "", true, 0, 0, "",
   "Where to: an http:// or https:// URL that takes NDJSON by POST.",
   [](C& c, const V& v) { c.bridges.back().to = v.text; }},
  {"bridge", "batch_records", integer, "1000", false, 1, 100'000, "",
   "Records of one request at most.",
   [](C& c, const V& v) { c.bridges.back().batch_records = v.number; }},
  {"bridge", "batch_bytes", bytes, "\"256KiB\"", false, kKiB, 16 * kMiB, "",
   "Bytes of one request at most, before compression; a single larger record is sent alone.",
   [](C& c, const V& v) { c.bridges.back().batch_bytes = v.number; }},
  {"bridge", "linger", duration, "\"1s\"", false, 0, kHour, "",
   "How long a batch that is not full waits for more.",
   [](C& c, const V& v) { c.bridges.back().linger_ms = v.number; }},
  {"bridge", "timeout", duration, "\"30s\"", false, 100, kHour, "",
   "How long a request may make no progress, and how long its answer may take, before it is given "
   "up and tried again.",
   [](C& c, const V& v) { c.bridges.back().timeout_ms = v.number; }},
  {"bridge", "retry_max", duration, "\"30s\"", false, 100, kDay, "",
   "The longest pause between two tries, unless the upstream asks for a longer one by Retry-After "
   "(up to an hour). Pauses double from 0.5 s, also while the link is away (a try costs bytes on a "
   "metered one), and are between half and all of that; it tries for ever.",
   [](C& c, const V& v) { c.bridges.back().retry_max_ms = v.number; }},
  {"bridge", "gzip", boolean, "true", false, 0, 0, "",
   "Compress requests (Content-Encoding: gzip), about 8 times for JSON. An upstream that does not "
   "take it is served without until the next start; 'bridge status' says so.",
   [](C& c, const V& v) { c.bridges.back().gzip = v.boolean; }},
  {"bridge", "token_file", text, "\"\"", false, 0, 0, "",
   "A file with a bearer token, sent as Authorization. Read anew for every request. A user name or "
   "password in the URL is refused.",
   [](C& c, const V& v) { c.bridges.back().token_file = v.text; }},
  {"bridge", "ca_file", text, "\"\"", false, 0, 0, "",
   "A file of CA certificates (PEM) for https, instead of the system's.",
   [](C& c, const V& v) { c.bridges.back().ca_file = v.text; }},
});
// clang-format on

constexpr std::array kSections = {
    Section{"", false, "", ""},
    Section{"commit", false, "When readings are committed, synced and acknowledged.", ""},
    Section{"mqtt", false, "The listener for devices (MQTT 3.1.1 and 5).", ""},
    Section{"storage", false, "The log on disk.", ""},
    Section{"clock", false, "A Raspberry Pi has no clock battery.", ""},
    Section{"http", false, "Health and metrics for monitoring.", ""},
    Section{"groups", false, "Consumer groups of programs on the site.", ""},
    Section{"quarantine", false, "Where readings go that cannot be mapped; the topic 'quarantine'.",
            ""},
    Section{"topic", true, "A topic of the log. Removing one from this file deletes nothing.",
            "[[topic]]\nname = \"truck_gps\"\npartitions = 12\nretention = \"7d\"\n"
            "columns = [\"lat\", \"lon\", \"speed\"]\n"},
    Section{"route", true, "Which MQTT topics go to which topic of the log, under which key.",
            "[[route]]\nmqtt = \"fleet/{truck}/gps\"\ntopic = \"truck_gps\"\nkey = \"{truck}\"\n"
            "time = \"/ts\"\n"},
    Section{"subscribe", true,
            "Takes readings from a broker that is already there, and cannot move.",
            "[[subscribe]]\nclient_id = \"wayside-site-7\"\nbroker = \"mqtt://10.0.0.2:1883\"\n"
            "filter = \"fleet/#\"\n"},
    Section{"bridge", true, "Forwards topics upstream when the link is there.",
            "[[bridge]]\nname = \"cloud\"\ntopics = [\"truck_gps\"]\n"
            "to = \"http://127.0.0.1:8000/ingest\"\n"},
};

std::string_view unquoted(std::string_view s) {
  return s.size() >= 2 && s.front() == '"' ? s.substr(1, s.size() - 2) : s;
}

}  // namespace

std::span<const Key> config_keys() {
  return kKeys;
}
std::span<const Section> config_sections() {
  return kSections;
}

std::string key_form(const Key& key) {
  switch (key.type) {
    case text:
      return "text in quotes";
    case integer:
      return cat("a whole number from ", key.least, " to ", key.most);
    case boolean:
      return "true or false";
    case duration:
      return cat("a duration from \"", format_duration(key.least), "\" to \"",
                 format_duration(key.most), "\", such as \"250ms\", \"10s\", \"5m\" or \"7d\"");
    case retention:
      return cat("\"forever\", or a duration from \"", format_duration(key.least),
                 "\", such as \"12h\" or \"7d\"");
    case bytes:
      return cat("a number of bytes from ", key.least, " to ", key.most,
                 ", such as 4096, \"64KiB\" or \"2GiB\"");
    case strings:
      return "a list of texts: [\"a\", \"b\"]";
    case choice:
      break;
  }
  std::string out = "one of ";
  for (const std::string_view c : split(key.choices, '|')) {
    out += cat(out.size() > 7 ? ", " : "", "\"", c, "\"");
  }
  return out;
}

Result<KeyValue> parse_key_value(const Key& key, std::string_view written) {
  KeyValue v;
  v.text = unquoted(written);
  const auto wrong = [&] {
    return fail(ErrorCode::invalid_argument, cat(key.name, " = ", written), key_form(key));
  };
  std::optional<std::int64_t> number;
  switch (key.type) {
    case text:
    case strings:
      return v;
    case boolean:
      if (written != "true" && written != "false") return wrong();
      v.boolean = written == "true";
      return v;
    case choice: {
      const auto choices = split(key.choices, '|');
      if (std::find(choices.begin(), choices.end(), v.text) == choices.end()) return wrong();
      return v;
    }
    case integer:
      number = parse_int(written);
      break;
    case bytes:
      number = parse_bytes(v.text);
      break;
    case duration:
      number = parse_duration_ms(v.text);
      break;
    case retention:
      if (v.text == "forever") {
        v.number = -1;
        return v;
      }
      number = parse_duration_ms(v.text);
      break;
  }
  if (!number || *number < key.least || *number > key.most) return wrong();
  v.number = *number;
  return v;
}

}  // namespace wayside
