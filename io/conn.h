/* SPDX-License-Identifier: MIT */
/*
 * conn.h: a connection. Its worker only.
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

/* For conn_fd.c: the beginnings of calls, an operation in one, and a descriptor for a slot. */
WEIR_MUST int weir__conn_may_park(const weir_conn *conn, struct weir__worker *self);
WEIR_MUST int weir__conn_may_send(struct weir__worker *self, weir_conn *conn);
WEIR_MUST int weir__conn_run(weir_conn *conn, struct weir__op *op);
WEIR_MUST int weir__conn_install(weir_conn *conn);

/* weir_recv() into an empty *ret, of at most `most` bytes: what has come beyond them stays. */
WEIR_MUST ssize_t weir__conn_recv_most(weir_conn *conn, weir_buf *ret, size_t most);

#endif
