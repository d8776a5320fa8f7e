#!/bin/sh
# tune and bench from end to end on the emulator, whose times mean nothing: measure.sh TIDEMILL
tidemill=${1:?usage: measure.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT
root=$(cd "$(dirname "$0")/../.." && pwd)
problem=gemm_rs:bf16:nt:w2:77x136x72

fail() {
  echo "$1"
  sed 's/^/    /' "$dir/out"
  exit 1
}
# emulate COMMAND ARGUMENT...: on two devices, output in $dir/out.
emulate() {
  command=$1
  shift
  timeout 200 "$tidemill" "$command" --device emu --world 2 --bank "$dir/x.bank" "$@" >"$dir/out" 2>&1
}
has() { grep -q -- "$1" "$2" || fail "$2 lacks '$1'"; }

emulate tune --top 1 --dump "$dir/dump.json" --json "$dir/tune.json" $problem || fail "tune failed"
has '"model_us"' "$dir/dump.json"
picks() { "$tidemill" list --bank "$dir/x.bank" --picks "$@" >"$dir/out" 2>&1; }
picks 'gemm_rs.*' || fail "list --picks GLOB failed"
[ "$(wc -l <"$dir/out")" = 2 ] || fail "a GLOB did not choose the pick"
picks 'ag_gemm.*' && fail "a GLOB that matches no pick is no mistake"
has "\"problem\":.\"$problem\"" "$dir/dump.json"
has '"compile_seconds"' "$dir/tune.json"

grep -q '1 problems' "$dir/out" && fail "one problem is not several"

# What has a pick is told before anything is compiled for it.
emulate tune --top 8 $problem || fail "tune of what is tuned failed"
has '0 problems tuned, 2 had a pick' "$dir/out"
grep -q 'candidates compiled' "$dir/out" && fail "candidates of a problem with a pick are compiled"

# What the bank has is all of the space that is measured, and nothing is compiled.
emulate tune --all --no-jit --again $problem || fail "tune --all failed"
has 'within the model.s top 8 for 2 of 2 problems (100 %)' "$dir/out"
grep -q 'candidates compiled' "$dir/out" && fail "tune --no-jit compiled"

printf '[{"problem": "%s", "gemm": 1, "other": 0.5}]\n' $problem >"$dir/peers.json"
# In a repository that is not the program's, whose commit the tables name.
cd "$dir" && git init -q . 2>/dev/null &&
  git -c user.name=x -c user.email=x commit -q --allow-empty -m x 2>/dev/null
emulate bench --rounds 1 --peers "$dir/peers.json" -o "$dir/table" $problem || fail "bench failed"
commit=$("$tidemill" --version | sed -n 's/.*, commit //p')
has "commit ${commit:-of the build}," "$dir/table.md"
has 'copy engine [0-9]* GB/s, TMA stores [0-9]* GB/s' "$dir/table.md"
has "bench .*--rounds 1 .*table $problem\`" "$dir/table.md"
has '"store_gbs":.[0-9]' "$dir/table.json"
has '"peer":.*"other"' "$dir/table.json"
has '"slower_than_peer":.1' "$dir/table.json"
has '"missed":.true' "$dir/table.json"
has '"tflops":.0\.0*[1-9]\|"tflops":.[0-9.]*e-' "$dir/table.json"

# The kernel that measures stores, without the fence between its writes and the stores' reads.
mkdir "$dir/source" && cp -r "$root/gen" "$root/templates" "$dir/source"
sed -i '/fence_async_smem();/d' "$dir/source/templates/kernel/stores.cu.in"
emulate bench --source "$dir/source" --rounds 1 $problem && fail "a missing fence was not seen"
has 'stores.cu.in' "$dir/out"
exit 0
