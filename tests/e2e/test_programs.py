"""Programs on the site: `read --group --exec` and the acknowledged stream, on the real gateway."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

from harness import DEADLINE_S, WAYSIDE, Gateway, Wire, main, publish_packet, seeded, wait_for

MEMORY_FACTOR = int(os.environ.get("MEMORY_FACTOR", "1"))  # of a sanitized program

# Notes each record that it has processed in a file of lines "partition offset n"; fails as its
# arguments say: poison=1,2 (numbers at which it ends with 3), dies=10 (before which it kills itself
# in its first try), down=PATH (it fails while the file is there), sleep=SECONDS.
CONSUMER = """
import json, os, signal, sys, time
options = dict(a.split("=", 1) for a in sys.argv[2:])
if os.path.exists(options.get("down", "/nonexistent")):
    sys.exit("the database is away")
poison = {int(n) for n in options.get("poison", "").split(",") if n}
with open(sys.argv[1], "a", encoding="utf-8", buffering=1) as out:
    for i, line in enumerate(sys.stdin):
        record = json.loads(line)
        n = json.loads(record["value"])["n"]
        if n in poison:
            print("so far so good", file=sys.stderr)
            sys.exit(f"cannot bear {n}") if n % 2 else os._exit(3)
        if i == int(options.get("dies", -1)) and os.environ["WAYSIDE_TRY"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(options.get("sleep", 0)))
        out.write(f"{record['partition']} {record['offset']} {n}\\n")
