#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# gdb.sh: tools/weir_gdb.py on a live process and on its core file, and the library's USDT probes on a process that
# passes them. B is the build directory, CC the compiler.
#
# Each line of output is a claim: "ok - ..." or "not ok - ..." and why.
set -uo pipefail
build=$(realpath "${B:-build}")
script=$(realpath tools/weir_gdb.py)
if ! command -v gdb >/dev/null; then
	echo 'gdb: no gdb here, the script is not tested; `.ci/deps ci` installs it'
	exit 0
fi
work=$(mktemp -d)
victim=
trap '[ -z "$victim" ] || kill -KILL "$victim" 2>/dev/null; rm -rf "$work"' EXIT
failed=0

says() { # what is claimed, extended regular expression; of $work/said
	if grep -qE -- "$2" "$work/said"; then
		echo "ok - $where: $1"
	else
		echo "not ok - $where: $1: no line like $2 in:"
		sed 's/^/  # /' "$work/said"
		failed=1
	fi
}

# The lines from a task's own to the next blank one.
of_task() {
	sed -n "/^[0-9]* \"$1\"/,/^\$/p" "$work/all" >"$work/said"
}

ask() { # gdb's arguments
	timeout 60 gdb -q -batch -iex 'set auto-load no' -ex "source $script" "$@" </dev/null 2>&1
}

check() { # gdb's arguments
	ask -ex 'weir tasks' "$@" >"$work/said"
	says 'five tasks' '^5 tasks$'
	says 'the first' '^281474976710657 "main", worker 0, parked in scope join; spawned at weir_run$'
	says 'a child with its site' '^  [0-9]+ "sleeper", worker 0, parked in sleep; spawned at tests/gdb_victim\.c:[0-9]+$'
	says 'a task without a name has that of its function' '^  [0-9]+ "wait_for_item", worker 1, parked in channel;'
	says 'so has one that is joined' '^  [0-9]+ "sleep_joined", worker 0, parked in sleep'
	says 'the one that runs' '^  [0-9]+ "burner", worker 1, running;'
	local id
	id=$(sed -n 's/^  \([0-9]*\) "sleeper".*/\1/p' "$work/said")

	ask -ex "weir bt $id" "$@" >"$work/said"
	says 'frames of a parked task begin in the library' '^#[0-9]+ .*weir_sleep '
	says 'and go on through the program' '^#9 .*sleep_within '
	says 'to its function' '^#[0-9]+ .*sleep_deeply '

	ask -ex 'weir bt all' "$@" >"$work/all"
	of_task burner
	says 'frames of the running task' '^#0 .*compute '
	of_task wait_for_item
	says 'frames on another worker' '^#[0-9]+ .*wait_for_item '
	of_task main
	says 'frames of the first' '^#[0-9]+ .*victim '

	ask -ex 'weir heap' "$@" >"$work/said"
	says 'pools of a heap' '^  task +192 +4 '
	ask -ex 'weir bt 12345' "$@" >"$work/said"
	says 'an id that is not there' 'no task has the id 12345'
}

compile() { # program
	"${CC:-cc}" -O2 -g -fomit-frame-pointer -pthread -I"$build/include" "tests/gdb_$1.c" "$build/libweir.a" -luring \
		-o "$work/$1" || exit 1
}

at_probe() { # name, format and arguments of a printf
	printf 'break -probe-stap weir:%s\ncommands\nsilent\nprintf "%s %s\\n", %s\ncontinue\nend\n' "$1" "$1" "$2" "$3"
}

# Each probe is printed whenever it is passed, with its arguments as docs/observing.md has them.
see_probes() {
	local numbers='$_probe_arg0, $_probe_arg1' name
	{
		printf 'set pagination off\ninfo probes stap weir\n'
		at_probe task_begin '%u %s' '$_probe_arg0, (char *)$_probe_arg1'
		at_probe task_end '%u %d' "$numbers"
		for name in conn_open conn_close; do at_probe $name '%#lx %d' "$numbers"; done
		for name in worker_park worker_unpark stall mem_level; do at_probe $name '%d %ld' "$numbers"; done
		echo run
	} >"$work/probes.gdb"
	timeout 60 gdb -q -batch -iex 'set auto-load no' -x "$work/probes.gdb" "$work/probes" </dev/null >"$work/said" 2>&1
}

check_probes() {
	local id conn descriptor
	see_probes
	if ! grep -q '^stap ' "$work/said"; then
		echo 'gdb: the library was built without <sys/sdt.h> (systemtap-sdt-dev): its probes are not tested'
		return
	fi
	says 'it ends as it would without gdb' 'exited normally'
	says 'a task begins with its id and site' '^task_begin [0-9]+ tests/gdb_probes\.c:[0-9]+$'
	id=$(sed -n 's/^task_end \([0-9]*\) -7$/\1/p' "$work/said")
	says 'and ends with its result' "^task_begin ${id:-none} tests/gdb_probes"
	conn=$(sed -n 's/^connected //p' "$work/said")
	descriptor=$(sed -n "s/^conn_open ${conn:-none} //p" "$work/said")
	says 'a connection is opened with its address and descriptor' "^conn_open ${conn:-none} [0-9]+$"
	says 'and closed with the same' "^conn_close ${conn:-none} ${descriptor:-none}$"
	says 'so is its other end, whose descriptor may be a slot' "^conn_close $(sed -n "/${conn:-none}/d; s/^conn_open //p" "$work/said")$"
	says 'the only worker parks until a time' '^worker_park 0 [0-9]+$'
	says 'and wakes up' '^worker_unpark 0 [0-9]+$'
	says 'the level rises from 0 to 2' '^mem_level 0 2$'
	if grep -q '^mem_level \(.\) \1$' "$work/said"; then
		echo 'not ok - probes: a level that stays is not told of' && failed=1
	fi
	says 'a task holds worker 0 for 25 ms or more' '^stall 0 ([3-9][0-9]|2[5-9]|[0-9]{3,})[0-9]{6}$'
}

compile victim
compile probes
where=probes
check_probes
mkfifo "$work/out"
(cd "$work" && ulimit -c unlimited && WEIR_STALL_MS=0 exec ./victim >out) &
victim=$!
read -r -t 20 _ <"$work/out"

where='live process'
check -p $victim

where='core file'
kill -ABRT $victim
wait $victim 2>/dev/null
core=$(find "$work" -name 'core*' | head -n 1)
if [ -n "$core" ]; then
	check "$work/victim" "$core"
else
	echo "gdb: no core file came (see core(5), $(cat /proc/sys/kernel/core_pattern)); not tested"
fi
victim=
exit $failed
