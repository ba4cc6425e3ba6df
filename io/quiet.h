/* SPDX-License-Identifier: MIT */
/*
 * quiet.h: sends of which the kernel says nothing unless they fail. Owner worker only.
 *
 * Such a send does not wait for room either, so it is over once the kernel has taken its entry and
 * no failure has been reaped. That saves a completion for each request; and where requests come one
 * at a time every second system call, because the send's completion would end the wait for the next
 * request at once.
 */
#ifndef WEIR_QUIET_H
#define WEIR_QUIET_H

#include <liburing.h>

#include "io/io_internal.h"

/* Those in flight, in the order of their entries, through queue_next. */
struct weir__quiet {
	struct weir__op *first;
	struct weir__op **tail;
};

static inline void weir__quiet_init(struct weir__quiet *quiet)
{
	quiet->tail = &quiet->first;
}

static inline bool weir__quiet_any(const struct weir__quiet *quiet)
{
	return quiet->tail != &quiet->first;
}

/* Any send's whole entry in wide stores; liburing's helper makes one for each field. */
static inline void weir__send_fill(const struct weir__op *op, struct io_uring_sqe *sqe,
				   unsigned flags, unsigned msg_flags)
{
	*sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_SEND,
		.flags = (uint8_t)(flags | (op->handle->is_direct ? IOSQE_FIXED_FILE : 0)),
		.fd = op->handle->fd,
		.addr = (uintptr_t)op->data,
		.len = (uint32_t)op->len,
		.msg_flags = MSG_NOSIGNAL | MSG_WAITALL | msg_flags,
		.user_data = op->tag,
	};
}

/* `op` is a kept send that may be quiet. */
static inline void weir__quiet_send(struct weir__quiet *quiet, struct weir__op *op,
				    struct io_uring_sqe *sqe)
{
	op->is_quiet = true;
	*quiet->tail = op;
	quiet->tail = &op->queue_next;
	weir__send_fill(op, sqe, IOSQE_CQE_SKIP_SUCCESS, MSG_DONTWAIT);
}

/*
 * A loud send of a connection is over: when enough of them are, the next may be quiet. Not after
 * one that has ended short: its rest is sent while completions are reaped, at the end of which all
 * quiet sends are over.
 */
static inline void weir__quiet_calm(struct weir__op *op)
{
	if (op->loud > 0 && op->res == (int)op->len)
		op->may_be_quiet = --op->loud == 0;
}

/* It failed: it is loud from now on, and so are the next ones. */
void weir__quiet_refuse(struct weir__quiet *quiet, struct weir__op *op);

/*
 * The kernel has taken the entries of all, and what failed is not among them any more: they have
 * sent what they had. Calls done() of each.
 */
void weir__quiet_finish(struct weir__quiet *quiet);

#endif
