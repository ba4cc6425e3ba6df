/* SPDX-License-Identifier: MIT */
/*
 * pressure.c: worker 0 hears of the kernel's stalls for want of memory.
 *
 * One poll, armed anew each time it fires, in whatever the worker sleeps in: while nothing stalls
 * it costs nothing and wakes nobody. The first runtime of a process has it. Where the kernel
 * refuses the trigger, or the poll, the allocator goes on reading the figures by itself; so it does
 * when the trigger fires more often than any can, as that of a removed cgroup does.
 */
#include "io/pressure.h"

#include <poll.h>
#include <stdatomic.h>
#include <unistd.h>

#include "alloc/alloc_internal.h"

enum { EARLY_MAX = 3 };
#define APART_NS (1000 * WEIR_MS) /* the kernel keeps them 2 s apart */

static _Atomic(struct weir__worker *) watcher;
/* the watcher's: */
static int trigger;
static struct weir__readiness *armed;
static int64_t fired_ns;
static unsigned early; /* firings in a row that came too soon */

static void arm(struct weir__worker *worker);

static void give_up(void)
{
	weir__stalls_told(false);
	armed = NULL;
	close(trigger);
	trigger = -1;
}

/* `res` as of the poll. Returns false when this is no trigger, or none any more. */
static bool fire(int res)
{
	int64_t now = weir__clock_ns();

	early = now - fired_ns < APART_NS ? early + 1 : 0;
	fired_ns = now;
	if (res < 0 || !(res & POLLPRI) || early > EARLY_MAX)
		return false;
	weir__stalls_happen(now);
	return true;
}

static void on_stall(void *arg, int res)
{
	armed = NULL;
	if (fire(res))
		arm(arg);
	else
		give_up();
}

static void arm(struct weir__worker *worker)
{
	int res;

	do {
		res = 0;
		armed = worker->driver->ops->readiness_begin(worker->driver, trigger, POLLPRI,
							     on_stall, worker, &res);
	} while (!armed && fire(res));
	if (!armed)
		give_up();
}

void weir__pressure_watch(struct weir__worker *worker, int fd)
{
	struct weir__worker *nobody = NULL;

	if (fd < 0)
		return;
	/* acquire and release: the next watcher sees what the last has left */
	if (!atomic_compare_exchange_strong_explicit(&watcher, &nobody, worker,
						     memory_order_acquire, memory_order_relaxed)) {
		close(fd);
		return;
	}
	trigger = fd;
	fired_ns = weir__clock_ns() - APART_NS;
	early = 0;
	weir__stalls_told(true);
	arm(worker);
}

void weir__pressure_unwatch(struct weir__worker *worker)
{
	if (atomic_load_explicit(&watcher, memory_order_relaxed) != worker)
		return;
	if (armed)
		worker->driver->ops->readiness_forget(armed);
	if (trigger >= 0)
		give_up();
	atomic_store_explicit(&watcher, NULL, memory_order_release);
}

void weir__pressure_forget(void)
{
	if (!atomic_load_explicit(&watcher, memory_order_relaxed))
		return;
	if (trigger >= 0)
		give_up();
	atomic_store_explicit(&watcher, NULL, memory_order_relaxed);
}
