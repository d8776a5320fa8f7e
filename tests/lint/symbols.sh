#!/bin/sh
# Every symbol that libtidemill.so exports starts with tml_ and is declared in the public header:
# symbols.sh LIBRARY HEADER
library=${1:?usage: symbols.sh LIBRARY HEADER} header=${2:?usage: symbols.sh LIBRARY HEADER}
exported=$(nm -D --defined-only "$library" | awk '$2 ~ /[TDBRVW]/ { print $3 }' | grep -vE '^__(asan|ubsan|odr_asan|sanitizer)|^_(init|fini)$')
bad=0
for symbol in $exported; do
  case $symbol in
  tml_*) grep -qE "\\b$symbol *\\(" "$header" || { echo "$symbol is not in $header"; bad=1; } ;;
  *) echo "$symbol does not start with tml_"; bad=1 ;;
  esac
done
for symbol in $(sed -n 's/.*TML_API .*\b\(tml_[a-z_]*\)(.*/\1/p' "$header"); do
  printf '%s\n' "$exported" | grep -qx "$symbol" || { echo "$symbol is declared and not exported"; bad=1; }
done
[ -n "$exported" ] || { echo "nothing is exported"; bad=1; }
[ $bad = 0 ] && echo "$(printf '%s\n' "$exported" | wc -l) exported symbols, all public"
exit $bad
