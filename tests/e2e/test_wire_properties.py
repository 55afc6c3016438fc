"""What MQTT 5 says about a reading is kept as the record's headers, wherever the record goes: to
its topic, in parts, to quarantine and back, to programs, into SQL and upstream."""

import base64

from harness import *
from test_wire_connect import DELAY, V5, WireCase, expiry, four, two
from upstream import Receiver

TOPICS = """
[[topic]]
name = "truck_gps"
[[route]]
mqtt = "fleet/{truck}/gps"
topic = "truck_gps"
key = "{truck}"
[[topic]]
name = "raw"
[[route]]
mqtt = "raw/#"
topic = "raw"
payload = "raw"
[[topic]]
name = "parts"
[[route]]
mqtt = "parts/#"
topic = "parts"
split = "."
[[topic]]
name = "by_vin"
[[route]]
mqtt = "vin/{site}"
topic = "by_vin"
key = "/vin"
"""


def text(name, value):
    return bytes([name]) + utf8(value)


def user(name, value):
    return b"\x26" + utf8(name) + utf8(value)


ALL = (b"\x01\x01\x02" + four(3600) + text(0x03, "application/json") + text(0x08, "answer/here")
       + text(0x09, b"\0\xff\x01") + user("site", "north") + user("k", "1") + user("k", "2")
       + user("", "") + user("reason", "mine"))
EXPECTED = {"mqtt.payload_format": "1", "mqtt.message_expiry_s": "3600",
            "mqtt.content_type": "application/json", "mqtt.response_topic": "answer/here",
            "mqtt.user.site": "north", "mqtt.user.k": ["1", "2"], "mqtt.user.": "",
            "mqtt.user.reason": "mine"}


