/* SPDX-License-Identifier: MIT */
/*
 * What every call that waits for another task keeps, asked of each of them in turn: first come,
 * first served; a wait that is cancelled or out of time has taken nothing; one that was served
 * counts even when it is cancelled before it runs; the end of the object ends the wait.
 */
#include <stdatomic.h>
#include <string.h>

#include "tests/parties.h"

static union {
	struct weir_mutex mutex;
	struct weir_rwlock rwlock;
	struct weir_sem sem;
	struct weir_event event;
	struct weir_notify notify;
	struct weir_oneshot oneshot;
	struct weir_group group;
} one;
static struct weir_mutex cond_mutex;
static struct weir_cond cond;

/* ---- The calls ------------------------------------------------------------------------------ */

static int start_mutex(void)
{
	weir_mutex_init(&one.mutex);
	return weir_mutex_lock(&one.mutex);
}

static int wait_mutex(void)
{
	return weir_mutex_lock(&one.mutex);
}

static void give_mutex(void)
{
	weir_mutex_unlock(&one.mutex);
}

static void done_mutex(void)
{
	weir_mutex_done(&one.mutex);
}

static int start_write(void)
{
	weir_rwlock_init(&one.rwlock);
	return weir_rwlock_write(&one.rwlock);
}

static int start_read(void)
{
	weir_rwlock_init(&one.rwlock);
	return weir_rwlock_read(&one.rwlock);
}

static int wait_write(void)
{
	return weir_rwlock_write(&one.rwlock);
}

static int wait_read(void)
{
	return weir_rwlock_read(&one.rwlock);
}

static void give_rwlock(void)
{
	weir_rwlock_unlock(&one.rwlock);
}

static void done_rwlock(void)
{
	weir_rwlock_done(&one.rwlock);
}

static int start_sem(void)
{
	weir_sem_init(&one.sem, 0);
	return 0;
}

static int wait_sem(void)
{
	return weir_sem_wait(&one.sem);
}

static void give_sem(void)
{
	ck_assert_int_eq(weir_sem_post(&one.sem), 0);
}

static void done_sem(void)
{
	weir_sem_done(&one.sem);
}

static int start_event(void)
{
	weir_event_init(&one.event);
	return 0;
}

static int wait_event(void)
{
	return weir_event_wait(&one.event);
}

static void give_event(void)
{
	weir_event_set(&one.event);
}

static void done_event(void)
{
	weir_event_done(&one.event);
}

static int start_notify(void)
{
	weir_notify_init(&one.notify);
	return 0;
}

static int wait_notify(void)
{
	return weir_notify_wait(&one.notify);
}

static void give_notify(void)
{
	weir_notify_one(&one.notify);
}

static void done_notify(void)
{
	weir_notify_done(&one.notify);
}

static int start_cond(void)
{
	weir_cond_init(&cond);
	weir_mutex_init(&cond_mutex);
	return 0;
}

/* Holds the mutex afterwards, whatever has happened. */
static int wait_cond(void)
{
	TRY(weir_mutex_lock(&cond_mutex));
	int err = weir_cond_wait(&cond, &cond_mutex);
	if (err != -EINVAL)
		expect(weir_mutex_try_lock(&cond_mutex) == -EBUSY);
	weir_mutex_unlock(&cond_mutex);
	return err;
}

static void give_cond(void)
{
	weir_cond_signal(&cond);
}

static void done_cond(void)
{
	weir_cond_done(&cond);
}

static int start_oneshot(void)
{
	weir_oneshot_init(&one.oneshot);
	return 0;
}

static int wait_oneshot(void)
{
	void *value = NULL;

	TRY(weir_oneshot_recv(&one.oneshot, &value));
	expect(value == &one);
	return 0;
}

static void give_oneshot(void)
{
	ck_assert_int_eq(weir_oneshot_send(&one.oneshot, &one), 0);
}

static void done_oneshot(void)
{
	weir_oneshot_done(&one.oneshot);
}

static weir_chan *chan;

static int start_recv(void)
{
	chan = weir_chan_new(sizeof(int), 2);
	return chan ? 0 : -ENOMEM;
}

static int start_send(void)
{
	int item = 1;

	TRY(start_recv());
	TRY(weir_chan_try_send(chan, &item));
	return weir_chan_try_send(chan, &item);
}

static int wait_recv(void)
{
	int item = 0;

	TRY(weir_chan_recv(chan, &item));
	expect(item == 7);
	return 0;
}

