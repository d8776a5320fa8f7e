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

# holds WORD...: the last JSON has each of them, blanks apart.
holds() {
  for word; do
    tr -d ' \t\n' <"$dir/out" | grep -q -- "$word" || complain "the JSON lacks $word"
  done
}
alone '[' check --device emu --world 1 --json - $gemm
holds '"relative":[0-9.]*e-[0-9]*,' '"passed":true'
alone '{' check --device emu --world 1 --graphs --json -
holds '"graphs":\[{"calls":41,"replays":3,"outputs":82,"wrong":0},' '"rows":\[\]'
alone '{' check --device emu --world 2 --copies --json -
holds '"copies":\[{"bytes":8,"half_rows":false,' '"grid_first":true'
alone '{' check --device emu --world 1 --suite --seeds 5 --cover --json -
holds '"cover":\[{"part":' '"gemmbf16":[1-9]' '"rows":\[{"problem"'
alone '[' explain --json - "$name"
holds '"field":"stages","value":[0-9]' '"field":"cooperativelaunch","value":\(true\|false\)'
"$tidemill" build --arch sm_90a --op aux -o "$dir/none.bank" >/dev/null 2>&1 &&
  alone '[' list --bank "$dir/none.bank" --picks --json -

# ---- Files that cannot be written are told before the work ------------------------------------------

# refuse CODE WORD ARGUMENT...: this exit code and one line with WORD, and nothing was measured.
refuse() {
  code=$1 word=$2
  shift 2
  timeout 60 "$tidemill" "$@" >"$dir/out" 2>"$dir/err"
  got=$?
  [ "$got.$(grep -c -- "$word" "$dir/err").$(wc -l <"$dir/err")" = "$code.1.1" ] ||
    complain "tidemill $*: exit $got, wanted $code and one line with '$word'"
  [ -s "$dir/out" ] && complain "tidemill $*: worked before it failed"
}

missing=$dir/missing/x
mkdir "$dir/folder"
printf 'kept' >"$dir/kept"
for json in --json --cubin; do
  refuse 1 'cannot write.*No such file' show --row "$json" "$missing" "$name"
  refuse 2 "$json wants" show --row "$json" '' "$name"
done
refuse 1 'cannot write.*No such file' list --json "$missing"
refuse 1 'cannot write.*s a directory' list --json "$dir/folder"
refuse 1 'cannot write.*Not a directory' list --json "$dir/kept/x"
refuse 1 'cannot write.*No such file' explain --json "$missing" $gemm
refuse 1 'cannot write.*No such file' doctor --json "$missing"
# shellcheck disable=SC2086  # a list of options
{
  refuse 1 'cannot write.*No such file' tune $emu --again --json "$missing" $gemm
  refuse 1 'cannot write.*No such file' tune $emu --again --dump "$missing" $gemm
  refuse 2 '--dump wants' tune $emu --again --dump= $gemm
  refuse 2 'cannot both' tune $emu --again --json - --dump - $gemm
  refuse 1 'cannot write.*No such file' bench $emu --json "$missing" $gemm
  refuse 1 'cannot write.*x.json.*No such file' bench $emu -o "$missing" $gemm
  refuse 2 '--out wants' bench $emu -o '' $gemm
  refuse 1 'cannot write.*No such file' check $emu --json "$missing" $gemm
  refuse 2 '--json wants' check $emu --json '' $gemm
  refuse 1 'cannot make the folder.*No such file' check $emu --outputs "$missing" $gemm
  refuse 1 'choose a folder' check $emu --outputs "$dir/kept" $gemm
  refuse 1 'no GPU\|fits a world' check $emu --json "$dir/kept" gemm_rs:bf16:nt:w2:8x72x72
  [ "$(cat "$dir/kept")" = kept ] || complain "a run that failed emptied its output"
  "$tidemill" check $emu --outputs "$dir/new" $gemm >"$dir/out" 2>"$dir/err"
  [ -s "$dir/new/row0.rank0" ] || complain "--outputs did not make its folder"
}

# A name that is no UTF-8 does not spoil the JSON.
"$tidemill" doctor --json - --bank "$(printf '/tmp/\377\376.bank')" >"$dir/out" 2>"$dir/err"
grep -q '??.bank' "$dir/out" || complain "the bank's name is lost"
iconv -f UTF-8 -t UTF-8 "$dir/out" >/dev/null 2>&1 || complain "JSON that is no UTF-8"
exit $bad
