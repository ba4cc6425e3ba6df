#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# vm.sh: the library on a kernel of its own, in a virtual machine: what this machine's kernel, or its
# container, cannot show. qemu emulates the processor, so no privilege is needed, and it is slow: half an
# hour for all of it.
#
#   tests/vm.sh                all parts, on the kernel of Debian's linux-image-cloud-amd64, which is fetched once
#   tests/vm.sh PART...        suites: the suites of VM_SUITES, on io_uring and on epoll
#                              cgroup2, cgroup1: tests/cgroup.sh, with that version of cgroups
#                              stalls: the kernel tells of waits for memory, and the level follows
#                              probes: the kernel attaches to the library's USDT probes
#   VM_KERNEL=file             another kernel: a bzImage, or a Debian package that has one
#   VM_SUITES="io_echo ..."    other suites
#   VM_SECONDS=900             of silence, after which a part is ended, and has failed
#
# A part is one start of the machine, from a file system in memory that has the programs and the libraries they
# need; tests/vm_guest.sh is what runs inside. Lines of output are claims, as tests/cgroup.sh prints them. B is the
# build directory; kernels are kept in its vm/.
set -uo pipefail
build=$(realpath "${B:-build}")
vm=$build/vm work=$(mktemp -d)
root=$work/root
suites=${VM_SUITES:-io_echo io_memory io_probe io_pressure io_stalls io_datagram io_datagram_ending io_datagram_peers io_file io_ending io_quiet io_ring_full
	io_poll_events io_signal io_process runtime_ alloc_}
seconds=${VM_SECONDS:-900}
failed=0 machine=
trap '[ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

skip() {
	echo "skipped - $*"
	exit 0
}

# ---- the kernel ---------------------------------------------------------------------------------------

unpack() { # package: prints where its kernel lies now
	local to
	to=$vm/$(basename "$1" .deb)
	mkdir -p "$to"
	dpkg-deb --fsys-tarfile "$1" | tar -x -C "$to" && find "$to" -name 'vmlinuz*' -type f | head -n 1
}

# Debian's own is a package that depends on the one with the kernel in it.
fetch() {
	local package
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
	[ -n "$package" ] || return
	if ! compgen -G "$vm/${package}_*.deb" >/dev/null; then
		echo "vm: apt-get download $package, into $vm" >&2
		(cd "$vm" && apt-get -qq download "$package") >&2 || return
	fi
	unpack "$(compgen -G "$vm/${package}_*.deb" | tail -n 1)"
}

find_kernel() {
	case ${VM_KERNEL:-} in
	'') fetch ;;
	*.deb) unpack "$VM_KERNEL" ;;
	*) [ -r "$VM_KERNEL" ] && echo "$VM_KERNEL" ;;
	esac
}

# ---- its file system ----------------------------------------------------------------------------------

# A program, where it lies here or elsewhere, and its libraries.
add() { # file, where to
	mkdir -p "$root/$(dirname "${2:-$1}")"
	cp -L "$1" "$root/${2:-$1}"
	ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
		[ -e "$root/$library" ] || { mkdir -p "$root/$(dirname "$library")" && cp -L "$library" "$root/$library"; }
	done
}

