/* SPDX-License-Identifier: MIT */
/*
 * test_io_memory.c: memory refused at every allocation of a served exchange, and of a start, in
 * turn.
 *
 * A refusal may cost the exchange, never the runtime: every call returns, everything is given back,
 * and the next exchange works. And memory that a burst has taken is given back after it.
 */
#include <check.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <weir/weir.h>

#include "tests/descriptors.h"

enum { SITES_MAX = 400 };

static int echo(weir_conn *conn)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		WEIR_SCOPE(turn, 2 * WEIR_SEC);

		ssize_t n = weir_recv(conn, &buf);
		if (n > 0)
			n = weir_send(conn, &buf);
		if (n <= 0)
			return (int)n;
	}
}

static int serve(void *arg)
{
	return weir_serve(arg, echo);
}

/* 0, or the first error. A server that turns us away for want of memory ends the stream. */
static int talk(const char *address)
{
	weir_auto_conn conn = NULL;
	char got[5];
	WEIR_SCOPE(all, 2 * WEIR_SEC);

	int err = weir_connect(&conn, address);
	if (err < 0)
		return err;
	for (int i = 0; i < 3; i++) {
		ssize_t n = weir_write(conn, "hello", 5);
		if (n < 0)
			return (int)n;
		err = weir_read_full(conn, got, sizeof got);
		if (err < 0)
			return err;
		ck_assert_mem_eq(got, "hello", 5);
	}
	return 0;
}

static int exchange(void)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(server, WEIR_FOREVER);

	int err = weir_listen(&listener, "127.0.0.1:0");
	if (err == 0)
		err = weir_spawn(&server, serve, listener);
	if (err == 0)
		err = talk(weir_listener_address(listener));
	weir_scope_close(&server);
	return err;
}

static int refuse_in_turn(void *arg)
{
	uint64_t nth = 0, counted;

	(void)arg;
	ck_assert_int_eq(exchange(), 0);
	unsigned before = count_descriptors();
	do {
		ck_assert_uint_lt(++nth, SITES_MAX);
		weir_mem_fail_after(nth);
		int err = exchange();
		counted = weir_mem_fail_after(0);
		if (counted >=
		    nth) /* it was refused: the exchange may have failed, with these errors only */
			ck_assert_msg(err == 0 || err == -ENOMEM || err == -ENODATA ||
					      err == -ECONNRESET || err == -EPIPE ||
					      err == -ECANCELED || err == -ETIME,
				      "site %d: %s", (int)nth, weir_errname(err));
		else
			ck_assert_int_eq(err, 0);
		ck_assert_int_eq(exchange(), 0);
	} while (counted >= nth);
	ck_assert_uint_gt(nth, 5);
	ck_assert_uint_le(count_descriptors(), before);
	return 0;
}

START_TEST(a_refused_allocation_costs_no_more_than_the_exchange)
{
	ck_assert_int_eq(weir_run(refuse_in_turn, NULL, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

/* ---- A refused receive --------------------------------------------------------------------- */

struct pair {
	weir_conn *near, *far;
};

static int refuse_before(struct pair *pair)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	char got[5];

	ck_assert_int_eq((int)weir_write(pair->far, "hello", 5), 5);
	(void)weir_mem_fail_after(1);
	int n = (int)weir_recv(pair->near, &buf);
	(void)weir_mem_fail_after(0);
	ck_assert_int_eq(n, -ENOMEM);
	ck_assert_int_eq(weir_read_full(pair->near, got, 5), 0);
	ck_assert_mem_eq(got, "hello", 5);
	return 0;
}

/* While the receiver is parked. Where buffers wait in a ring there is nothing to refuse. */
static int receive_parked(void *arg)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	char rest[5];
	int n = (int)weir_recv(arg, &buf);

	(void)weir_mem_fail_after(0);
	ck_assert(n == -ENOMEM || (n > 0 && n <= 5));
	n = n < 0 ? 0 : n; /* of what comes in pieces the next calls get the rest */
	ck_assert_int_eq(weir_read_full(arg, rest, 5 - (size_t)n), 0);
	ck_assert(n == 0 || memcmp(buf.data, "again", (size_t)n) == 0);
	ck_assert_mem_eq(rest, &"again"[n], 5 - (size_t)n);
	return 0;
}

static int refuse_while_parked(struct pair *pair)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_int_eq(weir_spawn(&scope, receive_parked, pair->near), 0);
	ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	(void)weir_mem_fail_after(1);
	ck_assert_int_eq((int)weir_write(pair->far, "again", 5), 5);
	return weir_scope_wait(&scope);
}

