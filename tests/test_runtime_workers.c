/* SPDX-License-Identifier: MIT */
/*
 * Many workers: un-started tasks go where there is time for them, messages cannot hold up a worker,
 * and a wake-up that is lost is made good.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "runtime/task.h"
#include "tests/runtime_test.h"

static struct weir_worker_stats stats_of(int worker)
{
	struct weir_worker_stats stats;

	ck_assert_int_eq(weir_worker_stats_get(worker, &stats), 0);
	return stats;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* Idle workers sleep on, though they have things to give back. */
static void let_heaps_sleep(void)
{
	ck_assert_int_eq(setenv("WEIR_POOL_EPOCH_MS", "60000", 1), 0);
	ck_assert_int_eq(setenv("WEIR_MEM_DECAY_MS", "3600000", 1), 0);
}

/* ---- Any worker ----------------------------------------------------------------------------- */

enum { WORKERS_MAX = 4 };

static _Atomic unsigned ran_on[WORKERS_MAX];
static _Atomic unsigned ran;

static int note_worker(void *arg)
{
	(void)arg;
	ran_on[weir_worker_index()]++;
	ran++;
	return 0;
}

/* The spawner never leaves its worker until all have run: they can only run elsewhere. */
static int spawn_and_compute(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned i = 0; i < 100; i++)
		TRY(weir_spawn(&scope, note_worker, NULL, .any = true));
	while (ran < 100)
		spin();
	ck_assert_uint_eq(ran_on[0], 0);
	ck_assert_uint_eq(stats_of(WEIR_ALL_WORKERS).steals >= 100, 1);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(stats_of(WEIR_ALL_WORKERS).tasks, 1); /* this one */
	return 0;
}

START_TEST(tasks_of_a_busy_worker_start_elsewhere)
{
	run_on(2 + (unsigned)_i, spawn_and_compute, NULL);
}
END_TEST

static _Atomic bool is_held;
static _Atomic uint64_t taken;

static int hold_worker(void *arg)
{
	(void)arg;
	is_held = true;
	while (is_held)
		spin();
	return 0;
}

/* The first of those that worker 1 has taken; the others wait behind it. */
static int note_taken(void *arg)
{
	if (taken == 0)
		taken = stats_of(1).steals;
	return note_worker(arg);
}

/* Worker 1 has nothing to do when it comes back, and this one does not let its own worker go. */
static int spawn_beside_holder(void *arg)
{
	unsigned count = *(unsigned *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	taken = 0;
	TRY(weir_spawn(&scope, hold_worker, NULL, .worker = WEIR_ON_WORKER(1)));
	while (!is_held)
		spin();
	for (unsigned i = 0; i < count; i++)
		TRY(weir_spawn(&scope, note_taken, NULL, .any = true));
	is_held = false;
	while (taken == 0)
		spin();
	*(unsigned *)arg = (unsigned)taken;
	return weir_scope_wait(&scope);
}

START_TEST(an_idle_worker_takes_half_and_sixteen_at_most)
{
	static const unsigned most[][2] = { { 1, 1 }, { 2, 1 }, { 8, 4 }, { 9, 5 }, { 40, 16 } };

	for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
		unsigned count = most[i][0];
		run_on(2, spawn_beside_holder, &count);
		ck_assert_uint_eq(count, most[i][1]);
	}
}
END_TEST

static _Atomic unsigned meeting;

/* Does not end before another worker runs one too. */
static int meet_other(void *arg)
{
	unsigned bit = 1u << weir_worker_index();

	(void)arg;
	meeting |= bit;
	while (meeting == bit)
		spin();
	return 0;
}

static int spawn_pair(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_sleep(*(int64_t *)arg)); /* the other worker parks meanwhile, or is about to */
	for (unsigned i = 0; i < 2; i++)
		TRY(weir_spawn(&scope, meet_other, NULL, .any = true));
	return weir_scope_wait(&scope);
}

START_TEST(a_parked_worker_is_woken_for_them)
{
	int64_t ns = 20 * WEIR_MS;

	run_on(2, spawn_pair, &ns);
}
END_TEST

