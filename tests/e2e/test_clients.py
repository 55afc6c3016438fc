"""Real clients publish, 3.1, 3.1.1 and 5, QoS 0, 1 and 2: mosquitto_pub (libmosquitto), Eclipse
Paho for Python and for C++ (wayside publish), and MQTT.js. Each reading is in the log once; and all
are there when the gateway is killed under programs that come back by themselves.

With WAYSIDE_INTEROP=1 more clients are installed into a temporary directory, from PyPI and npm,
and tried in the same way.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import unittest

from harness import Gateway, main, wait_for

MQTT_JS = "/usr/share/nodejs/mqtt"
SCRIPT = """
const mqtt = require(process.env.MQTT_JS);
const [port, version, qos, topic, value] = process.argv.slice(1);
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {protocolVersion: Number(version),
  clientId: `js-${version}-${qos}`, clean: true, reconnectPeriod: 0});
client.on('error', (e) => { console.error(e); process.exit(1); });
client.on('connect', () => client.publish(topic, value, {qos: Number(qos)}, (e) => {
  if (e) { console.error(e); process.exit(1); }
  client.end(false, {}, () => process.exit(0));
}));
"""


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(commit='linger = "5ms"'))

    def expect(self, value):
        wait_for(lambda: value in self.gateway.values("raw"), f"{value} is stored")
        self.assertEqual(self.gateway.values("raw").count(value), 1)

    def server(self):
        return ["-h", "127.0.0.1", "-p", str(self.gateway.port)]

    def matrix(self, versions=(4, 5)):
        return [(version, qos) for version in versions for qos in (0, 1, 2)]

    def test_mosquitto_pub(self):
        self.assertTrue(shutil.which("mosquitto_pub"), "install mosquitto-clients")
        for version, qos in self.matrix((3, 4, 5)):
            value = f"mosquitto-{version}-{qos}"
            subprocess.run(["mosquitto_pub", *self.server(), "-t", "raw/x",
                            "-m", value, "-q", str(qos),
                            "-V", {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}[version]],
                           check=True, timeout=20)
            self.expect(value)

    def test_mosquitto_pub_of_large_files(self):
        """300 KB are too large; the same device's next reading arrives. (With version 5 its library
        heeds the Maximum Packet Size that it was told, and refuses to send it.)"""
        with tempfile.NamedTemporaryFile() as f:
            f.write(b"L" * 300_000)
            f.flush()
            for qos in (1, 2):
                publish = ["mosquitto_pub", *self.server(), "-t", "raw/large", "-q", str(qos),
                           "-i", f"large{qos}"]
                subprocess.run([*publish, "-f", f.name], check=True, timeout=20)
                subprocess.run([*publish, "-m", f"after large {qos}"], check=True, timeout=20)
                self.expect(f"after large {qos}")
                rows = self.gateway.sql("SELECT length(value) FROM quarantine WHERE key = ?",
                                        f"large{qos}")
                self.assertEqual(rows, [(4096,)])

    def test_mosquitto_sub_is_told_that_there_is_nothing_to_subscribe(self):
        done = subprocess.run(["mosquitto_sub", *self.server(), "-t", "raw/#"],
                              capture_output=True, text=True, timeout=20)
        self.assertIn("denied", done.stderr + done.stdout)

    def test_paho_python(self):
        import paho.mqtt.client as paho  # python3-paho-mqtt
        for version, qos in self.matrix((3, 4, 5)):
            value = f"paho-{version}-{qos}"
            made = {"client_id": value, "protocol": version}
            if hasattr(paho, "CallbackAPIVersion"):  # Paho 2
                made["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
            client = paho.Client(**made)
            client.connect("127.0.0.1", self.gateway.port)
            client.loop_start()
            info = client.publish("raw/x", value, qos)
            info.wait_for_publish(20)
            self.assertTrue(info.is_published())
            client.disconnect()
            client.loop_stop()
            self.expect(value)

    def test_paho_cpp(self):
        for version, qos in self.matrix():
            value = f"cpp-{version}-{qos}"
            extra = ["--v311"] if version == 4 else []
            self.gateway.cli("publish", "-p", str(self.gateway.port), "-t", "raw/x", "-m", value,
                             "-q", str(qos), *extra, check=0)
            self.expect(value)

    def test_mqtt_js(self):
        self.assertTrue(os.path.isdir(MQTT_JS), "install node-mqtt")
        for version, qos in self.matrix():
            value = f"js-{version}-{qos}"
            subprocess.run(["node", "-e", SCRIPT, "--", str(self.gateway.port), str(version),
                            str(qos), "raw/x", value], check=True, timeout=30,
                           env={**os.environ, "MQTT_JS": MQTT_JS,
                                "NODE_PATH": "/usr/share/nodejs"})
            self.expect(value)


# Programs that publish COUNT readings of QoS 1, one every 10 ms, come back by themselves, and end
# with 0 when all are acknowledged. Arguments: port, version, name, count.
PAHO_PYTHON = """
import sys, threading, time
import paho.mqtt.client as paho
port, version, name, count = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
made = {"client_id": name, "protocol": version}
if version != 5:
    made["clean_session"] = False
