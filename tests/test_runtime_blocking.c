/* SPDX-License-Identifier: MIT */
/*
 * Blocking calls: bounded pools, other tasks run meanwhile, and nobody waits for abandoned work.
 */
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/refuse.h"
#include "tests/runtime_test.h"

static weir_blocking_pool *pool;
static _Atomic int running, running_most, ran, freed;
static _Atomic bool gate; /* lets the work go that waits in behind_gate() */

static int behind_gate(void *arg)
{
	(void)arg;
	running++;
	while (!gate)
		usleep(500);
	running--;
	return 42;
}

static int count(void *arg)
{
	int now = ++running, most = running_most;

	while (now > most && !atomic_compare_exchange_weak(&running_most, &most, now))
		;
	usleep(1000);
	running--;
	ran++;
	return arg != NULL;
}

static void free_arg(void *arg)
{
	weir_free(arg);
	freed++;
}

/* Parks until `condition` holds: no time is asserted, Check's limit is the only one. */
#define until(condition)                                                                           \
	while (!(condition))                                                                       \
	ck_assert_int_eq(weir_sleep(WEIR_MS), 0)

static int call_with_gate(void *arg)
{
	(void)arg;
	return weir_blocking(behind_gate, NULL, .pool = pool) == 42 ? 0 : -EIO;
}

static int call_count(void *arg)
{
	(void)arg;
	return weir_blocking(count, NULL, .pool = pool);
}

/* ---- Results --------------------------------------------------------------------------------- */

static pthread_t thread_seen;

static int fail_there(void *arg)
{
	thread_seen = pthread_self();
	return *(int *)arg;
}

static int get_results(void *arg)
{
	int error = -ENOTTY, result = 0;

	(void)arg;
	ck_assert_int_eq(weir_blocking(fail_there, &error), -ENOTTY);
	ck_assert(!pthread_equal(thread_seen, pthread_self()));
	ck_assert_int_eq(weir_blocking(fail_there, &error, .ret_result = &result), 0);
	ck_assert_int_eq(result, -ENOTTY);
	ck_assert_int_eq(weir_blocking(NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_blocking(count, NULL, .abandon = free_arg), -EINVAL);
	return 0;
}

START_TEST(what_the_function_returns_comes_back)
{
	run_on(1, get_results, NULL);
	ck_assert_int_eq(weir_blocking(count, NULL), -EINVAL);
}
END_TEST

static int work_beside(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&scope, call_with_gate, NULL), 0);
	until(running == 1);
	gate = true;
	return weir_scope_wait(&scope);
}

START_TEST(the_worker_runs_others_meanwhile)
{
	run_on(1, work_beside, NULL);
}
END_TEST

/* ---- Bounds ---------------------------------------------------------------------------------- */

static int fill_pool(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 40; i++)
		ck_assert_int_eq(weir_spawn(&scope, call_count, NULL), 0);
	return weir_scope_wait(&scope);
}

static int fill_both(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(weir_spawn(&scope, call_with_gate, NULL), 0);
	until(running == 2);
	gate = true;
	return weir_scope_wait(&scope);
}

START_TEST(a_pool_runs_no_more_at_once_than_it_has_threads)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "two", .threads_max = 2), 0);
	run_on(1, fill_pool, NULL);
	ck_assert_int_eq(ran, 40);
	ck_assert_int_le(running_most, 2);
	run_on(1, fill_both, NULL);
	weir_blocking_pool_free(pool);
}
END_TEST

static int at_once(void *arg)
{
	(void)arg;
	return 0;
}

/* Short calls in a row, so that a thread looks out for more; then as many long ones as threads. */
static int short_then_long(void *arg)
{
	(void)arg;
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 40; i++)
			ck_assert_int_eq(weir_blocking(at_once, NULL, .pool = pool), 0);
		gate = false;
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (int i = 0; i < 4; i++)
			ck_assert_int_eq(weir_spawn(&scope, call_with_gate, NULL), 0);
		until(running == 4);
		gate = true;
		ck_assert_int_eq(weir_scope_wait(&scope), 0);
	}
	return 0;
}