static int wait_send(void)
{
	int item = 1;

	return weir_chan_send(chan, &item);
}

static void give_item(void)
{
	int item = 7;

	ck_assert_int_eq(weir_chan_try_send(chan, &item), 0);
}

static void give_room(void)
{
	int item = 0;

	ck_assert_int_eq(weir_chan_try_recv(chan, &item), 0);
	ck_assert_int_eq(item, 1);
}

static void done_chan(void)
{
	weir_chan_free(chan);
}

static int start_group(void)
{
	weir_group_init(&one.group);
	return weir_group_add(&one.group, 2);
}

static int wait_group(void)
{
	return weir_group_wait(&one.group);
}

static void give_group(void)
{
	weir_group_finish(&one.group);
	weir_group_finish(&one.group);
}

static void done_group(void)
{
	weir_group_done(&one.group);
}

static weir_broadcast *broadcast;

static int start_broadcast(void)
{
	broadcast = weir_broadcast_new(sizeof(int), 2);
	return broadcast ? 0 : -ENOMEM;
}

static int wait_broadcast(void)
{
	struct weir_reader reader;
	int item = 0;

	weir_reader_init(&reader, broadcast);
	TRY(weir_reader_recv(&reader, &item));
	expect(item == 7);
	return 0;
}

static void give_broadcast(void)
{
	int item = 7;

	ck_assert_int_eq(weir_broadcast_send(broadcast, &item), 0);
}

static void done_broadcast(void)
{
	weir_broadcast_free(broadcast);
}

static weir_watch *watch;

static int start_watch(void)
{
	int item = 1;

	watch = weir_watch_new(sizeof item, &item);
	return watch ? 0 : -ENOMEM;
}

static int wait_watch(void)
{
	uint64_t version = 1;
	int item = 0;

	TRY(weir_watch_wait(watch, &version, &item));
	expect(item == 7 && version == 2);
	return 0;
}

static void give_watch(void)
{
	int item = 7;

	weir_watch_set(watch, &item);
}

static void done_watch(void)
{
	weir_watch_free(watch);
}

/* Two cases that never come about it, one that comes late, and the one that is meant. */
static int select_one(struct weir_case wanted)
{
	weir_auto_chan never = weir_chan_new(1, 1);
	struct weir_event later = { 0 };
	char byte;
	struct weir_case cases[] = { { 0 },
				     weir_case_recv(never, &byte),
				     wanted,
				     weir_case_event(&later),
				     weir_case_timer(WEIR_SEC) };
	int which = weir_select(cases, 5);

	if (which < 0)
		return which;
	expect(which == 2);
	return cases[2].result;
}

static int select_sem(void)
{
	return select_one(weir_case_sem(&one.sem, 1));
}

static int select_event(void)
{
	return select_one(weir_case_event(&one.event));
}

static int select_notify(void)
{
	return select_one(weir_case_notify(&one.notify));
}

static int select_oneshot(void)
{
	void *value = NULL;

	TRY(select_one(weir_case_oneshot(&one.oneshot, &value)));
	expect(value == &one);
	return 0;
}

static int select_group(void)
{
	return select_one(weir_case_group(&one.group));
}

static int select_broadcast(void)
{
	struct weir_reader reader;
	int item = 0;

	weir_reader_init(&reader, broadcast);
	TRY(select_one(weir_case_reader(&reader, &item)));
	expect(item == 7);
	return 0;
}

static int select_watch(void)
{
	uint64_t version = 1;
	int item = 0;

	TRY(select_one(weir_case_watch(watch, &version, &item)));
	expect(item == 7 && version == 2);
	return 0;
}

static int select_recv(void)
{
	int item = 0;

	TRY(select_one(weir_case_recv(chan, &item)));
	expect(item == 7);
	return 0;
}

static int select_send(void)
{
	int item = 1;

	return select_one(weir_case_send(chan, &item));
}

/*
 * Each kind has a wait that parks after start(), and a give() that ends it: that of one waiter
 * (ONE), that of one and then the next's when the first gives in turn (CHAIN), or of all.
 */
enum serves { SERVES_ONE, SERVES_CHAIN, SERVES_ALL, SERVES_ONCE };

