#!/usr/bin/env python3
"""Copies, restores, lost files and cards: a log that was copied is not taken for the original, a
WAL is never removed unread, looking changes nothing, and what seems to be missing is said."""

import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import (PUBACK, WAYSIDE, Gateway, Wire, main, publish_packet,  # noqa: E402
                     seeded, wait_for)
from upstream import Receiver  # noqa: E402

RAW = ('[[topic]]\nname = "raw"\npartitions = 3\n[[route]]\nmqtt = "raw/#"\ntopic = "raw"\n'
       'payload = "raw"\n')
GAP = 200_000
LOOKING = (["status"], ["read", "raw"], ["verify"], ["ledger"], ["topics", "list"], ["devices"],
           ["query", "SELECT count(*) FROM raw"], ["latest", "raw"], ["groups", "list"],
           ["quarantine", "list"])


def publish(gateway, values):
    """Publishes them, QoS 1, a window at a time; all are acknowledged."""
    with Wire(gateway.port) as wire:
        wire.connect("device")
        for at in range(0, len(values), 500):
            window = values[at:at + 500]
            wire.send(b"".join(publish_packet("raw/x", v, 1, i + 1)
                               for i, v in enumerate(window)))
            for _ in window:
                assert wire.read()[0] == PUBACK


def bridge_to(upstream):
    return (f'[[bridge]]\nname = "up"\ntopics = ["raw"]\nto = "{upstream.url}"\n'
            'linger = "20ms"\nretry_max = "200ms"\n')


def picture(directory):
    """Name, size, number, times and content of every file."""
    out = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            st = os.stat(path)
            with open(path, "rb") as f:
                content = hashlib.sha256(f.read()).hexdigest()
            out[name] = (st.st_size, st.st_ino, st.st_mtime_ns, content)
    return out


def identity(gateway):
    return gateway.sql("SELECT value FROM _ws_meta WHERE name='log_uuid'")[0][0]


def events(gateway):
    made = gateway.sql("SELECT 1 FROM sqlite_schema WHERE name='gateway.events'")
    return [json.loads(v) for v in gateway.values("gateway.events")] if made else []


def new_identities(gateway):
    return [e for e in events(gateway) if e["event"] == "new_identity"]


def copy_directory(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock"))


def overwrite_in_place(source, target):
    """The bytes of one directory's files over another's, as `cp` does it: no file is a new one."""
    for name in os.listdir(target):
        if name not in os.listdir(source):
            os.unlink(os.path.join(target, name))
    for name in os.listdir(source):
        if os.path.isfile(os.path.join(source, name)):
            shutil.copy2(os.path.join(source, name), os.path.join(target, name))


def replace(source, target):
    shutil.rmtree(target)
    copy_directory(source, target)


def only_the_database(source, target):
    shutil.copy2(os.path.join(source, "wayside.db"), os.path.join(target, "wayside.db"))


class PutBack(unittest.TestCase):
    """Stopped in order, copied, five readings forwarded, the copy put back, five others: all ten
    are upstream, and no offset is given twice under one identity."""

    def put_back(self, way):
        with Receiver() as upstream, Gateway(topics=RAW, tail=bridge_to(upstream)) as gateway:
            publish(gateway, ["first"])
            wait_for(lambda: "first" in upstream.values(), "it is forwarded")
            gateway.stop()
            copy = gateway.directory + "/copy"
            copy_directory(gateway.data_dir, copy)
            before = identity(gateway)
            gateway.start()
            publish(gateway, [f"a{i}" for i in range(5)])
            wait_for(lambda: len(upstream.values()) == 6, "five are forwarded")
            gave = dict(gateway.sql('SELECT tp, max("offset") FROM _ws_chain_1 GROUP BY tp'))
            gateway.stop()
            way(copy, gateway.data_dir)
            gateway.start()
            publish(gateway, [f"b{i}" for i in range(5)])
            wait_for(lambda: len(set(upstream.values())) == 11, "all others are forwarded")
            self.assertNotEqual(identity(gateway), before)
            for tp, offset in gateway.sql('SELECT tp, "offset" FROM _ws_chain_1 WHERE CAST(value AS'
                                          " TEXT) LIKE 'b%'"):
                self.assertGreater(offset, gave.get(tp, 0))
            wait_for(lambda: len(new_identities(gateway)) == 1, "one event tells of it")
            verify = gateway.cli("verify", check=0).stdout
            self.assertIn("the log is sound", verify)
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)
            # And once only: the next start finds nothing new.
            now = identity(gateway)
            gateway.stop()
            gateway.start()
            self.assertEqual(identity(gateway), now)
            gateway.kill()
            gateway.start()
            self.assertEqual(identity(gateway), now)

    def test_the_directory(self):
        self.put_back(replace)

    def test_its_files_overwritten_in_place(self):
        self.put_back(overwrite_in_place)

    def test_the_database_alone(self):
        self.put_back(only_the_database)

    def test_an_image_that_looks_like_the_original(self):
        """Nothing tells it, so somebody has to: with the gateway running, and with it stopped."""
        for running in (True, False):
            with self.subTest(running=running), Gateway(topics=RAW) as gateway:
                publish(gateway, ["first"])
                before = identity(gateway)
                if not running:
                    gateway.stop()
                said = gateway.cli("restored", "--yes", check=0).stdout
                self.assertIn("new identity", said)
                if not running:
                    gateway.start()
                wait_for(lambda: identity(gateway) != before, "it has a new identity")
                wait_for(lambda: len(new_identities(gateway)) == 1, "one event tells of it")
                publish(gateway, ["second"])
                offsets = gateway.sql("SELECT max(\"offset\") FROM raw")
                self.assertGreaterEqual(offsets[0][0], GAP)
                self.assertEqual(sorted(gateway.values("raw")), ["first", "second"])


