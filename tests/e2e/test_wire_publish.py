"""The wire, part two: PUBLISH and its handshakes, topics, flow control, framing, PING, DISCONNECT
and AUTH, packet by packet against the real binary, and what SQL shows afterwards.

Statements are those of MQTT 5.0's appendix B; v311: those of MQTT 3.1.1 under its own numbers.
"""

import select
import threading

from harness import *  # noqa: F403
from test_wire_connect import (MAX_PACKET, RETAINED, V311, V5, WireCase, both, expiry, four,
                               properties as properties_of, two)

ALIAS, KEEP_ALIVE = 0x23, 0x13


def alias(n):
    return bytes([ALIAS]) + two(n)


# A sanitizer's own memory is not the gateway's.
MEMORY_FACTOR = int(os.environ.get("MEMORY_FACTOR", "1"))


class Publish(WireCase):
    @both
    def test_qos0(self, version):
        """[MQTT-3.3.1-8], [MQTT-3.3.4-1], [MQTT-4.3.1-1]: stored, never acknowledged."""
        wire = self.open(version).send(self.publish("a", version=version)
                                       + self.publish("b", version=version, retain=True)
                                       + packet(PINGREQ, 0, b""))
        self.assertEqual(wire.read(), (PINGRESP, 0, b""))
        self.check_stored("a", "b")
        self.assertEqual([a & RETAINED for a in self.rows("attrs")], [0, RETAINED])
        self.assertEqual(self.rows("mqtt_topic, client_id"), [("raw/x", self.id_)] * 2)

    @both
    def test_qos1(self, version):
        """[MQTT-2.2.1-5], [MQTT-3.4.2-1], [MQTT-4.3.2-4], [MQTT-4.3.2-5], v311 [MQTT-4.3.2-2]:
        acknowledged when SQL shows it; the same identifier then is a new reading."""
        wire = self.open(version)
        for n, dup in enumerate((False, True, False)):
            wire.send(self.publish(f"a{n}", 1, 77, version, dup=dup))
            self.assertEqual(wire.read(), (PUBACK, 0, two(77)))
            self.assertEqual(self.stored(), [f"a{i}" for i in range(n + 1)])

    @both
    def test_qos2(self, version):
        """[MQTT-3.5.2-1], [MQTT-3.7.2-1], [MQTT-4.3.3-8], [MQTT-4.3.3-10], [MQTT-4.3.3-11],
        [MQTT-4.3.3-12], v311 [MQTT-4.3.3-2]: stored once until PUBREL, then anew."""
        wire = self.open(version)
        for n in range(2):
            wire.send(self.publish(f"{n}", 2, 9, version))
            self.assertEqual(wire.read(), (PUBREC, 0, two(9)))
            self.assertEqual(len(self.stored()), n + 1)
            for dup in (True, False, True):
                wire.send(self.publish(f"{n}", 2, 9, version, dup=dup))
                self.assertEqual(wire.read(), (PUBREC, 0, two(9)))
            wire.send(pubrel_packet(9))
            self.assertEqual(wire.read(), (PUBCOMP, 0, two(9)))
            self.check_stored(*map(str, range(n + 1)))

    @both
    def test_qos2_in_one_segment(self, version):
        """[MQTT-4.3.3-10], [MQTT-4.3.3-12]: the same, without waiting for anything."""
        wire = self.open(version).send(
            (self.publish("a", 2, 1, version) * 3 + pubrel_packet(1)) * 2)
        acks = [(PUBREC, 0, two(1))] * 3 + [(PUBCOMP, 0, two(1))]
        self.assertEqual([wire.read() for _ in range(8)], acks * 2)
        self.check_stored("a", "a")

    @both
    def test_pubrel_unknown(self, version):
        """[MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-4.3.3-11]: answered; MQTT 5 is told (0x92)."""
        body = two(4) + (b"\x92" if version == V5 else b"")
        for pubrel in (pubrel_packet(4),) + ((packet(PUBREL, 2, two(4) + b"\0"),
                                              packet(PUBREL, 2, two(4) + b"\x92\0"),
                                              packet(PUBREL, 2, two(4) + b"\0\4\x1f\0\1x"))
                                             if version == V5 else ()):
            self.assertEqual(self.open(version).send(pubrel).read(), (PUBCOMP, 0, body))

    @both
    def test_packet_id_0(self, version):
        """[MQTT-2.2.1-3], v311 [MQTT-2.3.1-1]."""
        for data in (self.publish("x", 1, 0, version), self.publish("x", 2, 0, version),
                     pubrel_packet(0)):
            self.check_ended(self.open(version).send(data), version, 0x82)
        self.check_stored()

    @both
    def test_flags(self, version):
        """[MQTT-3.3.1-2], [MQTT-3.3.1-4], v311 [MQTT-2.2.2-2]: QoS 3; DUP with QoS 0."""
        for data in (self.publish("x", 3, 1, version), self.publish("x", 0, version=version,
                                                                    dup=True)):
            self.check_ended(self.open(version).send(data), version, 0x81)
        self.check_stored()

    @both
    def test_reserved_flags(self, version):
        """[MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1],
        [MQTT-3.15.1-1], v311 [MQTT-2.2.2-1], [MQTT-2.2.2-2]."""
        filters = two(1) + (b"\0" if version == V5 else b"") + utf8("a")
        for kind, flags, body in ((PUBREL, 0, two(1)), (PUBREL, 3, two(1)), (PINGREQ, 1, b""),
                                  (SUBSCRIBE, 0, filters + b"\0"), (UNSUBSCRIBE, 0, filters),
                                  (DISCONNECT, 8, b""), (AUTH, 1, b"")):
            with self.subTest(kind=kind, flags=flags):
                wire = self.open(version).send(packet(kind, flags, body))
                self.check_ended(wire, version, 0x81)

    @both
    def test_torn(self, version):
        """[MQTT-4.13.1-1], v311 [MQTT-4.8.0-1]: a packet that ends before its fields do."""
        pubrel = packet(PUBREL, 2, b"\0") if version == V5 else packet(PUBREL, 2, two(1) + b"\0")
        for data in (packet(PUBLISH, 0, b""), packet(PUBLISH, 0, b"\0\7raw/x"), pubrel,
                     packet(PUBLISH, 2, b"\0\1x\0"), packet(PINGREQ, 0, b"\0"),
                     packet(0, 0, b"")):
            with self.subTest(data=data):
                self.check_ended(self.open(version).send(data), version, 0x81)

    @both
    def test_what_came_before_an_error(self, version):
        """[MQTT-4.13.1-1]: the error ends the connection, not what was published before it."""
        wire = self.open(version).send(self.publish("a", 1, 1, version)
                                       + packet(CONNACK, 0, b"\0\0")
                                       + self.publish("b", 1, 2, version))
        got = wire.expect_close()
        self.check_stored("a")
        self.assertEqual([(k, b[:1]) for k, _, b in got if k != PUBACK],
                         [(DISCONNECT, b"\x82")] if version == V5 else [])

    @both
    def test_payloads(self, version):
        """3.3.3: any bytes, none too; a zero byte or no UTF-8 is no error of a payload."""
        payloads = [b"", b"\0", bytes(range(256)), b"x" * 70000]
        topic = "raw/" + self.tag
        self.open(version).send(b"".join(publish_packet(topic, p, 1, i + 1, version)
                                         for i, p in enumerate(payloads))).read()
        self.barrier()
        rows = self.gateway.sql("SELECT CAST(value AS BLOB) FROM _ws_chain_1 JOIN _ws_sources USING"
                                " (src) WHERE mqtt_topic = ? ORDER BY seq", topic)
        self.assertEqual(rows, [(p,) for p in payloads])

    def test_properties(self):
        """[MQTT-2.2.2-1], 3.3.2.3: all that a client may send are taken; others end it."""
        good = (b"\x01\1\x02" + four(9) + b"\x03" + utf8("text") + b"\x08" + utf8("raw/answer")
                + b"\x09\0\1\0" + (b"\x26" + utf8("k") + utf8("v")) * 2)
        wire = self.open(V5).send(self.publish("ok", 1, 1, V5, properties=good))
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        for data, reason in ((b"\x01\2", 0x82), (b"\x02" + four(9) + b"\x02" + four(9), 0x82),
                             (b"\x0b\1", 0x81), (expiry(1), 0x81), (b"\x03\0\1\xff", 0x81),
                             (b"\x26" + utf8("k") + b"\0\1\0", 0x81), (b"\x02\0", 0x81)):
            with self.subTest(data=data):
                wire = self.open(V5).send(self.publish("no", 1, 1, V5, properties=data))
                self.check_ended(wire, V5, reason)
        self.check_stored("ok")


