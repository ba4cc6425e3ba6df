/* SPDX-License-Identifier: MIT */
/*
 * conn.h: a connection, and what conn.c, conn_recv.c, conn_send.c and conn_fd.c have in common. Its
 * worker only.
 */
#ifndef WEIR_CONN_H
#define WEIR_CONN_H

#include "io/io_internal.h"

enum { WEIR__CONN_EOF = 1 }; /* weir_conn.end: the peer has closed; < 0: how the stream broke */

enum weir__send_state {
	WEIR__SEND_IDLE,
	WEIR__SEND_LEASE,  /* the lease of `sent` is with the driver */
	WEIR__SEND_CALLER, /* a task sends from its own memory */
	WEIR__SEND_BROKEN, /* the last lease was not sent; nobody has been told */
};

struct weir_conn {
	struct weir__handle handle;
	struct weir__io *io;
	struct weir__worker *worker; /* io's */
	struct weir__task *reader; /* parked in weir_recv() and its kin; the queue is empty then */
	weir_buf *into;		   /* the reader's: where its lease goes */
	struct weir__task *writer; /* parked until the lease in flight is sent */
	struct weir__block *sent;  /* that lease's */
	struct weir__block *queue; /* arrived and not taken, oldest first */
	struct weir__block **queue_tail;
	uint16_t queued;
	uint16_t lend_max;
	uint8_t misfits; /* arrivals in a row that did not suit the buffer size */
	uint8_t wants_group;
	bool is_odd; /* buffer sizes are being looked at */
	/*
	 * Nothing has arrived that was not taken, the stream goes on and nobody closes it: whoever
	 * wants to receive parks. True implies is_receiving; false only makes weir_recv() look
	 * closer.
	 */
	bool is_drained;
	bool is_receiving;  /* recv is with the driver */
	uint8_t send_state; /* enum weir__send_state */
	bool is_closing;
	bool is_taking : 1;	    /* a task is in weir_recv_fd() */
	bool is_send_cancelled : 1; /* closing, and what is not sent by now is not to be */
	bool is_on_ledge : 1;	    /* of its task's stack; else from the pool */
	uint16_t inside;	    /* tasks parked in a call on it */
	struct weir__task *closer;  /* parked until `inside` is 0 */
	int end;		    /* 0 while the stream is open */
	int send_error;		    /* how the last lease ended; while send_state is BROKEN */
	weir_buf front;		    /* taken from the queue, read in part */
	struct weir__op recv;
	struct weir__op send;
	void *user;
};
_Static_assert(sizeof(struct weir_conn) <= WEIR__LEDGE_BYTES, "six cache lines");

/* ---- Who is inside ------------------------------------------------------ */

/* With a task inside, or an operation of its own (a writer's is its task's) with the driver. */
static inline bool weir__conn_is_busy(const weir_conn *conn)
{
	return conn->inside > 0 || conn->is_receiving || conn->send_state == WEIR__SEND_LEASE;
}

/* There is a closer: it goes on unless the connection is busy. */
void weir__conn_wake_closer(weir_conn *conn);

/*
 * A task that comes back from a park inside a call on `conn`. weir_conn_close() by another task
 * waits for it; the connection stays valid until this task parks again or ends.
 */
static inline void weir__conn_leave(weir_conn *conn)
{
	conn->inside--;
	if (__builtin_expect(conn->closer != NULL, 0))
		weir__conn_wake_closer(conn);
}

/* An operation of the running task's, in a call. */
static inline int weir__conn_run(weir_conn *conn, struct weir__op *op)
{
	conn->inside++;
	int res = weir__op_run(conn->io, op);
	weir__conn_leave(conn);
	return res;
}

/* Common to all calls that park: 0, -EXDEV, -EINVAL (no task), -ECANCELED, -ETIME. */
static inline int weir__conn_may_park(const weir_conn *conn, struct weir__worker *self)
{
	if (__builtin_expect(conn->worker != self, 0))
		return -EXDEV;
	if (__builtin_expect(!self->current, 0))
		return -EINVAL;
	return weir__interrupted(self, self->current);
}

/* ---- Parts -------------------------------------------------------------- */

/* An operation that is the connection's own. */
void weir__conn_keep_op(weir_conn *conn, struct weir__op *op, enum weir__op_code code,
			void (*done)(struct weir__op *));

/* What a parked task waits for, in words. */
void weir__conn_describe(const struct weir__task *task, char *ret, size_t cap);

/* A descriptor for a slot. */
WEIR_MUST int weir__conn_install(weir_conn *conn);

/* ---- conn_recv.c -------------------------------------------------------- */

void weir__conn_recv_init(weir_conn *conn);
/* The connection closes: a reader is let go of, the receiving cancelled; what has come is dropped.
 */
void weir__conn_recv_wake(weir_conn *conn);
void weir__conn_recv_cancel(weir_conn *conn);
void weir__conn_recv_done(weir_conn *conn);

/* weir_recv() into an empty *ret, of at most `most` bytes: what has come beyond them stays. */
WEIR_MUST ssize_t weir__conn_recv_most(weir_conn *conn, weir_buf *ret, size_t most);

/* ---- conn_send.c -------------------------------------------------------- */

void weir__conn_send_init(weir_conn *conn);
/* Before anything is sent: 0 when this task may. */
WEIR_MUST int weir__conn_may_send(struct weir__worker *self, weir_conn *conn);
/*
 * The connection closes: a writer is let go of; what was given to weir_send() goes out, unless that
 * takes too long or the closing task is cancelled; what has not gone by then is cancelled.
 */
void weir__conn_send_wake(weir_conn *conn);
void weir__conn_send_linger(weir_conn *conn);
void weir__conn_send_cancel(weir_conn *conn);

#endif