"""


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


def describe(gateway):
    done = gateway.cli("groups", "describe", "g", "--json")
    return json.loads(done.stdout) if done.returncode == 0 else None


def lag(gateway):
    """What the group has yet to read; all, when it has not committed anything yet."""
    seen = describe(gateway)
    return seen["lag"] if seen else gateway.sql("SELECT count(*) FROM truck_gps")[0][0]


def quarantined(gateway):
    """What is in quarantine: (n, headers)."""
    lines = gateway.cli("quarantine", "list", "--json", check=0).stdout.splitlines()
    return [(json.loads(r["value"])["n"], r["headers"]) for r in map(json.loads, lines)]


class Site(Gateway):
    """A gateway, and the consumer beside it."""

    def __init__(self, **kwargs):
        super().__init__(commit='linger = "2ms"', **kwargs)
        self.consumer = os.path.join(self.directory, "consumer.py")
        self.out = os.path.join(self.directory, "processed")
        with open(self.consumer, "w", encoding="utf-8") as f:
            f.write(CONSUMER)

    def command(self, *options):
        return f"exec {sys.executable} {self.consumer} {self.out} {' '.join(options)}"

    def exec(self, command, *args, check=None, topic="truck_gps"):
        return self.cli("read", topic, "--group", "g", "--exec", command, *args, check=check)

    def start_exec(self, command, *args):
        return subprocess.Popen([WAYSIDE, "read", "truck_gps", "-c", self.config, "--group", "g",
                                 "--exec", command, *args],
                                stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def processed(self):
        """(partition, offset, n) in the order in which they were processed."""
        if not os.path.exists(self.out):
            return []
        with open(self.out, encoding="utf-8") as f:
            return [tuple(map(int, line.split())) for line in f if line.endswith("\n")]

    def numbers(self):
        return sorted({n for _, _, n in self.processed()})


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(p) for p in f.read().split()]


def end(process, how=None):
    """Its exit code, and what it said on stderr."""
    if how is not None:
        process.send_signal(how)
    said = process.communicate(timeout=DEADLINE_S)[1]
    return process.returncode, said


class Exec(unittest.TestCase):
    def check_order(self, processed):
        """First comes first: of each partition the offsets are seen in order, repeats aside."""
        seen = {}
        for partition, offset, _ in processed:
            before = seen.setdefault(partition, [])
            if offset not in before:
                self.assertTrue(not before or offset > max(before), (partition, offset, before))
                before.append(offset)

    def test_a_program_that_dies_at_record_ten_gets_all_of_them(self):
        with Site() as site:
            publish(site, range(103))
            site.exec(site.command("dies=9"), check=0)
            self.assertEqual(site.numbers(), list(range(103)))
            self.check_order(site.processed())
            self.assertEqual(lag(site), 0)
            self.assertEqual(quarantined(site), [])
            site.exec("exit 1", check=0)  # nothing is left that it could be given

    def test_the_pipe_says_what_it_is_worth(self):
        with Site() as site:
            publish(site, range(3))
            self.assertIn("--exec", site.cli("read", "truck_gps", "-g", "p", check=0).stderr)
            with open(os.devnull, "w", encoding="utf-8") as null:
                done = subprocess.run([WAYSIDE, "read", "truck_gps", "-c", site.config, "-g", "q"],
                                      stdout=null, stderr=subprocess.PIPE, text=True, check=True)
            self.assertNotIn("--exec", done.stderr)

    def test_poison_is_found_and_set_aside_and_the_rest_goes_on(self):
        with Site() as site:
            publish(site, range(60))
            poison = [0, 17, 18, 22, 59]  # the first, two of neighbours, two of one truck, the last
            command = site.command("poison=" + ",".join(map(str, poison)))
            done = site.exec(command, "--tries", "2", check=0)
            self.assertEqual(site.numbers(), [n for n in range(60) if n not in poison])
            self.assertEqual(lag(site), 0)
            held = dict(quarantined(site))
            self.assertEqual(sorted(held), poison)
            for n, headers in held.items():
                self.assertEqual(headers["reason"], "refused_by_program")
                self.assertEqual((headers["group"], headers["topic"]), ("g", "truck_gps"))
                at = site.sql('SELECT value FROM truck_gps WHERE partition=? AND "offset"=?',
                              int(headers["partition"]), int(headers["offset"]))
                self.assertEqual(json.loads(at[0][0])["n"], n)  # it stays in its topic, too
                self.assertEqual(headers["exit"], "1" if n % 2 else "3")
                self.assertEqual(headers["stderr"],
                                 f"cannot bear {n}" if n % 2 else "so far so good")
                self.assertIn("exit code", headers["detail"])
            self.assertIn("is set aside", done.stderr)
            self.assertIn("refuses truck_gps", site.log())
            # It adds up, and what to do is said.
            counters = site.status()["counters"]
            self.assertEqual(counters["quarantined.refused_by_program"], 5)
            ledger = json.loads(site.cli("ledger", "--json", check=0).stdout)
            self.assertTrue(ledger["reconciled"])
            self.assertEqual(ledger["quarantined"], 5)
            self.assertEqual(ledger["stored"], 65)
            self.assertIn("group g", site.cli("quarantine", "list", check=0).stdout)
            said = site.cli("quarantine", "retry", "0", check=0).stdout
            self.assertIn("wayside groups reset g truck_gps", said)
            again = re.search(r"wayside read truck_gps (-p \d+ -o \d+ -n 1) --json", said).group(1)
            again = site.cli("read", "truck_gps", *again.split(), "--json", check=0).stdout
            self.assertEqual([json.loads(json.loads(x)["value"])["n"] for x in again.splitlines()],
                             [quarantined(site)[0][0]])
            self.assertEqual(len(quarantined(site)), 5)
            site.check_offsets()

    def test_a_program_that_takes_nothing_blames_no_record(self):
        with Site() as site:
            publish(site, range(20))
            down = os.path.join(site.directory, "down")
            open(down, "w", encoding="utf-8").close()
            command = site.command("down=" + down)
            done = site.exec(command, "--tries", "2", check=1)
            self.assertIn("the database is away", done.stderr)
            self.assertIn("nothing is set aside", done.stderr)
            self.assertEqual(lag(site), 20)
            # It worked, then fails for a while, then works again.
            os.unlink(down)
            with site.start_exec(command, "--follow", "--tries", "2", "--linger", "0") as reader:
                wait_for(lambda: lag(site) == 0, "all is processed")
                open(down, "w", encoding="utf-8").close()
                publish(site, range(20, 30))
                said = ""
                while "takes none" not in said:
                    said = reader.stderr.readline()
                    self.assertTrue(said)
                os.unlink(down)
                wait_for(lambda: lag(site) == 0, "it goes on by itself")
                self.assertEqual(end(reader, signal.SIGTERM)[0], 0)
            self.assertEqual(site.numbers(), list(range(30)))
            self.assertEqual(quarantined(site), [])
            # "Try later" is no failure of the record either.
            publish(site, [30])
            self.assertIn("later", site.exec("exit 75", "--tries", "2", check=1).stderr)
            self.assertEqual(lag(site), 1)

    def test_how_a_command_may_end(self):
        with Site() as site:
            publish(site, [0])
            # It cannot be run: the command line is wrong, no record is.
            for command in ("/nonexistent/program", "sh -c 'exit 126'"):
                self.assertIn("cannot be run", site.exec(command, check=2).stderr)
            self.assertEqual(quarantined(site), [])
            # A time limit, for all that it has started.
            began = time.monotonic()
            marker = os.path.join(site.directory, "late")
            done = site.exec(f"(sleep 60; touch {marker}) & wait", "--timeout", "300ms",
                             "--tries", "1", check=0)
            self.assertLess(time.monotonic() - began, 30)
            self.assertIn("time limit", done.stderr)
            # Alone in the log it is believed, once.
            self.assertEqual([n for n, _ in quarantined(site)], [0])
            publish(site, [5])
            site.exec("kill -9 $$", "--tries", "1", check=0)
            self.assertIn("signal 9", dict(quarantined(site))[5]["detail"])
            # 0 is its word, though it has not read all: it is told.
            publish(site, range(1000, 3000))
            done = site.exec("head -c 10 > /dev/null", "--batch", "5000", check=0)
            self.assertIn("unread", done.stderr)
            self.assertEqual(lag(site), 0)

    def test_what_a_command_finds_in_its_environment(self):
        with Site() as site:
            publish(site, [0, 5, 10])  # of one truck, so of one partition
            out = os.path.join(site.directory, "env")
            site.cli("read", "truck_gps", "--group", "g", "-n", "2", "--exec",
                     f"env | grep ^WAYSIDE_ | sort > {out}; cat > {out}.in", check=0,
                     env={"PATH": os.environ["PATH"], "WAYSIDE_TRY": "7",
                          "WAYSIDE_MINE": "kept"})
            with open(out, encoding="utf-8") as f:
                found = dict(line.rstrip("\n").split("=", 1) for line in f)
            with open(out + ".in", encoding="utf-8") as f:
                records = [json.loads(line) for line in f]
            first, last = (f"{r['partition']}:{r['offset']}" for r in (records[0], records[-1]))
            self.assertEqual(found, {"WAYSIDE_TOPIC": "truck_gps", "WAYSIDE_GROUP": "g",
                                     "WAYSIDE_RECORDS": "2", "WAYSIDE_FIRST": first,
                                     "WAYSIDE_LAST": last, "WAYSIDE_TRY": "1",
                                     "WAYSIDE_MINE": "kept"})
            self.assertEqual(set(records[0]), {"topic", "partition", "offset", "timestamp", "key",
                                               "value", "headers"})
            site.exec(f"cat > {out}.raw", "--format", "raw", check=0)
            with open(out + ".raw", encoding="utf-8") as f:
                self.assertEqual(f.read(), '{"n":10}\n')

    def test_a_stop_lets_the_command_finish_and_commits(self):
        with Site() as site:
            publish(site, range(10))
            gate = os.path.join(site.directory, "gate")
            command = (f"cat > {gate}.in; while [ ! -e {gate} ]; do sleep 0.02; done; "
                       f"cp {gate}.in {gate}.out")
            with site.start_exec(command, "--follow") as reader:
                wait_for(lambda: os.path.exists(gate + ".in"), "it runs")
                reader.send_signal(signal.SIGTERM)
                open(gate, "w", encoding="utf-8").close()
                self.assertEqual(end(reader)[0], 0)
            self.assertEqual(lag(site), 0)
            with open(gate + ".out", encoding="utf-8") as f:
                self.assertEqual(len(f.readlines()), 10)
            # Told twice, it does not wait; what was not done comes again.
            publish(site, [10])
            os.unlink(gate)
            os.unlink(gate + ".in")
            with site.start_exec(command, "--follow") as reader:
                wait_for(lambda: os.path.exists(gate + ".in"), "it runs")
                reader.send_signal(signal.SIGTERM)
                reader.send_signal(signal.SIGINT)
                self.assertIn("comes again", end(reader)[1])
            self.assertEqual(lag(site), 1)

    def test_a_standby_takes_over_and_the_command_of_the_dead_reader_ends(self):
        with Site() as site:
            publish(site, range(5))
            with site.start_exec(site.command("sleep=60"), "--follow") as first:
                child = wait_for(lambda: children(first.pid), "its command runs")[0]
                with site.start_exec(site.command(), "--follow") as second:
                    self.assertIn("standing by", second.stderr.readline())
                    end(first, signal.SIGKILL)
                    wait_for(lambda: not os.path.exists(f"/proc/{child}"), "nobody works twice")
                    wait_for(lambda: lag(site) == 0, "the second goes on")
                    end(second, signal.SIGTERM)
            self.assertEqual(site.numbers(), list(range(5)))

    def test_kills_of_program_reader_and_gateway(self):
        random = seeded("programs")
        with Site() as site:
            total, poison = 0, set()
            for _ in range(6):
                fresh = list(range(total, total + 60))
                total += 60
                poison |= set(random.sample(fresh, 2))
                publish(site, fresh)
                aim = len(site.processed()) + random.randrange(1, 50)
                command = site.command("poison=" + ",".join(map(str, poison)), "sleep=0.002")
                with site.start_exec(command, "--follow", "--tries", "1", "--batch",
                                     str(random.randrange(1, 20)), "--linger", "0") as reader:
                    wait_for(lambda: len(site.processed()) >= aim or lag(site) == 0, "it works")
                    victim = random.choice(("program", "reader", "gateway", "both"))
                    if victim == "program":
                        for pid in children(reader.pid):
                            os.kill(pid, signal.SIGKILL)
                    if victim in ("gateway", "both"):
                        site.kill()
                    if victim in ("reader", "both"):
                        end(reader, signal.SIGKILL)
                    else:
                        if victim == "gateway":
                            site.start()
                        aim = len(site.processed()) + 3
                        wait_for(lambda: len(site.processed()) >= aim or lag(site) == 0,
                                 "it goes on")
                        end(reader, random.choice((signal.SIGKILL, signal.SIGTERM)))
                    if victim == "both":
                        site.start()
            site.exec(command, "--tries", "1", check=0)
            self.assertEqual(lag(site), 0)
            # A record is in quarantine once, whoever died meanwhile. Where the program was killed
            # in its only try, a good one may be there, too: nothing is skipped without a word.
            held = [n for n, _ in quarantined(site)]
            self.assertEqual(len(set(held)), len(held))
            self.assertTrue(poison <= set(held), poison - set(held))
            self.assertLessEqual(len(held), len(poison) + 6)
            self.assertEqual(set(site.numbers()) | set(held), set(range(total)))
            self.assertFalse(set(site.numbers()) & poison)
            first = {}
            for i, (_, _, n) in enumerate(site.processed()):
                first.setdefault(n, i)
            for truck in range(5):  # in the order of each key
                of_truck = [first[n] for n in range(truck, total, 5) if n in first]
                self.assertEqual(of_truck, sorted(of_truck))
            ledger = json.loads(site.cli("ledger", "--json", check=0).stdout)
            self.assertEqual(ledger["quarantined"], len(held))
            self.assertTrue(ledger["reconciled"])


class Program:
    """A program on the acknowledged stream; `messages` is what it was told."""

    def __init__(self, site, *args, start=None):
        self.process = subprocess.Popen(
            start or [WAYSIDE, "read", "truck_gps", "-c", site.config, "-g", "g", "--stream",
                      *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.messages, self.said = [], []
        self.threads = [
            threading.Thread(target=self.collect, daemon=True),
            threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)]
        for thread in self.threads:
            thread.start()

    def collect(self):
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.messages.append(json.loads(line))

    def of(self, kind):
        return [m for m in list(self.messages) if m["type"] == kind]

    def wait(self, kind, n=1):
        return wait_for(lambda: len(self.of(kind)) >= n and self.of(kind), f"{n} {kind}")[n - 1]

    def records(self):
        return [r for m in self.of("records") for r in m["records"]]

    def tell(self, **message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def close(self, how=None):
        """Its exit code."""
        if how is not None:
            self.process.send_signal(how)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        code = self.process.wait(DEADLINE_S)
        for thread in self.threads:
            thread.join(DEADLINE_S)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.stdout.closed:
            return
        self.process.kill()
        self.close()


class Stream(unittest.TestCase):
    def test_what_is_acknowledged_is_committed_and_nothing_else(self):
        with Site() as site:
            publish(site, range(25))
            with Program(site, "--follow", "--batch", "10") as program:
                hello = program.wait("hello")
                self.assertEqual((hello["protocol"], hello["topic"], hello["group"]),
                                 (1, "truck_gps", "g"))
                self.assertEqual(hello["window_records"], 40)
                assigned = program.wait("assigned")
                self.assertEqual([p["partition"] for p in assigned["partitions"]], list(range(12)))
                wait_for(lambda: len(program.records()) == 25, "all is given")
                self.assertEqual(lag(site), 25)
                program.tell(do="ack", batch=1)
                program.wait("committed")
                self.assertEqual(lag(site), 15)
                # By place: that record, and what was given before it in its partition.
                r = program.of("records")[1]["records"][0]
                program.tell(do="ack", partition=r["partition"], offset=r["offset"])
                committed = program.wait("committed", 2)
                self.assertEqual(committed["partitions"],
                                 [{"partition": r["partition"], "next": r["offset"] + 1}])
                self.assertEqual(lag(site), 14)
                self.assertEqual(program.close(), 1)  # it went away with 14 in its hands
                self.assertIn("14 records were given and not acknowledged",
                              "".join(program.said))
            with Program(site) as program:
                wait_for(lambda: len(program.records()) == 14, "they come again")
                program.wait("drain")  # there is no more to wait for
                program.tell(do="ack", batch=program.of("records")[-1]["batch"])
                program.wait("end")
                self.assertEqual(program.close(), 0)
            self.assertEqual(lag(site), 0)

    def test_a_record_that_is_refused(self):
        with Site() as site:
            publish(site, [0, 5, 10, 15])  # one partition
            with Program(site, "--follow") as program:
                wait_for(lambda: len(program.records()) == 4, "all is given")
                a, b, c, _ = program.records()
                program.tell(do="fail", partition=b["partition"], offset=b["offset"], reason="ü b")
                program.tell(do="ack", partition=a["partition"], offset=a["offset"])
                wait_for(lambda: lag(site) == 2, "behind the refused one")
                program.tell(do="ack", partition=c["partition"], offset=c["offset"])
                wait_for(lambda: lag(site) == 1, "and on")
                program.tell(do="fail", partition=a["partition"], offset=a["offset"])
                self.assertIn("done with", program.wait("error")["error"])
                program.tell(do="end")
                program.wait("end")
                self.assertEqual(program.close(), 0)
            (n, headers), = quarantined(site)
            self.assertEqual((n, headers["reason"], headers["detail"], headers["offset"]),
                             (5, "refused_by_program", "ü b", str(b["offset"])))
            self.assertEqual(site.status()["counters"]["quarantined.refused_by_program"], 1)

    def test_a_window_bounds_what_is_given(self):
        with Site() as site:
            publish(site, range(1000))
            with Program(site, "--batch", "50") as program:
                wait_for(lambda: len(program.records()) == 200, "four batches")
                program.tell(do="pong")
                program.tell(do="ack", batch=1)
                wait_for(lambda: len(program.records()) == 250, "one more")
                while not program.of("end"):
                    program.tell(do="ack", batch=program.of("records")[-1]["batch"])
                    time.sleep(0.01)
                self.assertEqual(program.close(), 0)
            self.assertEqual(sorted(json.loads(r["value"])["n"] for r in program.records()),
                             list(range(1000)))
            self.assertEqual(lag(site), 0)

    def test_what_is_no_word_of_the_stream(self):
        with Site() as site:
            publish(site, range(3))
            with Program(site, "--follow") as program:
                wait_for(lambda: len(program.records()) == 3, "all is given")
                for i, line in enumerate(("nonsense", '{"do":"dance"}', '{"do":"ack"}', "[]",
                                          '{"do":"ack","batch":99}', '{"do":"ack","batch":-1}',
                                          '{"do":"ack","partition":99,"offset":0}',
                                          '{"do":"ack","partition":0,"offset":1e300}',
                                          '{"do":"fail","partition":3000000000,"offset":1}',
                                          '{"do":"ack","topic":"raw","batch":1}', "")):
                    program.process.stdin.write(line + "\n")
                    program.process.stdin.flush()
                    program.wait("error", i + 1)
                self.assertEqual(lag(site), 3)
                program.tell(do="hello", protocol=1)
                program.tell(do="hello", protocol=7)
                self.assertIn("protocol 7", program.wait("error", i + 2)["error"])
                self.assertEqual(program.close(), 2)
            with Program(site, "--follow") as program:
                try:
                    program.process.stdin.write("x" * 1_000_000)
                    program.process.stdin.flush()
                except BrokenPipeError:
                    pass
                self.assertEqual(program.close(), 1)
            for args in (("--stream",), ("--exec", "cat"), ("--group", "g", "--tries", "2"),
                         ("--group", "g", "--exec", ""), ("--group", "g", "--exec", " "),
                         ("--group", "g", "--stream", "--commit", "before"),
                         ("--group", "g", "--stream", "--format", "csv")):
                site.cli("read", "truck_gps", *args, check=2)

    def test_a_program_that_babbles_is_stuck(self):
        """What is no word of the stream is no sign of life, and does not fill the memory."""
        with Site() as site:
            publish(site, range(3))
            for command in ("yes x", "cat", "yes '{\"do\":\"ack\",\"batch\":99}'"):
                with self.subTest(command=command):
                    read = subprocess.Popen(
                        [WAYSIDE, "read", "truck_gps", "-c", site.config, "--group", command[:6],
                         "--stream", "--follow", "--timeout", "1s", "--exec", command],
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                    end = threading.Timer(DEADLINE_S, read.kill)
                    end.start()
                    with read.stderr:
                        said = read.stderr.read()
                    _, status, used = os.wait4(read.pid, 0)
                    end.cancel()
                    read.returncode = os.waitstatus_to_exitcode(status)
                    self.assertIn(b"said nothing for 1s", said)
                    self.assertEqual(read.returncode, 6)
                    self.assertLess(used.ru_maxrss, 64 * 1024 * MEMORY_FACTOR, "KiB")

    def test_a_program_that_says_nothing_is_not_waited_for(self):
        with Site() as site:
            publish(site, range(3))
            with Program(site, "--follow", "--timeout", "1s") as program:
                program.wait("ping")
                program.tell(do="pong")  # a sign of life
                program.wait("ping", 2)
                wait_for(lambda: program.of("end"), "the end")
                self.assertIn("said nothing for", program.of("end")[0]["reason"])
                self.assertEqual(program.close(), 6)
            self.assertEqual(lag(site), 3)

    def test_the_gateway_goes_and_comes_and_a_standby_takes_over(self):
        with Site() as site:
            publish(site, range(10))
            with Program(site, "--follow") as first, Program(site, "--follow") as second:
                a, b = wait_for(lambda: (first, second) if first.of("records") else
                                (second, first) if second.of("records") else None, "one is active")
                b.wait("waiting")
                site.kill()
                a.wait("revoked")
                site.start()
                # One of the two is active again, and gets all again.
                a, b = wait_for(lambda: (a, b) if len(a.of("records")) == 2 else
                                (b, a) if b.of("records") else None, "one is active")
                batch = a.of("records")[-1]
                self.assertEqual(len(batch["records"]), 10)
                a.tell(do="ack", batch=batch["batch"])
                wait_for(lambda: lag(site) == 0, "committed")
                publish(site, range(10, 15))
                wait_for(lambda: len(a.of("records")[-1]["records"]) < 10, "given")
                had = len(b.of("assigned"))
                a.close(signal.SIGKILL)
                b.wait("assigned", had + 1)
                wait_for(lambda: sorted(json.loads(r["value"])["n"] for m in
                                        b.of("records")[-1:] for r in m["records"])
                         == [10, 11, 12, 13, 14], "what was not acknowledged comes to the other")
                # A program that goes away while it stands by leaves no member behind; and its
                # words count.
            with Program(site, "--follow") as first:
                first.wait("assigned")
                with Program(site, "--follow") as second:
                    second.wait("waiting")
                    self.assertEqual(second.close(), 0)
                    wait_for(lambda: describe(site)["standby"] == 0, "it is gone")
                for words, code in (({"do": "end"}, 0), ({"do": "hello", "protocol": 2}, 2)):
                    with Program(site, "--follow") as second:
                        second.wait("waiting")
                        second.tell(**words)
                        second.wait("end")
                        self.assertEqual(second.close(), code)

    def test_a_stop_drains(self):
        with Site() as site:
            publish(site, range(5))
            with Program(site, "--follow") as program:
                program.wait("records")
                program.process.send_signal(signal.SIGTERM)
                program.wait("drain")
                publish(site, range(5, 8))
                program.tell(do="ack", batch=1)
                self.assertIn("told to end", program.wait("end")["reason"])
                self.assertEqual(program.close(), 0)
            self.assertEqual(lag(site), 3)

    def test_the_last_words_of_a_program_count(self):
        with Site() as site:
            publish(site, range(40))
            # It reads no more, so that writing to it fails, and its acknowledgement comes later.
            command = ("read hello; read assigned; read records; exec <&-; sleep 0.3;"
                       " echo '{\"do\":\"ack\",\"batch\":1}'")
            site.cli("read", "truck_gps", "-g", "g", "--stream", "--batch", "5", "--exec", command,
                     check=1)
            self.assertEqual(lag(site), 35)

    def test_over_the_pipes_of_a_command(self):
        with Site() as site:
            publish(site, range(7))
            out = os.path.join(site.directory, "out")
            command = (f"read hello; echo \"$hello\" > {out}; read assigned; read records;"
                       " echo '{\"do\":\"ack\",\"batch\":1}'; cat > /dev/null")
            site.cli("read", "truck_gps", "-g", "g", "--stream", "--exec", command, check=0)
            self.assertEqual(lag(site), 0)
            with open(out, encoding="utf-8") as f:
                self.assertEqual(json.loads(f.read())["protocol"], 1)
            publish(site, [7])
            done = site.cli("read", "truck_gps", "-g", "g", "--stream", "--exec", "exit 4", check=1)
            self.assertIn("exit code 4", done.stderr)
            self.assertEqual(lag(site), 1)

    def test_kills_of_program_and_gateway(self):
        random = seeded("stream")
        with Site() as site:
            total, done = 0, []  # done: processed, in this order
            for _ in range(6):
                publish(site, range(total, total + 100))
                total += 100
                with Program(site, "--follow", "--batch", str(random.randrange(1, 40))) as program:
                    seen, acknowledged, aim = 0, 0, random.randrange(1, 100)
                    kill_gateway = random.random() < 0.5
                    while seen < aim and lag(site) != 0:
                        for m in program.of("records")[acknowledged:]:
                            acknowledged += 1
                            for r in m["records"]:
                                done.append((r["partition"], r["offset"]))
                                seen += 1
                            program.tell(do="ack", batch=m["batch"])
                    if kill_gateway:
                        site.kill()
                        program.wait("revoked")
                        site.start()
                        program.wait("assigned", 2)
                    program.close(signal.SIGKILL)
                # Nothing is committed that was not processed.
                for p in (describe(site) or {"partitions": []})["partitions"]:
                    have = {o for partition, o in done if partition == p["partition"]}
                    self.assertTrue(set(range(p["committed"] or 0)) <= have, p)
            with Program(site) as program:
                while not program.of("end"):
                    for m in program.of("records"):
                        done += [(r["partition"], r["offset"]) for r in m["records"]]
                        program.tell(do="ack", batch=m["batch"])
                    time.sleep(0.01)
                self.assertEqual(program.close(), 0)
            self.assertEqual(len(set(done)), total)
            self.assertEqual(lag(site), 0)


if __name__ == "__main__":
    main()
