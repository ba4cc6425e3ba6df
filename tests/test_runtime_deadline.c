/* SPDX-License-Identifier: MIT */
/*
 * Deadlines of scopes shrink inwards and end everything in them, with one reason; shields hold off
 * what comes from outside, for so long.
 */
#include <stdatomic.h>

#include "runtime/task.h"
#include "tests/runtime_test.h"

static _Atomic unsigned ended;
static _Atomic int child_result;

static int sleep_long(void *arg)
{
	(void)arg;
	child_result = weir_sleep(1000 * WEIR_SEC);
	ended++;
	return child_result;
}

/* ---- Deadlines ------------------------------------------------------------------------------ */

static int outlive_deadline(void *arg)
{
	bool on_other = arg != NULL;
	int64_t start = weir_now();
	WEIR_SCOPE(scope, 5 * WEIR_MS);

	TRY(weir_spawn(&scope, sleep_long, NULL, .worker = on_other ? WEIR_ON_WORKER(1) : 0));
	ck_assert_int_eq(weir_scope_wait(&scope), -ETIME);
	ck_assert_int_ge(weir_now() - start, 5 * WEIR_MS);
	ck_assert_uint_eq(ended, 1);
	ck_assert_int_eq(child_result, -ETIME);
	ck_assert_int_eq(weir_time_left(), 0);
	return 0;
}

static unsigned late, cancelled;

/* Asks twice: the second call does not park. */
static int tell_why(void *arg)
{
	int first = weir_sleep(10 * WEIR_SEC), second = weir_sleep(0);

	(void)arg;
	late += first == -ETIME && second == -ETIME;
	cancelled += first == -ECANCELED && second == -ECANCELED;
	return 0; /* no failure of the scope's */
}

static int tell_why_below(void *arg)
{
	WEIR_SCOPE(below, WEIR_FOREVER);

	TRY(weir_spawn(&below, tell_why, arg));
	return weir_scope_wait(&below) == -ETIME ? 0 : -EINVAL;
}

/* The one that computes past the deadline cancels the others before their own timers could. */
static int compute_and_fail(void *arg)
{
	compute(*(int64_t *)arg);
	return -EIO;
}

enum { EACH = 8 };

/* Both kinds of children, and all of them asleep. */
static int open_sleepers(struct weir_scope *scope, void *arg)
{
	late = cancelled = 0;
	for (int i = 0; i < EACH; i++) {
		TRY(weir_spawn(scope, tell_why, arg));
		TRY(weir_spawn(scope, tell_why_below, arg));
	}
	TRY(weir_yield());
	return weir_yield(); /* those below too */
}

/* -EAGAIN: the deadline came before all was set up. */
static int late_by(unsigned who, void *arg)
{
	int64_t ns = 60 * WEIR_MS;
	WEIR_SCOPE(scope, 50 * WEIR_MS);

	int err = open_sleepers(&scope, arg);
	if (err == 0 && who == 1)
		err = weir_spawn(&scope, compute_and_fail, &ns);
	if (err < 0)
		return err == -ETIME ? -EAGAIN : err;
	if (who == 2)
		compute(ns);
	else
		ck_assert_int_eq(weir_scope_wait(&scope), who == 1 ? -EIO : -ETIME);
	weir_scope_close(&scope);
	ck_assert_uint_eq(late, 2 * EACH);
	ck_assert_uint_eq(cancelled, 0);
	return 0;
}

static int late_by_whoever(void *arg)
{
	for (unsigned who = 0; who < 3;) { /* a timer, a child's failure, leaving the scope */
		int err = late_by(who, arg);
		if (err == 0)
			who++;
		else if (err != -EAGAIN)
			return err;
	}
	return 0;
}

START_TEST(whoever_notices_the_deadline_all_in_the_scope_are_late)
{
	run_on(1, late_by_whoever, NULL);
}
END_TEST

/*
 * Who was cancelled in time stays so, and the scope below that was late already stays late.
 * -EAGAIN: it was not in time.
 */
static int first_reason(void)
{
	int64_t deadline = weir_now() + 200 * WEIR_MS;
	WEIR_SCOPE(outer, 200 * WEIR_MS);
	{
		WEIR_SCOPE(inner, WEIR_MS);
		ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME);
		weir_scope_cancel(&outer);
		if (weir_now() >= deadline)
			return -EAGAIN;
		ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME);
		ck_assert_int_eq(weir_spawn(&inner, sleep_long, NULL), -ETIME);
	}
	ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ECANCELED);
	ck_assert_int_eq(weir_spawn(&outer, sleep_long, NULL), -ECANCELED);
	{
		WEIR_SHIELD(shield, WEIR_FOREVER);
		TRY(weir_sleep(210 * WEIR_MS));
	}
	ck_assert_int_eq(weir_time_left(), 0);
	ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ECANCELED);
	ck_assert_int_eq(weir_scope_wait(&outer), -ECANCELED);
	return 0;
}

