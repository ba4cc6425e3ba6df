/* SPDX-License-Identifier: MIT */
/*
 * test_io_turns.c: who reads what is there already waits for nobody, and others must have their
 * turn all the same, within a budget's worth of calls. What they do in it, such as closing the
 * connection, is as if the reader had been parked.
 */
#include <errno.h>
#include <unistd.h>

#include "tests/net_test.h"

enum { LINES = 8192 };

static struct ends ends;
static unsigned turns;
static bool is_over;

static int count_turns(void *arg)
{
	(void)arg;
	while (!is_over) {
		turns++;
		ck_assert_int_eq(weir_yield(), 0);
	}
	return 0;
}

/* Lines of one byte, all of them there. */
static void fill(void)
{
	static char lines[LINES];

	memset(lines, '\n', sizeof lines);
	open_ends(&ends, "127.0.0.1:0");
	ck_assert_int_eq(weir_write(ends.near, lines, sizeof lines), LINES);
	settle();
}

static ssize_t by_line(void)
{
	char line[16];

	return weir_read_until(ends.far, '\n', line, sizeof line);
}

static ssize_t by_byte(void)
{
	char byte;
	int err = weir_read_full(ends.far, &byte, 1);

	return err < 0 ? err : 1;
}

static ssize_t (*const readers[])(void) = { by_line, by_byte };

static int read_beside(void *arg)
{
	ssize_t (*const *reader)(void) = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	fill();
	spawn(&scope, count_turns, NULL);
	ck_assert_int_eq((*reader)(), 1); /* which may have to wait for the rest */
	turns = 0;
	for (int i = 1; i < LINES; i++)
		ck_assert_int_eq((*reader)(), 1);
	is_over = true;
	ck_assert_uint_ge(turns, LINES / 128 - 1); /* WEIR_BUDGET */
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	close_ends(&ends);
	return 0;
}

START_TEST(reading_what_is_there_lets_others_have_their_turn)
{
	run_on(1, read_beside, (void *)&readers[_i]);
}
END_TEST

/* ---- Datagrams ------------------------------------------------------------------------------- */

enum { DATAGRAMS = 8, EACH_TURN = 3 }; /* with a budget of one less */

static weir_dgram *dgram;
static struct weir_address own_address;

static ssize_t send_datagram(void)
{
	return weir_dgram_send(dgram, "d", 1, &own_address);
}

static ssize_t read_datagram(void)
{
	char byte;

	return weir_dgram_read(dgram, &byte, 1, NULL);
}

static ssize_t lend_datagram(void)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	return weir_dgram_recv(dgram, &buf, NULL);
}

static ssize_t (*const dgram_calls[])(void) = { send_datagram, read_datagram, lend_datagram };

static int call_beside(void *arg)
{
	ssize_t (*const *call)(void) = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_int_eq(weir_dgram_open(&dgram, own_name("turns")), 0);
	ck_assert_int_eq(weir_address_parse(&own_address, weir_dgram_address(dgram)), 0);
	if (*call != send_datagram) {
		ck_assert_int_eq(send_datagram(), 1);
		ck_assert_int_eq(read_datagram(), 1); /* from now on it receives */
		for (int i = 0; i < DATAGRAMS; i++) {
			ck_assert_int_eq(send_datagram(), 1);
			ck_assert_int_eq(weir_sleep(WEIR_US), 0);
		}
		settle();
	}
	spawn(&scope, count_turns, NULL);
	ck_assert_int_eq(weir_yield(), 0);
	turns = 0;
	for (int i = 0; i < DATAGRAMS; i++)
		ck_assert_int_eq((*call)(), 1);
	is_over = true;
	ck_assert_uint_ge(turns, DATAGRAMS / EACH_TURN);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	weir_dgram_close(dgram);
	return 0;
}

START_TEST(datagrams_that_need_no_wait_let_others_have_their_turn)
{
	setenv("WEIR_BUDGET", "2", 1);
	run_on(1, call_beside, (void *)&dgram_calls[_i]);
}
END_TEST

static int close_far(void *arg)
{
	(void)arg;
	weir_conn_close(ends.far);
	return 0;
}

