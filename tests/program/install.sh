#!/bin/sh
# What `cmake --install` puts into a prefix serves programs of C, C++ and CMake:
# install.sh BUILD CUDA-INCLUDE CMAKE CC
build=${1:?usage: install.sh BUILD CUDA-INCLUDE CMAKE CC} cuda=$2 cmake=$3 cc=$4
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
prefix=$dir/prefix
bad=0

# must WHAT COMMAND...: it succeeds, or its output is shown.
must() {
  what=$1
  shift
  "$@" >"$dir/log" 2>&1 && return
  echo "$what failed: $*"
  sed 's/^/    /' "$dir/log"
  bad=1
}
skip() { echo "skipped, $1"; }

must 'the installation' "$cmake" --install "$build" --prefix "$prefix"
[ $bad = 0 ] || exit 1
version=$(sed -n 's/^#define TML_VERSION "\(.*\)"/\1/p' "$root/runtime/tidemill.h")
libraries=$(dirname "$(find "$prefix" -name libtidemill.so)")
for file in "$prefix/bin/tidemill" "$prefix/include/tidemill.h" "$libraries/libtidemill.a" \
  "$libraries/libtidemill.so.0" "$libraries/pkgconfig/tidemill.pc" \
  "$libraries/cmake/tidemill/tidemill-config.cmake"; do
  [ -e "$file" ] || { echo "not installed: $file"; bad=1; }
done
must 'the installed program' "$prefix/bin/tidemill" list 'aux.*'

cat >"$dir/hello.c" <<'END'
#include <stdio.h>
#include <string.h>
#include <tidemill.h>
int main(void) { return strcmp(tml_version(), TML_VERSION) || puts(tml_version()) < 0; }
END
cat >"$dir/hello.cc" <<'END'
#include <tidemill.h>
int main() {
  tml_config config = {};
  config.size = sizeof config;
  return tml_status_text(TML_OK)[0] != 'o';
}
END

if command -v pkg-config >/dev/null; then
  PKG_CONFIG_PATH=$libraries/pkgconfig
  export PKG_CONFIG_PATH
  [ "$(pkg-config --modversion tidemill)" = "$version" ] || { echo "pkg-config: not $version"; bad=1; }
  flags="$(pkg-config --cflags --libs tidemill) -Wl,-rpath,$libraries"
  stub=$(find "$cuda/.." -name libcuda.so 2>/dev/null | head -1)
  # shellcheck disable=SC2086  # lists of options
  if [ -n "$stub" ]; then
    must 'the example' "$cc" "$root/tests/example.c" -I"$cuda" $flags -L"$(dirname "$stub")" -lcuda \
      -o "$dir/example"
  else
    skip 'there is no stub of libcuda: linking tests/example.c'
    must 'the example' "$cc" -c "$root/tests/example.c" -I"$cuda" $flags -o "$dir/example.o"
  fi
  # shellcheck disable=SC2086
  must 'a C program' "$cc" "$dir/hello.c" $flags -o "$dir/hello"
  must 'its run' "$dir/hello"
  # shellcheck disable=SC2046
  must 'a static C program' "$cc" "$dir/hello.c" $(pkg-config --cflags tidemill) "$libraries/libtidemill.a" \
    $(pkg-config --static --libs-only-l tidemill | sed 's/-ltidemill//') -o "$dir/static"
  must 'its run' "$dir/static"
  # shellcheck disable=SC2086
  if command -v c++ >/dev/null; then
    must 'a C++ program' c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror "$dir/hello.cc" $flags -o "$dir/hello"
    must 'its run' "$dir/hello"
  else
    skip 'there is no c++: the C++ program'
  fi
else
  skip 'there is no pkg-config: programs that ask it'
fi

# As a package, and as a folder of another project.
mkdir "$dir/package" "$dir/folder"
for how in package folder; do
  cp "$dir/hello.c" "$dir/$how"
  { echo 'cmake_minimum_required(VERSION 3.22)'
    echo 'project(hello LANGUAGES C)'
    if [ $how = package ]; then
      echo "find_package(tidemill $version REQUIRED)"
    else
      echo "add_subdirectory($root tidemill)"
    fi
    echo 'add_executable(hello hello.c)'
    echo 'target_link_libraries(hello PRIVATE tidemill::tidemill)'
  } >"$dir/$how/CMakeLists.txt"
done
must 'find_package' "$cmake" -S "$dir/package" -B "$dir/package/build" -DCMAKE_C_COMPILER="$cc" \
  -DCMAKE_PREFIX_PATH="$prefix"
must 'its build' "$cmake" --build "$dir/package/build"
must 'its run' "$dir/package/build/hello"
must 'add_subdirectory' "$cmake" -S "$dir/folder" -B "$dir/folder/build" -DCMAKE_C_COMPILER="$cc" \
  -DTML_CUDA_INCLUDE="$cuda" -DCMAKE_BUILD_TYPE=Debug
must 'its build' "$cmake" --build "$dir/folder/build" -j2 --target hello
must 'its run' "$(find "$dir/folder/build" -name hello -type f)"
exit $bad