class Properties(WireCase):
    OPTIONS = {"topics": TOPICS}

    def records(self, topic):
        read = self.gateway.cli("read", topic, "--json", check=0)
        return [json.loads(line) for line in read.stdout.splitlines()]

    def send(self, topic, payload, properties=b"", qos=1):
        wire = self.open(V5)
        wire.send(publish_packet(topic, payload, qos, 1, V5, properties=properties))
        self.assertEqual(wire.read(), (PUBREC if qos == 2 else PUBACK, 0, two(1)))
        wire.close()

    def check(self, headers, expected=None):
        correlation = headers.pop("mqtt.correlation_data")
        self.assertIn(base64.b64encode(b"\0\xff\x01").decode(), json.dumps(correlation))
        self.assertEqual(headers, expected or EXPECTED)

    def test_kept(self):
        """All of them, by QoS 0, 1 and 2, in their order; a repeated name is a list; and a reading
        without properties has none."""
        before = len(self.records("truck_gps"))
        for qos in (1, 2):
            self.send("fleet/a/gps", '{"x":1}', ALL, qos)
        self.send("fleet/a/gps", '{"x":2}')
        records = self.records("truck_gps")[before:]
        self.assertEqual(records[2]["headers"], {})
        for record in records[:2]:
            self.assertEqual(list(record["headers"])[-2:], ["mqtt.user.", "mqtt.user.reason"])
            self.check(record["headers"])

    def test_sql(self):
        """headers_json() in wayside query; elsewhere the column as docs/FORMAT.md has it."""
        self.send("raw/sql", "x", user("where", "hall \u00e4") + user("a", "b"))
        done = self.gateway.cli("query", "--json",
                                "SELECT headers_json(headers) ->> '$.\"mqtt.user.where\"' AS h"
                                " FROM raw WHERE value = 'x'", check=0)
        self.assertIn("hall \u00e4", done.stdout)
        rows = self.gateway.sql("SELECT headers FROM raw WHERE value = 'x'")
        self.assertEqual(rows, [(b"\x04" + b"\x1emqtt.user.where" + b"\x0ehall \xc3\xa4"
                                 + b"\x16mqtt.user.a" + b"\x02b",)])

    def dropped(self):
        return sum(n for (n,) in self.gateway.sql("SELECT value FROM _ws_counters"
                                                  " WHERE name = 'dropped.headers'"))

    def test_parts(self):
        """Each part of a message has them; not beyond all bounds."""
        self.send("parts/a", '[{"n":1},{"n":2}]', user("k", "v"))
        self.assertEqual([r["headers"] for r in self.records("parts")], [{"mqtt.user.k": "v"}] * 2)
        many = "[" + ",".join('{"n":3}' for _ in range(4000)) + "]"
        self.send("parts/a", many, user("k", "v" * 2000))
        self.assertEqual([r["headers"] for r in self.records("parts")[2:]],
                         [{"mqtt.headers_dropped": "all"}] * 4000)
        self.assertEqual(self.dropped(), 4000)

    def test_too_many(self):
        """What is beyond the bound is dropped, counted and said; the reading is not."""
        before = self.dropped()
        self.send("raw/many", "many", b"".join(user(f"k{n}", "v") for n in range(100)))
        self.send("raw/many", "long", user("a", "1") + user("b", "x" * 20000) + user("c", "3"))
        found = {r["value"]: r["headers"] for r in self.records("raw")
                 if isinstance(r["value"], str)}
        self.assertEqual((len(found["many"]), found["many"]["mqtt.headers_dropped"]), (65, "36"))
        self.assertEqual(found["long"], {"mqtt.user.a": "1", "mqtt.user.c": "3",
                                         "mqtt.headers_dropped": "1"})
        self.assertEqual(self.dropped() - before, 37)

    def test_quarantine_and_back(self):
        """Quarantined with them, and stored with them when it is tried again."""
        self.send("elsewhere/q", '{"vin":"q"}', ALL)
        row = [r for r in self.records("quarantine") if r["key"] == self.id_][0]
        self.assertEqual(row["headers"]["reason"], "no_route")
        self.assertEqual(row["headers"]["mqtt.user.k"], ["1", "2"])
        self.gateway.edit('mqtt = "vin/{site}"', 'mqtt = "elsewhere/{site}"')
        self.addCleanup(self.gateway.cli, "reload")
        self.addCleanup(self.gateway.edit, 'mqtt = "elsewhere/{site}"', 'mqtt = "vin/{site}"')
        self.gateway.cli("reload", check=0)
        self.gateway.cli("quarantine", "retry", str(row["offset"]), check=0)
        self.check([r for r in self.records("by_vin") if r["key"] == "q"][0]["headers"])

    def test_not_utf8(self):
        """Payload Format Indicator 1 is checked: what is not UTF-8 is acknowledged and set aside; a
        technician may store it all the same. Indicator 0 says nothing."""
        self.send("raw/utf8", b"\xff\xfe", b"\x01\x00")
        self.send("raw/utf8", b"\xff\xfd", b"\x01\x01" + user("k", "v"))
        rows = [r for r in self.records("quarantine") if r["key"] == self.id_]
        self.assertEqual([r["headers"]["reason"] for r in rows], ["not_utf8"])
        self.gateway.cli("quarantine", "retry", str(rows[0]["offset"]), check=0)
        stored = self.gateway.sql("SELECT value FROM raw WHERE hex(value) LIKE 'FFF%' ORDER BY seq")
        self.assertEqual(stored, [(b"\xff\xfe",), (b"\xff\xfd",)])

    def test_will(self):
        """A will's, too; and its payload is checked in the same way."""
        for payload in (self.tag + "gone", b"\xff"):
            will = ("raw/will", payload, 1, False, bytes([DELAY]) + four(0) + ALL)
            self.open(V5, properties=expiry(0), will=will).close()
        wait_for(lambda: self.stored() == ["gone"], "the will")
        will = [r for r in self.records("raw") if r["value"] == self.tag + "gone"]
        self.check(will[0]["headers"])
        wait_for(lambda: [r for r in self.records("quarantine") if r["key"] == self.id_
                          and r["headers"]["reason"] == "not_utf8"], "the second one is set aside")

    def test_malformed(self):
        """None of these is stored."""
        for data in (b"\x01\x02", b"\x01\x00\x01\x00", text(0x03, b"\xff"), text(0x08, b"\xff"),
                     user("a", b"\xff"), user(b"\0", "b"), b"\x02\0\0\0"):
            wire = self.open(V5).send(self.publish("no", 1, 1, V5, properties=data))
            self.assertEqual(wire.read()[0], DISCONNECT)
        self.check_stored()


class Upstream(unittest.TestCase):
    def test_bridge(self):
        """The upstream has them in each record."""
        receiver = self.enterContext(Receiver())
        bridge = (f'[[bridge]]\nname = "cloud"\ntopics = ["raw"]\nlinger = "0s"\n'
                  f'to = "http://127.0.0.1:{receiver.port}/"\n')
        with Gateway(commit='linger = "2ms"', tail=bridge) as gateway, Wire(gateway.port) as wire:
            wire.connect("c", V5)
            wire.send(publish_packet("raw/x", "up", 1, 1, V5,
                                     properties=user("k", "1") + user("k", "2"))).read()
            wait_for(lambda: receiver.records(), "it is delivered")
            self.assertEqual(receiver.records()[0]["headers"], {"mqtt.user.k": ["1", "2"]})


if __name__ == "__main__":
    main()
