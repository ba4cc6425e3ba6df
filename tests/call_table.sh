#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# call_table.sh INCLUDE_DIR: docs/cancellation.md says of every public call what a cancellation does to it.
#
# A call is a function of the installed headers whose name begins with weir_ and not with weir__. Of a macro
# over weir_x_with() the table has weir_x(). A row for calls that do not park may be a family, weir_case_*().
set -u
include=$1
doc=docs/cancellation.md
calls=$(cat "$include"/weir/*.h | ${CC:-cc} -fpreprocessed -dD -E -P - 2>/dev/null | tr '\n' ' ' |
	grep -oE '[ *]weir_[a-z][a-z0-9_]*\(' | tr -d ' *(' | grep -v '__' | sed 's/_with$//' | sort -u)
# types of functions and what only looks like a call
ignored='weir_auto_[a-z]*|weir_fn|weir_handler|weir_move_fn|weir_reclaim_fn|weir_sim_script'
rows=$(grep -oE '`weir_[a-z0-9_*]+\(\)`' "$doc" | tr -d '`()' | sort -u | sed 's/\*/[a-z0-9_]*/g')
failed=0
for call in $(grep -vxE "$ignored" <<<"$calls"); do
	grep -qxF "$call" <<<"$rows" && continue
	grep -F '[' <<<"$rows" | while read -r family; do [[ $call =~ ^$family$ ]] && echo y && break; done | grep -q y && continue
	echo "$doc: no row for $call()" >&2
	failed=1
done
for row in $(grep -vF '[' <<<"$rows"); do
	grep -qx "$row" <<<"$calls" && continue
	echo "$doc: there is no $row()" >&2
	failed=1
done
exit $failed
