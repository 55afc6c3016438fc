#!/bin/bash
# Installs what is missing, builds with warnings as errors, and runs every test; ends with the
# plain line "N passed, N failed". All of it from bare takes less than an hour on two cores.
#   ./test.sh              everything that is part of each release: dev asan tsan arm64 fuzz
#   ./test.sh dev asan     these stages alone
#   ./test.sh --builds     the other compilers: gcc14 clang armhf
#   ./test.sh --attacks    the strangers' attacks as large as they were when they did harm
#   ./test.sh --interop    clients and suites that are fetched from PyPI, npm and GitHub
#   ./test.sh --fuzz 60    60 minutes of fuzzing, of all targets together; without a number 2
#   ./test.sh --long 8     the random tests for 8 hours, and a table of what was done
# docs/TESTING.md says what each stage is for.
set -uo pipefail
cd "$(dirname "$0")"
usage() {
  echo "usage: ./test.sh [dev|asan|tsan|arm64|fuzz|gcc14|clang|armhf]... [--builds] [--attacks]" \
    "[--interop] [--fuzz [MINUTES]] [--long [HOURS]]" >&2
  exit 2
}
stages=""
fuzz_minutes=2
while [ $# -gt 0 ]; do
  case "$1" in
    dev | asan | tsan | arm64 | armhf | gcc14 | clang | fuzz) stages+=" $1" ;;
    --builds) stages+=" gcc14 clang armhf" ;;
    --attacks | --interop) stages+=" ${1#--}" ;;
    --fuzz)
      stages+=" fuzz"
      if [[ "${2:-}" =~ ^[0-9]+$ ]]; then fuzz_minutes=$2; shift; fi
      ;;
    --long)
      cmake/packages.sh test && cmake --preset dev >/dev/null && cmake --build --preset dev >/dev/null &&
        exec tests/long.py "${2:-1}"
      exit 1
      ;;
    *) usage ;;
  esac
  shift
done
stages=${stages:-dev asan tsan arm64 fuzz}
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

# build_and_test PRESET CTEST_ARGUMENTS...   $inside: where, if not here
build_and_test() {
  local preset=$1 log
  shift
  log=$(mktemp /tmp/wayside-test.XXXXXX)
  ${inside:-} cmake --preset "$preset" >"$log" 2>&1 &&
    ${inside:-} cmake --build --preset "$preset" >>"$log" 2>&1 || {
    tail -40 "$log"
    echo "$preset: the build failed"
    rm -f "$log"
    failed=$((failed + 1))
    return 1
  }
  ${inside:-} ctest --test-dir "build/$preset" --output-on-failure -j 2 "$@" 2>&1 |
    tee "$log" | grep -vE '^ +Start +[0-9]+:'
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
    # Where threads meet: what has one alone (label `single`) shows nothing new.
    tsan)
      TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/tests/tsan.supp" MEMORY_FACTOR=8 \
        build_and_test tsan -LE single -E tidy ;;
    arm64 | armhf) cmake/packages.sh cross && build_and_test "$1" -L unit -E tidy ;;
    gcc14) inside="cmake/root.sh trixie" build_and_test gcc14 -L unit -E tidy ;;
    clang) cmake/packages.sh clang && build_and_test clang -L unit -E tidy ;;
    attacks) WAYSIDE_ATTACKS=1 build_and_test dev -R test_attacks ;;
    interop) WAYSIDE_INTEROP=1 build_and_test dev -R test_clients ;;
    # The seconds of each of the seven targets, two of which run at a time.
    fuzz)
      cmake/packages.sh clang && FUZZ_SECONDS=$((fuzz_minutes * 120 / 7)) build_and_test fuzz ;;
  esac
}

cmake/packages.sh test || { echo "0 passed, 1 failed"; exit 1; }
for name in $stages; do
  begin=$SECONDS
  printf '\n== %s\n' "$name"
  stage "$name" || [ $failed -gt 0 ] || failed=1
  took=$((SECONDS - begin))
  printf '== %s took %d min %02d s\n' "$name" $((took / 60)) $((took % 60))
  summary+=$(printf '%-6s %d min %02d s' "$name" $((took / 60)) $((took % 60)))$'\n'
done
printf '\n%s\n%d passed, %d failed\n' "$summary" "$passed" "$failed"
[ "$failed" = 0 ]
