"""What the gateway has received is stored, though its sender has gone: before the CONNACK, by FIN
or RST, replaced by a second connection of its client id, or because the gateway stops.

The random tests print their seed, and take it from $SEED.
"""

import fcntl
import termios

from harness import *
from test_wire_connect import V311, V5, WireCase, both, expiry, two

ROUNDS = int(os.environ.get("ROUNDS", "24"))


def reset(wire):
    """Ends a connection by RST, when the gateway's kernel has everything."""
    def sent():
        left = fcntl.ioctl(wire.socket, termios.TIOCOUTQ, b"\0" * 4)
        return struct.unpack("i", left)[0] == 0
    wait_for(sent, "the other side has it")
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


class GoneCase(WireCase):
    def setUp(self):
        super().setUp()
        self.random = seeded(self.id())

    def visit(self, texts, version, client_id, qos=None, **kwargs):
        """CONNECT and readings, as bytes."""
        return connect_packet(client_id, version, **kwargs) + b"".join(
            self.publish(t, self.random.randrange(2) if qos is None else qos, i + 1, version)
            for i, t in enumerate(texts))

    def send_in_pieces(self, wire, data):
        for _ in range(self.random.randrange(4)):
            at = self.random.randrange(len(data) + 1)
            wire.send(data[:at])
            data = data[at:]
        wire.send(data)

    def expect(self, texts):
        """All of them, and in this order: the last of them may still be on its way."""
        with contextlib.suppress(AssertionError):
            wait_for(lambda: len(self.stored()) >= len(texts), "all readings", 10)
        self.check_stored(*texts)