class TopicNames(WireCase):
    @both
    def test_refused(self, version):
        """[MQTT-3.3.2-1], [MQTT-3.3.2-2], [MQTT-4.7.0-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2],
        [MQTT-1.5.4-1], [MQTT-1.5.4-2], v311 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-3.3.2-2]."""
        for topic, reason in (("raw/+", 0x81), ("raw/#", 0x81), ("ra+w", 0x81), ("", 0x82),
                              (b"raw/\0", 0x81), (b"raw/\xff", 0x81), (b"raw/\xed\xa0\x80", 0x81),
                              (b"raw/\xc0\x80", 0x81), (b"raw/\xf4\x90\x80\x80", 0x81)):
            for qos in (0, 1):
                with self.subTest(topic=topic, qos=qos):
                    wire = self.open(version).send(publish_packet(topic, self.tag, qos, 1, version))
                    self.check_ended(wire, version, reason)
        self.check_stored()

    @both
    def test_taken_as_they_are(self, version):
        """[MQTT-1.5.4-3], [MQTT-4.7.3-3], [MQTT-4.7.3-4], v311 [MQTT-1.5.3-3]."""
        topics = ["raw/\ufeffx", "raw//", "raw/ \u00e4\u0061\u0308", "raw/\U0001f600", "raw/RAW",
                  "raw/" + "x" * 1000]
        wire = self.open(version).send(b"".join(
            publish_packet(t, f"{self.tag}{i}", 1, i + 1, version) for i, t in enumerate(topics)))
        for i in range(len(topics)):
            self.assertEqual(wire.read(), (PUBACK, 0, two(i + 1)))
        self.assertEqual(self.rows("mqtt_topic"), topics)

    @both
    def test_without_a_route(self, version):
        """[MQTT-4.3.2-4]: such a topic is no error of the protocol: acknowledged, quarantined."""
        for topic in ("RAW/x", "$SYS/x", "/raw/x"):
            wire = self.open(version).send(publish_packet(topic, self.tag + topic, 1, 1, version))
            self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        rows = self.gateway.sql("SELECT key, count(*) FROM quarantine GROUP BY key")
        self.assertIn((self.id_, 3), rows)


