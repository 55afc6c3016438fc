"""The control socket beside programs that ask too much, too slowly, or do not take the answers."""

import json
import os
import socket
import unittest

from harness import Gateway, main, wait_for

MIB = 1 << 20


def rss_mib(gateway):
    with open(f"/proc/{gateway.process.pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


MEMORY_FACTOR = int(os.environ.get("MEMORY_FACTOR", "1"))  # of a sanitized program

class Peer:
    def __init__(self, gateway):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.path.join(gateway.data_dir, "wayside.sock"))
        self.socket.settimeout(10)

    def push(self, data):
        """Sends what can be sent at once; False: it was ended."""
        try:
            self.socket.setblocking(False)
            self.socket.send(data)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def ask(self, line):
        self.socket.settimeout(10)
        self.socket.sendall(line + b"\n")
        text = b""
        while not text.endswith(b"\n"):
            got = self.socket.recv(65536)
            if not got:
                break
            text += got
        return text


class Control(unittest.TestCase):
    def test_sixty_endless_requests_are_bounded_in_all(self):
        with Gateway() as gateway:
            before = rss_mib(gateway)
            peers = [Peer(gateway) for _ in range(60)]
            self.addCleanup(lambda: [p.socket.close() for p in peers])
            block = b"x" * (64 * 1024)
            for i in range(64):  # 4 MiB each, were they all taken
                for p in peers:
                    p.push(block)
                if i % 8 == 0:
                    self.assertTrue(gateway.status()["running"])
                    self.assertLess(rss_mib(gateway), before + 40 * MEMORY_FACTOR)
            self.assertTrue(gateway.status()["running"])

    def test_a_large_request_is_taken_and_a_larger_one_refused(self):
        with Gateway() as gateway:
            peer = Peer(gateway)
            line = b'{"do":"status","x":"' + b"x" * (3 * MIB) + b'"}'
            self.assertIn("pid", json.loads(peer.ask(line)))
            self.assertIn("pid", json.loads(peer.ask(b'{"do":"status"}')))
            peer.socket.close()
            other = Peer(gateway)
            wait_for(lambda: not other.push(b"x" * 65536), "it is ended")
            other.socket.close()
            self.assertTrue(gateway.status()["running"])

    def test_status_of_a_gateway_that_too_many_ask(self):
        with Gateway() as gateway:
            peers = [Peer(gateway) for _ in range(100)]

            def all_ask():  # who has not asked for 5 s makes room for another
                for p in peers:
                    p.ask(b'{"do":"groups"}')
            all_ask()
            self.assertTrue(gateway.status()["running"])
            all_ask()
            text = gateway.cli("status", check=0).stdout
            self.assertIn("running, but it does not answer: 100 programs ask", text)
            for p in peers:
                p.socket.close()
            wait_for(lambda: "running since" in gateway.cli("status").stdout, "it answers")

    def test_many_requests_in_one_piece_are_each_answered(self):
        with Gateway() as gateway:
            peer = Peer(gateway)
            n = 20_000
            sent = b'{"do":"groups"}\n' * n
            answers = b""
            peer.socket.setblocking(False)
            while answers.count(b"\n") < n:
                try:
                    if sent:
                        sent = sent[peer.socket.send(sent[:100_000]):]
                except BlockingIOError:
                    pass
                try:
                    answers += peer.socket.recv(1 << 20)
                except BlockingIOError:
                    wait_for(lambda: True, "")
            self.assertEqual(answers.count(b'{"groups":[]}\n'), n)
            peer.socket.close()


if __name__ == "__main__":
    main()
