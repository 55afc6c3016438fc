"""The wire: CONNECT and CONNACK, packet by packet against the real binary; and the base class of
the others: test_wire_session.py (wills, sessions, subscriptions), test_wire_publish.py (the rest).

Statements are those of MQTT 5.0's appendix B; v311: those of MQTT 3.1.1 under its own numbers.
docs/MQTT.md is the list of all of them.
"""

import functools

from harness import *

V311, V5 = 4, 5
EXPIRY, DELAY, RECEIVE_MAX, ASSIGNED, MAX_PACKET = 0x11, 0x18, 0x21, 0x12, 0x27
REASON, METHOD, AUTH_DATA, PROBLEM_INFO, RETAINED = 0x1F, 0x15, 0x16, 0x17, 4


def two(n):
    return struct.pack(">H", n)


def four(n):
    return struct.pack(">I", n)


def expiry(seconds):
    return bytes([EXPIRY]) + four(seconds)


def properties(data):
    """The properties of a packet, from where their length stands: {id: value}."""
    sizes = {EXPIRY: 4, MAX_PACKET: 4, RECEIVE_MAX: 2, 0x22: 2, 0x13: 2}
    n, at, out = data[0], 1, {}
    assert n < 128 and len(data) > n, data
    while at <= n:
        name, at = data[at], at + 1
        if name in (ASSIGNED, REASON, METHOD):
            size = struct.unpack_from(">H", data, at)[0]
            out[name], at = data[at + 2:at + 2 + size].decode(), at + 2 + size
        else:
            size = sizes.get(name, 1)
            out[name], at = int.from_bytes(data[at:at + size], "big"), at + size
    return out


def both(test):
    """The test once for each version."""
    @functools.wraps(test)
    def run(self):
        for version in (V311, V5):
            with self.subTest(version=version):
                self.fresh()
                test(self, version)
    return run


class WireCase(unittest.TestCase):
    """One gateway for the class; every subtest has a client id and payloads of its own."""

    OPTIONS = {}
    count = 0

    @classmethod
    def setUpClass(cls):
        cls.barrier_wire = None
        options = {"commit": 'linger = "2ms"'} | cls.OPTIONS
        cls.gateway = cls.enterClassContext(Gateway(**options))

    def setUp(self):
        self.fresh()

    def fresh(self):
        WireCase.count += 1
        self.id_ = f"client{WireCase.count}"
        self.tag = f"t{WireCase.count}-"

    def wire(self):
        wire = Wire(self.gateway.port)
        self.addCleanup(wire.close)
        return wire

    def open(self, version, client_id=None, **kwargs):
        """A connected client; its CONNACK is .connack."""
        wire = self.wire()
        wire.connack = wire.connect(self.id_ if client_id is None else client_id, version, **kwargs)
        self.assertEqual(wire.connack[1], 0)
        return wire

    def leave(self, wire, reason=b""):
        wire.send(packet(DISCONNECT, 0, reason))
        self.assertEqual(wire.expect_close(), [])

    def publish(self, text, qos=0, packet_id=None, version=V311, **kwargs):
        return publish_packet("raw/x", self.tag + text, qos, packet_id, version, **kwargs)

    def rows(self, what="value"):
        """Of this (sub)test's readings in the order of arrival; `what` is SQL."""
        rows = self.gateway.sql(f"SELECT {what} FROM _ws_chain_1 LEFT JOIN _ws_sources USING (src)"
                                " WHERE CAST(value AS TEXT) LIKE ? ORDER BY seq", self.tag + "%")
        return [row[0] if len(row) == 1 else row for row in rows]

    def stored(self):
        return [(v if isinstance(v, str) else v.decode())[len(self.tag):] for v in self.rows()]

    def barrier(self):
        """What any client sent before is committed after this: the writer keeps the order."""
        if self.barrier_wire is None:
            type(self).barrier_wire = wire = self.enterClassContext(Wire(self.gateway.port))
            wire.connect("", V311, keep_alive=0)
        self.barrier_wire.send(publish_packet("vin/barrier", '{"vin":"b"}', 1, 1))
        self.assertEqual(self.barrier_wire.read(), (PUBACK, 0, two(1)))

    def check_stored(self, *texts):
        self.barrier()
        self.assertEqual(self.stored(), list(texts))

    def check_ended(self, wire, version, reason, before=()):
        """The server ends the connection; MQTT 5 says why in a DISCONNECT."""
        packets = wire.expect_close()
        last = [(kind, flags, body[0]) for kind, flags, body in packets[len(before):]]
        self.assertEqual(packets[:len(before)], list(before))
        self.assertEqual(last, [(DISCONNECT, 0, reason)] if version == V5 else [])

    def check_refused(self, connect, version, reason, return_code=None):
        """CONNECT is refused: MQTT 5 says why; 3.1.1 has a code for few reasons, else silence."""
        wire = self.wire().send(connect + self.publish("refused", 1, 9, version))
        packets = wire.expect_close()
        self.check_stored()
        if version == V311:
            expected = [] if return_code is None else [(CONNACK, 0, bytes([0, return_code]))]
            self.assertEqual(packets, expected)
        else:
            self.assertEqual([(k, f, b[:2]) for k, f, b in packets],
                             [(CONNACK, 0, bytes([0, reason]))])


