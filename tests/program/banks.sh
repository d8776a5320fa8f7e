#!/bin/sh
# Which bank serves whom, and what is said of one that does not: banks.sh TIDEMILL
tidemill=${1:?usage: banks.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT
problem=gemm:bf16:nt:w1:64x64x64
bad=0

# expect CODE WORD ARGUMENT...: this exit code, and WORD somewhere in what it prints.
expect() {
  code=$1 word=$2
  shift 2
  timeout 200 "$tidemill" "$@" >"$dir/out" 2>&1
  got=$?
  if [ $got != "$code" ] || ! grep -q -- "$word" "$dir/out"; then
    echo "tidemill $*: exit $got, wanted $code and '$word'; it printed:"
    sed 's/^/    /' "$dir/out"
    bad=1
  fi
}

# The emulator's own bank serves no GPU, and its picks count for none.
expect 0 '1 problem tuned' tune --device emu --world 1 --bank "$dir/emu.bank" --top 1 $problem
expect 0 '^bank *ok' doctor --device emu --bank "$dir/emu.bank"
expect 1 '^bank *other .*kernels for the emulator' doctor --bank "$dir/emu.bank"
expect 0 'Emulated' explain --bank "$dir/emu.bank" --arch sm_90a $problem
grep -q ' yes ' "$dir/out" && { echo "an emulated pick serves"; bad=1; }

# Of a bank that does not say whose it is, the rows do.
if command -v sqlite3 >/dev/null; then
  cp "$dir/emu.bank" "$dir/old.bank"
  sqlite3 "$dir/old.bank" "DELETE FROM meta WHERE key = 'isa'"
  expect 1 '^bank *mixed *\([0-9]*\) of \1 variants hold code of the emulator' doctor --bank "$dir/old.bank"
fi

# A GPU's bank stays as it is, whatever the emulator is asked to do with it.
if timeout 100 "$tidemill" build --arch sm_90a --op aux -o "$dir/gpu.bank" >/dev/null 2>&1; then
  cp "$dir/gpu.bank" "$dir/before"
  expect 1 'kernels for GPUs: name another bank' \
    tune --device emu --world 1 --bank "$dir/gpu.bank" --top 1 $problem
  expect 1 'kernels for GPUs: name another bank' \
    check --device emu --world 1 --bank "$dir/gpu.bank" $problem
  cmp "$dir/gpu.bank" "$dir/before" || bad=1
  expect 1 'kernels for the emulator: name another bank' \
    build --arch sm_90a --op aux -o "$dir/emu.bank"
  expect 0 '^bank *ok' doctor --bank "$dir/gpu.bank"
  # Damaged rows are counted, not just the first of them told.
  if command -v sqlite3 >/dev/null; then
    cp "$dir/gpu.bank" "$dir/bad.bank"
    sqlite3 "$dir/bad.bank" "UPDATE variant SET registers = registers + 1 WHERE name LIKE '%fill'"
    expect 1 '^bank *damaged *2 entries .* build or tune them again' doctor --bank "$dir/bad.bank"
  fi
else
  echo 'note: no NVRTC, GPU banks are not tested'
fi
exit $bad
