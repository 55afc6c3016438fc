#!/usr/bin/env python3
"""The room of the log, on a real file system of its own where one can be mounted (ext4 on a loop
device, else tmpfs; the test says which): what is left free, what goes first, what is kept until it
is sent, and that ingest goes on by itself."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import PUBACK, Closed, Gateway, Wire, main, publish_packet, wait_for  # noqa: E402
from upstream import Receiver  # noqa: E402

MB = 1 << 20


def topic(name, more=""):
    return (f'[[topic]]\nname = "{name}"\n{more}\n[[route]]\nmqtt = "{name}/#"\ntopic = "{name}"\n'
            'payload = "raw"\n')


class Room(unittest.TestCase):
    def mount(self, megabytes):
        directory = tempfile.mkdtemp(prefix="wayside-room-")
        image = directory + ".img"
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        ext4 = (f"truncate -s {megabytes}M {image} && mkfs.ext4 -q -m 0 {image} && "
                f"mount -o loop {image} {directory}")
        ran = subprocess.run(ext4, shell=True, capture_output=True, check=False).returncode == 0
        kind = "ext4 on a loop device"
        if not ran:
            kind = "tmpfs"
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs",
                                   directory], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                self.skipTest(f"no file system can be mounted here: {done.stderr.strip()}")
        self.addCleanup(lambda: os.path.exists(image) and os.unlink(image))
        self.addCleanup(subprocess.run, ["umount", "-l", directory], check=True)
        print(f"on {kind}, {megabytes} MB", file=sys.stderr)
        return directory

    def gateway(self, directory, **kwargs):
        gateway = Gateway(directory=directory, commit='linger = "5ms"', **kwargs)
        gateway.log_path = directory + ".log"
        self.addCleanup(lambda: os.path.exists(gateway.log_path) and os.unlink(gateway.log_path))
        return gateway

    def fill(self, gateway, name, count, seconds=60, size=1000):
        """Publishes so many readings of `size` bytes; returns the values acknowledged."""
        acked, n, deadline = [], 0, time.monotonic() + seconds
        while n < count and time.monotonic() < deadline:
            try:
                with Wire(gateway.port, timeout=5) as wire:
                    wire.connect(f"filler-{name}")
                    while n < count and time.monotonic() < deadline:
                        values = [f"{name}-{i}-".ljust(size, "x") for i in range(n, n + 50)]
                        n += 50
                        wire.send(b"".join(publish_packet(f"{name}/x", v, 1, k + 1)
                                           for k, v in enumerate(values)))
                        for v in values:
                            self.assertEqual(wire.read()[0], PUBACK)
                            acked.append(v)
            except (Closed, OSError):
                continue
        return acked

    def free(self, directory):
        s = os.statvfs(directory)
        return s.f_bavail * s.f_frsize

    def test_so_much_is_left_free(self):
        directory = self.mount(160)
        with self.gateway(directory, topics=topic("a"),
                          tail='[storage]\nkeep_free = "9MiB"\nsegment_rows = 2000') as gateway:
            acked = self.fill(gateway, "a", 60_000, 120, size=4000)
            self.assertGreater(len(acked), 50_000)
            self.assertGreater(self.free(directory), 8 * MB)
            known = set(acked)  # a reading of a broken connection may be there as well
            # The view of plain SQL follows in an idle moment after a segment was closed.
            wait_for(lambda: acked[-1] in gateway.values("a"), "the view has the newest")
            stored = [v for v in gateway.values("a") if v in known]
            if stored != acked[-len(stored):]:
                expected = acked[-len(stored):]
                at = next(i for i, (a, b) in enumerate(zip(stored, expected)) if a != b)
                self.fail(f"not the newest in order: {stored[at][:12]} where {expected[at][:12]} "
                          f"belongs, {at} of {len(stored)}")
            self.assertGreater(len(stored), 15_000)
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_others_fill_the_disk_and_a_technician_holds_a_snapshot(self):
        directory = self.mount(120)
        with self.gateway(directory, topics=topic("a"), tail="[storage]\nsegment_rows = 1000"
                          ) as gateway:
            acked = self.fill(gateway, "a", 10_000)
            held = sqlite3.connect(gateway.data_dir + "/wayside.db")
            held.execute("BEGIN")
            held.execute("SELECT count(*) FROM a").fetchone()
            os.unlink(gateway.data_dir + "/wayside.db.ballast")
            with open(directory + "/others", "wb") as f:
                try:
                    while True:
                        f.write(b"o" * 65536)
                        f.flush()
                except OSError:
                    pass
            acked += self.fill(gateway, "a", 2_000, 10)
            held.close()
            os.unlink(directory + "/others")
            more = wait_for(lambda: self.fill(gateway, "a", 500, 5), "ingest resumes by itself")
            # A segment is in the view a moment after it was begun.
            wait_for(lambda: gateway.values("a")[-1] == more[-1], "the last one is shown")
            stored = gateway.values("a")
            expired = gateway.sql("SELECT log_start FROM _ws_partitions JOIN _ws_topics USING"
                                  " (topic_id) WHERE name='a'")[0][0]
            missing = [v for v in acked if v not in set(stored)]
            self.assertLessEqual(len(missing), expired, "what is not there was dropped")
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)
            wait_for(lambda: os.path.exists(gateway.data_dir + "/wayside.db.ballast"),
                     "the ballast is made anew")

    def test_low_priority_goes_first(self):
        with Gateway(commit='linger = "5ms"',
                     topics=topic("low", 'priority = "low"') + topic("high", 'priority = "high"'),
                     tail='[storage]\nbudget = "64MiB"\nsegment_rows = 1000') as gateway:
            self.fill(gateway, "high", 10_000)
            self.fill(gateway, "low", 40_000)
            self.fill(gateway, "high", 8_000)
            log_start = ("SELECT log_start FROM _ws_partitions JOIN _ws_topics USING (topic_id)"
                         " WHERE name=?")
            wait_for(lambda: gateway.sql(log_start, "low")[0][0] > 0, "dropped")
            self.assertEqual(gateway.sql(log_start, "high"), [(0,)])
            size = sum(os.path.getsize(os.path.join(gateway.data_dir, f))
                       for f in ("wayside.db", "wayside.db-wal"))
            self.assertLess(size, 64 * MB)

    def test_what_is_unsent_is_kept_and_other_topics_go_on(self):
        with Receiver() as upstream:
            upstream.mode("500")
            bridge = (f'[[bridge]]\nname = "up"\ntopics = ["keep"]\nto = "{upstream.url}"\n'
                      'linger = "10ms"\nretry_max = "200ms"\n')
            with Gateway(commit='linger = "5ms"', head="",
                         topics=topic("keep", "keep_unsent = true") + topic("other") + bridge,
                         tail='[storage]\nbudget = "64MiB"\nsegment_rows = 1000') as gateway:
                kept = []
                wait_for(lambda: kept.extend(self.fill(gateway, f"keep/{len(kept)}", 2000, 5)) or
                         "keep_unsent" in gateway.cli("status", check=0).stdout,
                         "it is refused when there is no room", 120)
                self.assertGreater(len(kept), 20_000)
                other = self.fill(gateway, "other", 20_000, 120)
                # At the limit a commit may fail before a segment goes: a device sends that again.
                self.assertGreater(len(other), 10_000, "other topics are acknowledged")
                self.assertLessEqual(set(kept), set(gateway.values("keep")))
                upstream.mode("ok")
                wait_for(lambda: set(upstream.values()) >= set(kept), "all of it is sent", 60)
                more = wait_for(lambda: self.fill(gateway, "keep", 1000, 10), "and it goes on")
                self.assertTrue(more)
                self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_keep_unsent_without_a_bridge_is_told(self):
        gateway = Gateway(topics=topic("keep", "keep_unsent = true"))
        self.addCleanup(shutil.rmtree, gateway.directory)
        told = gateway.cli("check", check=78)
        self.assertIn("no bridge sends it", told.stdout + told.stderr)


if __name__ == "__main__":
    main()