static int find_first_reason(void *arg)
{
	int err;

	(void)arg;
	do {
		err = first_reason();
	} while (err == -EAGAIN);
	return err;
}

START_TEST(cancelled_and_late_the_first_reason_stays)
{
	run_on(1, find_first_reason, NULL);
}
END_TEST

START_TEST(after_the_deadline_opener_and_children_get_etime)
{
	run_on(2, outlive_deadline, _i ? &ended : NULL);
}
END_TEST

static int sleep_in_scope(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, 50 * WEIR_MS);
	ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME);
	ck_assert_int_eq(weir_sleep(0), -ETIME);
	ck_assert_int_eq(weir_yield(), -ETIME);
	{
		/* longer, but it cannot extend what is around it */
		WEIR_SCOPE(inner, WEIR_SEC);
		ck_assert_int_eq(weir_time_left(), 0);
		ck_assert_int_eq(weir_sleep(1), -ETIME);
		TRY(weir_spawn(&inner, sleep_long, NULL));
		ck_assert_int_eq(weir_scope_wait(&inner), -ETIME);
		ck_assert_int_eq(child_result, -ETIME);
	}
	return 0;
}

static int nest_deadlines(void *arg)
{
	WEIR_SCOPE(outer, WEIR_SEC * 100);

	TRY(weir_spawn(&outer, sleep_in_scope, arg));
	int64_t left = weir_time_left();
	{
		WEIR_SCOPE(inner, 10 * WEIR_SEC);
		ck_assert_int_le(weir_time_left(), 10 * WEIR_SEC);
		WEIR_SCOPE(innermost, 50 * WEIR_SEC);
		ck_assert_int_le(weir_time_left(), 10 * WEIR_SEC);
		WEIR_SCOPE(unlimited, WEIR_FOREVER);
		ck_assert_int_le(weir_time_left(), 10 * WEIR_SEC);
	}
	ck_assert_int_gt(weir_time_left(), 50 * WEIR_SEC);
	ck_assert_int_le(weir_time_left(), left);
	return weir_scope_wait(&outer);
}

START_TEST(nested_deadlines_only_shrink)
{
	run_on(1, nest_deadlines, NULL);
}
END_TEST

static int time_out_at_once(void *arg)
{
	(void)arg;
	for (int64_t timeout = 0; timeout >= INT64_MIN / 2; timeout = timeout * 2 - 1) {
		WEIR_SCOPE(scope, timeout);
		ck_assert_int_eq(weir_yield(), -ETIME);
		ck_assert_int_eq(weir_scope_wait(&scope), -ETIME);
	}
	WEIR_SCOPE(longest, INT64_MAX - 1);
	return weir_yield();
}

START_TEST(timeouts_of_every_size_are_taken)
{
	run_on(1, time_out_at_once, NULL);
}
END_TEST

/* The worker's clock is read rarely; a task that computes must not profit or suffer from it. */
static int compute_past_deadline(void *arg)
{
	weir_auto_chan chan = weir_chan_new(1, 1);
	char item = 0;

	(void)arg;
	{
		WEIR_SCOPE(scope, 10 * WEIR_MS);
		compute(60 * WEIR_MS);
		ck_assert_int_eq(weir_chan_send(chan, &item), -ETIME); /* although there is room */
		ck_assert_int_eq(weir_scope_wait(&scope), -ETIME);
	}
	for (;;) {
		compute(1200 * WEIR_MS);
		int64_t deadline = weir_now() + WEIR_SEC;
		WEIR_SCOPE(scope, WEIR_SEC);
		int err = weir_chan_send(chan, &item);
		/* the second starts here, not when we were resumed; it may also be over by now */
		if (err != -ETIME || weir_now() < deadline)
			return err;
	}
}

START_TEST(a_deadline_is_seen_after_long_computing)
{
	run_on(1, compute_past_deadline, NULL);
}
END_TEST

/* Every scope leaves the task's timer armed; later ones must not be ended by it. */
static int reuse_timer(void *arg)
{
	(void)arg;
	for (int i = 0; i < 5; i++) {
		{
			WEIR_SCOPE(brief, 2 * WEIR_MS);
			(void)weir_sleep(100 * WEIR_US); /* -ETIME where machines are slow */
		}
		WEIR_SCOPE(longer, 50 * WEIR_SEC);
		TRY(weir_sleep(4 * WEIR_MS));
	}
	return weir_sleep(5 * WEIR_MS);
}