class Clones(unittest.TestCase):
    def test_one_image_on_two_boards(self):
        """Both publish, one upstream: two identities, and all of both arrive."""
        with Receiver() as upstream, Gateway(topics=RAW, tail=bridge_to(upstream)) as original:
            publish(original, ["shared"])
            wait_for(lambda: "shared" in upstream.values(), "it is forwarded")
            original.stop()
            boards = []
            for name in "ab":
                directory = f"{original.directory}/{name}"
                copy_directory(original.data_dir, directory + "/data")
                boards.append(Gateway(topics=RAW, tail=bridge_to(upstream), directory=directory))
            with boards[0], boards[1]:
                for name, board in zip("ab", boards):
                    publish(board, [f"{name}{i}" for i in range(40)])
                wait_for(lambda: len(set(upstream.values())) == 81, "both are whole upstream")
                self.assertEqual(len({identity(b) for b in boards} | {identity(original)}), 3)

    def test_what_both_clones_have_is_one_record_upstream(self):
        """They share a backlog: both send it, and an upstream that knows records by (gateway, log,
        topic, partition, offset) has each once, and what is new on either, too."""
        with Receiver(dedupe="record") as upstream:
            upstream.kill()
            with Gateway(topics=RAW, tail=bridge_to(upstream)) as original:
                publish(original, [f"shared{i}" for i in range(20)])
                original.stop()
                upstream.start()
                boards = []
                for name in "ab":
                    directory = f"{original.directory}/{name}"
                    copy_directory(original.data_dir, directory + "/data")
                    boards.append(Gateway(topics=RAW, tail=bridge_to(upstream),
                                          directory=directory))
                with boards[0], boards[1]:
                    for name, board in zip("ab", boards):
                        publish(board, [f"{name}{i}" for i in range(20)])
                    for board in boards:
                        wait_for(lambda: board.status()["bridges"][0]["unsent"] == 0,
                                 "all of it is forwarded")
                    self.assertEqual(sorted(upstream.values()), sorted(
                        f"{name}{i}" for name in ("shared", "a", "b") for i in range(20)))

    def test_another_board(self):
        """The card is the same, the board is not: told by its serial number alone."""
        serial = dict(os.environ, WAYSIDE_BOARD="10000000aaaaaaaa")
        with Gateway(topics=RAW, env=serial) as gateway:
            publish(gateway, ["one"])
            before = identity(gateway)
            gateway.stop()
            gateway.start()
            self.assertEqual(identity(gateway), before)
            gateway.stop()
            gateway.env = dict(os.environ, WAYSIDE_BOARD="10000000bbbbbbbb")
            gateway.start()
            self.assertNotEqual(identity(gateway), before)
            self.assertIn("10000000bbbbbbbb", gateway.log())


