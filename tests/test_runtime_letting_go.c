/* SPDX-License-Identifier: MIT */
/*
 * Between the one who lets go and those who are let go, and those who leave by themselves: whoever
 * goes on may end the object's life, and then nobody else is at it. What takes some instructions
 * elsewhere is held open here, by the queues and locks themselves.
 */
#include <string.h>

#include "runtime/wait.h"
#include "tests/runtime_test.h"

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* ---- Who finds it there -----------------------------------------------------------------------
 */

static union {
	struct weir_once once;
	struct weir_event event;
	struct weir_sem sem;
	struct weir_rwlock rwlock;
	struct weir_join join;
} one;
static struct weir_scope *scope_of_join;

static int find_once(void)
{
	return weir_once(&one.once, nothing, NULL);
}

static int set_event(void)
{
	weir_event_set(&one.event);
	return 0;
}

static int find_event(void)
{
	return weir_event_wait(&one.event);
}

static int post_unit(void)
{
	return weir_sem_post(&one.sem);
}

static int find_unit(void)
{
	return weir_sem_wait(&one.sem);
}

static int find_free(void)
{
	return weir_rwlock_write(&one.rwlock);
}

static int end_task(void)
{
	TRY(weir_spawn(scope_of_join, nothing, NULL, .join = &one.join));
	return weir_yield();
}

static int find_end(void)
{
	struct weir_case ended = weir_case_join(&one.join);

	return weir_select(&ended, 1);
}

/* What is found without the lock; where the lock lies. */
static const struct kind {
	const char *name;
	int (*make)(void);
	int (*find)(void);
	size_t lock_at;
} kinds[] = {
	{ "once", find_once, find_once, 1 },
	{ "event", set_event, find_event, 1 },
	{ "semaphore", post_unit, find_unit, sizeof(size_t) },
	{ "rwlock", NULL, find_free, sizeof(uint32_t) },
	{ "join", end_task, find_end, 1 },
};

static const struct kind *kind;
static _Atomic bool has_begun, is_through;

/* The other worker is at it, and has had time to come through if it can. */
static void give_time(void)
{
	while (!has_begun)
		spin();
	compute(2 * WEIR_MS);
}

static int come_late(void *arg)
{
	(void)arg;
	has_begun = true;
	TRY(kind->find());
	is_through = true;
	return 0;
}

/* We are who has made it so, and have not let go of the lock yet. */
static int hold_on(void *arg)
{
	struct weir__lock *lock = (void *)((char *)&one + kind->lock_at);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	scope_of_join = &scope;
	memset(&one, 0, sizeof one);
	if (kind->make)
		TRY(kind->make());
	weir__lock(lock);
	TRY(weir_spawn(&scope, come_late, NULL, .worker = WEIR_ON_WORKER(1)));
	give_time();
	ck_assert_msg(!is_through, "%s", kind->name);
	weir__unlock(lock);
	TRY(weir_scope_wait(&scope));
	ck_assert(is_through);
	return 0;
}

START_TEST(who_finds_it_there_waits_for_who_made_it_so)
{
	kind = &kinds[_i];
	run_on(2, hold_on, NULL);
}
END_TEST

/* ---- Who is leaving ---------------------------------------------------------------------------
 */

static struct weir__task *leaver;
static int leaver_result;

static int want_lock(void *arg)
{
	(void)arg;
	leaver = weir__worker_self()->current;
	leaver_result = weir_rwlock_write(&one.rwlock);
	return 0;
}

static int want_units(void *arg)
{
	(void)arg;
	leaver = weir__worker_self()->current;
	leaver_result = weir_sem_wait_for(&one.sem, 2);
	return 0;
}

static int give_back(bool is_lock)
{
	if (is_lock)
		weir_rwlock_unlock(&one.rwlock);
	else
		TRY(weir_sem_post_many(&one.sem, 2));
	return 0;
}

