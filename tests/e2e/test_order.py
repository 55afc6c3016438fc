"""The order of system calls: the sync of a reading's commit has returned before the first byte of
its acknowledgement is handed to the kernel. Seen by strace, for the real program."""

import re
import shutil
import subprocess
import unittest

from harness import PUBACK, Gateway, Wire, main, publish_packet, wait_for


class Order(unittest.TestCase):
    def test_the_sync_returns_before_the_acknowledgement_leaves(self):
        self.assertTrue(shutil.which("strace"), "install strace")
        with Gateway(commit='linger = "5ms"') as gateway, Wire(gateway.port) as wire:
            wire.connect("traced")
            out = gateway.directory + "/trace"
            tracer = subprocess.Popen(
                ["strace", "-f", "-xx", "-e", "trace=pwrite64,fdatasync,fsync,sendmsg,sendto,write",
                 "-o", out, "-p", str(gateway.process.pid)], stderr=subprocess.PIPE, text=True)
            first = tracer.stderr.readline()
            if "attached" not in first:
                tracer.wait(10)
                self.skipTest(f"strace may not attach here: {first.strip()}")
            for i in range(1, 21):
                wire.send(publish_packet("raw/traced", f"reading {i}", 1, i))
                self.assertEqual(wire.read()[0], PUBACK)
            tracer.terminate()
            tracer.communicate(timeout=20)

            def lines():
                with open(out, encoding="utf-8") as f:
                    return f.read().splitlines()
            wait_for(lambda: len(lines()) > 40, "the trace is written")
            acknowledged = 0
            synced_since_write = True
            for line in lines():
                if "pwrite64(" in line and r"\x72\x65\x61\x64\x69\x6e\x67" in line:  # "reading"
                    synced_since_write = False
                elif re.search(r"f(data)?sync", line) and line.endswith("= 0"):
                    synced_since_write = True
                elif re.search(r"(sendmsg|sendto|write)\(", line) and r"\x40\x02\x00" in line:
                    acknowledged += 1
                    self.assertTrue(synced_since_write, line)
            self.assertEqual(acknowledged, 20)


if __name__ == "__main__":
    main()
