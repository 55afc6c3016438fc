"""Told as it is: what `publish` says of a reading that no route took, and of one it cannot know of;
times of devices that cannot be read, or are not believed; what `check` warns of; hidden text."""

import json
import os
import re
import tempfile
import unittest

from harness import TOPICS, Gateway, Wire, main, publish_packet, wait_for
from test_http import metrics


class Publish(unittest.TestCase):
    def test_what_went_to_quarantine_is_said(self):
        with Gateway(commit='linger = "2ms"') as gateway:
            def publish(*args, **kwargs):
                done = gateway.cli("publish", *args, **kwargs)
                return done.returncode, done.stdout
            code, text = publish("-t", "fleet/1/gps", "-m", "{}")
            self.assertEqual((code, text),
                             (0, "1 acknowledged: stored and synced, on fleet/1/gps\n"))
            code, text = publish("-t", "no/where", "-m", "{}")
            self.assertEqual(code, 7, text)
            self.assertIn("1 stored in quarantine: no_route, because no [[route]] takes", text)
            self.assertNotIn("stored and synced", text)
            # The same reading by others, before, is not this one's.
            code, text = publish("-t", "fleet/1/gps", "-m", "no json")
            self.assertEqual(code, 7, text)
            self.assertIn("1 stored in quarantine: not_json, because not JSON at byte", text)
            for more in ([], ["-i", "me"], ["--v311"], ["-q", "2"]):
                code, text = publish("-t", "fleet/1/gps", "-l", *more, input="{}\nx\n{}\ny\n")
                self.assertEqual(code, 7, text)
                self.assertIn("2 acknowledged: stored and synced", text)
                self.assertIn("2 stored in quarantine: not_json", text)
                self.assertEqual(publish("-t", "fleet/1/gps", "-m", "{}", *more)[0], 0)
            code, text = publish("-t", "no/where", "-m", "{}", "-q", "0")
            self.assertEqual((code, text), (0, "1 sent (QoS 0: nobody confirms it) on no/where\n"))
            done = gateway.cli("simulate", "--trucks", "2", "--count", "3", "--rate", "0", "-t",
                               "no/{truck}")
            self.assertEqual(done.returncode, 7, done.stdout)
            self.assertIn("6 stored in quarantine: no_route", done.stdout)

    def test_of_another_gateway_nobody_here_can_tell(self):
        with Gateway() as here, Gateway() as there:
            done = here.cli("publish", "-p", str(there.port), "-t", "no/where", "-m", "x", check=0)
            self.assertIn("1 acknowledged on no/where; whether a route took it is known at "
                          f"127.0.0.1:{there.port} only", done.stdout)
            self.assertEqual(there.values("quarantine"), ["x"])


class DeviceTimes(unittest.TestCase):
    def test_what_is_not_taken_is_counted_and_told(self):
        topics = TOPICS.replace('time = "/ts"', 'time = "/ts"\ntime_zone = "Europe/Berlin"')
        topics += ('[[route]]\nmqtt = "nozone"\ntopic = "by_vin"\ntime = "/ts"\n')
        with Gateway(commit='linger = "2ms"', topics=topics, head='[clock]\ntrust = "always"') as g:
            times = ["2026-01-15T12:00:00", "2026-01-15 11:00:00,25Z", "2026-01-15T12:00:00+01",
                     "yesterday", "2026-01-15", 12, "2099-01-01T00:00:00Z"]
            with Wire(g.port) as wire:
                wire.connect("meter", 5)
                for i, t in enumerate(times):
                    wire.send(publish_packet("fleet/7/gps", json.dumps({"ts": t}), 1, i + 1, 5))
                    wire.read()
                wire.send(publish_packet("nozone", '{"ts":"2026-01-15T12:00:00"}', 1, 99, 5))
                wire.read()
                wire.send(publish_packet("nozone", '{"ts":null}', 1, 99, 5))
                wire.read()
            rows = g.sql("SELECT timestamp, timestamp = append_ms FROM truck_gps ORDER BY seq")
            self.assertEqual([t for t, _ in rows[:3]],
                             [1768474800000, 1768474800250, 1768474800000])
            self.assertEqual([same for _, same in rows], [0, 0, 0, 1, 1, 1, 1])
            counted = dict(g.sql("SELECT name, value FROM _ws_counters"))
            self.assertEqual(counted, {"time.unreadable.truck_gps": 2, "time.unreadable.by_vin": 1,
                                       "time.implausible.truck_gps": 2})
            m = metrics(g)
            name = 'wayside_device_times_ignored_total{topic="truck_gps",reason="%s"}'
            self.assertEqual((m[name % "unreadable"], m[name % "implausible"]), (2, 2))
            self.assertFalse([k for k in m if k.startswith("wayside_discards_total")])
            text = g.cli("status", check=0).stdout
            self.assertIn("times       2 device times of truck_gps could not be read", text)
            self.assertIn("times       2 device times of truck_gps are not believed", text)
            device = json.loads(g.cli("devices", "--json", check=0).stdout)[0]
            self.assertIn("is a local time, and the route has no time_zone", device["trouble"])
            self.assertIn("it reconciles", g.cli("ledger", check=0).stdout)
            done = g.cli("check", "--try", "nozone", "-", check=0,
                         input='{"ts":"2026-01-15T12:00:00"}')
            self.assertRegex(done.stdout, "when it is stored; .*has no time_zone")

    def test_a_zone_that_nobody_knows_is_refused(self):
        topics = TOPICS.replace('time = "/ts"', 'time = "/ts"\ntime_zone = "Europe/Berlim"')
        gateway = Gateway(topics=topics)
        self.addCleanup(gateway.__exit__, None)
        done = gateway.cli("check", check=78)
        self.assertIn("'Europe/Berlim' is no time zone that this system knows", done.stderr)
        self.assertRegex(done.stderr, r"wayside.toml:\d+: ")


