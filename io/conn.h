/* SPDX-License-Identifier: MIT */
/*
 * conn.h: a connection. Its worker only. listener.c fills in who accepted it.
 */
#ifndef WEIR_CONN_H
#define WEIR_CONN_H

#include "io/io_internal.h"

enum { WEIR__CONN_EOF = 1 }; /* weir_conn.end: the peer has closed; < 0: how the stream broke */

struct weir_conn {
	struct weir__handle handle;
	struct weir__io *io;
	struct weir__worker *worker;     /* io's */
	struct weir__task *reader;       /* parked in weir_recv() and its kin; the queue is empty then */
	weir_buf *into;                  /* the reader's: where its lease goes */
	struct weir__task *writer;       /* parked until the lease in flight is sent */
	struct weir__block *sent;        /* that lease's; NULL while a task sends from its own memory */
	int send_error;                  /* how it ended, until somebody is told */
	struct weir__block *queue;       /* arrived and not taken, oldest first */
	struct weir__block **queue_tail;
	uint16_t queued;
	uint16_t lend_max;
	uint8_t misfits;                 /* arrivals in a row that did not suit the buffer size */
	uint8_t wants_group;
	bool is_odd;                     /* buffer sizes are being looked at */
	bool is_receiving;               /* recv is with the driver */
	bool is_sending;
	bool is_closing;
	uint16_t inside;                 /* tasks parked in a call on it */
	struct weir__task *closer;       /* parked until `inside` is 0 */
	int end;                         /* 0 while the stream is open */
	weir_buf front;                  /* taken from the queue, read in part */
	struct weir__op recv;
	struct weir__op send;
	struct weir__acceptor *acceptor; /* whose client it is; NULL: nobody's */
	void *user;
};

#endif
