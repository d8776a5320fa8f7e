#!/bin/sh
# The script behind the tables, every step of it, on the emulator: bench.sh TIDEMILL
set -u
tidemill=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
measure=$(cd "$(dirname "$0")/../bench" && pwd)/measure.sh

fail() {
  echo "$1; it printed:"
  sed 's/^/    /' "$dir/out"
  tail -n 5 "$dir"/tables/*.log
  exit 1
}

measure() { sh "$measure" -t "$tidemill" -d emu -q "$@" >"$dir/out" 2>&1; }

echo 'gemm:bf16:nt:w1:64x64x64' >"$dir/gemms"
printf '%s\n' ag_gemm:bf16:nt:w2:64x64x64 gemm_rs:bf16:nt:w2:4096x8x8 >"$dir/fused"
measure -g "$dir/gemms" -f "$dir/fused" -o "$dir/tables" || fail "a step failed"
[ "$(grep -c 'exit   0' "$dir/out")" = 8 ] || fail "not every command ran"
for name in gemm fused sustained; do
  grep -q '"means"' "$dir/tables/$name.json" || fail "$name.json has no means"
  grep -q 'problem' "$dir/tables/$name.md" || fail "$name.md has no table"
done
grep -q '4096x8x8' "$dir/tables/sustained.json" || fail "the sustained rows are missing"
grep -q '64x64x64' "$dir/tables/sustained.json" && fail "rows of small m are among the sustained"

# A failure is told, and the steps behind it are done.
echo 'gemm:bf16:nt:w1:64x63x64' >"$dir/gemms"
measure -g "$dir/gemms" -f "$dir/fused" -o "$dir/tables" gemm sustained && fail "a failure is lost"
grep -q '^gemm  *exit   1' "$dir/out" || fail "the failed command is not named"
grep -q '^sustained  *exit   0' "$dir/out" || fail "a failure stopped the rest"

measure -o "$dir/tables" nonsense
[ $? = 2 ] || fail "an unknown step is taken"