START_TEST(a_timer_left_armed_ends_nothing)
{
	run_on(1, reuse_timer, NULL);
}
END_TEST

/*
 * The deadline wakes the opener and, before it runs, the last child ends: the opener must become
 * ready once, not twice.
 */
static int end_at_once(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20; i++) {
		WEIR_SCOPE(scope, 2 * WEIR_MS);
		for (int k = 0; k < 3; k++)
			TRY(weir_spawn(&scope, sleep_long, NULL));
		ck_assert_int_eq(weir_scope_wait(&scope), -ETIME);
	}
	return 0;
}

static int others_run(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < 10; i++)
		TRY(weir_spawn(&scope, end_at_once, arg));
	return weir_scope_wait(&scope);
}

START_TEST(children_and_opener_may_end_in_one_turn)
{
	run_on(1, others_run, NULL);
	ck_assert_uint_eq(ended, 600);
}
END_TEST

/* ---- Shields -------------------------------------------------------------------------------- */

static int shield_result[3];

static int clean_up_shielded(void *arg)
{
	int err = weir_sleep(1000 * WEIR_SEC);

	(void)arg;
	ck_assert_int_eq(err, -ECANCELED);
	ck_assert_int_eq(weir_yield(), -ECANCELED);
	{
		WEIR_SHIELD(shield, 500 * WEIR_SEC);
		shield_result[0] = weir_sleep(2 * WEIR_MS);
		WEIR_SCOPE(inside, 2 * WEIR_MS); /* scopes in a shield are shielded */
		shield_result[1] = weir_sleep(1000 * WEIR_SEC);
	}
	{
		WEIR_SHIELD(shield, 2 * WEIR_MS);
		shield_result[2] = weir_sleep(1000 * WEIR_SEC);
	}
	ck_assert_int_eq(weir_yield(), -ECANCELED);
	ended++;
	return err;
}

static int cancel_shielded(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, clean_up_shielded, NULL, .worker = arg ? WEIR_ON_WORKER(1) : 0));
	TRY(weir_sleep(WEIR_MS));
	weir_scope_close(&scope);
	ck_assert_uint_eq(ended, 1);
	ck_assert_int_eq(shield_result[0], 0);
	ck_assert_int_eq(shield_result[1], -ETIME);
	ck_assert_int_eq(shield_result[2], -ETIME);
	return 0;
}

START_TEST(a_shield_lets_clean_up_block_for_so_long)
{
	run_on(2, cancel_shielded, _i ? &ended : NULL);
}
END_TEST

static int sleep_in_shield(void *arg)
{
	{
		WEIR_SHIELD(shield, WEIR_FOREVER);
		WEIR_SCOPE(inner, WEIR_FOREVER);
		TRY(weir_spawn(&inner, sleep_long,
			       NULL)); /* a shield holds for what is spawned in it */
		*(int *)arg = weir_sleep(10 * WEIR_MS);
		ck_assert_uint_eq(ended, 0);
	}
	ck_assert_uint_eq(ended, 1);
	return weir_sleep(1000 * WEIR_SEC);
}

static int cancel_during_shield(void *arg)
{
	int slept = -1;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, sleep_in_shield, &slept));
	TRY(weir_sleep(2 * WEIR_MS));
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	ck_assert_int_eq(slept, 0);
	return 0;
}

START_TEST(cancellation_waits_outside_a_shield)
{
	run_on(1, cancel_during_shield, NULL);
}
END_TEST

static int nest_shields(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, 100 * WEIR_SEC);
	weir_scope_cancel(&scope);
	WEIR_SHIELD(outer, 4 * WEIR_MS);
	{
		WEIR_SCOPE(inside, WEIR_MS);
		ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME);
		weir_scope_cancel(&inside);
		ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME);
		WEIR_SHIELD(inner, 500 * WEIR_SEC); /* against that, and outer's deadline too */
		ck_assert_int_gt(weir_time_left(), 400 * WEIR_SEC);
		TRY(weir_sleep(5 * WEIR_MS));
		WEIR_SCOPE(innermost, WEIR_MS);
		ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME);
	}
	ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ETIME); /* outer's, by now */
	weir_scope_cancel(&outer);
	ck_assert_int_eq(weir_yield(), -ETIME);
	weir_scope_close(&outer);
	ck_assert_int_eq(weir_yield(), -ECANCELED);
	weir_scope_close(&scope);
	return weir_yield();
}

