/* SPDX-License-Identifier: MIT */
/*
 * watch.h: a thread per runtime that looks at the workers from outside.
 *
 * It looks for stalls while a worker is awake, and sleeps without a timeout when none is.
 */
#ifndef WEIR_WATCH_H
#define WEIR_WATCH_H

#include "runtime/task.h"

/* What can be asked for from signal handlers. */
enum weir__watch_order {
	WEIR__WATCH_QUIT = 1 << 0,
	WEIR__WATCH_DUMP = 1 << 1, /* all tasks to standard error */
	/* all tasks have been told to end: who has not in WEIR_STOP_MS is listed and abandoned */
	WEIR__WATCH_LAST_CALL = 1 << 2,
};

/* Before any worker has a task. Returns 0, -EAGAIN or -ENOMEM. */
WEIR_MUST int weir__watcher_start(struct weir__runtime *runtime);

/*
 * On worker 0's thread, before any worker leaves: waits until nobody will be asked anything any
 * more. Orders are still taken, and nothing comes of them, until all threads are gone.
 */
void weir__watcher_stop(struct weir__runtime *runtime);
/* Does that first where it has not been done. */
void weir__watcher_free(struct weir__runtime *runtime);

/* Any thread, signal handlers too. Without a watcher it does nothing. */
void weir__watcher_order(struct weir__runtime *runtime, unsigned order);

/* A worker has woken up. One load, but for the first after all have slept. */
void weir__watcher_rouse(struct weir__runtime *runtime);
static inline void weir__watcher_see(struct weir__runtime *runtime)
{
	if (__builtin_expect(atomic_load_explicit(&runtime->is_unwatched, memory_order_relaxed), 0))
		weir__watcher_rouse(runtime);
}

/* A worker has found the order to stand still: returns when it may go on. On the scheduler stack.
 */
void weir__watcher_stand_still(struct weir__worker *self);

#endif
