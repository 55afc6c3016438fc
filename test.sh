#!/bin/bash
# Installs what is missing, builds with warnings as errors, and runs every test; ends with the
# plain line "N passed, N failed". All of it from bare takes less than 40 minutes on two cores.
#   ./test.sh              everything
#   ./test.sh dev          one or more stages: dev asan tsan arm64
#   ./test.sh --long 8     the random tests for 8 hours, and a table of what was done
set -uo pipefail
cd "$(dirname "$0")"
if [ "${1:-}" = --long ]; then
  cmake/packages.sh test && cmake --preset dev >/dev/null && cmake --build --preset dev >/dev/null &&
    exec tests/long.py "${2:-1}"
  exit 1
fi
stages=${*:-dev asan tsan arm64}
passed=0
failed=0
summary=""

# A stage's tests, counted from ctest's own closing line.
count() {
  local line total bad
  line=$(grep -E '[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+' "$1" | tail -1)
  if [ -z "$line" ]; then
    failed=$((failed + 1))
    return
  fi
  bad=$(sed -E 's/.* ([0-9]+) tests failed out of.*/\1/' <<<"$line")
  total=$(sed -E 's/.*out of ([0-9]+).*/\1/' <<<"$line")
  passed=$((passed + total - bad))
  failed=$((failed + bad))
}

# build_and_test PRESET CTEST_ARGUMENTS...
build_and_test() {
  local preset=$1 log
  shift
  log=$(mktemp /tmp/wayside-test.XXXXXX)
  cmake --preset "$preset" >"$log" 2>&1 && cmake --build --preset "$preset" >>"$log" 2>&1 || {
    tail -40 "$log"
    echo "$preset: the build failed"
    rm -f "$log"
    failed=$((failed + 1))
    return 1
  }
  ctest --test-dir "build/$preset" --output-on-failure -j 2 "$@" 2>&1 | tee "$log" | grep -vE '^ +Start +[0-9]+:'
  count "$log"
  rm -f "$log"
}

stage() {
  case "$1" in
    dev) build_and_test dev ;;
    # All tests again under sanitizers, the end-to-end ones with a sanitized program, whose memory
    # is a multiple.
    asan)
      ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=4 MEMORY_FACTOR=4 build_and_test asan -E tidy ;;
    tsan)
      TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/tests/tsan.supp" MEMORY_FACTOR=8 \
        build_and_test tsan -E 'tidy|^(PowerCut|Model|TestOfTheTest)\.|/Faults\.' ;;  # of one thread
    arm64) cmake/packages.sh arm64 && build_and_test arm64 -L unit ;;
    *) echo "test.sh: no stage '$1'; there are: dev asan tsan arm64" >&2; return 2 ;;
  esac
}

cmake/packages.sh test || { echo "0 passed, 1 failed"; exit 1; }
for name in $stages; do
  begin=$SECONDS
  printf '\n== %s\n' "$name"
  stage "$name" || [ $failed -gt 0 ] || failed=1
  took=$((SECONDS - begin))
  summary+=$(printf '%-6s %d min %02d s' "$name" $((took / 60)) $((took % 60)))$'\n'
done
printf '\n%s\n%d passed, %d failed\n' "$summary" "$passed" "$failed"
[ "$failed" = 0 ]