class FalseAlarms(unittest.TestCase):
    """What only looks like a copy loses nothing, sends nothing twice, and keeps a sealed batch's
    key."""

    def harmless(self, act, copied):
        with Receiver() as upstream, Gateway(topics=RAW, tail=bridge_to(upstream)) as gateway:
            publish(gateway, [f"sent{i}" for i in range(30)])
            wait_for(lambda: len(upstream.values()) == 30, "they are forwarded")
            gateway.cli("read", "raw", "--group", "dash", check=0)
            upstream.mode("close")  # taken, but the answer is torn: it is sealed, and comes again
            publish(gateway, ["sealed0", "sealed1"])
            key = wait_for(lambda: gateway.sql("SELECT idempotency_key FROM _ws_sealed"),
                           "it is sealed")
            gateway.stop()
            before = identity(gateway)
            act(gateway)
            gateway.start()
            self.assertEqual(identity(gateway) != before, copied)
            self.assertEqual(gateway.sql("SELECT idempotency_key FROM _ws_sealed"), key)
            upstream.mode("ok")
            publish(gateway, ["after"])
            wait_for(lambda: "after" in upstream.values(), "all is forwarded")
            wait_for(lambda: gateway.status()["bridges"][0]["unsent"] == 0, "nothing is left")
            sent = upstream.values()
            self.assertEqual(len(sent), len(set(sent)), "something was sent twice")
            self.assertEqual(set(sent), {*(f"sent{i}" for i in range(30)), "sealed0", "sealed1",
                                         "after"})
            self.assertIn(key[0][0], [b["key"].strip('"') for b in upstream.batches()])
            rest = gateway.cli("read", "raw", "--group", "dash", "--format", "raw", check=0).stdout
            self.assertEqual(sorted(rest.split()), ["after", "sealed0", "sealed1"])
            self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_restored_by_tar(self):
        def act(gateway):
            archive = gateway.directory + "/backup.tar"
            subprocess.run(["tar", "-C", gateway.directory, "-cf", archive, "data"], check=True)
            shutil.rmtree(gateway.data_dir)
            subprocess.run(["tar", "-C", gateway.directory, "-xf", archive], check=True)
        self.harmless(act, copied=True)

    def test_moved_to_another_directory_and_back(self):
        def act(gateway):
            copy_directory(gateway.data_dir, gateway.directory + "/other")
            shutil.rmtree(gateway.data_dir)
            os.rename(gateway.directory + "/other", gateway.data_dir)
        self.harmless(act, copied=True)

    def test_the_directory_is_renamed(self):
        def act(gateway):
            os.rename(gateway.data_dir, gateway.directory + "/other")
            os.rename(gateway.directory + "/other", gateway.data_dir)
        self.harmless(act, copied=False)

    def test_a_technician_reads_with_sqlite3(self):
        def act(gateway):
            subprocess.run(["sqlite3", gateway.data_dir + "/wayside.db",
                            "SELECT count(*) FROM raw"], check=True, capture_output=True)
        self.harmless(act, copied=False)

    def test_a_technician_writes_with_sqlite3(self):
        def act(gateway):
            subprocess.run(["sqlite3", gateway.data_dir + "/wayside.db",
                            "CREATE TABLE note(t); VACUUM; DROP TABLE note"], check=True)
        self.harmless(act, copied=True)

    def test_rights_are_changed(self):
        def act(gateway):
            os.chmod(gateway.data_dir + "/wayside.db", 0o600)
        self.harmless(act, copied=True)