/* The end of what an interruption does, on the task's worker. */
static int leave(void *arg)
{
	struct weir__waiter *waiter = arg;
	struct weir__worker *self = weir__worker_self();
	struct weir__wakes wakes;

	weir__wakes_init(&wakes);
	weir__lock(waiter->lock);
	weir__link_del(&waiter->link);
	waiter->left(waiter, &wakes);
	weir__unlock(waiter->lock);
	weir__wakes_send(self, &wakes);
	weir__ready(self, waiter->task, -ECANCELED);
	return 0;
}

/* It stands at the head of the queue, and what is given back goes past it when it has left. */
static int give_to_leaver(void *arg)
{
	bool is_lock = arg != NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	memset(&one, 0, sizeof one);
	if (is_lock)
		TRY(weir_rwlock_write(&one.rwlock));
	TRY(weir_spawn(&scope, is_lock ? want_lock : want_units, NULL,
		       .worker = WEIR_ON_WORKER(1)));
	TRY(weir_call_on(1, nothing, NULL)); /* it is parked */
	struct weir__waiter *waiter = leaver->wait;
	atomic_store(&waiter->own_claim, WEIR__CLAIM_ENDED);
	atomic_store(&waiter->place, WEIR__PLACE_LEAVING);
	TRY(give_back(is_lock));
	if (is_lock)
		ck_assert_int_eq(weir_rwlock_try_read(&one.rwlock), -EBUSY);
	else
		ck_assert_int_eq(weir_sem_try_wait(&one.sem, 1), -EAGAIN);
	TRY(weir_call_on(1, leave, waiter));
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(leaver_result, -ECANCELED);
	if (is_lock)
		ck_assert_int_eq(weir_rwlock_try_write(&one.rwlock), 0);
	else
		ck_assert_int_eq(weir_sem_try_wait(&one.sem, 2), 0);
	return 0;
}

START_TEST(what_was_given_while_somebody_left_is_the_next_ones)
{
	run_on(2, give_to_leaver, _i ? &one : NULL);
}
END_TEST

/* ---- Many ------------------------------------------------------------------------------------
 */

enum { CROWD = 150 }; /* more than are let go under one lock */

static struct {
	struct weir__lock lock;
	struct weir__waitq queue;
} place;
static unsigned crowd_come, crowd_gone;

static int wait_in_place(void *arg)
{
	static const struct weir__about about = { "place", NULL };
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter waiter;

	(void)arg;
	weir__waiter_init(&waiter, self->current);
	weir__lock(&place.lock);
	weir__waitq_add(&place.lock, &place.queue, &waiter);
	weir__unlock(&place.lock);
	crowd_come++;
	TRY(weir__wait(self, &waiter, &about));
	crowd_gone++;
	return 0;
}

/* So many of this worker. */
static int gather_crowd(struct weir_scope *scope, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		TRY(weir_spawn(scope, wait_in_place, NULL));
	while (crowd_come < count)
		TRY(weir_yield());
	return 0;
}

static int end_place(void *arg)
{
	(void)arg;
	has_begun = true;
	weir__waitq_done(&place.lock, &place.queue);
	is_through = true;
	return 0;
}

/* Some have been woken, one of which may be the one that ends it; the others lie with us. */
static int let_go_slowly(void *arg)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__release release;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(gather_crowd(&scope, CROWD));
	weir__lock(&place.lock);
	weir__release_begin(self, &place.queue, 0, &release);
	weir__unlock(&place.lock);
	TRY(weir_spawn(&scope, end_place, NULL, .worker = WEIR_ON_WORKER(1)));
	give_time();
	ck_assert(!is_through);
	weir__release_end(self, &place.lock, &release);
	TRY(weir_scope_wait(&scope));
	ck_assert(is_through);
	ck_assert_uint_eq(crowd_gone, CROWD);
	return 0;
}

START_TEST(the_end_waits_for_who_lets_many_go)
{
	run_on(2, let_go_slowly, NULL);
}
END_TEST