START_TEST(a_call_behind_one_that_blocks_has_a_thread_of_its_own)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "four", .threads_max = 4), 0);
	run_on(2, short_then_long, NULL);
	weir_blocking_pool_free(pool);
}
END_TEST

/* From both workers, more tasks than threads. */
static int call_often(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++)
		ck_assert_int_eq(weir_blocking(i % 50 ? at_once : count, NULL, .pool = pool), 0);
	return 0;
}

static int callers_of_two_workers(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < 10; i++)
		ck_assert_int_eq(
			weir_spawn(&scope, call_often, NULL, .worker = WEIR_ON_WORKER(i % 2)), 0);
	return weir_scope_wait(&scope);
}

START_TEST(no_call_is_left_waiting_beside_idle_threads)
{
	struct weir_blocking_stats stats;

	ck_assert_int_eq(weir_blocking_pool_new(&pool, "few", .threads_max = 3), 0);
	run_on(2, callers_of_two_workers, NULL);
	ck_assert_int_eq(ran, 40);
	weir_blocking_stats_get(pool, &stats);
	ck_assert_uint_eq(stats.queued, 0);
	ck_assert_uint_le(stats.threads, 3);
	weir_blocking_pool_free(pool);
}
END_TEST

static int overfill(void *arg)
{
	struct weir_blocking_stats stats;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 3; i++) /* one runs, two wait */
		ck_assert_int_eq(weir_spawn(&scope, call_with_gate, NULL), 0);
	until(running == 1);
	weir_blocking_stats_get(pool, &stats);
	ck_assert_uint_eq(stats.queued, 2);
	ck_assert_int_eq(weir_blocking(count, NULL, .pool = pool), -EAGAIN);
	gate = true;
	return weir_scope_wait(&scope);
}

START_TEST(a_full_queue_is_eagain)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "one", .threads_max = 1, .queue_max = 2), 0);
	run_on(1, overfill, NULL);
	weir_blocking_pool_free(pool);
}
END_TEST

static int call_without_threads(void *arg)
{
	char *taken = weir_alloc(10);
	int result = 7;

	(void)arg;
	ck_assert_int_eq(refuse_syscall(SYS_clone3, REFUSE_ANY, EAGAIN), 0);
	ck_assert_int_eq(refuse_syscall(SYS_clone, REFUSE_ANY, EAGAIN), 0);
	ck_assert_int_eq(weir_blocking(count, NULL), -EAGAIN);
	ck_assert_int_eq(weir_blocking(count, taken, .ret_result = &result, .abandon = free_arg),
			 -EAGAIN);
	ck_assert_int_eq(result, 7);
	ck_assert_int_eq(freed, 1);
	return 0;
}

START_TEST(no_thread_to_be_had_is_eagain)
{
	run_on(1, call_without_threads, NULL);
}
END_TEST

static int call_boundless(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(weir_spawn(&scope, call_count, NULL), 0);
	return weir_scope_wait(&scope);
}

static int call_with_one_thread(void *arg)
{
	ck_assert_int_eq(weir_blocking(count, NULL), 0); /* it stays for ten seconds */
	ck_assert_int_eq(refuse_syscall(SYS_clone3, REFUSE_ANY, EAGAIN), 0);
	ck_assert_int_eq(refuse_syscall(SYS_clone, REFUSE_ANY, EAGAIN), 0);
	return call_boundless(arg);
}

START_TEST(where_no_more_threads_are_to_be_had_those_there_do_it_all)
{
	run_on(1, call_with_one_thread, NULL);
	ck_assert_int_eq(ran, 9);
}
END_TEST

START_TEST(a_pool_without_threads_is_refused)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "none"), -EINVAL);
	weir_blocking_pool_free(NULL);
}
END_TEST

