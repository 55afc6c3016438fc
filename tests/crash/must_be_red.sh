#!/bin/sh
# Runs a mutant's tests (PROGRAM FILTER): passes when one of them fails, as it must.
out=$("$1" --gtest_filter="$2" 2>&1)
if echo "$out" | grep -q "^\[  FAILED  \]"; then
  echo "found out:"
  echo "$out" | grep -A4 ": Failure" | head -5
  exit 0
fi
echo "$out" | tail -5
echo "the mutant was not found out"
exit 1
