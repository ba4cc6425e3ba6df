#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# preload_smoke.sh LIBRARY: other people's programs on weir's heaps, each compared with what it says without.
# Programs that are not installed are left out.
set -u
library=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0 ran=0

both() { # name, then the command; its output must be the same with and without
	local name=$1
	shift
	command -v "$1" >/dev/null || { echo "preload: no $1 here, left out" >&2; return 0; }
	"$@" >"$dir/without" 2>&1 </dev/null
	LD_PRELOAD=$library "$@" >"$dir/with" 2>"$dir/errors" </dev/null
	local status=$?
	cat "$dir/errors" >>"$dir/with"
	ran=$((ran + 1))
	if [ $status -ne 0 ] || ! cmp -s "$dir/without" "$dir/with"; then
		echo "preload: $name: status $status" >&2
		diff "$dir/without" "$dir/with" | head -5 >&2
		failed=1
	fi
}

cat >"$dir/churn.py" <<'PY'
import hashlib, json, subprocess, threading
def work(seed):
    x = {str(i): [seed + i] * (i % 50) for i in range(2000)}
    for _ in range(10):
        x = json.loads(json.dumps(x))
    sums[seed] = hashlib.sha256(json.dumps(x, sort_keys=True).encode()).hexdigest()
sums = {}
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(sums.items()))
print(subprocess.run(["echo", "forked"], capture_output=True).stdout)
PY
cat >"$dir/overflow.py" <<'PY'
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.calloc.argtypes = [ctypes.c_size_t] * 2
libc.reallocarray.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] * 2
libc.calloc.restype = libc.reallocarray.restype = ctypes.c_void_p
for count, size in ((2**33, 2**33), (2**63, 2), (3, 2**63), (2**64 - 1, 2**64 - 1)):
    print(libc.calloc(count, size), ctypes.get_errno())
    print(libc.reallocarray(None, count, size), ctypes.get_errno())
libc.pvalloc.argtypes, libc.pvalloc.restype = [ctypes.c_size_t], ctypes.c_void_p
for size in (2**64 - 1, 2**64 - 4095, 2**64 - 4096, 2**63):
    print(libc.pvalloc(size), ctypes.get_errno())
for align, size in ((2**22, 0), (2**22, 1), (2**24, 2**25), (2**62, 1), (2**63, 2**63)):
    at = ctypes.c_void_p()
    print(libc.posix_memalign(ctypes.byref(at), ctypes.c_size_t(align), ctypes.c_size_t(size)), (at.value or 0) % align)
libc.memalign.argtypes, libc.memalign.restype = [ctypes.c_size_t] * 2, ctypes.c_void_p
for align, power in ((0, 16), (3, 16), (24, 32), (65, 128), (4097, 8192), (2**63 + 1, 1)):
    ctypes.set_errno(0)
    at = libc.memalign(align, 100)
    print(at is None, (at or 0) % power, ctypes.get_errno())
PY
cat >"$dir/fill.sql" <<'SQL'
create table t(a integer primary key, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000)
	insert into t select i, hex(i * 7919) from n;
create index tb on t(b);
select count(*), sum(length(b)), max(b) from t where b > '3';
SQL
cat >"$dir/unit.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) { puts("compiled"); return 0; }
C

