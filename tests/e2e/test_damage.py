#!/usr/bin/env python3
"""A log that is damaged, under a running gateway and between two starts: readings are taken again
within seconds, what can be read comes back in order, what is lost is named, and offsets never go
back."""

import json
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import (PUBACK, Gateway, Wire, main, publish_packet, seeded,  # noqa: E402
                     wait_for)
from upstream import Receiver  # noqa: E402

SMALL = "[storage]\nsegment_rows = 200"


def publish(gateway, values, topic="raw/x"):
    """Publishes them one window at a time, QoS 1; all are acknowledged."""
    with Wire(gateway.port) as wire:
        wire.connect("damage")
        for at in range(0, len(values), 50):
            window = values[at:at + 50]
            for i, value in enumerate(window):
                wire.send(publish_packet(topic, value, 1, i + 1))
            for _ in window:
                assert wire.read()[0] == PUBACK


def overwrite(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def page_of_segment(gateway, n):
    """Where a leaf of the n-th oldest closed segment begins in the file."""
    table, = gateway.sql("SELECT '_ws_seg_' || chain || '_' || segment FROM _ws_segments JOIN"
                         " _ws_topics USING (chain) WHERE name='raw' AND last_seq IS NOT NULL"
                         " ORDER BY segment LIMIT 1 OFFSET ?", n)[0]
    root, = gateway.sql("SELECT rootpage FROM sqlite_schema WHERE name=?", table)[0]
    with open(os.path.join(gateway.data_dir, "wayside.db"), "rb") as f:
        f.seek((root - 1) * 4096)
        page = f.read(4096)
    assert page[0] == 5, page[0]  # an inner page; its first cell points to the first leaf
    cell = int.from_bytes(page[12:14], "big")
    return (int.from_bytes(page[cell:cell + 4], "big") - 1) * 4096


class Damage(unittest.TestCase):
    def test_the_wal_is_removed_under_a_running_gateway(self):
        """By a script that cleans up, again and again: nothing that was acknowledged is lost."""
        with Gateway(tail=SMALL) as gateway:
            acked = []
            for i in range(3):
                publish(gateway, [f"before{i}"])
                os.unlink(gateway.data_dir + "/wayside.db-wal")
                says = "was removed under the gateway; what it had is safe; the log is opened anew"

                def opened_anew():
                    return gateway.log().count(says) == i + 1 and \
                        gateway.log().count("taking readings again") == i + 1
                wait_for(opened_anew, "the log is opened anew")
                publish(gateway, [f"after{i}"])
                acked += [f"before{i}", f"after{i}"]
            gateway.kill()
            gateway.start()
            self.assertEqual(sorted(gateway.values("raw")), sorted(acked))
            self.assertEqual(gateway.sql("SELECT count(*) FROM _ws_lost"), [(0,)])

    def test_between_two_starts(self):
        """The schema's page is overwritten while the gateway is stopped."""
        with Gateway(tail=SMALL) as gateway:
            publish(gateway, [f"v{i}" for i in range(1500)])
            gateway.stop()
            overwrite(gateway.data_dir + "/wayside.db", 0, bytes(4096))
            gateway.start()
            publish(gateway, ["after"])
            wait_for(lambda: gateway.status()["salvaging"] == 0 and
                     "salvaged from" in gateway.log(), "the salvage")
            self.assertEqual(gateway.values("raw"), [f"v{i}" for i in range(1500)] + ["after"])
            self.assertIn("ALARM", gateway.cli("status", check=0).stdout)
            verify = gateway.cli("verify", check=0).stdout
            self.assertIn("the log is sound", verify)
            self.assertIn("skipped", verify)
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)
            self.assertEqual(gateway.status()["lost"], 0)

    def test_under_a_running_gateway_with_a_group_and_a_bridge(self):
        """An old segment loses a page. The bridge meets it; all that can be read is forwarded in
        order, and the group goes on where it was."""
        with Receiver() as upstream:
            bridge = (f'[[bridge]]\nname = "up"\ntopics = ["raw"]\nto = "{upstream.url}"\n'
                      'linger = "50ms"\nretry_max = "200ms"\n')
            with Gateway(tail=SMALL, topics='[[topic]]\nname = "raw"\n[[route]]\nmqtt = "raw/#"\n'
                         'topic = "raw"\npayload = "raw"\n') as gateway:
                publish(gateway, [f"v{i}" for i in range(1500)])
                gateway.cli("read", "raw", "--group", "dash", "-n", "100", check=0)
                indexed = "SELECT count(*) FROM _ws_segments WHERE indexed"
                wait_for(lambda: gateway.sql(indexed)[0][0] >= 5, "segments are indexed")
                gateway.stop()  # so that its pages are in the database
                at = page_of_segment(gateway, 3)
                overwrite(gateway.data_dir + "/wayside.db", at, b"\0" * 4096)
                gateway.edit("[http]", bridge + "[http]")
                gateway.start()
                wait_for(lambda: "is opened anew" in gateway.log(), "the bridge meets the page")
                wait_for(lambda: "taking readings again" in gateway.log(), "the log is opened anew")
                publish(gateway, [f"new{i}" for i in range(20)])
                wait_for(lambda: "salvaged from" in gateway.log(), "the salvage")
                wait_for(lambda: any(v == "new19" for v in upstream.values()), "the bridge drains")
                status = gateway.status()
                lost = status["lost"]
                self.assertGreater(lost, 0)
                self.assertLess(lost, 200)
                stored = gateway.values("raw")
                self.assertEqual(len(stored) + lost, 1520)
                sent = list(dict.fromkeys(upstream.values()))
                self.assertEqual(set(sent), set(stored))
                self.assertEqual(sent, [v for v in stored if v in set(sent)], "in order")
                rest = gateway.cli("read", "raw", "--group", "dash", "--format", "raw", check=0)
                self.assertEqual(rest.stdout.split(), stored[100:])
                verify = gateway.cli("verify", check=0).stdout
                self.assertIn(f"{lost} records are lost", verify)
                self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)
                events = [json.loads(e) for e in gateway.values("gateway.events")]
                self.assertEqual(sum(e["to"] - e["from"] for e in events if e["event"] == "lost"),
                                 lost)
                self.assertEqual(len(gateway.cli("read", "raw", "-o", "-30", "--format", "raw",
                                                 check=0).stdout.split()), 30)

    def test_kill_at_any_moment_of_the_recovery(self):
        """Killed again and again while it sets aside and salvages, it ends with the same."""
        random = seeded("recovery kills")
        values = [f"v{i}" for i in range(3000)]
        with Gateway(tail=SMALL) as gateway:
            publish(gateway, values)
            gateway.stop()
            overwrite(gateway.data_dir + "/wayside.db", 4096 * 0, bytes(100))
            for _ in range(12):
                gateway.start(wait=False)
                stop = threading.Event()
                stop.wait(random.uniform(0.0, 0.12))  # when the kill comes is what is random
                gateway.kill()
            gateway.start()
            publish(gateway, ["after"])
            wait_for(lambda: gateway.status()["salvaging"] == 0, "the salvage")
            self.assertEqual(gateway.values("raw"), values + ["after"])
            self.assertIn("the log is sound", gateway.cli("verify", check=0).stdout)
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_a_wal_that_is_gone_after_a_kill(self):
        with Gateway() as gateway:
            publish(gateway, [f"v{i}" for i in range(100)])
            before = max(row[0] for row in gateway.sql('SELECT "offset" FROM raw'))
            gateway.kill()
            os.unlink(gateway.data_dir + "/wayside.db-wal")
            gateway.start()
            publish(gateway, ["after"])
            after = gateway.sql("SELECT \"offset\" FROM raw WHERE value='after'")[0][0]
            self.assertGreater(after, before)
            self.assertIn("skipped", gateway.cli("verify", check=0).stdout)
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_repair_offline(self):
        with Gateway(tail=SMALL) as gateway:
            publish(gateway, [f"v{i}" for i in range(1500)])
            busy = gateway.cli("repair", "--yes", check=1)
            self.assertIn("the gateway is running", busy.stderr)
            gateway.stop()
            sound = gateway.cli("repair", "--yes", check=0)
            self.assertIn("the log is sound", sound.stdout)
            overwrite(gateway.data_dir + "/wayside.db", page_of_segment(gateway, 2), b"\xff" * 4096)
            self.assertEqual(gateway.cli("verify").returncode, 1)
            done = gateway.cli("repair", "--yes", "--remove-damaged", check=0)
            self.assertIn("was set aside", done.stdout)
            self.assertIn("is deleted", done.stdout)
            self.assertFalse([f for f in os.listdir(gateway.data_dir) if "damaged" in f])
            gateway.start()
            publish(gateway, ["after"])
            self.assertEqual(gateway.values("raw")[-1], "after")
            self.assertGreater(len(gateway.values("raw")), 1300)


if __name__ == "__main__":
    main()
