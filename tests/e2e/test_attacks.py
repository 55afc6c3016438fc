#!/usr/bin/env python3
"""Strangers without a password, each beside an honest device and newcomers: in the end every
reading that was acknowledged is there, all that was stored before is there, the gateway lives
within its memory, and its counters say what happened. With WAYSIDE_ATTACKS=1 (./test.sh --attacks)
as large as they were when they did harm."""

import os
import resource
import sqlite3
import struct
import threading
import time
import unittest

from attack import (FACTOR, FOR_EVER, LONG, MB, PEAK_MB, REST_MB, Device, Fortress, Newcomers,
                    address, connected, dial, many_descriptors, of, push, unfinished_publish)
from harness import (PINGREQ, PUBACK, PUBREC, Wire, connect_packet, main, packet, publish_packet,
                     varint, wait_for)


class Attack(unittest.TestCase):
    peak_mb = PEAK_MB
    newcomers_may_fail = 0

    def setUp(self):
        many_descriptors()
        self.open = []

    def start(self, **kwargs):
        self.gateway = Fortress(**kwargs)
        self.gateway.start()
        self.addCleanup(self.gateway.__exit__, None, None, None)
        with Wire(self.gateway.port) as wire:
            wire.connect("before")
            for i in range(500):
                wire.send(publish_packet("raw/before", f"before-{i}", 1, i + 1))
            for i in range(500):
                self.assertEqual(wire.read()[0], PUBACK)
        self.before = [f"before-{i}" for i in range(500)]
        self.device = Device(self.gateway)
        wait_for(lambda: len(self.device.acked) > 3, "the honest device sends")
        self.newcomers = Newcomers(self.gateway)

    def keep(self, s):
        """Until the attack is over."""
        if s is not None:
            self.open.append(s)
        return s

    def check(self, counters=(), least=10):
        """The attack goes on, and then it is over: all is as it should be."""
        had, new = len(self.device.acked), len(self.newcomers.acked)
        wait_for(lambda: len(self.device.acked) >= had + least, "the honest device is served")
        wait_for(lambda: len(self.newcomers.acked) >= new + 2, "newcomers come in during it")
        peak = self.gateway.memory_mb("VmHWM")
        for s in self.open:
            s.close()
        self.open = []
        had, new = len(self.device.acked), len(self.newcomers.acked)
        wait_for(lambda: len(self.device.acked) >= had + 10, "and after it")
        wait_for(lambda: len(self.newcomers.acked) >= new + 1, "newcomers after it, too")
        self.device.stop()
        self.newcomers.stop()
        self.assertIsNone(self.gateway.process.poll(), "the gateway lives")
        wanted = set(self.before) | set(self.device.acked) | set(self.newcomers.acked)
        stored = set(self.gateway.values("raw"))
        self.assertEqual(wanted - stored, set(), "what was acknowledged is there")
        self.assertEqual(sum(n for (n,) in self.gateway.sql("SELECT log_start FROM"
                                                            " _ws_partitions")), 0)
        self.assertLessEqual(len(self.newcomers.failed), self.newcomers_may_fail)
        self.assertLess(peak, self.peak_mb)
        wait_for(lambda: self.gateway.memory_mb() < REST_MB, "memory comes back")
        self.gateway.cli("status", check=0)
        for name in counters:
            wait_for(lambda n=name: self.gateway.counter(n) > 0, f"{name} is counted", 15)
        if counters:
            wait_for(lambda: "strangers: " in self.gateway.log(), "it is logged")
            decisions = self.gateway.status()["gateway"]["strangers"]["decisions"]
            self.assertTrue(decisions)
        print(f"peak {peak:.0f} MB, after it {self.gateway.memory_mb():.0f} MB; the honest device: "
              f"{len(self.device.acked)} readings, the slowest {self.device.slowest_s * 1000:.0f} "
              f"ms, {self.device.reconnects} reconnects; newcomers: {len(self.newcomers.acked)}")


