"""[[subscribe]]: readings from a real Mosquitto that is killed, restarted, stopped, refuses, and
forgets the session. The publisher is paho; what it was acknowledged by the broker must arrive,
unless the broker itself has lost it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import paho.mqtt.client as paho

from harness import DEADLINE_S, Gateway, main, wait_for


class Broker:
    """Mosquitto, with what the documentation calls its safest configuration."""

    def __init__(self, extra=""):
        self.directory = tempfile.mkdtemp(prefix="wayside-broker-")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.config = os.path.join(self.directory, "mosquitto.conf")
        os.chmod(self.directory, 0o777)
        self.write(extra)
        self.process = None

    def write(self, extra):
        access = "" if "allow_anonymous" in extra else "allow_anonymous true\n"
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(f"listener {self.port} 127.0.0.1\n{access}persistence true\n"
                    f"persistence_location {self.directory}/\nautosave_on_changes true\n"
                    "autosave_interval 1\nmax_queued_messages 0\nmax_inflight_messages 0\n"
                    f"user root\n{extra}\n")

    def start(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(["mosquitto", "-c", self.config], stdout=log,
                                            stderr=log)

        def listens():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        wait_for(listens, "mosquitto listens")
        return self

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(DEADLINE_S)

    def forget(self):
        os.unlink(os.path.join(self.directory, "mosquitto.db"))

    def publish(self, payloads, topic="fleet/7/gps", qos=1, retain=False):
        client = paho.Client()
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        for p in payloads:
            client.publish(topic, p, qos, retain).wait_for_publish(DEADLINE_S)
        client.disconnect()
        client.loop_stop()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def subscribe(broker, more="", topic="fleet/#"):
    return (f'[[subscribe]]\nclient_id = "gw"\nbroker = "mqtt://127.0.0.1:{broker.port}"\n'
            f'filter = "{topic}"\n{more}\n')


def state(gateway):
    return gateway.status()["gateway"]["subscriptions"][0]


def connected(gateway):
    return state(gateway)["state"] == "connected"


def readings(n, start=0):
    return [f'{{"n":{i}}}' for i in range(start, start + n)]


class Subscribe(unittest.TestCase):
    def test_readings_arrive_by_the_routes_with_their_source(self):
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            broker.publish(readings(50))
            broker.publish(["x"], "fleet/nobody")
            wait_for(lambda: len(gateway.values()) == 50 and gateway.values("quarantine") == ["x"],
                     "all are stored")
            self.assertEqual(gateway.values(), readings(50))
            self.assertEqual(gateway.sql("SELECT DISTINCT key FROM truck_gps"), [("7",)])
            sources = gateway.sql("SELECT client_id, mqtt_topic FROM _ws_sources ORDER BY 2")
            self.assertEqual(sources, [("gw", "fleet/7/gps"), ("gw", "fleet/nobody")])
            self.assertEqual(state(gateway)["received"], 51)

    def test_a_retained_value_that_is_known_is_no_news(self):
        """The broker sends what it has retained at each subscription."""
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            def settled(known):
                wait_for(lambda: connected(gateway) and state(gateway)["known_replays"] == known,
                         f"{known} replays are known")

            def forget_session():  # what is retained stays
                client = paho.Client("gw", clean_session=True)
                client.connect("127.0.0.1", broker.port)
                client.loop_start()
                wait_for(client.is_connected, "our session is ended")
                client.disconnect()
                client.loop_stop()
            wait_for(lambda: connected(gateway), "it is connected")
            gateway.stop()
            forget_session()
            for i in range(5):
                broker.publish([f'{{"n":{i}}}'], f"fleet/{i}/gps", retain=True)
            gateway.start()
            wait_for(lambda: len(gateway.values()) == 5, "what was retained is stored, once")
            attributes = "SELECT attrs, count(*) FROM _ws_chain_1 GROUP BY attrs & 4"
            self.assertEqual([n for a, n in gateway.sql(attributes) if a & 4], [5])
            for kill in (False, True, False):
                gateway.kill() if kill else gateway.stop()
                forget_session()
                gateway.start()
                settled(5)
                self.assertEqual(len(gateway.values()), 5)
            # What came when it was published is known, too; also after a kill.
            broker.publish(['{"n":"new"}'], "fleet/0/gps", retain=True)
            wait_for(lambda: len(gateway.values()) == 6, "it is stored")
            # A value that the broker keeps for ever beside others that it does not keep.
            broker.publish(['{"n":"passing"}'], "fleet/1/gps")
            wait_for(lambda: len(gateway.values()) == 7, "it is stored")
            gateway.kill()
            forget_session()
            gateway.start()
            settled(5)
            self.assertEqual(len(gateway.values()), 7)
            # What differs is news, whoever was away when it was published.
            gateway.stop()
            forget_session()
            broker.publish(['{"n":"later"}'], "fleet/2/gps", retain=True)
            gateway.start()
            settled(4)
            wait_for(lambda: gateway.values()[7:] == ['{"n":"later"}'], "it is stored")
            gateway.stop()
            counted = dict(gateway.sql("SELECT name, value FROM _ws_counters"))
            self.assertGreaterEqual(counted["retained.known"], 14)  # a kill forgets some

    def test_another_filter_ends_the_one_before(self):
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            gateway.edit('filter = "fleet/#"', 'filter = "raw/#"')
            gateway.stop()
            gateway.start()
            wait_for(lambda: connected(gateway), "it is connected again")
            broker.publish(readings(3))
            broker.publish(["z"], "raw/1")
            wait_for(lambda: gateway.values("raw") == ["z"], "by the new filter")
            self.assertEqual(gateway.values(), [])

    def test_what_comes_while_the_gateway_is_away_waits_at_the_broker(self):
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            for round_ in range(3):
                (gateway.kill if round_ % 2 == 0 else gateway.stop)()
                broker.publish(readings(20, 20 * round_))
                gateway.start()
                wait_for(lambda: {*readings(20, 20 * round_)} <= {*gateway.values()},
                         "what waited has come")
            self.assertEqual(state(gateway)["sessions_lost"], 0)
            self.assertTrue({*readings(60)} <= {*gateway.values()})

    def test_a_broker_that_goes_and_comes_back(self):
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            broker.stop()
            wait_for(lambda: not connected(gateway), "it is told")
            self.assertEqual(gateway.cli("check").returncode, 0)
            broker.start()
            broker.publish(readings(10))
            wait_for(lambda: len(gateway.values()) == 10, "it has come back by itself")
            self.assertEqual(state(gateway)["sessions_lost"], 0)

    def test_a_broker_that_forgets_the_session_is_told_of(self):
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            broker.stop()
            broker.forget()
            broker.start()
            wait_for(lambda: state(gateway)["sessions_lost"] == 1, "the loss is counted")
            wait_for(lambda: gateway.sql("SELECT value FROM _ws_counters WHERE"
                                         " name='subscribe.session_lost'") == [(1,)], "and stored")
            self.assertIn("had forgotten our session", gateway.log())
            broker.publish(readings(3))
            wait_for(lambda: len(gateway.values()) == 3, "it goes on all the same")

    def test_a_broker_that_hangs_and_a_broker_that_refuses(self):
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            broker.process.send_signal(signal.SIGSTOP)
            # The rest of the gateway does not wait for it.
            self.assertTrue(gateway.status()["running"])
            gateway.cli("publish", "-p", str(gateway.port), "-t", "raw/x", "-m", "y", check=0)
            broker.process.send_signal(signal.SIGCONT)
            broker.publish(readings(5))
            wait_for(lambda: len(gateway.values()) == 5, "it goes on")
            broker.stop()
            broker.write("allow_anonymous false")
            broker.start()
            wait_for(lambda: "not authorised" in state(gateway)["state"], "the refusal is told")

    def test_a_password_from_a_file(self):
        with Broker("allow_anonymous false") as broker:
            broker.stop()
            path = os.path.join(broker.directory, "passwords")
            subprocess.run(["mosquitto_passwd", "-c", "-b", path, "site", "secret"], check=True)
            os.chmod(path, 0o644)
            broker.write(f"allow_anonymous false\npassword_file {path}")
            broker.start()
            secret = os.path.join(broker.directory, "secret")
            with open(secret, "w", encoding="utf-8") as f:
                f.write("secret\n")
            with Gateway(tail=subscribe(
                    broker, f'user = "site"\npassword_file = "{secret}"')) as gateway:
                wait_for(lambda: connected(gateway), "it is connected")

    def test_tls_with_a_certificate_of_its_own(self):
        """The broker is believed by ca_file only, and asks for a certificate of ours."""
        with Broker() as broker:
            broker.stop()
            where = broker.directory

            def openssl(*args):
                subprocess.run(["openssl", *args], cwd=where, check=True, capture_output=True)
            openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out",
                    "ca.pem", "-subj", "/CN=test ca", "-days", "2")
            for name in ("broker", "gateway"):
                openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out",
                        f"{name}.csr", "-subj", "/CN=127.0.0.1", "-addext",
                        "subjectAltName=IP:127.0.0.1")
                openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                        "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-copy_extensions",
                        "copy")
            for name in os.listdir(where):
                os.chmod(os.path.join(where, name), 0o644)
            broker.write(f"allow_anonymous true\ncafile {where}/ca.pem\ncertfile "
                         f"{where}/broker.pem\nkeyfile {where}/broker.key\n"
                         "require_certificate true")
            broker.start()
            secure = subscribe(broker).replace("mqtt://", "mqtts://")
            ours = (f'cert_file = "{where}/gateway.pem"\nkey_file = "{where}/gateway.key"\n'
                    f'ca_file = "{where}/ca.pem"\n')
            with Gateway(tail=secure + ours) as gateway:
                wait_for(lambda: connected(gateway), "it is connected")
                self.assertEqual(state(gateway)["sessions_lost"], 0)
                # By the system's authorities this broker is nobody.
                gateway.edit(f'ca_file = "{where}/ca.pem"\n', "")
                gateway.cli("reload", check=0)
                wait_for(lambda: "connect" in state(gateway)["state"] and not connected(gateway) and
                         state(gateway)["state"] != "connecting", "it is refused")

    def test_acknowledged_to_the_broker_only_after_the_commit(self):
        """While the log cannot be written the broker keeps the reading; and kill -9 then loses
        nothing."""
        import sqlite3
        with Broker() as broker, Gateway(tail=subscribe(broker)) as gateway:
            wait_for(lambda: connected(gateway), "it is connected")
            lock = sqlite3.connect(os.path.join(gateway.data_dir, "wayside.db"),
                                   isolation_level=None, timeout=30)
            lock.execute("BEGIN IMMEDIATE")
            broker.publish(readings(3))
            wait_for(lambda: gateway.status()["gateway"]["waiting_for_commit"] > 0,
                     "the first reading waits for its commit")
            gateway.kill()
            lock.execute("ROLLBACK")
            lock.close()
            gateway.start()
            wait_for(lambda: len(gateway.values()) >= 3, "the broker has sent them again")
            self.assertEqual({*gateway.values()}, {*readings(3)})

    def test_a_stop_and_a_reload_while_one_of_two_cannot_commit(self):
        import sqlite3
        with Broker() as broker:
            two = subscribe(broker) + subscribe(broker, topic="raw/#").replace('"gw"', '"gw2"')
            with Gateway(tail=two) as gateway:
                def both():
                    return all(s["state"] == "connected" for s in
                               gateway.status()["gateway"]["subscriptions"])
                wait_for(both, "both are connected")
                lock = sqlite3.connect(os.path.join(gateway.data_dir, "wayside.db"),
                                       isolation_level=None, timeout=30)
                lock.execute("BEGIN IMMEDIATE")
                broker.publish(readings(2))
                wait_for(lambda: gateway.status()["gateway"]["waiting_for_commit"] > 0, "it waits")
                gateway.edit('filter = "raw/#"', 'filter = "raw/+"')
                gateway.process.send_signal(signal.SIGHUP)
                for _ in range(20):  # main answers all the time
                    self.assertTrue(gateway.status()["running"])
                self.assertEqual(gateway.stop(timeout=DEADLINE_S), 0)
                lock.execute("ROLLBACK")
                lock.close()
                gateway.start()
                wait_for(lambda: {*gateway.values()} >= {*readings(2)}, "the broker had kept them")

    def test_subscriptions_are_reloaded(self):
        with Broker() as broker, Gateway() as gateway:
            with open(gateway.config, "a", encoding="utf-8") as f:
                f.write(subscribe(broker))
            self.assertIn("+ subscribe gw", gateway.cli("reload", check=0).stdout)
            wait_for(lambda: connected(gateway), "it is connected")
            gateway.edit('filter = "fleet/#"', 'filter = "raw/#"')
            self.assertIn("subscribe gw filter", gateway.cli("reload", check=0).stdout)
            wait_for(lambda: connected(gateway), "it is connected again")
            broker.publish(["z"], "raw/1")
            wait_for(lambda: gateway.values("raw") == ["z"], "by the new filter")
            gateway.edit(subscribe(broker, topic="raw/#"), "")
            gateway.cli("reload", check=0)
            self.assertEqual(gateway.status()["gateway"]["subscriptions"], [])


if __name__ == "__main__":
    main()
