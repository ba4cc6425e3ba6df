/* SPDX-License-Identifier: MIT */
/*
 * Bytes both ways at once: half of it may be over while the other half goes on, and every way in
 * which both end, silence among them.
 */
#include "tests/copy_test.h"

/* ---- Both ways ------------------------------------------------------------------------------- */

static int answer_after_the_end(void *arg)
{
	struct road road = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, arg);
	spawn(&scope, copy_both, &road);
	put(road.in.near, "question");
	expect_text(road.out.far, "question");
	put(road.out.far, "well");
	expect_text(road.in.near, "well");
	ck_assert_int_eq(weir_shutdown(road.in.near), 0);
	expect_end(road.out.far);
	settle();
	ck_assert(!road.is_over);
	put(road.out.far, ", the answer");
	expect_text(road.in.near, ", the answer");
	ck_assert_int_eq(weir_shutdown(road.out.far), 0);
	expect_end(road.in.near);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, 0);
	ck_assert_int_eq(road.moved, 8);
	ck_assert_int_eq(road.back, 16);
	close_road(&road);
	return 0;
}

START_TEST(half_a_proxied_connection_goes_on)
{
	run_on(1, answer_after_the_end, (void *)address_of(_i));
}
END_TEST

static int a_lot_both_ways(void *arg)
{
	struct server server = { .handler = echo };
	struct road road = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	start_server(&scope, &server, "127.0.0.1:0");
	open_ends(&road.in, "127.0.0.1:0");
	ck_assert_int_eq(weir_connect(&road.out.near, weir_listener_address(server.listener)), 0);
	{
		WEIR_SCOPE(copying, WEIR_FOREVER);
		spawn(&copying, copy_both, &road);
		exchange(road.in.near, BIG_BYTES / 4);
		ck_assert_int_eq(weir_shutdown(road.in.near), 0);
		expect_end(road.in.near);
		ck_assert_int_eq(weir_scope_wait(&copying), 0);
	}
	ck_assert_int_eq(road.result, 0);
	ck_assert_int_eq(road.moved, BIG_BYTES / 4);
	ck_assert_int_eq(road.back, BIG_BYTES / 4);
	close_ends(&road.in);
	weir_conn_close(road.out.near);
	weir_scope_cancel(&scope);
	(void)weir_scope_wait(&scope);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(megabytes_go_there_and_back)
{
	run(a_lot_both_ways);
}
END_TEST

static int ends_with_the_first(void *arg)
{
	struct road road = { .ends_together = true };
	bool is_back = *(int *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	spawn(&scope, copy_both, &road);
	put(road.in.near, "question");
	expect_text(road.out.far, "question");
	ck_assert_int_eq(weir_shutdown(is_back ? road.out.far : road.in.near), 0);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, 0);
	expect_end(is_back ? road.in.near : road.out.far); /* which was told */
	close_road(&road);
	return 0;
}

START_TEST(the_end_of_one_may_be_the_end_of_both)
{
	run_on(1, ends_with_the_first, &_i);
}
END_TEST

/* Closing with something unread is a reset. */
static int reset_one(void *arg)
{
	struct road road = { 0 };
	bool is_back = *(int *)arg;
	weir_conn **victim = is_back ? &road.out.far : &road.in.near;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	spawn(&scope, copy_both, &road);
	put(is_back ? road.in.near : road.out.far, "unread");
	do
		settle();
	while ((is_back ? road.moved : road.back) < 6);
	settle();
	weir_conn_close(*victim);
	*victim = NULL;
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, -ECONNRESET);
	ck_assert_int_eq(is_back ? road.moved : road.back, 6);
	close_road(&road);
	return 0;
}

START_TEST(a_reset_on_either_side_ends_both)
{
	run_on(1, reset_one, &_i);
}
END_TEST

static int close_one(void *arg)
{
	struct road road = { 0 };
	weir_conn **victim = *(int *)arg ? &road.out.near : &road.in.far;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	spawn(&scope, copy_both, &road);
	settle();
	weir_conn_close(*victim);
	*victim = NULL;
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, -ECANCELED);
	close_road(&road);
	return 0;
}

START_TEST(a_connection_that_is_closed_ends_both)
{
	run_on(1, close_one, &_i);
}
END_TEST

enum late { LATE_BOTH, LATE_BACK, LATE_WRITING, LATES };

/* Both ways wait; or only the way back does; or one has nobody who reads. */
static void come_to(struct road *road, struct weir_scope *scope, struct request *request,
		    enum late late)
{
	if (late == LATE_BACK)
		ck_assert_int_eq(weir_shutdown(road->in.near), 0);
	request->conn = road->in.near;
	request->len = BIG_BYTES;
	request->data = late == LATE_WRITING ? pattern(BIG_BYTES) : NULL;
	if (late == LATE_WRITING)
		spawn(scope, write_all, request);
}

