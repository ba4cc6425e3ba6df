/* SPDX-License-Identifier: MIT */
/*
 * Tokens: scopes cancelled from anywhere, also while they are being opened and closed.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/runtime_test.h"

static struct weir_token token;
static _Atomic unsigned asleep, cancelled;

static int sleep_bound(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_scope_bind(&scope, arg));
	asleep++;
	int err = weir_sleep(1000 * WEIR_SEC);
	expect(err == -ECANCELED);
	weir_scope_close(&scope);
	cancelled++;
	return weir_yield(); /* only the bound scope was cancelled */
}

/* ---- Rules ---------------------------------------------------------------------------------- */

static int cancel_own(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	ck_assert(!weir_token_is_cancelled(&token));
	TRY(weir_scope_bind(&scope, &token));
	ck_assert_int_eq(weir_scope_bind(&scope, &token), -EBUSY);
	TRY(weir_yield());
	weir_token_cancel(&token);
	ck_assert(weir_token_is_cancelled(&token));
	ck_assert_int_eq(weir_yield(), -ECANCELED);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	weir_token_cancel(&token);
	weir_scope_close(&scope);
	TRY(weir_yield());
	ck_assert_int_eq(weir_scope_bind(&scope, &token), -EINVAL); /* closed */
	weir_token_init(&token);
	ck_assert(!weir_token_is_cancelled(&token));
	return 0;
}

START_TEST(a_task_can_cancel_its_own_scope_by_token)
{
	run_on(1, cancel_own, NULL);
}
END_TEST

static int bind_late(void *arg)
{
	(void)arg;
	weir_token_cancel(&token);
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		ck_assert_int_eq(weir_scope_bind(&scope, &token), -ECANCELED);
		ck_assert_int_eq(weir_spawn(&scope, sleep_bound, &token), -ECANCELED);
		ck_assert_int_eq(weir_sleep(1), -ECANCELED);
	}
	return weir_yield();
}

START_TEST(a_scope_bound_to_a_cancelled_token_is_cancelled_at_once)
{
	run_on(1, bind_late, NULL);
}
END_TEST

/* False where the time was over before anything was cancelled. */
static bool cancel_before(int64_t timeout_ns)
{
	struct weir_token other = WEIR_TOKEN_INIT;
	WEIR_SCOPE(outer, timeout_ns);

	ck_assert_int_eq(weir_scope_bind(&outer, &token), 0);
	{
		WEIR_SCOPE(inner, WEIR_FOREVER);
		ck_assert_int_eq(weir_scope_bind(&inner, &other), 0);
		weir_token_cancel(&other);
		int err = weir_sleep(99 * WEIR_SEC);
		if (err == -ETIME)
			return false;
		ck_assert_int_eq(err, -ECANCELED);
		WEIR_SHIELD(shield, 500 * WEIR_US); /* shields hold against tokens */
		ck_assert_int_eq(weir_sleep(99 * WEIR_SEC), -ETIME);
	}
	ck_assert_int_eq(weir_sleep(99 * WEIR_SEC), -ETIME); /* outer: not cancelled, late */
	weir_token_cancel(&token);
	ck_assert_int_eq(weir_sleep(99 * WEIR_SEC), -ETIME); /* and was that first */
	return true;
}

static int keep_causes_apart(void *arg)
{
	int64_t timeout_ns = 100 * WEIR_MS;

	(void)arg;
	weir_token_init(&token);
	while (!cancel_before(timeout_ns))
		ck_assert_int_lt(timeout_ns *= 2, 10 * WEIR_SEC);
	WEIR_SHIELD(bound_shield, WEIR_FOREVER);
	ck_assert_int_eq(weir_scope_bind(&bound_shield, &token), -ECANCELED);
	ck_assert_int_eq(weir_sleep(99 * WEIR_SEC),
			 -ECANCELED); /* its own cancellation reaches it */
	return 0;
}

START_TEST(token_deadline_and_shield_are_told_apart)
{
	run_on(1, keep_causes_apart, NULL);
}
END_TEST

static int bind_foreign(void *arg)
{
	ck_assert_int_eq(weir_scope_bind(arg, &token), -EINVAL);
	return 0;
}

static int bind_wrong(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, bind_foreign, &scope));
	TRY(weir_spawn(&scope, bind_foreign, &scope, .worker = WEIR_ON_WORKER(1)));
	return weir_scope_wait(&scope);
}

START_TEST(only_the_opener_binds)
{
	struct weir_scope outside;

	weir_scope_open(&outside, WEIR_FOREVER);
	ck_assert_int_eq(weir_scope_bind(&outside, &token), -EINVAL);
	weir_scope_close(&outside);
	run_on(2, bind_wrong, NULL);
}
END_TEST