START_TEST(shields_and_deadlines_nest)
{
	run_on(1, nest_shields, NULL);
}
END_TEST

/* ---- The task's timer ----------------------------------------------------------------------- */

static int set_event(void *arg)
{
	weir_event_set(arg);
	return 0;
}

static int set_event_later(void *arg)
{
	TRY(weir_sleep(5 * WEIR_MS));
	weir_event_set(arg);
	return 0;
}

/* Parks until a task that runs then lets it go on. */
static int park_for_a_moment(struct weir_scope *outer)
{
	struct weir_event event;

	weir_event_init(&event);
	TRY(weir_spawn(outer, set_event, &event));
	return weir_event_wait(&event);
}

static struct weir__task *sleeper;

static int be_the_sleeper(void *arg)
{
	sleeper = weir__worker_self()->current;
	return sleep_long(arg);
}

/* The sleeper has the same deadline and was armed behind us: it stays in front of our timer. */
static int park_often(void *arg)
{
	const struct weir__timer *timer = &weir__worker_self()->current->timer;
	WEIR_SCOPE(outer, WEIR_FOREVER);
	WEIR_SCOPE(scope, 600 * WEIR_SEC);
	int64_t end = weir_now() + 600 * WEIR_SEC;

	(void)arg;
	TRY(weir_spawn(&scope, be_the_sleeper, NULL));
	for (int i = 0; i < 4; i++) {
		TRY(park_for_a_moment(&outer));
		ck_assert_ptr_eq(timer->pprev, &sleeper->timer.next);
	}
	WEIR_SCOPE(inner, 300 * WEIR_SEC);
	TRY(park_for_a_moment(&outer));
	int64_t sooner = timer->expires_ns;
	ck_assert_int_lt(sooner, end - 200 * WEIR_SEC);
	weir_scope_close(&inner);
	TRY(park_for_a_moment(&outer));
	ck_assert_int_eq(timer->expires_ns, sooner);
	return 0;
}

START_TEST(a_timer_is_armed_anew_for_what_comes_sooner_and_for_nothing_else)
{
	run_on(1, park_often, NULL);
}
END_TEST

/* Left armed by a scope that is closed, it fires amid a wait that has no end of its own. */
static int park_without_deadline(void *arg)
{
	const struct weir__timer *timer = &weir__worker_self()->current->timer;
	WEIR_SCOPE(outer, WEIR_FOREVER);
	struct weir_event event, soon;
	int err;

	(void)arg;
	weir_event_init(&event);
	weir_event_init(&soon);
	{
		WEIR_SCOPE(brief, 2 * WEIR_MS);
		TRY(weir_spawn(&outer, set_event, &soon));
		err = weir_event_wait(&soon);
		expect(err == 0 || err == -ETIME);
	}
	TRY(weir_spawn(&outer, set_event_later, &event));
	TRY(weir_event_wait(&event));
	ck_assert_ptr_null(timer->pprev);
	ck_assert_int_eq(timer->expires_ns, INT64_MAX);
	return weir_scope_wait(&outer);
}

START_TEST(a_timer_that_nobody_waits_for_fires_once)
{
	run_on(1, park_without_deadline, NULL);
}
END_TEST

Suite *runtime_deadline_suite(void)
{
	Suite *suite = suite_create("runtime_deadline");
	TCase *rules = tcase_create("rules");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 10);
	tcase_add_test(rules, whoever_notices_the_deadline_all_in_the_scope_are_late);
	tcase_add_test(rules, cancelled_and_late_the_first_reason_stays);
	tcase_add_loop_test(rules, after_the_deadline_opener_and_children_get_etime, 0, 2);
	tcase_add_test(rules, nested_deadlines_only_shrink);
	tcase_add_test(rules, timeouts_of_every_size_are_taken);
	tcase_add_test(rules, a_deadline_is_seen_after_long_computing);
	tcase_add_test(rules, a_timer_left_armed_ends_nothing);
	tcase_add_test(rules, children_and_opener_may_end_in_one_turn);
	tcase_add_loop_test(rules, a_shield_lets_clean_up_block_for_so_long, 0, 2);
	tcase_add_test(rules, cancellation_waits_outside_a_shield);
	tcase_add_test(rules, shields_and_deadlines_nest);
	tcase_add_test(rules, a_timer_is_armed_anew_for_what_comes_sooner_and_for_nothing_else);
	tcase_add_test(rules, a_timer_that_nobody_waits_for_fires_once);
	suite_add_tcase(suite, rules);
	return suite;
}
