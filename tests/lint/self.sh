#!/bin/sh
# Does the lint find what it must? Plants one offence a time in a copy of the tree: self.sh ROOT
root=${1:?usage: self.sh ROOT}
copy=$(mktemp -d) || exit 2
trap 'rm -rf "$copy"' EXIT
bad=0

# plant WORD FILE TEXT: with TEXT at the end of FILE the lint must fail and name the rule by WORD.
plant() {
  rm -rf "${copy:?}"/*
  cp -r "$root/gen" "$root/templates" "$root/runtime" "$root/tuner" "$root/tests" "$root/README.md" \
    "$root/.clang-format" "$copy"
  printf '%s\n' "$3" >>"$copy/$2"
  sh "$root/tests/lint/lint.sh" "$copy" >"$copy/out" && { echo "no complaint about: $3"; bad=1; }
  grep -A1 -- "$2" "$copy/out" | grep -q "rule: .*$1" || { echo "not named ($1): $3"; bad=1; }
}

kernel=$(cd "$root" && find templates/kernel -name '*.in' | head -1)
plant 'asm only' "$kernel" 'asm volatile("exit;");'
plant 'bounded' "$kernel" 'while (!tm_load(p)) { }'
plant 'flattened' "$kernel" '#include <cuda.h>'
plant 'pure' gen/init.lua 'for k in pairs(M) do end'
plant 'pure' gen/init.lua 'local t = os.time()'
plant '110 columns' gen/init.lua "-- $(printf '%120s' '' | tr ' ' x)"
plant 'one way' runtime/status.c '#include "../tuner/cli.h"'
plant 'driver table' runtime/status.c 'static int f(void) { return cuInit(0); }'
plant 'never prints' runtime/status.c 'static void g(void) { puts("x"); }'
plant 'called somewhere' runtime/status.h 'void tml_nobody(void);'
plant 'format' runtime/status.c 'int   h ( void );'
exit $bad
