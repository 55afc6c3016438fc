"""Consumer groups of local readers: `read --group` and the groups verbs, on the real gateway."""

import json
import os
import signal
import subprocess
import threading
import time
import unittest

from harness import DEADLINE_S, WAYSIDE, Gateway, Wire, main, publish_packet, seeded, wait_for


def publish(gateway, numbers, topic="fleet/truck-{}/gps"):
    """Readings {"n":…} of five trucks, acknowledged."""
    with Wire(gateway.port) as wire:
        wire.connect("publisher", 5)
        for i, n in enumerate(numbers):
            wire.send(publish_packet(topic.format(n % 5), f'{{"n":{n}}}', 1, i % 500 + 1, 5))
            if i % 500 == 499:
                for _ in range(500):
                    wire.read()
        for _ in range(len(numbers) % 500):
            wire.read()


class Reader:
    """A `wayside read truck_gps --group …` in the background; its lines are collected."""

    def __init__(self, gateway, group="g", *args):
        self.process = subprocess.Popen(
            [WAYSIDE, "read", "truck_gps", "-c", gateway.config, "--group", group, "--json", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.records, self.said = [], []
        self.threads = [threading.Thread(target=self._collect, args=a, daemon=True) for a in
                        ((self.process.stdout, self.records, json.loads),
                         (self.process.stderr, self.said, str.strip))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _collect(stream, into, of):
        for line in stream:
            if line.endswith("\n"):  # a process that is killed may leave half a line
                into.append(of(line))

    def end(self, how=None):
        if how is not None:
            self.process.send_signal(how)
        self.process.wait(DEADLINE_S)
        for thread in self.threads:
            thread.join(DEADLINE_S)
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode

    def numbers(self):
        return [json.loads(r["value"])["n"] for r in list(self.records)]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.end()


def describe(gateway, group="g"):
    """What the verb says; a group that has committed nothing yet is not there."""
    done = gateway.cli("groups", "describe", group, "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {"lag": None, "partitions": []}


class Groups(unittest.TestCase):
    def read(self, gateway, *args, check=0):
        done = gateway.cli("read", "truck_gps", "--group", "g", "--json", *args, check=check)
        return [json.loads(json.loads(line)["value"])["n"] for line in done.stdout.splitlines()]

    def test_each_record_once_over_several_runs(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            publish(gateway, range(100))
            first = self.read(gateway, "-n", "37", "--batch", "10")
            self.assertEqual(len(first), 37)
            self.assertEqual(describe(gateway)["lag"], 63)
            rest = self.read(gateway)
            self.assertEqual(sorted(first + rest), list(range(100)))
            self.assertEqual(self.read(gateway), [])
            publish(gateway, range(100, 110))
            self.assertEqual(sorted(self.read(gateway)), list(range(100, 110)))
            # Another group has its own offsets.
            done = gateway.cli("read", "truck_gps", "--group", "other", "-o", "end", check=0)
            self.assertIn("0 unread", done.stderr)

    def test_offsets_survive_a_kill_and_are_a_topic(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            publish(gateway, range(50))
            self.read(gateway, "-n", "20")
            before = describe(gateway)["partitions"]
            gateway.kill()
            self.assertEqual([p["committed"] for p in describe(gateway)["partitions"]],
                             [p["committed"] for p in before])  # also while it is down
            gateway.start()
            self.assertEqual(len(self.read(gateway)), 30)
            topics = json.loads(gateway.cli("topics", "list", "--json", check=0).stdout)
            self.assertIn("__consumer_offsets", [t["topic"] for t in topics])
            lines = gateway.cli("read", "__consumer_offsets", "--json", check=0).stdout.splitlines()
            read = {json.loads(json.loads(x)["key"])["partition"]:
                    json.loads(json.loads(x)["value"])["offset"] for x in lines}
            described = {p["partition"]: p["committed"] for p in describe(gateway)["partitions"]
                         if p["committed"] is not None}
            self.assertEqual(read, described)

    def test_commit_before_is_at_most_once(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            publish(gateway, range(30))
            # The output breaks: with "after" nothing is committed, with "before" all of the batch.
            command = [WAYSIDE, "read", "truck_gps", "-c", gateway.config, "--group", "g"]
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
                self.assertEqual(done.returncode, 1, done.stderr)
                gateway.cli("groups", "describe", "g", check=3)  # nothing was ever committed
                done = subprocess.run(command + ["--commit", "before"], stdout=full,
                                      stderr=subprocess.PIPE, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertEqual(describe(gateway)["lag"], 0)

    def test_a_second_reader_stands_by_and_takes_over(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            publish(gateway, range(10))
            with Reader(gateway, "g", "--follow") as first:
                wait_for(lambda: len(first.records) == 10, "the first has read")
                wait_for(lambda: describe(gateway)["lag"] == 0, "and committed")
                with Reader(gateway, "g", "--follow") as second:
                    wait_for(lambda: any("standing by" in s for s in second.said), "a standby")
                    seen = describe(gateway)
                    self.assertEqual(seen["standby"], 1)
                    self.assertIn(f"pid {first.process.pid}", seen["partitions"][0]["reader"])
                    publish(gateway, range(10, 20))
                    wait_for(lambda: len(first.records) == 20, "the first reads on")
                    wait_for(lambda: describe(gateway)["lag"] == 0, "and commits")
                    self.assertEqual(second.records, [])
                    first.end(signal.SIGKILL)
                    publish(gateway, range(20, 30))
                    wait_for(lambda: len(second.records) == 10, "the second takes over")
                    self.assertEqual(sorted(second.numbers()), list(range(20, 30)))
                    # While it reads, its offsets are not touched.
                    done = gateway.cli("groups", "reset", "g", "truck_gps", "--to", "start",
                                       "--execute", check=1)
                    self.assertIn("is being read", done.stderr)
                    gateway.cli("groups", "delete", "g", "--yes", check=1)

    def test_kills_of_the_reader_and_of_the_gateway_in_a_loop(self):
        random = seeded("groups")
        batch = 20
        with Gateway(commit='linger = "2ms"') as gateway:
            total, committed_before, got = 0, 0, []
            for _ in range(8):
                publish(gateway, range(total, total + 300))
                total += 300
                reader = Reader(gateway, "g", "--follow", "--batch", str(batch))
                with reader:
                    aim = random.randrange(1, 200)
                    wait_for(lambda: len(reader.records) >= aim or describe(gateway)["lag"] == 0,
                             "it reads")
                    if random.random() < 0.5:
                        gateway.kill()
                        # It waits for the gateway, and goes on where the group stands.
                        wait_for(lambda: any("went away" in s for s in reader.said), "it is told")
                        gateway.start()
                        wait_for(lambda: any("group g reads" in s for s in reader.said[1:]),
                                 "it is back")
                    reader.end(signal.SIGKILL)
                    if random.random() < 0.5:
                        gateway.kill()
                        gateway.start()
                    seen = describe(gateway)
                    committed = sum(p["committed"] or 0 for p in seen["partitions"])
                    self.assertGreaterEqual(committed, committed_before)
                    # What was committed was printed, by this reader or one before.
                    got += [(r["partition"], r["offset"]) for r in reader.records]
                    for p in seen["partitions"]:
                        have = {o for partition, o in got if partition == p["partition"]}
                        self.assertTrue(set(range(p["committed"] or 0)) <= have, p)
                    committed_before = committed
            with Reader(gateway, "g") as last:
                self.assertEqual(last.end(), 0)
                got += [(r["partition"], r["offset"]) for r in last.records]
            # Nothing skipped; of each interruption at most one batch came twice.
            self.assertEqual(len(set(got)), total)
            self.assertLessEqual(len(got) - len(set(got)), 8 * 2 * batch)
            self.assertEqual(describe(gateway)["lag"], 0)

    def test_reset_shows_first_and_does_with_execute(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            publish(gateway, range(50))
            self.read(gateway)
            shown = gateway.cli("groups", "reset", "g", "truck_gps", "--to", "start", check=0)
            self.assertIn("nothing was changed", shown.stdout)
            self.assertEqual(describe(gateway)["lag"], 0)
            held = [p["log_end"] for p in describe(gateway)["partitions"] if p["log_end"] > 0]
            for to, lag in (("start", 50), ("end", 0), ("-2", 2 * len(held)), ("@-1h", 50),
                            ("1", 50 - len(held))):
                gateway.cli("groups", "reset", "g", "truck_gps", "--to", to, "--execute", check=0)
                self.assertEqual(describe(gateway)["lag"], lag, to)
            gateway.cli("groups", "reset", "g", "truck_gps", "--to", "yesterday", check=2)
            gateway.cli("groups", "reset", "g", "nothing", "--to", "end", check=3)
            gateway.cli("groups", "reset", "g", "truck_gps", "--to", "end", "-p", "99", check=3)
            gateway.stop()  # offline the verb does it itself
            gateway.cli("groups", "reset", "g", "truck_gps", "--to", "end", "--execute", check=0)
            self.assertEqual(describe(gateway)["lag"], 0)
            gateway.cli("groups", "delete", "g", check=2)  # nobody can be asked
            gateway.cli("groups", "delete", "g", "--yes", check=0)
            gateway.cli("groups", "describe", "g", check=3)
            gateway.start()
            self.assertEqual(json.loads(gateway.cli("groups", "list", "--json").stdout), [])

    def test_a_follower_sees_partitions_that_are_added(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            gateway.edit("partitions = 12", "partitions = 1")
            gateway.kill()
            import shutil
            shutil.rmtree(gateway.data_dir)
            gateway.start()
            publish(gateway, range(10))
            with Reader(gateway, "g", "--follow") as reader:
                wait_for(lambda: len(reader.records) == 10, "it reads")
                gateway.edit("partitions = 1", "partitions = 8")
                gateway.cli("reload", check=0)
                publish(gateway, range(10, 60))
                wait_for(lambda: len(reader.records) == 60, "of the new partitions, too")
                self.assertEqual(sorted(reader.numbers()), list(range(60)))

    def test_a_topic_that_is_read_is_not_deleted(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            gateway.cli("topics", "create", "probe", check=0)
            with Reader(gateway, "g", "--follow") as reader:
                reader.end(signal.SIGKILL)
            done = subprocess.Popen([WAYSIDE, "read", "probe", "-c", gateway.config, "--group", "g",
                                     "--follow"], stderr=subprocess.PIPE, text=True)
            try:
                self.assertIn("reads probe", done.stderr.readline())
                refused = gateway.cli("topics", "delete", "Probe", "--yes", check=1)
                self.assertIn("is being read", refused.stderr)
            finally:
                done.kill()
                done.wait()
                done.stderr.close()
            wait_for(lambda: gateway.cli("topics", "delete", "probe", "--yes").returncode == 0,
                     "then it can be")

    def test_where_a_group_begins_is_kept(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            publish(gateway, range(10))
            self.assertEqual(self.read(gateway, "-o", "end"), [])
            publish(gateway, range(10, 15))
            self.assertEqual(sorted(self.read(gateway, "-o", "end")), list(range(10, 15)))
            # Of partitions that are added, it has all.
            gateway.edit("partitions = 12", "partitions = 40")
            gateway.cli("reload", check=0)
            publish(gateway, range(20, 60))
            self.assertEqual(sorted(self.read(gateway, "-o", "end")), list(range(20, 60)))

    def test_what_is_refused(self):
        with Gateway() as gateway:
            done = gateway.cli("read", "truck_gps", "--group", "bridge.cloud", check=2)
            self.assertIn("reserved", done.stderr)
            gateway.cli("read", "truck_gps", "--group", "g", "-p", "1", check=2)
            gateway.cli("read", "nothing", "--group", "g", check=3)
            gateway.cli("groups", "delete", "bridge.cloud", "--yes", check=2)
            gateway.cli("groups", "describe", "none", check=3)
            gateway.stop()
            done = gateway.cli("read", "truck_gps", "--group", "g", check=5)
            self.assertIn("start it", done.stderr)

    def test_a_reader_that_is_not_active_cannot_commit(self):
        with Gateway() as gateway:
            import socket
            publish(gateway, range(5))
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(os.path.join(gateway.data_dir, "wayside.sock"))
                f = s.makefile("rw")

                def ask(request):
                    f.write(json.dumps(request) + "\n")
                    f.flush()
                    return json.loads(f.readline())
                commit = {"do": "commit", "offsets": [{"partition": 0, "offset": 1}]}
                self.assertIn("active reader", ask(commit)["error"])
                self.assertTrue(ask({"do": "join", "group": "g", "topic": "truck_gps"})["active"])
                self.assertIn("already", ask({"do": "join", "group": "h", "topic": "raw"})["error"])
                bad = {"do": "commit", "offsets": [{"partition": 99, "offset": 1}]}
                self.assertIn("no partition", ask(bad)["error"])
                self.assertTrue(ask(commit)["ok"])
                self.assertIn("error", ask({"do": "nonsense"}))
                self.assertIn("error", ask([1, 2]))
                s.sendall(b"not json\n")
                self.assertIn("error", json.loads(f.readline()))
                # A peer that floods without a newline is let go, and nothing else happens.
                with socket.socket(socket.AF_UNIX) as flood:
                    flood.connect(os.path.join(gateway.data_dir, "wayside.sock"))
                    flood.settimeout(DEADLINE_S)
                    with self.assertRaises((BrokenPipeError, ConnectionResetError)):
                        while True:
                            flood.sendall(b"x" * 65536)
            begin = time.monotonic()
            gateway.status()
            self.assertLess(time.monotonic() - begin, DEADLINE_S)


if __name__ == "__main__":
    main()
