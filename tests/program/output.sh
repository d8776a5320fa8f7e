#!/bin/sh
# Where results go: a standard output or a file that cannot be written is an error, and JSON is alone on the
# standard output: output.sh TIDEMILL
tidemill=${1:?usage: output.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
bad=0
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT
gemm=gemm:bf16:nt:w1:8x72x72
name=$("$tidemill" list 'gemm.*' | sed -n '2s/ .*//p')

# complain WHAT: with the output of the last command.
complain() {
  echo "$1; stderr:"
  sed 's/^/    /' "$dir/err"
  bad=1
}

# ---- A standard output that takes nothing -----------------------------------------------------------

# lost ARGUMENT...: exit code 1 and one line that says so, on a full device and on a closed one.
lost() {
  timeout 100 "$tidemill" "$@" >/dev/full 2>"$dir/err"
  lost_code $? "$* >/dev/full"
  timeout 100 "$tidemill" "$@" >&- 2>"$dir/err"
  lost_code $? "$* >&-"
}
lost_code() {
  [ "$1.$(grep -c 'standard output did not take' "$dir/err")" = 1.1 ] ||
    complain "tidemill $2: exit $1, wanted 1 and one line about the standard output"
}

lost --help
lost --version
lost build --help
lost list
lost list --json -
lost explain $gemm
lost doctor
lost show "$name"
lost check --device emu --world 1 $gemm

# ---- JSON alone on the standard output --------------------------------------------------------------

# alone FIRST ARGUMENT...: exit code 0, and all that is printed is JSON that begins with FIRST.
alone() {
  first=$1
  shift
  timeout 200 "$tidemill" "$@" >"$dir/out" 2>"$dir/err"
  got=$?
  [ "$got.$(head -c 1 "$dir/out")" = "0.$first" ] ||
    complain "tidemill $*: exit $got, wanted 0 and JSON that begins with $first"
  is_json <"$dir/out" || complain "tidemill $*: more or less than one JSON text"
}
# The whole input is one JSON text, where there is Python to tell.
is_json() {
  command -v python3 >/dev/null || return 0
  python3 -c 'import json, sys; json.load(sys.stdin)' 2>/dev/null
}

alone '[' list --json - 'gemm.*'
alone '{' explain --json - $gemm
alone '[' doctor --json -
emu="--device emu --world 1 --bank $dir/emu.bank"
# shellcheck disable=SC2086  # a list of options
{
  alone '[' check --device emu --world 1 --json - --seeds 2 $gemm
  alone '[' tune $emu --top 1 --json - $gemm
  alone '[' tune $emu --top 1 --json - $gemm # has a pick now: no row
  alone '{' tune $emu --top 1 --again --dump - $gemm
  alone '{' bench $emu --rounds 1 --commit none --json - $gemm
}
"$tidemill" build --arch sm_90a --op aux -o "$dir/none.bank" >/dev/null 2>&1 &&
  alone '[' list --bank "$dir/none.bank" --picks --json -
exit $bad