START_TEST(the_largest_bound_on_a_queue_is_none)
{
	ck_assert_int_eq(
		weir_blocking_pool_new(&pool, "many", .threads_max = 2, .queue_max = UINT_MAX), 0);
	run_on(1, call_boundless, NULL);
	ck_assert_int_eq(ran, 8);
	weir_blocking_pool_free(pool);
}
END_TEST

/* ---- fork() ---------------------------------------------------------------------------------- */

static int call_both(void *arg)
{
	ck_assert_int_eq(weir_blocking(count, NULL), 0);
	ck_assert_int_eq(weir_blocking(count, NULL, .pool = arg), 0);
	return 0;
}

/* Its parent's threads are idle, or look out for work, or have some. */
START_TEST(a_child_has_threads_of_its_own)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "own", .threads_max = 2), 0);
	for (int i = 0; i < 20; i++) {
		int status = -1;

		run_on(1, call_both, pool);
		pid_t child = fork();
		if (child == 0) {
			alarm(10);
			int err = weir_run(call_both, pool, .workers = 1, .signals_ignored = true);
			weir_blocking_pool_free(pool);
			_exit(err == 0 ? 0 : 1);
		}
		ck_assert_int_gt(child, 0);
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert_int_eq(status, 0);
	}
	weir_blocking_pool_free(pool);
}
END_TEST

/* ---- Cancelling ------------------------------------------------------------------------------ */

static int cancel_queued(void *arg)
{
	(void)arg;
	WEIR_SCOPE(first, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&first, call_with_gate, NULL), 0);
	until(running == 1);
	{
		WEIR_SCOPE(brief, 5 * WEIR_MS);
		ck_assert_int_eq(call_count(NULL), -ETIME);
	}
	gate = true;
	return weir_scope_wait(&first);
}

START_TEST(a_call_whose_time_is_up_in_the_queue_never_runs)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "one", .threads_max = 1), 0);
	run_on(1, cancel_queued, NULL);
	ck_assert_int_eq(ran, 0);
	weir_blocking_pool_free(pool);
}
END_TEST

static int called_result;

static int keep_result(void *arg)
{
	(void)arg;
	called_result = weir_blocking(behind_gate, NULL);
	return 0;
}

static int cancel_running(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&scope, keep_result, NULL), 0);
	until(running == 1);
	weir_scope_cancel(&scope);
	gate = true;
	weir_scope_close(&scope);
	ck_assert_int_eq(running, 0);
	return 0;
}

START_TEST(a_call_that_runs_is_waited_for_and_keeps_its_result)
{
	run_on(1, cancel_running, NULL);
	ck_assert_int_eq(called_result, 42);
}
END_TEST

/* ---- Abandoning ------------------------------------------------------------------------------ */

static int abandon(void *arg)
{
	int result = 7;

	(void)arg;
	ck_assert_int_eq(weir_blocking(behind_gate, weir_alloc(10), .pool = pool,
				       .ret_result = &result, .abandon = free_arg),
			 -ECANCELED);
	ck_assert_int_eq(result, 7);
	ck_assert_int_eq(freed, 0);
	return 0;
}

static int abandon_running(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&scope, abandon, NULL), 0);
	until(running == 1);
	return 0;
}

START_TEST(neither_the_task_nor_the_runtime_waits_for_abandoned_work)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "one", .threads_max = 1), 0);
	run_on(1, abandon_running, NULL);
	weir_blocking_pool_free(pool); /* nor does the pool's owner */
	ck_assert_int_eq(running, 1);
	gate = true;
	while (freed == 0)
		usleep(1000);
}
END_TEST

static int abandon_queued(void *arg)
{
	int result;

	(void)arg;
	WEIR_SCOPE(first, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&first, call_with_gate, NULL), 0);
	until(running == 1);
	{
		WEIR_SCOPE(brief, 5 * WEIR_MS);
		ck_assert_int_eq(weir_blocking(count, weir_alloc(10), .pool = pool,
					       .ret_result = &result, .abandon = free_arg),
				 -ETIME);
		ck_assert_int_eq(freed, 1);
		ck_assert_int_eq(weir_blocking(count, weir_alloc(10), .pool = pool,
					       .ret_result = &result, .abandon = free_arg),
				 -ETIME); /* it was up before */
		ck_assert_int_eq(freed, 2);
	}
	gate = true;
	return weir_scope_wait(&first);
}