static int spawn_pairs(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned i = 0; is_stressed(i, 20000); i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		meeting = 0;
		for (unsigned k = 0; k < 2; k++)
			TRY(weir_spawn(&scope, meet_other, NULL, .any = true));
		TRY(weir_scope_wait(&scope));
		for (volatile uint64_t wait = random_next(seed) % 4096; wait > 0; wait--)
			;
	}
	return 0;
}

/* Each round hangs if the other worker parks beside a task in the queue. */
START_TEST(no_worker_parks_beside_one)
{
	uint64_t seed = test_seed();

	run_on(2, spawn_pairs, &seed);
}
END_TEST

static int spawn_tree(void *arg)
{
	uintptr_t depth = (uintptr_t)arg;

	note_worker(NULL);
	if (depth == 0)
		return 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < 10; i++)
		TRY(weir_spawn(&scope, spawn_tree, (void *)(depth - 1), .any = true));
	return weir_scope_wait(&scope);
}

START_TEST(a_tree_of_them_is_run_once_each)
{
	unsigned sum = 0;

	run_on(WORKERS_MAX, spawn_tree, (void *)(uintptr_t)(TESTS_SLOW ? 3 : 4));
	for (unsigned i = 0; i < WORKERS_MAX; i++)
		sum += ran_on[i];
	ck_assert_uint_eq(sum, TESTS_SLOW ? 1111 : 11111);
}
END_TEST

static int same_worker(void *arg)
{
	int worker = weir_worker_index();

	(void)arg;
	for (int i = 0; i < 20; i++) {
		TRY(weir_sleep(10 * WEIR_US));
		expect(weir_worker_index() == worker);
	}
	return 0;
}

static int spawn_sleepers(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned i = 0; i < 200; i++)
		TRY(weir_spawn(&scope, same_worker, NULL, .any = true));
	return weir_scope_wait(&scope);
}

START_TEST(what_has_started_stays)
{
	run_on(3, spawn_sleepers, NULL);
}
END_TEST

static _Atomic bool must_yield;

static int yield_on(void *arg)
{
	(void)arg;
	while (must_yield)
		TRY(weir_yield());
	return 0;
}

static int stop_yielding(void *arg)
{
	(void)arg;
	must_yield = false;
	return 0;
}

/* Every worker always has something else to run. */
static int spawn_beside_yielders(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	must_yield = true;
	for (unsigned i = 0; i < 4; i++)
		TRY(weir_spawn(&scope, yield_on, NULL, .worker = WEIR_ON_WORKER(i % 2)));
	TRY(weir_sleep(5 * WEIR_MS));
	TRY(weir_spawn(&scope, stop_yielding, NULL, .any = true));
	return weir_scope_wait(&scope);
}

START_TEST(they_run_beside_tasks_that_never_wait)
{
	run_on(2, spawn_beside_yielders, NULL);
}
END_TEST

static _Atomic bool has_run;

static int note_run(void *arg)
{
	(void)arg;
	has_run = true;
	return 0;
}

static int compute_until_run(void *arg)
{
	(void)arg;
	while (!has_run)
		spin();
	return 0;
}

/* Worker 1 is woken for the one, and the other comes for it before it has looked. */
static int spawn_both(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_sleep(20 * WEIR_MS)); /* the others park meanwhile */
	TRY(weir_spawn(&scope, note_run, NULL, .any = true));
	TRY(weir_spawn(&scope, compute_until_run, NULL, .worker = WEIR_ON_WORKER(1)));
	(void)compute_until_run(NULL);
	return weir_scope_wait(&scope);
}

START_TEST(who_is_woken_for_one_and_has_work_of_its_own_wakes_another)
{
	let_heaps_sleep();
	run_on(3, spawn_both, NULL);
}
END_TEST

static int fail_at_once(void *arg)
{
	(void)arg;
	ran++;
	return -EIO;
}

static int sleep_on(void *arg)
{
	(void)arg;
	int err = weir_sleep(1000 * WEIR_SEC);
	ran++;
	return err;
}

