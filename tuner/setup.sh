#!/bin/sh
# Installs what a build needs and this machine lacks (Debian, Ubuntu), and looks for the CUDA toolkit:
#   sh tuner/setup.sh [FURTHER-PACKAGE...]
set -u
missing=
for package in gcc libc6-dev cmake make liblua5.4-dev libsqlite3-dev libxxhash-dev libcjson-dev "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
    missing="$missing $package"
done

# shellcheck disable=SC2086  # $missing is a list of words
install() {
  as=
  [ "$(id -u)" = 0 ] || as=sudo
  $as env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing \
    >/dev/null
}

if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: this is no Debian system; install what corresponds to:$missing" >&2
    exit 1
  fi
  echo "setup: installing$missing"
  if ! install 2>/dev/null; then # perhaps only the list of packages is old
    if [ "$(id -u)" = 0 ]; then apt-get -qq update; else sudo apt-get -qq update; fi
    install || {
      echo "setup: apt-get could not install:$missing" >&2
      exit 1
    }
  fi
fi

for folder in "${CUDA_PATH:-}" "${CUDA_HOME:-}" /usr/local/cuda /usr; do
  [ -e "$folder/include/cuda.h" ] && exit 0
done
echo "setup: no CUDA toolkit found; install one (12.4 or newer, no GPU is needed) or set CUDA_PATH" >&2
exit 1
