#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# cgroup.sh: examples/kv in a cgroup of 64 MB while clients want more than that, again and again: slowly, so
# that every level is passed, and all at once. The kernel kills nobody, the stages come in order, clients whose
# values do not fit are told so, and when the load goes the service goes on. On io_uring, then on epoll
# (WEIR_DRIVER set: only there), where the limit is that of the group around the server's own. B is the build directory; SLOW=1 asks less of a machine that is.
#
# Each line of output is a claim: "ok - ..." or "not ok - ..." and why; "skipped - ..." where no cgroup with a
# memory controller can be made (it takes root, and no container that has it read-only).
set -uo pipefail
build=$(realpath "${B:-build}")
work=$(mktemp -d)
limit=$((64 << 20)) value_bytes=3000 requests=$((${SLOW:-0} ? 1000 : 20000))
expires=$((${SLOW:-0} ? 900 : 60)) # after so many seconds a value goes: later than all of them are there
value=$(printf "%${value_bytes}s" "" | tr " " x)
failed=0 server= group=

# It is busy until the kernel is through with who was in it.
remove_group() {
	local tries
	for ((tries = 0; tries < 10; tries++)); do
		rmdir "$group/own" "$group" 2>/dev/null
		[ -d "$group" ] || return
		sleep 0.2
	done
}

finish() {
	[ -z "$server" ] || kill -KILL "$server" 2>/dev/null
	wait 2>/dev/null
	remove_group
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
trap '' PIPE

# ---- the cgroup ---------------------------------------------------------------------------------------

# Sets group, and kills_file and its field; v1 first: where both are mounted, it has the controller.
make_group() {
	local root
	for root in /sys/fs/cgroup/memory /sys/fs/cgroup; do
		group=$root/weir_cgroup_test.$$
		mkdir "$group" 2>"$work/why" || continue
		if [ -e "$group/memory.limit_in_bytes" ]; then
			kills_file=$group/memory.oom_control
			echo $limit >"$group/memory.limit_in_bytes" && return
		else
			grep -qw memory "$root/cgroup.subtree_control" || echo +memory >"$root/cgroup.subtree_control"
			kills_file=$group/memory.events
			echo $limit >"$group/memory.max" && return
		fi 2>>"$work/why"
		rmdir "$group"
	done
	group=
	return 1
}

kills() { awk '$1 == "oom_kill" { print $2 }' "$kills_file"; }

# ---- the server and its clients -----------------------------------------------------------------------

start() {
	local tries own=$group
	if [ $WEIR_DRIVER = epoll ]; then
		own=$group/own
		mkdir "$own" || return
	fi
	: >"$work/server.log"
	sh -c 'echo $$ >"$1/cgroup.procs" && exec "$2" 127.0.0.1:0' - "$own" "$build/examples/kv" \
		>"$work/server.log" 2>&1 &
	server=$!
	for ((tries = 0; tries < 200; tries++)); do
		port=$(sed -n 's/^.*listening on .*://p' "$work/server.log")
		[ -z "$port" ] || { connect && return; }
		sleep 0.05
	done
	return 1
}

# For the questions: one that is there already is answered at the highest level too.
connect() { exec 3<>"/dev/tcp/127.0.0.1/$port"; }

# One command in, its answer's first line out.
ask() {
	local line
	printf '%s\r\n' "$1" >&3
	read -r -t 20 line <&3 || return
	echo "${line%$'\r'}"
}

# Adds a line to the record: the level, refusals, and how often each stage has run. A server without any memory
# has none for this either, and ends the connection, new ones too, until values have expired.
sample() {
	local tries
	for ((tries = 0; tries < 40; tries++)); do
		record && return
		sleep 0.5
		connect
	done
	return 1
}

record() {
	local length text values
	printf 'INFO memory\r\n' >&3
	read -r -t 20 length <&3 && length=${length%$'\r'} && length=${length#$} || return
	read -r -t 20 -N $((length + 2)) text <&3 || return
	values=$(tr -d '\r' <<<"$text" | awk -F: '/^mem_(level|refusals|stages_.*):/ { printf "%s ", $2 }')
	read -r level refusals medium high critical <<<"$values"
	echo "$values" >>"$work/record"
}

store() { # values, connections
	timeout 20 redis-benchmark -p "$port" -q -r 100000000 -n "$1" -c "$2" -P 8 \
		set key:__rand_int__ "$value" EX 10 >"$work/store" 2>&1
}

# 1 MB at a time, three times a second: a look at the memory comes once a second. On one connection: at the
# highest level new ones have to wait. A command that there is no memory to read ends it.
fill_slowly() {
	local i k answer
	: >"$work/record"
	exec 4<>"/dev/tcp/127.0.0.1/$port" || return
	for ((i = 0; i < 150; i++)); do
		awk -v i=$i -v bytes=$value_bytes -v expires=$expires 'BEGIN { value = sprintf("%" bytes "s", ""); gsub(/ /, "x", value)
			for (k = 0; k < 350; k++) printf "SET key:%d:%d %s EX %d\r\n", i, k, value, expires }' >&4
		for ((k = 0; k < 350; k++)); do
			read -r -t 20 answer <&4 || break
		done
		sample
		if [ "$refusals" -gt "$1" ]; then
			exec 4>&-
			return 0
		fi
		sleep 0.3
	done
	echo 'memory is not exhausted by 150 MB'
	return 1
}

# Told so, or cut off: there may be no memory even for reading the command.
fill_at_once() {
	store 60000 50
	sample
	[ "$refusals" -gt "$1" ] || grep -q 'Server closed the connection' "$work/store" ||
		{ echo "nothing was refused, $1 before"; return 1; }
}

# The level each is first seen at, in the order of time; the stages as counted.
in_order() {
	awk '{ for (l = 1; l <= $1; l++) if (!first[l]) first[l] = NR
	       if ($3 > 0 && !medium) medium = NR; if ($4 > 0 && !high) high = NR; top = $1 > top ? $1 : top }
	     END { printf "levels begin at samples %d %d %d, stages at %d %d, of %d\n",
			first[1], first[2], first[3], medium, high, NR
		   exit !(top >= 3 && first[1] < first[2] && first[2] < first[3] && medium && high && medium < high) }' \
		"$work/record"
}

