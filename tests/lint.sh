#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# lint.sh: the part of the style a machine can see. Format, line and function length, SPDX lines, left-overs.
set -u
shopt -s lastpipe # report runs in this shell and can count
mapfile -t sources < <(git ls-files '*.c' '*.h')
mapfile -t all < <(git ls-files '*.c' '*.h' '*.S' '*.sh' '*.py' Makefile .ci bench)
failed=0

report() { # what, then the findings on stdin
	local found
	found=$(cat)
	[ -z "$found" ] && return
	printf 'lint: %s\n' "$1" >&2
	awk 'NR <= 20 { print "  " $0 } END { if (NR > 20) print "  and " NR - 20 " more" }' <<<"$found" >&2
	failed=1
}

if command -v clang-format >/dev/null; then
	clang-format -style=file --dry-run "${sources[@]}" 2>&1 | grep 'warning:' | cut -d: -f1 | sort | uniq -c |
		report 'clang-format would change lines in (run clang-format -i -style=file FILE):'
else
	echo 'lint: no clang-format here, the format is not checked' >&2
fi

for file in "${sources[@]}"; do
	expand -t 8 "$file" | awk -v f="$file" 'length > 100 { print f ":" FNR ": " length " columns" }'
done | report 'lines longer than 100 columns:'

awk '/^\{/ { start = FNR }
	/^\}/ { if (start && FNR - start > 70) print FILENAME ":" start ": " FNR - start " lines"; start = 0 }' \
	"${sources[@]}" | report 'functions longer than 70 lines:'

for file in "${all[@]}"; do
	[[ $file == *.csv || $file == *.svg || $file == *.md || $file == *.lock || $file == *.toml || $file == *.in ]] && continue
	head -n 3 "$file" | grep -q 'SPDX-License-Identifier: MIT' || echo "$file"
done | report 'no SPDX line at the top of:'

grep -nE '\b(TODO|FIXME|XXX)\b' "${sources[@]}" | report 'left-overs:'
grep -nE '[[:blank:]]+$' "${sources[@]}" | report 'blanks at the end of a line:'

[ $failed = 0 ] && echo "lint: ${#sources[@]} files, no complaint"
