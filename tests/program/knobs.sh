#!/bin/sh
# doctor judges the environment as the library reads it: knobs.sh TIDEMILL
tidemill=${1:?usage: knobs.sh TIDEMILL}
out=$(mktemp) || exit 2
trap 'rm -f "$out"' EXIT
bad=0
for knob in BANK SOURCE FORCE NO_JIT STRICT BANK_WRITABLE TIMEOUT_US; do unset TIDEMILL_$knob; done

# doctor CODE LINE VARIABLE=VALUE...: with these, it ends so and prints a line like this.
doctor() {
  code=$1 line=$2
  shift 2
  env "$@" "$tidemill" doctor --device emu >"$out" 2>&1
  got=$?
  if [ $got != "$code" ] || ! grep -q -- "$line" "$out"; then
    echo "$*: exit $got, wanted $code and '$line':"
    sed 's/^/    /' "$out"
    bad=1
  fi
}

doctor 0 '^TIDEMILL_TIMEOUT_US *default *10000000'
doctor 0 '^TIDEMILL_TIMEOUT_US *set *5e6' TIDEMILL_TIMEOUT_US=5e6
doctor 1 '^TIDEMILL_TIMEOUT_US *wrong .*must be a number' TIDEMILL_TIMEOUT_US=abc
doctor 1 '^TIDEMILL_TIMEOUT_US *wrong .*positive' TIDEMILL_TIMEOUT_US=-1
doctor 1 '^TIDEMILL_NO_JIT *wrong .*must be 0 or 1' TIDEMILL_NO_JIT=yes
doctor 1 '^TIDEMILL_FORCE *wrong .*nonexistent' TIDEMILL_FORCE=nonexistent
doctor 0 '^TIDEMILL_FORCE *set *gemm' \
  TIDEMILL_FORCE=gemm.sm90a.bf16.nt.w1__128x128x64.c1x1.s5.pingpong.r4
doctor 1 '^TIDEMILL_SOURCE *wrong .*nowhere' TIDEMILL_SOURCE=/nowhere
doctor 0 '^TIDEMILL_NO_JIT *default' TIDEMILL_NO_JIT= # empty is unset
exit $bad
