/* SPDX-License-Identifier: MIT */
/*
 * bench_runtime.c: what tasks, scopes, timers and channels cost.
 *
 *   bench_runtime [--rounds N] [--csv] [FILTER]    WEIR_WORKERS (1): how many workers
 *
 * The loops are those of Tokio's own benchmarks where there is one (bench/README.md has the table),
 * and rivals/tokio's tokio_micro is the same program for Tokio. Everything runs in tasks of worker
 * 0, whatever others there are. Only the public interface is used, but for the bare context switch,
 * which has none.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <weir/weir.h>

#include "tasks.h"

enum {
	YIELD_TASKS = 200,
	YIELDS = 1000,
	MANY_TASKS = 1000,
	LONE_YIELDS = 500000,
	SPAWNS = 10000,
	WINDOWS = 20,
	WINDOW = 1000,
	JOINS = 100000,
	TIMERS = 200000,
	SLEEPERS = 10000,
	TRIPS = 50000,
	ITEMS = 100000,
	SWITCHES = 1000000,
	SWITCH_STACK_BYTES = 64 << 10,
};

/* ---- switch -------------------------------------------------------------------------------- */

/* Inside libweir.a; declared here because no installed header has them. */
void weir__switch(void **save_sp, void *load_sp);
void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg);

struct pair {
	void *main_sp;
	void *peer_sp;
};

static void switch_back_forever(void *arg)
{
	struct pair *pair = arg;
	for (;;)
		weir__switch(&pair->peer_sp, pair->main_sp);
}

/* Out of line, between two stacks; one operation is one switch. */
static uint64_t switch_out_of_line(void *arg)
{
	struct pair pair;
	(void)arg;
	char *stack = mmap(NULL, SWITCH_STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		return 0;
	/* not the very top: page-aligned stacks compete for the same cache sets */
	pair.peer_sp =
		weir__switch_prepare(stack + SWITCH_STACK_BYTES - 1024, switch_back_forever, &pair);
	for (unsigned i = 0; i < SWITCHES; i++)
		weir__switch(&pair.main_sp, pair.peer_sp);
	munmap(stack, SWITCH_STACK_BYTES);
	return 2 * SWITCHES;
}

/* ---- tasks --------------------------------------------------------------------------------- */

static int yield_times(void *arg)
{
	const unsigned *times = arg;
	for (unsigned i = 0; i < *times; i++) {
		int err = weir_yield();
		if (err < 0)
			return err;
	}
	return 0;
}

static uint64_t yield_among(unsigned tasks, unsigned times)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < tasks; i++) {
		if (weir_spawn(&scope, yield_times, &times) < 0)
			return 0;
	}
	return weir_scope_wait(&scope) < 0 ? 0 : (uint64_t)tasks * times;
}

static uint64_t yield_200(void *arg)
{
	(void)arg;
	return yield_among(YIELD_TASKS, YIELDS);
}

static uint64_t yield_1000(void *arg)
{
	(void)arg;
	return yield_among(MANY_TASKS, YIELDS / 5);
}

/* Two tasks: every yield is one switch and one trip through the run queue. */
static uint64_t yield_2(void *arg)
{
	(void)arg;
	return yield_among(2, LONE_YIELDS / 2);
}

static uint64_t yield_alone(void *arg)
{
	unsigned times = LONE_YIELDS;
	(void)arg;
	return yield_times(&times) < 0 ? 0 : times;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static uint64_t spawn_join_10000(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < SPAWNS; i++) {
		if (weir_spawn(&scope, nothing, NULL) < 0)
			return 0;
	}
	return weir_scope_wait(&scope) < 0 ? 0 : SPAWNS;
}

/* 1 to 5 KB, as the program that this row is from has them. */
static int alloc_clear_free(void *arg)
{
	size_t size = 1024 + ((uintptr_t)arg & 4095);
	char *block = weir_zalloc(size);
	if (block == NULL)
		return -ENOMEM;
	__asm__ volatile("" : : "r"(block) : "memory");
	weir_free(block);
	return 0;
}

static uint64_t alloc_task_1000(void *arg)
{
	(void)arg;
	for (uintptr_t window = 0; window < WINDOWS; window++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (uintptr_t i = 0; i < WINDOW; i++)
			if (weir_spawn(&scope, alloc_clear_free, (void *)(window * WINDOW + i)) < 0)
				return 0;
		if (weir_scope_wait(&scope) < 0)
			return 0;
	}
	return WINDOWS * WINDOW;
}

static uint64_t spawn_join_1(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < JOINS; i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		if (weir_spawn(&scope, nothing, NULL) < 0 || weir_scope_wait(&scope) < 0)
			return 0;
	}
	return JOINS;
}

struct chain {
	struct weir_scope *scope;
	unsigned left;
};

static int spawn_next(void *arg)
{
	struct chain *chain = arg;
	if (--chain->left == 0)
		return 0;
	return weir_spawn(chain->scope, spawn_next, chain);
}

static uint64_t chained_spawn(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	struct chain chain = { &scope, SPAWNS };
	if (weir_spawn(&scope, spawn_next, &chain) < 0)
		return 0;
	return weir_scope_wait(&scope) < 0 ? 0 : SPAWNS;
}

