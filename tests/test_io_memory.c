/* SPDX-License-Identifier: MIT */
/*
 * test_io_memory.c: memory refused at every allocation of a served exchange, and of a start, in
 * turn.
 *
 * A refusal may cost the exchange, never the runtime: every call returns, everything is given back,
 * and the next exchange works.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>

#include <weir/weir.h>

enum { SITES_MAX = 400 };

static unsigned descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

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
	unsigned before = descriptors();
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
	ck_assert_uint_le(descriptors(), before);
	return 0;
}

START_TEST(a_refused_allocation_costs_no_more_than_the_exchange)
{
	ck_assert_int_eq(weir_run(refuse_in_turn, NULL, .workers = 1, .signals_ignored = true), 0);
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
	unsigned before = descriptors();

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
	ck_assert_uint_eq(descriptors(), before);
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
	suite_add_tcase(suite, tcase);
	return suite;
}
