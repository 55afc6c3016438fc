"""Executes every command of docs/ON_SITE.md and every example of --help, on a gateway with five
trucks, a group, a bridge and some readings in quarantine. What the page prints is compared, numbers
and times aside. `--update` writes the page anew from what the commands print."""

import datetime
import os
import re
import subprocess
import sys
import unittest

from harness import WAYSIDE, Gateway, Wire, main, publish_packet, wait_for
from upstream import Receiver

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = os.path.join(ROOT, "docs/ON_SITE.md")
SHORT_S = 2  # for a command that goes on for ever


class Site:
    """The scene, and a shell in which `wayside` is the program on its configuration."""

    def __init__(self):
        self.receiver = Receiver().start()
        tail = (f'[[bridge]]\nname = "cloud"\ntopics = ["truck_gps"]\nto = "{self.receiver.url}"\n'
                'linger = "5ms"\n')
        self.gateway = Gateway(commit='linger = "2ms"', tail=tail).start()
        self.bin = os.path.join(self.gateway.directory, "bin")
        os.mkdir(self.bin)
        with open(os.path.join(self.bin, "wayside"), "w", encoding="utf-8") as f:
            f.write("#!/bin/bash\nn=1\ncase $1 in topics|groups|bridge|quarantine) n=2 ;; esac\n"
                    f'[ $1 = completion ] && exec {os.path.abspath(WAYSIDE)} "$@"\n'
                    f'exec {os.path.abspath(WAYSIDE)} "${{@:1:n}}" -c {self.gateway.config}'
                    ' "${@:n+1}"\n')
        os.chmod(os.path.join(self.bin, "wayside"), 0o755)
        try:
            self.fill()
        except BaseException:  # nobody else will end what was started
            self.close()
            raise

    def fill(self):
        self.gateway.cli("simulate", "--trucks", "5", "--count", "12", "--rate", "0", "--seed", "7",
                         check=0)
        with Wire(self.gateway.port) as wire:
            wire.connect("fridge-1", 5)
            readings = (("fridge/1/temp", "4.5"), ("fridge/1/temp", "4.6"),
                        ("fleet/truck-003/gps", "no JSON"))
            for i, (topic, payload) in enumerate(readings):
                wire.send(publish_packet(topic, payload, 1, i + 1, 5))
                wire.read()
        self.gateway.cli("read", "truck_gps", "--group", "dashboard", "-n", "50", check=0)
        wait_for(lambda: len(self.receiver.records()) == 60, "all is forwarded")
        wait_for(lambda: "nothing unsent" in self.gateway.cli("status").stdout, "and settled")
        wait_for(lambda: self.gateway.sql("SELECT name FROM pragma_table_info('truck_gps') WHERE"
                                          " name='speed'"), "columns are learnt")

    def close(self):
        self.receiver.__exit__()
        self.gateway.__exit__(None)

    def run(self, command):
        """(what it printed, its exit code); None for one that goes on until it is stopped."""
        if command.startswith("systemctl stop wayside"):
            self.gateway.stop()
            return "", 0
        if command == "wayside check":  # the technician has added the route by now
            self.gateway.edit('[[route]]\nmqtt = "raw/#"', '[[route]]\nmqtt = "fridge/{n}/temp"\n'
                              'topic = "raw"\npayload = "raw"\n[[route]]\nmqtt = "raw/#"')
        if "status" in command and self.gateway.process:  # what was sent last is settled by now
            wait_for(lambda: "waiting for readings" in self.gateway.cli("status").stdout,
                     "the bridge has nothing to do")
        now = datetime.datetime.now(datetime.timezone.utc)
        for text, at in (("2026-11-22T03:12:00Z", now - datetime.timedelta(minutes=5)),
                         ("2026-11-22T03:13:00Z", now + datetime.timedelta(minutes=5)),
                         ("2026-11-22T08:00:00Z", now - datetime.timedelta(minutes=5))):
            command = command.replace(text, at.strftime("%Y-%m-%dT%H:%M:%SZ"))
        port = re.findall(r"http port (\d+);", self.gateway.log())[-1]
        command = command.replace("127.0.0.1:9470", f"127.0.0.1:{port}")
        command = command.replace("/etc/bash_completion.d", self.gateway.directory)
        follows = "--follow" in command
        try:
            done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"],
                                  cwd=self.gateway.directory, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True,
                                  timeout=SHORT_S if follows else 60, check=False,
                                  stdin=subprocess.DEVNULL,
                                  env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"})
        except subprocess.TimeoutExpired as e:
            if not follows:
                raise
            return (e.stdout or b"").decode(), None
        # A warning of where this test runs, not of the site.
        out = "".join(line for line in done.stdout.splitlines(True)
                      if "data_dir" not in line or ("warning" not in line and "ALARM" not in line))
        out = out.replace(self.gateway.config, "/etc/wayside/wayside.toml")
        out = out.replace(self.gateway.data_dir, "/var/lib/wayside")
        out = out.replace(self.receiver.url, "https://cloud.example/ingest")
        return out, done.returncode