class TopicAlias(WireCase):
    OPTIONS = {"mqtt": "topic_alias_maximum = 32"}

    def test_set_and_use(self):
        """[MQTT-3.3.2-12]: all from 1 to the maximum; a name given again replaces it."""
        wire = self.open(V5)
        for n in range(1, 33):
            name = f"raw/{n}"
            wire.send(publish_packet(name, self.tag + "s", 0, version=V5, properties=alias(n)))
        for n in range(32, 0, -1):
            wire.send(publish_packet("", self.tag + "u", 0, version=V5, properties=alias(n)))
        wire.send(publish_packet("raw/new", self.tag, 0, version=V5, properties=alias(7))
                  + publish_packet("", self.tag, 1, 1, V5, properties=alias(7)))
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        names = [f"raw/{n}" for n in range(1, 33)]
        self.assertEqual(self.rows("mqtt_topic"), names + names[::-1] + ["raw/new"] * 2)

    def test_refused(self):
        """[MQTT-3.3.2-8], [MQTT-3.3.2-9], 3.3.2.3.4: 0, above the maximum, unknown, twice."""
        for topic, data, reason in (("raw/x", alias(0), 0x94), ("raw/x", alias(33), 0x94),
                                    ("", alias(0), 0x94), ("", alias(65535), 0x94),
                                    ("", alias(5), 0x82), ("raw/x", alias(1) + alias(2), 0x82)):
            with self.subTest(topic=topic, data=data):
                sent = publish_packet(topic, self.tag, 1, 1, V5, properties=data)
                wire = self.open(V5).send(sent)
                self.check_ended(wire, V5, reason)
        self.check_stored()

    def test_of_one_connection(self):
        """[MQTT-3.3.2-7]: an alias is not carried to the next connection of the session."""
        wire = self.open(V5, properties=expiry(60))
        wire.send(self.publish("a", 1, 1, V5, properties=alias(1))).read()
        wire.close()
        wire = self.open(V5, clean=False, properties=expiry(60))
        self.assertEqual(wire.connack[0], 1)
        wire.send(publish_packet("", self.tag + "b", 1, 1, V5, properties=alias(1)))
        self.check_ended(wire, V5, 0x82)
        self.check_stored("a")


