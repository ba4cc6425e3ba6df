/* SPDX-License-Identifier: MIT */
/*
 * What single kinds of locks and channels promise beyond the rules of waiting: fairness, what is
 * kept, what is missed, and in which order.
 */
#include <string.h>

#include "runtime/wait.h"
#include "tests/runtime_test.h"

static struct {
	struct weir_barrier barrier;
	struct weir_group group;
	struct weir_notify notify;
	struct weir_once once;
	struct weir_oneshot oneshot;
	struct weir_rwlock rwlock;
	struct weir_sem sem;
} one;
enum { WAITERS = 5 };
static int results[WAITERS];

static unsigned got_units;

static int want_units(void *arg)
{
	size_t units = (size_t)(intptr_t)arg;

	TRY(weir_sem_wait_for(&one.sem, units));
	got_units = got_units * 10 + (unsigned)units;
	return 0;
}

static int save_up(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	WEIR_SCOPE(many, WEIR_FOREVER);

	(void)arg;
	weir_sem_init(&one.sem, 1);
	TRY(weir_spawn(&scope, want_units, (void *)3));
	TRY(weir_spawn(&scope, want_units, (void *)1));
	TRY(weir_yield());
	ck_assert_int_eq(weir_sem_try_wait(&one.sem, 1), -EAGAIN); /* that one is being saved */
	ck_assert_int_eq(weir_sem_post(&one.sem), 0);
	TRY(weir_yield());
	ck_assert_uint_eq(got_units, 0);
	ck_assert_int_eq(weir_sem_post_many(&one.sem, 2), 0);
	TRY(weir_sleep(WEIR_MS));
	ck_assert_uint_eq(got_units, 31);
	/* who gives up saving lets the others go on */
	TRY(weir_spawn(&many, want_units, (void *)5));
	TRY(weir_yield());
	TRY(weir_spawn(&scope, want_units, (void *)2));
	TRY(weir_yield());
	ck_assert_int_eq(weir_sem_post_many(&one.sem, 2), 0);
	TRY(weir_yield());
	ck_assert_uint_eq(got_units, 31);
	weir_scope_cancel(&many);
	weir_scope_close(&many);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(got_units, 312);
	ck_assert_uint_eq(weir_sem_units(&one.sem), 0);
	ck_assert_int_eq(weir_sem_post_many(&one.sem, SIZE_MAX), -EOVERFLOW);
	ck_assert_int_eq(weir_sem_post_many(&one.sem, SIZE_MAX / 4), 0);
	ck_assert_int_eq(weir_sem_post(&one.sem), -EOVERFLOW);
	TRY(weir_sem_wait(&one.sem));
	TRY(weir_spawn(&scope, want_units, (void *)(SIZE_MAX / 4))); /* also while somebody waits */
	TRY(weir_yield());
	ck_assert_int_eq(weir_sem_post_many(&one.sem, 2), -EOVERFLOW);
	ck_assert_uint_eq(weir_sem_units(&one.sem), SIZE_MAX / 4 - 1);
	ck_assert_int_eq(weir_sem_post(&one.sem), 0);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(weir_sem_units(&one.sem), 0);
	return 0;
}

START_TEST(who_wants_many_units_is_not_overtaken)
{
	run_on(1, save_up, NULL);
}
END_TEST

static char letters[16];

static int read_it(void *arg)
{
	TRY(weir_rwlock_read(&one.rwlock));
	strcat(letters, "r");
	int err = weir_yield();
	weir_rwlock_unlock(&one.rwlock);
	(void)arg;
	return err;
}

static int write_it(void *arg)
{
	TRY(weir_rwlock_write(&one.rwlock));
	strcat(letters, "W");
	int err = weir_yield();
	weir_rwlock_unlock(&one.rwlock);
	(void)arg;
	return err;
}

