#!/bin/sh
# Wrong input gives one clear line and the right exit code, and loses nothing: bad_input.sh TIDEMILL
tidemill=${1:?usage: bad_input.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
bad=0
unset TIDEMILL_BANK TIDEMILL_SOURCE TIDEMILL_FORCE TIDEMILL_NO_JIT

# refuse CODE WORD ARGUMENT...: this exit code, and one line on stderr that holds WORD.
refuse() {
  code=$1 word=$2
  shift 2
  timeout 60 "$tidemill" "$@" >"$dir/out" 2>"$dir/err"
  got=$?
  if [ $got != "$code" ] || [ "$(wc -l <"$dir/err")" != 1 ] || ! grep -q -- "$word" "$dir/err"; then
    echo "tidemill $*: exit $got, wanted $code and one line with '$word'; stderr:"
    sed 's/^/    /' "$dir/err"
    bad=1
  fi
}

refuse 2 'sm_35' build --arch sm_35 -o "$dir/x.bank"
refuse 2 'fp8' build --arch sm_90a --dtype fp8 -o "$dir/x.bank"
refuse 2 'conv' build --arch sm_90a --op conv -o "$dir/x.bank"
refuse 2 '1 to 8' build --arch sm_90a --world 9 -o "$dir/x.bank"
refuse 2 '-o FILE' build --arch sm_90a
refuse 2 'is not a number' explain gemm:bf16:nt:w1:12x
refuse 2 'conv' explain conv:bf16:nt:w1:16x16x16
refuse 2 'tn' explain gemm:bf16:tn:w1:16x16x16
refuse 2 'multiple of 8' explain gemm:bf16:nt:w1:16x12x64
refuse 2 'list shows the names' show nonsense
refuse 2 'whole number' build --arch sm_90a --jobs many -o "$dir/x.bank"
refuse 2 'stress wants a whole number from 1 on' check --stress -5

# 0 is outside of what these take; it does not stand for their default.
emu="--device emu --bank $dir/x.bank"
refuse 2 'jobs wants' build --arch sm_90a -j 0 -o "$dir/x.bank"
refuse 2 'top wants' explain --top 0 gemm:bf16:nt:w1:8x72x72
# shellcheck disable=SC2086  # a list of options
for command in check bench tune; do
  refuse 2 'world wants' $command $emu --world 0 gemm:bf16:nt:w1:8x72x72
  refuse 2 '1 to 8' $command $emu --world 9 gemm:bf16:nt:w1:8x72x72
  refuse 2 'timeout wants' $command $emu --timeout 0 gemm:bf16:nt:w1:8x72x72
  refuse 2 'timeout wants' $command $emu --timeout inf gemm:bf16:nt:w1:8x72x72
  refuse 2 '0.1 to 600' $command $emu --timeout 601 gemm:bf16:nt:w1:8x72x72
  refuse 2 'seed wants' $command $emu --seed 0 gemm:bf16:nt:w1:8x72x72
done
for option in reps seeds stress; do
  refuse 2 "$option wants" check --device emu --$option 0 gemm:bf16:nt:w1:8x72x72
done
# shellcheck disable=SC2086
{
  refuse 2 'victim -1: ranks run' check --device emu --world 2 --inject absent --victim -1
  refuse 2 'top wants' tune $emu --top 0 gemm:bf16:nt:w1:8x72x72
  refuse 2 'sustained wants' tune $emu --sustained -5 gemm:bf16:nt:w1:8x72x72
  refuse 2 'sustained wants' tune $emu --sustained inf gemm:bf16:nt:w1:8x72x72
  refuse 2 'up to 10000' tune $emu --sustained 10001 gemm:bf16:nt:w1:8x72x72
  refuse 2 'rounds wants' bench $emu --rounds 0 gemm:bf16:nt:w1:8x72x72
  refuse 2 'sustained-ms wants' bench $emu --sustained-ms 0 gemm:bf16:nt:w1:8x72x72
}

# What an option is for is missing: it is not passed over.
refuse 2 'arch is for the space' list --bank "$dir/missing.bank" --arch sm_90a
refuse 2 'refused is for the space' list --bank "$dir/missing.bank" --refused
refuse 2 'leave out --top' tune --device emu --bank "$dir/x.bank" --all --top 3 gemm:bf16:nt:w1:8x72x72
refuse 2 'cover goes with' check --device emu --cover gemm:bf16:nt:w1:8x72x72
refuse 2 'seeds is for' check --seeds 2 gemm:bf16:nt:w1:8x72x72
refuse 2 'victim goes with' check --victim 1 gemm:bf16:nt:w1:8x72x72
refuse 2 'world of 2' check --device emu --world 1 --copies
refuse 2 'goes alone' check --device emu --world 2 --inject absent --json "$dir/x.json"
refuse 2 'one problem' check --device emu --world 2 --inject absent gemm_rs:bf16:nt:w2:8x72x72 \
  gemm_rs:bf16:nt:w2:8x72x72
refuse 2 'no ag_gemm.*--world 2' build --arch sm_90a --op ag_gemm -o "$dir/x.bank"
refuse 2 'no gemm_rs.*--world 2' build --arch sm_90a --op gemm --op gemm_rs -w 1 -o "$dir/x.bank"
refuse 1 'no such bank.*tidemill build -o' list --bank "$dir/missing.bank"
: >"$dir/empty.bank"
refuse 1 'truncated.*build it again' list --bank "$dir/empty.bank"
echo 'mine' >"$dir/note.bank"
refuse 1 'not a Tidemill bank' list --bank "$dir/note.bank"
if ! [ -e /dev/nvidiactl ]; then
  refuse 1 'no GPU' check gemm:bf16:nt:w1:64x64x64
  refuse 1 'no GPU' bench gemm:bf16:nt:w1:64x64x64
fi

refuse 2 'one word too many' --version --foo
refuse 2 'one word too many' help build list
refuse 2 'there is no command' help frobnicate
"$tidemill" help build | grep -q 'usage: tidemill build' || { echo "help build is not of build"; bad=1; }
for command in '' build list show explain tune bench check doctor; do
  # shellcheck disable=SC2086  # no command is no word
  "$tidemill" $command --help | awk -v c="$command" 'length > 100 { print c " --help: " $0; bad = 1 }
    END { exit bad }' || bad=1
done
"$tidemill" list 'gemm.*' | sed -n 1p | grep -q refused && { echo "list has a column of nothing"; bad=1; }
"$tidemill" list --refused 'gemm.*' | sed -n 1p | grep -q refused || { echo "list lost the reasons"; bad=1; }

# Names from outside: shortened, and without what would steer a terminal.
printf '\033[31mred\001\n' >"$dir/steer.txt"
refuse 1 'x1b\[31mred.x01' check --device emu -p "$dir/steer.txt"
refuse 2 'is longer than' explain "gemm:$(printf '%0400d' 7)"
refuse 2 'list shows the names' show "$(printf '%0400d' 7)"
[ "$(wc -c <"$dir/err")" -lt 250 ] || { echo "a long name is shown whole"; bad=1; }
refuse 2 'there is no command' "$(printf '%0400d' 7)"
: >"$dir/empty.txt"
refuse 1 'empty.txt holds no problem' check --device emu -p "$dir/empty.txt"

# An error in gen/ and in a template names the file and the line.
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir "$dir/source" && cp -r "$root/gen" "$root/templates" "$dir/source"
printf 'local broken = = 1\n' >>"$dir/source/gen/model.lua"
refuse 1 'gen/model.lua:[0-9]' list --source "$dir/source"
cp "$root/gen/model.lua" "$dir/source/gen"
# shellcheck disable=SC2016  # the template's own mark
printf 'int x = ${no_such_name};\n' >>"$dir/source/templates/kernel/fill.cu.in"
refuse 1 'fill.cu.in:[0-9].*no_such_name' show --source "$dir/source" aux.sm90a.bf16.nt.w1__fill

# Banks that must not be used. Without NVRTC there is none to spoil.
few="--arch sm_90a --world 1 --op aux"
# shellcheck disable=SC2086  # a list of options
if timeout 100 "$tidemill" build $few -o "$dir/good.bank" >/dev/null 2>"$dir/err"; then
  printf 'hello, this is no bank at all\n' >"$dir/text.bank"
  refuse 1 'not a Tidemill bank' list --bank "$dir/text.bank"
  head -c 20000 "$dir/good.bank" >"$dir/short.bank"
  refuse 1 'truncated' list --bank "$dir/short.bank"
  cp "$dir/good.bank" "$dir/open.bank" && chmod o+w "$dir/open.bank"
  refuse 1 'can write' list --bank "$dir/open.bank"
  refuse 1 'folder\|directory' build --arch sm_90a --op aux -o "$dir/nowhere/x.bank"
  # shellcheck disable=SC2086
  "$tidemill" build $few -o "$dir/good.bank" 2>&1 | grep -q ' 0 compiled' ||
    { echo "a finished bank is compiled again"; bad=1; }
else
  grep -qi nvrtc "$dir/err" || { cat "$dir/err"; bad=1; }
fi
exit $bad
