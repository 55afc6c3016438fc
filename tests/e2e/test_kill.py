"""kill -9 of the gateway in a loop while paced devices publish QoS 1 and 2 with persistent
sessions: what was acknowledged is in the log, QoS 2 exactly once, every offset is one row."""

import collections
import os
import struct
import threading
import time
import unittest

import harness
from harness import (PUBACK, PUBCOMP, PUBREC, Closed, Gateway, Wire, main, publish_packet,
                     pubrel_packet, seeded, wait_for)

KILLS = 12


class Device(threading.Thread):
    """Publishes one reading after the other, a few at a time, and sends again after a lost
    connection what was not acknowledged: the same packet identifier, DUP set."""

    WINDOW = 4
    IDS = 8  # few, so that each is used again and again

    def __init__(self, gateway, name, qos, version, pause_s):
        super().__init__(name=name, daemon=True)
        self.gateway, self.qos, self.version, self.pause_s = gateway, qos, version, pause_s
        self.sent = 0
        self.acked = []
        self.pending = collections.OrderedDict()  # packet id -> [value, "publish" or "pubrel"]
        self.stop = threading.Event()
        self.error = None
        self.session_lost = 0

    def run(self):
        try:
            while not self.stop.is_set() or self.pending:
                try:
                    self.converse()
                except (Closed, OSError):
                    time.sleep(0.01)
        except Exception as e:  # for the test to see
            self.error = e

    def converse(self):
        with Wire(self.gateway.port, timeout=5) as wire:
            properties = b"\x11" + struct.pack(">I", 3600) if self.version == 5 else b""
            present, code, _ = wire.connect(self.name, self.version, clean=False,
                                            properties=properties)
            assert code == 0, code
            if not present:
                # Only a client that was never answered may find no session.
                self.session_lost += 1
                assert not self.acked or not any(s == "pubrel" for _, s in self.pending.values())
            for packet_id, (value, state) in self.pending.items():
                if state == "pubrel":
                    wire.send(pubrel_packet(packet_id))
                else:
                    wire.send(self.packet(packet_id, value, True))
            while not self.stop.is_set() or self.pending:
                if len(self.pending) < self.WINDOW and not self.stop.is_set():
                    self.sent += 1
                    packet_id = self.sent % self.IDS + 1
                    if packet_id not in self.pending:
                        value = f"{self.name}-{self.sent}"
                        self.pending[packet_id] = [value, "publish"]
                        wire.send(self.packet(packet_id, value, False))
                        time.sleep(self.pause_s)
                        continue
                    self.sent -= 1
                self.take(wire)

    def take(self, wire):
        kind, _, body = wire.read()
        packet_id = struct.unpack(">H", body[:2])[0]
        if kind == PUBREC:
            self.pending[packet_id][1] = "pubrel"
            wire.send(pubrel_packet(packet_id))
        elif kind in (PUBACK, PUBCOMP):
            self.acked.append(self.pending.pop(packet_id)[0])
        else:
            raise AssertionError(f"packet type {kind}")

    def packet(self, packet_id, value, dup):
        return publish_packet(f"raw/{self.name}", value, self.qos, packet_id, self.version, dup)


def violations(gateway, devices):
    """What is wrong with the log, in words."""
    stored = collections.Counter(gateway.values("raw"))
    out = []
    for d in devices:
        lost = [v for v in d.acked if stored[v] == 0]
        if lost:
            out.append(f"{d.name}: {len(lost)} of {len(d.acked)} acknowledged readings are lost")
        twice = [v for v in d.acked if stored[v] > 1]
        if twice and d.qos == 2:
            out.append(f"{d.name}: {len(twice)} QoS 2 readings are stored twice: {twice[:3]}")
    return out


def run_kills(test, rng, program=None, kills=KILLS):
    with Gateway(program=program, commit='linger = "30ms"') as gateway:
        devices = [Device(gateway, f"d{i}", 1 + i % 2, 4 if i % 4 < 2 else 5, 0.002 + 0.001 * i)
                   for i in range(8)]
        for d in devices:
            d.start()
        for _ in range(kills):
            before = sum(len(d.acked) for d in devices)
            wait_for(lambda: sum(len(d.acked) for d in devices) > before + 20, "acknowledgements")
            time.sleep(rng.random() * 0.2)  # the random moment is the point
            gateway.kill()
            gateway.start()
        for d in devices:
            d.stop.set()
        for d in devices:
            d.join(30)
            test.assertIsNone(d.error, d.error)
            test.assertFalse(d.is_alive(), f"{d.name} waits for {d.pending}")
        gateway.check_offsets()
        acked = sum(len(d.acked) for d in devices)
        return acked, violations(gateway, devices)