/* Cancelled in whatever state each of them is: queued, on its way, started here or there. */
static int cancel_many(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned i = 0; is_stressed(i, 2000); i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		ran = 0;
		for (unsigned k = 0; k < 20; k++)
			TRY(weir_spawn(&scope, sleep_on, NULL, .any = true));
		for (volatile uint64_t wait = random_next(seed) % 8192; wait > 0; wait--)
			;
		if (random_next(seed) % 2)
			TRY(weir_yield());
		weir_scope_cancel(&scope);
		expect(weir_scope_wait(&scope) == -ECANCELED);
		expect(ran == 20);
	}
	return 0;
}

START_TEST(cancelling_finds_them_wherever_they_are)
{
	uint64_t seed = test_seed();

	run_on(3, cancel_many, &seed);
}
END_TEST

static int one_fails(void *arg)
{
	(void)arg;
	for (unsigned i = 0; is_stressed(i, 500); i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned k = 0; k < 10; k++)
			TRY(weir_spawn(&scope, k == 5 ? fail_at_once : sleep_on, NULL,
				       .any = true));
		expect(weir_scope_wait(&scope) == -EIO);
	}
	return 0;
}

START_TEST(one_that_fails_cancels_the_others)
{
	run_on(3, one_fails, NULL);
}
END_TEST

static int wrong_options(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	ck_assert_int_eq(
		weir_spawn(&scope, nothing, NULL, .any = true, .worker = WEIR_ON_WORKER(0)),
		-EINVAL);
	return 0;
}

START_TEST(any_worker_and_one_worker_contradict)
{
	run_on(2, wrong_options, NULL);
}
END_TEST

/* ---- Messages ------------------------------------------------------------------------------- */

/* When its thread is free again there are 10,000 messages for it; it takes some of them at a time.
 */
static int watch_flood(void *arg)
{
	_Atomic bool *is_blocked = arg;

	*is_blocked = true;
	while (*is_blocked)
		spin();
	TRY(weir_yield());
	ck_assert_uint_le(stats_of(1).tasks, 1 + 256);
	return 0;
}

static int flood(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	_Atomic bool is_blocked = false;

	(void)arg;
	TRY(weir_spawn(&scope, watch_flood, &is_blocked, .worker = WEIR_ON_WORKER(1)));
	while (!is_blocked)
		spin();
	for (unsigned i = 0; i < 10000; i++)
		TRY(weir_spawn(&scope, nothing, NULL, .worker = WEIR_ON_WORKER(1)));
	is_blocked = false;
	return weir_scope_wait(&scope);
}

START_TEST(messages_are_taken_in_bounded_numbers)
{
	run_on(2, flood, NULL);
}
END_TEST

/* ---- A wake-up that never comes ------------------------------------------------------------- */

/* Takes the right to wake worker 1, as a sender would, and does not. */
static bool steal_wake(struct weir__worker *target)
{
	int parked = WEIR__PARKED;

	return atomic_compare_exchange_strong(&target->park_state, &parked, WEIR__AWAKE);
}

/* The worker may wake up by itself, for its heap: then once more. */
static int lose_wakes(void *arg)
{
	struct weir__worker *target = weir__worker_self()->runtime->workers[1];

	(void)arg;
	ck_assert_uint_eq(stats_of(WEIR_ALL_WORKERS).wakes_late, 0);
	for (int i = 0; i < 20 && stats_of(0).wakes_late == 0; i++) {
		TRY(weir_sleep(20 * WEIR_MS));
		while (!steal_wake(target))
			TRY(weir_sleep(WEIR_MS));
		TRY(weir_call_on(1, nothing, NULL));
	}
	ck_assert_uint_gt(stats_of(0).wakes_late, 0);
	return 0;
}

START_TEST(a_lost_wake_up_is_noticed_and_made_good)
{
	let_heaps_sleep();
	ck_assert_int_eq(setenv("WEIR_STALL_MS", "0", 1), 0); /* its signal ends the wait as well */
	run_on(2, lose_wakes, NULL);
}
END_TEST

static struct weir_notify again;

static int be_notified(void *arg)
{
	(void)arg;
	for (int i = 0; i < 5; i++)
		TRY(weir_notify_wait(&again));
	return 0;
}

