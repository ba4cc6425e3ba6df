/* SPDX-License-Identifier: MIT */
/*
 * remote.c: blocks freed by a thread that does not own them.
 *
 * The freeing worker links blocks of one owner into a chain and posts it with one CAS: at 32
 * blocks, at 16 KiB, or at the end of its turn. The owner takes all that was posted with one
 * exchange, before it refills a cache and once per turn. Nobody else touches an owner's caches, so
 * the paths in alloc.h and cache.c stay free of atomics, and pop-all has no ABA problem.
 *
 * A block on its way carries a link and a mark in its first two words. The mark is how a second
 * free of it is noticed before it ties the chain into a ring, and how the owner sees that somebody
 * still writes.
 *
 * A heap without an owner has nobody to come and look: whoever holds the heaps lock is its owner.
 */
#include <stdatomic.h>

#include "alloc/heap.h"

enum {
	POST_BLOCKS = 32,
	POST_BYTES = 16 << 10,
	WAKE_BYTES = 256 << 10, /* waiting for an owner that may be asleep */
	DRAIN_BLOCKS = 4096,	/* per turn; what is left waits for the next */
};

static pthread_mutex_t wake_lock = PTHREAD_MUTEX_INITIALIZER;

void weir__remote_lock(void)
{
	pthread_mutex_lock(&wake_lock);
}

void weir__remote_unlock(void)
{
	pthread_mutex_unlock(&wake_lock);
}

/* Not a value that a program would leave in a block: it holds the addresses of both. */
static uintptr_t mark_of(const struct weir__returned *block)
{
	return ((uintptr_t)&weir__heap_none * 0x9e3779b97f4a7c15u) ^ (uintptr_t)block;
}

/* Of a block in use it may be anything, and be written at this moment. */
__attribute__((no_sanitize("address", "thread"))) bool weir__remote_is_returning(const void *block)
{
	const volatile struct weir__returned *returned = block;
	weir__watch_pause(true);
	bool is_marked = returned->mark == mark_of(block);
	weir__watch_pause(false);
	return is_marked;
}

static void drain_all(struct weir__home *home)
{
	while (weir__remote_waiting(home))
		weir__remote_drain(home);
}

/* ---- Sending -------------------------------------------------------------------------------- */

/* The lock keeps what wake() uses alive; it is taken once in 256 KiB. */
static void wake_owner(struct weir__home *owner)
{
	pthread_mutex_lock(&wake_lock);
	if (owner->wake != NULL)
		owner->wake(owner->wake_arg);
	pthread_mutex_unlock(&wake_lock);
}

void weir__remote_wake_all(void)
{
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_acquire);
	for (uint32_t i = 0; i < count; i++)
		if (weir__homes[i] != weir__home_self())
			wake_owner(weir__homes[i]);
}

/* The bytes are counted before they can be taken, so that the owner never takes off too much. */
static void push(struct weir__home *owner, const struct weir__outbox *chain)
{
	uint64_t before =
		atomic_fetch_add_explicit(&owner->inbox_bytes, chain->bytes, memory_order_relaxed);
	struct weir__returned *head = atomic_load_explicit(&owner->inbox, memory_order_relaxed);
	do {
		chain->last->next = head;
		/*
		 * release: the drain's acquire sees the links and the last writes to the blocks;
		 * seq_cst: post() looks for an owner only after this
		 */
	} while (!atomic_compare_exchange_weak_explicit(
		&owner->inbox, &head, chain->first, memory_order_seq_cst, memory_order_relaxed));
	if (before / WAKE_BYTES < (before + chain->bytes) / WAKE_BYTES)
		wake_owner(owner);
}

/*
 * Whoever posts pushes and then looks for an owner; an owner who leaves says so and then looks into
 * the inbox (weir__heap_detach()). One of the two sees the other: tests/model/inbox.pml.
 */
