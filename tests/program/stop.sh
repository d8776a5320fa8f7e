#!/bin/sh
# What a signal leaves of a tune on the emulator: stop.sh TIDEMILL
tidemill=${1:?usage: stop.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT
problem=gemm_rs:bf16:nt:w2:77x136x72
: >"$dir/out"

fail() {
  echo "$1"
  sed 's/^/    /' "$dir/out"
  exit 1
}
has() { grep -q -- "$1" "$2" || fail "$2 lacks '$1'"; }

# Stopped while it compiles, then while it measures: it says how to go on, nobody is blamed, no folder stays.
mkdir "$dir/tmp"
for sign in '^1/' 'candidates compiled'; do
  TMPDIR=$dir/tmp "$tidemill" tune --device emu --world 2 --bank "$dir/s.bank" --top 8 $problem \
    >"$dir/out" 2>&1 &
  pid=$!
  tries=0 # until it is so far, at most a minute
  while ! grep -q "$sign" "$dir/out" && [ $tries -lt 600 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
  kill -TERM $pid
  kill -TERM $pid # as `timeout` does, which signals the process and its group
  wait $pid
  [ $? = 143 ] || fail "SIGTERM: another exit code"
  has 'stopped at .* run the same command again' "$dir/out"
  find "$dir/tmp" -name 'tidemill-*' | grep . && fail "a folder is left"
done
timeout 200 "$tidemill" tune --device emu --world 2 --bank "$dir/s.bank" --top 1 $problem >"$dir/out" 2>&1 ||
  fail "a stopped tune does not go on"
grep -q 'left out' "$dir/out" && fail "a candidate is blamed for the signal"
exit 0
