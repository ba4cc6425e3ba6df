#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# symbols.sh BUILD_DIR: what the linker knows about the layers and the library.
set -eu
cd "$1"
failed=0

fail() {
	echo "symbols: $1" >&2
	sed 's/^/  /' >&2
	failed=1
}

# No layer uses a symbol of one above it: what it leaves undefined is not weir's.
below=()
for layer in alloc runtime io; do
	below+=("$layer"/*.o)
	up=$(ld -r -o - "${below[@]}" 2>/dev/null >layer.o && nm -u layer.o | grep -w 'weir_.*' || true)
	[ -z "$up" ] || fail "$layer reaches up:" <<<"$up"
done
rm -f layer.o

foreign=$(nm -D --defined-only libweir.so | awk '$3 !~ /^weir_/')
[ -z "$foreign" ] || fail "libweir.so exports names that are not its own:" <<<"$foreign"

stack=$(readelf -lW libweir.so | grep GNU_STACK)
[[ $stack == *RW\ * ]] || fail "libweir.so asks for an executable stack:" <<<"$stack"

readelf -dW libweir.so | grep -q 'SONAME.*libweir\.so\.[0-9]' || fail "no SONAME" </dev/null

# Probes, where the header they come from is: those that docs/observing.md names, with both arguments.
if echo '#include <sys/sdt.h>' | ${CC:-cc} -E - >/dev/null 2>&1; then
	probes=$(readelf -nW libweir.so | awk '/Provider: weir$/ { on = 1 } on && /Name:/ { name = $2 }
		on && /Arguments: .*@.* .*@/ { print name; on = 0 }' | sort -u | paste -sd ' ')
	[ "$probes" = 'conn_close conn_open mem_level stall task_begin task_end worker_park worker_unpark' ] ||
		fail "other probes than docs/observing.md names:" <<<"$probes"
fi

[ $failed = 0 ] && echo "symbols: layers, exports, stack and SONAME are right"
