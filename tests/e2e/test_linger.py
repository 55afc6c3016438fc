"""Group commit: many paced devices share commits; one that waits for each acknowledgement is not
slowed by the linger. Counts, not times: the figures are in bench/."""

import selectors
import socket
import time
import unittest

import harness
from harness import Gateway, Wire, main, publish_packet


class Linger(unittest.TestCase):
    def test_500_paced_devices_share_25_records_a_commit(self):
        devices, seconds = 500, 4
        with Gateway(commit='linger = "100ms"') as gateway:
            selector = selectors.DefaultSelector()
            wires = []
            for i in range(devices):
                wire = Wire(gateway.port)
                wire.connect(f"truck{i}")
                wire.socket.setblocking(False)
                selector.register(wire.socket, selectors.EVENT_READ)
                wires.append(wire)
            begin = gateway.status()["gateway"]
            acknowledged = sent = 0
            start = time.monotonic()
            total = devices * seconds
            # Each device once a second, at its own moment of the second.
            while acknowledged < total:
                due = min(total, int((time.monotonic() - start) * devices))
                for n in range(sent, due):
                    wires[n % devices].socket.send(
                        publish_packet(f"raw/{n % devices}", f"r{n}", 1, n // devices + 1))
                sent = due
                for key, _ in selector.select(0.002):
                    acknowledged += len(key.fileobj.recv(4096)) // 4
                self.assertLess(time.monotonic() - start, harness.DEADLINE_S)
            end = gateway.status()["gateway"]
            for wire in wires:
                wire.close()
        records = end["records"] - begin["records"]
        commits = end["commits"] - begin["commits"]
        print(f"{records} records in {commits} commits: {records / commits:.1f} a commit")
        self.assertEqual(records, total)
        self.assertGreaterEqual(records / commits, 25)

    def test_a_device_that_waits_for_each_acknowledgement_is_not_slowed(self):
        # With a linger of two seconds, 60 readings one by one would take two minutes. Only the
        # first has to wait for it: nobody knows yet that there is no company to wait for.
        with Gateway(commit='linger = "2s"') as gateway, Wire(gateway.port) as wire:
            wire.connect("eager")
            wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(60):
                wire.send(publish_packet("raw/eager", f"r{i}", 1, i + 1))
                self.assertEqual(wire.read()[0], 4)
            commits = gateway.status()["gateway"]["commits"]
        self.assertGreaterEqual(commits, 60)


if __name__ == "__main__":
    main()
