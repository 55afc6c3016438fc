"""What the attacks share: a gateway with as little memory as the service has (in a cgroup, where
this machine lets one be made), an honest device that sends all the time, and newcomers."""

import os
import resource
import socket
import struct
import sys
import threading
import time

from harness import (CONNACK, PUBACK, WAYSIDE, Closed, Gateway, Wire, connect_packet,
                     publish_packet, varint, wait_for)

LONG = os.environ.get("WAYSIDE_ATTACKS") == "1"
MB = 1 << 20
FACTOR = int(os.environ.get("MEMORY_FACTOR", "1"))  # of a sanitized program
MEMORY_MAX = 256 * MB * FACTOR
PEAK_MB, REST_MB = 60 * FACTOR, 45 * FACTOR
FOR_EVER = b"\x11\xff\xff\xff\xff"  # Session Expiry Interval


def of(short, long):
    """So much of it in the short run, so much in the long one."""
    return long if LONG else short


def make_cgroup():
    """The directory of a cgroup with the service's MemoryMax, or None."""
    with open("/proc/self/cgroup", encoding="ascii") as f:
        mine = dict(line.rstrip("\n").split(":", 2)[1:] for line in f)
    name = f"wayside-attack-{os.getpid()}"
    places = [(f"/sys/fs/cgroup/memory{mine.get('memory', '/')}", "memory.limit_in_bytes"),
              ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
              (f"/sys/fs/cgroup{mine.get('', '/')}", "memory.max"),
              (f"/sys/fs/cgroup{os.path.dirname(mine.get('', '/'))}", "memory.max")]
    for parent, limit in places:
        path = os.path.join(parent, name)
        try:
            os.mkdir(path)
            with open(os.path.join(path, limit), "w", encoding="ascii") as f:
                f.write(str(MEMORY_MAX))
            return path
        except OSError:
            if os.path.isdir(path):
                os.rmdir(path)
    return None


class Fortress(Gateway):
    """A gateway under MemoryMax."""

    def __init__(self, **kwargs):
        super().__init__(commit='linger = "5ms"', **kwargs)
        self.cgroup = make_cgroup()
        if self.cgroup is None:
            print("no memory cgroup can be made here: memory is measured only", file=sys.stderr)
            return
        self.program = os.path.join(self.directory, "wayside-in-cgroup")
        with open(self.program, "w", encoding="ascii") as f:
            f.write(f'#!/bin/sh\necho $$ > {self.cgroup}/cgroup.procs\nexec {WAYSIDE} "$@"\n')
        os.chmod(self.program, 0o755)

    def __exit__(self, *exc):
        super().__exit__(*exc)
        if self.cgroup is not None:
            def gone():
                try:
                    os.rmdir(self.cgroup)
                except OSError:
                    return False
                return True
            wait_for(gone, "the cgroup is removed")

    def memory_mb(self, what="VmRSS"):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            for line in f:
                if line.startswith(what + ":"):
                    return int(line.split()[1]) / 1024
        return 0

    def counter(self, name):
        return dict(self.sql("SELECT name, value FROM _ws_counters")).get(name, 0)


class Device(threading.Thread):
    """Sends a reading with QoS 1, waits for its acknowledgement, and so on; connects again as often
    as it must. `acked` is what it was told is stored."""

    def __init__(self, gateway, client_id="honest", every_s=0.02, **kwargs):
        super().__init__(daemon=True)
        self.gateway, self.client_id, self.every_s = gateway, client_id, every_s
        self.kwargs = kwargs
        self.acked, self.slowest_s, self.reconnects = [], 0.0, -1
        self.over = threading.Event()
        self.start()

    def run(self):
        n, began = 0, time.monotonic()
        while not self.over.is_set():
            try:
                with Wire(self.gateway.port, timeout=5) as wire:
                    self.reconnects += 1
                    assert wire.connect(self.client_id, clean=False, **self.kwargs)[1] == 0
                    while not self.over.is_set():
                        value = f"{self.client_id}-{n}"
                        wire.send(publish_packet(f"raw/{self.client_id}", value, 1, n % 60000 + 1))
                        while wire.read()[0] != PUBACK:
                            pass
                        self.acked.append(value)
                        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                        n += 1
                        self.over.wait(self.every_s)
                        began = time.monotonic()
            except (OSError, Closed, AssertionError):
                self.over.wait(0.02)

    def stop(self):
        self.over.set()
        self.join()


class Newcomers(threading.Thread):
    """Every now and then a device nobody has seen comes, and sends one reading, in a few tries."""

    TRIES = 4

    def __init__(self, gateway, every_s=0.2):
        super().__init__(daemon=True)
        self.gateway, self.every_s = gateway, every_s
        self.acked, self.failed = [], []
        self.over = threading.Event()
        self.start()

    def run(self):
        n = 0
        while not self.over.is_set():
            name = f"new-{n}"
            n += 1
            for attempt in range(self.TRIES):
                try:
                    with Wire(self.gateway.port, timeout=5) as wire:
                        assert wire.connect(name, clean=True)[1] == 0
                        wire.send(publish_packet(f"raw/{name}", name, 1, 1))
                        assert wire.read()[0] == PUBACK
                    self.acked.append(name)
                    break
                except (OSError, Closed, AssertionError):
                    if attempt == self.TRIES - 1:
                        self.failed.append(name)
                    self.over.wait(0.05)
            self.over.wait(self.every_s)

    def stop(self):
        self.over.set()
        self.join()


def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))


def dial(port, address="127.0.0.2"):
    """A socket of that address; None when it is refused."""
    try:
        s = socket.socket()
        s.bind((address, 0))
        s.settimeout(3)
        s.connect(("127.0.0.1", port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s
    except OSError:
        return None


def address(n):
    """One of many addresses of this machine."""
    return f"127.0.{n // 250 + 1}.{n % 250 + 2}"


def push(s, data):
    """Sends what the peer takes; False when it is over."""
    try:
        s.sendall(data)
        return True
    except OSError:
        return False


def connected(port, client_id, where="127.0.0.2", version=4, **kwargs):
    """A socket that has its CONNACK; None when that was refused."""
    s = dial(port, where)
    if s is None:
        return None
    try:
        s.sendall(connect_packet(client_id, version, **kwargs))
        answer = s.recv(256)
    except OSError:
        answer = b""
    if len(answer) >= 4 and answer[0] >> 4 == CONNACK and answer[3] == 0:
        return s
    s.close()
    return None


def unfinished_publish(size, sent):
    """The beginning of a PUBLISH of `size` bytes."""
    body = struct.pack(">H", 5) + b"raw/x" + struct.pack(">H", 1)
    return bytes([0x32]) + varint(size) + body + b"x" * (sent - len(body))
