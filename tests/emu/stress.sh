#!/bin/sh
# A soak must be able to fail: stress.sh TIDEMILL ROOT. With kernels that do not wait for their peers' headers a
# rank that needs nothing of a late one overwrites what that one has not read. Alone every call is right, so
# only the sequence shows it: by bits, beside what the emulator itself reports.
tidemill=${1:?usage: stress.sh TIDEMILL ROOT}
root=${2:?usage: stress.sh TIDEMILL ROOT}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT

# soak SOURCE: output in $dir/out, exit code in $code.
soak() {
  timeout 200 "$tidemill" check --device emu --world 2 --source "$1" --stress 300 \
    gemm_rs:bf16:nt:w2:1x72x136 >"$dir/out" 2>&1
  code=$?
}
fail() {
  echo "$1 (exit code $code):"
  sed 's/^/    /' "$dir/out"
  exit 1
}

soak "$root"
[ $code = 0 ] || fail 'the kernels as they are must pass'

cp -r "$root/gen" "$root/templates" "$dir"
call=$dir/templates/part/call.cu.in
sed -i 's/if (!wait_for(j, here, j->epoch, FAULT_HEADER_TIMEOUT, peer, -1)) return;/if (here) return;/' "$call"
cmp -s "$call" "$root/templates/part/call.cu.in" && fail 'the wait for headers has moved: edit this test'
soak "$dir"
[ $code = 1 ] || fail 'without the wait for headers the soak must fail'
grep -qE 'stress: call [0-9]+ of seed 1, gemm_rs:bf16:nt:w2:[01]x72x136 by .* elements differ' "$dir/out" ||
  fail 'the soak must name a wrong call'
