/* SPDX-License-Identifier: MIT */
/*
 * Having something done elsewhere: calls and posts reach the worker they name, submissions of
 * foreign threads the runtime, and each is answered, whoever ends first.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "runtime/task.h"
#include "tests/runtime_test.h"

static _Atomic unsigned ran;

static int sleep_on(void *arg)
{
	(void)arg;
	return weir_sleep(1000 * WEIR_SEC);
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* ---- Calls and posts ------------------------------------------------------------------------ */

static int tell_worker(void *arg)
{
	*(int *)arg = weir_worker_index();
	return 7 + weir_worker_index();
}

static int refuse(void *arg)
{
	(void)arg;
	return -ENOTTY;
}

static int call_each(void *arg)
{
	(void)arg;
	ck_assert_int_eq(weir_worker_count(), 3);
	for (unsigned i = 0; i < 3; i++) {
		int worker = -1;
		ck_assert_int_eq(weir_call_on(i, tell_worker, &worker), 7 + (int)i);
		ck_assert_int_eq(worker, (int)i);
		ck_assert_int_eq(weir_call_on(i, refuse, NULL), -ENOTTY);
	}
	ck_assert_int_eq(weir_call_on(3, nothing, NULL), -EINVAL);
	return 0;
}

START_TEST(a_call_runs_on_the_worker_it_names)
{
	run_on(3, call_each, NULL);
	ck_assert_int_eq(weir_worker_count(), 0);
	ck_assert_int_eq(weir_call_on(0, nothing, NULL), -EINVAL);
}
END_TEST

static int sleep_and_say(void *arg)
{
	int err = weir_sleep(1000 * WEIR_SEC);

	*(int *)arg = err;
	return err;
}

static int sleep_and_say_cancelled(void *arg)
{
	(void)sleep_and_say(arg);
	return -ECANCELED;
}

/* It has returned when the call has: `result` is on this stack. */
static int call_in_time(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 2; i++) {
		int result = 0;
		WEIR_SCOPE(scope, WEIR_MS);
		ck_assert_int_eq(weir_call_on(i, sleep_and_say, &result), -ETIME);
		ck_assert(result == -ETIME || result == -ECANCELED);
		ck_assert_int_eq(weir_call_on(i, sleep_and_say, &result), -ETIME);
		weir_scope_close(&scope);
		WEIR_SCOPE(again, WEIR_MS);
		/* whatever it makes of being interrupted, the caller's time was up */
		ck_assert_int_eq(weir_call_on(i, sleep_and_say_cancelled, &result), -ETIME);
	}
	return 0;
}

START_TEST(a_call_has_the_deadline_of_its_caller)
{
	run_on(2, call_in_time, NULL);
}
END_TEST

static int call_sleep(void *arg)
{
	int result = 0;
	int err = weir_call_on(1, sleep_and_say, &result);

	ck_assert_int_eq(err, -ECANCELED);
	ck_assert(result == -ECANCELED || result == 0); /* 0: it was not started */
	(void)arg;
	return err;
}

/* After a random while: before, during and after the message is under way. */
static int cancel_calls(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned i = 0; is_stressed(i, 2000); i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, call_sleep, NULL));
		TRY(weir_yield());
		for (volatile uint64_t wait = random_next(seed) % 16384; wait > 0; wait--)
			;
		weir_scope_cancel(&scope);
		expect(weir_scope_wait(&scope) == -ECANCELED);
	}
	return 0;
}

START_TEST(a_cancelled_call_is_over_when_it_returns)
{
	uint64_t seed = test_seed();

	run_on(2, cancel_calls, &seed);
}
END_TEST

static int call_back(void *arg)
{
	uintptr_t depth = (uintptr_t)arg;

	return depth ? weir_call_on((unsigned)(depth % 2), call_back, (void *)(depth - 1)) : 5;
}

START_TEST(calls_nest_between_workers)
{
	ck_assert_int_eq(weir_run(call_back, (void *)(uintptr_t)20, .workers = 2), 5);
}
END_TEST

static _Atomic unsigned posts;
static unsigned posted_last; /* worker 1 only */

static void count_post(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;

	ck_assert_int_eq(weir_worker_index(), 1);
	expect(number == posted_last + 1);
	posted_last = number;
	posts++;
}

static int post_all(void *arg)
{
	unsigned count = *(unsigned *)arg;

	for (uintptr_t i = 1; i <= count; i++) {
		int err;
		while ((err = weir_post(1, count_post, (void *)i)) == -EAGAIN)
			TRY(weir_yield());
		TRY(err);
	}
	return 0;
}

