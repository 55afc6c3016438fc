"""An HTTP upstream for the tests: receiver.py as a process of its own, which can be killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def json_lines(path):
    try:
        with open(path, "rb") as f:
            return [json.loads(line) for line in f if line.endswith(b"\n")]
    except FileNotFoundError:
        return []


class Receiver:
    """tests/e2e/receiver.py on a port that stays the same over restarts."""

    def __init__(self, dedupe="key"):
        self.directory = tempfile.mkdtemp(prefix="wayside-receiver-")
        self.store = os.path.join(self.directory, "store")
        self.mode_path = os.path.join(self.directory, "mode")
        self.requests_path = os.path.join(self.directory, "requests")
        self.dedupe = dedupe
        self.port = 0
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "receiver.py"), "--port", str(self.port),
             "--store", self.store, "--mode", self.mode_path, "--dedupe", self.dedupe,
             "--requests", self.requests_path], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])
        return self

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def mode(self, text):
        with open(self.mode_path + ".new", "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(self.mode_path + ".new", self.mode_path)

    def batches(self):
        return json_lines(self.store)

    def requests(self):
        """Every request that came, as it was answered."""
        return json_lines(self.requests_path)

    def records(self):
        return [r for b in self.batches() for r in b["records"]]

    def values(self):
        return [r["value"] for r in self.records()]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/ingest"

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
