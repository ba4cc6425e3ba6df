/* SPDX-License-Identifier: MIT */
/*
 * lend.c: what a worker asleep does not need, others may use.
 *
 * A worker that goes to sleep after an idle while lends its heap: its thread has no heap until it
 * wakes up, and whoever turns `lent` from LENT to HELD is the heap's owner for a moment. So its
 * caches, free runs and free objects serve others when they would otherwise be refused: memory
 * within the process's limit is not lost because it lies with a worker that has nothing to do. What
 * is allocated from a lent heap goes home as any block freed by another thread does.
 *
 * Nobody waits for a lent heap but its own thread, and that for as long as it takes to give a few
 * MiB back. A worker that never rests pays one load for it when it parks, and one when it wakes up.
 */
#include <sched.h>
#include <stdatomic.h>

#include "alloc/heap.h"

enum { OWN, LENT, HELD };

static __thread struct weir__home *lent_self;

/* ---- The owner ------------------------------------------------------------------------------ */

void weir__heap_lend(void)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL || !home->rests)
		return;
	lent_self = home;
	weir__heap_self = &weir__heap_none;
	/* release: who takes it sees it as its owner has left it */
	atomic_store_explicit(&home->lent, LENT, memory_order_release);
}

void weir__heap_resume(void)
{
	struct weir__home *home = lent_self;
	if (home == NULL)
		return;
	uint32_t lent = LENT;
	/* acquire: the owner sees what others did */
	while (!atomic_compare_exchange_weak_explicit(&home->lent, &lent, OWN, memory_order_acquire,
						      memory_order_relaxed)) {
		lent = LENT;
		sched_yield();
	}
	lent_self = NULL;
	weir__heap_self = &home->heap;
}

/* ---- The others ----------------------------------------------------------------------------- */

static bool take(struct weir__home *home)
{
	uint32_t lent = LENT;
	if (atomic_load_explicit(&home->lent, memory_order_relaxed) != LENT)
		return false;
	return atomic_compare_exchange_strong_explicit(&home->lent, &lent, HELD,
						       memory_order_acquire, memory_order_relaxed);
}

static void hand_back(struct weir__home *home)
{
	atomic_store_explicit(&home->lent, LENT, memory_order_release);
}

void weir__lent_each(bool (*visit)(struct weir__home *home, void *arg), void *arg)
{
	bool more = true;
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_acquire);
	for (uint32_t i = 0; i < count && more; i++)
		if (take(weir__homes[i])) {
			more = visit(weir__homes[i], arg);
			hand_back(weir__homes[i]);
		}
}

struct request {
	uint32_t index;
	void *block;
};

static bool get_from(struct weir__home *home, void *arg)
{
	struct request *request = arg;
	weir__remote_drain(home);
	request->block = weir__home_get(home, request->index);
	return request->block == NULL;
}

void *weir__lent_get(uint32_t index)
{
	struct weir__home *self = weir__home_self();
	struct request request = { index, NULL };
	bool refused = (weir__mode & WEIR__MODE_FAULTS) != 0 || (self != NULL && self->reclaiming);
	if (!refused)
		weir__lent_each(get_from, &request);
	return request.block;
}
