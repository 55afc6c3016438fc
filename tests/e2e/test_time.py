#!/usr/bin/env python3
"""Honest time: the clock boots in 1970, jumps to 2036 and back, drifts by hours, under a running
gateway and its CLI (libfaketime). Nothing expires for it, ranges of time, `latest`, lag in time and
`status` say what is so, and the ledger adds up."""

import json
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import PUBACK, Gateway, Wire, main, publish_packet, wait_for  # noqa: E402

LIBRARY = f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketime.so.1"
YEAR, HOUR = 365 * 86_400, 3600
SITE = """
[clock]
trust = "always"
[storage]
segment_rows = 100
[[topic]]
name = "meters"
retention = "7d"
[[route]]
mqtt = "meter/{id}"
topic = "meters"
key = "{id}"
payload = "raw"
"""


class HonestTime(unittest.TestCase):
    def setUp(self):
        self.offset_file = os.path.join(os.environ.get("TMPDIR", "/tmp"),
                                        f"wayside-clock-{os.getpid()}")
        self.addCleanup(os.unlink, self.offset_file)
        self.jump(0)
        env = {**os.environ, "LD_PRELOAD": LIBRARY, "FAKETIME_TIMESTAMP_FILE": self.offset_file,
               "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        # Sanitizers want to be the first library.
        env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        self.env = env

    def jump(self, seconds):
        """From now on the clock is so far from the truth."""
        self.offset = seconds
        with open(self.offset_file + ".new", "w", encoding="ascii") as f:
            f.write(f"{seconds:+d}\n")
        os.rename(self.offset_file + ".new", self.offset_file)

    def cli(self, *args, check=0):
        return self.gateway.cli(*args, check=check, env=self.env).stdout

    def publish(self, phase, key="m1", n=3):
        with Wire(self.gateway.port) as wire:
            wire.connect("meter")
            for i in range(n):
                wire.send(publish_packet(f"meter/{key}", f"{phase}{i}", 1, i + 1))
                assert wire.read()[0] == PUBACK

    def read(self, around_s):
        """What was stored within ten minutes of this moment."""
        at = int((time.time() + around_s) * 1000)
        lines = self.gateway.cli("read", "meters", "--json", "--offset",
                                 f"@{at - 600_000}:@{at + 600_000}", env=self.env)
        self.assertIn(lines.returncode, (0, 4), lines.stderr)
        return sorted(json.loads(line)["value"] for line in lines.stdout.splitlines())

    def test_a_clock_that_goes_where_it_likes(self):
        in_1970 = -int(time.time()) + 86_400
        with Gateway(topics=SITE, env=self.env) as self.gateway:
            phases = {"honest": 0, "1970-": in_1970, "2036-": 10 * YEAR, "back": 0,
                      "slow": -5 * HOUR, "fast": 5 * HOUR}
            for phase, offset in phases.items():
                self.jump(offset)
                self.publish(phase)
                self.publish(phase, key=phase)
                self.cli("status")
                stored = 6 * (list(phases).index(phase) + 1)
                # Retention has its turn once a second; nothing may go, whatever the clock says.
                until = time.monotonic() + (1.5 if offset > YEAR else 0)
                while True:
                    kept = len(self.cli("read", "meters", "--json").splitlines())
                    self.assertEqual(kept, stored)
                    if time.monotonic() >= until:
                        break
            self.jump(0)
            for phase, offset in phases.items():
                wanted = [p for p, o in phases.items() if o == offset]
                self.assertEqual(self.read(offset),
                                 sorted(f"{p}{i}" for p in wanted for i in (0, 0, 1, 1, 2, 2)))
            latest = {r["key"]: r["value"] for r in
                      map(json.loads, self.cli("latest", "meters", "--json").splitlines())}
            self.assertEqual(latest, {"m1": "fast2", **{p: p + "2" for p in phases}})
            since = [json.loads(line)["key"] for line in
                     self.cli("latest", "meters", "--since", "1h", "--json").splitlines()]
            self.assertEqual(sorted(since), sorted(["m1", "honest", "back", "2036-", "fast"]))
            self.lag()
            self.cli("ledger")
            self.cli("verify")
            self.gateway.kill()
            self.jump(in_1970)  # a start without the right time
            self.gateway.start()
            self.publish("again")
            self.assertIn("again0", self.read(in_1970))
            self.cli("ledger")
            self.cli("verify")

    def lag(self):
        """How long a group is behind: not 56 years, and not in the future without saying so."""
        self.cli("groups", "reset", "app", "meters", "--to", "start", "--execute")
        self.assertIn(" s ago", self.cli("groups", "describe", "app"))
        # It stands at what was stored in 1970: how long ago that was, nobody knows.
        self.cli("groups", "reset", "app", "meters", "--to", "6", "--execute")
        self.assertRegex(self.cli("groups", "describe", "app"), r"\nmeters +0 +6 +36 +30 +- ")


if __name__ == "__main__":
    main()
