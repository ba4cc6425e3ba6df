/* SPDX-License-Identifier: MIT */
/*
 * Scopes: leaving cancels and joins, the first error ends all, and cancellation finds a task in
 * whatever state it is in, on whatever worker. Deadlines have a suite of their own.
 */
#include <signal.h>
#include <stdatomic.h>

#include "tests/child.h"
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

static int return_arg(void *arg)
{
	ended++;
	return (int)(intptr_t)arg;
}

static int yield_and_return_arg(void *arg)
{
	int err = weir_yield();

	ended++;
	return err < 0 ? err : (int)(intptr_t)arg;
}

/* ---- Leaving -------------------------------------------------------------------------------- */

static int leave_early(void *arg)
{
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (int i = 0; i < 5; i++)
			TRY(weir_spawn(&scope, sleep_long, NULL,
				       .worker = arg ? WEIR_ON_WORKER(i % 2u) : 0));
		TRY(weir_yield());
	}
	ck_assert_uint_eq(ended, 5);
	ck_assert_int_eq(child_result, -ECANCELED);
	return weir_yield(); /* what is around the scope is not cancelled */
}

START_TEST(leaving_cancels_then_joins)
{
	run_on(2, leave_early, _i ? &ended : NULL);
}
END_TEST

static int close_twice(void *arg)
{
	struct weir_scope scope;

	(void)arg;
	weir_scope_open(&scope, WEIR_FOREVER);
	TRY(weir_spawn(&scope, sleep_long, NULL));
	weir_scope_close(&scope);
	ck_assert_uint_eq(ended, 1);
	weir_scope_close(&scope);
	ck_assert_int_eq(weir_spawn(&scope, sleep_long, NULL), -EINVAL);
	ck_assert_int_eq(weir_scope_wait(&scope), -EINVAL);
	return 0;
}

START_TEST(closing_is_idempotent)
{
	run_on(1, close_twice, NULL);
}
END_TEST

/* ---- Errors --------------------------------------------------------------------------------- */

static int fail_one(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, sleep_long, NULL));
	TRY(weir_spawn(&scope, yield_and_return_arg, (void *)(intptr_t)-ENXIO,
		       .worker = arg ? WEIR_ON_WORKER(1) : 0));
	TRY(weir_spawn(&scope, sleep_long, NULL, .worker = arg ? WEIR_ON_WORKER(1) : 0));
	ck_assert_int_eq(weir_scope_wait(&scope), -ENXIO);
	ck_assert_uint_eq(ended, 3);
	ck_assert_int_eq(child_result, -ECANCELED);
	/* the opener is in the scope, too */
	ck_assert_int_eq(weir_sleep(1), -ECANCELED);
	ck_assert_int_eq(weir_yield(), -ECANCELED);
	ck_assert_int_eq(weir_spawn(&scope, return_arg, NULL), -ECANCELED);
	ck_assert_int_eq(weir_scope_wait(&scope), -ENXIO);
	return 0;
}

START_TEST(the_first_failure_cancels_siblings_and_is_reported)
{
	run_on(2, fail_one, _i ? &ended : NULL);
}
END_TEST

static int fail_many(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, return_arg, (void *)(intptr_t)-ECANCELED));
	TRY(weir_spawn(&scope, return_arg, (void *)5));
	TRY(weir_spawn(&scope, return_arg, (void *)(intptr_t)-EIO));
	TRY(weir_spawn(&scope, return_arg, (void *)(intptr_t)-ENXIO));
	ck_assert_int_eq(weir_scope_wait(&scope), -EIO);
	ck_assert_uint_eq(ended, 4);
	return 0;
}

START_TEST(cancelled_tasks_are_no_cause_and_the_first_error_stays)
{
	run_on(1, fail_many, NULL);
}
END_TEST

static int wait_again(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_scope_wait(&scope)); /* empty */
	TRY(weir_spawn(&scope, return_arg, NULL));
	TRY(weir_scope_wait(&scope));
	TRY(weir_scope_wait(&scope));
	TRY(weir_spawn(&scope, return_arg, NULL));
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(ended, 2);
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	return 0;
}

START_TEST(a_scope_can_be_waited_for_and_filled_again)
{
	run_on(1, wait_again, NULL);
}
END_TEST

/* ---- Cancelling ----------------------------------------------------------------------------- */

