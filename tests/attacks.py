#!/usr/bin/env python3
"""The attacks of tests/e2e/test_attacks.py as large as they were when they did harm: some minutes.
Ends with "N passed, N failed".

    tests/attacks.py [Class.test ...]    (after cmake --build --preset dev --target wayside)"""

import os
import re
import subprocess
import sys

BUILD = os.environ.get("BUILD", "build/dev")


def main():
    env = {**os.environ, "WAYSIDE_ATTACKS": "1",
           "WAYSIDE": os.environ.get("WAYSIDE", f"{BUILD}/wayside")}
    run = subprocess.Popen(["/usr/bin/python3", "-W", "ignore", "tests/e2e/test_attacks.py",
                            *sys.argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, env=env)
    ran = failed = 0
    for line in run.stdout:
        print(line, end="", flush=True)
        if found := re.match(r"Ran (\d+) tests?", line):
            ran = int(found.group(1))
        if line.startswith("FAILED"):
            failed = sum(map(int, re.findall(r"(?:failures|errors)=(\d+)", line)))
    run.wait()
    if run.returncode != 0 and failed == 0:
        failed = 1
    print(f"{max(ran - failed, 0)} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
