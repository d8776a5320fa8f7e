#!/bin/sh
# Builds that are killed or run at once lose nothing: build.sh TIDEMILL. Exit 77 without NVRTC.
tidemill=${1:?usage: build.sh TIDEMILL}
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
options="--arch sm_90a --world 1 --dtype bf16"
"$tidemill" doctor | grep -q '^NVRTC *ok' || exit 77

# shellcheck disable=SC2086  # a list of options
build() { timeout 300 "$tidemill" build $options "$@"; }
names() { "$tidemill" list --bank "$1" | sed -n 's/^\([a-z_]*\.[^ ]*\).*/\1/p'; }
rows() { "$tidemill" list --bank "$1" | grep -c ' ok$'; }

# Killed after a while, then continued: what was done is not compiled again.
# shellcheck disable=SC2086
"$tidemill" build $options --jobs 1 -o "$dir/killed.bank" >"$dir/first" 2>&1 &
pid=$!
tries=0 # until a few rows are in the file that is being made, at most a minute
while [ "$(stat -c %s "$dir/killed.bank.part" 2>/dev/null || echo 0)" -lt 120000 ] &&
  [ $tries -lt 600 ]; do
  tries=$((tries + 1))
  sleep 0.1
done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
[ -e "$dir/killed.bank" ] && { echo "the build was over before it was killed"; exit 1; }
for command in list doctor; do
  "$tidemill" $command --bank "$dir/killed.bank" 2>&1 | grep -q 'killed.bank.part.*command again' ||
    { echo "$command does not tell of the part beside"; exit 1; }
done
build -o "$dir/killed.bank" >"$dir/second" 2>&1 || { cat "$dir/second"; exit 1; }
reused=$(sed -n 's/.* \([0-9]*\) reused.*/\1/p' "$dir/second")
all=$(rows "$dir/killed.bank")
[ "${reused:-0}" -gt 0 ] || { echo "nothing was reused after the kill:"; cat "$dir/second"; exit 1; }

# Stopped by a signal: what was made is in the bank, and nothing beside it.
for signal in INT TERM; do
  # shellcheck disable=SC2086
  env --default-signal=INT "$tidemill" build $options --jobs 2 -o "$dir/stopped.bank" >"$dir/out" 2>&1 &
  pid=$!
  sleep 4
  kill -$signal $pid
  wait $pid
  code=$?
  wanted=130
  [ $signal = TERM ] && wanted=143
  if [ $code != $wanted ] || ! grep -q 'stopped at [0-9]*/[0-9]* variants; run the same' "$dir/out"; then
    echo "after SIG$signal, exit $code:"
    cat "$dir/out"
    exit 1
  fi
  [ $signal = TERM ] || grep -q ', .* left ' "$dir/out" || { echo "no time that is left"; exit 1; }
  [ -e "$dir/stopped.bank.part" ] && { echo "SIG$signal leaves a part"; exit 1; }
  stopped=$(rows "$dir/stopped.bank")
  [ "$stopped" -gt "${before:-0}" ] || { echo "SIG$signal: nothing was kept"; exit 1; }
  before=$stopped
done

if names "$dir/killed.bank" | grep '\.fp16\.'; then
  echo "a build of bf16 made kernels of fp16"
  exit 1
fi

# Two at once into one bank, each a part of the space: no row is lost.
build --variants '*.c1x1.*' -o "$dir/two.bank" >"$dir/a" 2>&1 &
one=$!
build --variants '*.c?x2.*' -o "$dir/two.bank" >"$dir/b" 2>&1 &
two=$!
wait $one || { cat "$dir/a"; exit 1; }
wait $two || { cat "$dir/b"; exit 1; }
wanted=$("$tidemill" list --bank "$dir/killed.bank" | grep -cE '\.c1x1\.|\.c.x2\.|^aux')
[ "$(rows "$dir/two.bank")" = "$wanted" ] || { echo "rows are missing after two builds at once"; exit 1; }
"$tidemill" doctor --bank "$dir/two.bank" | grep '^bank' | grep -q ok || { echo "a damaged bank"; exit 1; }
echo "$all variants, $reused of them kept over a kill"
