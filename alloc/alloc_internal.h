/* SPDX-License-Identifier: MIT */
/*
 * alloc_internal.h: what the layers above may use of the allocator besides <weir/alloc.h>.
 */
#ifndef WEIR_ALLOC_INTERNAL_H
#define WEIR_ALLOC_INTERNAL_H

#include <weir/alloc.h>

/* ---- Heaps: one per worker ------------------------------------------------------------------ */

/* Makes (or adopts) a heap for the calling thread. Returns 0 or -ENOMEM. */
WEIR_MUST int weir__heap_attach(void);

/* Hands the calling thread's heap over for the next attach; blocks in use stay valid. */
void weir__heap_detach(void);

/*
 * Once per turn of the worker's loop: takes home what others freed, and whatever adapting or
 * purging is due. A few loads when nothing is.
 */
void weir__heap_turn(int64_t now_ns);

/*
 * Before the worker parks: what weir__heap_turn() does, without its rate limits. Returns when it
 * next wants to be called (absolute ns), INT64_MAX when it can sleep for good.
 */
int64_t weir__heap_idle(int64_t now_ns);

/* ---- Task stacks ---------------------------------------------------------------------------- */

/*
 * A stack's descriptor lives out of line: page 0 of the stack is only touched when the task runs.
 * `top` is 16-byte aligned and coloured (offset by (i * 7 % 32) cache lines) so that tops do not
 * collide in cache.
 */
struct weir__stack {
	char *top;		  /* where the task starts, growing down */
	char *base;		  /* lowest usable byte; below it the guard */
	struct weir__stack *next; /* free list; owner only */
	void *tsan_fiber;	  /* runtime/sanitizer.h keeps its state here */
	void *asan_fake;
	uint32_t valgrind_id;
	uint32_t bytes_class; /* index of the size class of stacks */
	uint32_t guard_bytes;
	uint32_t index; /* in its slab */
	struct weir__slab *slab;
};
_Static_assert(sizeof(struct weir__stack) == 64, "one cache line");

/*
 * Gives a stack of the class that `bytes` rounds up to: 32 K (30 KiB usable), 64 K (46), 256 K
 * (238) or 1 M (1006), the one put last. NULL: memory or the kernel's mappings are exhausted,
 * `bytes` is above 1 M, or the calling thread has no heap.
 */
WEIR_MUST struct weir__stack *weir__stack_get(size_t bytes);

/*
 * Takes it, on the worker that got it. May be called while running on it, as long as the caller
 * leaves it without another get: its memory is not touched before the next turn.
 */
void weir__stack_put(struct weir__stack *stack);

/*
 * The stack of the calling thread's heap that `address` is in, guard included; NULL: none. May be
 * called from a signal handler.
 */
struct weir__stack *weir__stack_find(const void *address);

/* ---- Blocks behind leases ------------------------------------------------------------------- */

/*
 * The root of a lease. refs is owned by the worker that holds the leases. When it reaches 0,
 * release() is called once, on that worker.
 */
struct weir__block {
	char *base;
	size_t cap;
	uint32_t refs;
	uint32_t id; /* the releaser's: provided-buffer id */
	void (*release)(struct weir__block *block);
	void *owner;		  /* the releaser's */
	struct weir__block *next; /* the holder's queue */
	size_t len;		  /* the holder's: bytes received */
	void *unused_;
};
_Static_assert(sizeof(struct weir__block) == 64, "one cache line");

/* Drops one reference. */
static inline void weir__block_drop(struct weir__block *block)
{
	if (--block->refs == 0)
		block->release(block);
}

#endif
