/* SPDX-License-Identifier: MIT */
/*
 * How calls on a connection end: the end of a stream, a reset, a deadline, a cancellation, and a
 * close under the tasks that wait.
 */
#include <sys/un.h>

#include "tests/net_test.h"

/* ---- The ends of a stream -------------------------------------------------------------------- */

static int half_close(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	char got[16];
	open_ends(&ends, arg);
	put(ends.near, "question");
	ck_assert_int_eq(weir_shutdown(ends.near), 0);
	ck_assert_int_eq(weir_write(ends.near, "x", 1), -EPIPE);
	ck_assert_int_eq(weir_read_full(ends.far, got, 8), 0);
	ck_assert_int_eq(weir_recv(ends.far, &buf), 0);
	ck_assert_int_eq(weir_recv(ends.far, &buf), 0); /* and stays so */
	ck_assert_ptr_null(buf.block);
	put(ends.far, "answer");
	ck_assert_int_eq(weir_read_full(ends.near, got, 6), 0);
	ck_assert_mem_eq(got, "answer", 6);
	weir_conn_close(ends.far);
	ends.far = NULL;
	ck_assert_int_eq(weir_recv(ends.near, &buf), 0);
	close_ends(&ends);
	return 0;
}

START_TEST(half_a_connection_goes_on)
{
	run_on(1, half_close, (void *)address_of(_i));
}
END_TEST

static int reset_by_peer(void *arg)
{
	weir_listener *listener = NULL;
	weir_conn *conn = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	char peer[64];
	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	for (int i = 0; i < 2; i++) {
		int fd = raw_client(listener);
		ck_assert_int_eq(weir_accept(listener, &conn), 0);
		if (i == 1) { /* bytes that came before it are lost or not; the error stays */
			ck_assert_int_eq(send(fd, "x", 1, 0), 1);
			ck_assert_int_eq(weir_recv(conn, &buf), 1);
		}
		reset(fd);
		for (int again = 0; again < 2; again++)
			ck_assert_int_eq(weir_recv(conn, &buf), -ECONNRESET);
		ck_assert_ptr_null(buf.block);
		ck_assert_int_lt(weir_write(conn, "x", 1), 0);
		ck_assert_int_eq(weir_conn_peer(conn, peer, sizeof(peer)), -ENOTCONN);
		weir_conn_close(conn);
	}
	weir_listener_close(listener);
	return 0;
}

START_TEST(a_reset_is_econnreset)
{
	run(reset_by_peer);
}
END_TEST

/* epoll's driver tries to send at once, so it knows at once; a ring tells the next call. */
static int send_to_nobody(void *arg)
{
	struct ends ends;
	weir_auto_buf buf = WEIR_BUF_INIT;
	(void)arg;
	open_ends(&ends, own_name("nobody"));
	weir_conn_close(ends.far);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(weir_buf_get(&buf, 100), 0);
		memset(buf.data, 'x', buf.len = 100);
		ck_assert_int_eq((int)weir_send(ends.near, &buf), -EPIPE);
		ck_assert_ptr_null(buf.block);
	}
	weir_conn_close(ends.near);
	weir_listener_close(ends.listener);
	return 0;
}

START_TEST(an_error_that_is_known_at_once_is_told_at_once)
{
	ck_assert_int_eq(weir_run(send_to_nobody, NULL, .workers = 1, .driver = "epoll"), 0);
}
END_TEST

/* ---- Time and cancellation ------------------------------------------------------------------- */

enum parked {
	IN_RECV,
	IN_READ_FULL,
	IN_READ_UNTIL,
	IN_WRITE,
	IN_SEND,
	IN_ACCEPT,
	IN_CONNECT,
	IN_CONNECT_UNIX, /* which io_uring leaves to a thread of the kernel's */
	PARKED
};

/* A task in one of those calls, with nothing that would end it. */
struct stuck {
	enum parked in;
	weir_conn *conn;
	weir_listener *listener;
	char *data;
	weir_buf lease;
	ssize_t result;
	ssize_t again; /* what the same call says at once afterwards */
	int64_t timeout_ns;
	bool is_over;
};

/* Before the clock runs: it takes a while. */
static void fill_lease(struct stuck *stuck)
{
	ck_assert_int_eq(weir_buf_get(&stuck->lease, BIG_BYTES), 0);
	memcpy(stuck->lease.data, stuck->data, BIG_BYTES);
	stuck->lease.len = BIG_BYTES;
}