class Memory(Attack):
    def test_unfinished_publish(self):
        self.start()
        for i in range(of(300, 1000)):
            s = self.keep(connected(self.gateway.port, f"evil-{i}", keep_alive=0))
            if s is not None:
                push(s, unfinished_publish(255 * 1024, 253 * 1024))
        self.check(["refused.memory"])

    def test_unfinished_connect(self):
        self.start()
        for i in range(of(200, 1000)):
            s = self.keep(dial(self.gateway.port, address(i // 20)))
            if s is not None:
                push(s, bytes([0x10]) + varint(158 * 1024) + connect_packet("x")[2:] +
                     b"x" * 155 * 1024)
        self.check()

    def test_wills_that_are_held(self):
        self.start()
        will = ("raw/will", b"w" * 60_000, 0, False, b"")
        for i in range(of(400, 900)):
            self.keep(connected(self.gateway.port, f"evil-{i}", keep_alive=0, will=will))
        self.check(["refused.memory"])

    def test_delayed_wills(self):
        self.start()
        will = ("raw/will", b"w" * 60_000, 0, False, b"\x18" + struct.pack(">I", 3600))
        for i in range(of(200, 1000)):
            s = connected(self.gateway.port, f"evil-{i}", version=5, properties=FOR_EVER, will=will)
            if s is not None:
                s.close()
        self.check()

    def test_wills_that_weigh_by_their_properties(self):
        """Held, and delayed."""
        self.start()
        heavy = b"".join(b"\x26\0\1k" + struct.pack(">H", 50_000) + b"v" * 50_000
                         for _ in range(3))
        will = ("raw/will", b"w", 0, False, b"\x18" + struct.pack(">I", 3600) + heavy)
        for i in range(of(400, 900)):
            s = connected(self.gateway.port, f"evil-{i}", version=5, properties=FOR_EVER, will=will)
            if i % 2 == 0:
                self.keep(s)
            elif s is not None:
                s.close()
        self.check(["refused.memory"])

    def test_readings_that_wait_while_the_log_is_held_up(self):
        """No more of them is read than there is room for, and all of it is stored in the end."""
        self.start()
        self.newcomers.stop()
        many = {f"big-{i}": connected(self.gateway.port, f"big-{i}") for i in range(of(300, 800))}
        with sqlite3.connect(self.gateway.data_dir + "/wayside.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            data = publish_packet("raw/big", b"b" * 250_000, 1, 1)
            senders = [threading.Thread(target=push, args=(s, data)) for s in many.values()]
            for t in senders:
                t.start()
            wait_for(lambda: self.gateway.memory_mb() > 25 * FACTOR, "some is read")
            time.sleep(1)  # for more to come, if there is no bound
            peak = self.gateway.memory_mb("VmHWM")
            other.execute("ROLLBACK")
        for t in senders:
            t.join()
        print(f"peak {peak:.0f} MB")
        self.assertLess(peak, self.peak_mb)
        for name, s in many.items():
            s.settimeout(60)
            answer = s.recv(4)
            s.close()
            if answer == b"":  # for want of memory; it sends it again
                with Wire(self.gateway.port) as wire:
                    wire.connect(name)
                    answer = wire.send(data).read()
            self.assertIn(answer, (b"\x40\2\0\1", (PUBACK, 0, b"\0\1")))
        self.device.stop()
        # The view of plain SQL follows a moment after a segment is full.
        wait_for(lambda: self.gateway.sql("SELECT count(*) FROM raw WHERE length(value) = 250000")
                 [0][0] >= len(many), "all are stored")

    def test_topic_caches(self):
        self.start()
        for i in range(of(100, 300)):
            s = self.keep(connected(self.gateway.port, f"evil-{i}" + "x" * 100, keep_alive=0))
            if s is not None:
                push(s, b"".join(publish_packet(f"raw/{i}/{n}/" + "t" * 1000, b"1", 0)
                                 for n in range(64)))
        self.check()

    def test_output_that_is_not_read(self):
        self.start()
        pings = packet(PINGREQ, 0, b"") * 16384
        many = [self.keep(connected(self.gateway.port, f"evil-{i}")) for i in range(of(60, 500))]
        for s in many:
            if s is not None:
                s.settimeout(0.05)
                for _ in range(of(8, 40)):
                    if not push(s, pings):
                        break
        self.check()

    def test_slowly(self):
        self.start()
        many = [self.keep(connected(self.gateway.port, f"evil-{i}")) for i in range(of(100, 500))]
        for s in many:
            if s is not None:
                push(s, unfinished_publish(200 * 1024, 10))
        for _ in range(of(10, 200)):
            for s in many:
                if s is not None:
                    push(s, b"x")
            time.sleep(0.1)
        self.check()

    def test_huge_topics_and_garbage(self):
        self.start()
        for i in range(of(100, 2000)):
            s = connected(self.gateway.port, f"evil-{i}")
            if s is not None:
                push(s, publish_packet("t" * 65_000, b"x", 1, 1))
                s.close()
            s = dial(self.gateway.port)
            if s is not None:
                push(s, bytes([i % 256]) * 2000)
                s.close()
        self.check()


class State(Attack):
    def test_sessions(self):
        self.start(tail='[storage]\nbudget = "64MiB"')
        end = time.monotonic() + of(4, 20)
        n = 0
        while time.monotonic() < end:
            n += 1
            s = connected(self.gateway.port, f"{n}-" + "x" * 110, address(n % 200), version=5,
                          properties=FOR_EVER)
            if s is not None:
                s.close()
        self.check()
        self.assertGreater(n, 500)
        rows, size = self.gateway.sql("SELECT count(*), sum(length(client_id)) FROM"
                                      " _ws_sessions")[0]
        self.assertLess(size, MB)
        self.assertLess(rows, 3000)
        self.assertEqual(self.gateway.sql("SELECT count(*) FROM _ws_sessions WHERE"
                                          " client_id='honest'"), [(1,)])

    def test_sessions_of_one_address(self):
        self.start()
        kept = 0
        for n in range(of(600, 20_000)):
            s = dial(self.gateway.port)
            push(s, connect_packet(f"evil-{n}", 5, properties=FOR_EVER))
            answer = s.recv(256)
            kept += 0 if b"\x11\x00\x00\x00\x00" in answer else 1  # told that it is not kept
            s.close()
        self.assertLess(kept, of(400, 1500))
        self.check(["sessions.not_kept"])

    def test_a_client_id_that_is_too_long(self):
        self.start()
        with Wire(self.gateway.port) as wire:
            self.assertEqual(wire.connect("x" * 129)[1], 2)
        with Wire(self.gateway.port) as wire:
            present, code, rest = wire.connect("x" * 129, version=5)
            self.assertEqual((present, code), (0, 0x85))
            self.assertIn(b"mqtt.client_id_max", rest)
        with Wire(self.gateway.port) as wire:
            self.assertEqual(wire.connect("x" * 128)[1], 0)
        self.device.stop()
        self.newcomers.stop()

    def test_names_of_senders(self):
        self.start(tail='[storage]\nbudget = "64MiB"')
        s = self.keep(connected(self.gateway.port, "evil"))
        for n in range(of(1_500, 8_000)):
            self.assertTrue(push(s, publish_packet(f"raw/{n}/" + "t" * 880, b"x", 0)))
        wait_for(lambda: "new names of senders are not taken" in self.gateway.log(), "it is full")
        with Wire(self.gateway.port) as wire:
            wire.connect("a new device")
            wire.send(publish_packet("raw/new", b"x", 1, 1))
            self.assertEqual(wire.read()[0], PUBACK)
        self.assertEqual(self.gateway.sql("SELECT mqtt_topic FROM _ws_sources WHERE"
                                          " client_id='a new device'"), [("raw/new",)])
        size = self.gateway.sql("SELECT sum(length(client_id) + length(mqtt_topic)) FROM"
                                " _ws_sources")[0][0]
        self.assertLess(size, 2 * MB)
        self.check()

    def test_qos2_without_pubrel(self):
        self.start()
        for i in range(of(3, 100)):
            s = self.keep(connected(self.gateway.port, f"evil-{i}", clean=False))
            push(s, b"".join(publish_packet("raw/x", b"x", 2, n + 1) for n in range(1500)))
        wait_for(lambda: self.gateway.sql("SELECT count(*) FROM _ws_qos2")[0][0] > 0, "some came")
        self.check()
        most = max((n for (n,) in self.gateway.sql("SELECT count(*) FROM _ws_qos2 GROUP BY"
                                                   " session_id")), default=0)
        self.assertLessEqual(most, 1000)
        with Wire(self.gateway.port) as wire:  # it is told, and nobody else suffers
            wire.connect("qos2", clean=False)
            wire.send(publish_packet("raw/q", b"once", 2, 7))
            self.assertEqual(wire.read()[0], PUBREC)


class Places(Attack):
    def silent(self, count, where):
        self.start(mqtt=of("max_connections = 100", ""))
        end = time.monotonic() + of(3, 40)
        while time.monotonic() < end:
            for i in range(count):
                s = self.keep(dial(self.gateway.port, where(i)))
                if s is not None:
                    push(s, b"\x10")
            for s in self.open[:-count]:
                s.close()
            self.open = self.open[-count:]
        self.check(["refused.silent"])

    def test_silent_sockets_of_one_address(self):
        self.silent(of(300, 1064), lambda i: "127.0.0.2")

    def test_silent_sockets_of_the_address_of_the_honest(self):
        self.silent(of(300, 1064), lambda i: "127.0.0.1")

    def test_silent_sockets_of_many_addresses(self):
        self.silent(of(400, 1064), address)

    def full(self, publish):
        self.start(mqtt=of("max_connections = 100", ""))
        count = of(150, 1100)
        for i in range(count):
            s = self.keep(connected(self.gateway.port, f"evil-{i}", address(i % 50), keep_alive=0))
            if s is not None and publish:
                push(s, publish_packet("raw/evil", b"x", 1, 1))

    def test_connects_that_never_send(self):
        self.full(publish=False)
        self.check(["refused.idle"])

    def test_connects_that_send_once(self):
        """Then they are as good as anybody: newcomers wait, and devices known before do not."""
        self.newcomers_may_fail = 10_000
        self.full(publish=True)
        self.newcomers.stop()
        acked, had = self.newcomers.acked, len(self.device.acked)
        self.device.stop()
        device = Device(self.gateway)  # comes anew
        wait_for(lambda: len(device.acked) > 10, "a device known before has a place")
        device.stop()
        for s in self.open:
            s.close()
        stored = set(self.gateway.values("raw"))
        self.assertEqual((set(acked) | set(self.device.acked) | set(device.acked)) - stored, set())
        self.assertGreater(had, 3)

    def test_one_client_id_over_and_over(self):
        """Who waits to take over has a place of its own, and there are so many of those."""
        self.start(mqtt="max_connections = 30")
        with sqlite3.connect(self.gateway.data_dir + "/wayside.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(of(300, 3000)):
                s = self.keep(dial(self.gateway.port))
                if s is not None:
                    push(s, connect_packet("evil"))
            files = len(os.listdir(f"/proc/{self.gateway.process.pid}/fd"))
            other.execute("ROLLBACK")
        self.assertLess(files, of(200, 400))  # 30 places, and 256 whose refusal is on its way
        self.check()

    def test_no_more_descriptors(self):
        self.start()
        pid = self.gateway.process.pid
        had = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = len(os.listdir(f"/proc/{pid}/fd")) + 3
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, had[1]))
        for _ in range(20):
            self.keep(dial(self.gateway.port))
        wait_for(lambda: "could not be accepted" in self.gateway.log(), "they are all in use")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, had)
        self.check()
        wait_for(lambda: self.gateway.counter("refused.accept") > 0, "it is counted", 15)

    def test_newcomers_while_the_log_is_held_up(self):
        self.start(mqtt="max_connections = 5")
        with Wire(self.gateway.port) as wire, sqlite3.connect(
                self.gateway.data_dir + "/wayside.db", isolation_level=None) as other:
            wire.connect("early")
            other.execute("BEGIN IMMEDIATE")

            def held_up():
                wire.send(publish_packet("raw/x", "x", 0))
                self.keep(dial(self.gateway.port))
                push(self.open[-1], connect_packet("late"))
                return "the limit is 10 times mqtt.max_connections = 5" in self.gateway.log()

            wait_for(held_up, "it is said", 30)
            other.execute("ROLLBACK")
        wait_for(lambda: self.gateway.counter("refused.held_up") > 0, "it is counted", 15)
        self.check()

    def test_churn(self):
        self.start()
        end = time.monotonic() + of(4, 30)
        n = 0
        while time.monotonic() < end:
            n += 1
            s = dial(self.gateway.port, address(n % 100))
            if s is not None:
                push(s, connect_packet(f"evil-{n % 5000}", 4, clean=False))
                s.close()
        self.check()
        self.assertGreater(n, 500)

    def known(self, count):
        """Client ids that have stored a reading each."""
        for i in range(count):
            with Wire(self.gateway.port) as wire:
                wire.connect(f"evil-{i}")
                wire.send(publish_packet("raw/evil", "x", 1, 1)).read()

    def test_known_ones_that_idle_put_nobody_out_who_sends(self):
        self.start(mqtt="max_connections = 40")
        self.known(60)
        devices = [Device(self.gateway, f"sends-{i}") for i in range(15)]
        wait_for(lambda: all(len(d.acked) > 2 for d in devices), "they send")
        for i in range(60):
            self.keep(connected(self.gateway.port, f"evil-{i}", keep_alive=0))
        sent = [len(d.acked) for d in devices]
        wait_for(lambda: all(len(d.acked) > n + 2 for d, n in zip(devices, sent)), "all go on")
        for d in devices:
            d.stop()
        self.assertEqual([d.reconnects for d in devices], [0] * 15)
        self.assertGreater(self.gateway.counter("refused.max_connections"), 0)

    @unittest.skipUnless(LONG, "waits half a minute: ./test.sh --attacks")
    def test_known_ones_that_idle_give_way_after_a_while(self):
        self.start(mqtt="max_connections = 40")
        self.newcomers.stop()
        self.known(60)
        for i in range(60):
            self.keep(connected(self.gateway.port, f"evil-{i}", keep_alive=0))
        device = Device(self.gateway, "new")
        wait_for(lambda: len(device.acked) > 2, "a device that is new has a place", 60)
        device.stop()
        self.assertGreater(self.gateway.counter("refused.idle"), 0)

    def test_many_of_one_address_when_there_is_a_limit(self):
        self.start(mqtt="max_connections_per_address = 20")
        many = [self.keep(connected(self.gateway.port, f"evil-{i}")) for i in range(40)]
        self.assertEqual(sum(s is not None for s in many), 20)
        self.check(["refused.address"])


if __name__ == "__main__":
    main()
