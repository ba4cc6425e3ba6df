#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# headers.sh INCLUDE_DIR: every public header compiles alone, as C11 and as C++11, with every compiler here.
set -u
flags=(-Wall -Wextra -Wpedantic -Werror -fsyntax-only "-I$1")
failed=0 compiled=0

try() { # compiler, language, standard, header
	command -v "$1" >/dev/null || return 0
	compiled=$((compiled + 1))
	echo "#include <weir/$4>" | "$1" -x "$2" -std="$3" "${flags[@]}" - || {
		echo "headers: <weir/$4> fails with $1 -std=$3" >&2
		failed=1
	}
}

for header in "$1"/weir/*.h; do
	for compiler in gcc clang; do
		try $compiler c c11 "${header##*/}"
	done
	for compiler in g++ clang++; do
		try $compiler c++ c++11 "${header##*/}"
	done
done
[ $failed = 0 ] && [ $compiled -gt 0 ] && echo "headers: $compiled compilations, no complaint"
