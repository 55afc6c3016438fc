"""Health and metrics over HTTP, and that every path that discards or refuses moves a counter."""

import contextlib
import glob
import json
import os
import re
import socket
import sqlite3
import subprocess
import threading
import unittest
import urllib.error
import urllib.request

from harness import (PUBACK, Closed, Gateway, Wire, connect_packet, main, packet, publish_packet,
                     wait_for)
from upstream import Receiver

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def get(gateway, path):
    """(status, text) of a GET."""
    port = int(re.findall(r"http port (\d+);", gateway.log())[-1])
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def metrics(gateway):
    """name{labels} -> value."""
    status, text = get(gateway, "/metrics")
    assert status == 200, text
    return {m[0]: float(m[1]) for m in re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.M)}


class Http(unittest.TestCase):
    def test_health_and_readiness(self):
        with Gateway(commit='linger = "2ms"') as gateway:
            self.assertEqual(get(gateway, "/healthz"), (200, "ok\n"))
            self.assertEqual(get(gateway, "/readyz"), (200, "ready\n"))
            self.assertEqual(get(gateway, "/nothing")[0], 404)
            # The log has lost its file: it is alive, and not ready, and says why.
            path = gateway.data_dir + "/wayside.db"
            os.rename(path, path + ".away")
            with Wire(gateway.port) as wire:
                wire.send(connect_packet("device", 5, clean=False,
                                         properties=b"\x11\xff\xff\xff\xff"))
                wire.expect_close()
            status, text = get(gateway, "/readyz")
            self.assertEqual(status, 503)
            self.assertIn("was removed or replaced", text)
            self.assertEqual(get(gateway, "/healthz")[0], 200)
            os.rename(path + ".away", path)
            with Wire(gateway.port) as wire:
                wire.connect("device", 5)
                wire.send(publish_packet("raw/x", "y", 1, 1, 5))
                self.assertEqual(wire.read()[0], PUBACK)
            self.assertEqual(get(gateway, "/readyz"), (200, "ready\n"))

    def test_a_foreign_lock_and_no_place_are_not_ready(self):
        """Also when nothing comes that could be committed; and it is ready again by itself."""
        with Gateway(mqtt="max_connections = 2") as gateway:
            def not_ready():
                status, text = get(gateway, "/readyz")
                return text if status == 503 else ""
            lock = sqlite3.connect(os.path.join(gateway.data_dir, "wayside.db"),
                                   isolation_level=None, timeout=30)
            for reading in (False, True):
                lock.execute("BEGIN IMMEDIATE")
                wire = Wire(gateway.port)
                if reading:
                    wire.send(connect_packet("device", 5))
                text = wait_for(not_ready, "it is not ready")
                self.assertRegex(text, "no commit could be made for \\d+ s: .*lock")
                self.assertEqual(get(gateway, "/healthz")[0], 200)
                lock.execute("ROLLBACK")
                wait_for(lambda: not not_ready(), "it is ready again")
                wire.close()
            lock.close()
            with Wire(gateway.port) as one, Wire(gateway.port) as two:
                one.connect("one", 5)
                two.connect("two", 5)
                self.assertIn("mqtt.max_connections = 2 is reached",
                              wait_for(not_ready, "no place is left"))
            wait_for(lambda: not not_ready(), "there are places again")

    def test_a_log_that_works_again_is_ready_without_a_reading(self):
        with Gateway() as gateway:
            path = gateway.data_dir + "/wayside.db"
            os.rename(path, path + ".away")
            with Wire(gateway.port) as wire:
                wire.send(connect_packet("device", 5))
                wire.expect_close()
            self.assertIn("was removed or replaced", get(gateway, "/readyz")[1])
            os.rename(path + ".away", path)
            wait_for(lambda: get(gateway, "/readyz")[0] == 200, "it has tried by itself")

    def test_connections_that_drip_do_not_stop_health(self):
        """100 requests that never end, a byte now and then, and begin anew when they are closed."""
        with Gateway() as gateway:
            port = int(re.findall(r"http port (\d+);", gateway.log())[-1])
            end = threading.Event()

            def drip():
                while not end.is_set():
                    try:
                        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                            s.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
                            while not end.wait(0.5):
                                s.sendall(b"x")
                    except OSError:
                        end.wait(0.1)
            threads = [threading.Thread(target=drip, daemon=True) for _ in range(100)]
            for t in threads:
                t.start()
            try:
                answered = 0

                def many_in_a_row():
                    nonlocal answered
                    try:
                        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz",
                                                    timeout=2) as a:
                            answered = answered + 1 if a.status == 200 else 0
                    except OSError:
                        answered = 0
                    return answered >= 20
                wait_for(many_in_a_row, "20 answers, each within 2 s, one after another")
            finally:
                end.set()
                for t in threads:
                    t.join()
            self.assertEqual(get(gateway, "/healthz")[0], 200)

    def test_metrics_are_prometheus_text(self):
        with Receiver() as receiver:
            tail = (f'[[bridge]]\nname = "cloud"\ntopics = ["raw"]\nto = "{receiver.url}"\n'
                    'linger = "5ms"\n')
            with Gateway(commit='linger = "2ms"', tail=tail) as gateway:
                with Wire(gateway.port) as wire:
                    wire.connect("device", 5)
                    for i in range(10):
                        wire.send(publish_packet("raw/x", f"{i}", 1, i + 1, 5))
                        wire.read()
                    gateway.cli("read", "raw", "--group", "g", "-n", "4", check=0)
                    wait_for(lambda: len(receiver.values()) == 10, "it is forwarded")
                    unsent = 'wayside_bridge_unsent_records{bridge="cloud"}'
                    wait_for(lambda: metrics(gateway)[unsent] == 0, "nothing is unsent")
                    wait_for(lambda: metrics(gateway)["wayside_connections"] == 1, "one connection")
                    m = metrics(gateway)
                self.assertEqual(m['wayside_records_stored_total{topic="raw"}'], 10)
                self.assertEqual(m['wayside_bridge_sent_records_total{bridge="cloud"}'], 10)
                self.assertEqual(sum(v for k, v in m.items()
                                     if k.startswith("wayside_group_lag_records")), 6)
                self.assertGreater(m['wayside_commit_seconds_bucket{le="+Inf"}'], 0)
                self.assertEqual(m['wayside_commit_seconds_bucket{le="+Inf"}'],
                                 m["wayside_commit_seconds_count"])
                for name in ("wayside_clock_trusted", "wayside_wal_bytes",
                             "wayside_disk_free_bytes",
                             "wayside_seconds_to_full", "wayside_device_written_bytes_total",
                             'wayside_bridge_oldest_unsent_seconds{bridge="cloud"}'):
                    self.assertIn(name, m)
                # Each family has its HELP and TYPE, once, and is listed in the documentation.
                text = get(gateway, "/metrics")[1]
                families = re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", text, re.M)
                self.assertEqual(len(families), len(set(families)))
                with open(os.path.join(ROOT, "docs/OPERATIONS.md"), encoding="utf-8") as f:
                    page = f.read()
                for family in families:
                    self.assertIn(f"# HELP {family} ", text)
                    self.assertIn(f"`{family}`", page)
                names = {re.sub(r"_(bucket|sum|count)$", "", k.split("{")[0]) for k in m}
                self.assertEqual({n for n in names if n not in families}, set())

    def test_only_get_and_a_taken_port_is_no_reason_not_to_run(self):
        with Gateway() as gateway:
            port = int(re.findall(r"http port (\d+);", gateway.log())[-1])
            for method in ("POST", "DELETE"):
                request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", method=method,
                                                 data=b"x" * 100_000)
                with self.assertRaises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(request, timeout=20)
                self.assertEqual(caught.exception.code, 405)
                self.assertEqual(caught.exception.headers["Allow"], "GET, HEAD")
                caught.exception.close()
            other = Gateway()
            other.edit('[http]\nlisten = "127.0.0.1:0"', f'[http]\nlisten = "127.0.0.1:{port}"')
            with other:
                self.assertIn("runs without health and metrics", other.log())
                self.assertTrue(other.status()["running"])
            with Gateway() as none:
                none.stop()
                none.edit('[http]\nlisten = "127.0.0.1:0"', '[http]\nlisten = ""')
                none.start()
                self.assertIn("http port 0", none.log())