static int check_cancelled(void *arg)
{
	ck_assert_int_eq(weir_yield(), -ECANCELED);
	ended++;
	return (int)(intptr_t)arg;
}

static int cancel_before_run(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (int i = 0; i < 3; i++)
		TRY(weir_spawn(&scope, check_cancelled, NULL));
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	ck_assert_uint_eq(ended, 3);
	return 0;
}

START_TEST(a_task_cancelled_before_its_first_run_still_runs)
{
	run_on(1, cancel_before_run, NULL);
}
END_TEST

static int cancel_arg(void *arg)
{
	TRY(weir_yield());
	weir_scope_cancel(arg);
	weir_scope_cancel(arg);
	ended++;
	return weir_sleep(1000 * WEIR_SEC) == -ECANCELED ? 0 : -EINVAL;
}

static int spawn_canceller(void *arg)
{
	WEIR_SCOPE(below, WEIR_FOREVER);

	TRY(weir_spawn(&below, cancel_arg, arg, .worker = WEIR_ON_WORKER(2)));
	(void)weir_scope_wait(&below);
	return 0;
}

static int cancelled_from_inside(void *arg)
{
	unsigned *rounds = arg;

	for (unsigned i = 0; is_stressed(i, 200); i++, ++*rounds) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, i % 2 ? cancel_arg : spawn_canceller, &scope,
			       .worker = WEIR_ON_WORKER(i % 3)));
		TRY(weir_spawn(&scope, sleep_long, NULL, .worker = WEIR_ON_WORKER(i % 2)));
		ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	}
	return 0;
}

START_TEST(a_child_of_any_worker_can_cancel_its_scope)
{
	unsigned rounds = 0;

	run_on(3, cancelled_from_inside, &rounds);
	ck_assert_uint_eq(ended, 2 * rounds);
}
END_TEST

/* Children that are new, ready, running, parked, shielded or gone when the cancellation arrives. */
static weir_chan *crowd_chan;

static int crowd_member(void *arg)
{
	uint64_t seed = (uintptr_t)arg | 1;

	for (uint64_t i = random_next(&seed) % 8; i-- > 0;) {
		int item, err = 0;
		switch (random_next(&seed) % 7) {
		case 0:
			err = weir_sleep((int64_t)(random_next(&seed) % 200000));
			break;
		case 1:
			err = weir_yield();
			break;
		case 2:
			err = weir_chan_recv(crowd_chan, &item);
			break;
		case 3:
			item = 1;
			err = weir_chan_send(crowd_chan, &item);
			break;
		case 4: {
			WEIR_SHIELD(shield, 20 * WEIR_US);
			(void)weir_sleep(1000 * WEIR_SEC);
			break;
		}
		case 5: {
			WEIR_SCOPE(inner, 100 * WEIR_US);
			err = weir_spawn(&inner, yield_and_return_arg, NULL,
					 .worker =
						 WEIR_ON_WORKER((unsigned)random_next(&seed) % 3));
			if (err == 0)
				err = weir_scope_wait(&inner);
			if (err == -ETIME)
				err = 0;
			break;
		}
		default:
			compute((int64_t)(random_next(&seed) % 5000));
		}
		if (err < 0)
			return err;
	}
	return 0;
}

static int cancel_crowds(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;
	weir_auto_chan chan = weir_chan_new(sizeof(int), 2);

	crowd_chan = chan;
	for (unsigned round = 0; is_stressed(round, 1500); round++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		unsigned count = (unsigned)random_next(&seed) % 24;
		for (unsigned i = 0; i < count; i++)
			TRY(weir_spawn(&scope, crowd_member, (void *)(uintptr_t)random_next(&seed),
				       .worker = WEIR_ON_WORKER((unsigned)random_next(&seed) % 3)));
		switch (random_next(&seed) % 4) {
		case 0:
			TRY(weir_sleep((int64_t)(random_next(&seed) % 300000)));
			break;
		case 1:
			TRY(weir_yield());
			break;
		case 2:
			compute((int64_t)(random_next(&seed) % 50000));
			break;
		default:
			break;
		}
	}
	struct weir_worker_stats stats;
	TRY(weir_worker_stats_get(WEIR_ALL_WORKERS, &stats));
	ck_assert_uint_eq(stats.tasks, 1);
	return 0;
}

START_TEST(cancelling_finds_children_in_every_state)
{
	uint64_t seed = test_seed();

	run_on(3, cancel_crowds, &seed);
}
END_TEST

