#!/bin/sh
# The main job, from nothing: builds Tidemill, builds a bank of kernels for sm_90a, lists it, and, if
# there is a GPU of that kind, tunes one problem, checks its results and shows what was picked.
#   sh tuner/demo.sh [BUILD-FOLDER]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build}
problem=${TIDEMILL_DEMO_PROBLEM:-gemm:bf16:nt:w1:4096x4096x4096}

sh "$root/tuner/setup.sh"
mkdir -p "$build"
log=$build/demo.log
echo "== building $build/tidemill"
if ! { cmake -S "$root" -B "$build" -DTML_TESTS=OFF && cmake --build "$build" -j "$(nproc)" --target tidemill \
  tidemill_shared; } >"$log" 2>&1; then
  tail -30 "$log" >&2
  echo "demo: the build failed; the whole log is $log" >&2
  exit 1
fi
tidemill=$build/tidemill bank=$build/demo.bank

echo "== tidemill build --arch sm_90a --world 1 -o $bank"
"$tidemill" build --arch sm_90a --world 1 -o "$bank"
echo "== tidemill list --bank $bank"
"$tidemill" list --bank "$bank"

if ! "$tidemill" doctor | grep -q 'compute capability 9\.0'; then
  echo
  echo "There is no sm_90a GPU here. The bank is built; carry it to a machine that has one, and there:"
  echo "  tidemill tune --bank demo.bank $problem"
  exit 0
fi
echo "== tidemill tune, check and explain $problem"
"$tidemill" tune --bank "$bank" "$problem"
"$tidemill" check --bank "$bank" "$problem"
"$tidemill" explain --bank "$bank" "$problem"
