#!/usr/bin/env python3
"""First figures, by one command; prints Markdown (docs/BENCHMARKS.md is its output).

    bench/run.py [--quick] > docs/BENCHMARKS.md

Needs a release build with benchmarks (cmake --preset release -DWAYSIDE_BENCH=ON), mosquitto, and
for device bytes root and a free loop device; without, that column says so. Peers run in the same
run, in turn; each figure is the median of the runs.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
import harness  # noqa: E402

BUILD = os.environ.get("BUILD", "build/release")
harness.WAYSIDE = f"{BUILD}/wayside"


def run_json(*args):
    return json.loads(subprocess.run(args, check=True, capture_output=True, text=True,
                                     timeout=300).stdout)


def median(rows, name):
    return statistics.median(r[name] for r in rows)


class LoopDevice:
    """An ext4 file system on a loop device of its own: what is written to it, only we wrote."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="wayside-bench-")
        self.device = ""
        image = self.directory + ".img"
        self.image = image
        try:
            subprocess.run(["truncate", "-s", "2G", image], check=True)
            subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
            found = subprocess.run(["losetup", "-f", "--show", image], check=True,
                                   capture_output=True, text=True)
            self.device = found.stdout.strip()
            subprocess.run(["mount", self.device, self.directory], check=True, capture_output=True)
        except (subprocess.CalledProcessError, FileNotFoundError):
            self.close()
            self.directory = tempfile.mkdtemp(prefix="wayside-bench-")

    def name(self):
        return os.path.basename(self.device)

    def close(self):
        if self.device:
            subprocess.run(["umount", self.directory], capture_output=True, check=False)
            subprocess.run(["losetup", "-d", self.device], capture_output=True, check=False)
            self.device = ""
        shutil.rmtree(self.directory, ignore_errors=True)
        if os.path.exists(self.image):
            os.unlink(self.image)


def bench_append(rounds, seconds):
    print("## Appending, beside a raw preallocated file with fdatasync\n")
    disk = LoopDevice()
    where = f"ext4 on a loop device ({disk.name()})" if disk.device else \
        "the temporary directory; no loop device could be mounted, so no device bytes"
    print(f"20 topics of 12 partitions, about 128 bytes of key and value, {where}; rolls and index "
          f"builds included; median of {rounds}.\n")
    print("| records a commit | raw, records/s | log, records/s | ratio | device bytes per payload "
          "byte: raw | log |")
    print("|--:|--:|--:|--:|--:|--:|")
    for b in (1, 50, 100, 500, 1000):
        rows = []
        for _ in range(rounds):
            target = tempfile.mkdtemp(dir=disk.directory)
            rows.append(run_json(f"{BUILD}/bench/bench_append", target, str(b), "20", "12",
                                 str(seconds), *([disk.name()] if disk.device else [])))
            shutil.rmtree(target)
        device = [f"{median(rows, n):.2f}" if disk.device else "not run"
                  for n in ("raw_device", "log_device")]
        print(f"| {b} | {median(rows, 'raw_records_s'):,.0f} | {median(rows, 'log_records_s'):,.0f}"
              f" | {median(rows, 'ratio'):.2f} | {device[0]} | {device[1]} |", flush=True)
    disk.close()
    print()