/*
 * Nobody ends it: the last to return takes its memory away. One is leaving as the others are let
 * go, and needs the lock for that; the last of those has to be kept back until nobody does.
 */
static int release_all(void *arg)
{
	(void)arg;
	weir__release_all(weir__worker_self(), &place.lock, &place.queue, 0);
	return 0;
}

static int leave_among_many(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(gather_crowd(&scope, 65));
	struct weir__waiter *waiter = weir__waitq_head(&place.queue);
	atomic_store(&waiter->own_claim, WEIR__CLAIM_ENDED);
	atomic_store(&waiter->place, WEIR__PLACE_LEAVING);
	TRY(weir_spawn(&scope, release_all, NULL, .worker = WEIR_ON_WORKER(1)));
	while (crowd_gone < 63)
		TRY(weir_yield());
	TRY(weir_sleep(3 * WEIR_MS));
	ck_assert_uint_eq(crowd_gone, 63);
	weir__lock(&place.lock);
	weir__link_del(&waiter->link);
	weir__unlock(&place.lock);
	weir__ready(waiter->task->worker, waiter->task, -ECANCELED);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(crowd_gone, 64);
	return 0;
}

START_TEST(of_many_one_goes_on_when_all_is_over)
{
	run_on(2, leave_among_many, NULL);
}
END_TEST

/* 65 are more than are granted at once. What is begun here never ends: nobody is woken. */
START_TEST(the_end_waits_for_256_who_let_many_go_at_once)
{
	enum { LETTING_GO = 256, WAITERS = 65 };
	static struct weir__waiter waiters[LETTING_GO][WAITERS];
	static struct weir__release releases[LETTING_GO];
	struct weir__task nobody = { 0 };
	struct weir__lock lock = { 0 };
	struct weir__waitq queue = { 0 };

	for (int i = 0; i < LETTING_GO; i++) {
		for (int n = 0; n < WAITERS; n++) {
			weir__waiter_init(&waiters[i][n], &nobody);
			weir__waitq_add(&lock, &queue, &waiters[i][n]);
		}
		weir__release_begin(NULL, &queue, 0, &releases[i]);
		ck_assert_uint_ne(lock.releases, 0);
		ck_assert(weir__waitq_is_empty(&queue));
	}
}
END_TEST

START_TEST(a_grant_passes_over_who_has_another)
{
	struct weir__waiter first, second;
	struct weir__task nobody = { 0 };
	struct weir__lock lock = { 0 };
	struct weir__waitq queue = { 0 };
	_Atomic uint32_t claimed = WEIR__CLAIM_CASE;

	weir__waiter_init(&first, &nobody);
	weir__waiter_init(&second, &nobody);
	first.claim = &claimed;
	weir__waitq_add(&lock, &queue, &first);
	weir__waitq_add(&lock, &queue, &second);
	ck_assert_ptr_eq(weir__waitq_grant(NULL, &queue, 0), &second);
	ck_assert(weir__waitq_is_empty(&queue));
}
END_TEST

Suite *runtime_letting_go_suite(void)
{
	TCase *counts = tcase_create("counts");
	Suite *suite = suite_create("runtime_letting_go");
	TCase *threads = tcase_create("threads");

	tcase_set_tags(threads, "real"); /* two at once */
	tcase_set_timeout(threads, 10);
	tcase_add_loop_test(threads, who_finds_it_there_waits_for_who_made_it_so, 0,
			    sizeof kinds / sizeof *kinds);
	tcase_add_loop_test(threads, what_was_given_while_somebody_left_is_the_next_ones, 0, 2);
	tcase_add_test(threads, the_end_waits_for_who_lets_many_go);
	tcase_add_test(threads, of_many_one_goes_on_when_all_is_over);
	suite_add_tcase(suite, threads);
	tcase_set_tags(counts, "fast");
	tcase_add_test(counts, the_end_waits_for_256_who_let_many_go_at_once);
	tcase_add_test(counts, a_grant_passes_over_who_has_another);
	suite_add_tcase(suite, counts);
	return suite;
}
