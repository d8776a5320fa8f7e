#!/bin/sh
# The main job, from nothing: builds Tidemill, builds a bank of kernels for sm_90a, lists it, and tunes and
# checks: one problem on the GPU if there is one of that kind, else the three fused ops for four ranks on
# the emulator, which executes the kernels on the CPU.
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

if "$tidemill" doctor | grep -q 'compute capability 9\.0'; then
  echo "== tidemill tune, check and explain $problem"
  "$tidemill" tune --bank "$bank" "$problem"
  "$tidemill" check --bank "$bank" "$problem"
  "$tidemill" explain --bank "$bank" "$problem"
  exit 0
fi

# Rows that divide by nothing: ranks with short shards, tiles cut at every edge.
set -- ag_gemm:bf16:nt:w4:77x136x72 gemm_rs:bf16:nt:w4:77x136x72:bias gemm_ar:bf16:nt:w4:77x136x72
emulated=$build/demo.emu.bank
rm -f "$emulated"
TIDEMILL_STRICT=1 # generated kernels alone: no unfused NCCL
export TIDEMILL_STRICT
echo
echo "There is no sm_90a GPU here: the emulator runs the kernels. Its clock is virtual, the times mean nothing."
echo "== tidemill tune --device emu --world 4 --top 2 $*"
"$tidemill" tune --device emu --bank "$emulated" --world 4 --top 2 "$@"
echo "== tidemill check --device emu --world 4 $*"
"$tidemill" check --device emu --bank "$emulated" --world 4 "$@"
echo
echo "The bank for sm_90a is $bank; carry it to a machine that has such a GPU, and there:"
echo "  tidemill tune --bank demo.bank $problem"
