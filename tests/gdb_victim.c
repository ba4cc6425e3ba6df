/* SPDX-License-Identifier: MIT */
/*
 * gdb_victim.c: tasks for tests/gdb.sh to find: four that are parked, one that computes on worker
 * 1. Built with optimisation and without frame pointers, like a user's program.
 */
#include <stdio.h>
#include <weir/weir.h>

__attribute__((noinline)) static int sleep_within(int depth)
{
	int err = depth > 0 ? sleep_within(depth - 1) : weir_sleep(1000 * WEIR_SEC);

	__asm__ volatile("" ::: "memory"); /* so that the calls are no jumps */
	return err;
}

static int sleep_deeply(void *arg)
{
	int err = sleep_within(*(int *)arg);

	__asm__ volatile("" ::: "memory");
	return err;
}

static int wait_for_item(void *arg)
{
	int item;

	return weir_chan_recv(arg, &item);
}

static int sleep_joined(void *arg)
{
	(void)arg;
	return weir_sleep(1000 * WEIR_SEC);
}

static volatile unsigned long turns;

static int compute(void *arg)
{
	puts(arg);
	fflush(stdout);
	for (;;)
		turns++;
	return 0;
}

static int victim(void *arg)
{
	int depth = 3;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	weir_auto_chan chan = weir_chan_new(sizeof(int), 1);
	WEIR_SCOPE(inner, WEIR_FOREVER);
	struct weir_join join;

	if (weir_spawn(&scope, sleep_deeply, &depth, .name = "sleeper") < 0 ||
	    weir_spawn(&inner, wait_for_item, chan, .worker = WEIR_ON_WORKER(1)) < 0 ||
	    weir_spawn(&inner, sleep_joined, NULL, .join = &join) < 0 ||
	    weir_sleep(50 * WEIR_MS) < 0 ||
	    weir_spawn(&inner, compute, arg, .name = "burner", .worker = WEIR_ON_WORKER(1)) < 0)
		return -1;
	return weir_scope_wait(&scope);
}

int main(void)
{
	return weir_run(victim, "ready", .workers = 2) != 0;
}
