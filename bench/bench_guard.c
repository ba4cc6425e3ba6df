/* SPDX-License-Identifier: MIT */
/*
 * bench_guard.c: the hot paths, for counting instructions under callgrind.
 *
 * `make bench-guard` runs it (bench/report/guard.py). Each path runs some thousand times to warm up
 * and then a known number of times between two client requests, so that valgrind's counters hold
 * the path and nothing else. What is counted does not depend on the clock, on the load of the
 * machine or on its caches; what the kernel does is not in it.
 *
 * Prints the compiler that made it, and "path operations" for each path it ran. Alone it is an
 * ordinary, pointless program.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include <weir/weir.h>

enum {
	WARM_UP = 2000,
	OPERATIONS = 20000,
	BATCH = 100, /* tasks in a scope, items in a channel, blocks at once */
	ECHO_BYTES = 64,
	SWITCH_STACK_BYTES = 64 << 10,
};

typedef int (*path_fn)(unsigned operations);

/* ---- switch -------------------------------------------------------------------------------- */

/* Inside libweir.a; declared here because no installed header has them. */
void weir__switch(void **save_sp, void *load_sp);
void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg);

static void *main_sp, *peer_sp;

static void switch_back_forever(void *arg)
{
	(void)arg;
	for (;;)
		weir__switch(&peer_sp, main_sp);
}

/* There and back is two. */
static int switches(unsigned operations)
{
	char *stack = mmap(NULL, SWITCH_STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	peer_sp =
		weir__switch_prepare(stack + SWITCH_STACK_BYTES - 1024, switch_back_forever, NULL);
	for (unsigned i = 0; i < operations / 2; i++)
		weir__switch(&main_sp, peer_sp);
	return munmap(stack, SWITCH_STACK_BYTES);
}

/* ---- tasks --------------------------------------------------------------------------------- */

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int spawn_batch(void)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < BATCH; i++) {
		int err = weir_spawn(&scope, nothing, NULL);
		if (err < 0)
			return err;
	}
	return weir_scope_wait(&scope);
}

static int spawn_join(unsigned operations)
{
	int err = 0;
	for (unsigned i = 0; err == 0 && i < operations / BATCH; i++)
		err = spawn_batch();
	return err;
}

static int yield_times(void *arg)
{
	const unsigned *times = arg;
	int err = 0;
	for (unsigned i = 0; err == 0 && i < *times; i++)
		err = weir_yield();
	return err;
}

static int yield(unsigned operations)
{
	unsigned times = operations / 2;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, yield_times, &times);
	if (err == 0)
		err = weir_spawn(&scope, yield_times, &times);
	return err < 0 ? err : weir_scope_wait(&scope);
}

static int scope_deadline(unsigned operations)
{
	for (unsigned i = 0; i < operations; i++) {
		WEIR_SCOPE(scope, 10 * WEIR_SEC);
	}
	return 0;
}

/* ---- channel ------------------------------------------------------------------------------- */

struct stream {
	weir_chan *chan;
	unsigned items;
};

static int send_all(void *arg)
{
	const struct stream *stream = arg;
	int err = 0;
	for (uint64_t i = 0; err == 0 && i < stream->items; i++)
		err = weir_chan_send(stream->chan, &i);
	return err;
}

/* One item from a task to another through a bounded channel. */
static int channel_hop(unsigned operations)
{
	weir_auto_chan chan = weir_chan_new(sizeof(uint64_t), BATCH);
	if (!chan)
		return -ENOMEM;
	struct stream stream = { chan, operations };
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, send_all, &stream);
	uint64_t item;
	for (unsigned i = 0; err == 0 && i < operations; i++)
		err = weir_chan_recv(chan, &item);
	return err < 0 ? err : weir_scope_wait(&scope);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* BATCH blocks at a time, so that the cache is used as a stack and not as one slot. */
static int alloc_free(unsigned operations)
{
	void *blocks[BATCH];
	for (unsigned i = 0; i < operations / BATCH; i++) {
		for (unsigned j = 0; j < BATCH; j++) {
			blocks[j] = weir_alloc(64 + j * 8);
			if (!blocks[j])
				return -ENOMEM;
		}
		for (unsigned j = 0; j < BATCH; j++)
			weir_free(blocks[j]);
	}
	return 0;
}

/* ---- echo ---------------------------------------------------------------------------------- */

static int echo(weir_conn *conn)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		WEIR_SCOPE(turn, 60 * WEIR_SEC);
		ssize_t n = weir_recv(conn, &buf);
		if (n > 0)
			n = weir_send(conn, &buf);
		if (n <= 0)
			return (int)n;
	}
}

static int serve(void *arg)
{
	int err = weir_serve(arg, echo);
	return err == -ECANCELED ? 0 : err;
}

static int ask(weir_conn *conn, unsigned operations)
{
	char message[ECHO_BYTES] = "echo";
	for (unsigned i = 0; i < operations; i++) {
		ssize_t sent = weir_write(conn, message, sizeof(message));
		if (sent < 0)
			return (int)sent;
		int err = weir_read_full(conn, message, sizeof(message));
		if (err < 0)
			return err;
	}
	return 0;
}

/* A request and its answer, client and server on one worker: twice a server's turn, and a read. */
static int echo_turn(unsigned operations)
{
	weir_auto_listener listener = NULL;
	char address[48]; /* another run beside this one has its own */
	snprintf(address, sizeof(address), "unix:@weir-bench-guard-%d", (int)getpid());
	int err = weir_listen(&listener, address);
	if (err < 0)
		return err;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	err = weir_spawn(&scope, serve, listener);
	if (err < 0)
		return err;
	weir_auto_conn conn = NULL;
	err = weir_connect(&conn, weir_listener_address(listener));
	return err < 0 ? err : ask(conn, operations);
}

/* ---- all ----------------------------------------------------------------------------------- */

static const struct path {
	const char *name;
	path_fn run;
} paths[] = {
	{ "switch", switches },
	{ "spawn_join", spawn_join },
	{ "yield", yield },
	{ "scope_deadline", scope_deadline },
	{ "channel_hop", channel_hop },
	{ "alloc_free", alloc_free },
	{ "echo_turn", echo_turn },
};

static int run_path(const struct path *path)
{
	int err = path->run(WARM_UP);
	if (err < 0)
		return err;
	CALLGRIND_ZERO_STATS;
	err = path->run(OPERATIONS);
	CALLGRIND_DUMP_STATS_AT(path->name);
	return err;
}

static int run_all(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		int err = run_path(&paths[i]);
		if (err < 0) {
			fprintf(stderr, "bench_guard: %s: %s\n", paths[i].name, weir_strerror(err));
			return err;
		}
		printf("%s %u\n", paths[i].name, OPERATIONS);
	}
	return 0;
}

int main(void)
{
#ifdef __clang__
	puts("compiler " __VERSION__);
#else
	puts("compiler gcc " __VERSION__);
#endif
	return weir_run(run_all, NULL, .workers = 1) < 0;
}
