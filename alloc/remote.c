/* SPDX-License-Identifier: MIT */
/*
 * remote.c: blocks freed by a thread that does not own them.
 *
 * The freeing thread pushes onto the owner's inbox (one CAS); the owner takes all of it with one
 * exchange before it refills a cache and once per turn of its loop. Nobody else touches an owner's
 * caches, so the paths in alloc.h and cache.c stay free of atomics. Pop-all has no ABA problem.
 *
 * A heap without an owner has nobody to come and look: whoever holds the heaps lock is its owner.
 */
#include <stdatomic.h>

#include "alloc/heap.h"

static void push(struct weir__home *owner, struct weir__returned *first,
		 struct weir__returned *last)
{
	struct weir__returned *head = atomic_load_explicit(&owner->inbox, memory_order_relaxed);
	do {
		last->next = head;
		/* release: the drain's acquire sees the links and the last writes to the blocks */
	} while (!atomic_compare_exchange_weak_explicit(
		&owner->inbox, &head, first, memory_order_release, memory_order_relaxed));
}

/* True when it took the block: the owner had gone and the lock stood in for it. */
static bool put_ownerless(struct weir__home *owner, uint32_t index, void *block)
{
	bool ownerless;
	pthread_mutex_lock(&weir__heaps_lock);
	ownerless = !atomic_load_explicit(&owner->owned, memory_order_relaxed);
	if (ownerless) {
		weir__remote_drain(owner);
		weir__home_put(owner, index, block);
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	return ownerless;
}

void weir__remote_free(struct weir__home *owner, uint32_t index, void *block)
{
	/*
	 * `owned` may change right after it was read. Then the block waits in the inbox for the
	 * next owner, or for the next who frees to the heap under the lock.
	 */
	if (!atomic_load_explicit(&owner->owned, memory_order_relaxed) &&
	    put_ownerless(owner, index, block))
		return;
	struct weir__returned *link = block;
	push(owner, link, link);
}

void weir__remote_drain(struct weir__home *home)
{
	if (atomic_load_explicit(&home->inbox, memory_order_relaxed) == NULL)
		return;
	struct weir__returned *link =
		atomic_exchange_explicit(&home->inbox, NULL, memory_order_acquire);
	while (link != NULL) {
		struct weir__returned *next = link->next;
		uint32_t index = weir__span_pool(home, link);
		WEIR__ADD(home->bins[index].remote_frees, 1);
		weir__home_put(home, index, link);
		link = next;
	}
}