/* ---- time ---------------------------------------------------------------------------------- */

static uint64_t scopes_with_timeout(int64_t timeout_ns)
{
	for (unsigned i = 0; i < TIMERS; i++) {
		WEIR_SCOPE(scope, timeout_ns);
	}
	return TIMERS;
}

static uint64_t scope_plain(void *arg)
{
	(void)arg;
	return scopes_with_timeout(WEIR_FOREVER);
}

static uint64_t timer_armed_cancelled(void *arg)
{
	(void)arg;
	return scopes_with_timeout(10 * WEIR_SEC);
}

static uint64_t timer_short_cancelled(void *arg)
{
	(void)arg;
	return scopes_with_timeout(100 * WEIR_MS);
}

static int sleep_long(void *arg)
{
	(void)arg;
	return weir_sleep(60 * WEIR_SEC) == -ECANCELED ? 0 : -EIO;
}

/* In libweir.a like the switch: a worker's wheel, bare. */
struct timer {
	void *links[2];
	int64_t expires_ns;
};
extern const size_t weir__wheel_bytes;
void weir__wheel_init(void *wheel, int64_t now_ns);
void weir__timer_arm(void *wheel, struct timer *timer, int64_t expires_ns);
void weir__timer_cancel(void *wheel, struct timer *timer);

/* Up to a minute from now, none like the one before; all armed, then all cancelled. */
static uint64_t timers_armed(uint64_t count)
{
	void *wheel = weir_alloc_aligned(64, weir__wheel_bytes);
	int64_t now = weir_now();
	struct timer *timers = weir_zalloc(count * sizeof *timers);
	if (!wheel || !timers) {
		weir_free(timers);
		weir_free(wheel);
		return 0;
	}
	weir__wheel_init(wheel, now);
	for (uint64_t i = 0; i < count; i++)
		weir__timer_arm(wheel, &timers[i], now + (int64_t)(i * 7919 % 60000) * WEIR_MS);
	for (uint64_t i = 0; i < count; i++)
		weir__timer_cancel(wheel, &timers[i]);
	weir_free(timers);
	weir_free(wheel);
	return count;
}

static uint64_t timers_100000(void *arg)
{
	(void)arg;
	return timers_armed(100000);
}

static uint64_t timers_1000000(void *arg)
{
	(void)arg;
	return timers_armed(1000000);
}

/* Spawn, park in a sleep, cancel, join: many tasks, each with a stack of its own. */
static uint64_t sleep_cancelled(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < SLEEPERS; i++) {
		if (weir_spawn(&scope, sleep_long, NULL) < 0)
			return 0;
	}
	if (weir_yield() < 0)
		return 0;
	weir_scope_cancel(&scope);
	int err = weir_scope_wait(&scope);
	return err == 0 || err == -ECANCELED ? SLEEPERS : 0;
}

/* ---- channels ------------------------------------------------------------------------------ */

static uint64_t chan_pingpong(void *arg)
{
	(void)arg;
	return round_trips(TRIPS, 0);
}

static uint64_t chan_spsc_1(void *arg)
{
	(void)arg;
	return stream_items(ITEMS, 1, 1, 1);
}

static uint64_t chan_spsc_128(void *arg)
{
	(void)arg;
	return stream_items(ITEMS, 1, 128, 1);
}

static uint64_t chan_mpsc_1(void *arg)
{
	(void)arg;
	return stream_items(ITEMS, 5, 1, 1);
}

static uint64_t chan_mpsc_128(void *arg)
{
	(void)arg;
	return stream_items(ITEMS, 5, 128, 1);
}

/* ---- all ----------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	static struct bench bench;
	const char *text = getenv("WEIR_WORKERS");
	static const struct bench_row rows[] = {
		{ "switch_out_of_line", switch_out_of_line },
		{ "yield_200", yield_200 },
		{ "yield_1000", yield_1000 },
		{ "yield_2", yield_2 },
		{ "yield_alone", yield_alone },
		{ "spawn_join_10000", spawn_join_10000 },
		{ "spawn_join_1", spawn_join_1 },
		{ "alloc_task_1000", alloc_task_1000 },
		{ "chained_spawn", chained_spawn },
		{ "scope_plain", scope_plain },
		{ "timer_armed_cancelled", timer_armed_cancelled },
		{ "timer_short_cancelled", timer_short_cancelled },
		{ "timers_100000", timers_100000 },
		{ "timers_1000000", timers_1000000 },
		{ "sleep_cancelled", sleep_cancelled },
		{ "chan_pingpong", chan_pingpong },
		{ "chan_spsc_1", chan_spsc_1 },
		{ "chan_spsc_128", chan_spsc_128 },
		{ "chan_mpsc_1", chan_mpsc_1 },
		{ "chan_mpsc_128", chan_mpsc_128 },
		{ NULL, NULL },
	};
	bench_init(&bench, "bench_runtime", argc, argv);
	bench_add_rows(&bench, rows);
	return bench_run_tasks(&bench, bench_run_in_task, text ? (unsigned)atoi(text) : 1);
}
