"""Executes every example of docs/PROGRAMS.md, and checks docs/STREAM.md against the program: files
that the page shows are written, its commands run in order, and what they print is compared, numbers
and times aside. `--update` writes the page anew from what the commands print."""

import json
import os
import re
import subprocess
import sys
import unittest

import test_docs
from harness import WAYSIDE, main

PAGE = os.path.join(test_docs.ROOT, "docs/PROGRAMS.md")
STREAM = os.path.join(test_docs.ROOT, "docs/STREAM.md")
FILE = re.compile(r"```(?:python|cpp|sh)\n((?:#|//) (\S+):.*?)```", re.S)


def text_of(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def write_files(site, page):
    found = FILE.findall(page)
    for text, name in found:
        with open(os.path.join(site.gateway.directory, name), "w", encoding="utf-8") as f:
            f.write(text)
    return len(found)


class Page(unittest.TestCase):
    def setUp(self):
        self.site = test_docs.Site()
        self.addCleanup(self.site.close)

    def test_every_example_does_what_the_page_shows(self):
        page = text_of(PAGE)
        self.assertEqual(write_files(self.site, page), 4)
        # No example of a language is left out.
        self.assertEqual(len(re.findall(r"```(python|cpp|sh)\n", page)), 4)
        ran = 0
        for _, steps in test_docs.blocks(page):
            for command, shown in steps:
                with self.subTest(command):
                    out, code = self.site.run(command)
                    self.assertEqual(code, 0, out)
                    printed = out.rstrip("\n").splitlines()
                    self.assertEqual(len(shown), len(printed), out)
                    for a, b in zip(shown, printed):
                        self.assertTrue(test_docs.same(a, b), f"page:\n{a}\nprinted:\n{b}")
                    ran += 1
        self.assertGreaterEqual(ran, 15)

    def test_the_stream_is_what_its_page_says(self):
        page = text_of(STREAM)
        types = set(re.findall(r"^\| `(\w+)` \|", page, re.M)) - {"type"}  # the heading
        source = text_of(os.path.join(test_docs.ROOT, "gateway/cli/read_stream.cc"))
        self.assertEqual(types, set(re.findall(r'"type\\":\\"(\w+)', source)) |
                         set(re.findall(r'message\("(\w+)"', source)))
        lines = re.findall(r'^\| `(\{"do":.*?\})` \|', page, re.M)
        self.assertGreaterEqual(len(lines), 6)
        # All that a program may say is understood; places and batches are not those of this log.
        done = subprocess.run([WAYSIDE, "read", "truck_gps", "-c", self.site.gateway.config, "-g",
                               "page", "--stream"], input="\n".join(lines) + "\n",
                              capture_output=True, text=True, timeout=60, check=True)
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(messages[0]["type"], "hello")
        self.assertEqual(messages[-1]["type"], "end")
        said = [m["error"] for m in messages if m["type"] == "error"]
        self.assertFalse([e for e in said if "was not given" not in e], said)


def update():
    site = test_docs.Site()
    try:
        page = text_of(PAGE)
        write_files(site, page)
        for block, steps in test_docs.blocks(page):
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