/* ---- Others --------------------------------------------------------------------------------- */

static void *cancel_when_asleep(void *arg)
{
	while (asleep < *(unsigned *)arg)
		sched_yield();
	weir_token_cancel(&token);
	return NULL;
}

static int sleep_on_all(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < *(unsigned *)arg; i++)
		TRY(weir_spawn(&scope, sleep_bound, &token, .worker = WEIR_ON_WORKER(i % 3)));
	return weir_scope_wait(&scope);
}

START_TEST(a_foreign_thread_cancels_scopes_of_all_workers)
{
	unsigned sleepers = 300;
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, cancel_when_asleep, &sleepers), 0);
	run_on(3, sleep_on_all, &sleepers);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(cancelled, sleepers);
}
END_TEST

static int cancel_from_worker(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	unsigned sleepers = *(unsigned *)arg;

	for (unsigned i = 0; i < sleepers; i++)
		TRY(weir_spawn(&scope, sleep_bound, &token, .worker = WEIR_ON_WORKER(i % 3)));
	while (asleep < sleepers)
		TRY(weir_sleep(100 * WEIR_US));
	weir_token_cancel(&token);
	return weir_scope_wait(&scope);
}

START_TEST(a_task_cancels_scopes_of_all_workers)
{
	unsigned sleepers = 300;

	run_on(3, cancel_from_worker, &sleepers);
	ck_assert_uint_eq(cancelled, sleepers);
}
END_TEST

/* ---- Races ---------------------------------------------------------------------------------- */

/* A new token every time round, cancelled by a stranger while scopes come and go. */
static _Atomic(struct weir_token *) offered;
static _Atomic unsigned rounds_done, taken;

static void *cancel_offered(void *arg)
{
	(void)arg;
	for (;;) {
		struct weir_token *each = atomic_exchange(&offered, NULL);
		if (each == &token)
			return NULL;
		if (each) {
			weir_token_cancel(each);
			taken++;
		}
		sched_yield();
	}
}

static int open_and_close(void *arg)
{
	for (int err = 0; err == 0;) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		err = weir_scope_bind(&scope, arg);
		if (err == 0)
			err = weir_yield();
		expect(err == 0 || err == -ECANCELED);
	}
	rounds_done++;
	return 0;
}

/* Not all the rounds where many others want the CPU: the stranger has to get it in each of them. */
static int race_with_cancel(void *arg)
{
	int64_t end_ns = weir_now() + 5 * WEIR_SEC;
	unsigned *rounds = arg;

	for (; *rounds < (unsigned)ROUNDS(2000) && weir_now() < end_ns; ++*rounds) {
		struct weir_token each = WEIR_TOKEN_INIT;
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned i = 0; i < 4; i++)
			TRY(weir_spawn(&scope, open_and_close, &each,
				       .worker = WEIR_ON_WORKER(i % 2)));
		offered = &each;
		TRY(weir_scope_wait(&scope));
		expect(weir_token_is_cancelled(&each));
		while (taken <= *rounds) /* until the canceller has returned */
			TRY(weir_yield());
	}
	offered = &token;
	return 0;
}

START_TEST(scopes_may_close_while_their_token_is_cancelled)
{
	unsigned rounds = 0;
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, cancel_offered, NULL), 0);
	run_on(2, race_with_cancel, &rounds);
	pthread_join(thread, NULL);
	ck_assert_uint_gt(rounds, 0);
	ck_assert_uint_eq(rounds_done, 4 * rounds);
}
END_TEST

Suite *runtime_token_suite(void)
{
	Suite *suite = suite_create("runtime_token");
	TCase *rules = tcase_create("rules");
	TCase *stress = tcase_create("stress");
	TCase *foreign = tcase_create("foreign");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 20);
	tcase_add_test(rules, a_task_can_cancel_its_own_scope_by_token);
	tcase_add_test(rules, a_scope_bound_to_a_cancelled_token_is_cancelled_at_once);
	tcase_add_test(rules, token_deadline_and_shield_are_told_apart);
	tcase_add_test(rules, only_the_opener_binds);
	suite_add_tcase(suite, rules);
	tcase_set_timeout(stress, 60);
	tcase_add_test(stress, a_task_cancels_scopes_of_all_workers);
	suite_add_tcase(suite, stress);
	tcase_set_tags(foreign, "real"); /* threads of the system's */
	tcase_set_timeout(foreign, 60);
	tcase_add_test(foreign, a_foreign_thread_cancels_scopes_of_all_workers);
	tcase_add_test(foreign, scopes_may_close_while_their_token_is_cancelled);
	suite_add_tcase(suite, foreign);
	return suite;
}
