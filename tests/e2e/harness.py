"""What the end-to-end tests share: a gateway in a fresh directory on a free port, its log read
with plain sqlite3, an MQTT client byte by byte, and conditions that are awaited, never slept for.

The program under test is $WAYSIDE (the path of the binary); $WAYSIDE_MUTANT is the one that
acknowledges on receipt. A random test takes its seed from $SEED and prints it.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import unittest

WAYSIDE = os.environ.get("WAYSIDE", "build/dev/wayside")
MUTANT = os.environ.get("WAYSIDE_MUTANT", "build/dev/tests/wayside_mutant")
DEADLINE_S = float(os.environ.get("DEADLINE_S", "30"))


def seeded(name):
    """A random generator whose seed is printed, and taken from $SEED when that is set."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    print(f"{name}: SEED={seed}", file=sys.stderr)
    return random.Random(seed)


def wait_for(condition, what, deadline_s=None):
    """Waits until condition() is true, and returns what it returned; fails with `what`."""
    deadline = time.monotonic() + (deadline_s or DEADLINE_S)
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s or DEADLINE_S} s: {what}")
        time.sleep(0.01)


TOPICS = """
[[topic]]
name = "truck_gps"
partitions = 12
[[route]]
mqtt = "fleet/{truck}/gps"
topic = "truck_gps"
key = "{truck}"
time = "/ts"
[[topic]]
name = "raw"
partitions = 3
[[route]]
mqtt = "raw/#"
topic = "raw"
payload = "raw"
[[topic]]
name = "by_vin"
[[route]]
mqtt = "vin/{site}"
topic = "by_vin"
key = "/vin"
"""


class Gateway:
    """`wayside run` on a directory of its own. Use as a context manager."""

    def __init__(self, head="", commit="", mqtt="", tail="", topics=TOPICS, program=None,
                 directory=None, env=None):
        self.own_directory = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="wayside-e2e-")
        self.data_dir = os.path.join(self.directory, "data")
        self.config = os.path.join(self.directory, "wayside.toml")
        self.program = program or WAYSIDE
        self.env = env
        self.process = None
        self.port = 0
        self.log_path = os.path.join(self.directory, "stderr")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(f'data_dir = "{self.data_dir}"\n{head}\n[commit]\n{commit}\n'
                    f'[mqtt]\nlisten = "127.0.0.1:0"\n{mqtt}\n{topics}\n{tail}\n'
                    '[http]\nlisten = "127.0.0.1:0"\n')

    def edit(self, old, new):
        """Changes the configuration file, for the next start."""
        with open(self.config, encoding="utf-8") as f:
            text = f.read()
        assert old in text, old
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(text.replace(old, new))

    def start(self, wait=True):
        log = open(self.log_path, "ab")
        begin = log.tell()
        self.process = subprocess.Popen([self.program, "run", "-c", self.config], stderr=log,
                                        stdout=log, env=self.env)
        log.close()
        if wait:
            def port():
                if self.process.poll() is not None:
                    raise AssertionError(f"the gateway ended: {self.log()[begin:]}")
                found = re.search(r"port (\d+);", self.log()[begin:])
                return int(found.group(1)) if found else 0
            self.port = wait_for(port, "the gateway listens")
        return self

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self.process = None
        return code

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        if self.process is not None:
            if self.process.poll() is None:
                self.kill()
            self.process = None
        if exc[0] is not None:
            print(f"--- the gateway said:\n{self.log()[-4000:]}", file=sys.stderr)
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def sql(self, query, *args):
        path = os.path.join(self.data_dir, "wayside.db")
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
            return db.execute(query, args).fetchall()

    def cli(self, *args, check=None, **kwargs):
        verb = list(args)
        at = 2 if verb[0] in ("topics", "groups", "bridge", "quarantine") else 1
        verb[at:at] = ["-c", self.config]
        done = subprocess.run([WAYSIDE, *verb], capture_output=True, text=True, timeout=60,
                              **kwargs)
        if check is not None and done.returncode != check:
            raise AssertionError(f"{verb}: exit {done.returncode}, not {check}\n{done.stdout}"
                                 f"{done.stderr}")
        return done

    def status(self):
        return json.loads(self.cli("status", "--json", check=0).stdout)

    def values(self, topic="truck_gps"):
        return [row[0] for row in self.sql(f'SELECT value FROM "{topic}" ORDER BY seq')]

    def check_offsets(self):
        """Every offset is exactly one row, from the log start to the end, and the file is sound."""
        assert self.sql("PRAGMA integrity_check") == [("ok",)]
        for chain, in self.sql("SELECT chain FROM _ws_chains"):
            rows = self.sql(f'SELECT tp, count(*), count(DISTINCT "offset"), min("offset"),'
                            f' max("offset") FROM _ws_chain_{chain} GROUP BY tp')
            starts = dict(self.sql("SELECT tp, log_start FROM _ws_partitions"))
            for tp, n, distinct, first, last in rows:
                assert n == distinct == last - first + 1, (tp, n, distinct, first, last)
                assert first <= starts[tp] or starts[tp] == 0, (tp, first, starts[tp])


