"""The verbs of the command line, with the daemon running and stopped, and what bad input gets."""

import json
import os
import shutil
import subprocess
import unittest

from harness import WAYSIDE, Gateway, Wire, main, publish_packet, wait_for


def publish(gateway, topic, values):
    with Wire(gateway.port) as wire:
        wire.connect("device")
        for i, value in enumerate(values):
            wire.send(publish_packet(topic, value, 1, i + 1))
        for _ in values:
            assert wire.read()[0] == 4


class UpAndDown(unittest.TestCase):
    """Each test runs twice: beside the running gateway, and on the log it has left."""

    @classmethod
    def setUpClass(cls):
        cls.up = cls.enterClassContext(Gateway(commit='linger = "5ms"'))
        for truck in range(6):
            publish(cls.up, f"fleet/{truck}/gps",
                    [f'{{"ts":{1795000000 + i},"lat":{i},"speed":{50 + truck}}}'
                     for i in range(10)])
        publish(cls.up, "raw/x", [b"\xff\x00", "line\nbreak", "\x1b[31mred"])
        publish(cls.up, "nowhere/at/all", ["lost?"])
        publish(cls.up, "fleet/9/gps", ["not json"])
        wait_for(lambda: "speed" in str(cls.up.sql("SELECT sql FROM sqlite_schema WHERE"
                                                   " name='truck_gps'")), "columns are learnt")
        cls.down = cls.enterClassContext(Gateway())
        cls.down.stop()
        shutil.rmtree(cls.down.data_dir)
        # A card pulled from a dead box: the files as they are, with a WAL.
        os.mkdir(cls.down.data_dir)
        for name in ("wayside.db", "wayside.db-wal"):
            shutil.copy(os.path.join(cls.up.data_dir, name), cls.down.data_dir)

    def both(self, *args, check=0, **kwargs):
        outputs = [g.cli(*args, check=check, **kwargs) for g in (self.up, self.down)]
        self.assertEqual(outputs[0].stdout, outputs[1].stdout)
        return outputs[0]

    def test_read_alone_prints_all_and_exits(self):
        lines = self.both("read", "truck_gps", "--json").stdout.splitlines()
        self.assertEqual(len(lines), 60)
        first = json.loads(lines[0])
        self.assertEqual(first["timestamp"], 1795000000000)
        self.assertEqual(first["key"], "0")
        self.assertEqual(json.loads(first["value"])["speed"], 50)

    def test_read_ranges(self):
        def offsets(*args):
            out = self.both("read", "truck_gps", "--json", *args).stdout.splitlines()
            return [(r["partition"], r["offset"]) for r in map(json.loads, out)]
        first = json.loads(self.both("read", "truck_gps", "--json", "-n", "1").stdout)
        partition = first["partition"]
        p = ["-p", str(partition)]
        everything = offsets(*p)
        self.assertEqual(offsets(*p, "-o", "+3"), everything[:3])
        self.assertEqual(offsets(*p, "-o", "-3"), everything[-3:])
        self.assertEqual(offsets(*p, "-o", "2:5"), everything[2:5])
        self.assertEqual(offsets(*p, "-o", "7"), everything[7:])
        self.assertEqual(offsets(*p, "-o", ":4"), everything[:4])
        self.assertEqual(len(offsets("-o", "@-1h")), 60)
        self.assertEqual(len(offsets("-o", "@-1h:now")), 60)
        self.assertEqual(len(offsets("-k", "3")), 10)

    def test_formats(self):
        raw = self.both("read", "truck_gps", "--format", "raw", "-n", "1").stdout
        self.assertEqual(raw, '{"ts":1795000000,"lat":0,"speed":50}\n')
        csv = self.both("read", "truck_gps", "--format", "csv", "-n", "1").stdout.splitlines()
        self.assertEqual(csv[0], "topic,partition,offset,timestamp,key,value")
        self.assertTrue(csv[1].endswith(',"{""ts"":1795000000,""lat"":0,""speed"":50}"'))
        table = self.both("read", "raw").stdout
        self.assertIn("\\xff\\x00", table)
        self.assertIn("\\x1b[31mred", table)  # a terminal is not steered by a device
        self.assertNotIn("\x1b", table)
        values = [json.loads(line)["value"] for line in self.both("read", "raw", "--json")
                  .stdout.splitlines()]
        self.assertEqual(values, [{"base64": "/wA="}, "line\nbreak", "\x1b[31mred"])

    def test_quarantine_says_why(self):
        records = [json.loads(line) for line in self.both("read", "quarantine", "--json")
                   .stdout.splitlines()]
        self.assertEqual([r["headers"]["reason"] for r in records], ["no_route", "not_json"])
        self.assertEqual([r["value"] for r in records], ["lost?", "not json"])
        self.assertEqual(records[0]["headers"]["mqtt.topic"], "nowhere/at/all")

    def test_what_is_not_there(self):
        for code, words, args in (
                (3, "did you mean 'truck_gps'", ("read", "truck_gsp")),
                (3, "partitions are 0 to 11", ("read", "truck_gps", "-p", "12")),
                (4, "beyond the end", ("read", "truck_gps", "-o", "1000")),
                (4, "nothing was stored", ("read", "truck_gps", "-o",
                                           "@2020-01-01T00:00:00Z:2020-01-02T00:00:00Z")),
                (4, "has the key", ("read", "truck_gps", "-k", "nobody")),
                (2, "is no range", ("read", "truck_gps", "-o", "sideways")),
                (3, "there is no topic", ("topics", "describe", "none")),
                (2, "no such table", ("query", "SELECT * FROM missing")),
                (2, "not authorized", ("query", "DELETE FROM _ws_topics")),
                (2, "not authorized", ("query", "ATTACH 'x' AS y")),
                (6, "longer than", ("query", "--timeout", "50ms",
                                    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c)"
                                    " SELECT count(*) FROM c"))):
            with self.subTest(args=args):
                done = self.both(*args, check=code)
                self.assertIn(words, done.stderr)

    def test_query(self):
        out = self.both("query", "--json", "SELECT key, count(*) AS n, max(speed) AS speed FROM"
                        " truck_gps GROUP BY key ORDER BY key LIMIT 1").stdout
        self.assertEqual(json.loads(out), {"key": "0", "n": 10, "speed": 50})
        self.assertEqual(self.up.sql("SELECT key, speed, lat FROM truck_gps ORDER BY seq LIMIT 1"),
                         [("0", 50, 0)])

    def test_topics(self):
        listed = {t["topic"]: t for t in json.loads(self.both("topics", "list", "--json").stdout)}
        self.assertEqual(listed["truck_gps"]["records"], 60)
        self.assertEqual(listed["quarantine"]["records"], 2)
        self.assertIn("__consumer_offsets", listed)
        described = json.loads(self.both("topics", "describe", "truck_gps", "--json").stdout)
        self.assertEqual(sum(p["log_end"] for p in described["partitions"]), 60)

    def test_status(self):
        up, down = self.up.status(), self.down.status()
        self.assertTrue(up["running"])
        self.assertFalse(down["running"])
        for s in up, down:
            self.assertEqual((s["stored"], s["live"], s["expired"]), (65, 65, 0))
            self.assertEqual(s["counters"], {"quarantined.no_route": 1, "quarantined.not_json": 1})
        self.assertIn("running since", self.up.cli("status", check=0).stdout)
        self.assertIn("stopped", self.down.cli("status", check=0).stdout)

    def test_publish_without_a_gateway(self):
        done = self.down.cli("publish", "-t", "raw/x", "-m", "v", check=5)
        self.assertIn("no gateway", done.stderr)


