/* SPDX-License-Identifier: MIT */
/*
 * Intervals: when ticks are due, what becomes of missed ones, and that waiting is never too short.
 */
#include "runtime/interval.h"
#include "tests/runtime_test.h"

/* ---- Without a clock ------------------------------------------------------------------------ */

/* Delivered at these times, the ticks after that are due at those and so many are dropped. */
static void check_ticks(enum weir_missed missed, const int64_t (*steps)[3], size_t n)
{
	struct weir__interval interval = { .next_ns = 100, .period_ns = 100, .missed = missed };

	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(weir__interval_advance(&interval, steps[i][0]), steps[i][2]);
		ck_assert_int_eq(interval.next_ns, steps[i][1]);
	}
}

START_TEST(small_delays_never_add_up)
{
	static const int64_t steps[][3] = {
		{ 100, 200, 0 }, { 299, 300, 0 }, { 301, 400, 0 }, { 450, 500, 0 }
	};

	for (enum weir_missed missed = WEIR_MISSED_BURST; missed <= WEIR_MISSED_DELAY; missed++)
		check_ticks(missed, steps, 4);
}
END_TEST

START_TEST(a_burst_delivers_every_tick)
{
	static const int64_t steps[][3] = {
		{ 450, 200, 0 }, { 451, 300, 0 }, { 452, 400, 0 }, { 453, 500, 0 }, { 500, 600, 0 }
	};

	check_ticks(WEIR_MISSED_BURST, steps, 5);
}
END_TEST

START_TEST(skipping_keeps_to_the_multiples)
{
	static const int64_t steps[][3] = {
		{ 450, 500, 3 }, { 500, 600, 0 }, { 700, 800, 1 }, { 999, 1000, 1 }
	};

	check_ticks(WEIR_MISSED_SKIP, steps, 4);
}
END_TEST

START_TEST(delaying_begins_the_period_anew)
{
	static const int64_t steps[][3] = {
		{ 450, 550, 3 }, { 550, 650, 0 }, { 750, 850, 1 }, { 949, 950, 0 }
	};

	check_ticks(WEIR_MISSED_DELAY, steps, 4);
}
END_TEST

START_TEST(the_end_of_the_clock_is_never_passed)
{
	struct weir__interval interval = { .next_ns = INT64_MAX - 10, .period_ns = 20 };

	ck_assert_int_eq(weir__interval_advance(&interval, INT64_MAX - 5), 0);
	ck_assert_int_eq(interval.next_ns, INT64_MAX);
	ck_assert_int_eq(weir__interval_advance(&interval, INT64_MAX), 0);
	ck_assert_int_eq(interval.next_ns, INT64_MAX);
}
END_TEST

/* ---- In a task ------------------------------------------------------------------------------ */

static int tick(void *arg)
{
	struct weir_interval interval;
	int64_t start = weir_now();

	(void)arg;
	ck_assert_int_eq(weir_interval_init(&interval, 0, WEIR_MISSED_SKIP), -EINVAL);
	ck_assert_int_eq(weir_interval_init(&interval, 1, (enum weir_missed)3), -EINVAL);
	TRY(weir_interval_init(&interval, 2 * WEIR_MS, WEIR_MISSED_BURST));
	for (int i = 1; i <= 10; i++) {
		TRY(weir_interval_wait(&interval));
		ck_assert_int_ge(weir_now() - start, i * 2 * WEIR_MS);
		if (i == 5)
			compute(7 * WEIR_MS); /* three are missed and come without waiting */
	}
	TRY(weir_interval_init(&interval, WEIR_MS, WEIR_MISSED_SKIP));
	compute(10 * WEIR_MS);
	int64_t dropped = weir_interval_wait(&interval);
	ck_assert_int_ge(dropped, 8);
	TRY(weir_interval_init(&interval, WEIR_FOREVER, WEIR_MISSED_SKIP));
	WEIR_SCOPE(scope, WEIR_MS);
	ck_assert_int_eq(weir_interval_wait(&interval), -ETIME);
	return 0;
}

START_TEST(a_tick_is_never_early)
{
	struct weir_interval interval;

	ck_assert_int_eq(weir_interval_init(&interval, 1, WEIR_MISSED_SKIP), 0);
	ck_assert_int_eq(weir_interval_wait(&interval), -EINVAL); /* outside tasks */
	run_on(1, tick, NULL);
}
END_TEST

static unsigned others;

static int run_beside(void *arg)
{
	(void)arg;
	for (; others < 5; others++)
		TRY(weir_yield());
	return 0;
}

/* A period of 1 ns is always late: the loop never parks, and still lets others run. */
static int catch_up(void *arg)
{
	struct weir_interval interval;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, run_beside, NULL));
	TRY(weir_interval_init(&interval, 1, WEIR_MISSED_BURST));
	for (int i = 0; i < 2000; i++)
		ck_assert_int_eq(weir_interval_wait(&interval), 0);
	ck_assert_uint_eq(others, 5);
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_interval_wait(&interval), -ECANCELED); /* although it is late */
	return 0;
}

START_TEST(who_catches_up_lets_others_run)
{
	run_on(1, catch_up, NULL);
}
END_TEST

Suite *runtime_interval_suite(void)
{
	Suite *suite = suite_create("runtime_interval");
	TCase *ticks = tcase_create("ticks");

	tcase_set_tags(ticks, "fast");
	tcase_set_timeout(ticks, 20);
	tcase_add_test(ticks, small_delays_never_add_up);
	tcase_add_test(ticks, a_burst_delivers_every_tick);
	tcase_add_test(ticks, skipping_keeps_to_the_multiples);
	tcase_add_test(ticks, delaying_begins_the_period_anew);
	tcase_add_test(ticks, the_end_of_the_clock_is_never_passed);
	tcase_add_test(ticks, a_tick_is_never_early);
	tcase_add_test(ticks, who_catches_up_lets_others_run);
	suite_add_tcase(suite, ticks);
	return suite;
}
