"""Real clients publish, 3.1.1 and 5, QoS 0, 1 and 2: mosquitto_pub (libmosquitto), Eclipse Paho
for Python and for C++ (wayside publish), and MQTT.js. Each reading is in the log once."""

import os
import shutil
import subprocess
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

    def matrix(self):
        return [(version, qos) for version in (4, 5) for qos in (0, 1, 2)]

    def test_mosquitto_pub(self):
        self.assertTrue(shutil.which("mosquitto_pub"), "install mosquitto-clients")
        for version, qos in self.matrix():
            value = f"mosquitto-{version}-{qos}"
            subprocess.run(["mosquitto_pub", *self.server(), "-t", "raw/x",
                            "-m", value, "-q", str(qos),
                            "-V", "mqttv5" if version == 5 else "mqttv311"],
                           check=True, timeout=20)
            self.expect(value)

    def test_mosquitto_sub_is_told_that_there_is_nothing_to_subscribe(self):
        done = subprocess.run(["mosquitto_sub", *self.server(), "-t", "raw/#"],
                              capture_output=True, text=True, timeout=20)
        self.assertIn("denied", done.stderr + done.stdout)

    def test_paho_python(self):
        import paho.mqtt.client as paho  # python3-paho-mqtt
        for version, qos in self.matrix():
            value = f"paho-{version}-{qos}"
            made = {"client_id": value,
                    "protocol": paho.MQTTv5 if version == 5 else paho.MQTTv311}
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


if __name__ == "__main__":
    main()
