#!/bin/sh
# Rules that no compiler checks: lint.sh ROOT. Prints every offence, exits 1 if there is one.
root=${1:?usage: lint.sh ROOT}
cd "$root" || exit 2
bad=0

# offend RULE: reports standard input, one offence a line, if there is any.
offend() {
  found=$(cat)
  [ -z "$found" ] && return
  printf '%s\n' "$found" | while IFS= read -r line; do printf '%s\n  rule: %s\n' "$line" "$1"; done
  touch "$marks/bad"
}
marks=$(mktemp -d) || exit 2
trap 'rm -rf "$marks"' EXIT

c_files=$(find runtime tuner tests -name '*.[ch]' | sort)
templates=$(find templates -name '*.in' | sort)

# shellcheck disable=SC2046,SC2086  # lists of file names without spaces
{
  # ---- Templates and generator ----
  grep -nE '\basm\b' $(printf '%s\n' $templates | grep -v '^templates/prim/') /dev/null |
    offend 'asm only in templates/prim/'
  # A wait belongs to part/wait (which bounds it) and to the primitives it is made of.
  grep -nE 'while *\( *(1|true|!|[a-z_]*(load|poll|try)[a-z_]* *\()|for *\( *; *; *\)' \
    $(printf '%s\n' $templates | grep -vE '^templates/(prim/|part/wait)') /dev/null |
    offend 'waits only in templates/prim/ and templates/part/wait, where they are bounded'
  grep -nE '#include *[<"]' $templates /dev/null | offend 'templates are flattened: no #include'
  grep -nE '\b__shared__\b' $(printf '%s\n' $templates | grep -v '^templates/prim/') /dev/null |
    offend 'no __shared__ variables in templates: Lua lays out the one dynamic block'
  grep -nE '\bpairs *\(|\bos\.|\bio\.|math\.random|\bcollectgarbage\b' \
    $(find gen -name '*.lua') /dev/null |
    offend 'gen/ is pure and ordered: no pairs, os, io, random'
  find gen -name '*.lua' | sort | while read -r file; do
    awk -v file="$file" 'length > 110 { print file ":" FNR ": " length " columns" }' "$file"
  done | offend 'lines of gen/ have at most 110 columns'

  # ---- C ----
  grep -nE '#include *"(\.\./)?(tuner|tests)/|#include *"(cli|fake|measure|rendezvous)\.h"' runtime/*.[ch] |
    offend 'dependencies run one way: tests -> tuner -> runtime'
  grep -nE '#include *"(\.\./)?tests/|#include *"fake\.h"' tuner/*.[ch] |
    offend 'dependencies run one way: tests -> tuner -> runtime'
  # A CUDA, NVRTC, NCCL or cuBLASLt function called other than through the table.
  grep -nE '(^|[^A-Za-z0-9_"])(cu[A-Z][A-Za-z0-9]*|nvrtc[A-Z][A-Za-z0-9]*|nccl[A-Z][A-Za-z0-9]*|cublasLt[A-Z][A-Za-z0-9]*) *\(' \
    $(printf '%s\n' $c_files | grep -E '^(runtime|tuner)/' | grep -vE '^runtime/api\.[ch]$') /dev/null |
    grep -vE '^[^:]*:[0-9]+: *(/\*|\*|//)' | grep -vE '/\*[^*]*(cu|nvrtc|nccl|cublasLt)[A-Z]' |
    offend 'library functions only through the driver table'
  grep -nE '\b(printf|puts|putchar|abort|exit|_exit) *\(' runtime/*.c |
    grep -vE '\b(sn|vsn|f)printf *\(' | offend 'the library never prints, exits or aborts'
  awk -f tests/lint/uncalled.awk $c_files | sort | offend 'what a header declares is called somewhere'
  grep -niE '\b(TODO|FIXME|XXX)\b' $c_files $templates $(find gen -name '*.lua') /dev/null |
    offend 'no TODO: file it or do it'
  awk '/^```c$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md |
    diff tests/example.c - | grep '^[<>]' | offend 'the C program of README.md is tests/example.c'
  grep -oE 'TIDEMILL_[A-Z_]+' runtime/knobs.h | sort -u | while read -r knob; do
    grep -q "\`$knob\`" README.md || echo "$knob"
  done | offend 'every knob of runtime/knobs.h stands in README.md'
  wc -l $c_files $templates $(find gen -name '*.lua') | awk '$2 != "total" && $1 > 700' |
    offend 'no file above 700 lines'
}

if command -v clang-format >/dev/null 2>&1; then
  # shellcheck disable=SC2086
  clang-format --dry-run -Werror $c_files >"$marks/format" 2>&1 ||
    grep -E '^[^ :]+:[0-9]+:[0-9]+: error:' "$marks/format" | cut -d: -f1 | sort | uniq -c |
    sed 's/^ *\([0-9]*\) \(.*\)/\2: \1 places/' | offend 'format: clang-format -i'
else
  echo 'note: clang-format is not installed, formatting is not checked'
fi

[ -e "$marks/bad" ] && bad=1
[ $bad = 0 ] && echo "lint: $(echo "$c_files" | wc -l) C files, $(echo "$templates" | wc -l) templates"
exit $bad
