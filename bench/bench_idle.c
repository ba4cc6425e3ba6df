/* SPDX-License-Identifier: MIT */
/*
 * bench_idle.c: what a task costs that only waits.
 *
 *   bench_idle [TASKS]
 *
 * Starts so many tasks (a million) on one worker, lets each park in a sleep, and prints the
 * resident memory that a task added and the time to start it. Then it cancels them and joins. A
 * parked task has a stack, so the figure is mostly the one page of it that is touched.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <weir/weir.h>

#include "bench.h"
#include "procstat.h"

static int wait_long(void *arg)
{
	(void)arg;
	int err = weir_sleep(3600 * WEIR_SEC);
	return err == -ECANCELED ? 0 : err;
}

static int64_t resident(void)
{
	struct procstat stat = { 0 };
	return procstat_read(getpid(), &stat) == 0 ? stat.rss_bytes : 0;
}

static int measure(void *arg)
{
	unsigned tasks = *(const unsigned *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int64_t before = resident(), start = bench_now_ns();
	for (unsigned i = 0; i < tasks; i++) {
		int err = weir_spawn(&scope, wait_long, NULL);
		if (err < 0)
			return err;
	}
	int err = weir_yield(); /* they all run, and park */
	if (err < 0)
		return err;
	int64_t ns = bench_now_ns() - start;
	printf("bytes_per_task %.1f\nns_per_task %.1f\n", (double)(resident() - before) / tasks,
	       (double)ns / tasks);
	fflush(stdout);
	weir_scope_cancel(&scope);
	err = weir_scope_wait(&scope);
	return err == -ECANCELED ? 0 : err;
}

int main(int argc, char **argv)
{
	unsigned tasks = argc > 1 ? (unsigned)atoi(argv[1]) : 1000000;
	int err = weir_run(measure, &tasks, .workers = 1);
	if (err < 0)
		fprintf(stderr, "bench_idle: %s\n", weir_strerror(err));
	return err < 0;
}
