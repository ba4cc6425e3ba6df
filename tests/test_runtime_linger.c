/* SPDX-License-Identifier: MIT */
/*
 * Lingering: a worker looks out for a message before it sleeps where that has paid, and nowhere
 * else. What it learns is tested by itself, without a clock.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <unistd.h>

#include "runtime/linger.h"
#include "runtime/task.h"
#include "tests/runtime_test.h"

enum { MAX_NS = 10000, SHORT_NS = 5000, LONG_NS = 1000000, MANY = 100000 };

/* ---- What is learned ------------------------------------------------------------------------ */

/* Sleeps like this one until it would linger; so many it took, 0: MANY are not enough. */
static unsigned sleeps_until_try(struct weir__linger *linger, int64_t slept_ns, bool by_message)
{
	for (unsigned n = 1; n <= MANY; n++) {
		weir__linger_slept(linger, slept_ns, by_message, MAX_NS);
		if (linger->allowance_ns > 0)
			return n;
	}
	return 0;
}

/* Waits in vain until it does not linger any more. Returns for how long in all. */
static int64_t wait_in_vain(struct weir__linger *linger)
{
	int64_t waited = 0;

	while (linger->allowance_ns > 0) {
		waited += linger->allowance_ns;
		weir__linger_ended(linger, false, linger->allowance_ns, MAX_NS);
	}
	return waited;
}

START_TEST(a_few_short_sleeps_ended_by_messages_begin_a_try)
{
	struct weir__linger linger = { 0 };

	ck_assert_uint_eq(sleeps_until_try(&linger, SHORT_NS, true), WEIR__LINGER_SLEEPS_MIN);
	/* the other side has to wake up for its first answer */
	ck_assert_int_gt(linger.allowance_ns, 2 * MAX_NS);
}
END_TEST

START_TEST(long_sleeps_and_other_wake_ups_never_do)
{
	struct weir__linger linger = { 0 };

	ck_assert_uint_eq(sleeps_until_try(&linger, LONG_NS, true), 0);
	ck_assert_uint_eq(sleeps_until_try(&linger, SHORT_NS, false), 0);
	for (unsigned n = 0; n < MANY; n++) { /* not in a row */
		weir__linger_slept(&linger, SHORT_NS, n % WEIR__LINGER_SLEEPS_MIN != 0, MAX_NS);
		expect(linger.allowance_ns == 0);
	}
}
END_TEST

START_TEST(what_pays_goes_on)
{
	struct weir__linger linger = { 0 };

	(void)sleeps_until_try(&linger, SHORT_NS, true);
	for (unsigned n = 0; n < MANY; n++) {
		weir__linger_ended(&linger, true, 100, MAX_NS);
		expect(linger.allowance_ns == MAX_NS);
	}
}
END_TEST

START_TEST(what_comes_late_ends_it_like_what_does_not_come)
{
	struct weir__linger linger = { 0 };
	unsigned waits = 0;

	(void)sleeps_until_try(&linger, SHORT_NS, true);
	for (; linger.allowance_ns > 0; waits++) {
		expect(waits < 50);
		weir__linger_ended(&linger, true, MAX_NS + 1, MAX_NS);
	}
}
END_TEST

START_TEST(trying_in_vain_becomes_rare_and_stays_short)
{
	struct weir__linger linger = { 0 };
	unsigned sleeps = 0, last = 0;

	for (unsigned tries = 0; tries < 30; tries++) {
		sleeps = sleeps_until_try(&linger, SHORT_NS, true);
		ck_assert_uint_ge(sleeps, last);
		ck_assert_int_le(wait_in_vain(&linger), 10 * MAX_NS);
		last = sleeps;
	}
	ck_assert_uint_eq(sleeps, WEIR__LINGER_SLEEPS_MAX);
}
END_TEST