static int read_and_write(void *arg)
{
	static const weir_fn fns[] = { read_it, read_it, write_it, read_it, read_it, write_it };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_rwlock_init(&one.rwlock);
	TRY(weir_rwlock_read(&one.rwlock));
	for (unsigned i = 0; i < 6; i++)
		TRY(weir_spawn(&scope, fns[i], NULL));
	for (unsigned i = 0; i < 4; i++)
		TRY(weir_yield());
	ck_assert_str_eq(letters, "rr"); /* later readers do not pass the writer */
	ck_assert_int_eq(weir_rwlock_try_read(&one.rwlock), -EBUSY);
	weir_rwlock_unlock(&one.rwlock);
	TRY(weir_scope_wait(&scope));
	ck_assert_str_eq(letters, "rrWrrW");
	TRY(weir_rwlock_try_read(&one.rwlock));
	TRY(weir_rwlock_try_read(&one.rwlock));
	ck_assert_int_eq(weir_rwlock_try_write(&one.rwlock), -EBUSY);
	weir_rwlock_unlock(&one.rwlock);
	weir_rwlock_unlock(&one.rwlock);
	TRY(weir_rwlock_try_write(&one.rwlock));
	ck_assert_int_eq(weir_rwlock_try_read(&one.rwlock), -EBUSY);
	weir_rwlock_unlock(&one.rwlock);
	return 0;
}

START_TEST(neither_readers_nor_writers_starve)
{
	run_on(1, read_and_write, NULL);
}
END_TEST

static int keep_one(void *arg)
{
	void *value = NULL;

	(void)arg;
	weir_notify_init(&one.notify);
	weir_notify_one(&one.notify);
	weir_notify_one(&one.notify);
	TRY(weir_notify_wait(&one.notify)); /* one is kept, not two */
	{
		WEIR_SCOPE(scope, WEIR_MS);
		ck_assert_int_eq(weir_notify_wait(&one.notify), -ETIME);
	}
	weir_notify_all(&one.notify); /* nobody there, nothing kept */
	WEIR_SCOPE(scope, WEIR_MS);
	ck_assert_int_eq(weir_notify_wait(&one.notify), -ETIME);
	weir_scope_close(&scope);

	weir_oneshot_init(&one.oneshot);
	ck_assert_int_eq(weir_oneshot_try_recv(&one.oneshot, &value), -EAGAIN);
	TRY(weir_oneshot_send(&one.oneshot, &value));
	ck_assert_int_eq(weir_oneshot_send(&one.oneshot, &value), -EALREADY);
	weir_oneshot_close(&one.oneshot);
	TRY(weir_oneshot_recv(&one.oneshot, &value));
	ck_assert_ptr_eq(value, &value);
	ck_assert_int_eq(weir_oneshot_recv(&one.oneshot, &value), -EPIPE);
	ck_assert_int_eq(weir_oneshot_send(&one.oneshot, &value), -EPIPE);
	return 0;
}

static int received[2];

static int receive_one(void *arg)
{
	void *value;

	received[(intptr_t)arg] = weir_oneshot_recv(&one.oneshot, &value);
	return 0;
}

static int send_to_two(void *arg)
{
	WEIR_SCOPE(scope, WEIR_SEC);

	weir_oneshot_init(&one.oneshot);
	TRY(weir_spawn(&scope, receive_one, (void *)0));
	TRY(weir_spawn(&scope, receive_one, (void *)1));
	TRY(weir_yield());
	TRY(weir_oneshot_send(&one.oneshot, arg));
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(received[0], 0);
	ck_assert_int_eq(received[1], -EPIPE);
	return 0;
}

START_TEST(one_notification_is_kept_and_one_value_received_once)
{
	run_on(1, keep_one, NULL);
	run_on(1, send_to_two, NULL);
}
END_TEST

static int once_runs, once_result;

static int run_once(void *arg)
{
	(void)arg;
	once_runs++;
	int result = once_result;
	TRY(weir_sleep(WEIR_MS));
	return result;
}

