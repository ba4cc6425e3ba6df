/* SPDX-License-Identifier: MIT */
/*
 * How calls on a datagram socket end early: cancelled, late, closed under the tasks that wait, and
 * with a receiver that takes nothing.
 */
#include "tests/datagram_test.h"

static int late(void *arg)
{
	struct pair pair;
	weir_auto_buf buf = WEIR_BUF_INIT;
	open_pair(&pair, (int)(intptr_t)arg);
	{
		WEIR_SCOPE(patience, 2 * WEIR_MS);
		ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), -ETIME);
		ck_assert_ptr_null(buf.block);
	}
	send_text(pair.near, "late", &pair.far_address);
	settle();
	expect_text(pair.far, "late");
	send_text(pair.near, "there", &pair.far_address);
	settle();
	{
		WEIR_SCOPE(over, WEIR_FOREVER);
		weir_scope_cancel(&over);
		ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), -ECANCELED);
		ck_assert_int_eq(weir_dgram_send(pair.near, "x", 1, &pair.far_address), -ECANCELED);
	}
	expect_text(pair.far, "there");
	close_pair(&pair);
	return 0;
}

START_TEST(a_cancelled_or_late_receive_leaves_its_datagram_to_the_next)
{
	run_case(late, _i);
}
END_TEST

/* Cancelled as the datagram comes: it is that receive's or the next one's. */
static int race(void *arg)
{
	struct pair pair;
	open_pair(&pair, (int)(intptr_t)arg);
	for (int i = 0; i < 200; i++) {
		struct reader reader = { .dgram = pair.far, .number = -1 };
		WEIR_SCOPE(reading, WEIR_FOREVER);
		spawn(&reading, read_number, &reader);
		for (int yields = i % 3; yields > 0; yields--)
			weir_yield();
		ck_assert_int_eq(weir_dgram_send(pair.near, &i, sizeof(i), &pair.far_address),
				 sizeof(i));
		for (int yields = i % 5; yields > 0; yields--)
			weir_yield();
		weir_scope_close(&reading);
		if (reader.result < 0) {
			ck_assert_int_eq(reader.result, -ECANCELED);
			read_number(&reader);
		}
		ck_assert_int_eq(reader.number, i);
	}
	close_pair(&pair);
	return 0;
}

START_TEST(a_datagram_that_comes_with_the_cancellation_is_not_lost)
{
	run_case(race, _i);
}
END_TEST

static int close_under(void *arg)
{
	struct pair pair;
	struct reader readers[2] = { 0 };
	open_pair(&pair, (int)(intptr_t)arg);
	readers[0].dgram = readers[1].dgram = pair.far;
	WEIR_SCOPE(reading, WEIR_FOREVER);
	spawn(&reading, read_number, &readers[0]);
	settle();
	read_number(&readers[1]);
	ck_assert_int_eq(readers[1].result, -EBUSY);
	weir_dgram_close(pair.far);
	pair.far = NULL;
	ck_assert_int_eq(weir_scope_wait(&reading), 0);
	ck_assert_int_eq(readers[0].result, -ECANCELED);
	close_pair(&pair);
	return 0;
}

START_TEST(closing_ends_the_receive_of_another_task)
{
	run_case(close_under, _i);
}
END_TEST

static int close_unread(void *arg)
{
	struct pair pair;
	open_pair(&pair, (int)(intptr_t)arg);
	send_text(pair.near, "one", &pair.far_address);
	send_text(pair.near, "two", &pair.far_address);
	send_text(pair.near, "three", &pair.far_address);
	expect_text(pair.far, "one");
	settle();
	close_pair(&pair);
	return 0;
}

START_TEST(closing_drops_what_nobody_has_read)
{
	run_case(close_unread, _i);
}
END_TEST

struct stuffer {
	struct pair *pair;
	int sent;
	int result;
};

static int stuff(void *arg)
{
	struct stuffer *stuffer = arg;
	ssize_t n;
	while ((n = weir_dgram_send(stuffer->pair->near, &stuffer->sent, sizeof(int),
				    &stuffer->pair->far_address)) > 0)
		stuffer->sent++;
	stuffer->result = (int)n;
	return 0;
}

