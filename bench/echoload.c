/* SPDX-License-Identifier: MIT */
/*
 * echoload.c: a load generator for echo servers.
 *
 *   closed loop      each of -c connections keeps -p messages of -s bytes in flight
 *   open loop (-r)   messages are due at a fixed total rate, whatever the server does
 *   churn (-k)       connect, one echo, close, again
 *   idle (-i)        open the connections and hold them
 *
 * One thread on raw liburing: it uses nothing of weir, so that one tool judges every server alike.
 * It needs Linux 6.1.
 *
 * The hard idea is whom a stall is charged to. In the open loop a message's latency counts from the
 * moment it was due, not from when it could be sent; otherwise a server that stops for a second
 * would hide all the messages that should have been sent meanwhile (coordinated omission). Message
 * j of connection c is due at start + (j*C + c) / rate, so no queue of due times is needed, however
 * far the server falls behind.
 */
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "load.h"
#include "procstat.h"

#define NS_PER_SEC	    INT64_C(1000000000)
#define TICK_NS		    INT64_C(10000000) /* how often dead connections are opened again */
#define CONNECT_PATIENCE_NS (5 * NS_PER_SEC)  /* without one new connection, before giving up */
#define CONNECTING_MAX	    256		      /* below every server's backlog */
#define PAYLOAD_PERIOD	    65521	      /* prime, so that no message size divides it */
#define BUFFER_GROUP	    0
#define SOURCE_PORTS	    10000 /* connections from one loopback address */

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

/* low bits of a completion's user_data; the rest is the connection's index */
enum op { OP_CONNECT, OP_SEND, OP_RECV, OP_CLOSE, OP_NONE, OP_BITS = 3 };

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

static volatile sig_atomic_t interrupted;

static int64_t clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

/* ---- operations ---------------------------------------------------------------------------- */

static unsigned index_of(const struct load *l, const struct conn *c)
{
	return (unsigned)(c - l->conns);
}

static struct io_uring_sqe *get_sqe(struct load *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
	while (!sqe) {
		int err = io_uring_submit(&l->ring);
		if (err < 0 && err != -EBUSY && err != -EINTR)
			load_die("io_uring_submit: %s", strerror(-err));
		sqe = io_uring_get_sqe(&l->ring);
	}
	return sqe;
}

static void tag(const struct load *l, struct io_uring_sqe *sqe, const struct conn *c, enum op op)
{
	sqe->user_data = (uint64_t)index_of(l, c) << OP_BITS | op;
	if (op != OP_CLOSE)
		sqe->flags |= IOSQE_FIXED_FILE;
}

/* The bytes of this connection's stream from `offset` on; the same both ways, as an echo is. */
static const char *payload_at(const struct load *l, const struct conn *c, uint64_t offset)
{
	if (!l->opt.verify)
		return l->payload;
	return l->payload + (index_of(l, c) * UINT64_C(7919) + offset) % PAYLOAD_PERIOD;
}

static void arm_send(struct load *l, struct conn *c)
{
	struct io_uring_sqe *sqe = get_sqe(l);
	io_uring_prep_send(sqe, (int)index_of(l, c), payload_at(l, c, c->tx_bytes), c->tx_left,
			   MSG_WAITALL | MSG_NOSIGNAL);
	tag(l, sqe, c, OP_SEND);
	c->send_armed = true;
}

/* A churned connection must have nothing in flight when it is closed, so its receive is a single
 * one. */
static void arm_recv(struct load *l, struct conn *c)
{
	struct io_uring_sqe *sqe = get_sqe(l);
	if (l->opt.mode == MODE_CHURN)
		io_uring_prep_recv(sqe, (int)index_of(l, c), NULL, 0, 0);
	else
		io_uring_prep_recv_multishot(sqe, (int)index_of(l, c), NULL, 0, 0);
	sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	sqe->buf_group = BUFFER_GROUP;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	tag(l, sqe, c, OP_RECV);
	c->recv_armed = true;
}

