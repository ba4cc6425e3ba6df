/* SPDX-License-Identifier: MIT */
/*
 * echoload.c: a load generator for echo servers.
 *
 *   closed loop      each of -c connections keeps -p messages of -s bytes in flight
 *   open loop (-r)   messages are due at a fixed total rate, whatever the server does
 *   churn (-k)       connect, one echo, close, again
 *   idle (-i)        open the connections and hold them
 *
 * Over UDP a connection is a socket connected to the server, with one datagram in flight. One that
 * is lost is not sent again: its socket then has nothing to wait for, and the rate says so.
 *
 * load_options.c reads what is asked for, load_setup.c makes the ring, buffers and connections
 * ready, load_result.c computes the figures and load_report.c prints them; what is between is here.
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load_state.h"

#define TICK_NS		    INT64_C(10000000) /* how often dead connections are opened again */
#define CONNECT_PATIENCE_NS (5 * NS_PER_SEC)  /* without one new connection, before giving up */
#define CONNECTING_MAX	    256		      /* below every server's backlog */
#define SOURCE_PORTS	    10000	      /* connections from one loopback address */

/* low bits of a completion's user_data; the rest is the connection's index */
enum op { OP_CONNECT, OP_SEND, OP_RECV, OP_CLOSE, OP_NONE, OP_BITS = 3 };

static volatile sig_atomic_t interrupted;

static int64_t clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

/* ---- operations ---------------------------------------------------------------------------- */

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
	sqe->user_data = (uint64_t)load_index(l, c) << OP_BITS | op;
	if (op != OP_CLOSE)
		sqe->flags |= IOSQE_FIXED_FILE;
}

/* The bytes of this connection's stream from `offset` on; the same both ways, as an echo is. */
static const char *payload_at(const struct load *l, const struct conn *c, uint64_t offset)
{
	if (!l->opt.verify)
		return l->payload;
	return l->payload + (load_index(l, c) * UINT64_C(7919) + offset) % PAYLOAD_PERIOD;
}

static void arm_send(struct load *l, struct conn *c)
{
	struct io_uring_sqe *sqe = get_sqe(l);
	io_uring_prep_send(sqe, (int)load_index(l, c), payload_at(l, c, c->tx_bytes), c->tx_left,
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
		io_uring_prep_recv(sqe, (int)load_index(l, c), NULL, 0, 0);
	else
		io_uring_prep_recv_multishot(sqe, (int)load_index(l, c), NULL, 0, 0);
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
		int64_t at = l->opt.rate > 0 ? load_due_ns(l, c, message) : l->now_ns;
		if (l->opt.mode != MODE_CHURN)
			l->sent_at_ns[load_index(l, c) * l->opt.depth + message % l->opt.depth] =
				at;
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
	bool udp = load_address_is_udp(l->opt.address);
	int fd = socket(l->peer.ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int one = 1;
	struct linger linger = { .l_onoff = 1 };
	if (l->peer.ss_family != AF_UNIX && !udp)
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
	int err = open_socket(l, load_index(l, c));
	if (err < 0) {
		connect_failed(l, err);
		return;
	}
	struct io_uring_sqe *sqe = get_sqe(l);
	io_uring_prep_connect(sqe, (int)load_index(l, c), (struct sockaddr *)&l->peer, l->peer_len);
	tag(l, sqe, c, OP_CONNECT);
	c->state = CONN_CONNECTING;
	c->tx_bytes = c->rx_bytes = 0;
	c->rx_part = 0;
	if (l->opt.mode == MODE_CHURN)
		l->sent_at_ns[load_index(l, c) * l->opt.depth] = l->now_ns;
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
	io_uring_prep_close_direct(sqe, load_index(l, c));
	tag(l, sqe, c, OP_CLOSE);
}

static void begin_close(struct load *l, struct conn *c)
{
	if (c->state == CONN_OPEN)
		l->opened--;
	c->state = CONN_CLOSING;
	if (c->send_armed || c->recv_armed) {
		struct io_uring_sqe *sqe = get_sqe(l);
		io_uring_prep_shutdown(sqe, (int)load_index(l, c), SHUT_RDWR);
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
	int64_t at = l->sent_at_ns[load_index(l, c) * l->opt.depth + message];
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
		load_give_buffer(l, id);
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

/* Whoever has started this as one load of two wants to know when the connections are there. */
static void say_held(const struct load *l)
{
	printf("held       %u connections\n", l->opened);
	fflush(stdout);
}

static void begin_warmup(struct load *l)
{
	if (l->opt.mode == MODE_IDLE && !l->opt.csv)
		say_held(l);
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

/* ---- start ---------------------------------------------------------------------------------- */

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
	load_setup(&load);
	run(&load);
	struct load_result result = load_compute(&load);
	if (load.opt.csv)
		load_report_csv(&load.opt, &result);
	else
		load_report_text(&load.opt, &result);
	if (load.mismatches > 0)
		return 2;
	return load.requests > 0 || (load.opt.mode == MODE_IDLE && load.opened > 0) ? 0 : 1;
}
