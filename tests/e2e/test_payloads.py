"""Payloads that are not one JSON object: CBOR, batches, values below a pointer, conditions, units
of time; and what `check --try` says of them."""

import json
import os
import unittest

from harness import PUBACK, Gateway, Wire, main, publish_packet

TOPICS = """
[[topic]]
name = "meters"
partitions = 2
[[topic]]
name = "alarms"
[[route]]
mqtt = "cbor/{id}"
topic = "meters"
key = "{id}"
time = "/t"
payload = "cbor"
[[route]]
mqtt = "batch/{site}"
topic = "meters"
split = "/readings"
key = "/id"
time = "/t"
time_unit = "us"
[[route]]
mqtt = "list/x"
topic = "meters"
split = "."
value = "/v"
key = "/k"
[[route]]
mqtt = "site/{id}"
when = "/type == \\"alarm\\""
topic = "alarms"
key = "{id}"
[[route]]
mqtt = "site/{id}"
when = "/level > 10"
topic = "alarms"
[[route]]
mqtt = "site/{id}"
topic = "meters"
key = "{id}"
value = "/data"
"""
# {"t": 1795339391, "v": 1.5, "name": "m\xfcller", "raw": h'0102'}
CBOR = bytes.fromhex("a4" "6174" "1a6b02aeff" "6176" "f93e00" "646e616d65" "676dc3bc6c6c6572"
                     "63726177" "420102")