class LostFiles(unittest.TestCase):
    def test_a_database_that_is_gone_beside_its_wal(self):
        """3,000 readings acknowledged, kill -9, the database removed, emptied or cut: looking
        changes nothing and says what is there, and all that the WAL has comes back at the start."""
        def removed(path):
            os.unlink(path)

        def cut(size):
            return lambda path: os.truncate(path, size)

        def zeroed(path):
            with open(path, "r+b") as f:
                f.write(bytes(4096))

        values = [f"v{i}" for i in range(3000)]
        ways = {"removed": removed, "emptied": cut(0), "1 byte": cut(1), "2 bytes": cut(2),
                "100 bytes": cut(100), "a page": cut(4096), "zeroed": zeroed}
        for name, way in ways.items():
            with self.subTest(name), Gateway(topics=RAW) as gateway:
                publish(gateway, values)
                gateway.kill()
                database = gateway.data_dir + "/wayside.db"
                wal = os.path.getsize(database + "-wal")
                way(database)
                before = picture(gateway.data_dir)
                gone = not os.path.exists(database) or os.path.getsize(database) < 2
                for verb in LOOKING:
                    done = gateway.cli(*verb)
                    if gone:
                        self.assertEqual(done.returncode, 1, (verb, done.stdout))
                        self.assertIn("its WAL is there", done.stderr)
                    self.assertEqual(os.path.getsize(database + "-wal"), wal, verb)
                if gone:
                    self.assertEqual(picture(gateway.data_dir), before)
                gateway.start()
                wait_for(lambda: "salvaged from" in gateway.log(), "the salvage")
                self.assertEqual(sorted(gateway.values("raw")), sorted(values))
                publish(gateway, ["after"])
                self.assertIn("it reconciles", gateway.cli("ledger", check=0).stdout)

    def test_gone_again_while_an_older_one_waits(self):
        """An earlier damaged file is there without a WAL: the WAL of now is not put beside it."""
        with Gateway(topics=RAW) as gateway:
            publish(gateway, [f"old{i}" for i in range(100)])
            gateway.stop()
            with open(gateway.data_dir + "/wayside.db", "r+b") as f:
                f.write(bytes(100))
            gateway.start()
            wait_for(lambda: "salvaged from" in gateway.log(), "the first salvage")
            publish(gateway, [f"new{i}" for i in range(100)])
            gateway.kill()
            os.unlink(gateway.data_dir + "/wayside.db")
            gateway.start()
            wait_for(lambda: gateway.log().count("salvaged from") == 2, "the second salvage")
            self.assertEqual(sorted(gateway.values("raw")),
                             sorted(f"{age}{i}" for age in ("old", "new") for i in range(100)))

    def test_without_sidecar_too(self):
        """Nobody knows the topics any more: the records are kept in the file that is set aside."""
        with Gateway(topics=RAW) as gateway:
            publish(gateway, [f"v{i}" for i in range(500)])
            gateway.kill()
            for name in ("wayside.db", "wayside.db.sidecar"):
                os.unlink(os.path.join(gateway.data_dir, name))
            wal = os.path.getsize(gateway.data_dir + "/wayside.db-wal")
            gateway.start()
            publish(gateway, ["after"])
            aside = glob.glob(gateway.data_dir + "/wayside.db.damaged-*-wal")
            self.assertEqual([os.path.getsize(f) for f in aside], [wal])

    def test_a_copy_without_its_wal(self):
        """What only the WAL had is missing: verify, status and ledger say so, and do not call the
        log sound."""
        with Gateway(topics=RAW) as gateway:
            publish(gateway, ["first"])
            gateway.stop()
            gateway.start()
            publish(gateway, [f"v{i}" for i in range(17)])
            gateway.kill()
            copy = gateway.directory + "/card"
            copy_directory(gateway.data_dir, copy)
            os.unlink(copy + "/wayside.db-wal")
            for verb in (["verify"], ["ledger"]):
                done = subprocess.run([WAYSIDE, *verb, "--data", copy], capture_output=True,
                                      text=True)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn("its WAL is gone", done.stdout)
            status = subprocess.run([WAYSIDE, "status", "--data", copy], capture_output=True,
                                    text=True)
            self.assertIn("ALARM", status.stdout)
            self.assertIn("its WAL is gone", status.stdout)
            # The whole copy is sound.
            shutil.copy2(gateway.data_dir + "/wayside.db-wal", copy)
            for verb in (["verify"], ["ledger"]):
                done = subprocess.run([WAYSIDE, *verb, "--data", copy], capture_output=True,
                                      text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_an_older_copy_beside_a_newer_sidecar(self):
        with Gateway(topics=RAW) as gateway:
            publish(gateway, ["first"])
            gateway.stop()
            old = gateway.directory + "/old.db"
            shutil.copy2(gateway.data_dir + "/wayside.db", old)
            gateway.start()
            publish(gateway, [f"v{i}" for i in range(17)])
            gateway.stop()
            shutil.copy2(old, gateway.data_dir + "/wayside.db")
            verify = gateway.cli("verify")
            self.assertEqual(verify.returncode, 1)
            self.assertIn("its sidecar knows of 17 records that are not there", verify.stdout)
            self.assertIn("its sidecar knows of 17", gateway.cli("ledger").stdout)
            self.assertIn("its sidecar knows of 17", gateway.cli("status").stdout)
            self.assertIn("its sidecar knows of 17", gateway.cli("read", "raw").stderr)

    def test_another_logs_wal(self):
        with Gateway(topics=RAW) as one, Gateway(topics=RAW) as other:
            publish(one, [f"one{i}" for i in range(50)])
            publish(other, [f"other{i}" for i in range(60)])
            one.stop()
            other.kill()
            shutil.copy2(other.data_dir + "/wayside.db-wal", one.data_dir)
            before = picture(one.data_dir)
            read = one.cli("read", "raw", "--format", "raw", check=0)
            self.assertEqual(sorted(read.stdout.split()), sorted(f"one{i}" for i in range(50)))
            self.assertIn("is of another log", read.stderr)
            self.assertEqual(one.cli("verify").returncode, 1)
            # SQLite makes its -shm file, and that is all.
            self.assertEqual(picture(one.data_dir)["wayside.db-wal"], before["wayside.db-wal"])
            self.assertEqual(picture(one.data_dir)["wayside.db"], before["wayside.db"])
            one.start()
            self.assertEqual(sorted(one.values("raw")), sorted(f"one{i}" for i in range(50)))
            self.assertEqual(len(glob.glob(one.data_dir + "/wayside.db-wal.foreign-*")), 1)


class Cards(unittest.TestCase):
    def test_a_card_that_must_not_be_changed(self):
        """Of a gateway that was killed: everything in it can be looked at, and no byte, file or
        time of it is another afterwards."""
        with Gateway(topics=RAW) as gateway:
            values = [f"v{i}" for i in range(700)]
            publish(gateway, values)
            gateway.kill()
            os.unlink(gateway.data_dir + "/wayside.db-shm")
            card = gateway.directory + "/card"
            copy_directory(gateway.data_dir, card)
            before = picture(card)
            for verb in LOOKING:
                done = subprocess.run([WAYSIDE, *verb, "--data", card], capture_output=True,
                                      text=True)
                self.assertEqual(done.returncode, 0, (verb, done.stderr))
            read = subprocess.run([WAYSIDE, "read", "raw", "--format", "raw", "--data", card],
                                  capture_output=True, text=True)
            self.assertEqual(sorted(read.stdout.split()), sorted(values))
            self.assertEqual(picture(card), before)

    def test_a_card_that_is_mounted_read_only(self):
        """A real mount, where this machine allows one."""
        with Gateway(topics=RAW) as gateway:
            values = [f"v{i}" for i in range(300)]
            publish(gateway, values)
            gateway.kill()
            mount = gateway.directory + "/mnt"
            os.mkdir(mount)
            script = (f"mount --bind {gateway.directory}/data {mount} &&"
                      f" mount -o remount,bind,ro {mount} && rm -f {mount}/x 2>&1;"
                      f" {WAYSIDE} read raw --format raw --data {mount}; echo $?;"
                      f" {WAYSIDE} read raw -c {gateway.config} --format raw | wc -l")
            done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True,
                                  text=True)
            if "mount" in done.stderr:
                self.skipTest(f"no mount here: {done.stderr.strip()}")
            lines = done.stdout.split()
            self.assertEqual(lines[-1], "300", done.stderr)
            self.assertEqual(lines[-2], "0", done.stderr)
            self.assertEqual(sorted(lines[:-2]), sorted(values))