class NoTopicAlias(WireCase):
    def test_none_by_default(self):
        """[MQTT-3.3.2-9]: none is offered unless mqtt.topic_alias_maximum says so."""
        wire = self.open(V5)
        self.assertNotIn(0x22, properties_of(wire.connack[2]))
        wire.send(self.publish("a", 1, 1, V5, properties=alias(1)))
        self.check_ended(wire, V5, 0x94)
        self.check_stored()


class Flow(WireCase):
    OPTIONS = {"mqtt": 'receive_maximum = 4\nmax_packet = "4KiB"\noversized = "disconnect"',
               "commit": 'linger = "50ms"'}

    def test_receive_maximum_exceeded(self):
        """[MQTT-3.3.4-7], 3.3.4: 0x93; PUBREC frees no place, PUBCOMP does."""
        wire = self.open(V5)
        for n in range(1, 5):
            wire.send(self.publish(str(n), 2, n, V5))
            self.assertEqual(wire.read(), (PUBREC, 0, two(n)))
        wire.send(self.publish("4", 2, 4, V5, dup=True))
        self.assertEqual(wire.read(), (PUBREC, 0, two(4)))
        wire.send(pubrel_packet(1))
        self.assertEqual(wire.read(), (PUBCOMP, 0, two(1)))
        wire.send(self.publish("5", 1, 1, V5))
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        wire.send(self.publish("6", 2, 5, V5)).read()
        wire.send(self.publish("7", 1, 6, V5))
        self.check_ended(wire, V5, 0x93)
        self.check_stored("1", "2", "3", "4", "5", "6")

    def test_receive_maximum_in_one_segment(self):
        """[MQTT-3.3.4-7]: of five at once the fifth is one too many; the four are stored."""
        wire = self.open(V5).send(b"".join(self.publish(str(n), 1, n, V5) for n in range(1, 6)))
        got = wire.expect_close()
        self.check_stored("1", "2", "3", "4")
        self.assertEqual([b[0] for k, _, b in got if k == DISCONNECT], [0x93])

    def test_v311_beyond_the_bound(self):
        """v311 knows no Receive Maximum: it is not read for a while, and all is acknowledged."""
        wire = self.open(V311)
        for qos, ack in ((1, PUBACK), (2, PUBREC)):
            wire.send(b"".join(self.publish(str(n), qos, n, V311) for n in range(1, 61)))
            self.assertEqual([wire.read() for _ in range(60)],
                             [(ack, 0, two(n)) for n in range(1, 61)])
        self.check_stored(*[str(n) for n in range(1, 61)] * 2)

    @both
    def test_acknowledgements_in_order(self, version):
        """[MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.9.0-3] (PING is answered meanwhile)."""
        wire = self.open(version)
        sent = b"".join(self.publish(str(n), 1 + n % 2, 9 - n, version) for n in range(4))
        wire.send(sent + packet(PINGREQ, 0, b""))
        got = [wire.read() for _ in range(5)]
        self.assertIn((PINGRESP, 0, b""), got)
        got.remove((PINGRESP, 0, b""))
        self.assertEqual(got, [(PUBREC if n % 2 else PUBACK, 0, two(9 - n)) for n in range(4)])
        self.assertEqual(self.stored(), list("0123"))

    @both
    def test_oversized_packet(self, version):
        """[MQTT-3.2.2-15], 3.2.2.3.6: 0x95 by its header alone; exactly the maximum is taken."""
        room = 4096 - len(self.publish("", 1, 1, version)) - 1  # a length of two bytes, not one
        wire = self.open(version).send(self.publish("x" * room, 1, 1, version))
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        self.fresh()
        wire.send(self.publish("x" * (room + 1 + 9), 1, 2, version))
        self.check_ended(wire, version, 0x95)
        wire = self.open(version).send(b"\x32\xff\xff\xff\x7f")
        self.check_ended(wire, version, 0x95)
        self.check_stored()