static ssize_t send_lease(struct stuck *stuck)
{
	weir_auto_buf second = WEIR_BUF_INIT;
	weir_buf_share_view(&stuck->lease, &second);
	ssize_t n = weir_send(stuck->conn, &second);
	ck_assert_ptr_null(second.block); /* taken, whatever happened */
	return n;
}

static ssize_t call(struct stuck *stuck)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	weir_conn *conn = NULL;
	char room[64];
	switch (stuck->in) {
	case IN_RECV:
		return weir_recv(stuck->conn, &buf);
	case IN_READ_FULL:
		return weir_read_full(stuck->conn, room, sizeof(room));
	case IN_READ_UNTIL:
		return weir_read_until(stuck->conn, '\n', room, sizeof(room));
	case IN_WRITE:
		return weir_write(stuck->conn, stuck->data, BIG_BYTES);
	case IN_SEND:
		return send_lease(stuck);
	case IN_ACCEPT:
		return weir_accept(stuck->listener, &conn);
	default:
		return weir_connect(&conn, weir_listener_address(stuck->listener));
	}
}

static int get_stuck(void *arg)
{
	struct stuck *stuck = arg;
	fill_lease(stuck);
	WEIR_SCOPE(timed, stuck->timeout_ns);
	stuck->result = call(stuck);
	stuck->again = call(stuck);
	stuck->is_over = true;
	return 0;
}

static int raw_unix_client(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(address.sun_path + 1, name);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, len), 0);
	return fd;
}

/* Its backlog is full, so the next handshake does not end. */
static void fill_backlog(struct stuck *stuck, int *ret_fd)
{
	bool is_unix = stuck->in == IN_CONNECT_UNIX;
	const char *address = is_unix ? own_name("full") : "127.0.0.1:0";
	ck_assert_int_eq(weir_listen(&stuck->listener, address, .backlog = 1), 0);
	for (int i = 0; i < 2; i++)
		ret_fd[i] = is_unix ? raw_unix_client(address + strlen("unix:@"))
				    : raw_client(stuck->listener);
}

static void check_ending(const struct stuck *stuck, int expected)
{
	ck_assert(stuck->is_over);
	ck_assert_int_eq(stuck->again, expected);
	if (stuck->in == IN_WRITE) { /* bytes beat errors */
		ck_assert_int_gt(stuck->result, 0);
		ck_assert_int_lt(stuck->result, BIG_BYTES);
	} else if (stuck->in == IN_SEND) { /* the first lease may be taken whole */
		ck_assert_int_gt(stuck->result, 0);
	} else {
		ck_assert_int_eq(stuck->result, expected);
	}
}

/* Ends one task in each of the calls, by deadline or by cancelling. */
static int end_stuck(void *arg)
{
	struct stuck *stuck = arg;
	struct ends ends = { 0 };
	weir_listener *listener = NULL;
	int fds[2] = { -1, -1 };
	open_ends(&ends, "127.0.0.1:0");
	stuck->conn = ends.near;
	stuck->data = pattern(BIG_BYTES);
	if (stuck->in >= IN_CONNECT)
		fill_backlog(stuck, fds);
	else
		stuck->listener = ends.listener;
	listener = stuck->in >= IN_CONNECT ? stuck->listener : NULL;
	WEIR_SCOPE(one, WEIR_FOREVER);
	spawn(&one, get_stuck, stuck);
	settle();
	if (stuck->timeout_ns == WEIR_FOREVER) {
		ck_assert(!stuck->is_over);
		weir_scope_cancel(&one);
		weir_scope_close(&one);
		check_ending(stuck, -ECANCELED);
	} else {
		ck_assert_int_eq(weir_scope_wait(&one), 0);
		check_ending(stuck, -ETIME);
	}
	weir_scope_close(&one);
	weir_buf_release(&stuck->lease);
	for (int i = 0; i < 2 && fds[i] >= 0; i++)
		close(fds[i]);
	weir_listener_close(listener);
	close_ends(&ends);
	free(stuck->data);
	return 0;
}

START_TEST(a_deadline_ends_a_parked_call_with_etime)
{
	const char *driver = getenv("WEIR_DRIVER");
	/* simulated, a thread may stand still for longer than 30 ms before it is stuck */
	int64_t ms = driver && strcmp(driver, "sim") == 0 ? 300 : 30;
	struct stuck stuck = { .in = (enum parked)_i, .timeout_ns = ms * WEIR_MS };
	run_on(1, end_stuck, &stuck);
}
END_TEST

START_TEST(cancelling_ends_a_parked_call_with_ecanceled)
{
	struct stuck stuck = { .in = (enum parked)_i, .timeout_ns = WEIR_FOREVER };
	run_on(1, end_stuck, &stuck);
}
END_TEST

