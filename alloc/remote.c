/* SPDX-License-Identifier: MIT */
/*
 * remote.c: blocks freed by a thread that does not own them.
 *
 * The freeing worker gathers blocks of one owner and posts them with one CAS: at 32 blocks, at 16
 * KiB, or at the end of its turn. The owner takes all that was posted with one exchange, before it
 * refills a cache and once per turn. Nobody else touches an owner's caches, so the paths in alloc.h
 * and cache.c stay free of atomics, and pop-all has no ABA problem.
 *
 * What this costs is the way of each block's cache line to the sender's CPU and back, and most of
 * it is waiting. So nobody waits for one line to learn of the next: a block is written to when its
 * batch is complete, and was asked for when it was freed; and as many addresses as a block has room
 * for lie in it, so that the owner follows a link only for each such carrier and fetches what is
 * written in it at once.
 *
 * A block on its way carries a mark, which is how a second free of it is noticed, and how the owner
 * sees that somebody still writes.
 *
 * A heap without an owner has nobody to come and look: whoever holds the heaps lock is its owner.
 */
#include <stdatomic.h>

#include "alloc/heap.h"

enum {
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

/* How many others it carries; more than any could: it is not on its way. */
static uintptr_t carried(const struct weir__returned *block)
{
	return block->mark - mark_of(block);
}

bool weir__remote_is_returning(const void *block)
{
	return carried(block) < WEIR__POST_BLOCKS;
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

/* A batch as the owner gets it. */
struct chain {
	struct weir__returned *first;
	struct weir__returned *last;
	uint32_t bytes;
};

/* The bytes are counted before they can be taken, so that the owner never takes off too much. */
static void push(struct weir__home *owner, const struct chain *chain)
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

/* A block has room for so many addresses behind its link and its mark. */
static uint32_t room_of(uint32_t bytes)
{
	if (weir__config.debug > 0)
		return 0; /* or there would be little left of the pattern behind its end */
	uint32_t room = (bytes - (uint32_t)sizeof(struct weir__returned)) / sizeof(void *);
	return room < WEIR__POST_BLOCKS - 1 ? room : WEIR__POST_BLOCKS - 1;
}

/* Marks them all. Those that are marked already are left out. Returns how many are left. */
static uint32_t mark_all(struct weir__outbox *outbox)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < outbox->count; i++) {
		struct weir__returned *block = outbox->sent[i].block;
		if (weir__remote_is_returning(block)) {
			weir__report("freed twice", block);
			continue;
		}
		block->mark = mark_of(block);
		outbox->sent[count++] = outbox->sent[i];
	}
	return count;
}

static struct chain make_chain(struct weir__outbox *outbox)
{
	struct chain chain = { NULL, NULL, 0 };
	uint32_t count = mark_all(outbox);
	for (uint32_t i = 0; i < count;) {
		struct weir__returned *carrier = outbox->sent[i].block;
		uint32_t also = room_of(outbox->sent[i].bytes);
		chain.bytes += outbox->sent[i++].bytes;
		if (also > count - i)
			also = count - i;
		for (uint32_t k = 0; k < also; k++) {
			carrier->also[k] = outbox->sent[i].block;
			chain.bytes += outbox->sent[i++].bytes;
		}
		carrier->mark += also;
		carrier->next = chain.first;
		if (chain.last == NULL)
			chain.last = carrier;
		chain.first = carrier;
	}
	outbox->count = 0;
	outbox->bytes = 0;
	return chain;
}

/*
 * Whoever posts pushes and then looks for an owner; an owner who leaves says so and then looks into
 * the inbox (weir__heap_detach()). One of the two sees the other: tests/model/inbox.pml.
 */