class Framing(WireCase):
    OPTIONS = {"mqtt": "receive_maximum = 65535"}

    def conversation(self, version):
        """Some of everything, and what comes back for it."""
        subscribe = two(8) + (b"\0" if version == V5 else b"") + utf8("#") + b"\0"
        data = (connect_packet(self.id_, version, will=("raw/w", "w", 0, 0, b"")) + b"".join(
            [self.publish("a" * 200, 1, 1, version), packet(PINGREQ, 0, b""),
             self.publish("b", 2, 2, version), packet(SUBSCRIBE, 2, subscribe), pubrel_packet(2),
             self.publish("c", version=version), self.publish("d", 1, 3, version)]))
        return data, [(PUBACK, two(1)), (PUBREC, two(2)), (PUBCOMP, two(2)), (PUBACK, two(3))]

    def check_conversation(self, wire, acks):
        self.assertEqual(wire.read()[0], CONNACK)
        got = [wire.read() for _ in range(len(acks) + 2)]
        self.assertEqual([(k, b) for k, _, b in got if k not in (PINGRESP, SUBACK)], acks)
        self.assertEqual(sorted(k for k, _, _ in got if k in (PINGRESP, SUBACK)),
                         [SUBACK, PINGRESP])
        self.leave(wire)

    @both
    def test_one_byte_at_a_time(self, version):
        """[MQTT-7.1.1-1], 2.1: TCP keeps no boundaries."""
        data, acks = self.conversation(version)
        wire = self.wire()
        for i in range(len(data)):
            wire.send(data[i:i + 1])
        self.check_conversation(wire, acks)
        self.assertEqual(self.stored(), ["a" * 200, "b", "c", "d"])

    @both
    def test_split_at_every_offset(self, version):
        """[MQTT-7.1.1-1]: a PINGREQ of another connection lies between the two halves."""
        pulse = self.open(version, "pulse")
        reading = self.publish("x" * 120, 1, 1, version)
        wire = self.open(version)
        for at in range(1, len(reading)):
            wire.send(reading[:at])
            pulse.send(packet(PINGREQ, 0, b""))
            self.assertEqual(pulse.read(), (PINGRESP, 0, b""))
            wire.send(reading[at:])
        self.assertEqual([wire.read() for _ in range(1, len(reading))],
                         [(PUBACK, 0, two(1))] * (len(reading) - 1))
        self.assertEqual(self.stored(), ["x" * 120] * (len(reading) - 1))

    @both
    def test_many_in_one_segment(self, version):
        """[MQTT-4.6.0-2]: more than one read takes, too."""
        n = 20000
        wire = self.open(version)
        sender = threading.Thread(target=wire.send, args=(b"".join(
            self.publish(str(i), 1, i + 1, version) for i in range(n)),))
        sender.start()
        self.assertEqual([wire.read() for _ in range(n)],
                         [(PUBACK, 0, two(i + 1)) for i in range(n)])
        sender.join()
        self.assertEqual(self.stored(), [str(i) for i in range(n)])

    @both
    def test_remaining_length(self, version):
        """[MQTT-1.5.5-1], 2.1.4: one to four bytes."""
        wire = self.open(version)
        for size in (100, 127, 128, 16383, 16384, 200000):
            wire.send(self.publish("x" * size, 1, 1, version))
            self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        self.assertEqual([len(v) for v in self.stored()], [100, 127, 128, 16383, 16384, 200000])
        for data in (b"\x30\xff\xff\xff\xff", b"\xc0\x80\x80\x80\x80\x00"):
            self.check_ended(self.open(version).send(data), version, 0x81)


