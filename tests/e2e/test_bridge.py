"""The bridge against a real HTTP upstream that is away, answers 500, hangs, closes in mid-reply,
finds a batch too large or a record wrong, and is killed; and the gateway is killed, too."""

import contextlib
import json
import os
import re
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

    def settled(self, gateway, n):
        """n records arrived, and the gateway has had the answer to the last of them."""
        records = self.arrived(n)
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "all is settled")
        return records

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
        self.settled(gateway, 2)

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

    def quarantined(self, gateway):
        return [json.loads(line) for line in
                gateway.cli("quarantine", "list", "--json", check=0).stdout.splitlines()]

    def test_many_refused_readings_of_one_device_hold_up_nobody(self):
        self.receiver.mode("poison:bad")
        gateway = self.gateway()
        for n in (30, 500):
            with self.subTest(n=n):
                before = len(self.receiver.records())
                held = len(gateway.values("quarantine"))
                publish(gateway, [f"bad {n} {i}" for i in range(n)], "broken")
                publish(gateway, [f"good {n} {i}" for i in range(100)], "sound")
                records = self.arrived(before + 100)[before:]
                self.assertEqual(sorted(r["value"] for r in records),
                                 sorted(f"good {n} {i}" for i in range(100)))
                wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "all is settled")
                self.assertEqual(gateway.values("quarantine")[held:],
                                 [f"bad {n} {i}" for i in range(n)])
        for record in self.quarantined(gateway):
            self.assertEqual(record["headers"]["mqtt.client_id"], "broken")
            self.assertEqual(record["headers"]["mqtt.topic"], "raw/broken")
            self.assertEqual(record["headers"]["bridge"], "cloud")
        gateway.cli("ledger", check=0)

    def test_when_everything_is_refused_nothing_is_set_aside_over_restarts(self):
        self.receiver.mode("400")
        gateway = self.gateway()
        for device in ("a", "b", "c"):
            publish(gateway, [f"{device}{i}" for i in range(20)], device)
        for _ in range(3):
            n = len(self.receiver.requests())
            wait_for(lambda: len(self.receiver.requests()) > n + 25, "it is tried again")
            gateway.kill()
            gateway.start()
        wait_for(lambda: "refuses us" in gateway.cli("bridge", "status").stdout, "it is told")
        self.assertEqual(gateway.values("quarantine"), [])
        self.receiver.mode("ok")
        records = self.arrived(60)
        self.assertEqual(sorted(r["value"] for r in records),
                         sorted(f"{d}{i}" for d in "abc" for i in range(20)))
        self.assertEqual(gateway.values("quarantine"), [])

    def test_order_holds_for_each_key_while_others_are_tried(self):
        self.receiver.mode("poison:bad")
        gateway = self.gateway("batch_records = 5")
        rng = seeded("bridge order")
        sent = {}
        with Wire(gateway.port) as wire:
            wire.connect("gate")
            for i in range(300):
                truck = f"truck{rng.randrange(8)}"
                bad = truck in ("truck0", "truck1") and rng.random() < 0.7
                value = f'{{"n":{i},"s":"{"bad" if bad else "good"}"}}'
                wire.send(publish_packet(f"fleet/{truck}/gps", value, 1, i + 1))
                wire.read()
                if not bad:
                    sent.setdefault(truck, []).append(value)
        gateway.edit('topics = ["raw"]', 'topics = ["raw", "truck_gps"]')
        gateway.cli("reload", check=0)
        records = self.arrived(sum(len(v) for v in sent.values()))
        got = {}
        for r in records:
            got.setdefault(r["key"], []).append(r["value"])
        self.assertEqual(got, sent)

    def test_a_refused_reading_waits_until_another_comes(self):
        self.receiver.mode("poison:bad")
        gateway = self.gateway()
        publish(gateway, ["good 0"])
        self.arrived(1)
        publish(gateway, ["bad one"])
        wait_for(lambda: "no other reading" in gateway.cli("bridge", "status").stdout, "it is told")
        self.assertEqual(gateway.values("quarantine"), [])
        publish(gateway, ["good 1"], "other")
        self.arrived(2)
        wait_for(lambda: gateway.values("quarantine") == ["bad one"], "it is set aside")
        # Alone on its site, with one key, a device's next reading tells.
        publish(gateway, ["bad two"])
        publish(gateway, ["good 2"])
        wait_for(lambda: gateway.values("quarantine") == ["bad one", "bad two"], "it is set aside")
        self.assertEqual([r["value"] for r in self.arrived(3)], ["good 0", "good 1", "good 2"])

    def test_a_probe_is_not_delivered_twice_over_kills(self):
        rng = seeded("bridge probes")
        gateway = self.gateway()
        for i in range(8):
            self.receiver.mode("poison:bad" if i % 2 else "400")
            publish(gateway, [f"bad {i} {k}" for k in range(10)], "broken")
            publish(gateway, [f"good {i} {k}" for k in range(10)], f"sound{i}")
            time.sleep(rng.random() * 0.3)  # the random moment is the point
            gateway.kill()
            gateway.start()
        self.receiver.mode("poison:bad")
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "all is settled")
        got = [(r["partition"], r["offset"]) for r in self.receiver.records()]
        self.assertEqual(len(got), len(set(got)), "a record came twice")
        # A good one may be refused just before the mode changes, and another taken just after: then
        # it is set aside, too.
        aside = gateway.values("quarantine")
        self.assertEqual(sum(v.startswith("bad") for v in aside), 80)
        self.assertEqual(sorted(self.receiver.values() + aside),
                         sorted(f"{kind} {i} {k}" for kind in ("bad", "good") for i in range(8)
                                for k in range(10)))

    def test_an_answer_that_one_device_causes_holds_up_nobody(self):
        gateway = self.gateway('batch_records = 10')
        for status in ("403", "404", "500"):
            with self.subTest(status=status):
                before = len(self.receiver.records())
                self.receiver.mode(f"poison:{status}:bad")
                publish(gateway, [f"bad {status} {i}" for i in range(3)], "broken")
                publish(gateway, [f"good {status} {i}" for i in range(20)], "sound")
                self.settled(gateway, before + 20)
        self.assertEqual(len(gateway.values("quarantine")), 9)

    def test_a_reading_at_which_the_upstream_crashes_holds_up_nobody(self):
        self.receiver.mode("crash:bad")
        gateway = self.gateway()
        publish(gateway, ["bad 0", "bad 1"], "broken")
        publish(gateway, [f"good {i}" for i in range(20)], "sound")
        self.settled(gateway, 20)
        self.assertEqual(gateway.values("quarantine"), ["bad 0", "bad 1"])

    def test_an_upstream_that_takes_one_record_at_a_time(self):
        self.receiver.mode("single")
        gateway = self.gateway()
        publish(gateway, [f"v{i}" for i in range(100)])
        self.assertEqual([r["value"] for r in self.arrived(100)], [f"v{i}" for i in range(100)])
        self.assertEqual(gateway.values("quarantine"), [])
        refused = [r for r in self.receiver.requests() if r["answer"] == 400]
        self.assertLess(len(refused), 30)

    def test_faults_of_the_configuration_lose_nothing(self):
        gateway = self.gateway()
        n = 0
        for mode in ("redirect", "401", "403", "404", "405", "407", "411", "415", "501", "511",
                     "page", "page:text/plain", "page:application/xhtml+xml", "422"):
            with self.subTest(mode=mode):
                self.receiver.mode(mode)
                publish(gateway, [f"{mode} {i}" for i in range(3)])
                wait_for(lambda: "refuses us" in gateway.cli("bridge", "status").stdout, "told")
                self.assertEqual(len(self.receiver.records()), n)
                self.receiver.mode("empty")
                n += 3
                self.settled(gateway, n)
        self.assertEqual(gateway.values("quarantine"), [])

    def test_an_upstream_without_gzip_is_served_without(self):
        for answer in ("400", "415", "422"):
            with self.subTest(answer=answer):
                before = len(self.receiver.records())
                self.receiver.mode(f"nogzip:{answer}")
                gateway = self.gateway()
                publish(gateway, ["v0", "v1"])
                self.settled(gateway, before + 2)
                self.assertIn("without gzip", gateway.cli("bridge", "status").stdout)
                requests = len(self.receiver.requests())
                publish(gateway, ["v2"])
                self.settled(gateway, before + 3)
                self.assertEqual([r["gzip"] for r in self.receiver.requests()[requests:]], [False])
                self.assertEqual(gateway.values("quarantine"), [])
                gateway.stop()

    def test_tries_at_a_port_where_nobody_listens_follow_retry_max(self):
        self.receiver.kill()
        gateway = self.gateway()
        gateway.edit('retry_max = "200ms"', 'retry_max = "1h"')
        gateway.cli("reload", check=0)
        publish(gateway, ["v0"])
        tried = lambda: gateway.status()["gateway"]["bridges"][0]["tries_failed"]
        wait_for(lambda: tried() >= 2, "it is tried")
        began = time.monotonic()
        wait_for(lambda: tried() >= 4, "it is tried")
        # 0.25, 0.5, 1 s at least: pauses double.
        self.assertGreater(time.monotonic() - began, 1)
        self.assertNotIn("done ", gateway.cli("bridge", "status").stdout)
        self.receiver.start()

    def test_what_was_refused_is_sent_again_when_the_upstream_is_mended(self):
        self.receiver.mode("poison:bad")
        gateway = self.gateway()
        publish(gateway, ["bad 0", "bad 1"], "broken")
        publish(gateway, ["good"], "sound")
        wait_for(lambda: gateway.values("quarantine") == ["bad 0", "bad 1"], "they are set aside")
        shown = gateway.cli("quarantine", "show", "0", check=0).stdout
        for text in ("broken", "raw/broken", "cloud", "to send it there again"):
            self.assertIn(text, shown)
        self.assertIn("goes to bridge cloud again",
                      gateway.cli("quarantine", "retry", "0", check=0).stdout)
        wait_for(lambda: gateway.sql("SELECT * FROM _ws_resend") == [], "it was tried")
        self.assertEqual([r["state"] for r in self.quarantined(gateway)], ["waiting"] * 2)
        self.assertEqual(gateway.values("quarantine"), ["bad 0", "bad 1"])
        gateway.stop()
        gateway.cli("quarantine", "retry", "--all", check=0)  # stopped, it is noted here
        self.assertEqual([r["state"] for r in self.quarantined(gateway)],
                         ["waiting, sent again"] * 2)
        self.receiver.mode("ok")
        gateway.start()
        self.arrived(3)
        wait_for(lambda: self.quarantined(gateway) == [], "they are settled")
        self.assertEqual(sorted(self.receiver.values()), ["bad 0", "bad 1", "good"])
        self.assertIn("settled before", gateway.cli("quarantine", "retry", "0").stdout)
        gateway.cli("ledger", check=0)

    def test_skip_shows_what_it_does_where_some_were_sent_ahead(self):
        self.receiver.kill()
        gateway = self.gateway()
        publish(gateway, [f"v{i}" for i in range(10)])
        gateway.stop()
        path = os.path.join(gateway.data_dir, "wayside.db")
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            tp, = db.execute("SELECT tp FROM _ws_chain_1 GROUP BY tp"
                             " HAVING count(*) >= 3").fetchone()
            db.execute("INSERT INTO _ws_meta VALUES('bridge.ahead.cloud', ?)", (f"{tp}:1-3",))
        shown = gateway.cli("bridge", "skip", "cloud", "--to", "end", "--dry-run", check=0).stdout
        self.assertIn("8 records would be stepped over", shown)
        self.assertRegex(shown, r"device +raw/device +8")
        done = gateway.cli("bridge", "skip", "cloud", "--to", "end", "--yes", check=0).stdout
        self.assertIn("8 records are stepped over", done)

    def test_skip_rewind_and_resend_show_first_and_are_accounted_for(self):
        self.receiver.mode("400")
        gateway = self.gateway()
        publish(gateway, [f"v{i}" for i in range(10)])
        wait_for(lambda: "refuses us" in gateway.cli("bridge", "status").stdout, "it is held")
        shown = gateway.cli("bridge", "skip", "cloud", "--records", "4", "--dry-run",
                            check=0).stdout
        self.assertIn("4 records would be stepped over", shown)
        self.assertRegex(shown, r"device +raw/device +4")
        self.assertEqual(gateway.cli("bridge", "skip", "cloud", "--records", "4").returncode, 2)
        self.assertEqual(gateway.status()["bridges"][0]["unsent"], 10)
        gateway.cli("bridge", "skip", "cloud", "--records", "4", "--yes", check=0)
        self.assertEqual(gateway.status()["bridges"][0]["unsent"], 6)
        self.assertEqual(gateway.status()["counters"]["skipped.cloud"], 4)
        gateway.stop()
        gateway.cli("bridge", "skip", "cloud", "--records", "1", "--yes", check=0)
        gateway.start()
        self.receiver.mode("ok")
        self.assertEqual([r["value"] for r in self.settled(gateway, 5)],
                         [f"v{i}" for i in range(5, 10)])
        ledger = json.loads(gateway.cli("ledger", "--json", check=0).stdout)["bridges"][0]
        self.assertEqual((ledger["forwarded"], ledger["skipped"]), (5, 5))
        gateway.cli("bridge", "rewind", "cloud", "--to", "start", "--yes", check=0)
        wait_for(lambda: sorted(set(self.receiver.values())) == [f"v{i}" for i in range(10)],
                 "all is sent again")
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "it is drained")
        ledger = json.loads(gateway.cli("ledger", "--json", check=0).stdout)["bridges"][0]
        self.assertEqual((ledger["forwarded"], ledger["skipped"]), (10, 0))
        before = len(self.receiver.records())
        partition = self.receiver.records()[0]["partition"]
        gateway.cli("bridge", "resend", "cloud", "--topic", "raw", "-p", str(partition), "--from",
                    "0", "--to", "2", "--yes", check=0)
        records = self.arrived(before + 2)[before:]
        self.assertEqual([(r["partition"], r["offset"]) for r in records],
                         [(partition, 0), (partition, 1)])
        wait_for(lambda: gateway.status()["counters"].get("resent.cloud") == 2, "it is counted")
        self.assertEqual(gateway.cli("bridge", "skip", "clud", "--records", "1").returncode, 3)
        self.assertEqual(gateway.cli("bridge", "skip", "cloud").returncode, 2)
        gateway.cli("ledger", check=0)

    def test_a_topic_that_is_taken_out_with_unsent_records_is_told(self):
        self.receiver.kill()
        gateway = self.gateway()
        publish(gateway, ["v0", "v1", "v2"])
        wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 3, "it is unsent")
        gateway.edit('topics = ["raw"]', 'topics = ["truck_gps"]')
        told = "bridge cloud has 3 unsent records of raw"
        self.assertIn(told, gateway.cli("reload", check=0).stdout)
        for verb in (("status",), ("bridge", "status")):
            self.assertRegex(gateway.cli(*verb, check=0).stdout, "ALARM +" + told)
        gateway.stop()
        gateway.start()
        wait_for(lambda: told in gateway.log(), "a start tells it, too")
        gateway.cli("bridge", "skip", "cloud", "--topic", "raw", "--records", "1", "--yes", check=0)
        self.assertIn("has 2 unsent records of raw", gateway.cli("status", check=0).stdout)
        gateway.cli("bridge", "skip", "cloud", "--topic", "raw", "--yes", check=0)
        publish(gateway, ["v3"])
        self.assertNotIn("ALARM", gateway.cli("status", check=0).stdout)
        self.assertEqual(gateway.status()["counters"]["skipped.cloud"], 3)
        # Named again, it goes on from there.
        gateway.edit('topics = ["truck_gps"]', 'topics = ["truck_gps", "raw"]')
        gateway.cli("reload", check=0)
        self.receiver.start()
        self.assertEqual([r["value"] for r in self.arrived(1)], ["v3"])

    def test_what_expires_unsent_is_told_while_the_upstream_is_away(self):
        self.receiver.kill()
        gateway = Gateway(commit='linger = "10ms"', tail=bridge(self.receiver) +
                          "[storage]\nsegment_rows = 100\n",
                          topics='[[topic]]\nname = "raw"\nretention_bytes = 1048576\n'
                          '[[route]]\nmqtt = "raw/#"\ntopic = "raw"\npayload = "raw"\n').start()
        self.addCleanup(gateway.__exit__, None)
        publish(gateway, ["x" * 10_000 for _ in range(1000)])
        gone = wait_for(lambda: gateway.sql("SELECT sum(log_start) FROM _ws_partitions")[0][0],
                        "some expired")
        for verb in (("status",), ("bridge", "status")):
            told = re.search(r"(\d+) records expired before",
                             gateway.cli(*verb, check=0).stdout)
            self.assertGreaterEqual(int(told[1]), gone)

    def test_a_password_in_the_url_is_refused_and_not_repeated(self):
        gateway = self.gateway()
        gateway.edit("http://127.0.0.1", "http://user:s3cret@127.0.0.1")
        done = gateway.cli("check", check=78)
        self.assertIn("token_file", done.stderr)
        self.assertNotIn("s3cret", done.stderr + done.stdout)

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
        self.settled(gateway, n)
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
