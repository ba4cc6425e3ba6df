/* SPDX-License-Identifier: MIT */
/*
 * driver.h: the seam by which a worker sleeps without knowing what it sleeps in.
 *
 * io/ring.c (io_uring) and io/poll.c (epoll) implement it. All calls but wake() come from the
 * worker's own thread, on its scheduler stack. Completions only make tasks ready: no user code runs
 * inside.
 */
#ifndef WEIR_DRIVER_H
#define WEIR_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

struct weir__driver;
struct weir__readiness;

/* `res`: what a descriptor is ready for, as in poll(2), or -errno. On the scheduler stack. */
typedef void (*weir__readiness_fn)(void *arg, int res);

struct weir__driver_ops {
	const char *name;
	/*
	 * Hands queued operations to the kernel and, when `wait_until_ns` is not 0, sleeps until
	 * something completes, wake() is called or that time (absolute, monotonic; INT64_MAX: no
	 * limit) comes. Does no system call when nothing is queued, nothing can have completed and
	 * it need not wait.
	 */
	void (*submit_and_wait)(struct weir__driver *driver, int64_t wait_until_ns);
	/* Takes what has completed (bounded) and makes the tasks ready. Returns how many
	 * completions. */
	unsigned (*reap)(struct weir__driver *driver);
	/*
	 * Ends the target's current or next wait. Any thread, signal handlers too when `from` is
	 * NULL; `from` is the calling worker's own driver.
	 */
	void (*wake)(struct weir__driver *target, struct weir__driver *from);
	/* reap() has something to do, or will after submit_and_wait(). NULL: only that can tell. */
	bool (*is_ready)(const struct weir__driver *driver);
	/*
	 * reap() would find something, as others see it: any worker of its runtime, while they run.
	 * NULL: only the kernel knows.
	 */
	bool (*is_due)(const struct weir__driver *driver);
	/*
	 * For a worker in a foreign loop, which sleeps by itself: a descriptor (or -errno) readable
	 * while there is something to reap; and, before it sleeps, hands over what is queued and
	 * returns when the driver next wants a turn without that (absolute; 0: now, INT64_MAX:
	 * never).
	 */
	int (*pollable)(struct weir__driver *driver);
	int64_t (*flush)(struct weir__driver *driver);
	/* Cancels what is in flight, waits for the kernel to let go, frees. */
	void (*close)(struct weir__driver *driver); /* all but its own memory: see weir__io_new() */
	/*
	 * Calls done(arg, res) once, when `fd` is ready for `events` (as in poll(2)), unless it is
	 * forgotten before. NULL with *ret_res: over already. Both may be NULL: not supported.
	 */
	struct weir__readiness *(*readiness_begin)(struct weir__driver *driver, int fd,
						   unsigned events, weir__readiness_fn done,
						   void *arg, int *ret_res);
	void (*readiness_forget)(struct weir__readiness *readiness);
};

/* For counters with one writer that others read at any time: a plain add, and no torn word. */
static inline void weir__count(uint64_t *counter, int64_t n)
{
	__atomic_store_n(counter, *counter + (uint64_t)n, __ATOMIC_RELAXED);
}

/* Embedded first in each implementation. The counters: owner writes, others read relaxed. */
struct weir__driver {
	const struct weir__driver_ops *ops;
	uint64_t enters;
	uint64_t submissions;
	uint64_t completions;
	uint64_t recv_empty;
	uint64_t cq_overflows;
	uint64_t stale_completions;
};

#endif