/* The same message each time, and its sender sleeps before it is taken. */
static int notify_every_two_seconds(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_notify_init(&again);
	TRY(weir_spawn(&scope, be_notified, NULL, .worker = WEIR_ON_WORKER(1)));
	for (int i = 0; i < 5; i++) {
		TRY(weir_sleep(2 * WEIR_SEC));
		weir_notify_one(&again);
	}
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(stats_of(WEIR_ALL_WORKERS).wakes_late, 0);
	return 0;
}

/* In virtual time: on every driver. */
START_TEST(the_same_message_a_second_later_is_not_late)
{
	ck_assert_int_eq(weir_sim_run(1, notify_every_two_seconds, NULL, .runs = 20, .workers = 2),
			 0);
}
END_TEST

static struct weir__worker *lonely;
static uint64_t late_seen;
static struct weir_event has_tried;

static int read_late(void *arg)
{
	*(weir_runtime *)arg = weir_runtime_self();
	late_seen = stats_of(WEIR_ALL_WORKERS).wakes_late;
	return 0;
}

/* The watcher sleeps by then. What is submitted is answered when the wake-up was made good. */
static void *lose_wakes_outside(void *arg)
{
	weir_runtime *runtime = arg;

	for (int i = 0; i < 20 && late_seen == 0; i++) {
		(void)nanosleep(&(struct timespec){ .tv_nsec = 150000000 }, NULL);
		while (!steal_wake(lonely))
			(void)nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		expect(weir_submit(*runtime, read_late, runtime) == 0);
	}
	weir_event_set(&has_tried);
	return NULL;
}

static int be_lonely(void *arg)
{
	weir_runtime runtime = weir_runtime_self();
	pthread_t thread;

	(void)arg;
	lonely = weir__worker_self();
	weir_event_init(&has_tried);
	if (pthread_create(&thread, NULL, lose_wakes_outside, &runtime))
		return -EAGAIN;
	TRY(weir_event_wait(&has_tried));
	ck_assert_uint_gt(late_seen, 0);
	return pthread_join(thread, NULL);
}

START_TEST(a_lost_wake_up_from_outside_is_made_good_too)
{
	ck_assert_int_eq(unsetenv("WEIR_STALL_MS"), 0); /* it is the watcher that notices */
	let_heaps_sleep();
	run_on(1, be_lonely, NULL);
}
END_TEST

Suite *runtime_workers_suite(void)
{
	Suite *suite = suite_create("runtime_workers");
	TCase *any = tcase_create("any");
	TCase *messages = tcase_create("messages");
	TCase *foreign = tcase_create("foreign");

	tcase_set_timeout(any, 30);
	tcase_add_loop_test(any, tasks_of_a_busy_worker_start_elsewhere, 0, 3);
	tcase_add_test(any, an_idle_worker_takes_half_and_sixteen_at_most);
	tcase_add_test(any, a_parked_worker_is_woken_for_them);
	tcase_add_test(any, no_worker_parks_beside_one);
	tcase_add_test(any, a_tree_of_them_is_run_once_each);
	tcase_add_test(any, what_has_started_stays);
	tcase_add_test(any, they_run_beside_tasks_that_never_wait);
	tcase_add_test(any, who_is_woken_for_one_and_has_work_of_its_own_wakes_another);
	tcase_add_test(any, cancelling_finds_them_wherever_they_are);
	tcase_add_test(any, one_that_fails_cancels_the_others);
	tcase_add_test(any, any_worker_and_one_worker_contradict);
	suite_add_tcase(suite, any);

	tcase_set_timeout(messages, 30);
	tcase_add_test(messages, messages_are_taken_in_bounded_numbers);
	tcase_add_test(messages, a_lost_wake_up_is_noticed_and_made_good);
	tcase_add_test(messages, the_same_message_a_second_later_is_not_late);
	suite_add_tcase(suite, messages);
	tcase_set_tags(foreign, "real"); /* threads of the system's */
	tcase_set_timeout(foreign, 30);
	tcase_add_test(foreign, a_lost_wake_up_from_outside_is_made_good_too);
	suite_add_tcase(suite, foreign);
	return suite;
}
