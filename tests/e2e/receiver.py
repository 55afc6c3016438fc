#!/usr/bin/env python3
"""An upstream for a Wayside bridge, and a reference for writing one: takes NDJSON by POST, keeps
each batch once by its Idempotency-Key, and answers 200 only when the batch is synced to disk.

    receiver.py --port 8000 --store batches.ndjson

The store has one line a batch: {"key": "...", "records": [...]}. For tests, the file given with
--mode says at each request how to behave: ok, 500, hang, close (in mid-reply), 401, 413:N (more
than N records), poison:TEXT (400 when TEXT is in the body), long (200, and 240 KB).
"""

import argparse
import gzip
import http.server
import json
import os
import threading


class Store:
    def __init__(self, path):
        self.lock = threading.Lock()
        self.keys = set()
        whole = 0
        if os.path.exists(path):
            with open(path, "rb") as f:
                for line in f:
                    if not line.endswith(b"\n"):
                        break  # torn by a crash: never answered 200, so it comes again
                    self.keys.add(json.loads(line)["key"])
                    whole += len(line)
        self.file = open(path, "ab")
        self.file.truncate(whole)

    def add(self, key, body):
        """True when the batch is new; either way it is on the disk when this returns."""
        with self.lock:
            if key in self.keys:
                return False
            records = [json.loads(line) for line in body.splitlines()]
            self.file.write(json.dumps({"key": key, "records": records}).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.keys.add(key)
            return True


def make_handler(store, mode_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, code, text=""):
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            mode = "ok"
            if mode_path and os.path.exists(mode_path):
                with open(mode_path, encoding="utf-8") as f:
                    mode = f.read().strip() or "ok"
            name, _, argument = mode.partition(":")
            if name == "hang":
                threading.Event().wait()
            elif name == "close":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half a re")
                self.wfile.flush()
                self.close_connection = True
            elif name == "413" and body.count(b"\n") > int(argument):
                self.reply(413, f"at most {argument} records")
            elif name == "poison" and argument.encode() in body:
                self.reply(400, f"there is {argument} in it")
            elif name.isdigit() and name != "413":
                self.reply(int(name), "as the test wishes")
            else:
                store.add(self.headers["Idempotency-Key"], body)
                self.reply(200, "ok" if name != "long" else "a long page " * 20_000)

        def log_message(self, *args):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--store", required=True)
    parser.add_argument("--mode", default="")
    args = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port),
                                             make_handler(Store(args.store), args.mode))
    server.daemon_threads = True
    print(f"port {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
