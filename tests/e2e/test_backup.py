"""docs/BACKUP.md, command by command, on a service that is installed under a real systemd in a
container: backup, restore, a new card, a dead card, an upgrade, the end."""

import os
import re
import shutil
import unittest

from harness import PUBACK, Wire, main, publish_packet, wait_for
from service_root import ServiceRoot
from test_service import DATABASE, TOML, TOPIC, install

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def sections():
    """The commands of the page by their heading; of one that has two blocks, both."""
    with open(os.path.join(ROOT, "docs/BACKUP.md"), encoding="utf-8") as f:
        page = f.read()
    out = {}
    for part in page.split("\n## ")[1:]:
        out[part.splitlines()[0]] = [[line.replace("sudo ", "") for line in block.splitlines()]
                                     for block in re.findall(r"```sh\n(.*?)```", part, re.S)]
    return out


class Page(unittest.TestCase):
    def setUp(self):
        self.root = ServiceRoot(include=["sqlite3", "tar"])
        self.addCleanup(self.root.close)
        install(self.root)
        self.root.boot()
        self.root.run("systemd-sysusers")
        self.root.run("systemd-tmpfiles", "--create")
        self.root.write(TOML, self.root.read(TOML) + TOPIC.format("log"))
        self.root.run("systemctl", "enable", "--now", "wayside")
        self.ran = 0

    def follow(self, commands):
        for command in commands:
            with self.subTest(command):
                self.root.run("sh", "-c", command)
                self.ran += 1

    def publish(self, values):
        with self.root.network(), Wire(1883) as wire:
            wire.connect("device")
            for i, value in enumerate(values, 1):
                wire.send(publish_packet("log/x", value, 1, i))
                self.assertEqual(wire.read()[0], PUBACK)

    def values(self):
        return self.root.run("wayside", "read", "log", "--format", "raw").stdout.split()

    def identity(self):
        return self.root.run("sqlite3", "-readonly", "-cmd", ".timeout 10000", DATABASE,
                             "SELECT value FROM _ws_meta WHERE name='log_uuid'").stdout.strip()

    def test_the_whole_page(self):
        page = sections()
        self.publish(["kept1", "kept2"])
        self.follow(page["Backup, while it runs"][0])
        self.publish(["after the backup".replace(" ", "-")])
        first = self.identity()
        restore, image = page["Restore"]
        self.follow(restore)
        self.assertEqual(self.values(), ["kept1", "kept2"])
        second = self.identity()
        self.assertNotEqual(second, first)
        self.publish(["restored"])
        offset = self.root.run("sqlite3", "-readonly", "-cmd", ".timeout 10000", DATABASE,
                               'SELECT max("offset") FROM log').stdout
        self.assertGreaterEqual(int(offset), 200_000)
        self.follow(image)
        wait_for(lambda: self.identity() != second, "it has another identity")
        third = self.identity()
        pack, unpack = page["A new card, or another box"]
        self.follow(pack)
        shutil.rmtree(self.root.path + "/var/lib/wayside")
        self.follow(unpack)
        self.assertNotEqual(self.identity(), third)
        self.assertEqual(self.values(), ["kept1", "kept2", "restored"])
        self.publish(["on-the-new-card"])
        # The power goes, and the card is looked at elsewhere.
        self.root.run("systemctl", "kill", "-s", "KILL", "wayside")
        self.root.run("systemctl", "stop", "wayside", check=None)
        self.root.run("sh", "-c", "mkdir -p /mnt/card/var/lib && cp -a /var/lib/wayside"
                                  " /mnt/card/var/lib/ && chmod -R a-w /mnt/card")
        self.follow(page["A card of a box that does not start"][0])
        self.root.run("systemctl", "start", "wayside")
        install(self.root)  # the same version over itself
        self.follow(page["Upgrade, and back"][0])
        self.assertEqual(self.values()[-1], "on-the-new-card")
        self.follow(page["Uninstall"][0])
        self.assertFalse(os.path.exists(self.root.path + "/usr/bin/wayside"))
        self.assertTrue(os.path.exists(self.root.path + "/var/lib/wayside/wayside.db"))
        self.assertEqual(self.ran, sum(len(b) for blocks in page.values() for b in blocks))


if __name__ == "__main__":
    main()
