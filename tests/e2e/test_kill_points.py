#!/usr/bin/env python3
"""kill -9 at named points of the write path, by strace: at the n-th write to the WAL (mid-batch),
at its sync (after the write, before the commit has returned), at the n-th acknowledgement (after
the commit, before the ack), at a write and a sync of the database (checkpoint, roll, drop, views),
and at each step of a write of the sidecar. What was acknowledged is there, the log is sound."""

import os
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Closed, Gateway, Wire, main, publish_packet, seeded, wait_for  # noqa: E402

# name, system calls, path of the file (None: any), the most calls before the kill
POINTS = [
    ("mid-batch", "pwrite64", "wayside.db-wal", 400),
    ("before the commit's sync", "fdatasync", "wayside.db-wal", 60),
    ("after the commit, before the ack", "sendmsg,sendto", None, 40),
    ("checkpoint: a page", "pwrite64", "wayside.db", 200),
    ("checkpoint: the sync", "fdatasync", "wayside.db", 4),
    ("sidecar: a half of it", "pwrite64", "wayside.db.sidecar", 1),
    ("sidecar: its sync", "fdatasync", "wayside.db.sidecar", 1),
    ("sidecar, anew: its sync", "fsync", "wayside.db.sidecar.new", 1),
    ("sidecar, anew: its rename", "rename", None, 1),
]
# Segments roll every 100 rows and are dropped beyond 100 KB: rolls, indexes, views and drops happen
# all the time.
TOPICS = """
[[topic]]
name = "raw"
partitions = 3
[[topic]]
name = "small"
retention_bytes = "100KiB"
[[route]]
mqtt = "raw/#"
topic = "raw"
payload = "raw"
[[route]]
mqtt = "small/#"
topic = "small"
payload = "raw"
"""


class KillPoints(unittest.TestCase):
    def setUp(self):
        self.assertTrue(shutil.which("strace"), "install strace")

    def publish_until_it_dies(self, gateway, prefix, acked):
        """Windows of 20, until the connection breaks."""
        n = 0
        try:
            with Wire(gateway.port, timeout=20) as wire:
                wire.connect("killer")
                while n < 200_000:
                    for i in range(20):
                        topic = "raw/x" if i % 2 == 0 else "small/x"
                        value = f"{prefix}-{n + i}".ljust(400, "x")
                        wire.send(publish_packet(topic, value, 1, i + 1))
                    for i in range(20):
                        wire.read()
                        if i % 2 == 0:
                            acked.append(f"{prefix}-{n + i}".ljust(400, "x"))
                    n += 20
        except (Closed, OSError):
            pass

    def test_every_point(self):
        random = seeded("kill points")
        with Gateway(tail="[storage]\nsegment_rows = 100", commit='linger = "5ms"',
                     topics=TOPICS) as gateway:
            acked, kills = [], 0
            for name, calls, path, most in POINTS:
                for again in range(2):
                    nth = random.randrange(1, most + 1)
                    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
                             "-e", f"inject={calls}:signal=KILL:when={nth}"]
                    if path:
                        trace += ["-P", os.path.join(gateway.data_dir, path)]
                    tracer = subprocess.Popen(trace + ["-p", str(gateway.process.pid)],
                                              stderr=subprocess.PIPE, text=True)
                    wait_for(lambda: self.traced(gateway), "strace attaches")
                    before = len(acked)
                    if "anew" in name:
                        os.unlink(os.path.join(gateway.data_dir, "wayside.db.sidecar"))
                    if name.startswith("sidecar"):  # a change of the topics writes it
                        gateway.cli("topics", "create", f"t{kills}")
                    self.publish_until_it_dies(gateway, f"{name}-{again}", acked)
                    self.assertEqual(gateway.process.wait(20), -signal.SIGKILL,
                                     f"{name}: {nth} was not reached; {len(acked) - before} acked")
                    tracer.wait(20)
                    tracer.stderr.close()
                    gateway.start()
                    kills += 1
            stored = gateway.values("raw")
            self.assertEqual([a for a in acked if a not in set(stored)], [])
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)
            self.assertIn("the log is sound", gateway.cli("verify", check=0).stdout)
            self.assertEqual(gateway.sql("SELECT count(*) FROM _ws_lost"), [(0,)])
            print(f"DID kill -9 at named points | {kills} | {len(acked)}")

    @staticmethod
    def traced(gateway):
        with open(f"/proc/{gateway.process.pid}/status", encoding="ascii") as f:
            return "TracerPid:\t0\n" not in f.read()


if __name__ == "__main__":
    main()