class Kill(unittest.TestCase):
    def test_what_was_acknowledged_is_there_and_qos_2_once(self):
        acked, wrong = run_kills(self, seeded("kill"))
        print(f"DID kill -9 at random moments | {KILLS} | {acked}")
        self.assertEqual(wrong, [])
        self.assertGreater(acked, 500)

    def test_a_kill_between_pubrel_and_its_commit_then_the_id_reused(self):
        # The linger is long, and a first PUBREL has nobody to hurry for: the kill comes before it.
        with Gateway(commit='linger = "10s"\nrecords = 1') as gateway:
            wire = Wire(gateway.port)
            wire.connect("pump", 5, clean=False, properties=b"\x11\x00\x00\x0e\x10")
            wire.send(publish_packet("raw/pump", "first", 2, 7, 5))
            self.assertEqual(wire.read()[0], PUBREC)
            gateway.kill()
            wire.close()
            gateway.edit("records = 1", "records = 500")
            gateway.start()
            wire = Wire(gateway.port)
            present, _, _ = wire.connect("pump", 5, clean=False, properties=b"\x11\x00\x00\x0e\x10")
            self.assertEqual(present, 1)
            wire.send(pubrel_packet(7)).send(b"\xc0\x00")
            self.assertEqual(wire.read()[0], 13)  # PINGRESP: the PUBREL before it was taken
            wire.close()
            gateway.kill()
            gateway.edit('linger = "10s"', 'linger = "5ms"')
            gateway.start()
            wire = Wire(gateway.port)
            present, _, _ = wire.connect("pump", 5, clean=False, properties=b"\x11\x00\x00\x0e\x10")
            self.assertEqual(present, 1)
            # The client does not know; it asks again, as it must, and then uses the id anew.
            wire.send(pubrel_packet(7))
            kind, _, body = wire.read()
            self.assertEqual((kind, body[:2]), (PUBCOMP, b"\x00\x07"))
            wire.send(publish_packet("raw/pump", "second", 2, 7, 5))
            self.assertEqual(wire.read()[0], PUBREC)
            wire.close()
            self.assertEqual(gateway.values("raw"), ["first", "second"])

    def test_sigterm_acknowledges_what_it_took(self):
        with Gateway(commit='linger = "5s"') as gateway:
            wire = Wire(gateway.port)
            wire.connect("late")
            wire.send(publish_packet("raw/late", "last words", 1, 1)).send(b"\xc0\x00")
            self.assertEqual(wire.read()[0], 13)
            self.assertEqual(gateway.stop(), 0)
            self.assertEqual(wire.read(), (PUBACK, 0, b"\x00\x01"))
            wire.close()
            self.assertEqual(gateway.values("raw"), ["last words"])


class TestOfTheTest(unittest.TestCase):
    def test_a_gateway_that_acknowledges_on_receipt_is_found_out(self):
        _, wrong = run_kills(self, seeded("mutant"), program=harness.MUTANT)
        self.assertTrue(any("are lost" in w for w in wrong), "the mutant was not found out")

    def test_an_identifier_that_is_removed_after_pubcomp_is_found_out(self):
        """PUBCOMP before the removal is committed: the client uses the identifier anew, and after
        a kill the new reading is taken for the old one."""
        with Gateway(program=harness.MUTANT, commit='linger = "5ms"',
                     env={**os.environ, "MUTANT": "qos2"}) as gateway:
            with Wire(gateway.port) as wire:
                wire.connect("pump", 5, clean=False, properties=b"\x11\x00\x00\x0e\x10")
                wire.send(publish_packet("raw/pump", "first", 2, 7, 5))
                self.assertEqual(wire.read()[0], PUBREC)
                wire.send(pubrel_packet(7))
                self.assertEqual(wire.read()[0], PUBCOMP)
            gateway.kill()
            gateway.start()
            with Wire(gateway.port) as wire:
                wire.connect("pump", 5, clean=False, properties=b"\x11\x00\x00\x0e\x10")
                wire.send(publish_packet("raw/pump", "second", 2, 7, 5))
                self.assertEqual(wire.read()[0], PUBREC)
            self.assertEqual(gateway.values("raw"), ["first"], "the mutant swallows the second")


if __name__ == "__main__":
    main()
