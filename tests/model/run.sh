#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# run.sh: checks the models with spin, and that each part of them is needed: without it a check fails.
# Where there is no spin it says so and succeeds.
set -u
cd "$(dirname "$0")"
if ! command -v spin >/dev/null; then
	echo 'model: SKIP, no spin here (apt-get install spin)'
	exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
models=$PWD
failed=0

# Prints the number of errors and of states.
check() { # model, defines...
	local model=$1
	shift
	(
		cd "$dir" && rm -f pan* ./*.trail &&
			spin -a "$@" "$models/$model.pml" >spin.log 2>&1 &&
			${CC:-cc} -O2 -w -DSAFETY -DNOCLAIM -o pan pan.c &&
			./pan -m100000 >pan.log 2>&1
		sed -n 's/^.*errors: \([0-9]*\).*/\1/p; s/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log
		grep -q 'max search depth too small' pan.log && echo truncated
	) | tr '\n' ' '
}

expect() { # holds|fails, model, defines...
	local want=$1 model=$2 errors states rest
	shift 2
	read -r errors states rest < <(check "$model" "$@")
	if [ -z "${errors:-}" ] || [ -n "${rest:-}" ]; then
		echo "model: $model $*: could not be checked" && failed=1
	elif [ "$want" = holds ] && [ "$errors" = 0 ]; then
		echo "model: $model holds in $states states"
	elif [ "$want" = fails ] && [ "$errors" != 0 ]; then
		echo "model: $model $* fails, as it must"
	else
		echo "model: $model $*: $errors errors, but it should be so that it $want" && failed=1
	fi
}

expect holds park
for without in NO_FENCE_WORKER NO_FENCE_SENDER NO_CLAIM NO_TOGETHER NO_FLUSH NO_LOST NO_LAST_LOOK; do
	expect fails park -D$without
done
expect holds steal
for without in NO_FENCE_WORKER NO_FENCE_SPAWNER NO_CHAIN NO_FRESH; do
	expect fails steal -D$without
done
expect holds remote
for without in NO_QUEUED NO_ENDED END_ALWAYS; do
	expect fails remote -D$without
done
expect holds inbox
for without in NO_RECHECK NO_FENCE_OWNER NO_FENCE_SENDER NO_LOCK LOAD_AND_CLEAR; do
	expect fails inbox -D$without
done
expect holds wait
for without in NO_CLAIM NO_PLACE NO_LEAVING NO_PARK; do
	expect fails wait -D$without
done
exit $failed