START_TEST(posts_run_in_order_and_before_the_end)
{
	unsigned count = (unsigned)ROUNDS(100000);

	run_on(2, post_all, &count);
	ck_assert_uint_eq(posts, count);
	ck_assert_int_eq(weir_post(0, count_post, NULL), -EINVAL);
}
END_TEST

static int hold_worker(void *arg)
{
	_Atomic bool *is_held = arg;

	*is_held = true;
	while (*is_held)
		spin();
	return 0;
}

static void count_only(void *arg)
{
	(void)arg;
	posts++;
}

static int post_too_many(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	_Atomic bool is_held = false;
	int err = 0;

	(void)arg;
	TRY(weir_spawn(&scope, hold_worker, &is_held, .worker = WEIR_ON_WORKER(1)));
	while (!is_held)
		spin();
	for (int i = 0; i < 4096; i++)
		TRY(weir_post(1, count_only, NULL));
	ck_assert_int_eq(weir_post(1, count_only, NULL), -EAGAIN);
	ck_assert_int_eq(weir_post(0, count_only, NULL), 0); /* each worker for itself */
	is_held = false;
	err = weir_scope_wait(&scope);
	return err;
}

static int post_without_memory(void *arg)
{
	(void)arg;
	weir_mem_fail_after(1);
	for (int i = 0; i < 5000; i++)
		expect(weir_post(0, count_only, NULL) == -ENOMEM);
	weir_mem_fail_after(0);
	return weir_post(0, count_only, NULL); /* they have left no trace */
}

START_TEST(posts_are_bounded)
{
	run_on(2, post_too_many, NULL);
	ck_assert_uint_eq(posts, 4097);
	run_on(1, post_without_memory, NULL);
	ck_assert_uint_eq(posts, 4098);
}
END_TEST

static _Atomic unsigned refused;

static void post_again(void *arg)
{
	int worker = (int)(intptr_t)arg;

	posts++;
	expect(weir_sleep(WEIR_MS) == -EINVAL);
	int err = weir_post((unsigned)worker, post_again, (void *)(intptr_t)(1 - worker));
	refused += err == -ESHUTDOWN;
}

static int post_chain(void *arg)
{
	(void)arg;
	return weir_post(1, post_again, (void *)(intptr_t)0);
}

START_TEST(what_posts_forever_ends_with_the_runtime)
{
	for (int i = 0; i < 50; i++) {
		run_on(2, post_chain, NULL);
		ck_assert_uint_eq(refused, 1 + (unsigned)i);
	}
}
END_TEST

static void post_to_all(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 4; i++) {
		int err = weir_post(i, post_to_all, NULL);
		expect(err == 0 || err == -EAGAIN || err == -ESHUTDOWN);
	}
}

static int post_rounds(void *arg)
{
	(void)arg;
	return weir_post(3, post_to_all, NULL);
}

/* A message from ring to ring that goes out late finds its ring closed. For ASan to see. */
START_TEST(a_wake_up_in_the_last_turn_goes_to_no_worker_that_is_gone)
{
	for (int i = 0; i < 50; i++)
		run_on(4, post_rounds, NULL);
}
END_TEST

static _Atomic bool may_stop;

static void rest_ms(int ms)
{
	struct timespec left = { .tv_nsec = ms * 1000000L };

	nanosleep(&left, NULL);
}

/* Worker 2 sleeps; what wakes it goes out with a turn of worker 1's that does not come. */
static void wake_and_be_stopped(void *arg)
{
	(void)arg;
	rest_ms(20);
	expect(weir_post(2, count_only, NULL) == 0);
	may_stop = true;
	rest_ms(50);
}

static int stop_amid_a_post(void *arg)
{
	int err = weir_post(1, wake_and_be_stopped, NULL);

	(void)arg;
	while (!may_stop)
		spin();
	return err;
}

/* Lost, it would come when worker 2 wakes up to look after its heap: in a minute. */
START_TEST(a_wake_up_in_the_last_turn_goes_out)
{
	int64_t start = weir_now();

	run_on(3, stop_amid_a_post, NULL);
	ck_assert_uint_eq(posts, 1);
	ck_assert_int_lt(weir_now() - start, 20 * WEIR_SEC);
}
END_TEST

/* ---- Foreign threads ------------------------------------------------------------------------ */

static weir_runtime handle;
static _Atomic bool has_handle, may_end;