class Warnings(unittest.TestCase):
    def test_check_the_journal_and_status_warn(self):
        with tempfile.TemporaryDirectory() as secrets:
            def secret(name, mode):
                path = os.path.join(secrets, name)
                with open(path, "w", encoding="utf-8") as f:
                    f.write("secret")
                os.chmod(path, mode)
                return path

            def bridge(to, token):
                return (f'[[bridge]]\nname = "b"\nto = "{to}"\ntopics = ["raw"]\n'
                        f'token_file = "{token}"')
            for line, told, urgent in (
                    ('listen = "0.0.0.0:0"', "whoever reaches this address can publish", False),
                    ('[[topic]]\nname = "alone"', "no [[route]] leads to topic alone", False),
                    (bridge("http://127.0.0.1:9/", f"{secrets}/gone"), "gone: No such file", True),
                    (bridge("http://127.0.0.1:9/", secret("open", 0o644)),
                     "can be read by everybody", True),
                    ('[[subscribe]]\nclient_id = "s"\nbroker = "mqtt://127.0.0.1:9"\n'
                     f'filter = "#"\npassword_file = "{secret("open2", 0o604)}"',
                     "can be read by everybody", True),
                    (bridge("http://192.0.2.1/", secret("mine", 0o640)),
                     "sends its token over http", True)):
                with self.subTest(told):
                    listens = line.startswith("listen")
                    gateway = Gateway(tail="" if listens else line)
                    if listens:
                        gateway.edit('[mqtt]\nlisten = "127.0.0.1:0"', f"[mqtt]\n{line}")
                    with gateway:
                        done = gateway.cli("check", check=0)
                        self.assertIn("is sound", done.stdout)
                        self.assertRegex(done.stderr, f"warning: .*{re.escape(told)}")
                        self.assertIn(told, gateway.log())
                        status = gateway.cli("status", check=0).stdout
                        self.assertEqual(told in status, urgent, status)
                        self.assertEqual(told in str(gateway.status()["warnings"]), urgent)

    def test_no_topic_and_no_route(self):
        gateway = Gateway(topics="")
        self.addCleanup(gateway.__exit__, None)
        self.assertIn("every reading goes to quarantine", gateway.cli("check", check=0).stderr)

    def test_a_log_in_memory(self):
        if not os.path.ismount("/dev/shm"):
            self.skipTest("no tmpfs here")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            gateway = Gateway()
            self.addCleanup(gateway.__exit__, None)
            gateway.edit(gateway.data_dir, directory + "/not/made/yet")
            self.assertIn("is in memory (tmpfs)", gateway.cli("check", check=0).stderr)

    def test_files_are_nobody_elses_whatever_the_umask(self):
        gateway = Gateway()
        self.addCleanup(gateway.__exit__, None)
        os.mkdir(gateway.data_dir, 0o755)
        before = os.umask(0o022)
        try:
            gateway.start()
        finally:
            os.umask(before)
        gateway.cli("publish", "-t", "raw/x", "-m", "x", check=0)
        modes = {name: os.stat(os.path.join(gateway.data_dir, name)).st_mode & 0o777
                 for name in os.listdir(gateway.data_dir)}
        self.assertIn("wayside.db-shm", modes)
        self.assertEqual([n for n, mode in modes.items() if mode & 0o007], [])
        gateway.stop()
        os.chmod(os.path.join(gateway.data_dir, "wayside.db"), 0o644)
        done = gateway.cli("check", check=0)
        self.assertIn("everybody on this machine can read the log: chmod o-rwx", done.stderr)

    def test_what_turns_or_hides_text_is_shown_as_bytes(self):
        evil = "a\u202eb\u2066c\u200bd\u2028e\ufefff\u061cg\U000e0041h"
        with Gateway() as gateway, Wire(gateway.port) as wire:
            wire.connect(evil, 5)
            wire.send(publish_packet("no/" + evil, evil, 1, 1, 5))
            wire.read()
            texts = [gateway.cli(*verb, check=0).stdout for verb in (
                ("devices", "--wide"), ("quarantine", "list"), ("quarantine", "show", "0"),
                ("read", "quarantine"), ("latest", "quarantine", "--wide"),
                ("query", "SELECT key FROM quarantine"))]
            wire.send(b"\xf0\x00")
            wire.expect_close()
            texts.append(wait_for(lambda: "is disconnected" in gateway.log() and gateway.log(),
                                  "it is logged"))
            for text in texts:
                self.assertEqual(set(evil) & set(text) - set("abcdefgh"), set(), text)
                self.assertIn("a\\xe2\\x80\\xae", text)


if __name__ == "__main__":
    main()
