/* SPDX-License-Identifier: MIT */
/*
 * test_io_quiet.c: sends that the kernel says nothing of unless they fail.
 *
 * The other end is a plain blocking socket in the hands of a thread, or of nobody: it sends nothing
 * that could wake the worker by accident. Each test ends by itself where the runtime is right and
 * by its deadline, or never, where it is not.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/ring.h"
#include "tests/runtime_test.h"

enum {
	CHUNK = 4096,
	CHUNKS_MAX = 4096,
	MANY = 300,
	PART = 100,
	ROUNDS_QUIET = 200,
	PATIENCE_S = 20
};

/* A listening socket of the test's own, which nobody's runtime knows of. */
struct stranger {
	int listener;
	char address[128];
};

static void open_stranger(struct stranger *stranger)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "weir-quiet-%d-%p",
			   (int)getpid(), (void *)stranger);

	snprintf(stranger->address, sizeof stranger->address, "unix:@%s", name.sun_path + 1);
	stranger->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(stranger->listener, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
	ck_assert_int_eq(bind(stranger->listener, (struct sockaddr *)&name, size), 0);
	ck_assert_int_eq(listen(stranger->listener, MANY), 0);
}

/* Both ends of a connection to it. */
static weir_conn *meet(const struct stranger *stranger, int *ret_fd)
{
	weir_conn *conn = NULL;

	ck_assert_int_eq(weir_connect(&conn, stranger->address), 0);
	*ret_fd = accept(stranger->listener, NULL, NULL);
	ck_assert_int_ge(*ret_fd, 0);
	return conn;
}

/* A chunk of nothing but its number. */
static ssize_t send_chunk(weir_conn *conn, unsigned number)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	ck_assert_int_eq(weir_buf_get(&buf, CHUNK), 0);
	memset(buf.data, (int)(number & 0xff), CHUNK);
	buf.len = CHUNK;
	return weir_send(conn, &buf);
}

static bool read_chunk(int fd, unsigned number)
{
	char got[CHUNK], want[CHUNK];

	memset(want, (int)(number & 0xff), sizeof want);
	return recv(fd, got, sizeof got, MSG_WAITALL) == CHUNK && memcmp(got, want, CHUNK) == 0;
}

/* The same on the worker that has to send it first. */
static bool await_chunk(int fd, unsigned number)
{
	char peeked[CHUNK];

	while (recv(fd, peeked, CHUNK, MSG_PEEK | MSG_DONTWAIT) < CHUNK)
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	return read_chunk(fd, number);
}

/* Sends chunks until one has waited for a while: the socket is full. Returns how many were taken.
 */
static unsigned fill(weir_conn *conn)
{
	unsigned count = 0;
	ssize_t n = CHUNK;

	while (n > 0) {
		WEIR_SCOPE(briefly, 50 * WEIR_MS);
		n = send_chunk(conn, count);
		count += n > 0;
		ck_assert_uint_lt(count, CHUNKS_MAX);
	}
	ck_assert_int_eq((int)n, -ETIME);
	return count;
}

/* ---- With nobody who answers --------------------------------------------------------------- */

/* A worker that sleeps beside a finished send is woken by its heap's timers at last, not so often.
 */
static int send_on_and_on(void *arg)
{
	int fd;
	weir_auto_conn conn = meet(arg, &fd);
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	for (unsigned i = 0; i < ROUNDS_QUIET; i++) {
		expect(send_chunk(conn, 0) == CHUNK);
		expect(send_chunk(conn, 1) == CHUNK); /* has to wait for the first */
		expect(await_chunk(fd, 0));
		expect(await_chunk(fd, 1));
	}
	close(fd);
	return 0;
}

