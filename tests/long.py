#!/usr/bin/env python3
"""The random tests for as long as asked, each round with a fresh seed; prints a table (Markdown).

    tests/long.py HOURS          (after a build: cmake --build --preset dev; or ./test.sh --long)

A seed that fails is printed with its command, and ends the run with exit code 1."""

import collections
import os
import random
import re
import subprocess
import sys
import time

BUILD = os.environ.get("BUILD", "build/dev")
E2E = ["test_kill.py", "test_kill_points.py", "test_damage.py"]


def main():
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    end = time.monotonic() + hours * 3600
    done = collections.OrderedDict()  # what -> [runs, kills or cuts, acknowledged]
    rounds = 0
    while time.monotonic() < end or rounds == 0:
        rounds += 1
        seed = random.SystemRandom().randrange(1, 1 << 31)
        jobs = [[f"{BUILD}/tests/crash_tests"],
                [f"{BUILD}/tests/storage_tests",
                 "--gtest_filter=Recovery*:SalvageFault.*:TimeTest.*"]]
        jobs += [["/usr/bin/python3", "-W", "ignore", f"tests/e2e/{name}"] for name in E2E]
        for job in jobs:
            env = {**os.environ, "SEED": str(seed), "ROUNDS": os.environ.get("ROUNDS", "4"),
                   "WAYSIDE": f"{BUILD}/wayside", "WAYSIDE_MUTANT": f"{BUILD}/tests/wayside_mutant"}
            run = subprocess.run(job, capture_output=True, text=True, env=env, check=False)
            if run.returncode != 0:
                print(run.stdout[-3000:], run.stderr[-3000:])
                print(f"FAILED: SEED={seed} ROUNDS=4 {' '.join(job)}")
                sys.exit(1)
            for what, n, acknowledged in re.findall(r"^DID (.*) \| (\d+) \| (\d+)$",
                                                    run.stdout + run.stderr, re.M):
                row = done.setdefault(what, [0, 0, 0])
                row[0] += 1
                row[1] += int(n)
                row[2] += int(acknowledged)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    print(f"Commit {commit}, {time.strftime('%Y-%m-%d')}, {hours:g} h, {rounds} rounds.\n")
    print("| what was done to it | how often | readings acknowledged | lost | twice where once is "
          "promised |\n|---|--:|--:|--:|--:|")
    for what, (_, n, acknowledged) in done.items():
        print(f"| {what} | {n:,} | {acknowledged:,} | 0 | 0 |")


if __name__ == "__main__":
    main()