# A library that is initialised before the one in LD_PRELOAD, and whose handlers of fork() allocate.
cat >"$dir/early.c" <<'C'
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
static void *block;
static void swap(void)
{
	free(block);
	block = malloc(20 << 20);
	for (int i = 0; i < 1000; i++)
		free(malloc(i * 100));
}
__attribute__((constructor)) static void early(void) { pthread_atfork(swap, swap, swap); }
void early_used(void) { swap(); }
C
cat >"$dir/forks.c" <<'C'
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
void early_used(void);
static void *churn(void *unused)
{
	void *held[100] = { unused };
	for (unsigned i = 0; i < 200000; i++) {
		free(held[i % 100]);
		held[i % 100] = malloc(i * 37 % 5000);
	}
	for (unsigned i = 0; i < 100; i++)
		free(held[i]);
	return NULL;
}
int main(void)
{
	pthread_t thread[3];
	void *block = &block;
	int status, ended = 0, none = posix_memalign(&block, 3, 10);
	early_used();
	for (int i = 0; i < 3; i++)
		pthread_create(&thread[i], NULL, churn, NULL);
	for (int i = 0; i < 50; i++) {
		pid_t child = fork();
		if (child == 0) {
			alarm(20);
			pthread_create(&thread[0], NULL, churn, NULL);
			pthread_join(thread[0], NULL);
			_exit(0);
		}
		ended += waitpid(child, &status, 0) == child && status == 0;
	}
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	errno = 0;
	printf("%d children, %d %d", ended, none == EINVAL, block == (void *)&block);
	printf(" %d %d\n", posix_memalign(&block, 64, (size_t)1 << 62) == ENOMEM, errno);
	return 0;
}
C
# What is freed goes back whichever call of the family a program uses.
cat >"$dir/aligned.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static long resident(void)
{
	long size = 0, pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");
	if (fscanf(file, "%ld %ld", &size, &pages) != 2)
		pages = 0;
	fclose(file);
	return pages * 4;
}
int main(void)
{
	enum { BLOCKS = 2000, BYTES = 32 << 10, SMALL = 400 };
	static void *block[BLOCKS], *small[SMALL];
	for (int i = 0; i < BLOCKS; i++)
		memset(block[i] = aligned_alloc(4096, BYTES), 1, BYTES);
	long most = resident();
	for (int i = 0; i < BLOCKS; i++)
		free(block[i]);
	for (int n = 0; n < 100 && resident() > most / 2; n++, usleep(50000)) {
		for (int i = 0; i < SMALL; i++)
			small[i] = aligned_alloc(64, 64 * (n + 1));
		for (int i = 0; i < SMALL; i++)
			free(small[i]);
	}
	fputs(resident() > most / 2 ? "kept\n" : "went back\n", stderr);
	return 0;
}
C

both git git -C "$(dirname "$0")/.." log --stat -20
both python3 python3 "$dir/churn.py"
both overflow python3 "$dir/overflow.py"
both sqlite3 sqlite3 :memory: ".read $dir/fill.sql"
both gcc gcc -O2 -S -o - "$dir/unit.c"
if gcc -shared -fPIC -o "$dir/libearly.so" "$dir/early.c" 2>/dev/null; then
	gcc -o "$dir/forks" "$dir/forks.c" -L"$dir" -learly -Wl,-rpath,"$dir" -pthread
	gcc -o "$dir/aligned" "$dir/aligned.c"
	both forks timeout 60 "$dir/forks"
fi
both sort sh -c 'seq 100000 | sort --parallel=4 -R --random-source=/dev/zero | md5sum'
if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then
	LD_PRELOAD=$library redis-server --port 0 --unixsocket "$dir/redis" --save '' >"$dir/redis.log" 2>&1 &
	redis=$!
	for _ in $(seq 50); do [ -S "$dir/redis" ] && break; sleep 0.1; done
	ran=$((ran + 1))
	redis-benchmark -s "$dir/redis" -q -n 5000 -t set,get,lpush,sadd,hset >/dev/null 2>&1 || failed=1
	kill $redis && wait $redis || { echo "preload: redis-server failed" >&2; failed=1; }
else
	echo 'preload: no redis-server here, left out' >&2
fi
# The options of the environment hold for a program that has never heard of weir.
says() { # what standard error must have in it, variable=value, then the command
	local want=$1 set=$2
	shift 2
	ran=$((ran + 1))
	env "$set" LD_PRELOAD="$library" "$@" >/dev/null 2>"$dir/errors" </dev/null
	grep -q "$want" "$dir/errors" && return
	echo "preload: $set: not said: $want" >&2
	head -5 "$dir/errors" >&2
	failed=1
}
cat >"$dir/twice.py" <<'PY'
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
a, b = libc.malloc(70000), libc.malloc(70000)
for block in (a, b, a):
    libc.free(block)
PY
says 'WEIR_MEM_DEBUG="9": want' WEIR_MEM_DEBUG=9 sh -c :
says 'WEIR_MEM_DEBUG *3 *environment' WEIR_MEM_DEBUG=3 env WEIR_VERBOSE=1 sh -c :
[ -x "$dir/aligned" ] && says 'went back' WEIR_MEM_DECAY_MS=50 "$dir/aligned"
if command -v python3 >/dev/null; then
	says MemoryError WEIR_MEM_LIMIT=20m python3 -c 'b"x" * 10**8'
	says 'freed twice' WEIR_MEM_DEBUG=1 python3 "$dir/twice.py"
	says 'it was allocated' WEIR_MEM_DEBUG=3 python3 "$dir/twice.py"
fi
[ $failed = 0 ] && echo "preload: $ran programs, no difference"
