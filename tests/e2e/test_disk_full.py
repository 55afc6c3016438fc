"""A file system that the readings themselves fill: nothing acknowledged is lost but by retention,
the gateway goes on by dropping the oldest, and starts again while the disk is full."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import unittest

from harness import Closed, Gateway, Wire, main, publish_packet, wait_for

SIZE = "32m"


class DiskFull(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="wayside-full-")
        self.addCleanup(shutil.rmtree, self.directory, True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs",
                                  self.directory], capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            self.skipTest(f"no file system can be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.directory], check=True)

    def publish(self, gateway, first, count):
        """Publishes count numbered readings of 1 KB; returns those acknowledged. A refused one
        closes the connection, and is not sent again here."""
        acked, n = [], first
        deadline = time.monotonic() + 60
        while n < first + count and time.monotonic() < deadline:
            try:
                with Wire(gateway.port, timeout=20) as wire:
                    wire.connect("filler")
                    while n < first + count:
                        batch = range(n, min(n + 50, first + count))
                        n = batch.stop
                        wire.send(b"".join(
                            publish_packet("raw/filler", f"{i}-".ljust(1000, "x"), 1, k + 1)
                            for k, i in enumerate(batch)))
                        for i in batch:
                            self.assertEqual(wire.read()[0], 4)
                            acked.append(i)
            except (Closed, OSError):
                continue
        return acked

    def test_it_goes_on_and_starts_again(self):
        gateway = Gateway(directory=self.directory, tail="[storage]\nsegment_rows = 1000\n",
                          commit='linger = "5ms"')
        gateway.log_path = self.directory + ".log"
        self.addCleanup(os.unlink, gateway.log_path)
        with gateway:
            acked = self.publish(gateway, 0, 60_000)  # twice what fits
            self.assertGreater(len(acked), 50_000)
            gateway.kill()
            gateway.start()
            acked += self.publish(gateway, 60_000, 5_000)
            self.assertGreater(acked[-1], 64_000, "it takes readings again")
            gateway.check_offsets()
            wait_for(lambda: f"{acked[-1]}-" in gateway.values("raw")[-1], "the view is renewed")
            stored = {int(v.split("-")[0]) for v in gateway.values("raw")}
            oldest = min(stored)
            # What is not there any more is the oldest part, and only that.
            self.assertEqual([i for i in acked if i > oldest + 1000 and i not in stored], [])
            self.assertGreater(gateway.status()["expired"], 0)
            self.assertEqual(gateway.stop(), 0)


class NoBlockLeft(unittest.TestCase):
    """Blocks of 1 KiB, as mkfs makes them on small cards: a page of a file may lack some of them,
    and who maps it is ended by the kernel."""

    def test_the_start_says_so(self):
        directory = tempfile.mkdtemp(prefix="wayside-blocks-")
        self.addCleanup(shutil.rmtree, directory, True)
        image, mount = directory + "/image", directory + "/mount"
        os.mkdir(mount)
        for command in (["truncate", "-s", "24M", image],
                        ["mkfs.ext4", "-q", "-m", "0", "-b", "1024", image],
                        ["mount", "-o", "loop", image, mount]):
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as e:
                self.skipTest(f"no file system can be mounted here: {e}")
        self.addCleanup(subprocess.run, ["umount", "-l", mount], check=True)
        os.mkdir(mount + "/gw")
        gateway = Gateway(directory=mount + "/gw", commit='linger = "5ms"')
        gateway.log_path = directory + "/log"
        with gateway:
            with Wire(gateway.port) as wire:
                wire.connect("device")
                wire.send(publish_packet("raw/x", "v", 1, 1)).read()
            gateway.kill()
            os.unlink(gateway.data_dir + "/wayside.db-shm")
            for left in (0, 16, 40):
                self.fill(mount, left)
                with self.assertRaisesRegex(AssertionError, "the disk is full"):
                    gateway.start()
                self.assertEqual(gateway.process.returncode, 1)
                os.unlink(mount + "/filler")
            gateway.start()
            self.assertEqual(gateway.values("raw"), ["v"])

    def fill(self, mount, left_kib):
        """All but so much."""
        pad = mount + "/pad"
        with open(pad, "wb") as f:
            f.write(b"x" * 1024 * left_kib)
        with open(mount + "/filler", "wb", buffering=0) as f:
            for size in (65536, 1024):
                with contextlib.suppress(OSError):
                    while True:
                        f.write(b"x" * size)
            os.fsync(f.fileno())
        os.unlink(pad)


if __name__ == "__main__":
    main()