static int send_and_close(void *arg)
{
	int fd;
	WEIR_SCOPE(patience, 4 * WEIR_SEC); /* less than a close may linger */

	for (unsigned i = 0; i < ROUNDS_QUIET; i++) {
		weir_conn *conn = meet(arg, &fd);
		expect(send_chunk(conn, i) == CHUNK);
		weir_conn_close(conn);
		expect(weir_time_left() > 0);
		expect(read_chunk(fd, i));
		close(fd);
	}
	return 0;
}

/* ---- With a full socket -------------------------------------------------------------------- */

struct reader {
	pthread_t thread;
	int fd;
	unsigned chunks;
	bool is_right;
};

static void *read_all(void *arg)
{
	struct reader *reader = arg;

	reader->is_right = true;
	for (unsigned i = 0; i < reader->chunks; i++)
		reader->is_right &= read_chunk(reader->fd, i);
	return NULL;
}

/* What fill() left unsent goes first, then as much again, with the reader at work. */
static int fill_then_read(void *arg)
{
	struct reader reader = { .fd = -1 };
	weir_auto_conn conn = meet(arg, &reader.fd);
	unsigned filled = fill(conn);
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	reader.chunks = 4 * filled;
	ck_assert_int_eq(pthread_create(&reader.thread, NULL, read_all, &reader), 0);
	for (unsigned i = filled; i < reader.chunks; i++)
		ck_assert_int_eq((int)send_chunk(conn, i), CHUNK);
	ck_assert_int_eq(weir_shutdown(conn), 0);
	pthread_join(reader.thread, NULL);
	ck_assert(reader.is_right);
	close(reader.fd);
	return 0;
}

static void *read_all_late(void *arg)
{
	usleep(50000); /* the connection is being closed */
	return read_all(arg);
}

/* The last lease has found no room yet when the connection is closed: it goes out all the same. */
static int fill_then_close(void *arg)
{
	struct reader reader = { .fd = -1 };
	weir_conn *conn = meet(arg, &reader.fd);
	unsigned count = fill(conn);
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	reader.chunks = count;
	ck_assert_int_eq(pthread_create(&reader.thread, NULL, read_all_late, &reader), 0);
	weir_conn_close(conn);
	pthread_join(reader.thread, NULL);
	ck_assert(reader.is_right);
	close(reader.fd);
	return 0;
}

struct closing {
	weir_conn *conn;
	struct weir_scope *scope;
};

/* Cancelled between its send and its close, which therefore does not linger. */
static int send_and_close_cancelled(void *arg)
{
	struct closing *closing = arg;

	ck_assert_int_eq((int)send_chunk(closing->conn, 0), CHUNK);
	weir_scope_cancel(closing->scope);
	weir_conn_close(closing->conn);
	return 0;
}

/* How many chunks a socket takes before it is full; it is empty again, and its failure forgotten.
 */
static unsigned capacity(weir_conn *conn, int fd)
{
	unsigned filled = fill(conn);

	for (unsigned i = 0; i < filled; i++)
		expect(await_chunk(fd, i));
	for (unsigned i = 0; i < 40; i++) {
		expect(send_chunk(conn, i) == CHUNK);
		expect(await_chunk(fd, i));
	}
	return filled - 1; /* the last waited */
}

static int close_on_full(void *arg)
{
	int fd;
	struct closing closing = { .conn = meet(arg, &fd) };
	unsigned fits = capacity(closing.conn, fd);
	WEIR_SCOPE(scope, PATIENCE_S * WEIR_SEC);

	closing.scope = &scope;
	for (unsigned i = 0; i < fits; i++)
		expect(send_chunk(closing.conn, i) == CHUNK);
	(void)weir_sleep(WEIR_MS);
	ck_assert_int_eq(weir_spawn(&scope, send_and_close_cancelled, &closing), 0);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	close(fd);
	return 0;
}

/* Whether there was a completion for it: nothing else here has one. */
static bool is_told_of(weir_conn *conn, int fd, unsigned number)
{
	struct weir_worker_stats stats;

	ck_assert_int_eq(weir_worker_stats_get(0, &stats), 0);
	uint64_t before = stats.completions;
	expect(send_chunk(conn, number) == CHUNK);
	expect(await_chunk(fd, number));
	ck_assert_int_eq(weir_worker_stats_get(0, &stats), 0);
	return stats.completions > before;
}

