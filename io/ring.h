/* SPDX-License-Identifier: MIT */
/*
 * ring.h: a worker's io_uring: what ring_setup.c makes, ring.c runs, ring_op.c fills and
 * ring_reap.c empties. Owner worker only, but wake_fd.
 */
#ifndef WEIR_RING_H
#define WEIR_RING_H

#include <liburing.h>

#include "io/buffer_ring.h"
#include "io/io_internal.h"
#include "io/quiet.h"
#include "io/turns.h"

enum { WEIR__RING_GROUPS = WEIR__BUFFER_SIZES };

/*
 * `tag` is the user_data that belongs to the operation in the slot: 24 bits of generation, 8 of
 * code, 32 of the slot's place. A free slot has a code that no completion carries.
 */
struct weir__slot {
	union {
		struct weir__op *op;
		uint32_t next_free;
	};
	uint64_t tag;
};

struct weir__ring {
	struct weir__io io; /* first */
	struct io_uring uring;
	unsigned full_at;     /* the tail at which the submission queue is full */
	unsigned enter_flags; /* for every enter */
	uint8_t skip_success; /* IOSQE_CQE_SKIP_SUCCESS where the kernel has it (5.17), or 0 */
	bool has_accept_multi;
	bool has_recv_multi;
	bool has_buffers; /* provided-buffer rings */
	bool has_msg_ring;
	/* What a send of many parts has sent before it is cancelled: so we go on ourselves. */
	bool loses_sent;
	char peeked;  /* where looks for the end of a stream put the byte they may find */
	bool is_deaf; /* nothing looks at wake_fd: there was no entry to ask for it */
	int wake_fd;
	int event_fd;  /* written by the kernel for each completion; -1: not asked for */
	int event_set; /* epoll's, of the last two */
	struct weir__slot *slots;
	uint32_t slots_count;
	uint32_t slots_free;	  /* head of the free list; slots_count: none */
	bool is_starving;	  /* a receive waits for a buffer of its group */
	struct weir__op *waiting; /* operations that found the submission queue full */
	struct weir__op **waiting_tail;
	struct weir__quiet quiet;
	struct weir__turns turns;
	struct weir__buffer_ring groups[WEIR__RING_GROUPS];
	int64_t shrink_at_ns; /* from when on the groups are looked at; 0: none is grown */
	int64_t slept_ns;     /* before a reap: when it went to sleep, with a group grown; or 0 */
	int64_t shrink_ns;    /* between two looks */
};

static inline struct weir__ring *weir__ring_of(struct weir__io *io)
{
	return (struct weir__ring *)(void *)io;
}

static inline struct weir__ring *weir__ring_of_driver(struct weir__driver *driver)
{
	return (struct weir__ring *)(void *)driver;
}

/*
 * Codes in user_data beside enum weir__op_code: a look for the end of the stream that the receive
 * in the slot is at; nothing to do; the eventfd was written; another worker's ring woke us; our
 * message to the worker in `slot` did not arrive; and that of a free slot.
 */
enum {
	WEIR__CODE_LOOK = 0xfa,
	WEIR__CODE_IGNORE,
	WEIR__CODE_WAKE,
	WEIR__CODE_MESSAGE,
	WEIR__CODE_MESSAGE_LOST,
	WEIR__CODE_NONE
};
_Static_assert(WEIR__CODE_NONE == 0xff, "all bits: any code | WEIR__CODE_NONE is WEIR__CODE_NONE");

enum {
	WEIR__CODE_WANTS_FD = 0x40,  /* in the code of an accept that never gives a slot */
	WEIR__GENERATION_SHIFT = 40, /* in user_data */
};

/* user_data of something that is no operation */
static inline uint64_t weir__ring_special(unsigned code, uint32_t argument)
{
	return (uint64_t)code << 32 | argument;
}

/* ---- Entries ------------------------------------------------------------ */

/*
 * Hands the queued entries over and waits for so many completions, or until `arg` says. The
 * number of entries taken, or -errno.
 */
int weir__ring_enter(struct weir__ring *ring, unsigned wait_count,
		     struct io_uring_getevents_arg *arg);

/* Entries filled and not taken by the kernel. */
static inline unsigned weir__ring_queued(const struct weir__ring *ring)
{
	return ring->uring.sq.sqe_tail + ring->uring.sq.ring_entries - ring->full_at;
}

