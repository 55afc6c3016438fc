"""The wire: wills, sessions, take-over, the bound on connections, and subscriptions (none), packet
by packet against the real binary. Statements are those of MQTT 5.0's appendix B; v311: of 3.1.1.
"""

from harness import *
from test_wire_connect import (DELAY, REASON, RETAINED, V311, V5, WireCase, both, expiry, four,
                               properties, two)


class Wills(WireCase):
    def will(self, retain=False, delay=None, qos=1):
        return ("raw/will", self.tag + "will", qos, retain,
                b"" if delay is None else bytes([DELAY]) + four(delay))

    def await_will(self, retain=False):
        rows = wait_for(lambda: self.rows("mqtt_topic, client_id, attrs"), "the will")
        self.assertEqual([row[:2] for row in rows], [("raw/will", self.id_)])
        self.assertEqual(rows[0][2] & RETAINED, RETAINED if retain else 0)

    @both
    def test_abnormal_close(self, version):
        """[MQTT-3.1.2-7], [MQTT-3.1.2-8], [MQTT-3.1.2-14], [MQTT-3.1.2-15], v311
        [MQTT-3.1.2-8], [MQTT-3.1.2-16], [MQTT-3.1.2-17]; once only: [MQTT-3.1.2-10]."""
        for retain in (False, True):
            self.fresh()
            self.open(version, clean=False, will=self.will(retain, qos=2 * retain)).close()
            self.await_will(retain)
            self.open(version).close()
            self.check_stored("will")

    @both
    def test_after_its_readings(self, version):
        """[MQTT-3.1.2-8]: the will comes behind what its client published."""
        wire = self.open(version, will=self.will())
        wire.send(b"".join(self.publish(str(i), version=version) for i in range(50))).close()
        wait_for(lambda: len(self.stored()) == 51, "50 readings and the will")
        self.assertEqual(self.stored(), [str(i) for i in range(50)] + ["will"])

    @both
    def test_normal_disconnect(self, version):
        """[MQTT-3.1.2-10], [MQTT-3.14.4-3], v311 [MQTT-3.14.4-3]."""
        for reason in (b"",) if version == V311 else (b"", b"\0", b"\0\0"):
            self.leave(self.open(version, will=self.will()), reason)
        self.check_stored()

    def test_disconnect_with_will(self):
        """[MQTT-3.1.2-8], 3.14.2.1: reason 0x04, or any but 0, publishes the will."""
        for reason in (b"\x04", b"\x04\0", b"\x80"):
            self.fresh()
            self.leave(self.open(V5, will=self.will()), reason)
            self.await_will()

    @both
    def test_protocol_error(self, version):
        """[MQTT-3.1.2-8], 3.1.2.5: the server ends the connection for an error."""
        wire = self.open(version, will=self.will()).send(packet(CONNACK, 0, b"\0\0"))
        wire.expect_close()
        self.await_will()

    @both
    def test_no_will_of_a_refused_connect(self, version):
        """v311 [MQTT-3.1.2-8] ("if accepted"), [MQTT-3.1.2-12]: no will flag, no will."""
        refused = connect_packet("y" * 1025, version, will=self.will())
        self.wire().send(refused).expect_close()
        self.open(version).close()
        self.check_stored()

    def test_delay(self):
        """[MQTT-3.1.2-8]: not before its delay, but then."""
        self.open(V5, properties=expiry(60), will=self.will(delay=1)).close()
        began = time.monotonic()
        wait_for(lambda: self.barrier() or time.monotonic() - began > 0.7, "0.7 s")
        self.assertEqual(self.stored(), [])
        self.await_will()
        self.assertGreater(time.monotonic() - began, 0.9)

    def test_delay_and_the_client_is_back(self):
        """[MQTT-3.1.3-9]: back in its session in time, no will; in a new session, at once."""
        self.open(V5, properties=expiry(60), will=self.will(delay=1)).close()
        began = time.monotonic()
        back = self.open(V5, clean=False, properties=expiry(60))
        self.assertEqual(back.connack[0], 1)
        wait_for(lambda: time.monotonic() - began > 1.4, "1.4 s")
        self.check_stored()
        self.fresh()
        self.open(V5, properties=expiry(60), will=self.will(delay=600)).close()
        self.open(V5, clean=True)
        self.await_will()

    def test_delay_beyond_the_session(self):
        """[MQTT-3.1.2-8]: a session that ends with its connection does not wait."""
        self.open(V5, will=self.will(delay=600)).close()
        self.await_will()