static bool kernel_may_be_quiet(void)
{
	struct weir__driver *driver = weir__worker_self()->driver;

	return strcmp(driver->ops->name, "io_uring") == 0 &&
	       weir__ring_of_driver(driver)->skip_success;
}

static int count_what_is_told(void *arg)
{
	int fd;
	weir_auto_conn conn = meet(arg, &fd);
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	for (unsigned i = 0; kernel_may_be_quiet() && i < 10; i++)
		expect(!is_told_of(conn, fd, i));
	unsigned filled = fill(conn), told = 0;
	for (unsigned i = 0; i < filled; i++)
		expect(await_chunk(fd, i));
	while (told < 40 && is_told_of(conn, fd, told))
		told++;
	for (unsigned i = 0; kernel_may_be_quiet() && i < 10; i++)
		expect(!is_told_of(conn, fd, i));
	if (kernel_may_be_quiet())
		ck_assert(told >= 8 && told <= 32);
	close(fd);
	return 0;
}

/* ---- Broken midway --------------------------------------------------------------------------- */

/* Sends that are told of after one that was refused, and one more; and more than a socket takes. */
enum { LOUD_AND_MORE = 17, MUCH = 1 << 20 };

static ssize_t send_much(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	ck_assert_int_eq(weir_buf_get(&buf, MUCH), 0);
	memset(buf.data, 'm', MUCH);
	buf.len = MUCH;
	return weir_send(conn, &buf);
}

static void *read_much(void *arg)
{
	struct reader *reader = arg;
	static char got[MUCH];

	for (unsigned i = 0; i < reader->chunks; i++)
		(void)recv(reader->fd, got, sizeof got, MSG_WAITALL);
	(void)recv(reader->fd, got, CHUNK, MSG_WAITALL);
	close(reader->fd);
	return NULL;
}

/* The reader leaves in the midst of the last one; the end of that is told once. */
static int break_off(void *arg)
{
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	for (unsigned whole = 0; whole < LOUD_AND_MORE; whole++) {
		struct reader reader = { .chunks = whole };
		weir_conn *conn = meet(arg, &reader.fd);
		ck_assert_int_eq(pthread_create(&reader.thread, NULL, read_much, &reader), 0);
		for (unsigned i = 0; i <= whole; i++)
			expect(send_much(conn) == MUCH);
		int err = weir_shutdown(conn);
		ck_assert_msg(err == -ECONNRESET || err == -EPIPE, "%u: %s", whole,
			      weir_errname(err));
		expect(weir_shutdown(conn) == 0);
		weir_conn_close(conn);
		pthread_join(reader.thread, NULL);
	}
	return 0;
}

/* ---- More failures at once than there is room for in the completion queue ------------------- */

struct crowd {
	weir_conn *conns[MANY];
	int fds[MANY];
};

static void fill_all(struct crowd *crowd, unsigned fits)
{
	for (unsigned i = 0; i < MANY; i++)
		for (unsigned chunk = 0; chunk < fits; chunk++)
			expect(send_chunk(crowd->conns[i], chunk) == CHUNK);
	(void)weir_sleep(WEIR_MS);
}

static void read_all_of(struct crowd *crowd, unsigned chunks)
{
	for (unsigned i = 0; i < MANY; i++)
		for (unsigned chunk = 0; chunk < chunks; chunk++)
			expect(await_chunk(crowd->fds[i], chunk));
}

/* As many sends as a task makes before it gives way: those of all parts are of one turn. */
struct part {
	struct crowd *crowd;
	unsigned first, fits;
};

static int send_to_part(void *arg)
{
	const struct part *part = arg;

	for (unsigned i = part->first; i < part->first + PART; i++)
		expect(send_chunk(part->crowd->conns[i], part->fits) == CHUNK);
	return 0;
}