/* There is one. */
static inline struct io_uring_sqe *weir__ring_next_sqe(struct weir__ring *ring)
{
	struct io_uring_sq *sq = &ring->uring.sq;

	return &sq->sqes[sq->sqe_tail++ & sq->ring_mask];
}

/* An entry to fill; NULL when the kernel takes none off our hands now. */
static inline struct io_uring_sqe *weir__ring_get_sqe(struct weir__ring *ring)
{
	/* without SQPOLL the kernel takes entries only inside enter(): what is not queued is free
	 */
	if (__builtin_expect(ring->uring.sq.sqe_tail == ring->full_at, 0)) {
		(void)weir__ring_enter(ring, 0, NULL); /* a refusal shows in the next line */
		if (ring->uring.sq.sqe_tail == ring->full_at)
			return NULL;
	}
	return weir__ring_next_sqe(ring);
}

/* ---- Operations: ring_op.c ---------------------------------------------- */

extern const struct weir__io_ops weir__ring_io_ops;

/* Has a slot already: (re-)submits. */
void weir__ring_submit(struct weir__ring *ring, struct weir__op *op);
/* What found the submission queue full, as far as it goes now. */
void weir__ring_start_waiting(struct weir__ring *ring);
void weir__ring_cancel(struct weir__io *io, struct weir__op *op);
void weir__ring_close_handle(struct weir__io *io, struct weir__handle *handle);
/* The operation is over, with `res`. */
void weir__ring_finish(struct weir__ring *ring, struct weir__op *op, int res);
void weir__ring_free_slot(struct weir__ring *ring, struct weir__op *op);
/* It is in one of the queues, and is no more. */
void weir__ring_stop_waiting(struct weir__ring *ring, struct weir__op *op);

/*
 * A datagram by a call of its own: whether it is over, with op->res (and, received, op->block).
 */
bool weir__ring_sends_now(struct weir__ring *ring, struct weir__op *op);
bool weir__ring_receives_now(struct weir__ring *ring, struct weir__op *op);

/* Without multishot receives the poll says readable, and we receive by hand. */
static inline bool weir__ring_is_by_hand(const struct weir__ring *ring)
{
	return !ring->has_recv_multi;
}

/* What every entry has. */
static inline void weir__ring_mark(const struct weir__op *op, struct io_uring_sqe *sqe)
{
	if (op->handle->is_direct)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = op->tag;
}

static inline struct weir__slot *weir__ring_slot_of(struct weir__ring *ring,
						    const struct weir__op *op)
{
	return &ring->slots[(uint32_t)op->tag];
}

/* The last completion of an operation: others with this tag are not its any more. */
static inline void weir__ring_end(struct weir__ring *ring, struct weir__op *op)
{
	struct weir__slot *slot = weir__ring_slot_of(ring, op);

	if (__builtin_expect(op->is_waiting, 0)) /* to be cancelled */
		weir__ring_stop_waiting(ring, op);
	slot->tag += (uint64_t)1 << WEIR__GENERATION_SHIFT;
	op->tag = slot->tag;
	if (op->is_kept) {
		op->state = WEIR__OP_FREE;
	} else {
		weir__ring_free_slot(ring, op);
		weir__op_unlink(op);
	}
}

/* ---- Completions: ring_reap.c ------------------------------------------- */

unsigned weir__ring_reap(struct weir__driver *driver);

/* The kernel sets these bits for work that waits for us to enter. */
static inline unsigned weir__ring_sq_flags(const struct weir__ring *ring)
{
	return __atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED);
}

/* After a sleep with a group of receive buffers grown, and `reaped` completions. */
void weir__ring_shrink(struct weir__ring *ring, unsigned reaped);

/* ---- Life --------------------------------------------------------------- */

/*
 * io_uring_queue_init_params() and io_uring_queue_exit(), of which TSan is told: they map and unmap
 * by system calls of their own, so that to it two rings at one place, one after the other, are one
 * that two threads write without a lock.
 */
WEIR_MUST int weir__uring_open(struct io_uring *uring, unsigned entries,
			       struct io_uring_params *params);
void weir__uring_close(struct io_uring *uring);

/*
 * Opens the ring as far up the ladder as the kernel and WEIR_URING_MASK allow, and finds out what
 * it offers. 0, or -errno with nothing left open and in *ret_refused what was refused.
 */
WEIR_MUST int weir__ring_setup(struct weir__ring *ring, const struct weir__config *config,
			       const char **ret_refused);

#endif
