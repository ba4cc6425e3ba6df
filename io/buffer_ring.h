/* SPDX-License-Identifier: MIT */
/*
 * buffer_ring.h: receive buffers lent to the kernel.
 */
#ifndef WEIR_BUFFER_RING_H
#define WEIR_BUFFER_RING_H

#include <liburing.h>

#include "io/io_internal.h"

/*
 * Buffers of one size. A buffer is a struct weir__block with a payload from the worker's heap; it
 * is in exactly one of: the kernel's ring (in_ring of them), a lease, or free (its id on the free
 * list, no payload). circulating = in_ring + leases <= max. Owner worker only.
 */
struct weir__buffer_ring {
	struct io_uring *uring;
	struct io_uring_buf_ring *table; /* of `entries`, and as many blocks; NULL: none yet */
	struct io_uring_buf_ring *ring;	 /* the same; NULL: not registered */
	struct weir__block *blocks;	 /* by id */
	struct weir__block *free;
	struct weir__op *starved; /* receives that found the ring empty, oldest first */
	struct weir__op **starved_tail;
	void (*restart)(struct weir__buffer_ring *group, struct weir__op *op);
	size_t bytes;
	unsigned entries; /* power of two, slots of the ring */
	unsigned in_ring;
	unsigned circulating;
	unsigned target;    /* buffers we want in circulation; doubled when the ring ran dry, */
	unsigned busy;	    /* from so many on only when none comes back: see feed() */
	unsigned first;	    /* what target starts with and shrinks back to, */
	unsigned kept;	    /* and what it shrinks to while nothing arrives */
	unsigned dry_turns; /* in a row, at the end of which receives waited and the ring was empty
			     */
	unsigned ids_used;  /* ids handed out so far */
	const struct weir__driver *driver;
	uint64_t grown_at; /* driver->enters when target was doubled last */
	uint64_t seen_at;  /* the grown_at that shrink() saw last */
	uint16_t id;	   /* the kernel's name of the group */
};

/* Sets sizes, of the counts `first` and `max`; the ring is registered with the first fill. */
void weir__buffer_ring_init(struct weir__buffer_ring *group, struct io_uring *uring,
			    const struct weir__driver *driver, uint16_t id, size_t bytes,
			    unsigned first, unsigned max,
			    void (*restart)(struct weir__buffer_ring *, struct weir__op *));

/* Registers if need be and lends buffers up to the target. -ENOMEM, -EINVAL when not one could be
 * lent. */
WEIR_MUST int weir__buffer_ring_fill(struct weir__buffer_ring *group);

/* The buffer the kernel chose, with one reference. */
static inline struct weir__block *weir__buffer_ring_take(struct weir__buffer_ring *group,
							 unsigned id)
{
	struct weir__block *block = &group->blocks[id];

	group->in_ring--;
	block->refs = 1;
	return block;
}

/*
 * A receive found the ring empty: it waits for feed(). More buffers, or not. -ENOMEM when none can
 * be had and none is out that could come back.
 */
WEIR_MUST int weir__buffer_ring_starve(struct weir__buffer_ring *group, struct weir__op *op);

/*
 * At the end of a turn, and before a sleep (`is_last`): restarts as many waiting receives as there
 * are buffers. Where there is none, and it is not to be expected that one comes back, there are
 * more of them from here on. True: receives wait, and the next turn will restart some.
 */
bool weir__buffer_ring_feed(struct weir__buffer_ring *group, bool is_last);

/* Whether shrink() has something to do, now or later. */
static inline bool weir__buffer_ring_is_grown(const struct weir__buffer_ring *group)
{
	return group->target > group->kept;
}

/*
 * To be called every few seconds while it is grown: the target falls by three quarters, or to what
 * is kept when `is_idle`, unless the ring ran dry since the last call. Surplus buffers are given to
 * the heap as leases come back; and those in the ring at once when `kernel_is_still`: the kernel
 * can take no buffer now, and has taken none that was not reaped.
 */
void weir__buffer_ring_shrink(struct weir__buffer_ring *group, bool kernel_is_still, bool is_idle);

/* Takes a waiting receive out of the queue. */
void weir__buffer_ring_forget(struct weir__buffer_ring *group, struct weir__op *op);

void weir__buffer_ring_close(struct weir__buffer_ring *group);

#endif