static void post(struct weir__outbox *outbox)
{
	struct weir__home *owner = outbox->owner;
	struct chain chain = make_chain(outbox);
	if (chain.first == NULL)
		return;
	push(owner, &chain);
	/* seq_cst: after the push; with the owner's fence in weir__remote_leave() */
	if (atomic_load_explicit(&owner->owned, memory_order_seq_cst))
		return;
	pthread_mutex_lock(&weir__heaps_lock);
	if (!atomic_load_explicit(&owner->owned, memory_order_relaxed))
		drain_all(owner);
	pthread_mutex_unlock(&weir__heaps_lock);
}

static void add(struct weir__outbox *outbox, void *block, uint32_t bytes)
{
	if (weir__mode != 0)
		weir__watch_link(block, room_of(bytes));
	__builtin_prefetch(block, 1);
	outbox->sent[outbox->count++] = (struct weir__sent){ block, bytes };
	outbox->bytes += bytes;
}

/* Nobody would post a batch for it later; or the owner has to see at once that it is freed. */
static void send_alone(struct weir__home *owner, void *block, uint32_t bytes)
{
	struct weir__outbox outbox;
	outbox.owner = owner;
	outbox.count = outbox.bytes = 0;
	add(&outbox, block, bytes);
	post(&outbox);
}

void weir__remote_free(struct weir__home *owner, uint32_t index, void *block)
{
	struct weir__home *home = weir__home_self();
	const struct weir__pool *pool = &weir__pools[index];
	if (home == NULL) {
		send_alone(owner, block, pool->object_bytes);
		return;
	}
	WEIR__ADD(home->remote_sent, 1);
	if (pool->move != NULL) { /* the compactor goes by the mark */
		send_alone(owner, block, pool->object_bytes);
		return;
	}
	struct weir__outbox *outbox = &home->outbox[owner->id % WEIR__OUTBOXES];
	if (outbox->count > 0 && outbox->owner != owner)
		post(outbox);
	outbox->owner = owner;
	home->has_outgoing = true;
	add(outbox, block, pool->object_bytes);
	if (outbox->count == WEIR__POST_BLOCKS || outbox->bytes >= POST_BYTES)
		post(outbox);
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
	uint32_t index = weir__unit_pool(weir__unit_of(&home->heap, block));
	block->mark = 0;
	if (weir__config.debug > 0)
		weir__check_received(home, block);
	WEIR__ADD(home->bins[index].remote_frees, 1);
	if (!weir__heap_push(&home->heap, block))
		weir__home_put(home, index, block);
	return weir__pools[index].object_bytes;
}

static bool is_of(const struct weir__home *home, const struct weir__returned *block)
{
	return (uintptr_t)block - home->heap.window < home->heap.window_bytes;
}

/* What a carrier tells of, each if it is what was sent. Returns their bytes. */
static uint64_t receive_also(struct weir__home *home, const struct weir__returned *carrier)
{
	uintptr_t also = carried(carrier);
	uint64_t bytes = 0;
	for (uintptr_t i = 0; i < also; i++)
		__builtin_prefetch(carrier->also[i], 1);
	for (uintptr_t i = 0; i < also; i++) {
		struct weir__returned *block = carrier->also[i];
		bool ours = is_of(home, block);
		if (ours && carried(block) == 0)
			bytes += receive(home, block);
		else
			weir__report("written to after it was freed", ours ? block : carrier);
	}
	return bytes;
}

/* Takes so many of those that are to be put away, or a few more. False: one cannot be. */
static bool receive_some(struct weir__home *home, unsigned blocks)
{
	uint64_t bytes = 0;
	bool ok = true;

	for (unsigned n = 0; home->returned != NULL && n < blocks;) {
		struct weir__returned *carrier = home->returned;
		ok = is_of(home, carrier) && weir__remote_is_returning(carrier);
		if (!ok)
			break;
		home->returned = carrier->next;
		__builtin_prefetch(carrier->next, 1);
		n += 1 + (unsigned)carried(carrier);
		bytes += receive_also(home, carrier);
		bytes += receive(home, carrier);
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