class Connect(WireCase):
    @both
    def test_protocol_name(self, version):
        """[MQTT-3.1.2-1], v311 [MQTT-3.1.2-1]: another name is not served as MQTT."""
        for name in ("MQTX", "mqtt", "MQIsdp", "", "MQTTX", "x" * 300):
            with self.subTest(name=name):
                wire = self.wire().send(connect_packet(self.id_, version, name=name))
                kind, _, body = wire.read()
                self.assertEqual((kind, body[1]), (CONNACK, 1 if version == V311 else 0x84))
                self.assertEqual(wire.expect_close(), [])
                wait_for(lambda: "is disconnected" in self.gateway.log(), "it is logged")

    def test_protocol_level(self):
        """[MQTT-3.1.2-2], [MQTT-3.2.2-7], v311 [MQTT-3.1.2-2], [MQTT-3.2.2-4], [MQTT-3.2.2-5]."""
        for level in (0, 1, 2, 3, 0x80, 0x83, 0x84):
            for name in ("MQTT", "MQIsdp"):
                if (name, level) != ("MQIsdp", 3):
                    with self.subTest(level=level, name=name):
                        self.check_refused(connect_packet(self.id_, level, name=name), V311, 0,
                                           return_code=1)
        for level in (6, 0x7F, 0x85, 255):
            with self.subTest(level=level):
                self.check_refused(connect_packet(self.id_, level), V5, 0x84)

    def test_refused_client_is_named(self):
        """Who speaks an unknown version is named, in the log and to the technician."""
        with Gateway() as gateway:
            for level in (0x84, 2):
                with Wire(gateway.port) as wire:
                    wire.send(connect_packet(f"pump-{level}", level)).expect_close()
            self.assertRegex(gateway.log(), r"client 'pump-132' at 127.0.0.1:\d+ .*Mosquitto")
            devices = gateway.cli("devices", check=0).stdout
            self.assertRegex(devices, "pump-132 .*protocol level 132")
            self.assertRegex(devices, "pump-2 .*protocol level 2")

    @both
    def test_reserved_flag(self, version):
        """[MQTT-3.1.2-3], [MQTT-3.1.4-1], v311 [MQTT-3.1.2-3], [MQTT-3.1.4-1] (no CONNACK)."""
        self.check_refused(connect_packet(self.id_, version, flags=3), version, 0x81)

    @both
    def test_will_flags(self, version):
        """[MQTT-3.1.2-11], [MQTT-3.1.2-12], [MQTT-3.1.2-13], v311 [MQTT-3.1.2-13 to 15]."""
        for flags in (0x0A, 0x12, 0x22, 0x3A):
            with self.subTest(flags=flags):
                self.check_refused(connect_packet(self.id_, version, flags=flags), version,
                                   0x81)
        will = ("raw/w", self.tag, 3, 0, b"")
        self.check_refused(connect_packet(self.id_, version, will=will), version, 0x81)

    @both
    def test_will_topic(self, version):
        """[MQTT-3.1.3-11], [MQTT-4.7.0-1], [MQTT-4.7.3-1], v311 [MQTT-3.1.3-10]."""
        for topic, reason in (("raw/+", 0x81), ("#", 0x81), ("", 0x82), (b"raw/\xff", 0x81),
                              (b"raw/\0", 0x81)):
            with self.subTest(topic=topic):
                self.check_refused(connect_packet(self.id_, version,
                                                  will=(topic, self.tag, 0, 0, b"")),
                                   version, reason)

    @both
    def test_missing_and_surplus_fields(self, version):
        """[MQTT-3.1.2-9], [MQTT-3.1.2-16 to 19], [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.4-1]."""
        for flags in (0x06, 0x82, 0xC2):
            with self.subTest(flags=flags):
                self.check_refused(connect_packet(self.id_, version, flags=flags), version,
                                   0x81)
        self.check_refused(connect_packet(self.id_, version, username="u", flags=2), version,
                           0x81)
        whole = connect_packet(self.id_, version)[2:]
        for body in (whole[:-1], whole[:-len(self.id_) - 2], whole + b"\0"):
            self.check_refused(packet(CONNECT, 0, body), version, 0x81)

    @both
    def test_text_fields(self, version):
        """[MQTT-3.1.3-4], [MQTT-3.1.3-12], [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.7-1],
        v311 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-3.1.3-11]."""
        for text in (b"a\0", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8", b"a\xe2\x82"):
            with self.subTest(text=text):
                self.check_refused(connect_packet(text, version), version, 0x81)
                self.check_refused(connect_packet(self.id_, version, username=text), version,
                                   0x81)
                pair = b"\x26" + utf8("a") + utf8(text)
                if version == V5:
                    self.check_refused(connect_packet(self.id_, V5, properties=pair), V5, 0x81)

    @both
    def test_user_name_and_password(self, version):
        """[MQTT-3.1.2-17], [MQTT-3.1.2-19]; v311 [MQTT-3.1.2-22]: no password alone. There is no
        authentication, so what they say is not looked at."""
        self.open(version, username="anna", password=b"\0\xff")
        self.open(version, username="")
        if version == V311:
            self.check_refused(connect_packet(self.id_, V311, password="p"), V311, 0)
        else:
            self.open(V5, password="p")

    @both
    def test_client_ids(self, version):
        """[MQTT-3.1.3-2], [MQTT-3.1.3-5], [MQTT-3.1.3-8], v311 [MQTT-3.1.3-9]; up to 128 bytes,
        [MQTT-1.5.4-3]."""
        letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        names = (letters[:23], letters[23:46], letters[39:], "x", "\u00e4/+#\ufeff", "y" * 128)
        for name in names:
            wire = self.open(version, name).send(self.publish("id", 1, 1, version))
            self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        self.assertEqual(self.rows("client_id"), list(names))
        self.fresh()
        self.check_refused(connect_packet("y" * 1025, version), version, 0x85, 2)

    def test_empty_client_id(self):
        """[MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.2.2-16], v311 [MQTT-3.1.3-6 to 8]."""
        self.check_refused(connect_packet("", V311, clean=False), V311, 0, return_code=2)
        wires = [self.open(V311, "") for _ in range(2)]
        assigned = []
        for clean in (False, True):
            wire = self.open(V5, "", clean=clean, properties=expiry(100))
            self.assertEqual(wire.connack[0], 0)
            assigned.append(properties(wire.connack[2])[ASSIGNED])
            wires.append(wire)
        for i, wire in enumerate(wires):  # all four are there: four clients
            wire.send(self.publish(str(i), 1, 1, V5 if i > 1 else V311))
            self.assertEqual(wire.read()[0], PUBACK)
        self.assertEqual(self.stored(), list("0123"))
        self.assertEqual(len({""} | set(assigned)), 3)
        wires[2].close()
        again = self.open(V5, assigned[0], clean=False)
        self.assertEqual(again.connack[0], 1)
        self.assertNotIn(ASSIGNED, properties(again.connack[2]))

    @both
    def test_second_connect(self, version):
        """[MQTT-3.1.0-2], [MQTT-3.2.0-2], [MQTT-4.13.1-1]."""
        wire = self.open(version).send(self.publish("one", 1, 1, version))
        ack = wire.read()
        wire.send(connect_packet(self.id_, version) + self.publish("two", 1, 2, version))
        got = wire.expect_close()
        self.check_stored("one")
        self.assertEqual((ack[0], CONNACK in [p[0] for p in got]), (PUBACK, False))
        self.assertEqual([(p[0], p[2][:1]) for p in got],
                         [(DISCONNECT, b"\x82")] if version == V5 else [])

    def test_first_packet_is_not_connect(self):
        """[MQTT-3.1.0-1], [MQTT-3.14.0-1] (no DISCONNECT without a CONNACK before)."""
        for first in (self.publish("early", 1, 1), packet(PINGREQ, 0, b""), packet(AUTH, 0, b""),
                      packet(DISCONNECT, 0, b""), packet(SUBSCRIBE, 2, two(1) + utf8("#") + b"\0"),
                      pubrel_packet(1), packet(CONNACK, 0, b"\0\0"), b"GOT / HTTP/1.1\r\n\r\n"):
            with self.subTest(first=first):
                wire = self.wire().send(first + connect_packet(self.id_))
                self.assertEqual(wire.expect_close(), [])
        self.check_stored()

    @both
    def test_pipelined_with_disconnect(self, version):
        """[MQTT-3.1.4-5], [MQTT-3.12.4-1]: a visit in one segment is answered before it ends."""
        wire = self.wire().send(connect_packet(self.id_, version)
                                + self.publish("visit", version=version)
                                + packet(PINGREQ, 0, b"") + packet(DISCONNECT, 0, b""))
        got = [kind for kind, _, _ in wire.expect_close()]
        self.check_stored("visit")
        self.assertEqual(got, [CONNACK, PINGRESP])

    @both
    def test_pipelined_with_publish(self, version):
        """[MQTT-3.1.4-5], [MQTT-3.2.0-1], v311 [MQTT-3.2.0-1]: CONNACK comes first all the same."""
        wire = self.wire().send(connect_packet(self.id_, version) + b"".join(
            self.publish(str(i), 1 + i % 2, 1 + i, version) for i in range(20))
            + packet(PINGREQ, 0, b""))
        self.assertEqual(wire.read()[0], CONNACK)
        got = [wire.read() for _ in range(21)]
        acks = [(kind, body) for kind, _, body in got if kind != PINGRESP]
        self.assertEqual(acks, [(PUBREC if i % 2 else PUBACK, two(1 + i)) for i in range(20)])
        self.assertEqual(self.stored(), [str(i) for i in range(20)])

    def test_properties_refused(self):
        """[MQTT-3.1.4-1], [MQTT-4.13.1-1], 2.2.2.2, 3.1.2.11: twice, 0, not here, torn."""
        for data, reason in ((expiry(1) * 2, 0x82), (b"\x21\0\0", 0x82), (b"\x27" + four(0), 0x82),
                             (b"\x17\x02", 0x82), (b"\x19\x02", 0x82), (b"\x23\0\1", 0x81),
                             (b"\x7f\0", 0x81), (b"\x11\0\0", 0x81), (b"\x16\0\1x", 0x82)):
            with self.subTest(data=data):
                self.check_refused(connect_packet(self.id_, V5, properties=data), V5, reason)
        all_of_them = (expiry(5) + b"\x21\0\1\x22\0\1\x27" + four(4000) + b"\x17\1\x19\1"
                       + (b"\x26" + utf8("a") + utf8("b")) * 2)
        self.assertEqual(self.open(V5, properties=all_of_them).connack[:2], (0, 0))

    def test_authentication_method(self):
        """[MQTT-4.12.0-1], [MQTT-3.1.4-2], [MQTT-3.1.4-6]."""
        method = bytes([METHOD]) + utf8("SCRAM-SHA-1")
        self.check_refused(connect_packet(self.id_, V5, properties=method), V5, 0x8C)

    def test_client_maximum_packet_size(self):
        """[MQTT-3.1.2-24], [MQTT-3.2.2-19], [MQTT-3.9.2-1], [MQTT-3.14.2-3]: nothing larger."""
        subscribe = packet(SUBSCRIBE, 2, two(1) + b"\0" + (utf8("a") + b"\0") * 60)
        for most in (10, 20, 60, 100):
            with self.subTest(most=most):
                wire = self.wire().send(connect_packet(
                    self.id_, V5, properties=bytes([MAX_PACKET]) + four(most)))
                got = []
                with contextlib.suppress(Closed):  # it may also give up
                    got.append(wire.read())
                    wire.send(subscribe + packet(PINGREQ, 0, b""))
                    while got[-1][0] != PINGRESP:
                        got.append(wire.read())
                    wire.send(packet(CONNACK, 0, b"\0\0"))
                    got += wire.expect_close()
                self.assertEqual([p for p in got if 2 + len(p[2]) > most], [])
        self.check_refused(connect_packet("y" * 1025, V5, properties=b"\x27" + four(12)), V5, 0x85)

    def test_problem_information(self):
        """[MQTT-3.1.2-29]: without it no SUBACK has a reason string."""
        for wanted in (0, 1):
            wire = self.open(V5, properties=bytes([PROBLEM_INFO, wanted]))
            wire.send(packet(SUBSCRIBE, 2, two(1) + b"\0" + utf8("#") + b"\0"))
            self.assertEqual(REASON in properties(wire.read()[2][2:]), wanted == 1)


class Connack(WireCase):
    OPTIONS = {"mqtt": 'receive_maximum = 7\nmax_packet = "4KiB"\nsession_expiry_max = "2h"'}

    def test_v5(self):
        """[MQTT-3.2.2-1], [MQTT-3.2.2-8], [MQTT-4.12.0-6] (no method), 3.2.2.3."""
        says = {RECEIVE_MAX: 7, MAX_PACKET: 4096}
        for wanted, told in ((None, None), (0, None), (7200, None), (7201, 7200),
                             (0xFFFFFFFF, 7200)):
            with self.subTest(wanted=wanted):
                self.fresh()
                asked = b"" if wanted is None else expiry(wanted)
                connack = self.open(V5, properties=asked).connack
                self.assertEqual(connack[:2], (0, 0))
                expected = says | ({} if told is None else {EXPIRY: told})
                self.assertEqual(properties(connack[2]), expected)
                rows = self.gateway.sql("SELECT expiry_s FROM _ws_sessions WHERE client_id = ?",
                                        self.id_)
                self.assertEqual(rows, [(told or wanted,)] if wanted else [])

    def test_v311(self):
        """v311 [MQTT-3.2.2-1], [MQTT-3.2.2-3]: four bytes, no properties."""
        for clean in (True, False):
            wire = self.wire().send(connect_packet(self.id_, V311, clean=clean))
            self.assertEqual(wire.read(), (CONNACK, 0, b"\0\0"))


if __name__ == "__main__":
    main()