START_TEST(one_success_makes_up_for_all_failures)
{
	struct weir__linger linger = { 0 };

	for (unsigned tries = 0; tries < 30; tries++) {
		(void)sleeps_until_try(&linger, SHORT_NS, true);
		(void)wait_in_vain(&linger);
	}
	(void)sleeps_until_try(&linger, SHORT_NS, true);
	weir__linger_ended(&linger, true, 100, MAX_NS);
	(void)wait_in_vain(&linger);
	ck_assert_uint_eq(sleeps_until_try(&linger, SHORT_NS, true), WEIR__LINGER_SLEEPS_MIN);
}
END_TEST

START_TEST(nothing_is_learned_where_no_worker_may_linger)
{
	struct weir__linger linger = { 0 };

	for (unsigned n = 0; n < MANY; n++) {
		weir__linger_slept(&linger, SHORT_NS, true, 0);
		expect(linger.allowance_ns == 0);
	}
}
END_TEST

/* ---- Workers -------------------------------------------------------------------------------- */

struct stream {
	weir_chan *to;
	weir_chan *back;
};

static int answer(void *arg)
{
	const struct stream *stream = arg;
	int item;

	while (weir_chan_recv(stream->to, &item) == 0)
		TRY(weir_chan_send(stream->back, &item));
	return 0;
}

static int ping_pong(int trips)
{
	weir_auto_chan to = weir_chan_new(sizeof(int), 1);
	weir_auto_chan back = weir_chan_new(sizeof(int), 1);
	struct stream stream = { to, back };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, answer, &stream, .worker = WEIR_ON_WORKER(1)));
	for (int i = 0, item; i < trips; i++) {
		TRY(weir_chan_send(to, &i));
		TRY(weir_chan_recv(back, &item));
		expect(item == i);
	}
	weir_chan_close(to);
	return weir_scope_wait(&scope);
}

static uint64_t lingers(void)
{
	struct weir_worker_stats stats;

	ck_assert_int_eq(weir_worker_stats_get(WEIR_ALL_WORKERS, &stats), 0);
	ck_assert_uint_le(stats.lingers_found, stats.lingers);
	return stats.lingers;
}

/* As if all that has been learned were that it pays. */
static int want_to_linger(void *arg)
{
	struct weir__worker *self = weir__worker_self();

	(void)arg;
	self->linger.allowance_ns = self->runtime->linger_ns;
	return 0;
}

static int want_all(void)
{
	TRY(want_to_linger(NULL));
	return weir_call_on(1, want_to_linger, NULL);
}

static int talk_without_lingering(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20; i++) {
		TRY(want_all());
		TRY(ping_pong(50));
	}
	ck_assert_uint_eq(lingers(), 0);
	return 0;
}

START_TEST(with_more_workers_than_cpus_none_lingers)
{
	run_on((unsigned)sysconf(_SC_NPROCESSORS_ONLN) + 1, talk_without_lingering, NULL);
}
END_TEST

START_TEST(none_lingers_when_told_not_to)
{
	ck_assert_int_eq(setenv("WEIR_LINGER_US", "0", 1), 0);
	run_on(2, talk_without_lingering, NULL);
}
END_TEST

/* Both ways: the answer comes while it lingers, and after that. */
static int talk(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++) {
		TRY(want_all());
		TRY(ping_pong(20));
	}
	if (weir__worker_self()->runtime->linger_ns)
		ck_assert_uint_gt(lingers(), 0);
	return 0;
}

START_TEST(messages_arrive_whether_they_are_looked_out_for_or_slept_for)
{
	/* on a CPU of its own each, or none lingers */
	ck_assert_int_eq(weir_run(talk, NULL, .workers = 2, .pin = true, .signals_ignored = true),
			 0);
}
END_TEST

static int move_to_cpu(void *arg)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(*(int *)arg, &set);
	return sched_setaffinity(0, sizeof set, &set);
}

/* Each knows the other's place from its first message after the move. */
static int share_a_cpu(void *arg)
{
	int cpu = sched_getcpu();

	(void)arg;
	TRY(move_to_cpu(&cpu));
	TRY(weir_call_on(1, move_to_cpu, &cpu));
	TRY(weir_sleep(WEIR_MS));
	TRY(weir_call_on(1, want_to_linger, NULL));
	TRY(weir_sleep(WEIR_MS));
	TRY(ping_pong(10));
	uint64_t before = lingers();
	for (int i = 0; i < 100; i++) {
		TRY(want_all());
		TRY(ping_pong(5));
	}
	ck_assert_uint_eq(lingers(), before);
	return 0;
}