class BeforeConnack(GoneCase):
    @both
    def test_closed(self, version):
        """CONNECT and PUBLISH of QoS 0 or 1 in any pieces, and the peer is gone at once."""
        for n in range(ROUNDS):
            self.fresh()
            texts = [str(i) for i in range(1 + self.random.randrange(20))]
            wire = self.wire()
            self.send_in_pieces(wire, self.visit(texts, version, self.id_))
            if n % 2:
                wire.close()
            else:
                reset(wire)
            self.expect(texts)

    @both
    def test_more_than_one_read(self, version):
        """QoS 0, more than the gateway reads at once, then FIN. (A close() with the CONNACK unread
        is a RST, and then this side's kernel throws away what the other one has no room for.)"""
        texts = [f"{i}" + "x" * 1000 for i in range(400)]
        wire = self.wire().send(self.visit(texts, version, self.id_, qos=0))
        wire.socket.shutdown(socket.SHUT_WR)
        self.expect(texts)

    @both
    def test_beyond_the_bound(self, version):
        """More of QoS 1 than may be unacknowledged, then FIN: read on as commits make room. (One
        of version 5 keeps to Receive Maximum.)"""
        texts = [str(i) for i in range(1000 if version == V5 else 3000)]
        wire = self.wire().send(self.visit(texts, version, self.id_, qos=1))
        wire.socket.shutdown(socket.SHUT_WR)
        self.expect(texts)

    @both
    def test_after_connack(self, version):
        """QoS 0, then FIN or RST at once."""
        for n in range(ROUNDS // 2):
            self.fresh()
            wire = self.open(version)
            wire.send(self.publish("a", version=version) + self.publish("b", version=version))
            if n % 2:
                wire.close()
            else:
                reset(wire)
            self.expect(["a", "b"])

    @both
    def test_acknowledgements_that_nobody_takes(self, version):
        """The peer has gone after its first PUBLISH; a write fails, and the rest is read."""
        wire = self.open(version)
        texts = [f"{i}" + "y" * 3000 for i in range(20)]
        wire.send(b"".join(self.publish(t, 1, i + 1, version) for i, t in enumerate(texts)))
        reset(wire)
        self.expect(texts)


class TakeOverLosesNothing(GoneCase):
    @both
    def test_short_visits(self, version):
        """Connections of one client id, each sooner than the session of the one before is open:
        what each had sent is stored, in order, then the next has the id."""
        for _ in range(ROUNDS // 2):
            self.fresh()
            texts, wires = [], []
            for visit in range(2 + self.random.randrange(4)):
                mine = [f"{visit}.{i}" for i in range(1 + self.random.randrange(3))]
                wire = self.wire()
                self.send_in_pieces(wire, self.visit(mine, version, self.id_,
                                                     clean=self.random.randrange(2) == 0)
                                    + (packet(DISCONNECT, 0, b"") if self.random.randrange(2)
                                       else b""))
                if self.random.randrange(2):
                    wire.close()
                texts += mine
                wires.append(wire)
            self.expect(texts)

    @both
    def test_connected_one(self, version):
        """Bytes of the old connection that are with the kernel when the new CONNECT comes."""
        for _ in range(ROUNDS // 2):
            self.fresh()
            old = self.open(version)
            texts = [str(i) for i in range(300)]
            old.send(b"".join(self.publish(t, version=version) for t in texts))
            new = self.wire().send(connect_packet(self.id_, version)
                                   + self.publish("new", 1, 1, version))
            self.assertEqual(new.read()[0], CONNACK)
            self.assertEqual(new.read(), (PUBACK, 0, two(1)))
            self.check_stored(*texts, "new")
            gone = old.expect_close()
            self.assertEqual([(k, b[0]) for k, _, b in gone],
                             [(DISCONNECT, 0x8E)] if version == V5 else [])

    @both
    def test_beyond_the_bound(self, version):
        """The old one waits at its bound: what it had sent comes before the new one."""
        if version == V5:
            return  # keeps to Receive Maximum
        old = self.wire()
        texts = [str(i) for i in range(4000)]
        old.send(self.visit(texts, version, self.id_, qos=1))
        new = self.wire().send(self.visit(["new"], version, self.id_, qos=1))
        self.assertEqual(new.read()[0], CONNACK)
        self.assertEqual(new.read(), (PUBACK, 0, two(1)))
        self.check_stored(*texts, "new")

    @both
    def test_qos2_once(self, version):
        """QoS 2, sent again over connections that were not answered: stored once."""
        session = {"clean": False, "properties": expiry(100)}
        wires = [self.wire() for _ in range(4)]
        for wire in wires:
            wire.send(connect_packet(self.id_, version, **session)
                      + self.publish("once", 2, 7, version))
        self.assertEqual(wires[-1].read()[0], CONNACK)
        self.assertEqual(wires[-1].read(), (PUBREC, 0, two(7)))
        self.check_stored("once")

    def test_one_that_does_not_read(self):
        """An old connection whose output nobody takes does not hold up the new one."""
        old = self.open(V311, keep_alive=0)
        old.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        old.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(2000):
                old.socket.send(packet(PINGREQ, 0, b"") * 16384)
        new = self.open(V311)
        new.send(self.publish("new", 1, 1)).read()
        self.check_stored("new")


class Stops(unittest.TestCase):
    def test_received_before_a_stop(self):
        """What the gateway has received is stored by an orderly stop: of QoS 0 too, and of a client
        whose session is only being opened."""
        with Gateway(commit='linger = "2ms"') as gateway:
            stored = []
            for n in range(10):
                wires = [Wire(gateway.port) for _ in range(4)]
                wires[0].connect(f"open{n}")
                for i, wire in enumerate(wires):
                    client = b"" if i == 0 else connect_packet(f"{n}.{i}")
                    wire.send(client + b"".join(publish_packet("raw/s", f"{n}.{i}.{k}")
                                                for k in range(20)))
                    stored += [f"{n}.{i}.{k}" for k in range(20)]
                # Sessions are opened in the order of the CONNECTs: this one's comes after theirs.
                with Wire(gateway.port) as last:
                    last.connect("last")
                self.assertEqual(gateway.stop(), 0)
                for wire in wires:
                    wire.close()
                gateway.start()
            self.assertEqual(sorted(gateway.values("raw")), sorted(stored))


if __name__ == "__main__":
    main()
