#!/bin/sh
# The measurements behind results/, in one go on a machine with GPUs: correctness first, then everything
# tuned, then the tables. Steps do not stop at a failure; the exit code is 1 if there was one.
set -u
here=$(cd "$(dirname "$0")" && pwd)

help() {
  cat <<EOF
usage: sh tests/bench/measure.sh [options] [STEP...]

Writes tables (NAME.md, NAME.json), the bank, and a log of each step into a folder. Steps, all of them by
default, in this order:
  correct    check --suite --graphs, then a soak of 10000 calls
  gemm       tunes the plain GEMMs, times them in bursts and under sustained load
  model      measures every variant of the plain GEMMs that the bank has: are the model's first eight enough?
  fused      tunes the fused ops and times them in bursts
  sustained  times the rows with m = 4096 and 8192 of ag_gemm and gemm_rs under sustained load

options:
  -t PROGRAM  tidemill (default: build/tidemill)
  -b BANK     start from this bank, as built by tidemill build; "model" measures what it has
  -w N        ranks of the fused ops (default: 2)
  -g FILE     plain GEMMs (default: tests/bench/gemm_m512_up.txt)
  -f FILE     fused problems, of that world (default: tests/bench/fused_prefill.txt)
  -p FILE     times of peers, as bench --peers takes them
  -l SECONDS  limit of each step (default: 3600)
  -d KIND     emu: on the emulator, whose times mean nothing
  -q          quick: one round, windows of 1 ms, 20 calls; to see that all steps work
  -o FOLDER   where to (default: build/measured)
EOF
}

program=$here/../../build/tidemill bank='' world=2 gemms=$here/gemm_m512_up.txt
fused=$here/fused_prefill.txt peers='' limit=3600 device=gpu quick='' out=$here/../../build/measured
while getopts t:b:w:g:f:p:l:d:qo:h option; do
  case $option in
  t) program=$OPTARG ;;
  b) bank=$OPTARG ;;
  w) world=$OPTARG ;;
  g) gemms=$OPTARG ;;
  f) fused=$OPTARG ;;
  p) peers=$OPTARG ;;
  l) limit=$OPTARG ;;
  d) device=$OPTARG ;;
  q) quick=1 ;;
  o) out=$OPTARG ;;
  h)
    help
    exit 0
    ;;
  *)
    help >&2
    exit 2
    ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- correct gemm model fused sustained
for step in "$@"; do
  case $step in
  correct | gemm | model | fused | sustained) ;;
  *)
    echo "measure: there is no step \"$step\"; see -h" >&2
    exit 2
    ;;
  esac
done

mkdir -p "$out" || exit 1
if [ -n "$bank" ]; then cp "$bank" "$out/bank" || exit 1; fi
common="--device $device --bank $out/bank"
soak=10000 rounds='' windows='' top=12
if [ -n "$quick" ]; then soak=20 rounds='--rounds 1' windows='--sustained-ms 1' top=1; fi
failed=0

# run NAME ARGUMENT...: one command of the program within what is left of the step; its last line tells how it went.
run() {
  name=$1
  shift
  left=$((limit - $(date +%s) + began))
  [ "$left" -gt 0 ] || left=1
  timeout -k 10 "$left" "$program" "$@" >"$out/$name.log" 2>&1
  code=$?
  [ $code = 0 ] || failed=1
  printf '%-18s exit %3d %6d s  %s\n' "$name" $code $(($(date +%s) - began)) \
    "$(grep -v '^ *$' "$out/$name.log" | tail -1 | cut -c1-150)"
}

correct() {
  run suite check --device "$device" ${bank:+--bank "$out/bank"} --world "$world" --suite --graphs
  run soak check --device "$device" ${bank:+--bank "$out/bank"} --world "$world" --stress "$soak"
}

# $common, $rounds and $windows are lists of options.
# shellcheck disable=SC2086
gemm() {
  run tune_gemm tune $common --world 1 --top $top -p "$gemms"
  run gemm bench $common --world 1 $rounds $windows --regime both -p "$gemms" -o "$out/gemm"
}

# shellcheck disable=SC2086
model() {
  run model tune $common --world 1 --all --no-jit --again -p "$gemms" --dump "$out/model.json"
}

# shellcheck disable=SC2086
fused() {
  run tune_fused tune $common --world "$world" --top $top -p "$fused"
  run fused bench $common --world "$world" $rounds -p "$fused" ${peers:+--peers "$peers"} -o "$out/fused"
}

# shellcheck disable=SC2086
sustained() {
  grep -E '^(ag_gemm|gemm_rs):.*:(4096|8192)x' "$fused" >"$out/sustained.txt" || return 0
  run sustained bench $common --world "$world" $rounds $windows --regime sustained \
    -p "$out/sustained.txt" ${peers:+--peers "$peers"} -o "$out/sustained"
}

for step in "$@"; do
  began=$(date +%s)
  $step
done
exit $failed