empty_and_rest() {
	local tries
	[ "$(ask FLUSHALL)" = +OK ] || echo 'no answer to FLUSHALL: they expire'
	for ((tries = 0; tries < expires * 3; tries++)); do
		sample
		[ "$level" -gt 1 ] || return 0
		sleep 0.5
	done
	echo "level $level, $((expires * 3 / 2)) s after the load"
	return 1
}

serves() {
	[ "$(ask 'SET after pressure')" = +OK ] && [ "$(ask 'EXISTS after')" = :1 ] &&
		redis-cli -p "$port" get after | grep -qx pressure &&
		timeout 20 redis-benchmark -p "$port" -q -t set,get -n $requests -c 50 >"$work/bench" &&
		grep -q 'GET: .* requests per second' "$work/bench"
}

not_killed() {
	[ "$(kills)" = 0 ] && kill -0 "$server" && return
	echo "$(kills) kills in the group"
	kill -0 "$server" || { wait "$server"; echo "the server has ended: $?"; }
	return 1
}

claim() { # text, command...
	local text="cgroup of 64 MB, $WEIR_DRIVER: $1"
	shift
	if "$@" >"$work/log" 2>&1; then
		echo "ok - $text"
	else
		echo "not ok - $text"
		tail -q -n 12 "$work/log" "$work/record" "$work/store" "$work/server.log" 2>/dev/null | sed 's/^/#       /'
		failed=1
	fi
}

# ---- all of it ----------------------------------------------------------------------------------------

one_driver() {
	local round
	start || { claim 'the server starts' false; return; }
	refusals=0 level=0
	claim 'values are stored until one is refused' fill_slowly 0
	claim 'low, medium and high come one after the other, and so do their stages' in_order
	claim 'when the values go the level falls' empty_and_rest
	for round in 1 2 3; do
		claim "180 MB at once, which expire, are refused in part, round $round" fill_at_once "$refusals"
		claim "the level falls again, round $round" empty_and_rest
	done
	claim 'nobody was killed' not_killed
	claim 'old and new clients are served as before' serves
	exec 3>&-
	kill "$server"
	wait "$server" 2>/dev/null
	server=
}

for program in redis-benchmark redis-cli; do
	command -v $program >/dev/null || { echo "skipped - no $program here"; exit 0; }
done
for WEIR_DRIVER in ${WEIR_DRIVER:-uring epoll}; do
	export WEIR_DRIVER
	if ! make_group; then
		echo "skipped - no cgroup with a limit can be made here: $(tail -n 1 "$work/why")"
		exit 0
	fi
	one_driver
	remove_group
done
exit $failed
