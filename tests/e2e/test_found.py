#!/usr/bin/env python3
"""Damage that only a reader meets, and other programs at the database: a shell that empties the
WAL, one that is open while the gateway starts, and what was never stored is not called lost."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Gateway, main, wait_for  # noqa: E402
from test_damage import SMALL, overwrite, page_of_segment, publish  # noqa: E402

ONE = '[[topic]]\nname = "raw"\n[[route]]\nmqtt = "raw/#"\ntopic = "raw"\npayload = "raw"\n'
READER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
db.execute("SELECT count(*) FROM _ws_meta").fetchone()
print("reads", flush=True)
sys.stdin.read()
"""


def path_of(gateway):
    return os.path.join(gateway.data_dir, "wayside.db")


def leaves(gateway):
    """Where the leaves of the second oldest closed segment begin in the file, in their order."""
    first = page_of_segment(gateway, 1)
    with open(path_of(gateway), "rb") as f:
        data = f.read()
    for at in range(0, len(data), 4096):  # the inner page whose first child is that leaf
        page = data[at:at + 4096]
        cells = [int.from_bytes(page[i:i + 2], "big")
                 for i in range(12, 12 + 2 * int.from_bytes(page[3:5], "big"), 2)]
        children = [(int.from_bytes(page[c:c + 4], "big") - 1) * 4096 for c in cells]
        if page[0] == 5 and children and children[0] == first:
            return children
    raise AssertionError("no inner page has this leaf")


def other_value(path, at):
    """One letter of one value of a leaf is another."""
    with open(path, "rb") as f:
        f.seek(at)
        page = f.read(4096)
    value = re.search(rb"v[2-9]\d\d", page)
    overwrite(path, at + value.start(), b"w")


def run_sql(gateway, sql):
    """As a shell of its own does: opens, runs, closes."""
    with contextlib.closing(sqlite3.connect(path_of(gateway), isolation_level=None)) as db:
        db.execute(sql).fetchall()


class Readers(unittest.TestCase):
    def damaged(self, harm):
        """A gateway with 1,000 readings, of which a leaf of a closed segment is harmed."""
        gateway = Gateway(tail=SMALL, topics=ONE).start()
        self.addCleanup(gateway.__exit__, None)
        values = [f"v{i}" for i in range(1000)]
        publish(gateway, values)
        gateway.stop()
        harm(path_of(gateway), leaves(gateway))
        gateway.start()
        publish(gateway, ["after"])
        return gateway, values + ["after"]

    def check(self, gateway, values, read, most_lost, least_read=0):
        """`read` gave what lies before the damage; all the rest comes, but for what is named."""
        self.assertEqual(read.returncode, 1, gateway.log())
        self.assertIn("the gateway was told", read.stderr)
        self.assertGreaterEqual(len(read.stdout.split()), least_read)
        wait_for(lambda: "salvaged from" in gateway.log(), "the salvage")
        wait_for(lambda: gateway.status()["running"], "it runs again")
        stored = gateway.values("raw")
        self.assertEqual(stored, [v for v in values if v in set(stored)])
        lost = len(values) - len(stored)
        self.assertGreater(lost, 0)
        self.assertLessEqual(lost, most_lost)
        wait_for(lambda: gateway.status()["lost"] == lost, "it is counted")
        self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_a_value_that_changed(self):
        gateway, values = self.damaged(lambda path, at: other_value(path, at[1]))
        self.check(gateway, values, gateway.cli("read", "raw", "--format", "raw"), 1,
                   200)

    def test_a_page_that_is_anothers(self):
        """Sound by itself, but in the wrong place."""
        def harm(path, at):
            with open(path, "rb") as f:
                f.seek(at[1])
                page = f.read(4096)
            overwrite(path, at[0], page)
        gateway, values = self.damaged(harm)
        self.check(gateway, values, gateway.cli("read", "raw", "--format", "raw"), 200)

    def test_of_a_topic_that_shares_its_segments(self):
        """The gateway does the very read that failed: another might end before the damage."""
        topics = ONE + '[[topic]]\nname = "rare"\n[[route]]\nmqtt = "rare"\ntopic = "rare"\n' \
            'payload = "raw"\n'
        with Gateway(tail="[storage]\nsegment_rows = 5000", topics=topics) as gateway:
            publish(gateway, [f"v{i}" for i in range(2000)])
            publish(gateway, ["the rare one"], "rare")
            publish(gateway, [f"v{i}" for i in range(2000, 5000)])
            gateway.stop()
            with open(path_of(gateway), "rb") as f:
                at = f.read().index(b"the rare one")
            overwrite(path_of(gateway), at, b"THE")
            gateway.start()
            self.assertIn("the gateway was told", gateway.cli("read", "rare", check=1).stderr)
            wait_for(lambda: "salvaged from" in gateway.log(), "the salvage")
            self.assertEqual(len(gateway.values("raw")), 5000)

    def test_a_group_goes_on(self):
        gateway, values = self.damaged(lambda path, at: other_value(path, at[1]))
        read = gateway.cli("read", "raw", "--group", "dash", "--format", "raw", "--timeout", "20s")
        got = read.stdout.split()
        self.assertEqual(read.returncode, 0, read.stderr)
        self.assertIn("the gateway went away", read.stderr)
        self.assertEqual(got, [v for v in values if v in set(got)])
        self.assertGreater(len(got), 980)
        self.assertEqual(got, gateway.values("raw"))

    def test_nobody_can_make_it_set_a_sound_file_aside(self):
        with Gateway(topics=ONE) as gateway:
            publish(gateway, ["v"])
            for seq in (0, 1, -1, 1 << 60):
                answer = self.ask(gateway, {"do": "damaged", "chain": 1, "seq": seq, "tps": [1, 2],
                                            "records": -1, "bytes": 1 << 62})
                self.assertIn("nothing is damaged there", json.dumps(answer))
            publish(gateway, ["w"])
            self.assertNotIn("set aside", gateway.log())

    def ask(self, gateway, request):
        import socket
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.path.join(gateway.data_dir, "wayside.sock"))
            s.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(s.makefile().readline())


