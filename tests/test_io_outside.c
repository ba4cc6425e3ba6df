/* SPDX-License-Identifier: MIT */
/*
 * test_io_outside.c: calls where they cannot be: on a connection, a listener or a child from where
 * there is no task; without the function they are about; with options that no compiler has laid
 * out. Each is told so, and nothing has happened. And a call that is no cancellation point where a
 * task is late.
 */
#include <errno.h>
#include <stdio.h>

#include "tests/net_test.h"

static struct ends ends;
static unsigned calls;

/* ---- No task --------------------------------------------------------------------------------- */

static void use_conn(void *arg)
{
	weir_conn *conn = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;
	char text[64];

	ck_assert_int_eq(weir_recv(conn, &buf), -EINVAL);
	ck_assert_int_eq(weir_read_full(conn, text, 1), -EINVAL);
	ck_assert_int_eq(weir_read_until(conn, '\n', text, sizeof text), -EINVAL);
	ck_assert_int_eq(weir_write(conn, "x", 1), -EINVAL);
	ck_assert_int_eq(weir_buf_get(&buf, 16), 0);
	buf.len = 16;
	ck_assert_int_eq(weir_send(conn, &buf), -EINVAL);
	ck_assert_ptr_null(buf.block); /* as ever: the lease is taken, whatever happens */
	ck_assert_int_eq(weir_shutdown(conn), -EINVAL);
	ck_assert_int_eq(weir_conn_peer(conn, text, sizeof text), -EINVAL);
	calls++;
}

static void use_listener(void *arg)
{
	weir_conn *conn = NULL;

	ck_assert_int_eq(weir_accept(arg, &conn), -EINVAL);
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(arg)), -EINVAL);
	ck_assert_ptr_null(conn);
	calls++;
}

/* Idle, with bytes that were read ahead, and with a peer that has closed. */
static int post_all(void *arg)
{
	char first, rest[2];
	(void)arg;

	open_ends(&ends, "127.0.0.1:0");
	ck_assert_int_eq(weir_post(0, use_listener, ends.listener), 0);
	ck_assert_int_eq(weir_post(0, use_conn, ends.far), 0);
	settle();
	put(ends.near, "two");
	ck_assert_int_eq(weir_read_full(ends.far, &first, 1), 0);
	ck_assert_int_eq(weir_post(0, use_conn, ends.far), 0);
	settle();
	weir_auto_buf buf = WEIR_BUF_INIT;
	ck_assert_int_eq(weir_read_full(ends.far, rest, 2), 0); /* nothing was lost to them */
	ck_assert_int_eq(weir_shutdown(ends.near), 0);
	settle();
	ck_assert_int_eq(weir_post(0, use_conn, ends.far), 0);
	settle();
	ck_assert_int_eq(weir_recv(ends.far, &buf), 0);
	close_ends(&ends);
	ck_assert_uint_eq(calls, 4);
	return 0;
}

START_TEST(on_a_connection_a_posted_function_gets_einval)
{
	run(post_all);
}
END_TEST

static void use_stream(void *arg)
{
	char byte;

	ck_assert_int_eq(weir_stream_read(arg, &byte, 1), -EINVAL);
	ck_assert_int_eq(weir_stream_write(arg, "x", 1), -EINVAL);
	calls++;
}

static void use_dgram(void *arg)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	char text[16];

	ck_assert_int_eq(weir_dgram_recv(arg, &buf, NULL), -EINVAL);
	ck_assert_int_eq(weir_dgram_read(arg, text, sizeof text, NULL), -EINVAL);
	ck_assert_int_eq(weir_dgram_send(arg, "x", 1, NULL), -EINVAL);
	ck_assert_int_eq(weir_dgram_connect(arg, weir_dgram_address(arg)), -EINVAL);
	calls++;
}

static int post_others(void *arg)
{
	weir_auto_stream reading = NULL;
	weir_auto_stream writing = NULL;
	weir_auto_dgram dgram = NULL;
	(void)arg;

	ck_assert_int_eq(weir_pipe(&reading, &writing), 0);
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_post(0, use_stream, reading), 0);
	ck_assert_int_eq(weir_post(0, use_stream, writing), 0);
	ck_assert_int_eq(weir_post(0, use_dgram, dgram), 0);
	settle();
	ck_assert_uint_eq(calls, 3);
	return 0;
}

START_TEST(on_pipes_and_datagram_sockets_a_posted_function_gets_einval)
{
	run(post_others);
}
END_TEST

static void use_child(void *arg)
{
	int status;

	ck_assert_int_eq(weir_process_wait(arg, &status), -EINVAL);
	calls++;
}

static int post_to_child(void *arg)
{
	static const char *const argv[] = { "sleep", "100", NULL };
	weir_auto_process child = NULL;
	(void)arg;

	ck_assert_int_eq(weir_process_spawn(&child, argv), 0);
	ck_assert_int_eq(weir_post(0, use_child, child), 0);
	settle();
	ck_assert_uint_eq(calls, 1);
	return 0;
}

START_TEST(on_a_child_a_posted_function_gets_einval)
{
	run(post_to_child);
}
END_TEST