static unsigned messages_allowed(const struct load *l, const struct conn *c)
{
	const struct load_options *opt = &l->opt;
	uint64_t in_flight = c->sent - c->done;
	uint64_t allowed = opt->depth - in_flight;
	if (opt->mode == MODE_IDLE)
		allowed = opt->once && c->sent == 0;
	else if (opt->mode == MODE_CHURN)
		allowed = in_flight == 0;
	else if (opt->rate > 0 && c->due - c->sent < allowed)
		allowed = c->due - c->sent;
	if (opt->requests && opt->requests - l->issued < allowed)
		allowed = opt->requests - l->issued;
	return (unsigned)allowed;
}

static int64_t due_at_ns(const struct load *l, const struct conn *c, uint64_t message)
{
	double number = (double)message * l->opt.connections + index_of(l, c);
	return l->open_start_ns + (int64_t)(number * (double)NS_PER_SEC / l->opt.rate);
}

/* Sends all the messages the connection may have in flight, in one piece. */
static void kick(struct load *l, struct conn *c)
{
	if (c->state != CONN_OPEN || c->send_armed)
		return;
	unsigned n = messages_allowed(l, c);
	if (n == 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		uint64_t message = c->sent++;
		int64_t at = l->opt.rate > 0 ? due_at_ns(l, c, message) : l->now_ns;
		if (l->opt.mode != MODE_CHURN)
			l->sent_at_ns[index_of(l, c) * l->opt.depth + message % l->opt.depth] = at;
	}
	l->issued += n;
	c->tx_left = n * l->opt.size;
	arm_send(l, c);
}

/* ---- life of a connection ------------------------------------------------------------------ */

/*
 * An address has 28,000 ports for one of the server's (ip_local_port_range), and finding a free one
 * takes the kernel longer and longer when most are taken: 20,000 connections from one address cost
 * 20 times what those from two do. Loopback has 16 million addresses: beyond SOURCE_PORTS
 * connections each further block of slots has its own. Returns 0 or a negative errno.
 */
static int choose_source(const struct load *l, int fd, unsigned slot)
{
	const struct sockaddr_in *peer = (const struct sockaddr_in *)&l->peer;
	unsigned block = slot / SOURCE_PORTS;
	if (block == 0 || peer->sin_family != AF_INET || ntohl(peer->sin_addr.s_addr) >> 24 != 127)
		return 0;
	int one = 1; /* the port is chosen at connect, when the peer is known */
	struct sockaddr_in source = { .sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK + block) };
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	return bind(fd, (struct sockaddr *)&source, sizeof(source)) < 0 ? -errno : 0;
}

/* Puts a new socket into the connection's slot of the ring's file table. Returns 0 or a negative
 * errno. */