class Mosquitto:
    """A Mosquitto that holds the readings in RAM for a subscriber that is offline."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="wayside-bench-")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        conf = os.path.join(self.directory, "conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                    "max_queued_messages 0\nmax_inflight_messages 1000\nset_tcp_nodelay true\n")
        self.process = subprocess.Popen(["mosquitto", "-c", conf], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        harness.wait_for(self.answers, "mosquitto listens")
        with harness.Wire(self.port) as wire:
            wire.connect("offline", clean=False)
            wire.send(harness.packet(harness.SUBSCRIBE, 2, b"\0\1" + harness.utf8("#") + b"\1"))
            assert wire.read()[0] == harness.SUBACK

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            return True
        except OSError:
            return False

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


ROUTES = """
[[topic]]
name = "truck_gps"
partitions = 12
[[route]]
mqtt = "fleet/{truck}/gps"
topic = "truck_gps"
key = "{truck}"
time = "/ts"
"""


def bench_mqtt(rounds, factor):
    print("## Readings acknowledged over MQTT 3.1.1\n")
    print("Wayside (decoded, keyed, synced before each acknowledgement) beside Mosquitto "
          "(acknowledged from RAM, queued for an offline subscriber); one client process on the "
          f"same two cores; median of {rounds}, in turn.\n")
    print("| QoS | connections × window | Wayside, acked/s | p50 / p99 ms | records a commit | "
          "Mosquitto, acked/s | p50 / p99 ms | ratio |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for qos, connections, window, n in ((1, 4, 100, 200_000), (1, 20, 20, 200_000),
                                        (1, 20, 1, 20_000), (2, 4, 100, 100_000)):
        ours, theirs, shared = [], [], []
        load = [str(connections), str(window), str(int(n * factor)), str(qos)]
        for _ in range(rounds):
            with harness.Gateway(topics=ROUTES) as gateway:
                ours.append(run_json(f"{BUILD}/bench/bench_mqtt", str(gateway.port), *load))
                state = gateway.status()["gateway"]
                shared.append(state["records"] / state["commits"])
            mosquitto = Mosquitto()
            theirs.append(run_json(f"{BUILD}/bench/bench_mqtt", str(mosquitto.port), *load))
            mosquitto.close()
        print(f"| {qos} | {connections}×{window} | {median(ours, 'acked_s'):,.0f} | "
              f"{median(ours, 'p50_ms'):.1f} / {median(ours, 'p99_ms'):.1f} | "
              f"{statistics.median(shared):.0f} | {median(theirs, 'acked_s'):,.0f} | "
              f"{median(theirs, 'p50_ms'):.1f} / {median(theirs, 'p99_ms'):.1f} | "
              f"{median(ours, 'acked_s') / median(theirs, 'acked_s'):.2f} |", flush=True)
    print()


def rss_kb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def bench_linger_and_memory(factor):
    print("## The linger, memory, start\n")
    with harness.Gateway(topics=ROUTES) as gateway:
        before = gateway.status()["gateway"]
        row = run_json(f"{BUILD}/bench/bench_mqtt", str(gateway.port), "1", "1",
                       str(int(3000 * factor)), "1")
        after = gateway.status()["gateway"]
        print(f"- One device that waits for each acknowledgement, linger 100 ms: "
              f"{row['acked_s']:,.0f} readings/s, p50 {row['p50_ms']:.2f} ms, "
              f"{(after['records'] - before['records'])}"
              f" records in {after['commits'] - before['commits']} commits.")
    topics = ROUTES + "".join(f'[[topic]]\nname = "t{i}"\npartitions = 12\n' for i in range(19))
    with harness.Gateway(topics=topics) as gateway:
        time.sleep(2)  # idle means idle
        idle = rss_kb(gateway.process.pid)
        run_json(f"{BUILD}/bench/bench_mqtt", str(gateway.port), "4", "100",
                 str(int(1_000_000 * factor)), "1")
        loaded = rss_kb(gateway.process.pid)
        gateway.stop()
        start = time.monotonic()
        gateway.start()
        print(f"- RSS: {idle / 1024:.1f} MiB idle with 20 topics of 12 partitions; "
              f"{loaded / 1024:.1f} MiB after {int(1_000_000 * factor):,} readings at full speed.")
        print(f"- Start with these in the log: {(time.monotonic() - start) * 1000:.0f} ms until it "
              "listens, process start included.")
    print("- 500 devices at 1/s: `tests/e2e/test_linger.py` prints the records a commit.\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to see that it runs")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        cpu = re.search(r"model name\s*: (.*)", f.read())
    print("# Benchmarks\n\nMade by `bench/run.py`. Ratios carry over to other machines; absolute "
          "figures do not.\n")
    print(f"Commit {commit}, {time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores, "
          f"{cpu.group(1) if cpu else 'unknown CPU'}, Linux {os.uname().release}; a shared virtual "
          "machine, not a Raspberry Pi and not an SD card.\n", flush=True)
    rounds, factor = (1, 0.1) if args.quick else (3, 1.0)
    bench_append(rounds, 1 if args.quick else 3)
    bench_mqtt(rounds, factor)
    bench_linger_and_memory(factor)


if __name__ == "__main__":
    main()
