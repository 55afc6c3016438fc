"""A changed configuration file applied to the running gateway: by the verb and by SIGHUP."""

import signal
import threading
import unittest

from harness import PUBACK, Gateway, Wire, connect_packet, main, publish_packet, wait_for
from upstream import Receiver


class Reload(unittest.TestCase):
    def test_routes_and_topics_change_under_a_connection(self):
        with Gateway(commit='linger = "5ms"') as gateway, Wire(gateway.port) as wire:
            wire.connect("device", 5)
            wire.send(publish_packet("new/1", "before", 1, 1, 5))
            self.assertEqual(wire.read()[0], PUBACK)
            with open(gateway.config, "a", encoding="utf-8") as f:
                f.write('[[topic]]\nname = "fresh"\npartitions = 2\n'
                        '[[route]]\nmqtt = "new/{id}"\ntopic = "fresh"\nkey = "{id}"\n'
                        'payload = "raw"\n')
            done = gateway.cli("reload", check=0)
            self.assertEqual(done.stdout.splitlines(), ["+ route new/{id}", "+ topic fresh"])
            # The same connection, and a route it has remembered.
            wire.send(publish_packet("new/1", "after", 1, 2, 5))
            self.assertEqual(wire.read()[0], PUBACK)
            self.assertEqual(gateway.values("fresh"), ["after"])
            self.assertEqual(gateway.values("quarantine"), ["before"])
            self.assertIn("nothing differs", gateway.cli("reload", check=0).stdout)
            done = gateway.cli("quarantine", "retry", "--all", check=0)
            self.assertIn("stored in fresh", done.stdout)
            self.assertEqual(gateway.values("fresh"), ["after", "before"])

    def test_no_reading_is_lost_or_refused_while_it_reloads(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            stop = threading.Event()
            sent = []

            def publish():
                with Wire(gateway.port) as wire:
                    wire.connect("device", 5)
                    while not stop.is_set():
                        wire.send(publish_packet("fleet/7/gps", f'{{"n":{len(sent)}}}', 1, 1, 5))
                        assert wire.read()[0] == PUBACK
                        sent.append(len(sent))
            thread = threading.Thread(target=publish)
            thread.start()
            try:
                for i in range(10):
                    old = 12 + i
                    gateway.edit(f"partitions = {old}", f"partitions = {old + 1}")
                    self.assertIn(f"partitions: {old} -> {old + 1}",
                                  gateway.cli("reload", check=0).stdout)
            finally:
                stop.set()
                thread.join()
            numbers = [r[0] for r in gateway.sql("SELECT n FROM truck_gps")] \
                if gateway.sql("SELECT name FROM pragma_table_info('truck_gps') WHERE name='n'") \
                else [int(v[5:-1]) for v in gateway.values()]
            self.assertEqual(sorted(numbers), sent)
            gateway.check_offsets()

    def test_a_wrong_file_changes_nothing(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            gateway.edit('topic = "truck_gps"', 'topic = "truck_gp"')
            done = gateway.cli("reload", check=78)
            self.assertIn("did you mean 'truck_gps'?", done.stderr)
            gateway.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "not reloaded" in gateway.log(), "SIGHUP is answered in the log")
            with Wire(gateway.port) as wire:
                wire.connect("device", 5)
                wire.send(publish_packet("fleet/7/gps", "{}", 1, 1, 5))
                self.assertEqual(wire.read()[0], PUBACK)
            self.assertEqual(gateway.values(), ["{}"])
            # All of it or nothing: a good part of a file with one wrong line is not applied.
            gateway.edit('topic = "truck_gp"', 'topic = "truck_gps"')
            gateway.edit("partitions = 12", "partitions = 13")
            gateway.edit('[mqtt]', '[mqtt]\nmax_connections = 0')
            gateway.cli("reload", check=78)
            self.assertEqual(gateway.sql("SELECT count(*) FROM _ws_partitions JOIN _ws_topics"
                                         " USING (topic_id) WHERE name='truck_gps'"), [(12,)])

    def test_what_needs_a_restart_says_so(self):
        with Gateway() as gateway:
            gateway.edit('[mqtt]\nlisten = "127.0.0.1:0"', '[mqtt]\nlisten = "127.0.0.1:1"')
            for _ in range(2):  # said as long as it is so
                self.assertIn("needs a restart", gateway.cli("reload", check=0).stdout)
            with Wire(gateway.port) as wire:
                self.assertEqual(wire.connect("device", 5)[1], 0)

    def test_limits_apply_to_new_connections_and_to_the_log(self):
        with Gateway(mqtt="max_connections = 1") as gateway:
            gateway.edit("max_connections = 1", "max_connections = 2\nreceive_maximum = 7")
            gateway.edit("[commit]", 'log_level = "debug"\n[commit]\nlinger = "1ms"')
            out = gateway.cli("reload", check=0).stdout
            for line in ("mqtt.max_connections: 1 -> 2", "commit.linger", "log_level"):
                self.assertIn(line, out)
            with Wire(gateway.port) as one, Wire(gateway.port) as two:
                self.assertEqual(one.connect("one", 5)[1], 0)
                _, code, properties = two.connect("two", 5)
                self.assertEqual(code, 0)
                self.assertIn(b"\x21\x00\x07", properties)  # Receive Maximum 7

    def test_a_connection_is_told_the_limits_that_it_has(self):
        """Its own are those of the moment in which it was accepted."""
        with Gateway(mqtt='receive_maximum = 100') as gateway, Wire(gateway.port) as early:
            wait_for(lambda: gateway.status()["running"], "it runs")
            gateway.edit("receive_maximum = 100", "receive_maximum = 50")
            gateway.cli("reload", check=0)
            with Wire(gateway.port) as late:
                for wire, most in ((early, 100), (late, 50)):
                    wire.send(connect_packet(f"c{most}", 5))
                    self.assertIn(b"\x21" + bytes([0, most]), wire.read()[2])

    def test_bridges_come_change_and_go_and_their_positions_stay(self):
        with Receiver() as receiver, Gateway(commit='linger = "5ms"') as gateway:
            bridge = ('[[bridge]]\nname = "cloud"\ntopics = ["raw"]\nlinger = "10ms"\n'
                      f'to = "{receiver.url}"\n')

            def publish(text):
                with Wire(gateway.port) as wire:
                    wire.connect("device", 5)
                    wire.send(publish_packet("raw/x", text, 1, 1, 5))
                    self.assertEqual(wire.read()[0], PUBACK)
            publish("one")
            with open(gateway.config, encoding="utf-8") as f:
                without = f.read()
            with open(gateway.config, "a", encoding="utf-8") as f:
                f.write(bridge)
            self.assertIn("+ bridge cloud", gateway.cli("reload", check=0).stdout)
            wait_for(lambda: receiver.values() == ["one"], "it forwards")
            with open(gateway.config, "w", encoding="utf-8") as f:
                f.write(without)
            self.assertIn("- bridge cloud (its position stays)",
                          gateway.cli("reload", check=0).stdout)
            publish("two")
            with open(gateway.config, "a", encoding="utf-8") as f:
                f.write(bridge)
            gateway.cli("reload", check=0)
            wait_for(lambda: receiver.values() == ["one", "two"], "it goes on where it was")
            # More partitions of its topic are forwarded, too.
            gateway.edit('name = "raw"\npartitions = 3', 'name = "raw"\npartitions = 6')
            gateway.cli("reload", check=0)
            for i in range(6):
                publish(f"more {i}")
            wait_for(lambda: len(receiver.values()) == 8, "all partitions")
            self.assertEqual(sorted(receiver.values())[:6], [f"more {i}" for i in range(6)])

    def test_a_removed_topic_keeps_its_records(self):
        with Gateway(commit='linger = "5ms"') as gateway:
            with Wire(gateway.port) as wire:
                wire.connect("device", 5)
                wire.send(publish_packet("vin/a", '{"vin":"x"}', 1, 1, 5))
                self.assertEqual(wire.read()[0], PUBACK)
            gateway.edit('[[topic]]\nname = "by_vin"\n[[route]]\nmqtt = "vin/{site}"\n'
                         'topic = "by_vin"\nkey = "/vin"\n', "")
            out = gateway.cli("reload", check=0).stdout
            self.assertIn("- topic by_vin (its records stay)", out)
            self.assertEqual(gateway.values("by_vin"), ['{"vin":"x"}'])
            done = gateway.cli("topics", "delete", "by_vin", "--yes", check=0)
            self.assertIn("with 1 records", done.stdout)
            gateway.cli("read", "by_vin", check=3)
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)
            gateway.kill()
            gateway.start()
            gateway.cli("verify", check=0)
            self.assertIn("deleted                           1",
                          gateway.cli("ledger", check=0).stdout)


if __name__ == "__main__":
    main()