static void send_to_all(struct crowd *crowd, unsigned fits)
{
	struct part parts[MANY / PART];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < MANY / PART; i++) {
		parts[i] = (struct part){ crowd, i * PART, fits };
		ck_assert_int_eq(weir_spawn(&scope, send_to_part, &parts[i]), 0);
	}
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
}

static int refuse_many(void *arg)
{
	static struct crowd crowd;
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	for (unsigned i = 0; i < MANY; i++)
		crowd.conns[i] = meet(arg, &crowd.fds[i]);
	unsigned fits = capacity(crowd.conns[0], crowd.fds[0]);
	fill_all(&crowd, fits);
	send_to_all(&crowd, fits);
	read_all_of(&crowd, fits + 1);
	for (unsigned i = 0; i < MANY; i++) {
		close(crowd.fds[i]);
		weir_conn_close(crowd.conns[i]);
	}
	return 0;
}

/* ---- All ------------------------------------------------------------------------------------ */

static void run_with_stranger(int (*fn)(void *))
{
	struct stranger stranger;

	open_stranger(&stranger);
	run_on(1, fn, &stranger);
	close(stranger.listener);
}

START_TEST(a_second_send_needs_no_other_event)
{
	run_with_stranger(send_on_and_on);
}
END_TEST

START_TEST(closing_after_a_send_needs_no_other_event)
{
	run_with_stranger(send_and_close);
}
END_TEST

START_TEST(what_a_full_socket_refused_arrives_in_order)
{
	run_with_stranger(fill_then_read);
}
END_TEST

START_TEST(a_close_lets_what_has_no_room_yet_go_out)
{
	run_with_stranger(fill_then_close);
}
END_TEST

START_TEST(a_refused_send_ends_when_it_was_cancelled)
{
	run_with_stranger(close_on_full);
}
END_TEST

START_TEST(a_send_that_breaks_midway_ends_once)
{
	setenv("WEIR_MEM_DEBUG", "2", 1); /* a block that is given back twice ends the process */
	run_with_stranger(break_off);
}
END_TEST

START_TEST(after_a_full_socket_sends_are_told_of_for_a_while_and_then_no_more)
{
	run_with_stranger(count_what_is_told);
}
END_TEST

/* Or when there are more than are taken out of it in one turn. */
START_TEST(no_refusal_is_overlooked_when_the_completion_queue_overflows)
{
	setenv("WEIR_SLICE_US", "100000", 1);
	if (_i == 0) {
		setenv("WEIR_SQ_ENTRIES", "32", 1);
		setenv("WEIR_CQ_ENTRIES", "64", 1);
	}
	run_with_stranger(refuse_many);
}
END_TEST

Suite *io_quiet_suite(void);
Suite *io_quiet_suite(void)
{
	Suite *suite = suite_create("io_quiet");
	TCase *tcase = tcase_create("sends");

	tcase_set_timeout(tcase, 30);
	tcase_set_tags(tcase, "fast real"); /* sockets of the system's */
	tcase_add_test(tcase, a_second_send_needs_no_other_event);
	tcase_add_test(tcase, closing_after_a_send_needs_no_other_event);
	tcase_add_test(tcase, what_a_full_socket_refused_arrives_in_order);
	tcase_add_test(tcase, a_close_lets_what_has_no_room_yet_go_out);
	tcase_add_test(tcase, a_refused_send_ends_when_it_was_cancelled);
	tcase_add_test(tcase, a_send_that_breaks_midway_ends_once);
	tcase_add_test(tcase, after_a_full_socket_sends_are_told_of_for_a_while_and_then_no_more);
	tcase_add_loop_test(tcase, no_refusal_is_overlooked_when_the_completion_queue_overflows, 0,
			    2);
	suite_add_tcase(suite, tcase);
	return suite;
}