class Follow(unittest.TestCase):
    def test_follow_prints_what_comes(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            follower = subprocess.Popen([WAYSIDE, "read", "-c", gateway.config, "raw", "--follow",
                                         "--json", "-n", "4"], stdout=subprocess.PIPE, text=True)
            self.addCleanup(follower.kill)
            publish(gateway, "raw/x", ["a"])
            self.assertEqual(json.loads(follower.stdout.readline())["value"], "a")
            publish(gateway, "raw/x", ["b", "c", "d"])
            out, _ = follower.communicate(timeout=20)
            self.assertEqual([json.loads(line)["value"] for line in out.splitlines()],
                             ["b", "c", "d"])
            self.assertEqual(follower.returncode, 0)


class Start(unittest.TestCase):
    def refused(self, gateway, code, *words):
        self.addCleanup(gateway.__exit__, None)
        gateway.start(wait=False)
        self.assertEqual(gateway.process.wait(20), code)
        for word in words:
            self.assertIn(word, gateway.log())
        return gateway

    def test_a_wrong_configuration_is_told_whole_with_lines_and_exit_78(self):
        gateway = Gateway(commit='linger = "1h"', topics='[[topic]]\nname = "a"\npartition = 3\n'
                          '[[route]]\nmqtt = "x/#/y"\ntopic = "b"\n')
        self.refused(gateway, 78, "toml:4: commit.linger", "did you mean 'partitions'?",
                     "# before its end", "in no [[topic]]")
        done = gateway.cli("check", check=78)
        self.assertIn("4 problems", done.stderr)

    def test_a_second_gateway_on_the_same_data_is_refused(self):
        with Gateway() as first:
            second = Gateway()
            shutil.rmtree(second.data_dir, ignore_errors=True)
            os.symlink(first.data_dir, second.data_dir)
            self.refused(second, 1, "locked", "only one gateway")

    def test_a_log_of_a_newer_version_is_left_alone_with_exit_78(self):
        with Gateway() as gateway:
            gateway.stop()
            gateway.sql("PRAGMA user_version=99")
            self.refused(gateway, 78, "format 99")

    def test_a_port_that_is_taken(self):
        with Gateway() as first:
            second = Gateway()
            second.edit("127.0.0.1:0", f"127.0.0.1:{first.port}")
            self.refused(second, 1, "in use", "another broker")


if __name__ == "__main__":
    main()
