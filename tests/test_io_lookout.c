/* SPDX-License-Identifier: MIT */
/*
 * Looking out for completions: a worker does where they come soon, and nowhere else. What it learns
 * is tested by itself, without a clock; then a server with WEIR_LOOKOUT_US serves and sleeps.
 */
#include <check.h>

#include <stdlib.h>

#include "runtime/lookout.h"
#include "runtime/task.h"
#include "tests/runtime_test.h"

enum { MAX_NS = 10000, MANY = 100000 };

/* Gaps like this one, measured by sleeps, until it would look out; 0: MANY are not enough. */
static unsigned gaps_until_on(struct weir__lookout *lookout, int64_t gap_ns)
{
	for (unsigned n = 1; n <= MANY; n++) {
		weir__lookout_learn(lookout, gap_ns, MAX_NS);
		if (lookout->is_on)
			return n;
	}
	return 0;
}

static unsigned gaps_until_off(struct weir__lookout *lookout, int64_t gap_ns)
{
	for (unsigned n = 1; n <= MANY; n++) {
		weir__lookout_learn(lookout, gap_ns, MAX_NS);
		if (!lookout->is_on)
			return n;
	}
	return 0;
}

START_TEST(short_gaps_begin_it_and_long_ones_never)
{
	struct weir__lookout lookout = { 0 };

	ck_assert_uint_eq(gaps_until_on(&lookout, 3 * MAX_NS), 0);
	ck_assert_uint_eq(gaps_until_on(&lookout, WEIR_SEC), 0);
	unsigned gaps = gaps_until_on(&lookout, MAX_NS);
	ck_assert_uint_gt(gaps, 1); /* a single one says nothing */
	ck_assert_uint_lt(gaps, 16);
}
END_TEST

START_TEST(what_comes_within_the_limit_goes_on)
{
	struct weir__lookout lookout = { 0 };

	ck_assert_uint_gt(gaps_until_on(&lookout, 0), 0);
	ck_assert_uint_eq(gaps_until_off(&lookout, MAX_NS / 2), 0);
}
END_TEST

START_TEST(what_comes_later_on_average_ends_it)
{
	struct weir__lookout lookout = { 0 };

	ck_assert_uint_gt(gaps_until_on(&lookout, 0), 0);
	ck_assert_uint_ne(gaps_until_off(&lookout, MAX_NS * 3 / 2), 0);
	ck_assert_uint_gt(gaps_until_on(&lookout, 0), 0);
	ck_assert_uint_le(gaps_until_off(&lookout, WEIR_SEC), 2);
}
END_TEST

START_TEST(one_late_arrival_among_early_ones_does_not)
{
	struct weir__lookout lookout = { 0 };

	ck_assert_uint_gt(gaps_until_on(&lookout, 0), 0);
	for (unsigned n = 0; n < MANY; n++) {
		weir__lookout_learn(&lookout, n % 16 ? MAX_NS / 4 : WEIR_SEC, MAX_NS);
		expect(lookout.is_on);
	}
}
END_TEST

START_TEST(trying_in_vain_becomes_rare)
{
	struct weir__lookout lookout = { 0 };
	uint32_t last = 0;

	for (unsigned tries = 0; tries < 20; tries++) {
		ck_assert_uint_gt(gaps_until_on(&lookout, 0), 0);
		ck_assert_uint_ne(gaps_until_off(&lookout, WEIR_SEC), 0);
		ck_assert_uint_eq(lookout.rest, lookout.rests);
		ck_assert_uint_ge(lookout.rests, last);
		last = lookout.rests;
	}
	ck_assert_uint_eq(last, WEIR__LOOKOUT_RESTS_MAX);
}
END_TEST

START_TEST(what_has_paid_is_soon_tried_again)
{
	struct weir__lookout lookout = { .rests = WEIR__LOOKOUT_RESTS_MAX };

	ck_assert_uint_gt(gaps_until_on(&lookout, 0), 0);
	for (unsigned n = 0; n < WEIR__LOOKOUT_PROVEN; n++)
		weir__lookout_learn(&lookout, 0, MAX_NS);
	ck_assert_uint_ne(gaps_until_off(&lookout, WEIR_SEC), 0);
	ck_assert_uint_eq(lookout.rests, WEIR__LOOKOUT_RESTS_MIN);
}
END_TEST

/* ---- A worker ------------------------------------------------------------------------------- */

static int echo(weir_conn *conn)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		ssize_t n = weir_recv(conn, &buf);
		if (n <= 0)
			return (int)n;
		n = weir_send(conn, &buf);
		if (n < 0)
			return (int)n;
	}
}

static int serve(void *listener)
{
	return weir_serve(listener, echo);
}

static uint64_t looks(uint64_t *ret_found)
{
	struct weir_worker_stats stats;

	ck_assert_int_eq(weir_worker_stats_get(WEIR_ALL_WORKERS, &stats), 0);
	ck_assert_uint_le(stats.lingers_found, stats.lingers);
	*ret_found = stats.lingers_found;
	return stats.lingers;
}