static const struct kind {
	const char *name;
	int (*start)(void);
	int (*wait)(void);
	void (*give)(void);
	void (*done)(void);
	enum serves serves;
} kinds[] = {
	{ "mutex", start_mutex, wait_mutex, give_mutex, done_mutex, SERVES_CHAIN },
	{ "write", start_write, wait_write, give_rwlock, done_rwlock, SERVES_CHAIN },
	{ "write after read", start_read, wait_write, give_rwlock, done_rwlock, SERVES_CHAIN },
	{ "read", start_write, wait_read, give_rwlock, done_rwlock, SERVES_ALL },
	{ "semaphore", start_sem, wait_sem, give_sem, done_sem, SERVES_ONE },
	{ "event", start_event, wait_event, give_event, done_event, SERVES_ALL },
	{ "notify", start_notify, wait_notify, give_notify, done_notify, SERVES_ONE },
	{ "condition", start_cond, wait_cond, give_cond, done_cond, SERVES_ONE },
	{ "oneshot", start_oneshot, wait_oneshot, give_oneshot, done_oneshot, SERVES_ONCE },
	{ "receive", start_recv, wait_recv, give_item, done_chan, SERVES_ONE },
	{ "send", start_send, wait_send, give_room, done_chan, SERVES_ONE },
	{ "select semaphore", start_sem, select_sem, give_sem, done_sem, SERVES_ONE },
	{ "select event", start_event, select_event, give_event, done_event, SERVES_ALL },
	{ "select notify", start_notify, select_notify, give_notify, done_notify, SERVES_ONE },
	{ "select oneshot", start_oneshot, select_oneshot, give_oneshot, done_oneshot,
	  SERVES_ONCE },
	{ "group", start_group, wait_group, give_group, done_group, SERVES_ALL },
	{ "broadcast", start_broadcast, wait_broadcast, give_broadcast, done_broadcast,
	  SERVES_ALL },
	{ "watch", start_watch, wait_watch, give_watch, done_watch, SERVES_ALL },
	{ "select group", start_group, select_group, give_group, done_group, SERVES_ALL },
	{ "select broadcast", start_broadcast, select_broadcast, give_broadcast, done_broadcast,
	  SERVES_ALL },
	{ "select watch", start_watch, select_watch, give_watch, done_watch, SERVES_ALL },
	{ "select receive", start_recv, select_recv, give_item, done_chan, SERVES_ONE },
	{ "select send", start_send, select_send, give_room, done_chan, SERVES_ONE },
};
enum { KINDS = sizeof kinds / sizeof *kinds, WAITERS = 5 };

static const struct kind *kind;
static int results[WAITERS], order[WAITERS];
static _Atomic unsigned begun, ended;

static int wait_for_it(void *arg)
{
	int number = (int)(intptr_t)arg;

	begun++;
	int err = kind->wait();
	if (err == 0 && kind->serves == SERVES_CHAIN)
		kind->give();
	results[number] = err;
	order[ended++] = number;
	return 0;
}

static int spawn_waiter(struct weir_scope *scope, int number, unsigned worker)
{
	results[number] = 1;
	return weir_spawn(scope, wait_for_it, (void *)(intptr_t)number,
			  .worker = WEIR_ON_WORKER(worker));
}

static void give_to(int count)
{
	int times = kind->serves == SERVES_ONE ? count : 1;

	for (int i = 0; i < times; i++)
		kind->give();
}

static int start(int which)
{
	kind = &kinds[which];
	chan = NULL;
	begun = 0;
	ended = 0;
	return kind->start();
}

/* ---- Rules ---------------------------------------------------------------------------------- */

/* Asks the rule of all kinds in turn: a runtime for each would take longer than all they do. */
static int each_kind(void *arg)
{
	int (*rule)(int which) = arg;

	for (int which = 0; which < KINDS; which++)
		TRY(rule(which));
	return 0;
}

static int serve_in_turn(int which)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(start(which));
	int count = kind->serves == SERVES_ONCE ? 1 : WAITERS;
	for (int i = 0; i < count; i++)
		TRY(spawn_waiter(&scope, i, 0));
	TRY(weir_yield());
	give_to(count);
	TRY(weir_scope_wait(&scope));
	for (int i = 0; i < count; i++) {
		ck_assert_msg(results[i] == 0, "%s: %d", kind->name, results[i]);
		ck_assert_msg(order[i] == i, "%s: %d as number %d", kind->name, order[i], i);
	}
	kind->done();
	return 0;
}

START_TEST(who_waits_longest_is_served_first)
{
	run_on(1, each_kind, serve_in_turn);
}
END_TEST

