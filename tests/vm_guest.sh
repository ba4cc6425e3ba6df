#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# vm_guest.sh: what runs inside the machine of tests/vm.sh, as its first program's only child: one part.
#
# The kernel puts `part` and `suites` of its command line into the environment.
set -uo pipefail
export HOME=/root PATH=/bin
failed=0 server= hog= port=

claim() { # text, command...
	local text="$(uname -r): $1"
	shift
	if "$@" >/tmp/log 2>&1; then
		echo "ok - $text"
	else
		echo "not ok - $text"
		tail -n 30 /tmp/log | sed 's/^/#       /'
		failed=1
	fi
}

mount_cgroup2() {
	mount -t cgroup2 none /sys/fs/cgroup && echo +memory >/sys/fs/cgroup/cgroup.subtree_control
}

# ---- the suites ---------------------------------------------------------------------------------------

# Each suite of the list, or whose name begins so, is a claim; time is scarce, so that those of its checks that
# are long are left out.
part_suites() {
	local known word driver suite
	known=$(build/tests/run no_such_suite 2>&1 | sed 's/^.*there are: //' | tr ' ' '\n')
	WEIR_VERBOSE=1 build/examples/kv 127.0.0.1:0 >/tmp/verbose 2>&1 &
	sleep 3
	kill $!
	wait $!
	grep -iE 'driver|uring|epoll' /tmp/verbose | sed 's/^/# /'
	export TESTS_BRIEF=1 CK_EXCLUDE_TAGS=slow CK_TIMEOUT_MULTIPLIER=20 WEIR_STALL_MS=0 CK_VERBOSITY=normal
	for driver in uring epoll; do
		export WEIR_DRIVER=$driver
		for word in ${suites//,/ }; do
			for suite in $(grep -x "$word" <<<"$known" || grep "^$word" <<<"$known"); do
				[[ $driver = epoll && $suite = alloc_* ]] || claim "$driver: $suite" build/tests/run "$suite"
			done
		done
	done
}

# ---- a server at its limit ----------------------------------------------------------------------------

part_cgroup2() {
	mount -t cgroup2 none /sys/fs/cgroup && SLOW=1 bash tests/cgroup.sh || failed=1
}

part_cgroup1() {
	mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory &&
		mount -t cgroup -o memory none /sys/fs/cgroup/memory && SLOW=1 bash tests/cgroup.sh || failed=1
}

# ---- the library's probes -----------------------------------------------------------------------------

tracing=/sys/kernel/tracing

# All of those the build has found in the server, with the arguments as a and b.
trace() {
	local name offset a b
	mount -t tracefs none $tracing
	while read -r name offset a b; do
		echo "p:weir/$name /weir/build/examples/kv:$offset a=$a b=$b" || return
	done <probes >>$tracing/uprobe_events && echo 1 >$tracing/events/weir/enable
}

traced() { # extended regular expression: prints what the kernel has seen of it
	grep -E "$1" $tracing/trace
}

# ---- waits for memory ---------------------------------------------------------------------------------

groups=/sys/fs/cgroup

in_group() { # group, command...; in the background
	exec sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$groups/$@"
}

start_server() { # group
	in_group "$1" build/examples/kv 127.0.0.1:0 >/tmp/server.log 2>&1 &
	server=$!
	for ((tries = 0; tries < 200; tries++)); do
		port=$(sed -n 's/^.*listening on .*://p' /tmp/server.log)
		[ -z "$port" ] || { exec 3<>"/dev/tcp/127.0.0.1/$port" && figure mem_level; return; }
		sleep 0.1
	done
	return 1
}

# Takes what it can get, which above memory.high is little and slow.
start_hog() { # group
	in_group "$1" awk 'BEGIN { for (;;) a[i++] = sprintf("%65536s", "") }' &
	hog=$!
}

stop() { # process
	kill -KILL "$1"
	wait "$1"
} 2>/dev/null

# By a connection that is there already: at the highest level others have to wait.
figure() { # name in INFO: its value
	local length text
	printf 'INFO\r\n' >&3
	read -r -t 60 length <&3 && length=${length%$'\r'} && length=${length#$} &&
		read -r -t 60 -N $((length + 2)) text <&3 && tr -d '\r' <<<"$text" | sed -n "s/^$1://p" | grep .
}

# Nobody talks to it: only the kernel can have woken it, once for every two seconds with waits. The figures it then
# reads are averages, which follow.
level_rises() {
	local tries
	for ((tries = 0; tries < 60; tries++)); do
		traced 'mem_level: .* a=0 b=[1-4]' && break
		sleep 1
	done
	cat "$1" && grep high $groups/*/memory.events
	[ $tries -lt 60 ] && [ "$(figure mem_stalls)" -gt 0 ] && [ "$(figure mem_level)" -gt 0 ]
}

level_falls() {
	local tries
	for ((tries = 0; tries < 60; tries++)); do
		[ "$(figure mem_level)" != 0 ] || return 0
		sleep 1
	done
	cat "$1"
	return 1
}

waited() { # group: for how many microseconds all told
	sed -n 's/^some.* total=//p' "$groups/$1/memory.pressure"
}

hears_nothing() {
	local own others
	own=$(waited served) others=$(waited hungry)
	sleep 10
	echo "waited: $own to $(waited served), its neighbour $others to $(waited hungry)"
	[ "$(waited served)" = "$own" ] && [ "$(waited hungry)" -gt $((others + 1000000)) ] &&
		[ "$(figure mem_level)" = 0 ] && [ "$(figure mem_stalls)" = 0 ]
}

# The server is in `served`, which has no limit: but for waits there is nothing to raise its level. `hungry` is
# its neighbour.
stalls() { # whose waits, group of who causes them, figures
	mount -t cgroup2 none $groups && echo +memory >$groups/cgroup.subtree_control || return
	mkdir $groups/served $groups/hungry
	echo 16M >$groups/hungry/memory.high
	claim 'the kernel takes the probes of the library' trace
	for WEIR_DRIVER in uring epoll; do
		export WEIR_DRIVER
		claim "$WEIR_DRIVER: a server starts" start_server served
		if [ "$2" = served ]; then
			start_hog hungry
			claim "$WEIR_DRIVER: waits of a neighbour are not its own" hears_nothing
			stop $hog
		fi
		echo >$tracing/trace
		echo 16M >"$groups/$2/memory.high"
		start_hog "$2"
		claim "$WEIR_DRIVER: of waits $1 an idle server is told, and its level rises" level_rises "$3"
		tail -n 20 /tmp/log | sed 's/^/# /'
		stop $hog
		echo max >$groups/served/memory.high
		claim "$WEIR_DRIVER: when they are over it falls" level_falls "$3"
		exec 3>&-
		stop $server
	done
}

part_stalls() { stalls 'in its group' served $groups/served/memory.pressure; }
part_stalls_all() { stalls 'on the machine' hungry /proc/pressure/memory; }

# ---- the probes ---------------------------------------------------------------------------------------

one_connection() {
	start_server . && exec 3>&- && sleep 2 && traced '(conn|task)_' || return
	traced '' | awk '/ conn_open: / { a = $(NF - 1); b = $NF } / conn_close: / { same = $(NF - 1) == a && $NF == b }
		END { exit !same }' || return
	traced '' | awk '/ task_begin: / { begun[$(NF - 1)] } / task_end: / && $NF == "b=0" { ended[$(NF - 1)] }
		END { for (id in ended) if (id in begun) exit 0; exit 1 }'
}

part_probes() {
	mount -t cgroup2 none $groups
	claim 'the kernel takes the probes of the library' trace
	claim 'a connection is opened and closed with the same address and descriptor, a task begins and ends' one_connection
	claim 'a worker parks, and its first argument is its number' traced ' worker_park: .* a=0 '
	stop $server
}

# ---- beginning ----------------------------------------------------------------------------------------

ip link set lo up
sysctl -q -w kernel.core_pattern=/tmp/core vm.overcommit_memory=1
ulimit -n 20000
part_$part
exit $failed