class PingAndKeepAlive(WireCase):
    @both
    def test_ping(self, version):
        """[MQTT-3.12.4-1]."""
        wire = self.open(version).send(packet(PINGREQ, 0, b"") * 3)
        self.assertEqual([wire.read() for _ in range(3)], [(PINGRESP, 0, b"")] * 3)

    def test_keep_alive(self):
        """[MQTT-3.1.2-22], v311 [MQTT-3.1.2-24]: after 1.5 times, as if the network had failed (so
        without a word: some clients take a DISCONNECT as final and never come back).
        Whole packets count, not bytes; one with PINGREQ stays, and so does one with 0."""
        cases = [(version, drips) for version in (V311, V5) for drips in (False, True)]
        wires = [self.open(version, f"{self.id_}{drips}{version}", keep_alive=1, clean=False,
                           will=("raw/w", f"{self.tag}{version}{drips}", 0, 0, b""))
                 for version, drips in cases]
        for wire, (_, drips) in zip(wires, cases):
            wire.began = time.monotonic()
            if drips:
                wire.send(b"\x30\xff\x7f")
        stays = [self.open(V5, "", keep_alive=1), self.open(V5, "", keep_alive=0)]
        ended = {}

        def all_ended():
            for i, wire in enumerate(wires):
                if i not in ended and select.select([wire.socket], [], [], 0)[0]:
                    ended[i] = time.monotonic() - wire.began
                elif i not in ended and cases[i][1]:
                    wire.send(b"x")
            stays[0].send(packet(PINGREQ, 0, b"")).read()
            return len(ended) == 4 or time.monotonic() - wires[0].began > 2.5
        with contextlib.suppress(OSError):
            wait_for(all_ended, "1.5 seconds of silence")
        stays[1].send(packet(PINGREQ, 0, b""))
        self.assertEqual(stays[1].read(), (PINGRESP, 0, b""))
        self.assertEqual(properties_of(stays[1].connack[2])[KEEP_ALIVE], 65535)
        self.assertNotIn(KEEP_ALIVE, properties_of(stays[0].connack[2]))
        for i, (version, drips) in enumerate(cases):
            with self.subTest(version=version, drips=drips):
                self.assertIn(i, ended)
                self.assertGreater(ended[i], 1.4)
                wait_for(lambda: f"{version}{drips}" in self.stored(), "the will")
                self.assertEqual(wires[i].expect_close(), [])  # no DISCONNECT: it may come back


    @both
    def test_tcp_asks(self, version):
        """A peer that has vanished is known whatever its keep-alive is: TCP asks whether it is
        there, on every connection (timer 2 of /proc/net/tcp)."""
        wire = self.open(version, keep_alive=0)
        ends = [f"0100007F:{p:04X}" for p in (self.gateway.port, wire.socket.getsockname()[1])]

        def timer():
            with open("/proc/net/tcp", encoding="ascii") as f:
                rows = [line.split() for line in f]
            found = [row[5] for row in rows if row[1:3] == ends]
            return found and found[0].startswith("02:") and int(found[0][3:], 16)
        self.assertLessEqual(wait_for(timer, "the timer runs"), 61 * 100)


