#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# scenario_table: every test that docs/io-scenarios.md names is there.
set -euo pipefail
missing=0 named=0
while IFS=/ read -r suite claim; do
	named=$((named + 1))
	case $suite in
	sim_*) grep -qs "{ \"$claim\"," "tests/$suite.c" ;;
	*) grep -qs "START_TEST($claim)" "tests/test_$suite.c" ;;
	esac || {
		echo "docs/io-scenarios.md: there is no $suite/$claim" >&2
		missing=1
	}
done < <(grep -oE '`[a-z]+_[a-z_]+/[a-z0-9_]+`' docs/io-scenarios.md | tr -d '`' | sort -u)
[ $missing = 0 ] && [ $named -gt 0 ] || exit 1
echo "io-scenarios: $named tests, all there"