static int late_both(void *arg)
{
	struct road road = { 0 };
	struct request request = { 0 };
	enum late late = (enum late)(*(int *)arg / 2);
	bool is_cancelled = *(int *)arg % 2;

	open_ends(&road.in, own_name("copy-in"));
	open_ends(&road.out, own_name("copy-out"));
	{
		WEIR_SCOPE(writing, WEIR_FOREVER);
		come_to(&road, &writing, &request, late);
		WEIR_SCOPE(scope, is_cancelled ? WEIR_FOREVER : 50 * WEIR_MS);
		spawn(&scope, copy_both, &road);
		if (is_cancelled && late == LATE_BACK)
			expect_end(road.out.far); /* a deadline may come before that */
		if (is_cancelled) {
			settle();
			weir_scope_cancel(&scope);
		}
		(void)weir_scope_wait(&scope);
	}
	ck_assert(road.is_over);
	ck_assert(road.result == (is_cancelled ? -ECANCELED : -ETIME) ||
		  (!is_cancelled && road.result == -ECANCELED)); /* by who waits for it */
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(both_end_when_they_are_cancelled_or_late)
{
	run_on(1, late_both, &_i);
}
END_TEST

/* In the task whose deadline it is. */
static int late_oneself(void *arg)
{
	struct road road = { 0 };
	struct request request = { 0 };
	enum late late = (enum late) * (int *)arg;

	open_ends(&road.in, own_name("copy-in"));
	open_ends(&road.out, own_name("copy-out"));
	{
		WEIR_SCOPE(writing, WEIR_FOREVER);
		come_to(&road, &writing, &request, late);
		WEIR_SCOPE(patience, 50 * WEIR_MS);
		copy_both(&road);
	}
	ck_assert_int_eq(road.result, -ETIME);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(a_deadline_is_etime_wherever_it_waits)
{
	run_on(1, late_oneself, &_i);
}
END_TEST

/* ---- Silence, in virtual time ---------------------------------------------------------------- */

static int silence(void *arg)
{
	struct road road = { .idle_ns = WEIR_SEC };
	bool is_back = *(int *)arg;
	weir_conn *speaker;
	int64_t begun;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	speaker = is_back ? road.out.far : road.in.near;
	spawn(&scope, copy_both, &road);
	for (int i = 0; i < 20; i++) { /* one side speaks: nobody is silent */
		put(speaker, "x");
		ck_assert_int_eq(weir_sleep(700 * WEIR_MS), 0);
	}
	ck_assert(!road.is_over);
	begun = weir_now();
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, -ETIME);
	ck_assert_int_le(weir_now() - begun, 2 * WEIR_SEC + WEIR_MS);
	ck_assert_int_eq(is_back ? road.back : road.moved, 20);
	close_road(&road);
	return 0;
}

START_TEST(silence_of_both_ends_them)
{
	ck_assert_int_eq(weir_sim_run(1, silence, &_i, .calm = true, .workers = 1), 0);
}
END_TEST

/* Something comes all the time, and nobody takes it. */
static int full(void *arg)
{
	struct road road = { .idle_ns = WEIR_SEC };
	struct request request = { .len = 1 << 20 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_road(&road, "127.0.0.1:0");
	request.conn = road.in.near;
	request.data = pattern(request.len);
	spawn(&scope, write_all, &request);
	copy_both(&road);
	ck_assert_int_eq(road.result, -ETIME);
	weir_scope_cancel(&scope);
	(void)weir_scope_wait(&scope);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(who_takes_nothing_is_silent_too)
{
	ck_assert_int_eq(weir_sim_run(1, full, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

/* Both have spoken, and one takes nothing of it, though the other way would go on for ever. */
static int full_one_way(void *arg)
{
	struct road road = { .idle_ns = WEIR_SEC };
	struct request request = { .len = 1 << 20 };
	int64_t begun = weir_now();
	WEIR_SCOPE(scope, WEIR_FOREVER);
	WEIR_SCOPE(writing, WEIR_FOREVER);

	(void)arg;
	open_road(&road, "127.0.0.1:0");
	request.conn = road.in.near;
	request.data = pattern(request.len);
	spawn(&writing, write_all, &request);
	spawn(&scope, copy_both, &road);
	while (!road.is_over && weir_now() - begun < 60 * WEIR_SEC) {
		put(road.out.far, "x");
		ck_assert_int_eq(weir_sleep(100 * WEIR_MS), 0);
	}
	ck_assert(road.is_over);
	ck_assert_int_eq(road.result, -ETIME);
	ck_assert_int_gt(road.back, 0);
	weir_scope_close(&writing);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(patience_with_who_takes_nothing_ends_while_others_speak)
{
	ck_assert_int_eq(weir_sim_run(1, full_one_way, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_copy_both_suite(void)
{
	Suite *suite = suite_create("io_copy_both");
	TCase *both = add_case(suite, "both ways");
	tcase_add_loop_test(both, half_a_proxied_connection_goes_on, 0, COUNT(addresses));
	tcase_add_test(both, megabytes_go_there_and_back);
	tcase_add_loop_test(both, the_end_of_one_may_be_the_end_of_both, 0, 2);
	tcase_add_loop_test(both, a_reset_on_either_side_ends_both, 0, 2);
	tcase_add_loop_test(both, a_connection_that_is_closed_ends_both, 0, 2);
	tcase_add_loop_test(both, both_end_when_they_are_cancelled_or_late, 0, 2 * LATES);
	tcase_add_loop_test(both, a_deadline_is_etime_wherever_it_waits, 0, LATES);
	TCase *silence = tcase_create("silence");
	suite_add_tcase(suite, silence);
	tcase_set_tags(silence, "fast");
	tcase_add_loop_test(silence, silence_of_both_ends_them, 0, 2);
	tcase_add_test(silence, who_takes_nothing_is_silent_too);
	tcase_add_test(silence, patience_with_who_takes_nothing_ends_while_others_speak);
	return suite;
}