# --- MQTT, byte by byte ------------------------------------------------------------------------

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(8, 16)


def varint(n):
    out = b""
    while True:
        out += bytes([(n & 0x7F) | (0x80 if n > 0x7F else 0)])
        n >>= 7
        if n == 0:
            return out


def utf8(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">H", len(b)) + b


def packet(kind, flags, body):
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def connect_packet(client_id="", version=4, clean=True, keep_alive=60, properties=b"", will=None,
                   username=None, password=None, name="MQTT", flags=None):
    """`will` is (topic, payload, qos, retain, properties)."""
    f = 2 if clean else 0
    body = utf8(name) + bytes([version])
    if will:
        f |= 4 | will[2] << 3 | (0x20 if will[3] else 0)
    if username is not None:
        f |= 0x80
    if password is not None:
        f |= 0x40
    body += bytes([f if flags is None else flags]) + struct.pack(">H", keep_alive)
    if version == 5:
        body += varint(len(properties)) + properties
    body += utf8(client_id)
    if will:
        if version == 5:
            body += varint(len(will[4])) + will[4]
        body += utf8(will[0]) + utf8(will[1])
    if username is not None:
        body += utf8(username)
    if password is not None:
        body += utf8(password)
    return packet(CONNECT, 0, body)


def publish_packet(topic, payload, qos=0, packet_id=None, version=4, dup=False, retain=False,
                   properties=b""):
    body = utf8(topic)
    if qos:
        body += struct.pack(">H", packet_id)
    if version == 5:
        body += varint(len(properties)) + properties
    body += payload if isinstance(payload, bytes) else payload.encode()
    return packet(PUBLISH, (8 if dup else 0) | qos << 1 | (1 if retain else 0), body)


def pubrel_packet(packet_id):
    return packet(PUBREL, 2, struct.pack(">H", packet_id))


class Closed(Exception):
    """The server closed the connection."""


class Wire:
    """A TCP connection on which whole MQTT packets are read."""

    def __init__(self, port, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data)
        return self

    def _need(self, n):
        while len(self.buffer) < n:
            try:
                got = self.socket.recv(65536)
            except ConnectionResetError:
                got = b""
            if not got:
                raise Closed()
            self.buffer += got

    def read(self):
        """The next packet: (type, flags, body)."""
        self._need(2)
        n = shift = 0
        at = 1
        while True:
            self._need(at + 1)
            b = self.buffer[at]
            n |= (b & 0x7F) << shift
            shift += 7
            at += 1
            if not b & 0x80:
                break
        self._need(at + n)
        first, body = self.buffer[0], self.buffer[at:at + n]
        self.buffer = self.buffer[at + n:]
        return first >> 4, first & 15, body

    def connect(self, client_id="", version=4, **kwargs):
        """Connects; returns the CONNACK's (session present, code, rest)."""
        self.send(connect_packet(client_id, version, **kwargs))
        kind, _, body = self.read()
        assert kind == CONNACK, kind
        return body[0], body[1], body[2:]

    def expect_close(self):
        """Reads until the server closes; returns the packets that came."""
        packets = []
        while True:
            try:
                packets.append(self.read())
            except Closed:
                return packets

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def main():
    unittest.main(verbosity=2)
