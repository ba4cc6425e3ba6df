#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# doc_examples.sh INCLUDE_DIR: every ```c block of README.md and docs/ compiles without a warning.
#
# A block that has an #include is taken as a file. Any other is a fragment: it must compile at file scope or
# as the body of a function that has `void *arg` and `weir_conn *conn`, after <weir/weir.h> and the usual
# libc headers; what it declares may stay unused.
set -u
include=$1
cc=${CC:-cc}
flags=(-std=gnu11 -Wall -Wextra -Wpedantic -Wshadow -Werror -fsyntax-only "-I$include")
fragment=(-Wno-unused -Wno-unused-parameter)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Writes each block to $work/NNN.c with a #line that points back into the document.
extract() {
	awk -v dir="$work" '
		/^```c$/ { n++; out = sprintf("%s/%03d.c", dir, n); printf "#line %d \"%s\"\n", FNR + 1, FILENAME > out; next }
		/^```/ { if (out) close(out); out = ""; next }
		out { print > out }' "$@"
}

usual='#include <weir/weir.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
'

compiles() {
	local block=$1
	if grep -q '^#include' "$block"; then
		$cc "${flags[@]}" -x c "$block"
		return
	fi
	{
		echo "$usual"
		cat "$block"
	} >"$work/file_scope"
	{
		echo "${usual}static int fragment(void *arg, weir_conn *conn) {"
		cat "$block"
		echo 'return 0; }'
	} >"$work/in_function"
	$cc "${flags[@]}" "${fragment[@]}" -x c "$work/file_scope" 2>"$work/errors" ||
		$cc "${flags[@]}" "${fragment[@]}" -x c "$work/in_function" 2>>"$work/errors" || {
		cat "$work/errors"
		return 1
	}
}

shopt -s nullglob
extract README* docs/*.md bench/*.md /dev/null
blocks=("$work"/[0-9]*.c)
failed=0
for block in "${blocks[@]}"; do
	compiles "$block" >&2 || failed=$((failed + 1))
done
echo "doc-examples: ${#blocks[@]} blocks, $failed failed"
[ $failed = 0 ] && [ ${#blocks[@]} -gt 0 ]
