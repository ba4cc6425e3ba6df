/* SPDX-License-Identifier: MIT */
/*
 * stats.c: what the workers have done, read from any of them.
 *
 * Each counter has one writer, who adds to it with one plain instruction; readers take a word that
 * may be a moment old. That is a race to the letter, and TSan is kept from this one reader. What is
 * counted later is read first: nobody finds more sleeps than turns, or more ends of a sleep than
 * sleeps.
 */
#include "runtime/task.h"

#include <string.h>

__attribute__((noinline, no_sanitize("thread"))) uint64_t weir__peek(const uint64_t *counter)
{
	return *(const volatile uint64_t *)counter;
}

static void add_worker(const struct weir__worker *worker, struct weir_worker_stats *sum)
{
	const struct weir__worker_counts *counts = &worker->counts;
	const struct weir__driver *driver = weir__driver_of(worker);

	sum->switches += weir__peek(&counts->switches);
	sum->spawns += weir__peek(&counts->spawns);
	sum->tasks += weir__peek(&worker->live);
	sum->wakes += weir__peek(&counts->wakes);
	sum->wakes_io += weir__peek(&counts->wakes_io);
	sum->wakes_timer += weir__peek(&counts->wakes_timer);
	sum->wakes_heap += weir__peek(&counts->wakes_heap);
	sum->wakes_other += weir__peek(&counts->wakes_other);
	sum->parks += weir__peek(&counts->parks);
	sum->turns += weir__peek(&counts->turns);
	sum->steals += weir__peek(&counts->steals);
	sum->wakes_late += weir__peek(&counts->wakes_late) + weir__peek(&worker->woken_late);
	sum->lingers_found += weir__peek(&counts->lingers_found);
	sum->lingers += weir__peek(&counts->lingers);
	sum->rescues += weir__peek(&counts->rescues);
	sum->stalls += weir__peek(&worker->stalls);
	sum->timers_fired += weir__peek(&counts->timers_fired);
	if (!driver)
		return;
	sum->enters += weir__peek(&driver->enters);
	sum->submissions += weir__peek(&driver->submissions);
	sum->completions += weir__peek(&driver->completions);
	sum->recv_empty += weir__peek(&driver->recv_empty);
	sum->cq_overflows += weir__peek(&driver->cq_overflows);
	sum->stale_completions += weir__peek(&driver->stale_completions);
}

int weir_worker_stats_get(int worker, struct weir_worker_stats *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_worker_stats sum = { 0 };

	if (!self || worker < WEIR_ALL_WORKERS || worker >= (int)self->runtime->workers_count)
		return -EINVAL;
	for (unsigned i = 0; i < self->runtime->workers_count; i++)
		if (worker == WEIR_ALL_WORKERS || worker == (int)i)
			add_worker(self->runtime->workers[i], &sum);
	*ret = sum;
	return 0;
}

const char *weir_version(void)
{
	return WEIR_VERSION;
}