static int late_bytes(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	char rest[4];
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	for (int i = 0; i < 5; i++) {
		WEIR_SCOPE(brief, 2 * WEIR_MS);
		ck_assert_int_eq(weir_recv(ends.near, &buf), -ETIME);
		weir_scope_close(&brief);
		put(ends.far, "late");
		ssize_t n = weir_recv(ends.near, &buf); /* all, as a rule */
		ck_assert_int_gt(n, 0);
		ck_assert_int_eq(weir_read_full(ends.near, rest, 4 - (size_t)n), 0);
	}
	close_ends(&ends);
	return 0;
}

START_TEST(bytes_that_miss_a_deadline_wait_for_the_next_call)
{
	run(late_bytes);
}
END_TEST

/* ---- Closing under others -------------------------------------------------------------------- */

static int close_under_tasks(void *arg)
{
	struct ends ends = { 0 };
	struct request writer = { .len = BIG_BYTES };
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	writer.conn = ends.near;
	writer.data = pattern(BIG_BYTES);
	WEIR_SCOPE(both, WEIR_FOREVER);
	struct request busy = { .conn = ends.near, .data = "x", .len = 1 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	spawn(&both, write_all, &writer);
	settle();
	ck_assert_int_eq(write_all(&busy), 0);
	ck_assert_int_eq(busy.result, -EBUSY);
	weir_conn *near = ends.near;
	ends.near = NULL;
	WEIR_SCOPE(brief, WEIR_MS);
	ck_assert_int_eq(weir_recv(near, &buf),
			 -ETIME); /* one direction does not hold up the other */
	weir_scope_close(&brief);
	weir_conn_close(near);
	ck_assert_int_eq(weir_scope_wait(&both), 0);
	ck_assert_int_gt(writer.result, 0);
	ck_assert_int_lt(writer.result, BIG_BYTES);
	close_ends(&ends);
	free((void *)writer.data);
	return 0;
}

static int recv_once(void *arg)
{
	struct request *request = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;
	request->result = weir_recv(request->conn, &buf);
	return 0;
}

static int accept_once(void *arg)
{
	struct stuck *stuck = arg;
	weir_conn *conn = NULL;
	stuck->result = weir_accept(stuck->listener, &conn);
	return 0;
}

static int close_under_readers(void *arg)
{
	struct ends ends = { 0 };
	struct stuck acceptor = { 0 };
	struct request reader, second;
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	reader = second = (struct request){ .conn = ends.near };
	acceptor.listener = ends.listener;
	WEIR_SCOPE(both, WEIR_FOREVER);
	spawn(&both, recv_once, &reader);
	spawn(&both, accept_once, &acceptor);
	settle();
	recv_once(&second);
	ck_assert_int_eq(second.result, -EBUSY);
	weir_conn_close(ends.near);
	weir_listener_close(ends.listener);
	ck_assert_int_eq(weir_scope_wait(&both), 0);
	ck_assert_int_eq(reader.result, -ECANCELED);
	ck_assert_int_eq(acceptor.result, -ECANCELED);
	weir_conn_close(ends.far);
	return 0;
}

START_TEST(closing_ends_the_calls_of_other_tasks)
{
	run(_i == 0 ? close_under_readers : close_under_tasks);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_ending_suite(void)
{
	Suite *suite = suite_create("io_ending");
	TCase *ending = add_case(suite, "ending");
	tcase_add_loop_test(ending, half_a_connection_goes_on, 0, COUNT(addresses));
	tcase_add_test(ending, an_error_that_is_known_at_once_is_told_at_once);
	tcase_add_loop_test(ending, a_deadline_ends_a_parked_call_with_etime, 0, IN_CONNECT);
	tcase_add_loop_test(ending, cancelling_ends_a_parked_call_with_ecanceled, 0, IN_CONNECT);
	tcase_add_test(ending, bytes_that_miss_a_deadline_wait_for_the_next_call);
	tcase_add_loop_test(ending, closing_ends_the_calls_of_other_tasks, 0, 2);
	TCase *raw = add_case(suite, "raw");
	tcase_set_tags(raw, "net real"); /* sockets of the system's */
	tcase_add_test(raw, a_reset_is_econnreset);
	tcase_add_loop_test(raw, a_deadline_ends_a_parked_call_with_etime, IN_CONNECT, PARKED);
	tcase_add_loop_test(raw, cancelling_ends_a_parked_call_with_ecanceled, IN_CONNECT, PARKED);
	return suite;
}
