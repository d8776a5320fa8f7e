#!/bin/sh
# The program on a machine without any CUDA library: no_cuda.sh TIDEMILL PRELOAD
tidemill=${1:?usage: no_cuda.sh TIDEMILL PRELOAD} preload=${2:?usage: no_cuda.sh TIDEMILL PRELOAD}
bad=0 out=$(mktemp) dir=$(mktemp -d)
trap 'rm -rf "$out" "$dir"' EXIT

# expect CODE WORD arguments...: exit code, and WORD somewhere in what it prints ("" for anything).
expect() {
  code=$1 word=$2
  shift 2
  LD_PRELOAD=$preload timeout 60 "$tidemill" "$@" >"$out" 2>&1
  got=$?
  if [ $got != "$code" ] || ! grep -qi -- "$word" "$out"; then
    echo "tidemill $*: exit $got, wanted $code and '$word'; it printed:"
    sed 's/^/    /' "$out" | head -20
    bad=1
  fi
}

expect 0 'tidemill' --version
expect 0 'usage' --help
expect 0 'gemm' list
expect 0 '' doctor
expect 1 'NVRTC' build --arch sm_90a --world 1 -o "$dir/x.bank"
expect 2 'frobnicate' frobnicate
expect 2 '' list --no-such-option
exit $bad