START_TEST(who_shares_the_senders_cpu_does_not_linger)
{
	run_on(2, share_a_cpu, NULL);
}
END_TEST

static int sleep_idly(void *arg)
{
	struct weir_worker_stats before, after;

	(void)arg;
	TRY(want_all());
	/* the last look may take long where there is no CPU for it */
	for (int i = 0; i < 30; i++) {
		ck_assert_int_eq(weir_worker_stats_get(1, &before), 0);
		TRY(weir_sleep(100 * WEIR_MS));
		ck_assert_int_eq(weir_worker_stats_get(1, &after), 0);
		if (after.lingers == before.lingers && after.parks > 0)
			return 0;
	}
	ck_abort_msg("it never came to rest");
	return 0;
}

START_TEST(an_idle_worker_does_not_linger)
{
	/* its heap lets it sleep */
	ck_assert_int_eq(setenv("WEIR_POOL_EPOCH_MS", "60000", 1), 0);
	ck_assert_int_eq(setenv("WEIR_MEM_DECAY_MS", "3600000", 1), 0);
	run_on(2, sleep_idly, NULL);
}
END_TEST

/* A timer is not late for it. */
static int sleep_beside_messages(void *arg)
{
	struct weir__worker *self = weir__worker_self();

	(void)arg;
	for (int i = 0; i < 5; i++) {
		self->linger.allowance_ns = WEIR_FOREVER / 2;
		TRY(weir_sleep(WEIR_MS));
	}
	return 0;
}

/* The kernel answers what it has been given. */
static int connect_and_linger(void *arg)
{
	struct weir__worker *self = weir__worker_self();
	weir_auto_listener listener = NULL;
	weir_auto_conn conn = NULL;

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	if (!self->driver->ops->is_ready)
		return 0; /* what it waits for would not end it */
	self->linger.allowance_ns = WEIR_FOREVER / 2;
	return weir_connect(&conn, weir_listener_address(listener));
}

START_TEST(what_is_queued_is_handed_over_before_it)
{
	run_on(1, connect_and_linger, NULL);
}
END_TEST

START_TEST(a_timer_ends_it)
{
	run_on(1, sleep_beside_messages, NULL);
}
END_TEST

Suite *runtime_linger_suite(void)
{
	Suite *suite = suite_create("runtime_linger");
	TCase *law = tcase_create("law");
	TCase *workers = tcase_create("workers");

	tcase_set_tags(law, "fast");
	tcase_add_test(law, a_few_short_sleeps_ended_by_messages_begin_a_try);
	tcase_add_test(law, long_sleeps_and_other_wake_ups_never_do);
	tcase_add_test(law, what_pays_goes_on);
	tcase_add_test(law, what_comes_late_ends_it_like_what_does_not_come);
	tcase_add_test(law, trying_in_vain_becomes_rare_and_stays_short);
	tcase_add_test(law, one_success_makes_up_for_all_failures);
	tcase_add_test(law, nothing_is_learned_where_no_worker_may_linger);
	suite_add_tcase(suite, law);

	tcase_set_timeout(workers, 30);
	tcase_add_test(workers, with_more_workers_than_cpus_none_lingers);
	tcase_add_test(workers, none_lingers_when_told_not_to);
	tcase_add_test(workers, messages_arrive_whether_they_are_looked_out_for_or_slept_for);
	tcase_add_test(workers, who_shares_the_senders_cpu_does_not_linger);
	tcase_add_test(workers, an_idle_worker_does_not_linger);
	tcase_add_test(workers, a_timer_ends_it);
	tcase_add_test(workers, what_is_queued_is_handed_over_before_it);
	suite_add_tcase(suite, workers);
	return suite;
}
