"""A Mosquitto that is there already forwards its readings by its own bridge: with its default
settings (it asks for a form of MQTT of its own first), with MQTT 3.1, 3.1.1 and 5, and over kill -9
of the gateway and an orderly stop. Real Mosquitto, real clients."""

import shutil

from harness import *

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
N = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Mosquitto:
    """A broker with a bridge to the gateway. Use as a context manager."""

    def __init__(self, gateway_port, options):
        self.directory = tempfile.mkdtemp(prefix="wayside-mosquitto-")
        self.port = free_port()
        with open(os.path.join(self.directory, "conf"), "w", encoding="utf-8") as f:
            f.write(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                    f"max_queued_messages 0\nconnection wayside\n"
                    f"address 127.0.0.1:{gateway_port}\ntopic raw/# out 1\n"
                    f"restart_timeout 1\n{options}\n")

    def __enter__(self):
        self.log_path = os.path.join(self.directory, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([MOSQUITTO, "-v", "-c",
                                             os.path.join(self.directory, "conf")],
                                            stdout=log, stderr=log)

        def listens():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
        wait_for(listens, "Mosquitto listens")
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        self.process.wait()
        if exc[0] is not None:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                print(f"--- Mosquitto said:\n{f.read()[-3000:]}", file=sys.stderr)
        shutil.rmtree(self.directory, ignore_errors=True)

    def publish(self, text):
        subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", "raw/b",
                        "-q", "1", "-l"], input=text, text=True, check=True, timeout=20)


class MosquittoBridge(unittest.TestCase):
    def check(self, options, stops=True):
        self.assertTrue(os.path.exists(MOSQUITTO), "install mosquitto")
        port = free_port()
        with Gateway(commit='linger = "2ms"') as gateway:
            gateway.stop()
            gateway.edit('[mqtt]\nlisten = "127.0.0.1:0"', f'[mqtt]\nlisten = "127.0.0.1:{port}"')
            gateway.start()
            with Mosquitto(port, options) as mosquitto:
                def arrives(first):
                    texts = [f"{n}" for n in range(first, first + N)]
                    mosquitto.publish("\n".join(texts) + "\n")
                    wait_for(lambda: set(texts) <= set(gateway.values("raw")),
                             f"{first} to {first + N}")
                arrives(0)
                gateway.kill()
                mosquitto.publish("while it was dead\n")
                gateway.start()
                arrives(1000)
                self.assertIn("while it was dead", gateway.values("raw"))
                if not stops:
                    return
                self.assertEqual(gateway.stop(), 0)
                mosquitto.publish("while it was stopped\n")
                gateway.start()
                arrives(2000)
                self.assertIn("while it was stopped", gateway.values("raw"))

    def test_default_settings(self):
        self.check("")

    def test_mqtt_3_1(self):
        self.check("bridge_protocol_version mqttv31", stops=False)

    def test_mqtt_3_1_1_without_the_private_form(self):
        self.check("bridge_protocol_version mqttv311\ntry_private false", stops=False)

    def test_mqtt_5(self):
        self.check("bridge_protocol_version mqttv50")


if __name__ == "__main__":
    main()
