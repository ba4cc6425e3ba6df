/* SPDX-License-Identifier: MIT */
/*
 * ring.h: a worker's io_uring: what ring_setup.c makes and ring.c runs. Owner worker only, but
 * wake_fd.
 */
#ifndef WEIR_RING_H
#define WEIR_RING_H

#include <liburing.h>

#include "io/buffer_ring.h"
#include "io/io_internal.h"

enum { WEIR__RING_GROUPS = 2 }; /* receive buffers: small and bulk */

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
	char peeked; /* where looks for the end of a stream put the byte they may find */
	int wake_fd;
	int event_fd;  /* written by the kernel for each completion; -1: not asked for */
	int event_set; /* epoll's, of the last two */
	struct weir__slot *slots;
	uint32_t slots_count;
	uint32_t slots_free;	  /* head of the free list; slots_count: none */
	struct weir__op *waiting; /* operations that found the submission queue full */
	struct weir__op **waiting_tail;
	struct weir__op *quiet; /* quiet sends in flight, in the order of their entries */
	struct weir__op **quiet_tail;
	struct weir__buffer_ring groups[WEIR__RING_GROUPS];
	int64_t shrink_at_ns; /* when the groups are looked at next; 0: none is grown */
	int64_t shrink_ns;    /* between two looks */
};

/*
 * Opens the ring as far up the ladder as the kernel and WEIR_URING_MASK allow, and finds out what
 * it offers. 0, or -errno with nothing left open.
 */
WEIR_MUST int weir__ring_setup(struct weir__ring *ring, const struct weir__config *config);

#endif
