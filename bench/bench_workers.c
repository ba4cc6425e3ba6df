/* SPDX-License-Identifier: MIT */
/*
 * bench_workers.c: what it costs to reach another worker: messages, tasks, calls, channels.
 *
 * Two workers, and two tables. In the first the other worker sleeps whenever it has nothing to do,
 * and the system's wake-up is part of the figure; in the second a task on it yields without end, so
 * that it is awake.
 */
#include <stdatomic.h>

#include <weir/weir.h>

#include "tasks.h"

enum {
	POSTS = 2000, /* fewer than wait for a worker at once */
	SPAWNS = 10000,
	CALLS = 5000,
	TRIPS = 20000,
	ITEMS = 100000,
	SENDERS = 5,
	BRANCHES = 10,
	DEPTH = 4,
};

static _Atomic bool stay_awake;

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int yield_on(void *arg)
{
	(void)arg;
	while (stay_awake) {
		int err = weir_yield();
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- Messages ------------------------------------------------------------------------------- */

static void ignore(void *arg)
{
	(void)arg;
}

/* The sender's side alone: nobody waits for them to run. */
static uint64_t post(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < POSTS; i++)
		if (weir_post(1, ignore, NULL) < 0)
			return 0;
	return POSTS;
}

static uint64_t call(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < CALLS; i++)
		if (weir_call_on(1, nothing, NULL) < 0)
			return 0;
	return CALLS;
}

/* ---- Tasks ---------------------------------------------------------------------------------- */

static uint64_t spawn_many(unsigned worker, bool any)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < SPAWNS; i++)
		if (weir_spawn(&scope, nothing, NULL, .worker = worker, .any = any) < 0)
			return 0;
	return weir_scope_wait(&scope) < 0 ? 0 : SPAWNS;
}

static uint64_t spawn_many_local(void *arg)
{
	(void)arg;
	return spawn_many(0, false);
}

static uint64_t spawn_many_any(void *arg)
{
	(void)arg;
	return spawn_many(0, true);
}

static uint64_t spawn_many_remote(void *arg)
{
	(void)arg;
	return spawn_many(WEIR_ON_WORKER(1), false);
}

struct node {
	unsigned depth;
	bool any;
};

static int grow(void *arg)
{
	const struct node *node = arg;
	struct node below = { node->depth - 1, node->any };

	if (node->depth == 0)
		return 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < BRANCHES; i++) {
		int err = weir_spawn(&scope, grow, &below, .any = node->any);
		if (err < 0)
			return err;
	}
	return weir_scope_wait(&scope);
}

/* 11,111 tasks, ten below each; one operation is one task. */
static uint64_t tree(bool any)
{
	struct node root = { DEPTH, any };
	uint64_t tasks = 0;

	for (unsigned i = 0, level = 1; i <= DEPTH; i++, level *= BRANCHES)
		tasks += level;
	return grow(&root) < 0 ? 0 : tasks;
}

static uint64_t tree_local(void *arg)
{
	(void)arg;
	return tree(false);
}

static uint64_t tree_any(void *arg)
{
	(void)arg;
	return tree(true);
}

/* ---- Channels ------------------------------------------------------------------------------- */

static uint64_t chan_pingpong(void *arg)
{
	(void)arg;
	return round_trips(TRIPS, 1);
}

static uint64_t chan_spsc_128(void *arg)
{
	(void)arg;
	return stream_items(ITEMS, 1, 128, 2);
}

static uint64_t chan_mpsc_128(void *arg)
{
	(void)arg;
	return stream_items(ITEMS, SENDERS, 128, 2);
}

/* ---- Both tables ---------------------------------------------------------------------------- */

static int run_busy(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	stay_awake = true;
	int err = weir_spawn(&scope, yield_on, NULL, .worker = WEIR_ON_WORKER(1));
	if (err < 0)
		return err;
	bench_run(arg);
	stay_awake = false;
	return weir_scope_wait(&scope);
}

int main(int argc, char **argv)
{
	static struct bench idle, busy;
	static const struct bench_row rows_idle[] = {
		{ "call_idle", call },
		{ "spawn_many_local", spawn_many_local },
		{ "spawn_many_any", spawn_many_any },
		{ "spawn_many_remote_idle", spawn_many_remote },
		{ "tree_local", tree_local },
		{ "tree_any", tree_any },
		{ "chan_pingpong_idle", chan_pingpong },
		{ "chan_spsc_128", chan_spsc_128 },
		{ "chan_mpsc_128", chan_mpsc_128 },
		{ NULL, NULL },
	};
	static const struct bench_row rows_busy[] = {
		{ "post_busy", post },
		{ "call_busy", call },
		{ "spawn_many_remote_busy", spawn_many_remote },
		{ "chan_pingpong_busy", chan_pingpong },
		{ NULL, NULL },
	};

	bench_init(&idle, "bench_workers", argc, argv);
	bench_init(&busy, "bench_workers", argc, argv);
	bench_add_rows(&idle, rows_idle);
	bench_add_rows(&busy, rows_busy);
	int failed = bench_run_tasks(&idle, bench_run_in_task, 2);
	return bench_run_tasks(&busy, run_busy, 2) || failed;
}
