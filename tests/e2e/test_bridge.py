"""The bridge against a real HTTP upstream that is away, answers 500, hangs, closes in mid-reply,
finds a batch too large or a record wrong, and is killed; and the gateway is killed, too."""

import contextlib
import json
import os
import shutil
import sqlite3
import time
import unittest

from harness import Gateway, Wire, main, publish_packet, seeded, wait_for
from upstream import Receiver


def bridge(receiver, extra=""):
    return f"""
[[bridge]]
name = "cloud"
topics = ["raw"]
to = "http://127.0.0.1:{receiver.port}/ingest"
linger = "20ms"
retry_max = "200ms"
timeout = "1s"
{extra}
"""


def publish(gateway, values, client="device"):
    with Wire(gateway.port) as wire:
        wire.connect(client)
        for i, value in enumerate(values):
            wire.send(publish_packet(f"raw/{client}", value, 1, i % 60000 + 1))
        for _ in values:
            assert wire.read()[0] == 4


class Bridge(unittest.TestCase):
    def setUp(self):
        self.receiver = Receiver().start()
        self.addCleanup(self.receiver.__exit__)

    def gateway(self, extra=""):
        gateway = Gateway(commit='linger = "10ms"', tail=bridge(self.receiver, extra)).start()
        self.addCleanup(gateway.__exit__, None)
        return gateway

    def arrived(self, n):
        return wait_for(lambda: len(self.receiver.records()) >= n and self.receiver.records(),
                        f"{n} records upstream; there are {len(self.receiver.records())}")

    def test_records_arrive_in_order_in_the_record_form_and_positions_are_committed(self):
        gateway = self.gateway()
        publish(gateway, [f"v{i}" for i in range(50)])
        records = self.arrived(50)
        self.assertEqual([r["value"] for r in records], [f"v{i}" for i in range(50)])
        self.assertEqual(sorted(records[0]),
                         ["headers", "key", "offset", "partition", "timestamp", "topic", "value"])
        wait_for(lambda: sum(n for n, in gateway.sql(
            "SELECT committed_offset FROM __consumer_offsets WHERE group_id='bridge.cloud'")) == 50,
            "the positions are committed")
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "nothing is unsent")
        self.assertEqual(gateway.sql("SELECT count(*) FROM _ws_sealed"), [(0,)])

    def test_lag_grows_while_the_upstream_is_away_and_drains_when_it_is_back(self):
        gateway = self.gateway()
        self.receiver.kill()
        publish(gateway, [f"v{i}" for i in range(300)])
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 300, "all is unsent")
        wait_for(lambda: "unreachable" in gateway.cli("status").stdout, "status says why")
        self.receiver.start()
        self.assertEqual([r["value"] for r in self.arrived(300)], [f"v{i}" for i in range(300)])

    def test_an_upstream_that_fails_in_any_way_gets_each_batch_once(self):
        gateway = self.gateway('batch_records = 10')
        for mode in ("500", "close", "401", "hang", "429"):
            with self.subTest(mode=mode):
                before = len(self.receiver.records())
                self.receiver.mode(mode)
                publish(gateway, [f"{mode}-{i}" for i in range(25)])
                wait_for(lambda: gateway.status()["gateway"]["bridges"][0]["tries_failed"] > 0,
                         "a try fails")
                self.assertEqual(len(self.receiver.records()), before)
                self.receiver.mode("ok")
                self.arrived(before + 25)
        values = [r["value"] for r in self.receiver.records()]
        self.assertEqual(len(values), len(set(values)))

    def test_a_long_answer_is_judged_by_its_status(self):
        self.receiver.mode("long")
        gateway = self.gateway()
        publish(gateway, ["v0", "v1"])
        self.arrived(2)
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "it is settled")

    def test_a_batch_that_is_too_large_is_cut(self):
        self.receiver.mode("413:7")
        gateway = self.gateway()
        publish(gateway, [f"v{i}" for i in range(100)])
        self.assertEqual([r["value"] for r in self.arrived(100)], [f"v{i}" for i in range(100)])
        self.assertLessEqual(max(len(b["records"]) for b in self.receiver.batches()), 7)

    def test_a_record_that_is_refused_goes_to_quarantine_and_the_others_arrive(self):
        self.receiver.mode("poison:bad")
        gateway = self.gateway()
        values = [f"v{i}" for i in range(40)]
        values[17] = "bad one"
        publish(gateway, values)
        self.assertEqual([r["value"] for r in self.arrived(39)],
                         [v for v in values if v != "bad one"])
        self.assertEqual(gateway.values("quarantine"), ["bad one"])
        record = json.loads(gateway.cli("read", "quarantine", "--json", check=0).stdout)
        self.assertEqual(record["headers"]["reason"], "refused_upstream")
        self.assertIn("400", record["headers"]["detail"])

    def test_kill_of_both_in_a_loop_upstream_has_exactly_what_the_log_has(self):
        rng = seeded("bridge kill")
        gateway = self.gateway("batch_records = 20")
        n = 0
        for i in range(12):
            values = [f"v{n + k}" for k in range(100)]
            n += 100
            publish(gateway, values, f"device{i}")
            time.sleep(rng.random() * 0.1)  # the random moment is the point
            if rng.random() < 0.5:
                self.receiver.kill()
                time.sleep(rng.random() * 0.05)
                self.receiver.start()
            else:
                gateway.kill()
                gateway.start()
        self.arrived(n)
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "it is drained")
        got = [(r["partition"], r["offset"], r["value"]) for r in self.receiver.records()]
        held = gateway.sql('SELECT "partition", "offset", value FROM raw')
        self.assertEqual(len(got), len(set(got)), "a record came twice")
        self.assertEqual(sorted(got), sorted(held))
        # In order per partition, so per key.
        last = {}
        for partition, offset, _ in got:
            self.assertLess(last.get(partition, -1), offset)
            last[partition] = offset

    def test_a_copy_that_is_put_back_has_other_keys_for_other_records(self):
        gateway = self.gateway()
        publish(gateway, ["v0"])
        self.arrived(1)
        wait_for(lambda: gateway.sql("SELECT * FROM _ws_sealed") == [], "it is settled")
        gateway.stop()
        copy = gateway.data_dir + ".copy"
        shutil.copytree(gateway.data_dir, copy)
        gateway.start()
        publish(gateway, [f"first-{i}" for i in range(5)])
        self.arrived(6)
        gateway.stop()
        shutil.rmtree(gateway.data_dir)
        os.rename(copy, gateway.data_dir)
        gateway.start()
        publish(gateway, [f"second-{i}" for i in range(5)])
        values = [r["value"] for r in self.arrived(11)]
        self.assertEqual(values, ["v0", *(f"first-{i}" for i in range(5)),
                                  *(f"second-{i}" for i in range(5))])

    def test_two_gateways_from_one_image_are_both_heard(self):
        one = self.gateway()
        publish(one, ["v0"])
        self.arrived(1)
        wait_for(lambda: one.sql("SELECT * FROM _ws_sealed") == [], "it is settled")
        one.stop()
        two = self.gateway()
        two.stop()
        shutil.rmtree(two.data_dir)
        shutil.copytree(one.data_dir, two.data_dir)
        one.start(), two.start()
        publish(one, [f"one-{i}" for i in range(40)])
        publish(two, [f"two-{i}" for i in range(40)])
        values = {r["value"] for r in self.arrived(81)}
        self.assertEqual(len(values), 81)

    def test_every_try_of_a_batch_has_the_same_key_log_and_bytes_over_kills(self):
        gateway = self.gateway()
        self.receiver.mode("lost")  # kept, but we never hear of it
        publish(gateway, [f"v{i}" for i in range(30)])
        for _ in range(3):
            n = len(self.receiver.requests())
            wait_for(lambda: len(self.receiver.requests()) > n + 1, "it is tried again")
            gateway.kill()
            gateway.start()
        self.receiver.mode("ok")
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "it is settled")
        tries = self.receiver.requests()
        keys = {t["key"] for t in tries}
        self.assertEqual(len({(t["key"], t["sha256"]) for t in tries}), len(keys))
        self.assertEqual([r["value"] for r in self.receiver.records()],
                         [f"v{i}" for i in range(30)])
        ids = dict(gateway.sql("SELECT name, value FROM _ws_meta"))
        identity = f'{ids["gateway_id"]}.{ids["log_uuid"]}'
        for batch in self.receiver.batches():
            self.assertEqual(f'{batch["gateway"]}.{batch["log"]}', identity)
            self.assertRegex(batch["key"], rf'^"{identity}\.cloud\.[0-9a-f]{{32}}"$')

    def test_a_batch_that_an_older_version_sealed_keeps_its_key(self):
        gateway = self.gateway()
        self.receiver.kill()
        publish(gateway, ["v0", "v1"])
        wait_for(lambda: gateway.sql("SELECT rows FROM _ws_sealed") == [(2,)], "it is sealed")
        gateway.stop()
        with contextlib.closing(sqlite3.connect(gateway.data_dir + "/wayside.db")) as db:
            first, last = db.execute("SELECT first_seq, last_seq FROM _ws_sealed").fetchone()
            ids = dict(db.execute("SELECT name, value FROM _ws_meta"))
            db.executescript("ALTER TABLE _ws_sealed DROP COLUMN idempotency_key;"
                             "ALTER TABLE _ws_sources DROP COLUMN unused_from_seq;"
                             "ALTER TABLE _ws_sources DROP COLUMN retained_mark;"
                             "DROP TABLE _ws_resend; PRAGMA user_version=3;")
        gateway.start()
        self.receiver.start()
        self.arrived(2)
        self.assertEqual([b["key"] for b in self.receiver.batches()],
                         [f'"{ids["gateway_id"]}.{ids["log_uuid"]}.cloud.{first}-{last}-2"'])

    def test_a_topic_of_a_sealed_batch_is_deleted(self):
        gateway = self.gateway()
        self.receiver.kill()
        gateway.edit('topics = ["raw"]', 'topics = ["raw", "truck_gps"]')
        gateway.cli("reload", check=0)
        with Wire(gateway.port) as wire:
            wire.connect("device")
            for i, topic in enumerate(("fleet/1/gps", "raw/x", "fleet/2/gps")):
                wire.send(publish_packet(topic, f'{{"n":{i}}}', 1, i + 1))
                wire.read()
        wait_for(lambda: gateway.sql("SELECT rows FROM _ws_sealed") == [(3,)], "it is sealed")
        gateway.edit('topics = ["raw", "truck_gps"]', 'topics = ["raw"]')
        gateway.edit('[[topic]]\nname = "truck_gps"\npartitions = 12\n[[route]]\n'
                     'mqtt = "fleet/{truck}/gps"\ntopic = "truck_gps"\nkey = "{truck}"\n'
                     'time = "/ts"\n', "")
        gateway.cli("reload", check=0)
        gateway.cli("topics", "delete", "truck_gps", "--yes", check=0)
        gateway.kill()
        gateway.start()
        self.receiver.start()
        self.assertEqual([r["value"] for r in self.arrived(1)], ['{"n":1}'])
        wait_for(lambda: gateway.sql("SELECT * FROM _ws_sealed") == [], "it is settled")
        gateway.cli("verify", check=0)


if __name__ == "__main__":
    main()