class IdleMax(WireCase):
    OPTIONS = {"mqtt": 'idle_max = "2s"'}

    def test_idle_max(self):
        """[MQTT-3.2.2-22], 3.2.2.3.14: without a keep-alive, or with a longer one, a silent
        connection is closed after mqtt.idle_max; MQTT 5 is told, and pings."""
        wires = [self.open(version, f"{self.id_}{version}{keep_alive}", keep_alive=keep_alive)
                 for version in (V311, V5) for keep_alive in (0, 3600)]
        stays = self.open(V5, keep_alive=0)
        for wire in wires[2:]:
            self.assertEqual(properties_of(wire.connack[2])[KEEP_ALIVE], 1)
        began, ended = time.monotonic(), {}

        def all_ended():
            stays.send(packet(PINGREQ, 0, b"")).read()
            for i, wire in enumerate(wires):
                if i not in ended and select.select([wire.socket], [], [], 0)[0]:
                    ended[i] = time.monotonic() - began
            return len(ended) == 4
        wait_for(all_ended, "two seconds of silence", 10)
        for i, wire in enumerate(wires):
            self.assertGreater(ended[i], 1.8 if i < 2 else 1.3)
            self.assertEqual(wire.expect_close(), [])


class Ends(WireCase):
    @both
    def test_disconnect(self, version):
        """[MQTT-3.14.4-1], [MQTT-3.14.4-2]: what came before is stored, what follows is not."""
        wire = self.open(version).send(self.publish("a", version=version)
                                       + packet(DISCONNECT, 0, b"")
                                       + self.publish("b", 1, 1, version))
        self.assertEqual(wire.expect_close(), [])
        self.check_stored("a")

    def test_disconnect_malformed(self):
        """[MQTT-4.13.1-1], 2.2.2.2; 3.1.1's has no body."""
        for version, body in ((V311, b"\0"), (V5, b"\0\1"), (V5, b"\0\3\x1f\0\2"),
                              (V5, b"\0\2\x21\0"), (V5, b"\0\0\0")):
            with self.subTest(version=version, body=body):
                self.check_ended(self.open(version).send(packet(DISCONNECT, 0, body)), version,
                                 0x81)

    @both
    def test_server_only_packets(self, version):
        """[MQTT-4.13.1-1]."""
        for kind, body in ((CONNACK, b"\0\0"), (SUBACK, two(1) + b"\0"), (UNSUBACK, two(1)),
                           (PINGRESP, b""), (AUTH, b"")):
            with self.subTest(kind=kind):
                self.check_ended(self.open(version).send(packet(kind, 0, body)), version, 0x82)

    def test_reason_fits_the_client(self):
        """[MQTT-3.14.2-3]: the reason string is left out where it does not fit; the reason not."""
        wire = self.open(V5, properties=bytes([MAX_PACKET]) + four(20))
        got = wire.send(packet(CONNACK, 0, b"\0\0")).expect_close()
        self.assertEqual([(k, b) for k, _, b in got], [(DISCONNECT, b"\x82\0")])


class SlowClient(WireCase):
    def memory(self):
        with open(f"/proc/{self.gateway.process.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) // 1024

    def flood(self, version, data):
        """Sends and never reads, until no more is taken."""
        wire = self.open(version)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.socket.setblocking(False)
        view, sent, last = memoryview(data), 0, time.monotonic()

        def stuck():
            nonlocal sent, last
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):  # on from where the last one was cut
                    sent += wire.socket.send(view[sent % len(data):])
                    last = time.monotonic()
            return time.monotonic() - last > 0.5 or sent > 100 << 20
        wait_for(stuck, "the gateway stops reading")
        self.assertLess(sent, 100 << 20)

    @both
    def test_never_reads(self, version):
        """Not the protocol's, but ours: who does not read is not read, in bounded memory, and
        the others do not notice."""
        before = self.memory()
        other = self.open(version, self.id_ + "-other")
        for data in (packet(PINGREQ, 0, b"") * 32768, pubrel_packet(1) * 16384):
            self.flood(version, data)
            other.send(self.publish("x", 1, 1, version))
            self.assertEqual(other.read(), (PUBACK, 0, two(1)))
        self.assertLess(self.memory() - before, 32 * MEMORY_FACTOR)


if __name__ == "__main__":
    main()
