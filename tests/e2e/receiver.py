#!/usr/bin/env python3
"""An upstream for a Wayside bridge, and a reference for writing one: takes NDJSON by POST, keeps
each batch, or each record, once, and answers 200 only when it is synced to disk. The contract is
docs/UPSTREAM.md.

    receiver.py --port 8000 --store batches.ndjson [--dedupe key|record|both]

By key: a batch whose Idempotency-Key has been kept is not kept again. By record: a record whose
(gateway, log, topic, partition, offset) has been kept is left out; gateway and log are headers of
the request, the rest stands in the record. The store has one line a batch:
{"key": "...", "gateway": "...", "log": "...", "records": [...]}.

For tests, the file given with --mode says at each request how to behave: ok, 500, hang, close (in
mid-reply), 401, 413:N (more than N records), poison:TEXT or poison:STATUS:TEXT (400, or that
status, when TEXT is in the body), crash:TEXT (no answer to it), nogzip (400 to a gzip body),
single (400 to more than one record), redirect, page (200 and HTML), long (200, and 240 KB). With
--requests FILE it notes each request there, before it answers:
{"key", "gzip", "records", "sha256", "answer"}.
"""

import argparse
import gzip
import hashlib
import http.server
import json
import os
import threading


class Store:
    def __init__(self, path, dedupe):
        self.lock = threading.Lock()
        self.by_key, self.by_record = dedupe in ("key", "both"), dedupe in ("record", "both")
        self.keys = set()
        self.ids = set()
        whole = 0
        if os.path.exists(path):
            with open(path, "rb") as f:
                for line in f:
                    if not line.endswith(b"\n"):
                        break  # torn by a crash: never answered 200, so it comes again
                    batch = json.loads(line)
                    self.keys.add(batch["key"])
                    self.ids.update(self.id_of(batch, r) for r in batch["records"])
                    whole += len(line)
        self.file = open(path, "ab")
        self.file.truncate(whole)

    @staticmethod
    def id_of(batch, record):
        return (batch["gateway"], batch["log"], record["topic"], record["partition"],
                record["offset"])

    def has(self, key):
        with self.lock:
            return key in self.keys

    def add(self, key, gateway, log, body):
        """What is new of the batch is on the disk when this returns."""
        batch = {"key": key, "gateway": gateway, "log": log,
                 "records": [json.loads(line) for line in body.splitlines()]}
        with self.lock:
            if self.by_key and key in self.keys:
                return
            if self.by_record:
                batch["records"] = [r for r in batch["records"]
                                    if self.id_of(batch, r) not in self.ids]
            self.file.write(json.dumps(batch).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.keys.add(key)
            self.ids.update(self.id_of(batch, r) for r in batch["records"])


def make_handler(store, mode_path, requests_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def note(self, answer):
            if not requests_path:
                return
            line = {"key": self.headers["Idempotency-Key"], "gzip": self.gzip,
                    "records": self.body.count(b"\n"), "answer": answer,
                    "sha256": hashlib.sha256(self.body).hexdigest()}
            with open(requests_path, "a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")

        def reply(self, code, text="", kind="text/plain", headers=()):
            self.note(code)
            body = text.encode()
            self.send_response(code)
            for name, value in headers:
                self.send_header(name, value)
            if code != 204:
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.gzip = self.headers.get("Content-Encoding") == "gzip"
            self.body = body = gzip.decompress(body) if self.gzip else body
            mode = "ok"
            if mode_path and os.path.exists(mode_path):
                with open(mode_path, encoding="utf-8") as f:
                    mode = f.read().strip() or "ok"
            name, _, argument = mode.partition(":")
            status = 400
            if name == "poison" and argument[:4].rstrip(":").isdigit():
                status, argument = int(argument[:3]), argument[4:]
            if name == "hang":
                threading.Event().wait()
            elif name == "close":
                self.note("close")
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half a re")
                self.wfile.flush()
                self.close_connection = True
            elif name == "413" and body.count(b"\n") > int(argument):
                self.reply(413, f"at most {argument} records")
            elif name == "poison" and argument.encode() in body:
                self.reply(status, f"there is {argument} in it")
            elif name == "crash" and argument.encode() in body:
                self.note("crash")
                self.close_connection = True
            elif name == "nogzip" and self.gzip:
                self.reply(int(argument or 400), "this is no NDJSON")
            elif name == "single" and body.count(b"\n") > 1:
                self.reply(400, "one record at a time")
            elif name == "redirect":
                self.reply(302, "", headers=[("Location", "http://127.0.0.1:1/login")])
            elif name == "page":
                self.reply(200, "<!DOCTYPE html><html><body>Please log in</body></html>",
                           argument or "text/html")
            elif name == "400" and store.has(self.headers["Idempotency-Key"]):
                self.reply(200, "it is here already")  # whatever would be said of it now
            elif name.isdigit() and name != "413":
                self.reply(int(name), "as the test wishes")
            else:
                store.add(self.headers["Idempotency-Key"], self.headers["X-Wayside-Gateway"],
                          self.headers["X-Wayside-Log"], body)
                if name == "lost":  # kept, and the answer does not arrive
                    self.close_connection = True
                    self.note("lost")
                elif name == "empty":
                    self.reply(204)
                else:
                    self.reply(200, "ok" if name != "long" else "a long page " * 20_000)

        def log_message(self, *args):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--store", required=True)
    parser.add_argument("--dedupe", choices=("key", "record", "both"), default="key")
    parser.add_argument("--mode", default="")
    parser.add_argument("--requests", default="")
    args = parser.parse_args()
    handler = make_handler(Store(args.store, args.dedupe), args.mode, args.requests)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), handler)
    server.daemon_threads = True
    print(f"port {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
