"""The technician's verbs on the real program, with the gateway running and stopped, piped and on a
terminal."""

import json
import os
import pty
import sqlite3
import subprocess
import time
import unittest

from harness import PUBACK, WAYSIDE, Gateway, Wire, main, publish_packet, wait_for
from upstream import Receiver


def publish(gateway, *readings, client="device"):
    """(MQTT topic, payload) each, acknowledged."""
    with Wire(gateway.port) as wire:
        wire.connect(client, 5)
        for i, (topic, payload) in enumerate(readings):
            wire.send(publish_packet(topic, payload, 1, i + 1, 5))
            assert wire.read()[0] == PUBACK


def on_terminal(gateway, *args, typed=None):
    """What the verb prints on a terminal of its own (stdin too), and its exit code."""
    verb = list(args)
    at = 2 if verb[0] in ("topics", "groups", "bridge", "quarantine") else 1
    verb[at:at] = ["-c", gateway.config]
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(WAYSIDE, [WAYSIDE, *verb])
    if typed is not None:
        os.write(fd, typed.encode())
    out = b""
    while True:
        try:
            got = os.read(fd, 65536)
        except OSError:
            break
        if not got:
            break
        out += got
    os.close(fd)
    return out.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class UpAndDown(unittest.TestCase):
    """Each test runs with the gateway up, then stopped, on the same log."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway(commit='linger = "2ms"').start()
        cls.addClassCleanup(cls.gateway.__exit__, None)
        now = int(time.time() * 1000)
        for i in range(20):
            publish(cls.gateway, (f"fleet/{i % 4}/gps", json.dumps({"ts": now, "i": i})),
                    client=f"truck-{i % 4}")
        publish(cls.gateway, ("nobody/knows", "what"), ("fleet/1/gps", "not json"), client="odd")

    def both(self, check):
        check(True)
        self.gateway.stop()
        try:
            check(False)
        finally:
            self.gateway.start()

    def lines(self, *args):
        return [json.loads(x) for x in self.gateway.cli(*args, check=0).stdout.splitlines()]

    def test_latest(self):
        def check(_):
            last = {r["key"]: json.loads(r["value"])["i"] for r in self.lines(
                "latest", "truck_gps", "--json")}
            self.assertEqual(last, {"0": 16, "1": 17, "2": 18, "3": 19})
            self.assertEqual(len(self.lines("latest", "truck_gps", "--json", "--since", "1h")), 4)
            text = self.gateway.cli("latest", "truck_gps", check=0).stdout
            self.assertEqual([x.split()[0] for x in text.splitlines()],
                             ["KEY", "0", "1", "2", "3"])
            self.gateway.cli("latest", "truck_gp", check=3)
            self.gateway.cli("latest", "truck_gps", "--since", "soon", check=2)
        self.both(check)

    def test_ledger_reconciles(self):
        def check(_):
            (ledger,) = self.lines("ledger", "--json")
            self.assertTrue(ledger["reconciled"])
            self.assertEqual((ledger["difference"], ledger["stored"] - ledger["rows"]), (0, 0))
            self.assertEqual(ledger["received"], ledger["stored"] + ledger["refused"])
            self.assertIn("it reconciles", self.gateway.cli("ledger", check=0).stdout)
        self.both(check)

    def test_verify(self):
        def check(_):
            (said,) = self.lines("verify", "--json")
            self.assertEqual(said["problems"], 0)
            self.assertGreaterEqual(said["records"], 22)
            self.assertIn("the log is sound", self.gateway.cli("verify", "--quick", check=0).stdout)
        self.both(check)
        out, code = on_terminal(self.gateway, "verify")
        self.assertEqual(code, 0)
        self.assertIn("[####################]", out)

    def test_devices(self):
        def check(running):
            (devices,) = self.lines("devices", "--json")
            by_id = {d["client_id"]: d for d in devices}
            self.assertEqual(by_id["truck-2"]["readings"], 5)
            self.assertEqual(by_id["truck-2"]["topics"], ["fleet/2/gps"])
            self.assertLess(abs(by_id["truck-2"]["clock_difference_ms"]), 60_000)
            self.assertEqual(by_id["truck-2"]["connected"], False if running else None)
            if running and by_id["odd"]["trouble"]:  # a restart forgets it
                self.assertIn("quarantined", by_id["odd"]["trouble"])
            self.assertIn("truck-2", self.gateway.cli("devices", check=0).stdout)
        self.both(check)
        with Wire(self.gateway.port) as wire:
            wire.connect("here", 5)
            wait_for(lambda: [d for d in self.lines("devices", "--json")[0]
                              if d["client_id"] == "here" and d["connected"]], "it is connected")

    def test_quarantine_is_listed_shown_and_exported(self):
        def check(_):
            held = self.lines("quarantine", "list", "--json")
            self.assertEqual([h["headers"]["reason"] for h in held], ["no_route", "not_json"])
            self.assertEqual({h["state"] for h in held}, {"waiting"})
            text = self.gateway.cli("quarantine", "show", "0", check=0).stdout
            for word in ("no_route", "nobody/knows", "odd", "what"):
                self.assertIn(word, text)
            self.assertEqual(self.lines("quarantine", "export"), held)
            self.gateway.cli("quarantine", "show", "99", check=4)
            self.gateway.cli("quarantine", "retry", check=2)
        self.both(check)

    def test_status_says_what_is(self):
        def check(running):
            text = self.gateway.cli("status", check=0).stdout
            self.assertIn("running since" if running else "stopped", text)
            self.assertIn("2 quarantined", text)
            self.assertNotIn("ALARM", text)
        self.both(check)

    def test_completion_knows_the_verbs_and_the_topics(self):
        script = subprocess.run([WAYSIDE, "completion", "bash"], capture_output=True, text=True,
                                check=True).stdout

        def complete(*words):
            line = " ".join(f"'{w}'" for w in words)
            ask = (f"PATH={os.path.dirname(os.path.abspath(WAYSIDE))}:$PATH\n{script}\n"
                   f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _wayside; "
                   'echo "${COMPREPLY[@]}"')
            done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
            self.assertEqual(done.stderr, "")
            return done.stdout.split()
        self.assertEqual(complete("wayside", "qua"), ["quarantine"])
        self.assertIn("describe", complete("wayside", "topics", ""))
        self.assertIn("--execute", complete("wayside", "groups", "reset", "--e"))
        config = self.gateway.config
        self.assertEqual(complete("wayside", "read", "-c", config, "truck"), ["truck_gps"])


class Changes(unittest.TestCase):
    def test_topics_are_created_altered_and_deleted(self):
        for stopped in (False, True):
            with Gateway() as gateway, self.subTest(stopped=stopped):
                if stopped:
                    gateway.stop()
                    gateway.start()
                    gateway.stop()
                done = gateway.cli("topics", "create", "probe", "-p", "3", "--retention", "2d",
                                   check=0)
                self.assertIn("3 partitions, kept 2d", done.stdout)
                gateway.cli("topics", "create", "Probe", check=1)
                gateway.cli("topics", "create", "a/b", check=2)
                gateway.cli("topics", "create", "other", "--retention", "soon", check=2)
                gateway.cli("topics", "alter", "probe", "-p", "4", "--retention", "forever",
                            check=0)
                gateway.cli("topics", "alter", "probe", "-p", "2", check=1)
                gateway.cli("topics", "alter", "probe", check=2)
                done = gateway.cli("topics", "alter", "truck_gps", "-p", "20", check=1)
                self.assertIn("wayside reload", done.stderr)
                shown = json.loads(gateway.cli("topics", "describe", "probe", "--json").stdout)
                self.assertEqual((len(shown["partitions"]), shown["retention_ms"]), (4, -1))
                self.assertIn("--yes", gateway.cli("topics", "delete", "probe", check=2).stderr)
                gateway.cli("topics", "delete", "truck_gps", "--yes", check=1)
                gateway.cli("topics", "delete", "quarantine", "--yes", check=1)
                gateway.cli("topics", "delete", "probe", "--yes", check=0)
                gateway.cli("topics", "delete", "probe", "--yes", check=3)
                gateway.cli("ledger", check=0)
                gateway.cli("verify", check=0)

    def test_a_destructive_verb_asks_on_a_terminal(self):
        with Gateway() as gateway:
            gateway.cli("topics", "create", "probe", check=0)
            out, code = on_terminal(gateway, "topics", "delete", "probe", typed="n\n")
            self.assertEqual(code, 2)
            self.assertIn("[y/N]", out)
            gateway.cli("topics", "describe", "probe", check=0)
            out, code = on_terminal(gateway, "topics", "delete", "probe", typed="y\n")
            self.assertEqual(code, 0, out)

    def test_a_bridge_is_paused_over_a_restart_and_resumed(self):
        with Receiver() as receiver:
            tail = (f'[[bridge]]\nname = "cloud"\ntopics = ["raw"]\nto = "{receiver.url}"\n'
                    'linger = "5ms"\n')
            with Gateway(commit='linger = "2ms"', tail=tail) as gateway:
                publish(gateway, ("raw/x", "one"))
                wait_for(lambda: receiver.values() == ["one"], "it forwards")
                gateway.cli("bridge", "pause", "clod", check=3)
                gateway.cli("bridge", "pause", "cloud", check=0)
                wait_for(lambda: "paused" in gateway.cli("bridge", "status").stdout, "it is paused")
                publish(gateway, ("raw/x", "two"))
                gateway.stop()
                self.assertIn("also paused", gateway.cli("bridge", "status", check=0).stdout)
                gateway.start()
                publish(gateway, ("raw/x", "three"))
                text = gateway.cli("bridge", "status", check=0).stdout
                self.assertIn("2 records, the oldest from", text)
                self.assertEqual(receiver.values(), ["one"])
                gateway.cli("bridge", "resume", "cloud", check=0)
                wait_for(lambda: sorted(receiver.values()) == ["one", "three", "two"], "it goes on")
                wait_for(lambda: "nothing: all that is stored is forwarded" in
                         gateway.cli("bridge", "status", "cloud").stdout, "and says so")
                (ledger,) = [json.loads(gateway.cli("ledger", "--json", check=0).stdout)]
                self.assertEqual(ledger["bridges"][0]["forwarded"], 3)
                gateway.stop()
                gateway.cli("bridge", "pause", "cloud", check=0)  # stopped, it is done here
                gateway.start()
                wait_for(lambda: "paused" in gateway.cli("bridge", "status").stdout, "still paused")

    def test_quarantine_is_retried_and_dropped_once(self):
        with Gateway(commit='linger = "2ms"') as gateway:
            publish(gateway, ("new/1", "a"), ("new/2", "b"), ("fleet/1/gps", "bad"))
            out = gateway.cli("quarantine", "retry", "--all", check=0).stdout
            self.assertIn("0 of 3 stored", out)
            gateway.edit("[[topic]]\nname = \"raw\"", '[[route]]\nmqtt = "new/{n}"\ntopic = "raw"\n'
                         'key = "{n}"\npayload = "raw"\n[[topic]]\nname = "raw"')
            gateway.cli("reload", check=0)
            self.assertIn("1 of 1 stored", gateway.cli("quarantine", "retry", "0", check=0).stdout)
            self.assertIn("settled before", gateway.cli("quarantine", "retry", "0").stdout)
            gateway.stop()
            self.assertIn("1 of 2 stored", gateway.cli("quarantine", "retry", "--all").stdout)
            gateway.start()
            self.assertEqual(sorted(gateway.values("raw")), ["a", "b"])
            self.assertEqual(gateway.sql("SELECT mqtt_topic FROM _ws_sources WHERE client_id="
                                         "'device' ORDER BY 1"),
                             [("fleet/1/gps",), ("new/1",), ("new/2",)])
            gateway.cli("quarantine", "drop", "2", check=2)
            self.assertIn("1 of 1 dropped", gateway.cli("quarantine", "drop", "2", "--yes").stdout)
            self.assertIn("0 waiting, 3 dealt with", gateway.cli("quarantine", "list").stdout)
            (ledger,) = [json.loads(gateway.cli("ledger", "--json", check=0).stdout)]
            self.assertEqual((ledger["stored"], ledger["quarantined"]), (5, 3))

    def test_publish_says_that_the_log_cannot_be_written(self):
        with Gateway() as gateway:
            path = gateway.data_dir + "/wayside.db"
            os.rename(path, path + ".away")
            for version in ((), ("--v311",)):
                done = gateway.cli("publish", "-t", "raw/x", "-m", "y", "-p", str(gateway.port),
                                   *version, check=5)
                self.assertIn("cannot write its log now", done.stderr)
            os.rename(path + ".away", path)
            self.assertRegex(gateway.cli("status", check=0).stdout, "ALARM .* removed or replaced")

    def test_status_names_who_holds_the_wal(self):
        with Gateway(commit='linger = "2ms"') as gateway:
            publish(gateway, ("raw/x", "first"))
            reader = sqlite3.connect(gateway.data_dir + "/wayside.db", isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM raw").fetchall()  # and goes for a coffee
            for _ in range(4):
                publish(gateway, *[("raw/x", "x" * 200_000)] * 30)
            text = gateway.cli("status", check=0).stdout
            self.assertRegex(text, rf"ALARM .* because \S+ \(pid {os.getpid()}\) holds a snapshot")
            self.assertGreater(gateway.status()["wal_bytes"], 17 << 20)
            reader.execute("COMMIT")
            reader.close()
            publish(gateway, *[("raw/x", "x" * 200_000)] * 30)
            wait_for(lambda: "ALARM" not in gateway.cli("status").stdout, "the WAL is small again")

    def test_verify_and_ledger_find_what_is_wrong(self):
        with Gateway(commit='linger = "2ms"') as gateway:
            publish(gateway, *[("raw/x", f"v{i}") for i in range(30)])
            gateway.stop()
            table = gateway.sql("SELECT name FROM sqlite_schema WHERE name LIKE '_ws_seg_%'"
                                " ORDER BY name")[0][0]
            gateway.sql("SELECT 1")
            db = sqlite3.connect(gateway.data_dir + "/wayside.db", isolation_level=None)
            db.execute(f"UPDATE {table} SET value='forged' WHERE seq=(SELECT min(seq) FROM"
                       f" {table})")
            done = gateway.cli("verify", check=1)
            self.assertIn("its CRC is not that of its bytes", done.stdout)
            db.execute(f"DELETE FROM {table} WHERE seq=(SELECT min(seq)+15 FROM {table})")
            done = gateway.cli("verify", check=1)
            self.assertIn("offsets before it are missing", done.stdout)
            done = gateway.cli("ledger", check=1)
            self.assertIn("DOES NOT RECONCILE", done.stdout)
            db.execute("INSERT INTO _ws_consumer_offsets(group_id, tp, committed_offset, commit_ms)"
                       " VALUES('g', 1, 1000000, 0)")
            self.assertIn("beyond the log end", gateway.cli("verify", check=1).stdout)
            db.close()


if __name__ == "__main__":
    main()
