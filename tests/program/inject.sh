#!/bin/sh
# Injected faults on the emulator: the exit code tells whether the others named the victim: inject.sh TIDEMILL
tidemill=${1:?usage: inject.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
bad=0
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT

# inject CODE WORD WORLD FAULT ARGUMENT...: this exit code, and WORD somewhere in what it prints.
inject() {
  code=$1 word=$2 world=$3 fault=$4
  shift 4
  timeout 100 "$tidemill" check --device emu --world "$world" --timeout 1 --inject "$fault" "$@" \
    "gemm_ar:bf16:nt:w$world:77x72x72" >"$dir/out" 2>&1
  got=$?
  [ $got = "$code" ] && grep -q -- "$word" "$dir/out" && return
  echo "--inject $fault, world $world: exit $got, wanted $code and '$word'; it printed:"
  sed 's/^/    /' "$dir/out"
  bad=1
}

for fault in mismatch:m mismatch:n mismatch:op; do
  inject 0 'rank 0, .* found that rank 1 differs.*known after' 2 "$fault"
  inject 0 'known after' 3 "$fault"
done
inject 0 'found that rank 0 differs' 2 mismatch:m --victim 0
inject 0 'rank 1 of 2 did not come' 2 absent
inject 0 'rank 0 left' 3 absent --victim 0
for fault in die:before-first die:between die:inside; do
  inject 2 'ranks are threads' 2 "$fault"
done

# A library whose mismatches go unseen: nobody names the victim.
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir "$dir/source" && cp -r "$root/gen" "$root/templates" "$dir/source"
sed -i 's/FAULT_MISMATCH/FAULT_HEADER_TIMEOUT/' "$dir"/source/templates/*/*
inject 1 'rank 0, mismatch:m' 2 mismatch:m --source "$dir/source"
exit $bad
