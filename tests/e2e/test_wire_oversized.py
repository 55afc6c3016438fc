"""A reading beyond a limit does not jam its device for ever: it is acknowledged and set aside with
its topic, its sizes and its beginning, and everything after it arrives, once.

The random tests print their seed, and take it from $SEED.
"""

import threading

from harness import *
from test_wire_connect import V311, V5, WireCase, both, expiry, two

MAX = 4096
HEAD = 4096


def alias(n):
    return b"\x23" + two(n)


class Limited(WireCase):
    OPTIONS = {"mqtt": f'max_packet = "{MAX}"\ntopic_alias_maximum = 4'}

    def setUp(self):
        super().setUp()
        self.random = seeded(self.id())

    def aside(self):
        """What was set aside of this client, as `wayside read` shows it."""
        self.barrier()
        read = self.gateway.cli("read", "quarantine", "--json", check=0)
        rows = [json.loads(line) for line in read.stdout.splitlines()]
        return [r for r in rows if r["headers"]["mqtt.client_id"] == self.id_]

    def send_in_pieces(self, wire, data, pieces):
        """From a thread of its own: what comes back meanwhile is read by the test."""
        cuts = sorted(self.random.randrange(len(data)) for _ in range(pieces))
        bounds = [0, *cuts, len(data)]

        def send():
            for a, b in zip(bounds, bounds[1:]):
                wire.send(data[a:b])
        thread = threading.Thread(target=send)
        thread.start()
        self.addCleanup(thread.join)

    def check(self, row, topic, payload, topic_bytes=None):
        headers = row["headers"]
        self.assertEqual(headers["reason"], "too_large")
        self.assertEqual(headers["mqtt.topic"], topic)
        self.assertEqual(int(headers["mqtt.topic_bytes"]), topic_bytes or len(topic.encode()))
        self.assertEqual(int(headers["mqtt.payload_bytes"]), len(payload))


