/* SPDX-License-Identifier: MIT */
/*
 * load_state.h: what echoload knows while it runs, and what its parts have in common of that.
 *
 * echoload.c is the loop and changes nearly all of it; load_setup.c fills it before the loop and
 * load_result.c reads it afterwards.
 */
#ifndef BENCH_LOAD_STATE_H
#define BENCH_LOAD_STATE_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "histogram.h"
#include "load.h"
#include "procstat.h"

#define NS_PER_SEC     INT64_C(1000000000)
#define PAYLOAD_PERIOD 65521 /* prime, so that no message size divides it */
#define BUFFER_GROUP   0

enum conn_state { CONN_DEAD, CONN_CONNECTING, CONN_OPEN, CONN_CLOSING };

struct conn {
	uint64_t sent;	   /* messages, over all incarnations */
	uint64_t done;	   /* answered or lost */
	uint64_t due;	   /* open loop: messages whose time has come */
	uint64_t tx_bytes; /* of this incarnation, handed to the kernel and taken by it */
	uint64_t rx_bytes;
	uint32_t tx_left; /* of the send in flight */
	uint32_t rx_part; /* bytes of a message not yet complete */
	uint8_t state;
	bool send_armed;
	bool recv_armed;
};

enum phase { PHASE_CONNECT, PHASE_WARMUP, PHASE_MEASURE, PHASE_DONE };

/* What is read at both ends of the measured window. */
struct reading {
	int64_t time_ns;
	struct procstat server;
	struct procstat self;
	struct machstat machine;
	uint64_t syscalls, cqes;
};

struct load {
	struct load_options opt;
	struct io_uring ring;
	struct sockaddr_storage peer;
	socklen_t peer_len;
	struct conn *conns;
	int64_t *sent_at_ns; /* depth of them for each connection, by message number */
	char *payload;	     /* period + the longest piece that is sent or compared at once */
	struct io_uring_buf_ring *buffers;
	char *buffer_memory;
	unsigned buffer_count, buffer_bytes, buffer_stride;

	enum phase phase;
	int64_t now_ns;
	int64_t phase_end_ns;
	int64_t tick_ns;
	int64_t open_start_ns;
	uint64_t open_next; /* number of the next message to fall due */
	unsigned connecting, opened, dead;
	unsigned dead_cursor;

	struct histogram latency;
	uint64_t requests; /* answered in the window */
	uint64_t issued;   /* sent since the start; for -n */
	uint64_t answered; /* since the start */
	uint64_t errors;   /* connections lost or refused since the start */
	uint64_t lost;	   /* messages that were on them */
	uint64_t reconnects;
	uint64_t mismatches;
	int last_error;
	bool backoff; /* a connect failed: wait for the next tick */
	struct reading begin, end;
	struct procstat server_before; /* idle: before the first connection */
	bool server_known;
	struct trace_counter syscall_counter, cqe_counter;
	bool syscalls_known, cqes_known;
};

static inline unsigned load_index(const struct load *l, const struct conn *c)
{
	return (unsigned)(c - l->conns);
}

/* When the open loop owes the connection its message of this number. */
static inline int64_t load_due_ns(const struct load *l, const struct conn *c, uint64_t message)
{
	double number = (double)message * l->opt.connections + load_index(l, c);
	return l->open_start_ns + (int64_t)(number * (double)NS_PER_SEC / l->opt.rate);
}

static inline void load_give_buffer(struct load *l, unsigned id)
{
	io_uring_buf_ring_add(l->buffers, l->buffer_memory + (size_t)id * l->buffer_stride,
			      l->buffer_bytes, (unsigned short)id,
			      io_uring_buf_ring_mask(l->buffer_count), 0);
	io_uring_buf_ring_advance(l->buffers, 1);
}

/* Makes ring, buffers, payload and connections ready, by l->opt; exits when they cannot be had. */
void load_setup(struct load *l);

/* What was measured between l->begin and l->end; lends l->latency. */
struct load_result load_compute(const struct load *l);

#endif