static int open_socket(struct load *l, unsigned slot)
{
	int fd = socket(l->peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int one = 1;
	struct linger linger = { .l_onoff = 1 };
	if (l->peer.ss_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (l->opt.reset)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	int err = choose_source(l, fd, slot);
	if (err == 0)
		err = io_uring_register_files_update(&l->ring, slot, &fd, 1);
	close(fd);
	return err < 0 ? err : 0;
}

static void count_error(struct load *l, int err)
{
	l->errors++;
	l->last_error = err;
}

/* While connecting at first, a refusal only means that the server is not up yet. */
static void connect_failed(struct load *l, int err)
{
	l->backoff = true;
	l->last_error = err;
	if (l->phase != PHASE_CONNECT)
		l->errors++;
}

static void start_connect(struct load *l, struct conn *c)
{
	int err = open_socket(l, index_of(l, c));
	if (err < 0) {
		connect_failed(l, err);
		return;
	}
	struct io_uring_sqe *sqe = get_sqe(l);
	io_uring_prep_connect(sqe, (int)index_of(l, c), (struct sockaddr *)&l->peer, l->peer_len);
	tag(l, sqe, c, OP_CONNECT);
	c->state = CONN_CONNECTING;
	c->tx_bytes = c->rx_bytes = 0;
	c->rx_part = 0;
	if (l->opt.mode == MODE_CHURN)
		l->sent_at_ns[index_of(l, c) * l->opt.depth] = l->now_ns;
	l->connecting++;
	l->dead--;
	if (l->phase != PHASE_CONNECT && l->opt.mode != MODE_CHURN)
		l->reconnects++;
}

/* Ends it once nothing is in flight; until then a shutdown makes what is in flight end. */
static void finish_close(struct load *l, struct conn *c)
{
	if (c->state != CONN_CLOSING || c->send_armed || c->recv_armed)
		return;
	struct io_uring_sqe *sqe = get_sqe(l);
	io_uring_prep_close_direct(sqe, index_of(l, c));
	tag(l, sqe, c, OP_CLOSE);
}

static void begin_close(struct load *l, struct conn *c)
{
	if (c->state == CONN_OPEN)
		l->opened--;
	c->state = CONN_CLOSING;
	if (c->send_armed || c->recv_armed) {
		struct io_uring_sqe *sqe = get_sqe(l);
		io_uring_prep_shutdown(sqe, (int)index_of(l, c), SHUT_RDWR);
		tag(l, sqe, c, OP_NONE);
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	}
	finish_close(l, c);
}

/* The echo is in: only the send's completion can be outstanding, and it needs no help. */
static void end_churn(struct load *l, struct conn *c)
{
	c->state = CONN_CLOSING;
	l->opened--;
	finish_close(l, c);
}

/* The server closed on us, or worse. */
static void lose(struct load *l, struct conn *c, int err)
{
	if (c->state == CONN_CLOSING)
		return;
	count_error(l, err ? err : -EPIPE);
	l->lost += c->sent - c->done;
	c->done = c->sent;
	begin_close(l, c);
}

static void on_connect(struct load *l, struct conn *c, int res)
{
	l->connecting--;
	if (res < 0) {
		connect_failed(l, res);
		begin_close(l, c);
		return;
	}
	c->state = CONN_OPEN;
	l->opened++;
	if (l->phase == PHASE_CONNECT)
		l->phase_end_ns = l->now_ns + CONNECT_PATIENCE_NS;
	arm_recv(l, c);
	if (l->phase != PHASE_CONNECT || l->opt.mode != MODE_ECHO)
		kick(l, c);
}

static void on_closed(struct load *l, struct conn *c)
{
	c->state = CONN_DEAD;
	l->dead++;
	if (l->opt.mode == MODE_CHURN && l->phase != PHASE_CONNECT && !l->backoff)
		start_connect(l, c);
}

static void on_send(struct load *l, struct conn *c, int res)
{
	c->send_armed = false;
	if (c->state != CONN_OPEN) {
		finish_close(l, c);
		return;
	}
	if (res <= 0) {
		lose(l, c, res);
		return;
	}
	c->tx_bytes += (unsigned)res;
	c->tx_left -= (unsigned)res;
	if (c->tx_left > 0)
		arm_send(l, c);
	else
		kick(l, c);
}

static void message_answered(struct load *l, struct conn *c)
{
	uint64_t message = l->opt.mode == MODE_CHURN ? 0 : c->done % l->opt.depth;
	int64_t at = l->sent_at_ns[index_of(l, c) * l->opt.depth + message];
	c->done++;
	l->answered++;
	if (l->phase != PHASE_MEASURE)
		return;
	l->requests++;
	histogram_record(&l->latency, l->now_ns > at ? (uint64_t)(l->now_ns - at) : 0);
}

/* Returns false when the connection was given up. */
static bool take_bytes(struct load *l, struct conn *c, const char *data, unsigned len)
{
	if (l->opt.verify && memcmp(data, payload_at(l, c, c->rx_bytes), len) != 0) {
		l->mismatches++;
		lose(l, c, -EBADMSG);
		return false;
	}
	c->rx_bytes += len;
	c->rx_part += len;
	while (c->rx_part >= l->opt.size) {
		if (c->done == c->sent) {
			l->mismatches++;
			lose(l, c, -EBADMSG); /* more came than was sent */
			return false;
		}
		c->rx_part -= l->opt.size;
		message_answered(l, c);
	}
	return true;
}

static void give_buffer(struct load *l, unsigned id)
{
	io_uring_buf_ring_add(l->buffers, l->buffer_memory + (size_t)id * l->buffer_stride,
			      l->buffer_bytes, (unsigned short)id,
			      io_uring_buf_ring_mask(l->buffer_count), 0);
	io_uring_buf_ring_advance(l->buffers, 1);
}

static void on_recv(struct load *l, struct conn *c, int res, unsigned flags)
{
	if (!(flags & IORING_CQE_F_MORE))
		c->recv_armed = false;
	unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
	if (c->state == CONN_OPEN && res <= 0 && res != -ENOBUFS)
		lose(l, c, res);
	else if (c->state == CONN_OPEN && res > 0)
		take_bytes(l, c, l->buffer_memory + (size_t)id * l->buffer_stride, (unsigned)res);
	if (flags & IORING_CQE_F_BUFFER)
		give_buffer(l, id);
	if (c->state != CONN_OPEN) {
		finish_close(l, c);
		return;
	}
	if (l->opt.mode == MODE_CHURN && c->done == c->sent) {
		end_churn(l, c);
		return;
	}
	if (!c->recv_armed)
		arm_recv(l, c);
	kick(l, c);
}

static void on_completion(struct load *l, const struct io_uring_cqe *cqe)
{
	struct conn *c = &l->conns[cqe->user_data >> OP_BITS];
	switch ((enum op)(cqe->user_data & ((1 << OP_BITS) - 1))) {
	case OP_CONNECT:
		on_connect(l, c, cqe->res);
		break;
	case OP_SEND:
		on_send(l, c, cqe->res);
		break;
	case OP_RECV:
		on_recv(l, c, cqe->res, cqe->flags);
		break;
	case OP_CLOSE:
		on_closed(l, c);
		break;
	default:
		break;
	}
}

/* ---- phases -------------------------------------------------------------------------------- */

static void take_reading(struct load *l, struct reading *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (l->server_known && procstat_read(l->opt.server, &ret->server) < 0)
		l->server_known = false;
	procstat_read(getpid(), &ret->self);
	machstat_read(&ret->machine);
	if (l->syscalls_known)
		ret->syscalls = trace_counter_read(&l->syscall_counter);
	if (l->cqes_known)
		ret->cqes = trace_counter_read(&l->cqe_counter);
	ret->time_ns = clock_ns();
}

static void connect_some(struct load *l)
{
	for (unsigned i = 0; i < l->opt.connections && l->dead > 0; i++) {
		if (l->connecting >= CONNECTING_MAX)
			return;
		struct conn *c = &l->conns[l->dead_cursor];
		l->dead_cursor = (l->dead_cursor + 1) % l->opt.connections;
		if (c->state == CONN_DEAD)
			start_connect(l, c);
	}
}

static void count_calls(struct load *l)
{
	pid_t pid = l->opt.server;
	l->syscalls_known = trace_counter_open(&l->syscall_counter, TRACE_SYSCALLS, pid) == 0;
	l->cqes_known = trace_counter_open(&l->cqe_counter, TRACE_CQES, pid) == 0;
}

static void begin_measure(struct load *l)
{
	if (l->opt.syscalls && l->server_known)
		count_calls(l);
	l->phase = PHASE_MEASURE;
	take_reading(l, &l->begin);
	l->now_ns = l->begin.time_ns;
	l->phase_end_ns = l->now_ns + (int64_t)(l->opt.seconds * NS_PER_SEC);
}

static void begin_warmup(struct load *l)
{
	l->phase = PHASE_WARMUP;
	l->phase_end_ns = l->now_ns + (int64_t)(l->opt.warmup_seconds * NS_PER_SEC);
	l->open_start_ns = l->now_ns;
	if (l->opt.warmup_seconds <= 0)
		begin_measure(l);
	for (unsigned i = 0; i < l->opt.connections; i++)
		kick(l, &l->conns[i]);
}

static void begin_done(struct load *l)
{
	take_reading(l, &l->end);
	l->phase = PHASE_DONE;
}

static bool all_connected(const struct load *l)
{
	if (l->opened < l->opt.connections)
		return false;
	return l->opt.mode != MODE_IDLE || !l->opt.once || l->answered == l->opt.connections;
}

static void change_phase(struct load *l)
{
	bool due = l->now_ns >= l->phase_end_ns;
	if (l->phase == PHASE_CONNECT) {
		bool some = l->opened > 0 || l->answered > 0;
		if (due && !some)
			load_die("%s: %s", l->opt.address,
				 strerror(l->last_error ? -l->last_error : ETIMEDOUT));
		if (due || all_connected(l) || (some && l->opt.mode == MODE_CHURN))
			begin_warmup(l);
	} else if (l->phase == PHASE_WARMUP && due) {
		begin_measure(l);
	} else if (l->phase == PHASE_MEASURE) {
		bool enough = l->opt.requests && l->answered + l->lost >= l->opt.requests;
		if (enough || interrupted || due)
			begin_done(l);
	}
	if (interrupted && l->phase != PHASE_DONE)
		load_die("interrupted before the measured window");
}

/* Hands every message whose time has come to its connection. */
static void dispatch_due(struct load *l)
{
	double behind_ns = (double)(l->now_ns - l->open_start_ns);
	uint64_t due = (uint64_t)(behind_ns * l->opt.rate / (double)NS_PER_SEC) + 1;
	for (; l->open_next < due; l->open_next++) {
		struct conn *c = &l->conns[l->open_next % l->opt.connections];
		c->due++;
		kick(l, c);
	}
}

static bool open_loop_runs(const struct load *l)
{
	return l->opt.rate > 0 && (l->phase == PHASE_WARMUP || l->phase == PHASE_MEASURE);
}

static int64_t next_event_ns(const struct load *l)
{
	int64_t next = l->phase_end_ns;
	if (l->dead > 0 && l->tick_ns < next)
		next = l->tick_ns;
	if (open_loop_runs(l)) {
		double at = (double)l->open_next * (double)NS_PER_SEC / l->opt.rate;
		int64_t due = l->open_start_ns + (int64_t)at;
		next = due < next ? due : next;
	}
	return next;
}

static void tick(struct load *l)
{
	if (l->now_ns < l->tick_ns)
		return;
	l->tick_ns = l->now_ns + TICK_NS;
	bool restarts = l->opt.mode != MODE_IDLE || l->phase == PHASE_CONNECT;
	if (l->dead > 0 && restarts) {
		l->backoff = false;
		connect_some(l);
	}
}

static void wait_for_completions(struct load *l)
{
	int64_t wait_ns = next_event_ns(l) - l->now_ns;
	if (wait_ns < 0)
		wait_ns = 0;
	struct __kernel_timespec ts = { .tv_sec = wait_ns / NS_PER_SEC,
					.tv_nsec = wait_ns % NS_PER_SEC };
	struct io_uring_cqe *cqe;
	int err = io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &ts, NULL);
	if (err < 0 && err != -ETIME && err != -EINTR && err != -EAGAIN && err != -EBUSY)
		load_die("io_uring_submit_and_wait: %s", strerror(-err));
	l->now_ns = clock_ns();
}

static void run(struct load *l)
{
	l->now_ns = clock_ns();
	l->tick_ns = l->now_ns;
	l->phase_end_ns = l->now_ns + CONNECT_PATIENCE_NS;
	while (l->phase != PHASE_DONE) {
		tick(l);
		bool refill = l->phase == PHASE_CONNECT && l->connecting < CONNECTING_MAX / 2;
		if (refill && l->dead > 0 && !l->backoff)
			connect_some(l);
		if (open_loop_runs(l))
			dispatch_due(l);
		wait_for_completions(l);
		unsigned head, count = 0;
		struct io_uring_cqe *cqe;
		io_uring_for_each_cqe(&l->ring, head, cqe)
		{
			on_completion(l, cqe);
			count++;
		}
		io_uring_cq_advance(&l->ring, count);
		change_phase(l);
	}
}

/* ---- result -------------------------------------------------------------------------------- */

static double share(double amount, uint64_t of)
{
	return of ? amount / (double)of : -1;
}

static void compute_server(const struct load *l, struct load_result *r)
{
	const struct procstat *b = &l->begin.server, *e = &l->end.server;
	double cpu_ns = (double)(e->cpu_ns - b->cpu_ns);
	double switches = (double)(e->sleeps + e->preemptions - b->sleeps - b->preemptions);
	r->server_us = share(cpu_ns / 1000, l->requests);
	r->server_cpus = cpu_ns / 1e9 / r->seconds;
	r->server_switches = share(switches, l->requests);
	r->server_sleeps = share((double)(e->sleeps - b->sleeps), l->requests);
	r->server_rss_kb = (double)e->rss_bytes / 1024;
	if (l->opt.mode == MODE_IDLE) {
		double grown = (double)(e->rss_bytes - l->server_before.rss_bytes);
		r->bytes_per_conn = share(grown, l->opened);
		r->server_switches = switches / r->seconds;
	}
	if (l->syscalls_known)
		r->syscalls = share((double)(l->end.syscalls - l->begin.syscalls), l->requests);
	if (l->cqes_known)
		r->cqes = share((double)(l->end.cqes - l->begin.cqes), l->requests);
}

static void compute_behind(const struct load *l, struct load_result *r)
{
	int64_t oldest = l->end.time_ns;
	for (unsigned i = 0; i < l->opt.connections; i++) {
		const struct conn *c = &l->conns[i];
		if (c->due == c->done)
			continue;
		r->behind += c->due - c->done;
		int64_t at = due_at_ns(l, c, c->done);
		oldest = at < oldest ? at : oldest;
	}
	r->behind_ms = (double)(l->end.time_ns - oldest) / 1e6;
}

static struct load_result compute(const struct load *l)
{
	struct load_result r = { .requests = l->requests,
				 .connections =
					 l->opt.mode == MODE_CHURN ? l->opt.connections : l->opened,
				 .errors = l->errors,
				 .lost = l->lost,
				 .reconnects = l->reconnects,
				 .mismatches = l->mismatches,
				 .last_error = l->last_error,
				 .server_known = l->server_known,
				 .latency = &l->latency,
				 .server_us = -1,
				 .server_cpus = -1,
				 .server_switches = -1,
				 .server_sleeps = -1,
				 .server_rss_kb = -1,
				 .bytes_per_conn = -1,
				 .syscalls = -1,
				 .cqes = -1 };
	const struct reading *b = &l->begin, *e = &l->end;
	r.seconds = (double)(e->time_ns - b->time_ns) / 1e9;
	r.rate = (double)l->requests / r.seconds;
	if (l->server_known)
		compute_server(l, &r);
	int64_t client_ns = e->self.cpu_ns - b->self.cpu_ns;
	int64_t server_ns = l->server_known ? e->server.cpu_ns - b->server.cpu_ns : 0;
	int64_t foreign_ns = e->machine.busy_ns - b->machine.busy_ns - client_ns - server_ns;
	r.client_us = share((double)client_ns / 1000, l->requests);
	r.foreign_percent = foreign_ns > 0 ? (double)foreign_ns / 1e7 / r.seconds : 0;
	if (!l->server_known)
		r.foreign_percent = -1; /* the server's share would be in it */
	r.steal_percent = (double)(e->machine.steal_ns - b->machine.steal_ns) / 1e7 / r.seconds;
	if (l->opt.rate > 0)
		compute_behind(l, &r);
	return r;
}

/* ---- start --------------------------------------------------------------------------------- */

static unsigned power_of_two(uint64_t at_least, unsigned min, unsigned max)
{
	unsigned n = min;
	while (n < at_least && n < max)
		n *= 2;
	return n;
}

static void *zeroed(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		load_die("%zu bytes of memory: %s", bytes, strerror(errno));
	return memory;
}

/* Large buffers are staggered by a cache line, or their first lines would share one cache set. */
static void init_buffers(struct load *l)
{
	unsigned bytes = power_of_two((uint64_t)l->opt.size * l->opt.depth, 256, 65536);
	unsigned count = power_of_two(l->opt.connections, 128, 4096);
	while (count > 128 && (uint64_t)count * bytes > 32 << 20)
		count /= 2;
	l->buffer_bytes = bytes;
	l->buffer_count = count;
	l->buffer_stride = bytes >= 4096 ? bytes + 64 : bytes;
	l->buffer_memory = zeroed((size_t)count * l->buffer_stride);
	l->buffers = zeroed(count * sizeof(struct io_uring_buf));
	struct io_uring_buf_reg reg = { .ring_addr = (uintptr_t)l->buffers,
					.ring_entries = count,
					.bgid = BUFFER_GROUP };
	int err = io_uring_register_buf_ring(&l->ring, &reg, 0);
	if (err < 0)
		load_die("provided buffers: %s", strerror(-err));
	io_uring_buf_ring_init(l->buffers);
	for (unsigned i = 0; i < count; i++)
		give_buffer(l, i);
}

static void init_payload(struct load *l)
{
	size_t longest = (size_t)l->opt.size * l->opt.depth;
	if (longest < l->buffer_bytes)
		longest = l->buffer_bytes;
	size_t bytes = PAYLOAD_PERIOD + longest;
	uint64_t random = UINT64_C(88172645463325252);
	l->payload = zeroed(bytes);
	for (size_t i = 0; i < bytes; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		l->payload[i] = i < PAYLOAD_PERIOD ? (char)random : l->payload[i - PAYLOAD_PERIOD];
	}
}

static void init_ring(struct load *l)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
		.cq_entries = power_of_two(4 * (uint64_t)l->opt.connections, 4096, 65536),
	};
	int err = io_uring_queue_init_params(2048, &l->ring, &params);
	if (err < 0)
		load_die("io_uring is not available: %s", strerror(-err));
	io_uring_register_ring_fd(&l->ring);
	err = io_uring_register_files_sparse(&l->ring, l->opt.connections);
	if (err < 0)
		load_die("%u connections: %s (see ulimit -n)", l->opt.connections, strerror(-err));
}

static void init(struct load *l)
{
	init_ring(l);
	init_buffers(l);
	init_payload(l);
	l->conns = zeroed(l->opt.connections * sizeof(*l->conns));
	l->sent_at_ns = zeroed((size_t)l->opt.connections * l->opt.depth * sizeof(int64_t));
	l->dead = l->opt.connections;
	if (l->opt.server) {
		int err = procstat_read(l->opt.server, &l->server_before);
		if (err < 0)
			load_die("process %d: %s", (int)l->opt.server, strerror(-err));
		l->server_known = true;
	}
}

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

int main(int argc, char **argv)
{
	static struct load load;
	struct sigaction action = { .sa_handler = on_signal };
	load.opt = load_options_parse(argc, argv);
	load.peer_len = load_address_parse(load.opt.address, &load.peer);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_TIMERSLACK, 1); /* the open loop sleeps between messages */
	init(&load);
	run(&load);
	struct load_result result = compute(&load);
	if (load.opt.csv)
		load_report_csv(&load.opt, &result);
	else
		load_report_text(&load.opt, &result);
	if (load.mismatches > 0)
		return 2;
	return load.requests > 0 || (load.opt.mode == MODE_IDLE && load.opened > 0) ? 0 : 1;
}