static int read_to_the_end(void *arg)
{
	ssize_t (*const *reader)(void) = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ssize_t n;
	int count = 0;

	fill();
	spawn(&scope, close_far, NULL);
	while ((n = (*reader)()) > 0)
		count++;
	ck_assert_int_eq(n, -ECANCELED);
	ck_assert_int_lt(count, LINES);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	weir_conn_close(ends.near);
	weir_listener_close(ends.listener);
	return 0;
}

START_TEST(closed_in_such_a_turn_the_connection_is_as_if_its_reader_had_been_parked)
{
	run_on(1, read_to_the_end, (void *)&readers[_i]);
}
END_TEST

/* When the reader is woken by what has come, the closer is next; and then it reads on. */
static int close_behind_arrivals(void *arg)
{
	static char lines[LINES];

	(void)arg;
	memset(lines, '\n', sizeof lines);
	ck_assert_int_eq(weir_write(ends.near, lines, sizeof lines), LINES);
	usleep(1000); /* holds the worker: they have arrived, and nobody has looked */
	weir_conn_close(ends.far);
	return 0;
}

static int read_after_arrivals(void *arg)
{
	ssize_t (*const *reader)(void) = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ssize_t n;

	open_ends(&ends, "127.0.0.1:0");
	spawn(&scope, close_behind_arrivals, NULL);
	while ((n = (*reader)()) > 0)
		;
	ck_assert_int_eq(n, -ECANCELED);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	weir_conn_close(ends.near);
	weir_listener_close(ends.listener);
	return 0;
}

/* For ASan: the connection was freed in the reader's first turn after its wake-up. */
START_TEST(closed_under_a_reader_that_was_just_woken_the_connection_stays_while_it_reads)
{
	run_on(1, read_after_arrivals, (void *)&readers[_i]);
}
END_TEST

static int lines_read;

static int cancel_after_two(void *arg)
{
	while (lines_read < 2)
		ck_assert_int_eq(weir_yield(), 0);
	weir_scope_cancel(arg);
	return 0;
}

static int read_two_and_wait(void *arg)
{
	ssize_t (*const *reader)(void) = arg;
	ssize_t n;

	while ((n = (*reader)()) > 0)
		lines_read++;
	ck_assert_int_eq(n, -ECANCELED);
	return 0;
}

static int read_until_cancelled(void *arg)
{
	open_ends(&ends, "127.0.0.1:0");
	ck_assert_int_eq(weir_write(ends.near, "\n\n", 2), 2);
	settle();
	WEIR_SCOPE(scope, WEIR_FOREVER);
	spawn(&scope, read_two_and_wait, arg);
	spawn(&scope, cancel_after_two, &scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	weir_scope_close(&scope);
	close_ends(&ends);
	return 0;
}

/* With a budget of one every call that finds the budget spent has its turn before it waits. */
START_TEST(cancelled_in_such_a_turn_a_reader_does_not_wait_any_more)
{
	setenv("WEIR_BUDGET", "1", 1);
	run_on(1, read_until_cancelled, (void *)&readers[_i]);
}
END_TEST

Suite *io_turns_suite(void);
Suite *io_turns_suite(void)
{
	Suite *suite = suite_create("io_turns");
	TCase *quick = tcase_create("quick");
	tcase_set_tags(quick, "fast");
	tcase_add_loop_test(quick, reading_what_is_there_lets_others_have_their_turn, 0,
			    COUNT(readers));
	tcase_add_loop_test(quick, datagrams_that_need_no_wait_let_others_have_their_turn, 0,
			    COUNT(dgram_calls));
	tcase_add_loop_test(
		quick, closed_in_such_a_turn_the_connection_is_as_if_its_reader_had_been_parked, 0,
		COUNT(readers));
	tcase_add_loop_test(
		quick,
		closed_under_a_reader_that_was_just_woken_the_connection_stays_while_it_reads, 0,
		COUNT(readers));
	tcase_add_loop_test(quick, cancelled_in_such_a_turn_a_reader_does_not_wait_any_more, 0,
			    COUNT(readers));
	suite_add_tcase(suite, quick);
	return suite;
}