static int refuse_receives(void *arg)
{
	weir_auto_listener listener = NULL;
	struct pair pair = { NULL, NULL };
	WEIR_SCOPE(patience, 10 * WEIR_SEC);

	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_connect(&pair.far, weir_listener_address(listener)), 0);
	ck_assert_int_eq(weir_accept(listener, &pair.near), 0);
	ck_assert_int_eq(refuse_before(&pair), 0);
	ck_assert_int_eq(refuse_while_parked(&pair), 0);
	weir_conn_close(pair.far);
	weir_conn_close(pair.near);
	return 0;
}

START_TEST(a_refused_receive_is_told_once_and_what_came_is_there)
{
	ck_assert_int_eq(weir_run(refuse_receives, NULL, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

/* ---- A refused send ------------------------------------------------------------------------- */

enum { FIRST_SENDS = 70 }; /* more than a ring has places for operations at first */

static uint64_t leases_out(void)
{
	static struct weir_pool_stats pools[256];
	uint64_t out = 0;
	size_t n = weir_pool_stats_get(pools, 256);

	for (size_t i = 0; i < n; i++)
		if (pools[i].object_bytes >= 512 && pools[i].object_bytes <= 768)
			out += pools[i].in_use;
	return out;
}

static ssize_t send_one(weir_conn *conn, uint64_t refuse_nth, bool *ret_refused)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	ck_assert_int_eq(weir_buf_get(&buf, 600), 0);
	memset(buf.data, 'x', 600);
	buf.len = 600;
	(void)weir_mem_fail_after(refuse_nth);
	ssize_t n = weir_send(conn, &buf);
	*ret_refused = weir_mem_fail_after(0) > 0;
	ck_assert_ptr_null(buf.block);
	return n;
}

static void connect_all(weir_listener *listener, struct pair *pairs)
{
	for (int i = 0; i < FIRST_SENDS; i++) {
		ck_assert_int_eq(weir_connect(&pairs[i].far, weir_listener_address(listener)), 0);
		ck_assert_int_eq(weir_accept(listener, &pairs[i].near), 0);
	}
}

/* The refused one sends nothing, keeps nothing and leaves the connection as it was. */
static void send_on(struct pair *pair)
{
	char got[600];
	bool is_refused;
	uint64_t before = leases_out();
	ssize_t n = send_one(pair->near, 1, &is_refused);

	if (is_refused) {
		ck_assert_int_eq((int)n, -ENOMEM);
		ck_assert_uint_eq(leases_out(), before);
		n = send_one(pair->near, 0, &is_refused);
	}
	ck_assert_int_eq((int)n, 600);
	ck_assert_int_eq(weir_read_full(pair->far, got, sizeof got), 0);
}

static int refuse_sends(void *arg)
{
	weir_auto_listener listener = NULL;
	static struct pair pairs[FIRST_SENDS];
	WEIR_SCOPE(patience, 10 * WEIR_SEC);

	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	connect_all(listener, pairs);
	for (int i = 0; i < FIRST_SENDS; i++)
		send_on(&pairs[i]);
	for (int i = 0; i < FIRST_SENDS; i++) {
		weir_conn_close(pairs[i].far);
		weir_conn_close(pairs[i].near);
	}
	return 0;
}

START_TEST(a_refused_send_is_told_at_once_and_the_next_one_goes_out)
{
	ck_assert_int_eq(weir_run(refuse_sends, NULL, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

static int nothing(void *arg)
{
	(void)arg;
	return 7;
}

START_TEST(a_refused_allocation_at_start_is_reported)
{
	uint64_t nth = 0, counted;
	unsigned before = count_descriptors();

	do {
		ck_assert_uint_lt(++nth, SITES_MAX);
		weir_mem_fail_after(nth);
		int err = weir_run(nothing, NULL, .workers = 2, .signals_ignored = true);
		counted = weir_mem_fail_after(0);
		ck_assert_msg(err == 7 || err == -ENOMEM, "site %d: %s", (int)nth,
			      weir_errname(err));
		ck_assert_int_eq(weir_run(nothing, NULL, .workers = 2, .signals_ignored = true), 7);
	} while (counted >= nth);
	ck_assert_uint_gt(nth, 2);
	ck_assert_uint_eq(count_descriptors(), before);
}
END_TEST

/* ---- After a burst ------------------------------------------------------------------------- */

enum { CLIENTS = 40 };

static unsigned held; /* leases that handlers keep */

static int hold_a_lease(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	WEIR_SCOPE(turn, 10 * WEIR_SEC);

	ssize_t n = weir_recv(conn, &buf);
	if (n <= 0)
		return (int)n;
	held++;
	while (held < CLIENTS) {
		int err = weir_yield();
		if (err < 0)
			return err;
	}
	n = weir_send(conn, &buf);
	return n < 0 ? (int)n : 0;
}

static int serve_holding(void *arg)
{
	return weir_serve(arg, hold_a_lease);
}

/* Every client has its answer, and all the requests were in buffers at once. */
static void burst(const char *address)
{
	weir_conn *conns[CLIENTS];
	char got[5];

	held = 0;
	for (int i = 0; i < CLIENTS; i++) {
		ck_assert_int_eq(weir_connect(&conns[i], address), 0);
		ck_assert_int_eq((int)weir_write(conns[i], "hello", 5), 5);
	}
	for (int i = 0; i < CLIENTS; i++) {
		ck_assert_int_eq(weir_read_full(conns[i], got, sizeof got), 0);
		ck_assert_mem_eq(got, "hello", 5);
		weir_conn_close(conns[i]);
	}
}

/* Objects of 4 KB in use: the receive buffers that circulate. */
static uint64_t buffers_out(void)
{
	static struct weir_pool_stats pools[256];
	uint64_t out = 0;
	size_t n = weir_pool_stats_get(pools, 256);

	for (size_t i = 0; i < n; i++)
		if (pools[i].object_bytes == 4096)
			out += pools[i].in_use;
	return out;
}

static int burst_and_wait(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(server, WEIR_FOREVER);

	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_spawn(&server, serve_holding, listener), 0);
	uint64_t before = buffers_out();
	for (int round = 0; round < 3; round++) {
		burst(weir_listener_address(listener));
		WEIR_SCOPE(patience, 20 * WEIR_SEC);
		while (buffers_out() > before + 4)
			ck_assert_int_eq(weir_sleep(5 * WEIR_MS), 0);
	}
	return 0;
}

/* At first there are 2 receive buffers; where the kernel may be in the ring, traffic shrinks it. */
START_TEST(a_burst_s_receive_buffers_go_back_and_the_next_burst_is_served)
{
	const char *mask = getenv("WEIR_URING_MASK");

	if (mask && strstr(mask, "defer"))
		return;
	setenv("WEIR_RECV_BUFFERS", "2", 1);
	setenv("WEIR_RECV_SHRINK_MS", "10", 1);
	ck_assert_int_eq(weir_run(burst_and_wait, NULL, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

/* As much as bulk buffers are for, more than once. */
static int talk_in_bulk(void *address)
{
	enum { BYTES = 256 << 10 };
	weir_auto_conn conn = NULL;
	char *data = weir_zalloc(BYTES);

	ck_assert_ptr_nonnull(data);
	int err = weir_connect(&conn, address);
	for (int i = 0; i < 4 && err >= 0; i++) {
		ssize_t n = weir_write(conn, data, BYTES);
		err = n < 0 ? (int)n : weir_read_full(conn, data, BYTES);
	}
	weir_free(data);
	return err;
}

/* In spans that hold something, when nothing is cached. */
static uint64_t bytes_in_spans(void)
{
	static struct weir_mem_stats stats;

	(void)weir_mem_compact(0, WEIR_MEM_HIGH);
	weir_mem_stats_get(&stats);
	return stats.span_bytes - stats.free_bytes;
}

static int bulk_and_wait(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(server, WEIR_FOREVER);

	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_spawn(&server, serve, listener), 0);
	ck_assert_int_eq(talk(weir_listener_address(listener)), 0);
	uint64_t before = bytes_in_spans();
	for (int round = 0; round < 2; round++) {
		void *address = (void *)(uintptr_t)weir_listener_address(listener);
		WEIR_SCOPE(clients, WEIR_FOREVER);
		for (int i = 0; i < 8; i++)
			ck_assert_int_eq(weir_spawn(&clients, talk_in_bulk, address), 0);
		ck_assert_int_eq(weir_scope_wait(&clients), 0);
		while (bytes_in_spans() > before + (256 << 10))
			ck_assert_int_eq(weir_sleep(30 * WEIR_MS), 0);
	}
	return 0;
}

START_TEST(of_large_messages_nothing_stays_when_nothing_arrives)
{
	const char *mask = getenv("WEIR_URING_MASK");

	if (mask && strstr(mask, "defer"))
		return;
	setenv("WEIR_RECV_SHRINK_MS", "10", 1);
	ck_assert_int_eq(weir_run(bulk_and_wait, NULL, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

/* ---- With few receive buffers ---------------------------------------------------------------- */

enum { ROUNDS = 20, BUSY = 4 };

static int outside_connect(const char *address)
{
	struct sockaddr_in peer = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				    .sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1)) };
	struct timeval patience = { .tv_sec = 10 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&peer, sizeof peer), 0);
	return fd;
}

static uint64_t out_most;

static int talk_much(void *address)
{
	weir_auto_conn conn = NULL;
	char got[5];

	int err = weir_connect(&conn, address);
	for (int i = 0; i < ROUNDS && err >= 0; i++) {
		ssize_t n = weir_write(conn, "hello", 5);
		err = n < 0 ? (int)n : weir_read_full(conn, got, sizeof got);
		uint64_t out = buffers_out();
		out_most = out > out_most ? out : out_most;
	}
	return err;
}

static int many_talk(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(server, 20 * WEIR_SEC);
	WEIR_SCOPE(clients, 20 * WEIR_SEC);

	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_spawn(&server, serve, listener), 0);
	for (int i = 0; i < CLIENTS; i++)
		ck_assert_int_eq(weir_spawn(&clients, talk_much,
					    (void *)(uintptr_t)weir_listener_address(listener)),
				 0);
	ck_assert_int_eq(weir_scope_wait(&clients), 0);
	return 0;
}

enum { OUTSIDERS = 16 };

struct outside {
	const char *address;
	weir_runtime runtime;
	int fds[OUTSIDERS];
};

/* On the worker, in one go: so it finds all of them when it looks again. */
static int send_all(void *arg)
{
	struct outside *outside = arg;

	for (int i = 0; i < OUTSIDERS; i++)
		if (send(outside->fds[i], "hello", 5, 0) != 5)
			return -errno;
	return 0;
}

/* By a thread that is none of the runtime's. Its sockets wait for ten seconds at most. */
/* A socket with a time limit ends a call with EINTR when a stopped process goes on. */
static bool outside_hears(int fd, char *got, size_t bytes)
{
	ssize_t n;

	for (size_t at = 0; at<bytes; at += n> 0 ? (size_t)n : 0) {
		n = recv(fd, got + at, bytes - at, MSG_WAITALL);
		if (n == 0 || (n < 0 && errno != EINTR))
			return false;
	}
	return true;
}

static int talk_from_outside(void *arg)
{
	struct outside *outside = arg;
	char got[5];
	int err = 0;

	for (int i = 0; i < OUTSIDERS; i++)
		outside->fds[i] = outside_connect(outside->address);
	for (int round = 0; round < ROUNDS && err == 0; round++) {
		err = weir_submit(outside->runtime, send_all, outside);
		for (int i = 0; i < OUTSIDERS && err == 0; i++)
			if (!outside_hears(outside->fds[i], got, 5))
				err = -errno;
	}
	for (int i = 0; i < OUTSIDERS; i++)
		close(outside->fds[i]);
	return err;
}

static int outsiders_talk(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(server, 20 * WEIR_SEC);

	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	struct outside outside = { .address = weir_listener_address(listener),
				   .runtime = weir_runtime_self() };
	ck_assert_int_eq(weir_spawn(&server, serve, listener), 0);
	ck_assert_int_eq(weir_blocking(talk_from_outside, &outside), 0);
	return 0;
}

static void have_few_buffers(void)
{
	setenv("WEIR_RECV_BUFFERS", "4", 1);
	setenv("WEIR_RECV_BUSY_BYTES", "4k", 1);
}

/* Not before Linux 5.19: the operation came with the rings of buffers. */
static bool kernel_has_buffer_rings(void)
{
	struct io_uring_probe *probe = io_uring_get_probe();
	bool has = probe && io_uring_opcode_supported(probe, IORING_OP_SOCKET);

	if (probe)
		io_uring_free_probe(probe);
	return has;
}

/* Not where a receive takes a buffer of its own instead of one that was lent before. */
START_TEST(buffers_that_come_back_serve_more_connections_than_there_are)
{
	const char *driver = getenv("WEIR_DRIVER");

	if ((driver && strcmp(driver, "uring") != 0) || getenv("WEIR_URING_MASK") ||
	    !kernel_has_buffer_rings())
		return;
	have_few_buffers();
	out_most = 0;
	ck_assert_int_eq(weir_run(many_talk, NULL, .workers = 1, .signals_ignored = true), 0);
	ck_assert_uint_le(out_most, BUSY + 1); /* one may be the ring itself */
}
END_TEST

/* Nothing but their messages wakes the worker. */
START_TEST(whoever_waits_for_a_buffer_gets_one)
{
	have_few_buffers();
	ck_assert_int_eq(weir_run(outsiders_talk, NULL, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

/* Nobody sends before all have received: the worker sleeps with all its buffers held. */
static int hold_and_wait(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	struct weir_event *all_have = weir_conn_user(conn);
	WEIR_SCOPE(turn, 10 * WEIR_SEC);

	ssize_t n = weir_recv(conn, &buf);
	if (n <= 0)
		return (int)n;
	if (++held == CLIENTS)
		weir_event_set(all_have);
	int err = weir_event_wait(all_have);
	n = err < 0 ? err : weir_send(conn, &buf);
	return n < 0 ? (int)n : 0;
}

struct holding {
	weir_listener *listener;
	struct weir_event all_have;
};

static int serve_waiting(void *arg)
{
	struct holding *holding = arg;

	return weir_serve(holding->listener, hold_and_wait, .user = &holding->all_have);
}

static int all_hold(void *arg)
{
	struct holding holding = { .listener = NULL };
	bool parks = *(bool *)arg;

	weir_event_init(&holding.all_have);
	ck_assert_int_eq(weir_listen(&holding.listener, "127.0.0.1:0"), 0);
	{
		WEIR_SCOPE(server, 20 * WEIR_SEC);
		int err = parks ? weir_spawn(&server, serve_waiting, &holding)
				: weir_spawn(&server, serve_holding, holding.listener);
		ck_assert_int_eq(err, 0);
		burst(weir_listener_address(holding.listener));
	}
	weir_listener_close(holding.listener);
	return 0;
}

/* Parked, or ready all the time. */
START_TEST(where_tasks_hold_all_buffers_there_are_more)
{
	bool parks = _i;

	have_few_buffers();
	ck_assert_int_eq(weir_run(all_hold, &parks, .workers = 1, .signals_ignored = true), 0);
}
END_TEST

Suite *io_memory_suite(void);
Suite *io_memory_suite(void)
{
	Suite *suite = suite_create("io_memory");
	TCase *tcase = tcase_create("refusals");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, a_refused_allocation_costs_no_more_than_the_exchange);
	tcase_add_test(tcase, a_refused_allocation_at_start_is_reported);
	tcase_add_test(tcase, a_refused_receive_is_told_once_and_what_came_is_there);
	tcase_add_test(tcase, a_refused_send_is_told_at_once_and_the_next_one_goes_out);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("burst");
	tcase_set_timeout(tcase, 60);
	tcase_set_tags(tcase, "fast real"); /* the kernel's buffers; arrivals in one piece */
	tcase_add_test(tcase, a_burst_s_receive_buffers_go_back_and_the_next_burst_is_served);
	tcase_add_test(tcase, of_large_messages_nothing_stays_when_nothing_arrives);
	tcase_add_test(tcase, buffers_that_come_back_serve_more_connections_than_there_are);
	tcase_add_test(tcase, whoever_waits_for_a_buffer_gets_one);
	tcase_add_loop_test(tcase, where_tasks_hold_all_buffers_there_are_more, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite;
}
