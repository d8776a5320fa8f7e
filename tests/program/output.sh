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
  [ "$1" = 1 ] && [ "$(grep -c 'standard output did not take' "$dir/err")" = 1 ] ||
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
exit $bad
