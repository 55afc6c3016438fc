"""Other protocols on the MQTT port, and MQTT 3.1: who is there is told what to do, or is served."""

import http.client
import ssl

from harness import *
from test_wire_connect import V311, V5, WireCase, two

V31 = 3


class Greetings(WireCase):
    def log_of(self, send):
        """What a fresh gateway's log says about it: one line a minute is enough for each kind."""
        with Gateway() as gateway:
            send(gateway.port)
            wait_for(lambda: "speaks no MQTT" in gateway.log(), "it is logged")
            return gateway.log()

    def test_tls(self):
        """A TLS client fails at once, with an alert, and the log says what it is."""
        def shake(port):
            began = time.monotonic()
            context = ssl.create_default_context()
            with socket.create_connection(("127.0.0.1", port)) as s:
                with self.assertRaises(ssl.SSLError) as raised:
                    context.wrap_socket(s, server_hostname="localhost")
            self.assertIn("HANDSHAKE_FAILURE", str(raised.exception))
            self.assertLess(time.monotonic() - began, 2)
        self.assertRegex(self.log_of(shake), r"at 127\.0\.0\.1:\d+ speaks no MQTT: this looks like "
                         r"TLS; .*mqtt://")

    def test_http(self):
        """A browser is told, in its own words."""
        def ask(port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            self.assertEqual(answer.status, 400)
            self.assertIn(b"MQTT", answer.read())
            connection.close()
        self.assertRegex(self.log_of(ask), "this looks like HTTP; .*http.listen")

    def test_others_in_any_pieces(self):
        """Byte by byte, too; and nothing that follows is taken for MQTT."""
        for data, name in ((b"POST / HTTP/1.0\r\n\r\n", "HTTP"), (b"PUT / HTTP/1.1\r\n", "HTTP"),
                           (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
                           (b"OPTIONS * HTTP/1.1\r\n", "HTTP"), (b"DELETE /x HTTP/1.1\r\n", "HTTP"),
                           (b"\x16\x03\x01\x02\x00\x01\x00", "TLS"), (b"SSH-2.0-x\r\n", "SSH"),
                           (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "PROXY"),
                           (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "PROXY"), (b"AMQP\0\0\x09\1", "AMQP"),
                           (b"EHLO x\r\n", "SMTP")):
            with self.subTest(data=data):
                with Wire(self.gateway.port) as wire:
                    with contextlib.suppress(OSError):
                        for i in range(len(data)):
                            wire.send(data[i:i + 1])
                        wire.send(connect_packet(self.id_))
                    answer = b""
                    with contextlib.suppress(OSError):
                        while got := wire.socket.recv(4096):
                            answer += got
                if name.startswith("HTTP"):
                    self.assertTrue(answer.startswith(b"HTTP/1.1 400 "))
                else:
                    self.assertEqual(answer, b"\x15\3\1\0\2\2\x28" if name == "TLS" else b"")
                wait_for(lambda: f"looks like {name}" in self.gateway.log()
                         or f"looks like the {name}" in self.gateway.log(), "it is logged")
        self.barrier()
        counted = self.gateway.sql("SELECT value FROM _ws_counters WHERE name='refused.not_mqtt'")
        self.assertEqual(counted, [(11,)])


class Version31(WireCase):
    """MQTT 3.1 (MQIsdp, level 3), served as 3.1.1."""

    def join(self, client_id=None, **kwargs):
        wire = self.wire()
        session, code, _ = wire.connect(client_id or self.id_, V31, name="MQIsdp", **kwargs)
        self.assertEqual((session, code), (0, 0))
        return wire

    def test_publish(self):
        """QoS 0, 1 and 2, with DUP wherever 3.1 has it, and flags that 3.1 does not look at."""
        wire = self.join("a client id of more than twenty-three bytes")
        wire.send(self.publish("0", 0, dup=True) + self.publish("1", 1, 1, dup=True)
                  + self.publish("2", 2, 2))
        self.assertEqual([wire.read() for _ in range(2)],
                         [(PUBACK, 0, two(1)), (PUBREC, 0, two(2))])
        wire.send(packet(PUBREL, 2 | 8, two(2)))
        self.assertEqual(wire.read(), (PUBCOMP, 0, two(2)))
        wire.send(packet(PINGREQ, 2, b""))
        self.assertEqual(wire.read(), (PINGRESP, 0, b""))
        wire.send(packet(DISCONNECT, 8, b""))
        self.assertEqual(wire.expect_close(), [])
        self.check_stored("0", "1", "2")

    def test_session_and_qos2(self):
        """Kept as in 3.1.1; its CONNACK has no "session present"."""
        self.join(clean=False).send(self.publish("once", 2, 5)).read()
        wire = self.join(clean=False)
        wire.send(self.publish("once", 2, 5, dup=True))
        self.assertEqual(wire.read(), (PUBREC, 0, two(5)))
        wire.send(packet(PUBREL, 2 | 8, two(5)))
        self.assertEqual(wire.read(), (PUBCOMP, 0, two(5)))
        self.check_stored("once")

    def test_will(self):
        """Left by an abnormal end, and not by a DISCONNECT."""
        will = ("raw/will", self.tag + "will", 1, True, b"")
        self.leave(self.join(will=will))
        self.check_stored()
        self.join(will=will).close()
        wait_for(lambda: self.stored() == ["will"], "the will")

    def test_subscribe(self):
        """3.1 cannot refuse: the QoS asked for is granted, nothing is sent, and it is counted."""
        wire = self.join()
        wire.send(packet(SUBSCRIBE, 2 | 8, two(9) + utf8("raw/#") + b"\1" + utf8("b") + b"\2"))
        self.assertEqual(wire.read(), (SUBACK, 0, two(9) + b"\1\2"))
        wire.send(packet(UNSUBSCRIBE, 2 | 8, two(10) + utf8("raw/#")))
        self.assertEqual(wire.read(), (UNSUBACK, 0, two(10)))
        self.barrier()
        self.assertEqual(self.gateway.sql("SELECT value FROM _ws_counters"
                                          " WHERE name = 'refused.subscribe'"), [(1,)])

    def test_missing_user_name(self):
        """3.1: the packet's length stands above the flags of user name and password."""
        for flags in (0x82, 0xC2):
            wire = self.wire().send(connect_packet(self.id_, V31, name="MQIsdp", flags=flags))
            self.assertEqual(wire.read(), (CONNACK, 0, b"\0\0"))
        self.join(username="u", password="p")

    def test_errors(self):
        """Malformed ones are refused as in 3.1.1."""
        for data in (self.publish("x", 3, 1), self.publish("x", 1, 0),
                     publish_packet("raw/+", "x"), connect_packet(self.id_)):
            wire = self.join().send(data)
            self.assertEqual(wire.expect_close(), [])
        self.check_refused(connect_packet(self.id_, V31, name="MQIsdp", flags=3), V311, 0)
        self.check_stored()


if __name__ == "__main__":
    main()