class TakeOver(WireCase):
    @both
    def test_same_client_id(self, version):
        """[MQTT-3.1.4-3], [MQTT-3.1.4-4], v311 [MQTT-3.1.4-2]: 0x8E, its will, its session."""
        will = ("raw/will", self.tag + "will", 0, False, b"")
        session = {"clean": False, "properties": expiry(60)}
        old = self.open(version, will=will, **session)
        old.send(self.publish("q2", 2, 5, version)).read()
        new = self.open(version, **session)
        gone = old.expect_close()
        self.assertEqual(new.connack[0], 1)
        new.send(self.publish("q2", 2, 5, version, dup=True))
        self.assertEqual(new.read(), (PUBREC, 0, two(5)))
        self.check_stored("q2", "will")
        self.assertEqual([(p[0], p[2][0]) for p in gone],
                         [(DISCONNECT, 0x8E)] if version == V5 else [])

    def test_before_the_first_was_answered(self):
        """[MQTT-4.1.0-1], [MQTT-3.1.2-23]: the loser's end does not end the winner's session, and
        a QoS 2 reading is still stored once: [MQTT-4.3.3-10]."""
        first = self.open(V5, properties=expiry(100))
        self.leave(first)
        loser, winner = self.wire(), self.wire()
        loser.send(connect_packet(self.id_, V5, clean=False, properties=expiry(0)))
        winner.send(connect_packet(self.id_, V5, clean=False, properties=expiry(100)))
        # Present, unless the loser was answered after all: then its end has ended the session.
        self.assertIn(winner.read()[2][:2], (b"\x01\0", b"\0\0"))
        loser.expect_close()
        winner.send(self.publish("once", 2, 7, V5))
        self.assertEqual(winner.read(), (PUBREC, 0, two(7)))
        winner.close()
        back = self.open(V5, clean=False, properties=expiry(100))
        back.send(self.publish("once", 2, 7, V5, dup=True))
        self.assertEqual(back.read(), (PUBREC, 0, two(7)))
        self.check_stored("once")
        self.assertEqual(back.connack[0], 1)


    def test_who_waits_and_goes_lets_the_next_one_in(self):
        """A client comes again and again while its session cannot be opened. Some of those that
        come leave before it is their turn: the others follow each other, and the last one stays."""
        def come():
            wire = self.wire().send(connect_packet(self.id_, V5, clean=False,
                                                   properties=expiry(600)))
            self.turn()
            return wire

        for leave in ((), (0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3), (0, 1, 2, 3)):
            with self.subTest(leave=leave):
                self.fresh()
                with contextlib.closing(sqlite3.connect(
                        self.gateway.data_dir + "/wayside.db", isolation_level=None)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    waiting = [come() for _ in range(4)]
                    for i in leave:
                        waiting[i].close()
                        self.turn()
                    last = come()
                    other.execute("ROLLBACK")
                for i in set(range(4)) - set(leave):
                    self.assertEqual([p[0] for p in waiting[i].expect_close()],
                                     [CONNACK, DISCONNECT])
                self.assertEqual(last.read()[::2][1][1], 0)
                last.send(packet(PINGREQ, 0, b""))
                self.assertEqual(last.read()[0], PINGRESP)
                gone = "SELECT disconnected_ms IS NOT NULL FROM _ws_sessions WHERE client_id = ?"
                self.assertEqual(self.gateway.sql(gone, self.id_), [(0,)])
                last.close()
                wait_for(lambda: self.gateway.sql(gone, self.id_) == [(1,)], "it is closed")

    def turn(self):
        """What was sent before has been read: this is answered after it."""
        self.wire().send(packet(PINGREQ, 0, b"")).expect_close()


class Sessions(WireCase):
    OPTIONS = {"head": '[clock]\ntrust = "always"'}

    def keep(self, version, seconds=600, **kwargs):
        return self.open(version, clean=False,
                         properties=expiry(seconds) if version == V5 else b"", **kwargs)

    @both
    def test_present(self, version):
        """[MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.1.2-23], [MQTT-3.2.2-3], v311 [MQTT-3.1.2-4],
        [MQTT-3.2.2-2], [MQTT-3.2.2-3]: also after a clean DISCONNECT."""
        wire = self.keep(version)
        self.assertEqual(wire.connack[0], 0)
        self.leave(wire)
        wire = self.keep(version)
        self.assertEqual(wire.connack[0], 1)
        wire.close()
        self.assertEqual(self.keep(version).connack[0], 1)

    @both
    def test_clean_start(self, version):
        """[MQTT-3.1.2-4], [MQTT-3.2.2-2], v311 [MQTT-3.1.2-6], [MQTT-3.2.2-1]: an open QoS 2
        handshake goes too, so that its identifier is a new reading."""
        self.keep(version).send(self.publish("q2", 2, 5, version)).read()
        wire = self.open(version, clean=True)
        self.assertEqual(wire.connack[0], 0)
        wire.send(self.publish("q2", 2, 5, version)).read()
        self.leave(wire)
        self.assertEqual(self.keep(version).connack[0], 0)
        self.check_stored("q2", "q2")

    @both
    def test_qos2_over_connections(self, version):
        """[MQTT-4.1.0-1], [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.4.0-1] (a client resends)."""
        self.keep(version).send(self.publish("q2", 2, 5, version)).read()
        wire = self.keep(version).send(self.publish("q2", 2, 5, version, dup=True))
        self.assertEqual(wire.read(), (PUBREC, 0, two(5)))
        wire.close()
        wire = self.keep(version).send(pubrel_packet(5))
        self.assertEqual(wire.read(), (PUBCOMP, 0, two(5)))
        wire.close()
        wire = self.keep(version).send(self.publish("new", 2, 5, version))
        self.assertEqual(wire.read(), (PUBREC, 0, two(5)))
        self.check_stored("q2", "new")

    def test_kill(self):
        """[MQTT-3.1.2-23], [MQTT-4.3.3-10]: a session and its identifiers survive kill -9."""
        with Gateway(commit='linger = "2ms"') as gateway:
            for version in (V311, V5):
                with Wire(gateway.port) as wire:
                    wire.connect(f"k{version}", version, clean=False, properties=expiry(600))
                    wire.send(publish_packet("raw/k", f"k{version}", 2, 3, version)).read()
            gateway.kill()
            gateway.start()
            for version in (V311, V5):
                with Wire(gateway.port) as wire:
                    connack = wire.connect(f"k{version}", version, clean=False)
                    self.assertEqual(connack[:2], (1, 0))
                    wire.send(publish_packet("raw/k", f"k{version}", 2, 3, version, dup=True))
                    self.assertEqual(wire.read(), (PUBREC, 0, two(3)))
                    wire.send(pubrel_packet(3))
                    self.assertEqual(wire.read(), (PUBCOMP, 0, two(3)))
            self.assertEqual(gateway.values("raw"), ["k4", "k5"])

    def test_expiry_at_disconnect(self):
        """[MQTT-4.1.0-2], 3.14.2.2.2: DISCONNECT may set another expiry, but not out of nothing."""
        self.leave(self.keep(V5, 600), b"\0\x05" + expiry(0))
        wire = self.keep(V5, 1)
        self.assertEqual(wire.connack[0], 0)
        self.leave(wire, b"\0\x05" + expiry(500))
        self.barrier()
        rows = "SELECT expiry_s FROM _ws_sessions WHERE client_id = ? AND disconnected_ms > 0"
        self.assertEqual(self.gateway.sql(rows, self.id_), [(500,)])
        wire = self.keep(V5, 0)
        self.assertEqual(wire.connack[0], 1)
        wire.send(packet(DISCONNECT, 0, b"\0\x05" + expiry(500)))
        self.check_ended(wire, V5, 0x82)
        self.assertEqual(self.keep(V5).connack[0], 0)

    def test_expiry(self):
        """[MQTT-4.1.0-2]: absent for longer than its expiry, a session is not there."""
        self.keep(V5, 1).close()
        row = "SELECT disconnected_ms FROM _ws_sessions WHERE client_id = ? AND disconnected_ms > 0"
        left = wait_for(lambda: self.gateway.sql(row, self.id_), "the session is closed")[0][0]
        wait_for(lambda: time.time() * 1000 > left + 1050, "its second is over")
        self.assertEqual(self.keep(V5).connack[0], 0)


class Connections(WireCase):
    OPTIONS = {"mqtt": "max_connections = 3"}

    def test_max_connections(self):
        """[MQTT-3.1.4-2], [MQTT-3.2.2-6], [MQTT-3.2.2-7], v311 [MQTT-3.2.2-4], [MQTT-3.2.2-5]."""
        inside = self.fill()
        self.check_refused_busy()
        for wire in inside:  # nobody else is hurt
            wire.send(packet(PINGREQ, 0, b""))
            self.assertEqual(wire.read(), (PINGRESP, 0, b""))
        inside[0].close()
        wait_for(self.comes_in, "a place is free again", 5)

    def test_those_refused_take_no_place(self):
        """max_connections counts those who are in: a crowd before the door keeps nobody out."""
        inside = self.fill()
        crowd = [self.wire() for _ in range(3)]  # one too many each, and they say nothing
        self.check_refused_busy()
        self.leave(inside[0])
        inside[0].close()
        wait_for(self.comes_in, "a place is free again", 3)
        self.assertEqual(len(crowd), 3)

    def test_who_never_sent_anything_gives_way(self):
        """The one connected longest, and only for want of places; it is told nothing."""
        inside = self.fill()
        inside[1].close()
        def idle_comes_in():
            wire = self.wire()
            with contextlib.suppress(Closed):
                if wire.connect("idle", V5)[1] == 0:
                    return wire
            wire.close()
            return None
        idle = wait_for(idle_comes_in, "a place is free")
        with Wire(self.gateway.port) as wire:
            self.assertEqual(wire.connect(self.id_, V5)[1], 0)
            self.assertEqual(idle.expect_close(), [])
        for wire in (inside[0], inside[2]):
            wire.send(packet(PINGREQ, 0, b""))
            self.assertEqual(wire.read(), (PINGRESP, 0, b""))

    def fill(self):
        wires = []

        def comes_in():
            wire = self.wire()
            with contextlib.suppress(Closed):
                if wire.connect(f"in{len(wires)}", V311)[1] == 0:
                    # One that has sent nothing would make place for the next.
                    wire.send(publish_packet("elsewhere", b"x", 1, 1))
                    self.assertEqual(wire.read()[0], PUBACK)
                    wires.append(wire)
                    return len(wires) == 3
            wire.close()
            return False
        wait_for(comes_in, "three are in")
        return wires

    def comes_in(self):
        with Wire(self.gateway.port) as wire, contextlib.suppress(Closed):
            return wire.connect(self.id_, V5)[1] == 0
        return False

    def check_refused_busy(self):
        """For now: 3.1.1 is told so; version 5 is closed, for some clients never come back else."""
        for version in (V311, V5):
            wire = self.wire().send(connect_packet(self.id_, version)
                                    + self.publish("busy", 1, 1, version))
            got = wire.expect_close()
            self.assertEqual([(p[0], p[2][:2]) for p in got],
                             [(CONNACK, b"\0\3")] if version == V311 else [])
        self.assertEqual(self.stored(), [])


class Subscriptions(WireCase):
    """None are served, and that is what every answer says."""

    @both
    def test_subscribe(self, version):
        """[MQTT-2.2.1-6], [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-5 to 7], [MQTT-3.9.3-1],
        [MQTT-3.9.3-2]; no PUBLISH follows, and the connection stays."""
        wire = self.open(version)
        options = (b"\0", b"\1", b"\2") if version == V311 else (b"\0", b"\2", b"\x2c")
        filters = b"".join(utf8("raw/x") + option for option in options)
        wire.send(packet(SUBSCRIBE, 2, two(513) + (b"\0" if version == V5 else b"") + filters))
        kind, _, body = wire.read()
        self.assertEqual((kind, body[:2]), (SUBACK, two(513)))
        self.assertEqual(body[-3:], b"\x80" * 3 if version == V311 else b"\x83" * 3)
        if version == V5:
            self.assertIn("no subscriptions", properties(body[2:-3])[REASON])
        wire.send(self.publish("a", 1, 1, version))
        self.assertEqual(wire.read(), (PUBACK, 0, two(1)))
        wire.send(packet(PINGREQ, 0, b""))
        self.assertEqual(wire.read(), (PINGRESP, 0, b""))

    def test_seen(self):
        """Refused ones are counted, and seen: which device asked for what."""
        with Gateway(commit='linger = "2ms"') as gateway, Wire(gateway.port) as wire:
            wire.connect("stat", V311)
            filters = b"".join(utf8(f"cmd/{n}/#") + b"\0" for n in range(5))
            for n in range(3):
                wire.send(packet(SUBSCRIBE, 2, two(n + 1) + filters)).read()
            self.assertRegex(gateway.log(), r"client 'stat' at 127\.0\.0\.1:\d+ asked to subscribe "
                             r"to 'cmd/0/#', 'cmd/1/#', 'cmd/2/#' and 2 more.*mqtt\.subscribe")
            self.assertRegex(gateway.cli("devices", check=0).stdout, "stat .*'cmd/0/#'")
            wire.send(publish_packet("raw/x", "x", 1, 1)).read()
            self.assertEqual(gateway.sql("SELECT value FROM _ws_counters"
                                         " WHERE name = 'refused.subscribe'"), [(3,)])

    @both
    def test_unsubscribe(self, version):
        """[MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-3.11.3-2]."""
        head = two(7) + (b"\0" if version == V5 else b"")
        wire = self.open(version).send(packet(UNSUBSCRIBE, 2, head + utf8("a") + utf8("b/#")))
        self.assertEqual(wire.read(), (UNSUBACK, 0, head + (b"\x11\x11" if version == V5 else b"")))

    @both
    def test_malformed(self, version):
        """[MQTT-2.2.1-3], [MQTT-3.8.3-1], [MQTT-3.8.3-2], [MQTT-3.8.3-5], [MQTT-3.10.3-1],
        [MQTT-3.10.3-2], [MQTT-4.7.3-1], v311 [MQTT-3.8.3-3], [MQTT-3-8.3-4]."""
        head = two(1) + (b"\0" if version == V5 else b"")
        zero = two(0) + (b"\0" if version == V5 else b"")
        reserved = 0x40 if version == V5 else 4
        for kind, body, reason in (
                (SUBSCRIBE, head, 0x82), (UNSUBSCRIBE, head, 0x82),
                (SUBSCRIBE, zero + utf8("a") + b"\0", 0x82), (UNSUBSCRIBE, zero + utf8("a"), 0x82),
                (SUBSCRIBE, head + utf8("a"), 0x81), (SUBSCRIBE, head + utf8("a") + b"\3", 0x81),
                (SUBSCRIBE, head + utf8("a") + bytes([reserved]), 0x81),
                (SUBSCRIBE, head + utf8("") + b"\0", 0x81),
                (SUBSCRIBE, head + utf8(b"\0") + b"\0", 0x81),
                (UNSUBSCRIBE, head + utf8(b"\xff"), 0x81), (UNSUBSCRIBE, head + b"\0\5a", 0x81)):
            with self.subTest(kind=kind, body=body):
                self.check_ended(self.open(version).send(packet(kind, 2, body)), version, reason)

    def test_protocol_errors_of_options(self):
        """[MQTT-3.8.3-4], 3.8.3.1: No Local on a shared subscription; Retain Handling 3."""
        for topic, options in (("$share/g/a", 4), ("a", 0x30)):
            with self.subTest(topic=topic):
                data = two(1) + b"\0" + utf8(topic) + bytes([options])
                kind, _, body = self.open(V5).send(packet(SUBSCRIBE, 2, data)).read()
                self.assertEqual((kind, body[0]), (DISCONNECT, 0x82))


class Granted(WireCase):
    """mqtt.subscribe = "grant": yes is said, and nothing is sent."""

    OPTIONS = {"mqtt": 'subscribe = "grant"'}

    @both
    def test_granted(self, version):
        """[MQTT-3.8.4-5], [MQTT-3.9.3-2], [MQTT-3.10.4-4]: each filter with its own QoS."""
        wire, other = self.open(version), self.open(version, self.id_ + "-other")
        head = b"\0" if version == V5 else b""
        filters = b"".join(utf8("raw/#") + bytes([qos]) for qos in (0, 1, 2))
        wire.send(packet(SUBSCRIBE, 2, two(513) + head + filters))
        self.assertEqual(wire.read(), (SUBACK, 0, two(513) + head + b"\0\1\2"))
        for w in (wire, other):
            w.send(self.publish("a", 1, 1, version, retain=True))
            self.assertEqual(w.read(), (PUBACK, 0, two(1)))
        wire.send(packet(UNSUBSCRIBE, 2, two(7) + head + utf8("raw/#") + utf8("b")))
        self.assertEqual(wire.read(), (UNSUBACK, 0, two(7) + head
                                       + (b"\0\0" if version == V5 else b"")))
        wire.send(packet(PINGREQ, 0, b""))
        self.assertEqual(wire.read(), (PINGRESP, 0, b""))
        self.assertNotIn(self.id_, self.gateway.log())

    @both
    def test_wildcards_where_they_may_not_stand(self, version):
        """[MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.8.2-1], [MQTT-4.8.2-2]: refused one by one."""
        wire = self.open(version)
        head = b"\0" if version == V5 else b""
        sound = ["#", "+", "/", "+/+", "/+", "a/#", "+/a/#", "$share/g/a", "$share/g/#", "a b", "$"]
        bad = ["#/a", "a#", "a/b#", "a/#/b", "a+", "+a", "a+/b", "a/+b", "##", "++", "/#/", "+#"]
        bad += ["$share/g+/a", "$share/#/a"]
        shared = ["$share//a", "$share/g", "$share/g/", "$share/"]  # names like others in 3.1.1
        code = 0x8F if version == V5 else 0x80
        for filters, expected in ((sound, 1), (bad, code), (shared, code if version == V5 else 1)):
            for name in filters:
                with self.subTest(filter=name):
                    wire.send(packet(SUBSCRIBE, 2, two(9) + head + utf8("a/+") + b"\2"
                                     + utf8(name) + b"\1"))
                    self.assertEqual(wire.read(), (SUBACK, 0, two(9) + head
                                                   + bytes([2, expected])))
                    wire.send(packet(UNSUBSCRIBE, 2, two(9) + head + utf8(name)))
                    self.assertEqual(wire.read()[2][3:],
                                     bytes([0 if expected == 1 else code] * (version == V5)))


class ForeignAcknowledgements(WireCase):
    """Of what another server had sent in a session that the client still has: the gateway sends
    no PUBLISH, and helps the client to forget it. The connection stays."""

    @both
    def test_ignored_or_completed(self, version):
        """5.0: 3.5.2.1, 4.3.3; v311 4.3.3."""
        wire = self.open(version)
        for kind, answered in ((PUBACK, False), (PUBCOMP, False), (PUBREC, True)):
            forms = [b""] + [b"\0", b"\x10", b"\0\0", b"\x80", b"\x92\0"] * (version == V5)
            for reason in forms:
                with self.subTest(kind=kind, reason=reason):
                    wire.send(packet(kind, 0, two(77) + reason))
                    if answered and reason[:1] < b"\x80":
                        self.assertEqual(wire.read(), (PUBREL, 2, two(77)
                                                       + b"\x92" * (version == V5)))
                    wire.send(self.publish("a", 1, 1, version))
                    self.assertEqual(wire.read(), (PUBACK, 0, two(1)))

    @both
    def test_malformed(self, version):
        """[MQTT-2.2.1-3] and the packets' lengths."""
        for kind in (PUBACK, PUBREC, PUBCOMP):
            for body, reason in ((b"", 0x81), (b"\0", 0x81), (two(0), 0x82),
                                 (two(1) + b"\0\0\0", 0x81)):
                with self.subTest(kind=kind, body=body):
                    wire = self.open(version).send(packet(kind, 0, body))
                    self.check_ended(wire, version, reason)


if __name__ == "__main__":
    main()