/* Runs until told to end, by a task that was submitted or else. */
static int host(void *arg)
{
	(void)arg;
	handle = weir_runtime_self();
	has_handle = true;
	while (!may_end)
		TRY(weir_sleep(WEIR_MS));
	return 0;
}

static int end_host(void *arg)
{
	(void)arg;
	may_end = true;
	return 0;
}

static void *run_host(void *arg)
{
	weir_fn fn = (weir_fn)(uintptr_t)arg;

	return (void *)(intptr_t)weir_run(fn, NULL, .workers = 2, .signals_ignored = true);
}

static pthread_t start_host(weir_fn fn)
{
	pthread_t thread;

	has_handle = may_end = false;
	ck_assert_int_eq(pthread_create(&thread, NULL, run_host, (void *)(uintptr_t)fn), 0);
	while (!has_handle)
		(void)sched_yield();
	return thread;
}

static int end_of_host(pthread_t thread)
{
	void *result;

	ck_assert_int_eq(pthread_join(thread, &result), 0);
	return (int)(intptr_t)result;
}

START_TEST(a_foreign_thread_submits_and_waits)
{
	pthread_t thread = start_host(host);

	for (unsigned i = 0; i < 2; i++) {
		int worker = -1;
		ck_assert_int_eq(
			weir_submit(handle, tell_worker, &worker, .worker = WEIR_ON_WORKER(i)),
			7 + (int)i);
		ck_assert_int_eq(worker, (int)i);
	}
	ck_assert_int_eq(weir_submit(handle, refuse, NULL), -ENOTTY);
	ck_assert_int_eq(weir_submit(handle, sleep_on, NULL, .timeout_ns = WEIR_MS), -ETIME);
	ck_assert_int_eq(weir_submit(handle, nothing, NULL, .worker = WEIR_ON_WORKER(2)), -EINVAL);
	ck_assert_int_eq(weir_submit(handle, NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_submit(handle, end_host, NULL), 0);
	ck_assert_int_eq(end_of_host(thread), 0);
	ck_assert_int_eq(weir_submit(handle, nothing, NULL), -ESHUTDOWN);
	ck_assert_int_eq(weir_submit(weir_runtime_self(), nothing, NULL), -ESHUTDOWN);
}
END_TEST

static void take_time(void *arg)
{
	(void)weir_sleep(WEIR_MS);
	*(_Atomic int *)arg = 1;
}

static int defer_with_arg(void *arg)
{
	return weir_task_defer(take_time, arg);
}

/* They may use what the thread that waits has lent. */
START_TEST(a_submission_returns_after_its_deferred_calls)
{
	pthread_t thread = start_host(host);

	for (unsigned i = 0; i < 3; i++) { /* on worker 0 unasked, on worker 0, on worker 1 */
		_Atomic int has_run = 0;
		ck_assert_int_eq(weir_submit(handle, defer_with_arg, &has_run, .worker = i), 0);
		ck_assert_int_eq(has_run, 1);
	}
	ck_assert_int_eq(weir_submit(handle, end_host, NULL), 0);
	ck_assert_int_eq(end_of_host(thread), 0);
}
END_TEST

static int submit_to_own(void *arg)
{
	(void)arg;
	return weir_submit(weir_runtime_self(), nothing, NULL);
}

START_TEST(a_task_is_told_that_it_would_wait_for_itself)
{
	ck_assert_int_eq(weir_run(submit_to_own, NULL, .workers = 1), -EDEADLK);
}
END_TEST

static void *submit_many(void *arg)
{
	uint64_t done = 0;
	int err;

	(void)arg;
	while ((err = weir_submit(handle, nothing, NULL, .worker = WEIR_ON_WORKER(done % 2))) == 0)
		done++;
	ck_assert(err == -ESHUTDOWN || err == -ECANCELED);
	return (void *)(uintptr_t)done;
}

/* Threads submit without a pause while the runtime ends: each call comes back. */
START_TEST(no_submission_is_left_behind_at_the_end)
{
	for (unsigned i = 0; is_stressed(i, 100); i++) {
		pthread_t thread = start_host(host), submitters[2];
		for (unsigned k = 0; k < 2; k++)
			ck_assert_int_eq(pthread_create(&submitters[k], NULL, submit_many, NULL),
					 0);
		(void)nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
		may_end = true;
		for (unsigned k = 0; k < 2; k++)
			ck_assert_int_eq(pthread_join(submitters[k], NULL), 0);
		ck_assert_int_eq(end_of_host(thread), 0);
	}
}
END_TEST

/* Holds its worker until somebody has submitted: that is heard of when this function has ended. */
static int end_unheard(void *arg)
{
	struct weir__runtime *runtime = weir__worker_self()->runtime;

	(void)arg;
	handle = weir_runtime_self();
	has_handle = true;
	while (atomic_load(&runtime->submissions) == 0)
		spin();
	return 0;
}

START_TEST(a_submission_that_is_heard_of_at_the_end_gets_eshutdown)
{
	for (int i = 0; i < 10; i++) {
		pthread_t thread = start_host(end_unheard);

		ck_assert_int_eq(weir_submit(handle, nothing, NULL), -ESHUTDOWN);
		ck_assert_int_eq(end_of_host(thread), 0);
	}
}
END_TEST

static void *submit_sleep(void *arg)
{
	return (void *)(intptr_t)weir_submit(handle, sleep_on, arg);
}

static int host_until_asked(void *arg)
{
	(void)arg;
	handle = weir_runtime_self();
	has_handle = true;
	while (ran == 0) /* the other is asleep in here */
		TRY(weir_sleep(WEIR_MS));
	weir_stop();
	ck_assert_int_eq(weir_sleep(1000 * WEIR_SEC), -ECANCELED);
	return -ECANCELED;
}

static int note_and_sleep(void *arg)
{
	ran++;
	return sleep_on(arg);
}

static void *submit_note_and_sleep(void *arg)
{
	return (void *)(intptr_t)weir_submit(handle, note_and_sleep, arg);
}

START_TEST(stopping_cancels_what_was_submitted)
{
	pthread_t submitter, thread = start_host(host_until_asked);
	void *result;

	ck_assert_int_eq(pthread_create(&submitter, NULL, submit_note_and_sleep, NULL), 0);
	ck_assert_int_eq(pthread_join(submitter, &result), 0);
	ck_assert_int_eq((int)(intptr_t)result, -ECANCELED);
	ck_assert_int_eq(end_of_host(thread), -ECANCELED);
}
END_TEST

START_TEST(the_end_of_main_cancels_what_was_submitted)
{
	pthread_t submitter, thread = start_host(host);
	void *result;

	ck_assert_int_eq(pthread_create(&submitter, NULL, submit_sleep, NULL), 0);
	(void)nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	may_end = true;
	ck_assert_int_eq(end_of_host(thread), 0);
	ck_assert_int_eq(pthread_join(submitter, &result), 0);
	ck_assert((int)(intptr_t)result == -ECANCELED || (int)(intptr_t)result == -ESHUTDOWN);
}
END_TEST

Suite *runtime_calls_suite(void)
{
	Suite *suite = suite_create("runtime_calls");
	TCase *calls = tcase_create("calls");
	TCase *foreign = tcase_create("foreign");

	tcase_set_tags(calls, "fast");
	tcase_set_timeout(calls, 30);
	tcase_add_test(calls, a_call_runs_on_the_worker_it_names);
	tcase_add_test(calls, a_call_has_the_deadline_of_its_caller);
	tcase_add_test(calls, a_cancelled_call_is_over_when_it_returns);
	tcase_add_test(calls, calls_nest_between_workers);
	tcase_add_test(calls, posts_run_in_order_and_before_the_end);
	tcase_add_test(calls, posts_are_bounded);
	tcase_add_test(calls, what_posts_forever_ends_with_the_runtime);
	tcase_add_test(calls, a_wake_up_in_the_last_turn_goes_to_no_worker_that_is_gone);
	tcase_add_test(calls, a_wake_up_in_the_last_turn_goes_out);
	suite_add_tcase(suite, calls);

	tcase_add_test(calls, a_task_is_told_that_it_would_wait_for_itself);
	tcase_set_tags(foreign, "real"); /* threads of the system's */
	tcase_set_timeout(foreign, 30);
	tcase_add_test(foreign, a_foreign_thread_submits_and_waits);
	tcase_add_test(foreign, a_submission_returns_after_its_deferred_calls);
	tcase_add_test(foreign, no_submission_is_left_behind_at_the_end);
	tcase_add_test(foreign, a_submission_that_is_heard_of_at_the_end_gets_eshutdown);
	tcase_add_test(foreign, stopping_cancels_what_was_submitted);
	tcase_add_test(foreign, the_end_of_main_cancels_what_was_submitted);
	suite_add_tcase(suite, foreign);
	return suite;
}