class Discards(unittest.TestCase):
    """Makes the gateway discard and refuse in every way that its source knows."""

    def known(self):
        names = set()
        for folder in ("gateway", "bridge", "storage"):
            for path in glob.glob(os.path.join(ROOT, folder, "**/*.cc"), recursive=True):
                with open(path, encoding="utf-8") as f:
                    source = f.read()
                names |= set(re.findall(r'"((?:refused|quarantined|quarantine|deleted|subscribe'
                                        r'|retained)'
                                        r'\.[a-z_]+|dropped\.headers)"', source))
                if path.endswith("ingest.cc"):
                    names |= {f"quarantined.{n}" for n in
                              re.findall(r'(?:[Ff]ailure\{|\? )"([a-z0-9_]+)"|: "(not_json)"',
                                         source) for n in n if n}
        names -= {"quarantine.settle"}  # a request
        return names | {"expired_unsent.cloud"}

    def test_every_one_has_its_counter(self):
        with Receiver() as receiver:
            topics = ('[[topic]]\nname = "raw"\nretention_bytes = 1048576\n'
                      '[[route]]\nmqtt = "raw/#"\ntopic = "raw"\npayload = "raw"\n'
                      '[[topic]]\nname = "keyed"\n[[route]]\nmqtt = "keyed"\ntopic = "keyed"\n'
                      'key = "/k"\n[[route]]\nmqtt = "split"\ntopic = "keyed"\nsplit = "/r"\n'
                      '[[route]]\nmqtt = "cbor"\ntopic = "keyed"\npayload = "cbor"\n')
            tail = (f'[[bridge]]\nname = "cloud"\ntopics = ["raw"]\nto = "{receiver.url}"\n'
                    'linger = "5ms"\nretry_max = "100ms"\n[storage]\nsegment_rows = 100\n')
            with Gateway(commit='linger = "2ms"', topics=topics, tail=tail,
                         mqtt='max_connections = 5\nmax_packet = "64KiB"') as gateway:
                self.walk(gateway, receiver)
                counted = dict(gateway.sql("SELECT name, value FROM _ws_counters"))
                elsewhere = {
                    "subscribe.session_lost": "test_subscribe.py",
                    "retained.known": "test_subscribe.py",
                    "quarantined.refused_by_program": "test_programs.py",
                    **{f"refused.{why}": "test_attacks.py" for why in
                       ("accept", "address", "held_up", "idle", "memory", "silent")},
                }
                for name, file in elsewhere.items():
                    with open(os.path.join(ROOT, "tests/e2e", file), encoding="utf-8") as f:
                        self.assertIn(name, f.read())
                missing = self.known() - set(counted) - set(elsewhere)
                self.assertEqual(missing, set(), f"not counted; counted are {counted}")
                self.assertEqual(set(counted) - self.known(), set(), "unknown to this test")
                reasons = {re.search(r'reason="(.*?)"', k).group(1): v for k, v in
                           metrics(gateway).items() if k.startswith("wayside_discards_total")}
                self.assertEqual(set(reasons), set(counted))

    def walk(self, gateway, receiver):
        lazy = self.stalled(gateway)
        silent = Wire(gateway.port)  # never sends its CONNECT
        self.addCleanup(silent.close)
        with Wire(gateway.port) as wire:
            wire.connect("device", 5)
            key = json.dumps({"k": "x" * 5000})
            for i, (topic, payload) in enumerate((
                    ("nowhere", "x"), ("keyed", "x"), ("keyed", "{}"), ("keyed", key),
                    ("split", "{}"), ("cbor", "\x81"))):
                wire.send(publish_packet(topic, payload, 1, i + 1, 5))
                self.assertEqual(wire.read()[0], PUBACK)
            not_text = b"\x01\x01"  # Payload Format Indicator 1
            many = b"\x26\0\1k\0\1v" * 70
            for payload, properties in (("x" * 70_000, b""), (b"\xff", not_text), ("m", many)):
                wire.send(publish_packet("raw/x", payload, 1, 1, 5, properties=properties))
                self.assertEqual(wire.read()[0], PUBACK)
            wire.send(packet(8, 2, b"\0\1\0\0\1#\0"))  # SUBSCRIBE
            self.assertEqual(wire.read()[0], 9)
            wire.send(packet(15, 0, b""))  # AUTH, which nobody asked for
            wire.expect_close()
        with Wire(gateway.port) as wire:
            wire.send(b"\x10\xff\xff\x7f")  # a CONNECT of 2 MB
            wire.expect_close()
        with Wire(gateway.port) as wire:
            wire.send(b"SSH-2.0-x\r\n").expect_close()
        with Wire(gateway.port) as wire:
            wire.send(connect_packet("c" * 2000, 5))
            wire.expect_close()
        with Wire(gateway.port) as wire:
            wire.send(connect_packet("scram", 5, properties=b"\x15\0\1x")).expect_close()
        # A record the upstream refuses even alone.
        receiver.mode("poison:bad")
        wait_for(lambda: "lazy" in gateway.values("raw"), "the lazy one is there")
        with contextlib.ExitStack() as inside:
            for name in ("four", "three", "two", "one"):
                one = wire = inside.enter_context(Wire(gateway.port))
                wire.connect(name, 5)
                # Who had sent nothing would make place for the next.
                wire.send(publish_packet("raw/x", name, 1, 1, 5))
                self.assertEqual(wire.read()[0], PUBACK)
            with Wire(gateway.port) as six:  # with the lazy one, five are there
                six.send(connect_packet("six", 5))
                six.expect_close()
            one.send(publish_packet("raw/x", "bad", 1, 2, 5))
            self.assertEqual(one.read()[0], PUBACK)
            # Others are taken, or the upstream would be to blame.
            one.send(publish_packet("raw/x", "good", 1, 3, 5))
            self.assertEqual(one.read()[0], PUBACK)
        wait_for(lambda: gateway.sql("SELECT * FROM _ws_counters WHERE name ="
                                     " 'quarantined.refused_upstream'"), "the poison is set aside")
        # The upstream is away for longer than the retention lasts.
        receiver.kill()
        with Wire(gateway.port) as wire:
            wire.connect("device", 5)
            for i in range(3000):
                wire.send(publish_packet("raw/x", "y" * 1000, 1, i % 60000 + 1, 5))
                if i % 100 == 99:
                    for _ in range(100):
                        wire.read()
        wait_for(lambda: gateway.sql("SELECT max(log_start) FROM _ws_partitions")[0][0] > 1500,
                 "retention has dropped some")
        receiver.start()
        wait_for(lambda: gateway.sql("SELECT * FROM _ws_counters WHERE name ="
                                     " 'expired_unsent.cloud'"), "the loss is counted")
        gateway.cli("quarantine", "drop", "0", "--yes", check=0)
        gateway.edit('[[route]]\nmqtt = "cbor"\ntopic = "keyed"\npayload = "cbor"',
                     '[[route]]\nmqtt = "cbor"\ntopic = "keyed"\npayload = "raw"')
        gateway.cli("reload", check=0)
        gateway.cli("quarantine", "retry", "--all", check=0)
        gateway.cli("topics", "create", "gone", check=0)
        path = gateway.data_dir + "/wayside.db"
        # A commit that fails.
        with Wire(gateway.port) as wire:
            wire.connect("device", 5)
            os.rename(path, path + ".away")
            try:
                wire.send(publish_packet("raw/x", "y", 1, 1, 5))
                wire.expect_close()
            except (Closed, OSError):
                pass
        os.rename(path + ".away", path)
        # A topic with a record, deleted.
        gateway.edit('[[topic]]\nname = "keyed"', '[[route]]\nmqtt = "gone"\ntopic = "gone"\n'
                     'payload = "raw"\n[[topic]]\nname = "gone"\n[[topic]]\nname = "keyed"')
        gateway.cli("reload", check=0)
        gateway.cli("publish", "-p", str(gateway.port), "-t", "gone", "-m", "x", check=0)
        gateway.edit('[[route]]\nmqtt = "gone"\ntopic = "gone"\n'
                     'payload = "raw"\n[[topic]]\nname = "gone"\n', "")
        gateway.cli("reload", check=0)
        gateway.cli("topics", "delete", "gone", "--yes", check=0)
        silent.expect_close()
        lazy.join(120)
        # Counts are stored with readings, else within some seconds.
        wait_for(lambda: len(gateway.sql("SELECT name FROM _ws_counters WHERE name IN ("
                                         "'refused.not_reading', 'refused.no_connect')")) == 2,
                 "counts are stored", 100)

    def stalled(self, gateway):
        """A client that asks much and reads nothing, until it is closed."""
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", gateway.port))
        s.settimeout(100)

        def flood():
            try:
                s.sendall(connect_packet("lazy", 5, keep_alive=0) +
                          publish_packet("raw/lazy", "lazy", 0, version=5))
                while True:
                    s.sendall(b"\xc0\x00" * 50_000)
            except OSError:
                s.close()
        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        return thread


if __name__ == "__main__":
    main()