# As the kernel's own tracer wants it: -4@136(%rbx) becomes +136(%bx):s32.
argument() { # of a probe's note
	local size=${1%%@*} where sign=u
	[ "${size#-}" = "$size" ] || sign=s size=${size#-}
	where=$(sed -E 's/%[re](ax|bx|cx|dx|si|di|bp|sp)/%\1/; s/%(r[0-9]+)[dwb]/%\1/; s/%([abcd])l/%\1x/
		s/%(si|di|bp|sp)l/%\1/; s/^\(/0(/; s/^([0-9]+\()/+\1/; s/^\$/\\/' <<<"${1#*@}")
	echo "$where:$sign$((size * 8))"
}

# A line for each probe: its name, its offset in the file, what to fetch.
probes() { # program
	local offset address name at text
	read -r offset address < <(readelf -lW "$1" | awk '$1 == "LOAD" && / E / { print $2, $3; exit }')
	readelf -nW "$1" | awk '$1 == "Name:" { name = $2 } $1 == "Location:" { at = $2; sub(/,/, "", at) }
		$1 == "Arguments:" { $1 = ""; print name, at $0 }' | while read -r name at arguments; do
		printf '%s 0x%x' "$name" $((at - address + offset))
		for text in $arguments; do printf ' %s' "$(argument "$text")"; done
		echo
	done
}

make_root() {
	local program
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,root,weir/tests}
	add "$(command -v busybox)" bin/busybox
	for program in bash redis-benchmark redis-cli; do
		add "$(command -v $program)" bin/$program
	done
	add "$build/tests/run" weir/build/tests/run
	add "$build/examples/kv" weir/build/examples/kv
	cp tests/cgroup.sh tests/vm_guest.sh "$root/weir/tests"
	cp -r docs "$root/weir"
	probes "$build/examples/kv" >"$root/weir/probes"
	echo '127.0.0.1 localhost' >"$root/etc/hosts"
	echo 'root:x:0:0::/root:/bin/sh' >"$root/etc/passwd"
	cat >"$root/init" <<-'INIT'
		#!/bin/busybox sh
		/bin/busybox --install -s /bin
		mount -t devtmpfs none /dev
		mount -t proc none /proc
		mount -t sysfs none /sys
		cd /weir
		bash tests/vm_guest.sh >/dev/ttyS1 2>&1
		echo "vm: exit $?" >/dev/ttyS1
		reboot -f
	INIT
	chmod +x "$root/init"
	(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/initramfs"
}

# ---- a machine ----------------------------------------------------------------------------------------

# Without cmpxchg16b, whose flags qemu 7.2 gets wrong: Linux 6.12 panics.
#
# However slow it is, something is said now and then.
end_silence() { # file, process
	while sleep 5 && kill -0 "$2" 2>/dev/null; do
		[ $(($(date +%s) - $(stat -c %Y "$1"))) -lt "$seconds" ] && continue
		echo "vm: silent" >>"$1"
		kill -KILL "$2"
		return
	done
}

# Prints what the guest says, but for the last line, which is how it ended; the kernel's own words are kept.
run_part() { # part, words for its kernel
	local code
	: >"$work/said"
	qemu-system-x86_64 -accel "${VM_ACCEL:-tcg}" -cpu max,-cx16 -M q35 -m 3000 -smp 2 \
		-nodefaults -no-reboot -display none -serial "file:$work/console" -serial stdio -kernel "$kernel" \
		-initrd "$work/initramfs" -append "console=ttyS0 loglevel=6 panic=-1 psi=1 $2 part=$1 \
suites=$(tr -s '[:space:]' , <<<"$suites")" </dev/null >"$work/said" 2>"$work/qemu" &
	machine=$!
	end_silence "$work/said" $machine &
	tail -f --pid=$machine "$work/said" 2>/dev/null | sed -u 's,\r$,,' | grep --line-buffered -v '^vm: '
	wait $machine
	code=$?
	machine=
	grep -q '^vm: exit 0' "$work/said" && return
	! grep -q '^vm: silent' "$work/said" || echo "not ok - $1: nothing was said for $seconds s"
	grep -q '^vm: exit ' "$work/said" || {
		echo "not ok - $1: the machine ended before its programs (qemu: $code); the last of its console:"
		tail -q -n 20 "$work/qemu" "$work/console" | tr -d '\r' | sed 's/^/#       /'
	}
	failed=1
}

[ "$(uname -m)" = x86_64 ] || skip 'this machine is no x86-64, and neither its programs'
.ci/deps --check vm || skip '`.ci/deps vm` installs what is missing'
mkdir -p "$vm"
kernel=$(find_kernel)
[ -n "$kernel" ] || skip "no kernel could be had: say where one is, VM_KERNEL=bzImage"
make_root || exit
[ $# -gt 0 ] || set -- suites cgroup2 cgroup1 stalls probes
for part; do
	case $part in
	stalls) # those of a group, and where groups have none, those of the machine
		run_part stalls ''
		run_part stalls_all cgroup_disable=pressure
		;;
	suites | cgroup2 | cgroup1 | probes) run_part "$part" '' ;;
	*) echo "not ok - no part is called $part" && failed=1 ;;
	esac
done
exit $failed
