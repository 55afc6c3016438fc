#!/usr/bin/env python3
"""All figures, by one command; prints Markdown (docs/BENCHMARKS.md is its output).

    bench/run.py [--quick] > docs/BENCHMARKS.md

Needs a release build with benchmarks (cmake --preset release -DWAYSIDE_BENCH=ON), mosquitto, and
for device bytes root and a free loop device; without, that column says so. NATS is a peer when
nats-server (2.10 or later) is on the PATH or named by NATS_SERVER:
    GOBIN=/tmp/nats go install github.com/nats-io/nats-server/v2@v2.10.29
Peers run in the same run, in turn; each figure is the median of the runs.
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
    print("## Appending\n")
    disk = LoopDevice()
    where = f"ext4 on a loop device ({disk.name()})" if disk.device else \
        "the temporary directory; no loop device could be mounted, so no device bytes"
    print("Beside a raw preallocated file with one `fdatasync` a commit (the limit), and the table "
          "one would write first, `PRIMARY KEY(partition, offset)` in the same WAL with FULL. "
          f"About 128 bytes of key and value, {where}; rolls and index builds included; median "
          f"of {rounds}.\n")
    print("| topics × partitions | records a commit | raw, records/s | naive, records/s | log, "
          "records/s | log : raw | log : naive | device bytes per payload byte: raw | naive | log "
          "|")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    shapes = [(20, 12, b) for b in (1, 10, 50, 100, 500, 1000, 10000)]
    shapes += [(t, p, 100) for t, p in ((1, 1), (1, 12), (1, 100), (8, 12), (50, 4))]
    for topics, partitions, b in shapes:
        rows = []
        for _ in range(rounds):
            target = tempfile.mkdtemp(dir=disk.directory)
            rows.append(run_json(f"{BUILD}/bench/bench_append", target, str(b), str(topics),
                                 str(partitions), str(seconds),
                                 *([disk.name()] if disk.device else [])))
            shutil.rmtree(target)
        device = [f"{median(rows, n):.2f}" if disk.device else "not run"
                  for n in ("raw_device", "naive_device", "log_device")]
        naive = statistics.median(r["log_records_s"] / r["naive_records_s"] for r in rows)
        print(f"| {topics}×{partitions} | {b} | {median(rows, 'raw_records_s'):,.0f} | "
              f"{median(rows, 'naive_records_s'):,.0f} | {median(rows, 'log_records_s'):,.0f} | "
              f"{median(rows, 'ratio'):.2f} | {naive:.1f} | {' | '.join(device)} |", flush=True)
    disk.close()
    print()


def bench_profile(seconds):
    print("## Where each microsecond and each byte goes\n")
    print("The same readings through one layer more at a time (`bench_profile`); a layer's cost is "
          "its line minus the one before. µs a record, and of CPU; device bytes per payload "
          "byte.\n")
    disk = LoopDevice()
    print("| records a commit | layer | µs a record | CPU µs | ms a commit | device bytes |\n"
          "|--:|---|--:|--:|--:|--:|")
    for b in (50, 100, 1000):
        with tempfile.TemporaryDirectory(dir=disk.directory) as directory:
            run = subprocess.run([f"{BUILD}/bench/bench_profile", directory, str(b), str(seconds),
                                  *([disk.name()] if disk.device else [])],
                                 check=True, capture_output=True, text=True)
        for line in run.stdout.splitlines():
            r = json.loads(line)
            device = f"{r['device']:.2f}" if disk.device else "not run"
            print(f"| {b} | {r['layer']} | {r['us']:.2f} | {r['cpu_us']:.2f} | "
                  f"{r['commit_ms']:.3f} | {device} |", flush=True)
    disk.close()
    print()


def bench_growth(sizes):
    print("## Growth\n")
    print("12 partitions, 500 keys, 500 records a commit; commit latencies at 50 records a commit; "
          "rolls every 100,000 records, later more; lookups of one record by its offset anywhere, "
          "and by time; `latest` of the last hour (360,000 records at 100/s).\n")
    print("| rows | append, records/s | commit p50 / p99 ms | roll, most ms | index of a closed "
          "segment, most ms | start ms | by offset p50 / p99 ms | by time p50 / p99 ms | latest, "
          "1 h, ms | RSS MiB |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="wayside-bench-") as directory:
        run = subprocess.run([f"{BUILD}/bench/bench_growth", directory, ",".join(map(str, sizes))],
                             check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    for r in rows:
        if "append_s" in r:
            print(f"| {r['rows']:,} | {r['append_s']:,.0f} | {r['commit_p50_ms']:.2f} / "
                  f"{r['commit_p99_ms']:.2f} | {r['roll_most_ms']:.1f} | "
                  f"{r['index_most_ms']:.0f} | {r['open_ms']:.0f} | {r['offset_p50_ms']:.2f} / "
                  f"{r['offset_p99_ms']:.2f} | {r['time_p50_ms']:.1f} / {r['time_p99_ms']:.1f} | "
                  f"{r['latest_1h_ms']:,.0f} | {r['rss_kib'] / 1024:.0f} |")
    if not any("dropped" in r for r in rows):
        print("\nRetention of one day under load: not run, it needs 17.3 million rows (--rows).")
    for r in rows:
        if "dropped" in r:
            print(f"\nRetention of one day under load: {r['dropped']:,} records dropped in "
                  f"{r['took_ms']:,.0f} ms of commits of 50 with what the writer does between "
                  f"them. p50 / p99 of such a step: before {r['before_p50_ms']:.2f} / "
                  f"{r['before_p99_ms']:.2f} ms, during {r['during_p50_ms']:.2f} / "
                  f"{r['during_p99_ms']:.2f} ms (at most {r['during_most_ms']:.0f} ms).")
    print()


def bench_read(rows):
    print("## Reading\n")
    print(f"{rows:,} records in 12 partitions, through the reader that the CLI, groups and bridges "
          "use (decoded, CRC checked); medians of 3. Cold: the kernel's cache is dropped before. "
          "Beside a writer that appends 500 records a commit as fast as it can.\n")
    with tempfile.TemporaryDirectory(prefix="wayside-bench-") as directory:
        run = subprocess.run([f"{BUILD}/bench/bench_read", directory, str(rows)], check=True,
                             capture_output=True, text=True)
    found = {}
    for line in run.stdout.splitlines():
        r = json.loads(line)
        found.setdefault(r["how"], {})[r["state"]] = r
    print("| | warm | cold | beside a writer | the writer meanwhile, records/s |\n"
          "|---|--:|--:|--:|--:|")
    for how, states in found.items():
        def cell(state):
            r = states.get(state)
            return f"{r['ms']:,.1f} ms, {r['records_s']:,.0f}/s" if r else "not run"
        busy = "beside a saturating writer"
        print(f"| {how} | {cell('warm')} | {cell('cold')} | {cell(busy)} | "
              f"{states[busy]['writer_s']:,.0f} |")
    print()


class Mosquitto:
    """A Mosquitto with one subscriber, "offline" (it holds the readings in RAM) or "online"."""

    def __init__(self, subscriber):
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
        self.subscriber = None
        if subscriber == "online":
            self.subscriber = subprocess.Popen([f"{BUILD}/bench/bench_mqtt", str(self.port),
                                                "subscribe"], stdout=subprocess.PIPE)
            assert self.subscriber.stdout.readline() == b"subscribed\n"
            return
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
        for process in (self.subscriber, self.process):
            if process:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Nats:
    """NATS JetStream's MQTT: `sync` is "default" (an fsync every two minutes) or "always"."""

    def __init__(self, sync):
        self.directory = tempfile.mkdtemp(prefix="wayside-bench-")
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            b.bind(("127.0.0.1", 0))
            self.port, port = a.getsockname()[1], b.getsockname()[1]
        conf = os.path.join(self.directory, "conf")
        always = "sync_interval: always\n" if sync == "always" else ""
        with open(conf, "w", encoding="utf-8") as f:
            f.write(f'listen: "127.0.0.1:{port}"\nserver_name: bench\njetstream {{\n'
                    f'store_dir: "{self.directory}/store"\n{always}}}\n'
                    f'mqtt {{ listen: "127.0.0.1:{self.port}", max_ack_pending: 65535 }}\n')
        self.process = subprocess.Popen([NATS, "-c", conf], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        harness.wait_for(self.ready, "nats listens")

    def ready(self):
        try:
            with harness.Wire(self.port, timeout=2) as wire:
                return wire.connect("offline", clean=False)[1] == 0
        except (OSError, harness.Closed):
            return False

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


NATS = os.environ.get("NATS_SERVER") or shutil.which("nats-server") or ""
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
    print("## Readings acknowledged over MQTT\n")
    print("Wayside (decoded, keyed, synced before each acknowledgement) beside Mosquitto "
          "(acknowledged from RAM; queued for an offline subscriber, or with one online that takes "
          "all) and NATS JetStream's MQTT (2.10, which has 3.1.1 alone; `default`: a sync every "
          "two minutes; `always`: before each acknowledgement); one client process on the same two "
          f"cores; median of {rounds}, in turn. CPU is of Wayside's process per reading.\n")
    print("| QoS | connections × window | MQTT | Wayside, acked/s | p50 / p99 ms | records a "
          "commit | CPU µs | Mosquitto offline | ratio | Mosquitto online | ratio | NATS default | "
          "ratio | NATS always | ratio |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    shapes = ((1, 4, 100, 200_000), (1, 20, 20, 200_000), (1, 20, 1, 20_000), (1, 500, 1, 100_000),
              (2, 4, 100, 100_000), (2, 20, 20, 100_000), (2, 20, 1, 10_000), (2, 500, 1, 50_000))
    for qos, connections, window, n in shapes:
        for version in ("4", "5"):
            mqtt_row(rounds, factor, qos, connections, window, n, version)
    print()


def mqtt_row(rounds, factor, qos, connections, window, n, version):
    ours, shared, cpu = [], [], []
    peers = {"offline": [], "online": [], "default": [], "always": []}
    load = [str(connections), str(window), str(int(n * factor)), str(qos), version]
    few = load[:2] + [str(int(max(2000, n * factor / 40))), str(qos), version]
    for _ in range(rounds):
        with harness.Gateway(topics=ROUTES) as gateway:
            before = cpu_s(gateway.process.pid)
            ours.append(run_json(f"{BUILD}/bench/bench_mqtt", str(gateway.port), *load))
            cpu.append((cpu_s(gateway.process.pid) - before) / (int(load[2])) * 1e6)
            state = gateway.status()["gateway"]
            shared.append(state["records"] / state["commits"])
        for name, rows in peers.items():
            nats = name in ("default", "always")
            if nats and (not NATS or version == "5"):
                continue
            peer = Nats(name) if nats else Mosquitto(name)
            try:
                rows.append(run_json(f"{BUILD}/bench/bench_mqtt", str(peer.port),
                                     *(few if name == "always" else load)))
            except subprocess.SubprocessError:
                pass
            peer.close()

    def column(name):
        if not peers[name]:
            return "not run | "
        theirs = median(peers[name], "acked_s")
        failed = rounds - len(peers[name])
        return (f"{theirs:,.0f}{f' ({failed} failed)' if failed else ''} | "
                f"{median(ours, 'acked_s') / theirs:.2f}")
    print(f"| {qos} | {connections}×{window} | {'5' if version == '5' else '3.1.1'} | "
          f"{median(ours, 'acked_s'):,.0f} | "
          f"{median(ours, 'p50_ms'):.1f} / {median(ours, 'p99_ms'):.1f} | "
          f"{statistics.median(shared):.0f} | {statistics.median(cpu):.1f} | "
          f"{' | '.join(column(name) for name in peers)} |", flush=True)


def bench_card(factor):
    print("## As on a card\n")
    print("The same with 5 and 20 ms added to every `fsync` and `fdatasync` (`slow_sync`), QoS 1, "
          "MQTT 3.1.1; one run each.\n")
    print("| added ms | connections × window | acked/s | p50 / p99 ms | records a commit |\n"
          "|--:|--:|--:|--:|--:|")
    for ms in (0, 5, 20):
        for connections, window, n in ((4, 100, 40_000), (20, 20, 40_000), (20, 1, 4_000),
                                       (500, 1, 40_000)):
            env = {**os.environ, "LD_PRELOAD": os.path.abspath(f"{BUILD}/bench/libslow_sync.so"),
                   "SLOW_SYNC_MS": str(ms)}
            with harness.Gateway(topics=ROUTES, env=env) as gateway:
                r = run_json(f"{BUILD}/bench/bench_mqtt", str(gateway.port), str(connections),
                             str(window), str(int(n * factor)), "1")
                state = gateway.status()["gateway"]
                print(f"| {ms} | {connections}×{window} | {r['acked_s']:,.0f} | "
                      f"{r['p50_ms']:.1f} / {r['p99_ms']:.1f} | "
                      f"{state['records'] / state['commits']:.0f} |", flush=True)
    print()


def bench_linger(factor):
    print("## The linger\n")
    count = max(3, int(10 * factor))
    print(f"500 devices that send one reading a second each for {count} s "
          "(`wayside simulate`), on the loop device.\n")
    print("| linger | records a commit | commits/s | device bytes per payload byte |\n"
          "|--:|--:|--:|--:|")
    for linger in ("0", "20ms", "100ms", "250ms", "1s"):
        disk = LoopDevice()
        with harness.Gateway(topics=ROUTES, commit=f'linger = "{linger}"',
                             directory=disk.directory) as gateway:
            fleet = subprocess.Popen(
                [harness.WAYSIDE, "simulate", "-c", gateway.config, "-p", str(gateway.port),
                 "--trucks", "500", "--count", str(count + 8), "--rate", "1", "--connections",
                 "500"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

            # Connecting costs commits of its own; and the WAL gets its size.
            def stored():
                return gateway.status()["gateway"]["records"]
            harness.wait_for(lambda: stored() >= 4 * 500, "all trucks send", 60)
            device, before = sectors(disk), gateway.status()["gateway"]
            harness.wait_for(lambda: stored() >= before["records"] + count * 500, "they go on",
                             120)
            state, wrote = gateway.status()["gateway"], sectors(disk) - device
            fleet.kill()
            fleet.wait()
            payload = gateway.sql("SELECT avg(length(key)+length(value)) FROM truck_gps")[0][0]
            records = state["records"] - before["records"]
            commits = state["commits"] - before["commits"]
            ratio = f"{wrote / (payload * records):.1f}" if disk.device else "not run"
            print(f"| {linger} | {records / commits:.0f} | {commits / count:.0f} | {ratio} |",
                  flush=True)
        disk.close()
    print()


def sectors(disk):
    if not disk.device:
        return 0
    os.sync()
    with open(f"/sys/class/block/{disk.name()}/stat", encoding="ascii") as f:
        return int(f.read().split()[6]) * 512


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    parser.add_argument("--rows", type=lambda s: [int(n) for n in s.split(",")],
                        default=[1_000_000, 10_000_000], help="sizes for the table of growth")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    kind = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True,
                          text=True, check=True).stdout.strip()
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        cpu = re.search(r"model name\s*: (.*)", f.read())
    print("# Benchmarks\n\nMade by `bench/run.py`. Ratios carry over to other machines; absolute "
          "figures do not.\n")
    print(f"Commit {commit}, {time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores, "
          f"{cpu.group(1) if cpu else 'unknown CPU'}, Linux {os.uname().release}; a shared virtual "
          f"machine, not a Raspberry Pi and not an SD card; temporary directory on {kind}.\n",
          flush=True)
    rounds, factor = (1, 0.1) if args.quick else (3, 1.0)
    bench_append(rounds, 1 if args.quick else 2)
    bench_profile(0.5 if args.quick else 3)
    bench_mqtt(rounds, factor)
    bench_card(factor)
    bench_linger(factor)
    bench_growth([100_000] if args.quick else args.rows)
    bench_read(200_000 if args.quick else 10_000_000)
    bench_linger_and_memory(factor)


if __name__ == "__main__":
    main()