static int call_once(void *arg)
{
	results[(intptr_t)arg] = weir_once(&one.once, run_once, NULL);
	return 0;
}

static int fail_then_do(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	WEIR_SCOPE(first, WEIR_FOREVER);

	(void)arg;
	once_result = -EIO;
	TRY(weir_spawn(&first, call_once, (void *)0));
	for (intptr_t i = 1; i < WAITERS; i++)
		TRY(weir_spawn(&scope, call_once, (void *)i));
	TRY(weir_yield());
	once_result = 3;
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(once_runs, 2); /* the failure, and one more */
	ck_assert_int_eq(results[0], -EIO);
	for (int i = 1; i < WAITERS; i++)
		ck_assert_int_eq(results[i], 0);
	TRY(weir_once(&one.once, run_once, NULL));
	ck_assert_int_eq(once_runs, 2);
	return 0;
}

START_TEST(once_is_once_and_a_failure_is_tried_again)
{
	run_on(1, fail_then_do, NULL);
}
END_TEST

static int leaders;

static int meet(void *arg)
{
	int err = weir_barrier_wait(&one.barrier);

	leaders += err == 1;
	results[(intptr_t)arg] = err;
	return 0;
}

static int meet_thrice(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	WEIR_SCOPE(victim, WEIR_FOREVER);

	(void)arg;
	weir_barrier_init(&one.barrier, 3);
	for (int round = 1; round <= 3; round++) {
		TRY(weir_spawn(&victim, meet, (void *)4));
		TRY(weir_yield());
		if (round == 1) { /* has not come */
			weir_scope_cancel(&victim);
			weir_scope_close(&victim);
			ck_assert_int_eq(results[4], -ECANCELED);
			weir_scope_open(&victim, WEIR_FOREVER);
			TRY(weir_spawn(&victim, meet, (void *)4));
		}
		TRY(weir_spawn(&scope, meet, (void *)0));
		TRY(weir_yield());
		ck_assert_int_eq(leaders, round - 1);
		ck_assert_int_eq(weir_barrier_wait(&one.barrier), 1);
		leaders++;
		TRY(weir_scope_wait(&scope));
		TRY(weir_scope_wait(&victim));
		ck_assert_int_eq(results[0] | results[4], 0);
	}
	return 0;
}

START_TEST(a_barrier_opens_when_all_have_come)
{
	run_on(1, meet_thrice, NULL);
}
END_TEST

static struct weir__task *leaver;

static int meet_and_leave(void *arg)
{
	leaver = weir__worker_self()->current;
	results[0] = weir_barrier_wait(arg);
	return results[0];
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int meet_soon(struct weir_barrier *barrier)
{
	WEIR_SHIELD(soon, 20 * WEIR_MS);

	return weir_barrier_wait(barrier);
}

/*
 * A task of worker 1 has been cancelled and wants the lock to leave; we have it, give it back and
 * come to the barrier. Returns 1 when we were first: then the round is over before it has left.
 */
static int overtake_leaver(struct weir_barrier *barrier)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, meet_and_leave, barrier, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_call_on(1, nothing, NULL)); /* it is parked */
	struct weir__waiter *waiter = leaver->wait;
	weir__lock(waiter->lock);
	weir_scope_cancel(&scope);
	while (atomic_load(&waiter->place) != WEIR__PLACE_LEAVING)
		spin();
	weir__unlock(waiter->lock);
	int err = meet_soon(barrier);
	weir_scope_close(&scope);
	/* with it the round was full: it has come, or the barrier would have opened for one too few
	 */
	ck_assert_int_eq(results[0], err == 1 ? 0 : -ECANCELED);
	return err;
}