static bool looks_out(const struct weir__worker *self)
{
	return self->runtime->lookout_ns && self->driver->ops->is_ready;
}

/* Each trip with all that was learned being that it pays, and then asleep, whatever it was. */
static int trips(weir_conn *conn)
{
	char byte;

	for (int i = 0; i < 200; i++) {
		weir__worker_self()->lookout.is_on = true;
		weir__worker_self()->lookout.rest = 0;
		TRY(weir_sleep(i % 20 ? 0 : WEIR_MS));
		TRY((int)(weir_write(conn, "x", 1) - 1));
		TRY(weir_read_full(conn, &byte, 1));
		expect(byte == 'x');
	}
	return 0;
}

static int serve_and_ask(void *arg)
{
	bool *may_look = arg;
	weir_auto_listener ln = NULL;
	weir_auto_conn conn = NULL;

	TRY(weir_listen(&ln, "127.0.0.1:0"));
	WEIR_SCOPE(scope, WEIR_FOREVER);
	TRY(weir_spawn(&scope, serve, ln));
	TRY(weir_connect(&conn, weir_listener_address(ln)));
	TRY(trips(conn));
	uint64_t found, all = looks(&found);
	bool does = looks_out(weir__worker_self());
	expect(does ? all > 0 : all == 0);
	expect(!does || found > 0); /* what was queued has been handed over before */
	expect(*may_look || !does);
	weir_scope_cancel(&scope);
	return 0;
}

static void run_with(const char *limit_us, bool may_look)
{
	ck_assert_int_eq(setenv("WEIR_LOOKOUT_US", limit_us, 1), 0);
	ck_assert_int_eq(weir_run(serve_and_ask, &may_look, .workers = 1, .signals_ignored = true),
			 0);
}

START_TEST(what_is_looked_out_for_arrives)
{
	run_with("1000", true);
}
END_TEST

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int call_other(void *arg)
{
	struct weir__worker *self = weir__worker_self();
	uint64_t found;

	(void)arg;
	for (int i = 0; i < 200; i++) {
		self->lookout.is_on = true;
		self->lookout.rest = 0;
		TRY(weir_call_on(1, nothing, NULL));
	}
	(void)looks(&found);
	return !looks_out(self) || found > 0 ? 0 : -EIO;
}

/* What has been in vain is tried again after so many sleeps. */
static int rest_from_looking(void *arg)
{
	struct weir__worker *self = weir__worker_self();
	uint64_t found, before = looks(&found);

	(void)arg;
	self->lookout = (struct weir__lookout){ .is_on = true, .rest = 5 };
	for (int i = 0; i < 100 && self->lookout.rest > 0; i++) {
		ck_assert_uint_eq(looks(&found), before);
		TRY(weir_sleep(100 * WEIR_US));
	}
	ck_assert(self->lookout.rest == 0 || !looks_out(self));
	TRY(weir_sleep(100 * WEIR_US));
	ck_assert(looks(&found) > before || !looks_out(self));
	return 0;
}

START_TEST(who_rests_looks_again_after_so_many_sleeps)
{
	setenv("WEIR_LOOKOUT_US", "1000", 1);
	ck_assert_int_eq(weir_run(rest_from_looking, NULL, .workers = 1, .signals_ignored = true),
			 0);
}
END_TEST

START_TEST(a_message_of_another_worker_ends_it)
{
	setenv("WEIR_LOOKOUT_US", "1000", 1);
	setenv("WEIR_LINGER_US", "0", 1); /* which would find it first */
	ck_assert_int_eq(weir_run(call_other, NULL, .workers = 2, .signals_ignored = true), 0);
}
END_TEST

START_TEST(nobody_looks_out_when_not_told_to)
{
	run_with("0", false);
}
END_TEST

Suite *io_lookout_suite(void)
{
	Suite *suite = suite_create("io_lookout");
	TCase *law = tcase_create("law");
	TCase *worker = tcase_create("worker");

	tcase_set_tags(law, "fast");
	tcase_add_test(law, short_gaps_begin_it_and_long_ones_never);
	tcase_add_test(law, what_comes_within_the_limit_goes_on);
	tcase_add_test(law, what_comes_later_on_average_ends_it);
	tcase_add_test(law, one_late_arrival_among_early_ones_does_not);
	tcase_add_test(law, trying_in_vain_becomes_rare);
	tcase_add_test(law, what_has_paid_is_soon_tried_again);
	suite_add_tcase(suite, law);

	tcase_set_timeout(worker, 30);
	tcase_add_test(worker, what_is_looked_out_for_arrives);
	tcase_add_test(worker, who_rests_looks_again_after_so_many_sleeps);
	tcase_add_test(worker, a_message_of_another_worker_ends_it);
	tcase_add_test(worker, nobody_looks_out_when_not_told_to);
	suite_add_tcase(suite, worker);
	return suite;
}
