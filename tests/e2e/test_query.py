"""What a technician's verbs may take: memory, time and output of `query`, of `devices` and of
`quarantine list` on a log with very many sources and quarantined readings."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import unittest

from harness import WAYSIDE, Gateway, Wire, main, publish_packet, wait_for

NUMBERS = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT {}) "
SANITIZED = "build/dev" not in WAYSIDE and "build/release" not in WAYSIDE


# A program's peak counts what its parent had when it was started, so a small one starts it.
STARTER = """
import json, os, sys
for line in sys.stdin:
    command, out, err = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for path, fd in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
        os.execv(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]), flush=True)
"""
starter = None


def setUpModule():
    global starter
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)


def tearDownModule():
    starter.stdin.close()
    starter.wait()
    starter.stdout.close()


def run(gateway, *args):
    """(exit code, standard output, standard error, peak of its memory in MiB)."""
    verb = list(args)
    at = 2 if verb[0] == "quarantine" else 1
    verb[at:at] = ["-c", gateway.config]
    out, err = (os.path.join(gateway.directory, name) for name in ("out", "err"))
    starter.stdin.write(json.dumps([[os.path.abspath(WAYSIDE), *verb], out, err]) + "\n")
    starter.stdin.flush()
    code, peak = json.loads(starter.stdout.readline())
    texts = []
    for path in (out, err):
        with open(path, encoding="utf-8", errors="replace") as f:
            texts.append(f.read())
    return code, texts[0], texts[1], peak / 1024


class Query(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(commit='linger = "2ms"'))
        with Wire(cls.gateway.port) as wire:
            wire.connect("device")
            wire.send(publish_packet("fleet/7/gps", '{"speed":5}', 1, 1))
            wire.read()
        wait_for(lambda: "speed" in str(cls.gateway.sql("SELECT sql FROM sqlite_schema WHERE"
                                                        " name='truck_gps'")), "it is learnt")

    def refused(self, sql, *more, code=1):
        done, _, err, peak = run(self.gateway, "query", sql, *more)
        self.assertEqual(done, code, err)
        self.assertIn("\n  ", err, "what to do")
        if not SANITIZED:
            self.assertLess(peak, 256, err)
        return err

    def test_memory_and_output_are_bounded_in_all(self):
        many = NUMBERS.format(90)
        for form in ("table", "json", "csv"):
            err = self.refused(many + "SELECT hex(zeroblob(9000000)) FROM c", "--format", form)
            self.assertIn("--max-output = 16.0 MiB", err)
        self.assertIn("too big", self.refused("SELECT hex(zeroblob(30000000))"))
        wide = ", ".join(["hex(zeroblob(1000000))"] * 100)
        self.assertRegex(self.refused(f"SELECT {wide}"), "--max-output|memory")
        err = self.refused(NUMBERS.format(3_000_000) +
                           "SELECT i, randomblob(200) FROM c ORDER BY 2")
        self.assertIn("memory", err)
        err = self.refused(NUMBERS.format(3_000_000) +
                           "SELECT json_group_array(hex(randomblob(9))) FROM c")
        cells = ", ".join(["1"] * 1000)
        self.assertIn("cells", self.refused(NUMBERS.format(50_000) + f"SELECT {cells} FROM c"))
        done, out, _, _ = run(self.gateway, "query", "SELECT hex(zeroblob(9000000))",
                              "--max-output", "32MiB", "--format", "csv")
        self.assertEqual((done, len(out)), (0, 18_000_000 + len("hex(zeroblob(9000000))") + 2))
        # One wide cell does not widen every row.
        done, out, _, _ = run(self.gateway, "query", NUMBERS.format(10_000) +
                              "SELECT CASE i WHEN 5 THEN hex(zeroblob(50000)) ELSE i END, i FROM c")
        self.assertEqual(done, 0)
        self.assertLess(len(out), 3_000_000)

    def test_a_call_that_does_not_end_ends(self):
        err = self.refused("SELECT instr(hex(zeroblob(9000000)), hex(zeroblob(4000000)) || '1')",
                           "--timeout", "500ms", code=6)
        self.assertIn("longer than 500ms", err)
        self.refused(NUMBERS.format(1_000_000_000) + "SELECT count(*) FROM c", "--timeout", "500ms",
                     code=6)
        err = self.refused(f"SELECT hex(zeroblob(1000)) || 'a' LIKE '{'%a' * 200}'", code=2)
        self.assertIn("pattern too complex", err)

    def test_only_functions_that_compute(self):
        for call in ("fts3_tokenizer('simple')", "load_extension('x')", "sqlite_log(1, 'x')",
                     "match('a', 'b')", "rtreecheck('x')"):
            err = self.refused(f"SELECT {call}", code=2)
            self.assertIn(call.split("(")[0], err)
        for call in ("count(*)", "max(speed)", "upper('a')", "strftime('%Y', 'now')", "sqrt(4)",
                     "json_extract(value, '$.speed')", "value ->> '$.speed'", "value LIKE '%5%'",
                     "group_concat(key)", "row_number() OVER ()", "printf('%d', 1)", "total(speed)",
                     "unixepoch('now')", "glob('a*', 'ab')", "iif(1, 2, 3)", "typeof(value)",
                     "current_timestamp", "lag(key) OVER (ORDER BY seq)", "CAST(speed AS TEXT)",
                     "(SELECT count(*) FROM json_each(value))"):
            done, out, err, _ = run(self.gateway, "query", f"SELECT {call} FROM truck_gps")
            self.assertEqual(done, 0, err)
            self.assertEqual(len(out.splitlines()), 2, out)


    def test_values_that_are_no_plain_text(self):
        done, out, err, _ = run(self.gateway, "query", "--format", "csv",
                                "SELECT char(65, 0, 66) AS x UNION ALL SELECT 'second'")
        self.assertEqual((done, out), (0, "x\nA\0B\nsecond\n"), err)
        done, out, err, _ = run(self.gateway, "query", "--json", "SELECT 9e999 AS x, -9e999 AS y")
        self.assertEqual((done, json.loads(out)), (0, {"x": math.inf, "y": -math.inf}), err)


class Many(unittest.TestCase):
    def test_a_hundred_thousand_sources(self):
        with Gateway() as gateway:
            with Wire(gateway.port) as wire:
                wire.connect("honest")
                wire.send(publish_packet("raw/x", "1", 1, 1))
                wire.read()
            gateway.stop()
            db = sqlite3.connect(os.path.join(gateway.data_dir, "wayside.db"))
            db.executemany("INSERT INTO _ws_sources(client_id, mqtt_topic) VALUES(?, ?)",
                           ((f"c{i:06}" + "x" * 900, f"t/{i}/" + "y" * 300)
                            for i in range(100_000)))
            db.commit()
            db.close()
            done, out, err, peak = run(gateway, "devices")
            self.assertEqual(done, 0, err)
            self.assertIn("honest ", out)
            self.assertIn("99001 others", out)
            self.assertLess(max(map(len, out.splitlines())), 250, "an id widens the table")
            self.assertIn("x" * 800, run(gateway, "devices", "--wide", "-n", "3")[1])
            done, text, err, json_peak = run(gateway, "devices", "--json")
            self.assertEqual((done, len(json.loads(text))), (0, 100_001), err)
            if not SANITIZED:
                self.assertLess(max(peak, json_peak), 60)

    def test_forty_thousand_quarantined_readings(self):
        n = 40_000
        with Gateway() as gateway:
            with Wire(gateway.port) as wire:
                wire.connect("lost")
                block = publish_packet("nowhere", b"x" * 1500)
                for _ in range(n // 500):
                    wire.send(block * 500)
                wire.send(publish_packet("nowhere", "last", 1, 1))
                wire.read()
            done, out, err, peak = run(gateway, "quarantine", "list")
            self.assertEqual(done, 0, err)
            lines = out.splitlines()
            self.assertEqual(lines[1000].split()[0], str(n), "the newest are shown")
            self.assertIn(f"{n + 1 - 1000} older ones are not shown", out)
            self.assertIn(f"{n + 1} waiting", out)
            done, text, err, json_peak = run(gateway, "quarantine", "list", "--json")
            self.assertEqual((done, text.count("\n")), (0, n + 1), err)
            if not SANITIZED:
                self.assertLess(max(peak, json_peak), 60)


class Columns(unittest.TestCase):
    def test_junk_of_a_stranger_does_not_stay(self):
        def columns():
            return [row[0] for row in
                    gateway.sql("SELECT name FROM pragma_table_info('truck_gps')")]
        with Gateway(commit='linger = "2ms"') as gateway, Wire(gateway.port) as wire:
            wire.connect("someone")

            def send(values):
                for i, v in enumerate(values):
                    wire.send(publish_packet("fleet/7/gps", json.dumps(v), 1, i + 1))
                for _ in values:
                    wire.read()
            send([{f"junk{i * 8 + k}": 1 for k in range(8)} for i in range(10)])
            wait_for(lambda: sum(c.startswith("junk") for c in columns()) == 32, "they are learnt")
            send([{"temp": i, "lat": 1} for i in range(100)])
            wait_for(lambda: {"temp", "lat"} <= set(columns()), "the usual fields have columns")
            self.assertEqual(gateway.sql("SELECT max(temp) FROM truck_gps"), [(99,)])
            done = gateway.cli("topics", "relearn", "truck_gps", check=0)
            self.assertTrue(done.stdout.startswith("columns of truck_gps: temp, lat"), done.stdout)
            gateway.cli("topics", "relearn", "nothing", check=3)
            gateway.stop()
            done = gateway.cli("topics", "relearn", "truck_gps", check=0)
            self.assertIn("temp, lat", done.stdout)


if __name__ == "__main__":
    main()