/* Returns how many it has sent when it sends no more. */
static int wait_until_stuffed(const struct stuffer *stuffer)
{
	int before;
	do {
		before = stuffer->sent;
		ck_assert_int_eq(weir_sleep(100 * WEIR_MS), 0); /* simulated machines are slow */
	} while (stuffer->sent != before);
	return before;
}

/* Over Unix sockets nothing is thrown away: a sender waits for the receiver. */
static int full_queue(void *arg)
{
	struct pair pair;
	struct stuffer stuffer = { .pair = &pair };
	(void)arg;
	open_pair(&pair, 2);
	WEIR_SCOPE(stuffing, WEIR_FOREVER);
	spawn(&stuffing, stuff, &stuffer);
	int sent = wait_until_stuffed(&stuffer);
	ck_assert_int_gt(sent, 0);
	for (int i = 0; i < 3 * sent; i++) {
		int number;
		ck_assert_int_eq(weir_dgram_read(pair.far, &number, sizeof(int), NULL),
				 sizeof(int));
		ck_assert_int_eq(number, i);
	}
	settle();
	WEIR_SCOPE(patience, 5 * WEIR_MS);
	int late = 0;
	while (late >= 0)
		late = (int)weir_dgram_send(pair.near, "x", 1, &pair.far_address);
	ck_assert_int_eq(late, -ETIME);
	weir_scope_close(&patience);
	weir_scope_close(&stuffing);
	ck_assert_int_eq(stuffer.result, -ECANCELED);
	close_pair(&pair);
	return 0;
}

START_TEST(a_sender_waits_for_a_unix_receiver_whose_queue_is_full)
{
	run(full_queue);
}
END_TEST

enum { KERNELS = 600 }; /* the kernel's queue of a Unix socket holds no more, by far */

/* Who has read once and does so no more takes no more either, be it for others to keep. */
static int stop_reading(void *arg)
{
	struct pair pair;
	struct stuffer stuffer = { .pair = &pair };
	int number;
	(void)arg;
	open_pair(&pair, 2);
	WEIR_SCOPE(stuffing, WEIR_FOREVER);
	spawn(&stuffing, stuff, &stuffer);
	ck_assert_int_eq(weir_dgram_read(pair.far, &number, sizeof(int), NULL), sizeof(int));
	int sent = wait_until_stuffed(&stuffer);
	ck_assert_int_le(sent, 64 + 2 * KERNELS);
	for (int i = 1; i < sent; i++) {
		ck_assert_int_eq(weir_dgram_read(pair.far, &number, sizeof(int), NULL),
				 sizeof(int));
		ck_assert_int_eq(number, i);
	}
	weir_scope_close(&stuffing);
	close_pair(&pair);
	return 0;
}

START_TEST(who_does_not_read_has_its_sender_wait)
{
	run(stop_reading);
}
END_TEST

static int close_full(void *arg)
{
	struct pair pair;
	struct stuffer stuffer = { .pair = &pair };
	(void)arg;
	open_pair(&pair, 3);
	WEIR_SCOPE(stuffing, WEIR_FOREVER);
	spawn(&stuffing, stuff, &stuffer);
	(void)wait_until_stuffed(&stuffer);
	weir_dgram_close(pair.near);
	pair.near = NULL;
	ck_assert_int_eq(weir_scope_wait(&stuffing), 0);
	ck_assert_int_eq(stuffer.result, -ECANCELED);
	close_pair(&pair);
	return 0;
}

START_TEST(closing_ends_a_send_that_waits)
{
	run(close_full);
}
END_TEST

Suite *io_datagram_ending_suite(void)
{
	int all = COUNT(addresses);
	Suite *suite = suite_create("io_datagram_ending");
	TCase *ending = add_other_case(suite, "ending");
	tcase_add_loop_test(ending, a_cancelled_or_late_receive_leaves_its_datagram_to_the_next, 0,
			    all);
	tcase_add_loop_test(ending, a_datagram_that_comes_with_the_cancellation_is_not_lost, 0,
			    all);
	tcase_add_loop_test(ending, closing_ends_the_receive_of_another_task, 0, all);
	tcase_add_loop_test(ending, closing_drops_what_nobody_has_read, 0, all);
	tcase_add_test(ending, a_sender_waits_for_a_unix_receiver_whose_queue_is_full);
	tcase_add_test(ending, who_does_not_read_has_its_sender_wait);
	tcase_add_test(ending, closing_ends_a_send_that_waits);
	return suite;
}