/* The first of two waiters is interrupted; what comes then is the other's. */
static int pass_by(int which, bool by_deadline)
{
	WEIR_SCOPE(others, WEIR_FOREVER);
	WEIR_SCOPE(victim, by_deadline ? 2 * WEIR_MS : WEIR_FOREVER);

	TRY(start(which));
	TRY(spawn_waiter(&victim, 0, 0));
	TRY(spawn_waiter(&others, 1, 0));
	(void)weir_yield();
	if (!by_deadline)
		weir_scope_cancel(&victim);
	while (results[0] == 1)
		(void)weir_yield();
	ck_assert_msg(results[0] == (by_deadline ? -ETIME : -ECANCELED), "%s: %d", kind->name,
		      results[0]);
	ck_assert_int_eq(results[1], 1);
	weir_scope_close(&victim);
	give_to(1);
	TRY(weir_scope_wait(&others));
	ck_assert_msg(results[1] == 0, "%s: %d", kind->name, results[1]);
	kind->done();
	return 0;
}

static int cancel_first(int which)
{
	return pass_by(which, false);
}

static int time_first_out(int which)
{
	return pass_by(which, true);
}

START_TEST(an_interrupted_wait_takes_nothing)
{
	run_on(1, each_kind, cancel_first);
	run_on(1, each_kind, time_first_out);
}
END_TEST

/* Served, then cancelled before it has run: it was served. */
static int serve_then_cancel(int which)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(start(which));
	TRY(spawn_waiter(&scope, 0, 0));
	TRY(weir_yield());
	give_to(1);
	weir_scope_cancel(&scope);
	weir_scope_close(&scope);
	ck_assert_msg(results[0] == 0, "%s: %d", kind->name, results[0]);
	kind->done();
	return 0;
}

START_TEST(what_was_served_counts_although_cancelled)
{
	run_on(1, each_kind, serve_then_cancel);
}
END_TEST

/* A task that is cancelled already does not even begin to wait. */
static int come_cancelled(int which)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(start(which));
	TRY(spawn_waiter(&scope, 0, 0));
	weir_scope_cancel(&scope);
	weir_scope_close(&scope);
	ck_assert_msg(results[0] == -ECANCELED, "%s: %d", kind->name, results[0]);
	kind->done();
	return 0;
}

START_TEST(a_cancelled_task_does_not_wait)
{
	run_on(1, each_kind, come_cancelled);
}
END_TEST

/* Waiters of two workers; the memory is used for something else at once. */
static int done_with_waiters(int which)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(start(which));
	for (int i = 0; i < WAITERS; i++)
		TRY(spawn_waiter(&scope, i, (unsigned)i % 2));
	while (begun < WAITERS)
		TRY(weir_sleep(WEIR_MS));
	TRY(weir_sleep(is_simulated() ? 300 * WEIR_MS : 2 * WEIR_MS)); /* its workers stall, too */
	kind->done();
	memset(&one, 0xa5, sizeof one);
	TRY(weir_scope_wait(&scope));
	for (int i = 0; i < WAITERS; i++)
		ck_assert_msg(results[i] == -EPIPE, "%s: %d", kind->name, results[i]);
	return 0;
}

START_TEST(the_end_of_the_object_ends_the_waits)
{
	run_on(2, each_kind, done_with_waiters);
}
END_TEST

START_TEST(outside_tasks_there_is_no_waiting)
{
	for (int which = 0; which < KINDS; which++) {
		ck_assert_int_eq(start(which), 0);
		ck_assert_msg(kind->wait() == -EINVAL, "%s", kind->name);
		kind->done();
	}
}
END_TEST

Suite *runtime_wait_suite(void)
{
	Suite *suite = suite_create("runtime_wait");
	TCase *rules = tcase_create("rules");
	TCase *refused = tcase_create("refused");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 10);
	tcase_add_test(rules, who_waits_longest_is_served_first);
	tcase_add_test(rules, an_interrupted_wait_takes_nothing);
	tcase_add_test(rules, what_was_served_counts_although_cancelled);
	tcase_add_test(rules, the_end_of_the_object_ends_the_waits);
	suite_add_tcase(suite, rules);

	/* nobody gets into a queue: not for memcheck */
	tcase_add_test(refused, a_cancelled_task_does_not_wait);
	tcase_add_test(refused, outside_tasks_there_is_no_waiting);
	suite_add_tcase(suite, refused);
	return suite;
}