static void post(struct weir__outbox *chain)
{
	struct weir__home *owner = chain->owner;
	push(owner, chain);
	chain->count = 0;
	chain->bytes = 0;
	/* seq_cst: after the push; with the owner's fence in weir__remote_leave() */
	if (atomic_load_explicit(&owner->owned, memory_order_seq_cst))
		return;
	pthread_mutex_lock(&weir__heaps_lock);
	if (!atomic_load_explicit(&owner->owned, memory_order_relaxed))
		drain_all(owner);
	pthread_mutex_unlock(&weir__heaps_lock);
}

static void add(struct weir__outbox *chain, struct weir__returned *block, uint32_t bytes)
{
	block->mark = mark_of(block);
	block->next = chain->first;
	if (chain->count++ == 0)
		chain->last = block;
	chain->first = block;
	chain->bytes += bytes;
}

void weir__remote_free(struct weir__home *owner, uint32_t index, void *block)
{
	struct weir__home *home = weir__home_self();
	struct weir__returned *link = block;
	uint32_t bytes = weir__pools[index].object_bytes;
	if (weir__mode != 0)
		weir__watch_link(block);
	if (link->mark == mark_of(link)) {
		weir__report("freed twice", block);
		return;
	}
	if (home == NULL) { /* nobody would post a chain for it later */
		struct weir__outbox chain = { .owner = owner };
		add(&chain, link, bytes);
		post(&chain);
		return;
	}
	struct weir__outbox *chain = &home->outbox[owner->id % WEIR__OUTBOXES];
	if (chain->count > 0 && chain->owner != owner)
		post(chain);
	chain->owner = owner;
	home->has_outgoing = true;
	add(chain, link, bytes);
	WEIR__ADD(home->remote_sent, 1);
	if (chain->count >= POST_BLOCKS || chain->bytes >= POST_BYTES)
		post(chain);
}

void weir__remote_post(struct weir__home *home)
{
	if (!home->has_outgoing)
		return;
	home->has_outgoing = false;
	for (unsigned i = 0; i < WEIR__OUTBOXES; i++)
		if (home->outbox[i].count > 0)
			post(&home->outbox[i]);
}

/* ---- Receiving ------------------------------------------------------------------------------ */

/* Returns its bytes. */
static uint32_t receive(struct weir__home *home, struct weir__returned *block)
{
	uint32_t index = weir__span_pool(home, block);
	block->mark = 0;
	if (weir__config.debug > 0)
		weir__check_received(home, block);
	WEIR__ADD(home->bins[index].remote_frees, 1);
	weir__home_put(home, index, block);
	return weir__pools[index].object_bytes;
}

/* Takes up to so many of those that are to be put away. False: one cannot be. */
static bool receive_some(struct weir__home *home, unsigned blocks)
{
	uint64_t bytes = 0;
	bool ok = true;

	for (unsigned n = 0; home->returned != NULL && n < blocks; n++) {
		struct weir__returned *block = home->returned;
		ok = weir__home_of(block) == home && block->mark == mark_of(block);
		if (!ok)
			break;
		home->returned = block->next;
		bytes += receive(home, block);
	}
	atomic_fetch_sub_explicit(&home->inbox_bytes, bytes, memory_order_relaxed);
	return ok;
}

void weir__remote_drain(struct weir__home *home)
{
	if (home->returned == NULL) {
		if (atomic_load_explicit(&home->inbox, memory_order_relaxed) == NULL)
			return;
		home->returned = atomic_exchange_explicit(&home->inbox, NULL, memory_order_acquire);
	}
	if (!receive_some(home, DRAIN_BLOCKS)) {
		weir__report("written to after it was freed; what follows it is lost",
			     home->returned);
		home->returned = NULL;
	}
}

void weir__remote_leave(struct weir__home *home)
{
	atomic_store_explicit(&home->owned, 0, memory_order_relaxed);
	/* with the push and the load in post(): who did not see this is seen here */
	atomic_thread_fence(memory_order_seq_cst);
	drain_all(home);
}
