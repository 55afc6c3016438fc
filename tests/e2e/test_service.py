"""The systemd service, installed as a user would, under a real systemd in a container."""

import contextlib
import json
import os
import re
import subprocess
import threading
import time
import unittest

from harness import DEADLINE_S, PUBACK, WAYSIDE, Closed, Wire, main, publish_packet, wait_for
from service_root import ServiceRoot

TOML = "/etc/wayside/wayside.toml"
UNIT = "/usr/lib/systemd/system/wayside.service"
DROP_INS = "/etc/systemd/system/wayside.service.d"
DATABASE = "/var/lib/wayside/wayside.db"
TOPIC = '\n[[topic]]\nname = "{0}"\n[[route]]\nmqtt = "{0}/#"\ntopic = "{0}"\npayload = "raw"\n'
WRONG = '\n[[topic]]\nname = "log"\npartitions = "many"\n'
FAKETIME = "/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1"


def install(root):
    build = os.path.dirname(os.path.abspath(WAYSIDE))
    subprocess.run(["cmake", "--install", build, "--prefix", "/usr"], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "DESTDIR": root.path})


class Service(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = ServiceRoot(include=["faketime"])
        cls.addClassCleanup(cls.root.close)
        install(cls.root)
        cls.root.boot()
        cls.root.run("systemd-sysusers")
        cls.root.run("systemd-tmpfiles", "--create")
        cls.shipped = cls.root.read(TOML)

    def setUp(self):
        """A running service on an empty log, with one topic, as if it was never touched."""
        self.systemctl("stop", "wayside", check=None)
        self.root.run("rm", "-rf", DROP_INS, "/var/lib/wayside")
        self.root.write(TOML, self.shipped + TOPIC.format("log"))
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed")
        self.began = int(time.time())
        self.systemctl("enable", "--now", "wayside")
        self.pid = self.show("MainPID")

    def run(self, result=None):
        bad = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > bad and self.root.nspawn:
            print("--- the journal:\n" + self.journal())

    def systemctl(self, *args, check=0):
        return self.root.run("systemctl", *args, check=check)

    def show(self, prop):
        return self.systemctl("show", "-P", prop, "wayside").stdout.strip()

    def journal(self):
        """What systemd and the service have said since this test began."""
        return self.root.run("journalctl", "--no-pager", "-o", "cat", "-u", "wayside",
                             f"--since=@{self.began}", check=None).stdout

    def kill(self, name):
        self.systemctl("kill", "-s", name, "--kill-whom=main", "wayside")

    def drop_in(self, text):
        """Adds to the unit's [Service], and starts it with that."""
        self.root.write(DROP_INS + "/test.conf", f"[Service]\n{text}\n")
        self.systemctl("daemon-reload")
        self.systemctl("restart", "wayside")
        self.pid = self.show("MainPID")

    def wait_active(self):
        """Until it is active again, in another process; returns how often it was restarted."""
        # First another process, then that it is active: both are asked one after the other.
        wait_for(lambda: self.show("MainPID") not in (self.pid, "0") and
                 self.show("ActiveState") == "active", "the service is active again")
        self.pid = self.show("MainPID")
        return int(self.show("NRestarts"))

    def publish(self, values):
        """Publishes, and waits until each is acknowledged."""
        with self.root.network(), Wire(1883) as wire:
            wire.connect("device")
            for i, value in enumerate(values, 1):
                wire.send(publish_packet("log/x", value, 1, i))
            for _ in values:
                self.assertEqual(wire.read()[0], PUBACK)
        return values

    def values(self, topic="log"):
        return self.root.run("wayside", "read", topic, "--format", "raw").stdout.splitlines()

    def under_load(self, act):
        """Acts while a device publishes 1, 2, 3, … and a fleet does what it can; returns what the
        device had acknowledged until it lost its connection."""
        acknowledged = []

        def device():
            with self.root.network():
                wire = Wire(1883)
            with wire, contextlib.suppress(Closed, OSError):
                wire.connect("device")
                sent = 0
                while True:
                    while sent - len(acknowledged) < 200:
                        sent += 1
                        wire.send(publish_packet("log/x", str(sent), 1, sent % 65535 + 1))
                    if wire.read()[0] == PUBACK:
                        acknowledged.append(str(len(acknowledged) + 1))
        self.root.run("systemd-run", "--unit=fleet", "--collect", "wayside", "simulate", "--trucks",
                      "5", "--rate", "0", "--count", "100000")
        thread = threading.Thread(target=device, daemon=True)
        thread.start()
        wait_for(lambda: len(acknowledged) > 5000, "readings are acknowledged")
        act()
        thread.join(DEADLINE_S)
        self.assertFalse(thread.is_alive(), "the device lost its connection")
        self.systemctl("stop", "fleet", check=None)
        return acknowledged

    def test_installed_and_enabled_it_runs(self):
        self.systemctl("disable", "--now", "wayside")
        self.root.run("rm", "-rf", "/var/lib/wayside")
        self.root.write(TOML, self.shipped)
        # Returns only after READY=1; were the notice missing, it would fail after TimeoutStartSec.
        self.systemctl("enable", "--now", "wayside")
        self.assertEqual(self.show("Type"), "notify")
        self.assertEqual(self.systemctl("is-active", "wayside").stdout, "active\n")
        process = f"/proc/{self.show('MainPID')}"
        owners = self.root.run("stat", "-c", "%U:%G %a", process, "/run/wayside",
                               "/var/lib/wayside",
                               "/run/wayside/wayside.sock", DATABASE, "/etc/wayside/credentials")
        self.assertEqual(owners.stdout.splitlines(),
                         ["wayside:wayside 555", "wayside:wayside 750", "wayside:wayside 750",
                          "wayside:wayside 660", "wayside:wayside 640", "root:wayside 750"])
        published = self.root.run("wayside", "publish", "-t", "some/topic", "-m", "x", check=7)
        self.assertIn("1 stored in quarantine: no_route", published.stdout)
        self.assertEqual(len(self.values("quarantine")), 1)
        # A technician of the group may look; somebody else may not.
        def status(group):
            return self.root.run("setpriv", "--reuid=nobody", "--regid=nogroup",
                                 f"--groups={group}", "wayside", "status", "--json", check=None)
        self.assertIn(self.show("MainPID"), status("wayside").stdout)
        self.assertNotEqual(status("nogroup").returncode, 0)

    def test_the_unit_is_sound(self):
        done = self.root.run("systemd-analyze", "verify", UNIT)
        self.assertEqual(done.stdout + done.stderr, "")
        done = self.root.run("systemd-analyze", "security", "--no-pager", "wayside")
        found = re.search(r"Overall exposure level for wayside.service: ([\d.]+)", done.stdout)
        self.assertLessEqual(float(found.group(1)), 1.5)

    def test_it_may_ask_whether_the_clock_is_right(self):
        # What adjtimex(3) calls; perl is in every Debian. Denied, no clock would ever be trusted.
        number = {"x86_64": 305, "aarch64": 266}[os.uname().machine]
        self.root.write("/usr/local/bin/ask.pl",
                        f'$b = "\\0" x 208; exit(syscall({number}, 0, $b) < 0);')
        self.drop_in("ExecStartPre=/usr/bin/perl /usr/local/bin/ask.pl")

    def test_killed_it_runs_again_with_what_it_acknowledged(self):
        acknowledged = self.under_load(lambda: self.kill("KILL"))
        self.assertEqual(self.wait_active(), 1)
        self.assertEqual(self.values()[:len(acknowledged)], acknowledged)

    def test_killed_again_and_again_it_is_started_again(self):
        for n in range(9):
            # What it says of itself is empty until the program itself runs.
            wait_for(lambda: self.show("NRestarts") == str(n) and self.show("StatusText"),
                     "it is started again")
            if n < 8:
                self.kill("KILL")
        # Now it waits before it takes readings, to spare the card; but not when it is told to.
        self.assertIn("waiting", self.show("StatusText"))
        self.root.run("timeout", "20", "systemctl", "restart", "wayside")
        self.publish(["x"])

    def test_hanging_it_is_killed_by_the_watchdog(self):
        self.drop_in("WatchdogSec=3s")
        last = self.show("WatchdogTimestampMonotonic")
        for _ in range(4):  # it feeds the watchdog, also for longer than WatchdogSec
            last = wait_for(lambda: {self.show("WatchdogTimestampMonotonic")} - {last},
                            "the watchdog is fed").pop()
        self.assertEqual(self.show("MainPID"), self.pid)
        self.kill("STOP")
        self.assertEqual(self.wait_active(), 1)
        self.assertIn("Watchdog timeout", self.journal())
        self.publish(["x"])

    def test_reload_takes_new_topics(self):
        self.root.write(TOML, self.root.read(TOML) + TOPIC.format("added"))
        self.systemctl("reload", "wayside")
        wait_for(lambda: "added" in self.root.run("wayside", "topics", "list").stdout,
                 "the new topic is there")
        self.root.run("wayside", "publish", "-t", "added/x", "-m", "new")
        self.assertEqual(self.values("added"), ["new"])
        # With a wrong file it says so and goes on as before.
        self.root.write(TOML, self.shipped + WRONG)
        self.systemctl("reload", "wayside", check=None)
        wait_for(lambda: "partitions" in self.journal(), "the journal says what is wrong")
        self.publish(["still here"])
        self.assertEqual((self.show("MainPID"), self.show("ActiveState")), (self.pid, "active"))

    def test_stopped_under_load_it_keeps_all_that_it_acknowledged(self):
        acknowledged = self.under_load(lambda: self.systemctl("stop", "wayside"))
        self.assertEqual([self.show(p) for p in ("ActiveState", "Result", "ExecMainStatus")],
                         ["inactive", "success", "0"])
        self.assertEqual(self.values()[:len(acknowledged)], acknowledged)
        self.assertGreater(len(self.values("quarantine")), 0)  # the fleet was there, too

    def test_wrong_configuration_is_not_tried_again(self):
        self.root.write(TOML, self.shipped + WRONG)
        self.systemctl("restart", "wayside", check=1)
        # While a restart is due the state is "activating"; "failed" is the end.
        self.assertEqual([self.show(p) for p in ("ActiveState", "ExecMainStatus", "NRestarts")],
                         ["failed", "78", "0"])
        self.assertIn("partitions", self.journal())

    def test_booted_without_a_network_and_with_a_wrong_clock(self):
        sent = self.publish(["before"])
        library = FAKETIME.format(os.uname().machine)
        self.root.write(DROP_INS + "/test.conf", "[Service]\nEnvironment=LD_PRELOAD=" + library +
                        ' "FAKETIME=@1970-01-02 00:00:00" FAKETIME_DONT_FAKE_MONOTONIC=1\n')
        self.root.cut()
        self.root.boot()
        self.wait_active()
        for target in ("network-online.target", "time-sync.target"):
            self.systemctl("is-active", target, check=3)
        sent += self.publish(["after"])
        self.assertEqual(self.values(), sent)
        lines = self.root.run("wayside", "read", "log", "--json").stdout.splitlines()
        self.assertLess(json.loads(lines[-1])["timestamp"], 2 * 86_400_000)  # it was 1970


if __name__ == "__main__":
    main()
