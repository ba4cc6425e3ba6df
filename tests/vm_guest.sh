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
	mount -t cgroup2 none /sys/fs/cgroup && bash tests/cgroup.sh || failed=1
}

part_cgroup1() {
	mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory &&
		mount -t cgroup -o memory none /sys/fs/cgroup/memory && bash tests/cgroup.sh || failed=1
}

# ---- beginning ----------------------------------------------------------------------------------------

ip link set lo up
sysctl -q -w kernel.core_pattern=/tmp/core vm.overcommit_memory=1
ulimit -n 20000
part_$part
exit $failed