class Payloads(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway(commit='linger = "2ms"', topics=TOPICS).start()
        cls.addClassCleanup(cls.gateway.__exit__, None)

    def publish(self, topic, payload):
        """Publishes, and returns the records that it made: (topic, key, value, timestamp)."""
        def count(t):
            return self.gateway.sql(f'SELECT count(*) FROM "{t}"')[0][0]
        topics = ("meters", "alarms", "quarantine")
        before = {t: count(t) for t in topics}
        with Wire(self.gateway.port) as wire:
            wire.connect("device", 5)
            wire.send(publish_packet(topic, payload, 1, 1, 5))
            self.assertEqual(wire.read()[0], PUBACK)
        out = []
        for t in topics:
            rows = self.gateway.sql(f'SELECT key, value, timestamp FROM "{t}" ORDER BY seq')
            out += [(t, *row) for row in rows[before[t]:]]
        return out

    def reason(self):
        done = self.gateway.cli("quarantine", "list", "--json", check=0)
        return json.loads(done.stdout.splitlines()[-1])["headers"]

    def test_cbor_is_stored_as_it_came_and_shown_as_json(self):
        (record,) = self.publish("cbor/7", CBOR)
        self.assertEqual(record[:3], ("meters", "7", CBOR))
        self.assertEqual(record[3], 0x6B02AEFF * 1000)
        shown = json.loads(self.gateway.cli("read", "meters", "-k", "7", "--json",
                                            check=0).stdout.splitlines()[0])
        self.assertEqual(json.loads(shown["value"]),
                         {"t": 0x6B02AEFF, "v": 1.5, "name": "müller", "raw": {"base64": "AQI="}})
        sql = "SELECT key, v, name FROM meters WHERE key = '7' AND v = 1.5"
        done = self.gateway.cli("query", sql, "--json", check=0)
        self.assertEqual(json.loads(done.stdout.splitlines()[0]),
                         {"key": "7", "v": 1.5, "name": "müller"})

    def test_what_is_no_cbor_and_what_is_nested_too_deeply(self):
        for bad in (b"", b"\xa1", CBOR + b"\x00", b"\x81" * 100_000, b"\xa1\x00\x01"):
            (record,) = self.publish("cbor/7", bad)
            self.assertEqual(record[0], "quarantine", bad[:20])
            self.assertEqual(self.reason()["reason"], "not_cbor")

    def test_a_batch_is_several_records_byte_for_byte(self):
        batch = ('{"site": "a", "readings": [ {"id":"x", "t":1795339391000000, "v":1.50} ,'
                 '\n{"id":"y","v":[1,"]"]},{"v":"\\u00e9\\"}","id":"x","t":1795339391000001}]}')
        records = self.publish("batch/a", batch)
        self.assertEqual([r[:3] for r in records], [
            ("meters", "x", '{"id":"x", "t":1795339391000000, "v":1.50}'),
            ("meters", "y", '{"id":"y","v":[1,"]"]}'),
            ("meters", "x", '{"v":"\\u00e9\\"}","id":"x","t":1795339391000001}')])
        self.assertEqual(records[0][3], 1795339391000)

    def test_a_batch_is_stored_whole_or_not_at_all(self):
        for bad, reason in (('{"readings":[{"id":"x"},{"no":1}]}', "no_key"),
                            ('{"readings":[]}', "no_value"), ('{"readings":7}', "no_value"),
                            ('{"other":1}', "no_value"), ('{"readings":[{"id":"x"}', "not_json"),
                            (json.dumps({"readings": [{"id": "x"}] * 5001}), "no_value")):
            (record,) = self.publish("batch/a", bad)
            self.assertEqual(record[:3], ("quarantine", "device", bad))
            self.assertEqual(self.reason()["reason"], reason)

    def test_the_key_may_stand_beside_the_array(self):
        records = self.publish("batch/a", '{"id":"whole","readings":[{"v":1},{"id":"own"}]}')
        self.assertEqual([r[1] for r in records], ["whole", "own"])

    def test_the_payload_itself_an_array_and_a_value_below_a_pointer(self):
        records = self.publish(
            "list/x", '[{"k":1,"v":{"a" : 1}},{"k":true,"v":null},{"v":2,"k":"z"}]')
        self.assertEqual([r[1:3] for r in records],
                         [("1", '{"a" : 1}'), ("true", "null"), ("z", "2")])

    def test_conditions_choose_the_route(self):
        self.assertEqual(self.publish("site/1", '{"type":"alarm","level":3}')[0][:2],
                         ("alarms", "1"))
        self.assertEqual(self.publish("site/1", '{"type":"x","level":11}')[0][:2], ("alarms", None))
        self.assertEqual(self.publish("site/1", '{"level":10,"data":[1, 2]}')[0][:3],
                         ("meters", "1", "[1, 2]"))
        self.assertEqual(self.publish("site/1", '{"level":"11"}')[0][0], "quarantine")

    def try_(self, topic, payload):
        path = os.path.join(self.gateway.directory, "payload")
        with open(path, "wb") as f:
            f.write(payload if isinstance(payload, bytes) else payload.encode())
        return self.gateway.cli("check", "--try", topic, path, check=0).stdout

    def test_check_try_says_what_would_happen_and_why(self):
        out = self.try_("site/1", '{"level":12}')
        self.assertIn('when /type == "alarm": does not hold', out)
        self.assertIn("when /level > 10: holds", out)
        self.assertIn("1 record would be stored", out)
        self.assertIn("topic      alarms", out)
        out = self.try_("batch/a", '{"readings":[{"id":"x"},{"id":"y"}]}')
        self.assertIn("2 records would be stored", out)
        self.assertIn("to quarantine, because of no_route", self.try_("other", "x"))
        self.assertIn("because of not_cbor", self.try_("cbor/1", "{}"))
        self.assertIn('"v":1.5', self.try_("cbor/1", CBOR))


class Wrong(unittest.TestCase):
    def refused(self, route, *words):
        gateway = Gateway(topics='[[topic]]\nname = "a"\n[[route]]\nmqtt = "x/{y}"\ntopic = "a"\n' +
                          route)
        self.addCleanup(gateway.__exit__, None)
        done = gateway.cli("check", check=78)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_what_check_finds(self):
        self.refused('when = "type == 1"', "does not begin with a field")
        self.refused('when = "/type = 1"', "no comparison")
        self.refused('when = "/type == gps"', "neither a number nor a string")
        self.refused('split = "readings"', "readings")
        self.refused('payload = "raw"\nvalue = "/x"', "raw payload has no fields")
        self.refused('time_unit = "hours"', "time_unit")
        # The earlier one takes all: the later one could never have its turn.
        self.refused('[[route]]\nmqtt = "x/{z}"\ntopic = "a"\nwhen = "/a"', "overlap", "condition")


if __name__ == "__main__":
    main()