START_TEST(work_that_never_ran_is_abandoned_at_once)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "one", .threads_max = 1), 0);
	run_on(1, abandon_queued, NULL);
	ck_assert_int_eq(ran, 0);
	weir_blocking_pool_free(pool);
}
END_TEST

/* ---- Many ------------------------------------------------------------------------------------ */

static int maybe_slow(void *arg)
{
	if ((uintptr_t)arg % 3 == 0)
		usleep(200);
	ran++;
	return 1;
}

static _Atomic int answered, given_up;

static int abandonable(void *arg)
{
	for (int i = 0; i < 20; i++) {
		uint64_t *taken = weir_alloc(sizeof *taken);
		int result = 0;
		WEIR_SCOPE(brief, (int64_t)((uintptr_t)arg % 7 + 1) * 50 * WEIR_US);

		int err = weir_blocking(maybe_slow, taken, .pool = pool, .ret_result = &result,
					.abandon = free_arg);
		if (err == 0) {
			expect(result == 1);
			weir_free(taken);
			answered++;
		} else {
			expect(err == -ETIME);
			given_up++;
		}
	}
	return 0;
}

static int storm(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (uintptr_t i = 0; i < 60; i++)
		ck_assert_int_eq(
			weir_spawn(&scope, abandonable, (void *)i, .worker = WEIR_ON_WORKER(i % 3)),
			0);
	return weir_scope_wait(&scope);
}

START_TEST(each_argument_is_freed_once_whoever_comes_first)
{
	ck_assert_int_eq(weir_blocking_pool_new(&pool, "few", .threads_max = 3), 0);
	run_on(3, storm, NULL);
	weir_blocking_pool_free(pool);
	ck_assert_int_eq(answered + given_up, 1200);
	while (freed < given_up)
		usleep(1000);
	ck_assert_int_eq(freed, given_up);
}
END_TEST

Suite *runtime_blocking_suite(void)
{
	Suite *suite = suite_create("runtime_blocking");
	TCase *rules = tcase_create("rules");

	tcase_set_tags(rules, "real"); /* a simulated call of this kind has no thread */
	tcase_set_timeout(rules, 20);
	tcase_add_test(rules, what_the_function_returns_comes_back);
	tcase_add_test(rules, the_worker_runs_others_meanwhile);
	tcase_add_test(rules, a_pool_runs_no_more_at_once_than_it_has_threads);
	tcase_add_test(rules, a_call_behind_one_that_blocks_has_a_thread_of_its_own);
	tcase_add_test(rules, no_call_is_left_waiting_beside_idle_threads);
	tcase_add_test(rules, a_full_queue_is_eagain);
	tcase_add_test(rules, the_largest_bound_on_a_queue_is_none);
	if (!TESTS_SLOW) /* sanitizers know nothing of a child with threads */
		tcase_add_test(rules, a_child_has_threads_of_its_own);
	if (!TESTS_SLOW) /* sanitizers start threads of their own when a process ends */
		tcase_add_test(rules, no_thread_to_be_had_is_eagain);
	if (!TESTS_SLOW)
		tcase_add_test(rules, where_no_more_threads_are_to_be_had_those_there_do_it_all);
	tcase_add_test(rules, a_pool_without_threads_is_refused);
	tcase_add_test(rules, a_call_whose_time_is_up_in_the_queue_never_runs);
	tcase_add_test(rules, a_call_that_runs_is_waited_for_and_keeps_its_result);
	tcase_add_test(rules, neither_the_task_nor_the_runtime_waits_for_abandoned_work);
	tcase_add_test(rules, work_that_never_ran_is_abandoned_at_once);
	tcase_add_test(rules, each_argument_is_freed_once_whoever_comes_first);
	suite_add_tcase(suite, rules);
	return suite;
}
