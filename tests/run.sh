#!/bin/sh
# All tests that need no GPU: sh tests/run.sh [BUILD-FOLDER [CMAKE-OPTION...]]
# Installs what is missing, configures, builds, runs ctest (TIDEMILL_LABELS: only these labels, a
# regular expression), and ends with "N passed, N failed, N skipped".
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build}
[ $# -gt 0 ] && shift
jobs=$(nproc)
labels=${TIDEMILL_LABELS:-.}

broken() {
  echo "tests: $1" >&2
  echo "0 passed, 1 failed, 0 skipped"
  exit 1
}

sh "$root/tuner/setup.sh" libcmocka-dev clang-format binutils || broken "set-up failed"
mkdir -p "$build"
log=$build/tests.log
if ! { cmake -S "$root" -B "$build" -DTML_TESTS=ON "$@" &&
  cmake --build "$build" -j "$jobs"; } >"$log" 2>&1; then
  grep -E 'error|Error|FAILED' "$log" | head -30 >&2
  broken "the build failed; the whole log is $log"
fi
ctest --test-dir "$build" -j "$jobs" -L "$labels" --output-on-failure --no-tests=error |
  tee "$build/ctest.out"
awk '!/ Test +#[0-9]+:/ { next }
     /\*\*\*Skipped/ { skipped++; next }
     / Passed / { passed++; next }
     { failed++ }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
           exit failed > 0 || passed == 0 }' "$build/ctest.out"
