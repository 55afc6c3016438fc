"""Clients come back. libmosquitto takes a DISCONNECT, and a refusal of MQTT 5, as final: its loop
ends, and the device is silent for ever. So for what passes (an orderly stop, a failed commit, a log
that is opened anew, no place free) the connection is closed without a word.

The client is libmosquitto itself, as mosquitto_pub and many C programs use it, through ctypes.
"""

import ctypes

from harness import *
from test_wire_connect import V311, V5

N = 80


class Mosquitto:
    """A client of libmosquitto that reconnects by itself, as its loop thread does."""

    lib = None

    def __init__(self, port, client_id, version, keep_alive=60):
        if Mosquitto.lib is None:
            lib = Mosquitto.lib = ctypes.CDLL("libmosquitto.so.1")
            lib.mosquitto_lib_init()
            lib.mosquitto_new.restype = ctypes.c_void_p
            for name in ("int_option", "reconnect_delay_set", "connect", "loop_start", "publish",
                         "disconnect", "loop_stop", "destroy"):
                getattr(lib, "mosquitto_" + name).argtypes = None
        self.me = ctypes.c_void_p(self.lib.mosquitto_new(client_id.encode(), True, None))
        self.lib.mosquitto_int_option(self.me, 1, version)  # MOSQ_OPT_PROTOCOL_VERSION
        self.lib.mosquitto_reconnect_delay_set(self.me, 1, 1, False)
        assert self.lib.mosquitto_connect(self.me, b"127.0.0.1", port, keep_alive) == 0
        assert self.lib.mosquitto_loop_start(self.me) == 0

    def publish(self, topic, text, qos=1):
        payload = text.encode()
        self.lib.mosquitto_publish(self.me, None, topic.encode(), len(payload), payload, qos, False)

    def close(self):
        self.lib.mosquitto_disconnect(self.me)
        self.lib.mosquitto_loop_stop(self.me, True)
        self.lib.mosquitto_destroy(self.me)


class ComesBack(unittest.TestCase):
    def gateway(self, **options):
        """One that has the same port again after a restart."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        gateway = Gateway(commit='linger = "2ms"', **options)
        gateway.edit('[mqtt]\nlisten = "127.0.0.1:0"', f'[mqtt]\nlisten = "127.0.0.1:{port}"')
        self.enterContext(gateway)
        return gateway

    def stream(self, gateway, disturb):
        """Clients of both versions publish; in the middle something happens; all arrives."""
        clients = {v: Mosquitto(gateway.port, f"lib{v}", v) for v in (V311, V5)}
        for client in clients.values():
            self.addCleanup(client.close)
        for n in range(N):
            for version, client in clients.items():
                client.publish("raw/lib", f"{version}-{n}")
            if n == N // 2:
                wait_for(lambda: gateway.values("raw"), "the stream runs")
                disturb()
            time.sleep(0.005)  # a device's pace
        for version in clients:
            wait_for(lambda: {f"{version}-{n}" for n in range(N)} <= set(gateway.values("raw")),
                     f"all of version {version}", 15)

    def test_stop_and_start(self):
        gateway = self.gateway()

        def restart():
            self.assertEqual(gateway.stop(), 0)
            gateway.start()
        self.stream(gateway, restart)

    def test_log_that_is_opened_anew(self):
        """Somebody removes the WAL of the running log: a commit fails, and the log opens anew."""
        gateway = self.gateway()
        self.stream(gateway, lambda: os.unlink(os.path.join(gateway.data_dir, "wayside.db-wal")))

    def test_no_place(self):
        """Refused for want of a place, and in as soon as there is one."""
        gateway = self.gateway(mqtt="max_connections = 1")
        for version in (V311, V5):
            with Wire(gateway.port) as holder:
                holder.connect("holder", keep_alive=0)
                # One that had sent nothing would make place for the next.
                holder.send(publish_packet("raw/holder", b"x", 1, 1))
                self.assertEqual(holder.read()[0], PUBACK)
                client = Mosquitto(gateway.port, f"waits{version}", version)
                self.addCleanup(client.close)
                client.publish("raw/lib", f"waited {version}")
                wait_for(lambda: f"waits{version}" in gateway.log(), "it is refused, and logged")
            wait_for(lambda: f"waited {version}" in gateway.values("raw"), "it is in", 15)
            client.close()
            self._cleanups.pop()
            wait_for(lambda: gateway.status()["gateway"]["connections"] == 0, "the place is free")


if __name__ == "__main__":
    main()