/* ---- Breadth -------------------------------------------------------------------------------- */

static int wait_in_crowd(void *arg)
{
	int err = weir_sleep(1000 * WEIR_SEC);

	(void)arg;
	ended++;
	return err;
}

static int cancel_broad(void *arg)
{
	unsigned crowd = *(unsigned *)arg;
	WEIR_SCOPE(scope, 2 * WEIR_SEC * 1000);

	for (unsigned i = 0; i < crowd; i++)
		TRY(weir_spawn(&scope, wait_in_crowd, NULL, .worker = WEIR_ON_WORKER(i % 2)));
	TRY(weir_sleep(5 * WEIR_MS));
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	ck_assert_uint_eq(ended, crowd);
	return 0;
}

START_TEST(ten_thousand_in_one_scope_end_at_once)
{
	unsigned crowd = TESTS_SLOW ? 500 : 10000;

	run_on(2, cancel_broad, &crowd);
}
END_TEST

/* ---- Depth ---------------------------------------------------------------------------------- */

static unsigned deepest;

static int nest(void *arg)
{
	uintptr_t left = (uintptr_t)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (left == 0) {
		deepest++;
		ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ECANCELED);
		return -ECANCELED;
	}
	TRY(weir_spawn(&scope, nest, (void *)(left - 1), .stack = WEIR_STACK_32K));
	int err = weir_scope_wait(&scope);
	expect(err == -ECANCELED);
	ended++;
	return err;
}

static int cancel_chain(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, nest, arg));
	while (!deepest)
		TRY(weir_yield());
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	return 0;
}

START_TEST(a_chain_of_tens_of_thousands_ends_at_once)
{
	uintptr_t depth = TESTS_SLOW ? 500 : guards_are_free() ? 100000 : 20000;

	run_on(1, cancel_chain, (void *)depth);
	ck_assert_uint_eq(ended, depth);
}
END_TEST

/* ---- Misuse --------------------------------------------------------------------------------- */

static int close_wrong_order(void *arg)
{
	struct weir_scope outer, inner;

	(void)arg;
	weir_scope_open(&outer, WEIR_FOREVER);
	weir_scope_open(&inner, WEIR_FOREVER);
	weir_scope_close(&outer);
	weir_scope_close(&inner);
	return 0;
}

static int return_open(void *arg)
{
	struct weir_scope scope;

	(void)arg;
	weir_scope_open(&scope, WEIR_FOREVER);
	return 0;
}

static int close_foreign(void *arg)
{
	weir_scope_close(arg);
	return 0;
}

static int have_it_closed(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, close_foreign, &scope));
	return weir_scope_wait(&scope);
}

static int (*const misuses[])(void *) = { close_wrong_order, return_open, have_it_closed };

static int misuse(void *arg)
{
	return weir_run(*(weir_fn *)arg, NULL, .workers = 1);
}

START_TEST(misuse_is_a_crash_report)
{
	weir_fn fn = misuses[_i];
	int status = end_of(misuse, &fn);

	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGABRT);
	assert_said("scope");
}
END_TEST

Suite *runtime_scope_suite(void)
{
	Suite *suite = suite_create("runtime_scope");
	TCase *rules = tcase_create("rules");
	TCase *stress = tcase_create("stress");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 10);
	tcase_add_loop_test(rules, leaving_cancels_then_joins, 0, 2);
	tcase_add_test(rules, closing_is_idempotent);
	tcase_add_loop_test(rules, the_first_failure_cancels_siblings_and_is_reported, 0, 2);
	tcase_add_test(rules, cancelled_tasks_are_no_cause_and_the_first_error_stays);
	tcase_add_test(rules, a_scope_can_be_waited_for_and_filled_again);
	tcase_add_test(rules, a_task_cancelled_before_its_first_run_still_runs);
	suite_add_tcase(suite, rules);

	tcase_set_timeout(stress, 60);
	tcase_add_test(stress, a_child_of_any_worker_can_cancel_its_scope);
	tcase_add_test(stress, cancelling_finds_children_in_every_state);
	tcase_add_test(stress, ten_thousand_in_one_scope_end_at_once);
	tcase_add_test(stress, a_chain_of_tens_of_thousands_ends_at_once);
	tcase_add_loop_test(stress, misuse_is_a_crash_report, 0, 3);
	suite_add_tcase(suite, stress);
	return suite;
}