class Shells(unittest.TestCase):
    def check(self, gateway, values):
        self.assertEqual(sorted(gateway.values("raw")), sorted(values))
        self.assertNotIn("another database", gateway.log())
        self.assertFalse([f for f in os.listdir(gateway.data_dir) if "foreign" in f])
        gateway.cli("verify", check=0)
        gateway.cli("ledger", check=0)

    def test_one_empties_the_wal_and_another_writes(self):
        """The WAL then begins with a random number, which is not the one that was noted."""
        for sql in ("ANALYZE", "CREATE INDEX IF NOT EXISTS mine ON _ws_counters(value)", "VACUUM"):
            with self.subTest(sql=sql), Gateway(topics=ONE) as gateway:
                publish(gateway, ["before"])
                run_sql(gateway, "PRAGMA wal_checkpoint(TRUNCATE)")
                run_sql(gateway, sql)
                values = [f"v{i}" for i in range(200)]
                publish(gateway, values)
                gateway.kill()
                gateway.start()
                self.check(gateway, ["before", *values])

    def test_and_a_reader_keeps_the_note_out_of_the_database(self):
        """What the gateway notes stays in the WAL: the records in it say whose it is."""
        with Gateway(topics=ONE) as gateway:
            publish(gateway, ["before"])
            run_sql(gateway, "PRAGMA wal_checkpoint(TRUNCATE)")
            with subprocess.Popen([sys.executable, "-c", READER, path_of(gateway)], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
                self.assertEqual(reader.stdout.readline(), "reads\n")
                run_sql(gateway, "ANALYZE")
                values = [f"v{i}" for i in range(200)]
                publish(gateway, values)
                gateway.kill()
                reader.kill()
            gateway.start()
            self.check(gateway, ["before", *values])

    def test_one_is_open_while_the_gateway_starts(self):
        """The WAL was removed by the first, and is the second one's."""
        with Gateway(topics=ONE) as gateway:
            publish(gateway, [f"v{i}" for i in range(100)])
            gateway.kill()
            run_sql(gateway, "SELECT count(*) FROM raw")
            with contextlib.closing(sqlite3.connect(path_of(gateway), isolation_level=None)) as db:
                db.execute("ANALYZE").fetchall()
                for i in range(2):
                    gateway.start()
                    publish(gateway, [f"new{i}"])
                    gateway.kill()
            gateway.start()
            self.check(gateway, [f"v{i}" for i in range(100)] + ["new0", "new1"])


class NeverStored(unittest.TestCase):
    def test_what_was_left_out_is_not_lost(self):
        """A copy goes on 200,000 offsets beyond; a damaged page later makes none of them lost."""
        with Gateway(tail=SMALL, topics=ONE) as gateway:
            publish(gateway, [f"v{i}" for i in range(500)])
            gateway.stop()
            shutil.copytree(gateway.data_dir, gateway.data_dir + ".copy")
            shutil.rmtree(gateway.data_dir)
            os.rename(gateway.data_dir + ".copy", gateway.data_dir)
            gateway.start()
            publish(gateway, [f"w{i}" for i in range(500)])
            before = gateway.status()
            gateway.stop()
            overwrite(path_of(gateway), page_of_segment(gateway, 1) + 2000, b"\xee" * 100)
            gateway.cli("repair", "--yes", check=0)
            gateway.start()
            after = gateway.status()
            lost = 1000 - len(gateway.values("raw"))
            self.assertLess(lost, 60)
            self.assertEqual((before["lost"], after["lost"]), (0, lost))
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)


if __name__ == "__main__":
    main()