if hasattr(paho, "CallbackAPIVersion"):
    made["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
client, acked = paho.Client(**made), set()
client.on_publish = lambda *a: acked.add(a[2])
client.reconnect_delay_set(1, 1)
client.connect("127.0.0.1", port)
client.loop_start()
for n in range(count):
    client.publish("raw/c", f"{name}-{n}", 1)
    time.sleep(0.01)
while len(acked) < count:
    time.sleep(0.01)
client.disconnect()
"""
GMQTT = """
import asyncio, sys
import gmqtt
port, version, name, count = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
async def run():
    # Without it a session of version 5 ends with its connection, and from 0.8 on the client then
    # throws away what was not acknowledged.
    client = gmqtt.Client(name, clean_session=False, session_expiry_interval=600)
    client.set_config({"reconnect_delay": 0.3, "reconnect_retries": -1})
    await client.connect("127.0.0.1", port, version=version)
    for n in range(count):
        client.publish("raw/c", f"{name}-{n}", qos=1)
        await asyncio.sleep(0.01)
    while not client._persistent_storage.is_empty:
        await asyncio.sleep(0.05)
    await client.disconnect()
asyncio.run(run())
"""
AIOMQTT = """
import asyncio, sys
import aiomqtt
port, version, name, count = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
async def run():
    n = 0
    while n < count:
        try:
            async with aiomqtt.Client("127.0.0.1", port, identifier=name,
                                      protocol=aiomqtt.ProtocolVersion(version)) as client:
                while n < count:
                    await client.publish("raw/c", f"{name}-{n}", qos=1, timeout=5)
                    n += 1
                    await asyncio.sleep(0.01)
        except aiomqtt.MqttError:
            await asyncio.sleep(0.2)
asyncio.run(run())
"""
MQTT_JS_STREAM = """
const mqtt = require(process.env.MQTT_JS);
const [port, version, name, count] = process.argv.slice(1);
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {protocolVersion: Number(version),
  protocolId: version == 3 ? 'MQIsdp' : 'MQTT', clientId: name, clean: false,
  reconnectPeriod: 200});
client.on('error', () => {});
let acked = 0, n = 0;
const send = (k) => client.publish('raw/c', `${name}-${k}`, {qos: 1}, (e) => {
  if (e) return setTimeout(() => send(k), 100);  // "Connection closed": it is ours to send again
  if (++acked == Number(count)) client.end(true, {}, () => process.exit(0));
});
const timer = setInterval(() => {
  if (n == Number(count)) return clearInterval(timer);
  send(n++);
}, 10);
"""


class OverKills(unittest.TestCase):
    """kill -9 of the gateway under programs that publish: nothing is missing in the end."""

    COUNT = 120

    def check(self, command, env=None, versions=(4, 5)):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        gateway = Gateway(commit='linger = "2ms"')
        gateway.edit('[mqtt]\nlisten = "127.0.0.1:0"', f'[mqtt]\nlisten = "127.0.0.1:{port}"')
        with gateway:
            programs = {}
            for version in versions:
                name = f"v{version}"
                programs[name] = subprocess.Popen(
                    [*command, str(port), str(version), name, str(self.COUNT)],
                    env={**os.environ, **(env or {})})
            try:
                for n in (self.COUNT // 4, self.COUNT // 2):
                    wait_for(lambda: len(gateway.values("raw")) > n, f"{n} readings")
                    gateway.kill()
                    gateway.start()
                for name, program in programs.items():
                    self.assertEqual(program.wait(40), 0, name)
                    texts = {f"{name}-{n}" for n in range(self.COUNT)}
                    self.assertEqual(texts - set(gateway.values("raw")), set())
            finally:
                for program in programs.values():
                    program.kill()
                    program.wait()

    def test_paho_python(self):
        self.check(["/usr/bin/python3", "-W", "ignore", "-c", PAHO_PYTHON], versions=(3, 4, 5))

    def test_mqtt_js(self):
        self.check(["node", "-e", MQTT_JS_STREAM, "--"],
                   {"MQTT_JS": MQTT_JS, "NODE_PATH": "/usr/share/nodejs"}, versions=(3, 4, 5))


@unittest.skipUnless(os.environ.get("WAYSIDE_INTEROP"), "WAYSIDE_INTEROP=1 installs more clients")
class MoreClients(OverKills):
    """Clients that Debian has not, as their newest versions are today."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="wayside-interop-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, True)

    def run_or_skip(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.directory,
                              check=False)
        if done.returncode != 0:
            self.skipTest(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")

    def python_with(self, *packages):
        directory = os.path.join(self.directory, packages[0])
        self.run_or_skip("/usr/bin/python3", "-m", "pip", "install", "-q", "--target", directory,
                         *packages)
        return {"PYTHONPATH": directory}

    def test_paho_python(self):
        env = self.python_with("paho-mqtt>=2")
        self.check(["/usr/bin/python3", "-W", "ignore", "-c", PAHO_PYTHON], env, (3, 4, 5))

    def test_gmqtt(self):
        self.check(["/usr/bin/python3", "-W", "ignore", "-c", GMQTT], self.python_with("gmqtt"))

    def test_aiomqtt(self):
        env = self.python_with("aiomqtt")
        self.check(["/usr/bin/python3", "-W", "ignore", "-c", AIOMQTT], env)

    def test_mqtt_js(self):
        self.run_or_skip("npm", "install", "--no-audit", "--no-fund", "mqtt@5")
        module = os.path.join(self.directory, "node_modules", "mqtt")
        self.check(["node", "-e", MQTT_JS_STREAM, "--"], {"MQTT_JS": module}, (3, 4, 5))


if __name__ == "__main__":
    main()
