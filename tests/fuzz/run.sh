#!/bin/sh
# Runs one fuzz target (run.sh build/fuzz/tests/fuzz/fuzz_NAME): its seeds, the inputs that earlier
# runs have found interesting, then new ones for $FUZZ_SECONDS. An input that shows a fault is kept;
# the program with that file as its argument repeats it. What was mended stays in seeds.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1")
name=$(basename "$program" | sed s/fuzz_//)
cd "$(dirname "$program")"
mkdir -p "corpus/$name"
python3 "$here/seeds.py" "$name" "corpus/$name"
# Leaks are looked for at the end: what a thread of the gateway holds meanwhile is none.
ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=16 exec "$program" "corpus/$name" \
  -max_total_time="${FUZZ_SECONDS:-30}" -detect_leaks=0 -timeout=20 -rss_limit_mb=2048 -max_len=8192 \
  -print_final_stats=1 -artifact_prefix="$PWD/fault-$name-"