class Oversized(Limited):
    @both
    def test_in_any_pieces(self, version):
        """Small and oversized ones of every QoS, mixed: acknowledged in order, each once."""
        for _ in range(12):
            self.fresh()
            wire = self.open(version)
            data, acks, small, large = b"", [], [], []
            for n in range(1, 13):
                qos = self.random.randrange(3)
                big = self.random.randrange(2)
                text = f"{n}" + ("x" * self.random.randrange(MAX, 4 * MAX) if big else "")
                (large if big else small).append(text)
                properties = b"\x26" + utf8("k") + utf8("v") if version == V5 and n % 2 else b""
                data += self.publish(text, qos, n, version, properties=properties)
                acks += [] if qos == 0 else [(PUBREC if qos == 2 else PUBACK, 0, two(n))]
                if qos == 2:
                    data += pubrel_packet(n)
                    acks.append((PUBCOMP, 0, two(n)))
            self.send_in_pieces(wire, data, self.random.choice((3, 30, 300)))
            self.assertEqual([wire.read() for _ in acks], acks)
            rows = self.aside()
            self.check_stored(*small)
            self.assertEqual(len(rows), len(large))
            for row, text in zip(rows, large):
                self.check(row, "raw/x", self.tag + text)
                self.assertEqual(row["value"], (self.tag + text)[:HEAD])

    @both
    def test_one_byte_at_a_time(self, version):
        """Every state of the parser meets the end of what has come."""
        wire = self.open(version)
        data = self.publish("x" * MAX, 2, 7, version) + self.publish("small", 1, 8, version)
        for i in range(len(data)):
            wire.send(data[i:i + 1])
        self.assertEqual(wire.read(), (PUBREC, 0, two(7)))
        self.assertEqual(wire.read(), (PUBACK, 0, two(8)))
        self.assertEqual(len(self.aside()), 1)
        self.check_stored("small")

    @both
    def test_first_at_every_connect(self, version):
        """A device that sends what is not acknowledged first, at each connection: it gets on."""
        queue = ["y" * 3 * MAX, "a", "b"]
        for _ in range(5):
            wire = self.open(version)
            with contextlib.suppress(Closed):
                for i, text in enumerate(list(queue)):
                    wire.send(self.publish(text, 1, i + 1, version))
                    self.assertEqual(wire.read(), (PUBACK, 0, two(i + 1)))
                    queue.remove(text)
            wire.close()
        self.assertEqual(queue, [])
        self.check_stored("a", "b")
        self.assertEqual(len(self.aside()), 1)

    @both
    def test_qos2_once(self, version):
        """Sent again, over a new connection too; after PUBREL a new one under its identifier."""
        session = {"clean": False, "properties": expiry(60)}
        big = self.publish("z" * 2 * MAX, 2, 5, version)
        wire = self.open(version, **session)
        for _ in range(2):
            self.assertEqual(wire.send(big).read(), (PUBREC, 0, two(5)))
        wire.close()
        wire = self.open(version, **session)
        self.assertEqual(wire.send(big).read(), (PUBREC, 0, two(5)))
        self.assertEqual(wire.send(pubrel_packet(5)).read(), (PUBCOMP, 0, two(5)))
        self.assertEqual(len(self.aside()), 1)
        self.assertEqual(wire.send(big).read(), (PUBREC, 0, two(5)))
        self.assertEqual(len(self.aside()), 2)

    @both
    def test_long_topics(self, version):
        """A topic above 1,024 bytes, within the largest packet or beyond it; its payload is whole
        in the first case. Characters are not cut in two."""
        small, large = b"payload", b"p" * 70000
        wire = self.open(version)
        topics = ["t" * 1025, "\u20ac" * 700, "raw/" + "u" * 3000, "l/" * 600, "v" * 65535,
                  "x" + "\U0001f600" * 9000]
        for n, topic in enumerate(topics):
            for payload in (small, large):
                wire.send(publish_packet(topic, payload, 1, n + 1, version))
                self.assertEqual(wire.read(), (PUBACK, 0, two(n + 1)))
        rows = self.aside()
        self.assertEqual(len(rows), 2 * len(topics))
        for row, (topic, payload) in zip(rows, [(t, p) for t in topics for p in (small, large)]):
            begins = topic.encode()[:1024].decode(errors="ignore")
            self.check(row, begins, payload, len(topic.encode()))
            self.assertEqual(row["value"], payload[:HEAD].decode())

    def test_alias_to_a_long_topic(self):
        """The alias is known, and what is sent under it is set aside, too."""
        wire = self.open(V5)
        for n, topic in enumerate(("t" * 2000, "", "u" * 9000, "")):
            wire.send(publish_packet(topic, "a", 1, n + 1, V5, properties=alias(1 + n // 2)))
            self.assertEqual(wire.read(), (PUBACK, 0, two(n + 1)))
        wire.send(publish_packet("", "b" * 9000, 1, 9, V5, properties=alias(2))).read()
        sizes = [int(r["headers"]["mqtt.topic_bytes"]) for r in self.aside()]
        self.assertEqual(sizes, [2000, 2000, 9000, 9000, 9000])

    @both
    def test_malformed(self, version):
        """What cannot be taken apart ends the connection, whatever its size."""
        none = b"\0" if version == V5 else b""
        rest = b"x" * 2 * MAX
        for flags, body, reason in (
                (6, utf8("raw/x") + two(1) + none + rest, 0x81),
                (8, utf8("raw/x") + none + rest, 0x81),
                (2, utf8("raw/x") + two(0) + none + rest, 0x82),
                (2, utf8("raw/+") + two(1) + none + rest, 0x81),
                (2, utf8("") + two(1) + none + rest, 0x82),
                (2, utf8(b"raw/\xff") + two(1) + none + rest, 0x81),
                (0, b"\xff\xff" + rest, 0x81)) + (() if version == V311 else (
                    (2, utf8("raw/x") + two(1) + b"\xff\xff\xff\xff" + rest, 0x81),
                    (2, utf8("raw/x") + two(1) + b"\xff\xff\x7f" + rest, 0x81),
                    (2, utf8("raw/x") + two(1) + b"\2\1\2" + rest, 0x82),
                    (2, utf8("") + two(1) + b"\3" + alias(3) + rest, 0x82),
                    (2, utf8("raw/x") + two(1) + b"\3" + alias(5) + rest, 0x94))):
            with self.subTest(flags=flags, body=body[:12]):
                wire = self.open(version).send(packet(PUBLISH, flags, body))
                self.check_ended(wire, version, reason)
        self.assertEqual(self.aside(), [])

    def test_receive_maximum_counts_them(self):
        """[MQTT-3.3.4-7]: an oversized one is one of the unacknowledged."""
        with Gateway(commit='linger = "2ms"',
                     mqtt=f'receive_maximum = 2\nmax_packet = "{MAX}"') as gateway:
            with Wire(gateway.port) as wire:
                wire.connect("c", V5)
                for n in (1, 2):
                    wire.send(publish_packet("raw/x", "x" * 9000, 2, n, V5))
                    self.assertEqual(wire.read()[0], PUBREC)
                wire.send(publish_packet("raw/x", "x" * 9000, 2, 3, V5))
                self.assertEqual([(k, b[0]) for k, _, b in wire.expect_close()],
                                 [(DISCONNECT, 0x93)])

    @both
    def test_seen(self, version):
        """The technician sees which device it is, what it sent, and that it was counted."""
        wire = self.open(version)
        wire.send(self.publish("x" * 9000, 1, 1, version)).read()
        self.barrier()
        devices = json.loads(self.gateway.cli("devices", "--json", check=0).stdout)
        mine = [d for d in devices if d["client_id"] == self.id_]
        self.assertIn("too_large", mine[0]["trouble"])
        self.assertIn("it is set aside in 'quarantine'", self.gateway.log())
        counted = self.gateway.sql("SELECT value FROM _ws_counters"
                                   " WHERE name='quarantined.too_large'")
        stored = self.gateway.sql("SELECT count(*) FROM quarantine WHERE key LIKE 'client%'")
        self.assertEqual(counted, stored)
        offset = str(self.aside()[0]["offset"])
        done = self.gateway.cli("quarantine", "retry", offset)
        self.assertIn("kept", done.stdout + done.stderr)
        self.assertEqual(len(self.aside()), 1)

    @both
    def test_will(self, version):
        """A will with a long topic does not keep its device out."""
        will = ("w" * 3000, self.tag + "gone", 1, False, b"")
        self.open(version, will=will).close()
        wait_for(self.aside, "the will is set aside")
        self.check(self.aside()[0], "w" * 1024, self.tag + "gone", 3000)

    def test_memory(self):
        """One of 200 MB, and one that drips, are skipped as they come."""
        def rss():
            with open(f"/proc/{self.gateway.process.pid}/status", encoding="ascii") as f:
                return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) // 1024
        before = rss()
        drips = [self.open(V311, f"drip{i}", keep_alive=0) for i in range(20)]
        header = bytes([PUBLISH << 4 | 2]) + b"\xff\xff\xff\x7f" + utf8("raw/x") + two(1)
        for wire in drips:
            wire.send(header + b"d" * 100_000)
        wire = self.open(V5)
        size = 200_000_000
        body = utf8("raw/x") + two(1) + b"\0"
        wire.send(bytes([PUBLISH << 4 | 2]) + varint(len(body) + size) + body)
        block = b"m" * 1_000_000
        for _ in range(size // len(block)):
            wire.send(block)
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        self.assertEqual(self.aside()[0]["headers"]["mqtt.payload_bytes"], str(size))
        self.assertLess(rss() - before, 8 * int(os.environ.get("MEMORY_FACTOR", "1")))

    @both
    def test_slower_than_a_keep_alive(self, version):
        """A large reading on a slow link: its bytes are a sign of life."""
        wire = self.open(version, keep_alive=1)
        data = self.publish("s" * 2500, 1, 1, version)
        began = time.monotonic()
        for at in range(0, len(data), 600):
            wire.send(data[at:at + 600])
            end = time.monotonic() + 0.5
            wait_for(lambda: time.monotonic() > end, "half a second")
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        self.assertGreater(time.monotonic() - began, 1.6)


class Large(Limited):
    """mqtt.max_packet as large as it may be: all memory of connections is 16 MiB."""

    OPTIONS = {"mqtt": 'max_packet = "16MiB"'}

    @both
    def test_none_is_refused_for_ever(self, version):
        wire = self.open(version)
        for i, megabytes in enumerate((3, 7, 9, 12, 15)):
            with self.subTest(megabytes=megabytes):
                value = self.tag + "x" * (megabytes * 1_000_000 - len(self.tag))
                wire.send(publish_packet("raw/x", value, 1, i + 1, version))
                self.assertEqual(wire.read(), (PUBACK, 0, two(i + 1)))
        self.assertEqual([len(v) + len(self.tag) for v in self.stored()], [3_000_000, 7_000_000])
        self.assertEqual([int(r["headers"]["mqtt.payload_bytes"]) for r in self.aside()],
                         [9_000_000, 12_000_000, 15_000_000])


class Disconnects(Limited):
    OPTIONS = {"mqtt": f'max_packet = "{MAX}"\noversized = "disconnect"'}

    @both
    def test_key(self, version):
        """mqtt.oversized = "disconnect": neither acknowledged nor kept. CONNECT is refused, too."""
        for topic, size, reason in (("raw/x", 2 * MAX, 0x95), ("t" * 1025, 1, 0x90)):
            wire = self.open(version).send(publish_packet(topic, "x" * size, 1, 1, version))
            self.check_ended(wire, version, reason)
        self.check_refused(connect_packet(self.id_, version, will=("w" * 1025, "w", 0, 0, b"")),
                           version, 0x90)
        self.assertEqual(self.aside(), [])


class Kills(unittest.TestCase):
    def test_qos2_over_kills(self):
        """kill -9 while oversized and small readings of QoS 2 are under way, sent again by their
        client until PUBCOMP: each is stored or set aside once."""
        rng = seeded(self.id())
        with Gateway(commit='linger = "3ms"', mqtt=f'max_packet = "{MAX}"') as gateway:
            texts = [f"{n:03}" + ("x" * 3 * MAX if n % 3 == 0 else "") for n in range(60)]
            for n, text in enumerate(texts):
                state = "publish"
                while state != "done":
                    if rng.randrange(12) == 0:
                        threading.Timer(rng.random() * 0.02, gateway.process.kill).start()
                        killed = True
                    else:
                        killed = False
                    with contextlib.suppress(Closed, OSError):
                        with Wire(gateway.port) as wire:
                            wire.connect("k", V311, clean=False)
                            if state == "publish":
                                wire.send(publish_packet("raw/k", text, 2, 1 + n, dup=True))
                                self.assertEqual(wire.read(), (PUBREC, 0, two(1 + n)))
                                state = "pubrel"
                            wire.send(pubrel_packet(1 + n))
                            self.assertEqual(wire.read(), (PUBCOMP, 0, two(1 + n)))
                            state = "done"
                    if killed:
                        gateway.process.wait(10)
                        gateway.start()
            self.assertEqual(gateway.values("raw"), [t for t in texts if len(t) == 3])
            heads = [row[0][:3] for row in gateway.sql("SELECT value FROM quarantine ORDER BY seq")]
            self.assertEqual(heads, [t[:3] for t in texts if len(t) > 3])


if __name__ == "__main__":
    main()