/* Who was one too few would count as one too many in the next round. */
static int leave_after_the_round(void *arg)
{
	struct weir_barrier barrier;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err;

	(void)arg;
	weir_barrier_init(&barrier, 2);
	do
		err = overtake_leaver(&barrier);
	while (err == -ETIME);
	ck_assert_int_eq(err, 1);
	ck_assert_int_eq(meet_soon(&barrier), -ETIME); /* the first of two */
	TRY(weir_spawn(&scope, meet_and_leave, &barrier, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_call_on(1, nothing, NULL));
	ck_assert_int_eq(meet_soon(&barrier), 1);
	TRY(weir_scope_wait(&scope));
	weir_barrier_done(&barrier);
	return 0;
}

START_TEST(who_leaves_a_barrier_late_is_not_taken_off_the_next_round)
{
	run_on(2, leave_after_the_round, NULL);
}
END_TEST

static int finish_abort(void *arg)
{
	struct weir__waiter *waiter = arg;
	struct weir__task *task = waiter->task;

	weir__waiter_leave(task->worker, waiter);
	weir__ready(task->worker, task, -ECANCELED);
	return 0;
}

/* The same when its cancellation has got no further than to the claim: we take it out ourselves. */
static int take_out_leaver(void *arg)
{
	struct weir_barrier barrier;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_barrier_init(&barrier, 2);
	TRY(weir_spawn(&scope, meet_and_leave, &barrier, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_call_on(1, nothing, NULL)); /* it is parked */
	struct weir__waiter *waiter = leaver->wait;
	atomic_store(&waiter->own_claim, WEIR__CLAIM_ENDED);
	ck_assert_int_eq(meet_soon(&barrier), 1);
	TRY(weir_call_on(1, finish_abort, waiter));
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(results[0], 0);
	weir_barrier_done(&barrier);
	return 0;
}

START_TEST(who_was_counted_in_at_a_barrier_has_come)
{
	run_on(2, take_out_leaver, NULL);
}
END_TEST

static int lag_behind(void *arg)
{
	weir_auto_broadcast own = weir_broadcast_new(sizeof(int), 4);
	struct weir_reader reader;
	int item = 99;

	(void)arg;
	TRY(weir_broadcast_send(own, &item)); /* before there is a reader */
	weir_reader_init(&reader, own);
	ck_assert_int_eq(weir_reader_try_recv(&reader, &item), -EAGAIN);
	for (int i = 0; i < 10; i++)
		TRY(weir_broadcast_send(own, &i));
	ck_assert_int_eq(weir_reader_recv(&reader, &item), -EOVERFLOW);
	ck_assert_int_eq(item, 99);
	ck_assert_uint_eq(weir_reader_missed(&reader), 6);
	for (int i = 6; i < 10; i++) {
		TRY(weir_reader_recv(&reader, &item));
		ck_assert_int_eq(item, i);
	}
	ck_assert_int_eq(weir_reader_try_recv(&reader, &item), -EAGAIN);
	TRY(weir_broadcast_send(own, &item));
	weir_broadcast_close(own);
	ck_assert_int_eq(weir_broadcast_send(own, &item), -EPIPE);
	TRY(weir_reader_recv(&reader, &item)); /* what was sent can be read */
	ck_assert_int_eq(weir_reader_recv(&reader, &item), -EPIPE);
	ck_assert_ptr_null(weir_broadcast_new(SIZE_MAX, 2));
	return 0;
}

START_TEST(a_slow_reader_is_told_what_it_missed)
{
	run_on(1, lag_behind, NULL);
}
END_TEST

static int follow_value(void *arg)
{
	int item = 1, got = 0;
	uint64_t version = 0;
	weir_auto_watch own = weir_watch_new(sizeof item, &item);

	(void)arg;
	TRY(weir_watch_wait(own, &version, &got)); /* any version */
	ck_assert_int_eq(got, 1);
	for (item = 2; item < 9; item++)
		weir_watch_set(own, &item);
	TRY(weir_watch_wait(own, &version, &got)); /* the latest, not every one */
	ck_assert_int_eq(got, 8);
	ck_assert_uint_eq(weir_watch_get(own, &got), version);
	version = UINT64_MAX; /* no version of its: another, too */
	got = 0;
	TRY(weir_watch_wait(own, &version, &got));
	ck_assert_int_eq(got, 8);
	ck_assert_uint_eq(weir_watch_get(own, &got), version);
	weir_watch_close(own);
	ck_assert_int_eq(weir_watch_wait(own, &version, &got), -EPIPE);
	return 0;
}

START_TEST(a_watch_shows_the_latest_value)
{
	run_on(1, follow_value, NULL);
}
END_TEST

static int count_members(void *arg)
{
	(void)arg;
	weir_group_init(&one.group);
	TRY(weir_group_wait(&one.group));
	TRY(weir_group_add(&one.group, 1));
	ck_assert_int_eq(weir_group_add(&one.group, SIZE_MAX), -EOVERFLOW);
	weir_group_close(&one.group);
	ck_assert_int_eq(weir_group_add(&one.group, 1), -EPIPE);
	weir_group_finish(&one.group);
	return weir_group_wait(&one.group);
}

START_TEST(a_closed_group_takes_no_more)
{
	run_on(1, count_members, NULL);
}
END_TEST

/* What one worker sends another reads in order, with gaps that are told. */
static unsigned numbers_sent;

static int read_numbers(void *arg)
{
	struct weir_reader reader = *(struct weir_reader *)arg;
	uint64_t got = 0;
	unsigned last = 0, item;
	int err;

	while ((err = weir_reader_recv(&reader, &item)) != -EPIPE) {
		expect(err == 0 || err == -EOVERFLOW);
		if (err < 0)
			continue;
		expect(item > last);
		last = item;
		got++;
	}
	expect(got + weir_reader_missed(&reader) == last);
	expect(last == numbers_sent);
	return 0;
}

static int send_numbers(void *arg)
{
	weir_auto_broadcast own = weir_broadcast_new(sizeof(unsigned), 8);
	struct weir_reader reader;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_reader_init(&reader, own);
	for (unsigned i = 0; i < 4; i++)
		TRY(weir_spawn(&scope, read_numbers, &reader, .worker = WEIR_ON_WORKER(i % 2)));
	while (is_stressed(numbers_sent, 20000)) {
		numbers_sent++;
		TRY(weir_broadcast_send(own, &numbers_sent));
		if (numbers_sent % 5 == 0)
			TRY(weir_yield());
	}
	weir_broadcast_close(own);
	return weir_scope_wait(&scope);
}

START_TEST(readers_of_two_workers_read_in_order)
{
	run_on(2, send_numbers, NULL);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *runtime_sync_suite(void)
{
	Suite *suite = suite_create("runtime_sync");
	TCase *kinds = tcase_create("kinds");
	TCase *threads = tcase_create("threads");

	tcase_set_tags(kinds, "fast");
	tcase_set_timeout(kinds, 10);
	tcase_add_test(kinds, who_wants_many_units_is_not_overtaken);
	tcase_add_test(kinds, neither_readers_nor_writers_starve);
	tcase_add_test(kinds, one_notification_is_kept_and_one_value_received_once);
	tcase_add_test(kinds, once_is_once_and_a_failure_is_tried_again);
	tcase_add_test(kinds, a_barrier_opens_when_all_have_come);
	tcase_add_test(kinds, a_slow_reader_is_told_what_it_missed);
	tcase_add_test(kinds, a_watch_shows_the_latest_value);
	tcase_add_test(kinds, a_closed_group_takes_no_more);
	tcase_add_test(kinds, readers_of_two_workers_read_in_order);
	suite_add_tcase(suite, kinds);

	tcase_set_tags(threads, "real"); /* two at once */
	tcase_set_timeout(threads, 10);
	tcase_add_test(threads, who_leaves_a_barrier_late_is_not_taken_off_the_next_round);
	tcase_add_test(threads, who_was_counted_in_at_a_barrier_has_come);
	suite_add_tcase(suite, threads);
	return suite;
}