/* ---- No function ----------------------------------------------------------------------------- */

static int without_function(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	struct weir_gen gen;
	struct weir_once once = { { NULL } };
	(void)arg;

	ck_assert_int_eq(weir_spawn(&scope, NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_gen_open(&gen, &scope, NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_call_on(0, NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_post(0, NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_once(&once, NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_task_defer(NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_task_set(NULL, &once), -EINVAL);
	return weir_scope_wait(&scope);
}

START_TEST(without_a_function_nothing_is_begun)
{
	run(without_function);
}
END_TEST

/* ---- Options --------------------------------------------------------------------------------- */

/* A pointer of which only some bytes are said to be there must not be followed. */
static int with_sizes(void *arg)
{
	static const size_t wrong[] = { 0, 3, 8, 13, 17, sizeof(struct weir_listen_opts) - 1 };
	struct weir_listen_opts listen = { .address = "127.0.0.1:0" };
	struct weir_task_opts task = { .fn = with_sizes };
	weir_listener *listener = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	(void)arg;

	for (size_t i = 0; i < COUNT(wrong); i++) {
		listen.size = wrong[i];
		ck_assert_int_eq(weir_listen_with(&listener, &listen), -EINVAL);
		task.size = wrong[i];
		ck_assert_int_eq(weir_spawn_with(&scope, &task), -EINVAL);
	}
	listen.size = 2 * sizeof(void *); /* an old program's: all else is zero, the default */
	ck_assert_int_eq(weir_listen_with(&listener, &listen), 0);
	weir_listener_close(listener);
	return weir_scope_wait(&scope);
}

START_TEST(options_of_no_possible_size_are_refused)
{
	run(with_sizes);
}
END_TEST

struct newer {
	struct weir_task_opts known;
	void *unknown;
};

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int with_newer(void *arg)
{
	struct newer opts = { .known = { .fn = nothing, .size = sizeof opts } };
	WEIR_SCOPE(scope, WEIR_FOREVER);
	(void)arg;

	ck_assert_int_eq(weir_spawn_with(&scope, &opts.known), 0);
	opts.unknown = &opts;
	ck_assert_int_eq(weir_spawn_with(&scope, &opts.known), -E2BIG);
	return weir_scope_wait(&scope);
}

START_TEST(options_the_library_does_not_know_are_refused_where_they_are_used)
{
	run(with_newer);
}
END_TEST

/* ---- Late ------------------------------------------------------------------------------------ */

static int ask_late(void *arg)
{
	char text[64];
	(void)arg;

	open_ends(&ends, "127.0.0.1:0");
	{
		WEIR_SCOPE(late, 0);
		ck_assert_int_eq(weir_yield(), -ETIME);
		ck_assert_int_eq(weir_conn_peer(ends.near, text, sizeof text), 0);
		ck_assert_str_eq(text, weir_listener_address(ends.listener));
		ck_assert_int_eq(weir_conn_peer(ends.far, text, sizeof text), 0);
	}
	{
		WEIR_SCOPE(over, WEIR_FOREVER);
		weir_scope_cancel(&over);
		ck_assert_int_eq(weir_conn_peer(ends.far, text, sizeof text), 0);
	}
	close_ends(&ends);
	return 0;
}

START_TEST(who_is_late_or_cancelled_can_still_say_who_the_peer_was)
{
	run(ask_late);
}
END_TEST

/* ---- A stream that takes nothing ------------------------------------------------------------- */

static int write_to(void *arg)
{
	FILE *unwritable = fopen("/dev/null", "r");
	(void)arg;

	ck_assert_ptr_nonnull(unwritable);
	ck_assert_int_lt(weir_tasks_write(unwritable), 0);
	ck_assert_int_lt(weir_metrics_write(unwritable), 0);
	ck_assert_int_eq(fclose(unwritable), 0);
	return 0;
}

START_TEST(what_could_not_be_written_is_an_error)
{
	run(write_to);
}
END_TEST

Suite *io_outside_suite(void);
Suite *io_outside_suite(void)
{
	Suite *suite = suite_create("io_outside");
	TCase *quick = tcase_create("quick");
	tcase_set_tags(quick, "fast");
	tcase_add_test(quick, on_a_connection_a_posted_function_gets_einval);
	tcase_add_test(quick, on_pipes_and_datagram_sockets_a_posted_function_gets_einval);
	tcase_add_test(quick, without_a_function_nothing_is_begun);
	tcase_add_test(quick, options_of_no_possible_size_are_refused);
	tcase_add_test(quick, options_the_library_does_not_know_are_refused_where_they_are_used);
	tcase_add_test(quick, who_is_late_or_cancelled_can_still_say_who_the_peer_was);
	tcase_add_test(quick, what_could_not_be_written_is_an_error);
	suite_add_tcase(suite, quick);
	TCase *child = tcase_create("child");
	tcase_set_tags(child, "real"); /* a program of the system's */
	tcase_add_test(child, on_a_child_a_posted_function_gets_einval);
	suite_add_tcase(suite, child);
	return suite;
}