class Random(unittest.TestCase):
    def test_copies_and_kills(self):
        """The log is stopped or killed, copied, put back in some way, again and again: what was
        acknowledged since the copy that is in place is there, everything is upstream, and no
        (identity, partition, offset) names two readings."""
        random = seeded("copies")
        with Receiver() as upstream, Gateway(topics=RAW, tail=bridge_to(upstream)) as gateway:
            copy, in_copy = None, []
            stored, every, n = [], set(), 0
            names = {}
            for _ in range(8):
                values = [f"r{n + i}" for i in range(random.randrange(1, 30))]
                n += len(values)
                publish(gateway, values)
                stored += values
                every |= set(values)
                wait_for(lambda: every <= set(upstream.values()), "all is upstream")
                for seq, tp, offset, value in gateway.sql(
                        'SELECT seq, tp, "offset", value FROM raw JOIN (SELECT tp, partition AS p'
                        ' FROM _ws_partitions) ON p = raw.partition'):
                    log, = gateway.sql("SELECT log_uuid FROM _ws_logs WHERE from_seq <= ? ORDER BY"
                                       " from_seq DESC LIMIT 1", seq)[0]
                    self.assertEqual(names.setdefault((log, tp, offset), value), value)
                if random.random() < 0.5:
                    gateway.stop()
                else:
                    gateway.kill()
                if copy is None or random.random() < 0.4:
                    copy = f"{gateway.directory}/copy{n}"
                    copy_directory(gateway.data_dir, copy)
                    in_copy = list(stored)
                else:
                    replace(copy, gateway.data_dir)
                    stored = list(in_copy)
                gateway.start()
                self.assertEqual(sorted(gateway.values("raw")), sorted(stored))


if __name__ == "__main__":
    main()