def same(shown, printed):
    """Whether two lines say the same, but for numbers and times."""
    def words(line):
        line = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line)
        line = re.sub(r"(in )?-?\d+ (ms|s|min|h|d)( \d+ (min|h))?( ago)?", "AGE", line)
        line = re.sub(r"[\d.]+ (B|KiB|MiB|GiB)\b", "SIZE", line)
        line = re.sub(r"\b(pid|port) \d+", r"\1 N", line)
        line = re.sub(r"; full in about AGE", "", line)
        line = re.sub(r"(synchronised|not synchronised: retention by time waits)", "SYNC", line)
        return re.sub(r"-?\d[\d.e+]*", "N", line).split()
    return words(shown) == words(printed)


def blocks(page):
    """The console blocks as lists of (command, lines that it prints)."""
    for block in re.findall(r"```console\n(.*?)```", page, re.S):
        steps = []
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        yield block, steps


class Docs(unittest.TestCase):
    def setUp(self):
        self.site = Site()
        self.addCleanup(self.site.close)

    def test_every_command_of_the_page_prints_what_it_shows(self):
        with open(PAGE, encoding="utf-8") as f:
            page = f.read()
        questions = len(re.findall(r"^### ", page, re.M))
        self.assertGreaterEqual(questions, 20)
        for _, steps in blocks(page):
            for command, shown in steps:
                with self.subTest(command):
                    out, code = self.site.run(command)
                    self.assertIn(code, (0, None), out)
                    printed = out.rstrip("\n").splitlines()
                    self.assertEqual(len(shown), len(printed), out)
                    for a, b in zip(shown, printed):
                        self.assertTrue(same(a, b), f"the page says\n{a}\nit prints\n{b}")

    def test_every_example_of_the_help_works(self):
        verbs = re.findall(r"^  ([a-z]+) ", subprocess.run(
            [WAYSIDE, "--help"], capture_output=True, text=True, check=True).stdout.split(
                "Subcommands:")[1], re.M)
        self.assertGreaterEqual(len(verbs), 17)
        self.site.gateway.cli("publish", "-t", "fleet/truck-007/gps", "-m", "{}", check=0)
        ran = 0
        for verb in verbs:
            text = subprocess.run([WAYSIDE, verb, "--help"], capture_output=True, text=True,
                                  check=True).stdout
            if verb in ("groups", "read"):  # so that the examples of groups have one
                self.site.gateway.cli("read", "truck_gps", "--group", "dash", check=0)
            # Lines that CLI11 has not broken: an example stands on a line of its own.
            for line in re.findall(r"^  ((?:echo .* \| )?wayside .*)$", text, re.M):
                with self.subTest(line):
                    out, code = self.site.run(line)
                    self.assertIn(code, (0, None), out)
                    ran += 1
        self.assertGreaterEqual(ran, 25)


def update():
    with open(PAGE, encoding="utf-8") as f:
        page = f.read()
    site = Site()
    try:
        for block, steps in blocks(page):
            text = ""
            for command, _ in steps:
                text += f"$ {command}\n" + site.run(command)[0]
            page = page.replace(f"```console\n{block}```", f"```console\n{text}```")
    finally:
        site.close()
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(page)


if __name__ == "__main__":
    if "--update" in sys.argv:
        update()
    else:
        main()
