/* SPDX-License-Identifier: MIT */
/*
 * Parking: no wake-up is lost however the two sides interleave, and a runtime with nothing to do
 * does nothing. tests/model/park.pml proves the first for all interleavings; here it runs.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "tests/runtime_test.h"

/* ---- Lost wake-ups -------------------------------------------------------------------------- */

static weir_chan *there, *back;

enum { TRIPS = 100000 };

static int answer(void *arg)
{
	unsigned item;

	(void)arg;
	while (weir_chan_recv(there, &item) == 0)
		TRY(weir_chan_send(back, &item));
	return 0;
}

static int ask(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;

	for (unsigned i = 0; is_stressed(i, TRIPS); i++) {
		unsigned item = i, got = i + 1;
		TRY(weir_chan_send(there, &item));
		if (random_next(&seed) % 8 == 0)
			compute((int64_t)(random_next(&seed) % 3000));
		TRY(weir_chan_recv(back, &got));
		expect(got == i);
	}
	weir_chan_close(there);
	return 0;
}

/* One item at a time, between this worker and another. */
static int ping_pong(weir_fn asker, void *seed)
{
	weir_auto_chan own_there = weir_chan_new(sizeof(unsigned), 1);
	weir_auto_chan own_back = weir_chan_new(sizeof(unsigned), 1);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	there = own_there;
	back = own_back;
	TRY(weir_spawn(&scope, answer, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_spawn(&scope, asker, seed));
	return weir_scope_wait(&scope);
}

/* Each end parks, or is about to, when the other's message comes. */
static int ping_parking(void *seed)
{
	return ping_pong(ask, seed);
}

START_TEST(ping_pong_between_workers_never_stalls)
{
	uint64_t seed = test_seed();

	run_on(2, ping_parking, &seed);
}
END_TEST

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int storm_side(void *arg)
{
	uintptr_t index = (uintptr_t)arg;

	for (unsigned i = 0; is_stressed(i, 20000); i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (int k = 0; k < 20; k++)
			TRY(weir_spawn(&scope, nothing, NULL, .worker = WEIR_ON_WORKER(1 - index)));
		TRY(weir_scope_wait(&scope));
	}
	return 0;
}

/* Both workers spawn on each other: START messages one way, ends the other, in both directions. */
static int storm(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (uintptr_t i = 0; i < 2; i++)
		TRY(weir_spawn(&scope, storm_side, (void *)i, .worker = WEIR_ON_WORKER(i)));
	return weir_scope_wait(&scope);
}

START_TEST(millions_of_messages_both_ways_all_arrive)
{
	run_on(2, storm, NULL);
}
END_TEST

static _Atomic bool has_started;

static int tell_started(void *arg)
{
	(void)arg;
	has_started = true;
	return 0;
}

/* The sender does not yield until the other worker has done its part. */
static int compute_until_started(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_sleep(20 * WEIR_MS)); /* worker 1 is parked by now */
	TRY(weir_spawn(&scope, tell_started, NULL, .worker = WEIR_ON_WORKER(1)));
	while (!has_started)
		compute(100 * WEIR_US);
	return weir_scope_wait(&scope);
}

START_TEST(a_worker_is_woken_while_the_sender_computes)
{
	run_on(2, compute_until_started, NULL);
}
END_TEST

static struct weir_event asked, may_compute;
static _Atomic bool has_answered;

static int answer_when_asked(void *arg)
{
	(void)arg;
	TRY(weir_event_wait(&asked));
	has_answered = true;
	return 0;
}

static int compute_until_answered(void *arg)
{
	(void)arg;
	TRY(weir_event_wait(&may_compute));
	while (!has_answered)
		spin();
	return 0;
}

static void ask_and_let_compute(void *arg)
{
	(void)arg;
	weir_event_set(&asked);
	weir_event_set(&may_compute);
}

static int ask_between_tasks(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_event_init(&asked);
	weir_event_init(&may_compute);
	TRY(weir_spawn(&scope, answer_when_asked, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_spawn(&scope, compute_until_answered, NULL));
	TRY(weir_sleep(20 * WEIR_MS)); /* worker 1 is parked by now */
	TRY(weir_post(0, ask_and_let_compute, NULL));
	return weir_scope_wait(&scope);
}

/* What goes out with a turn goes out before its tasks compute. */
START_TEST(a_wake_up_from_between_two_tasks_waits_for_no_task)
{
	ck_assert_int_eq(setenv("WEIR_STALL_MS", "0", 1), 0); /* the watcher would make it good */
	ck_assert_int_eq(setenv("WEIR_POOL_EPOCH_MS", "60000", 1), 0); /* and the sleeper's heap */
	ck_assert_int_eq(setenv("WEIR_MEM_DECAY_MS", "3600000", 1), 0);
	run_on(2, ask_between_tasks, NULL);
}
END_TEST

/* A thread of the application's own posts into the runtime. */
static void *foreign_sender(void *arg)
{
	weir_chan *chan = arg;
	unsigned i;

	for (i = 0; is_stressed(i, 20000); i++) {
		while (weir_chan_try_send(chan, &i) == -EAGAIN)
			(void)sched_yield();
		if (i % 64 == 0)
			(void)nanosleep(&(struct timespec){ .tv_nsec = 100000 },
					NULL); /* let it park */
	}
	weir_chan_close(chan);
	return (void *)(uintptr_t)i;
}

static int receive_foreign(void *arg)
{
	weir_auto_chan chan = weir_chan_new(sizeof(unsigned), 4);
	pthread_t thread;
	unsigned item, expected = 0;
	void *sent;
	int err;

	(void)arg;
	if (pthread_create(&thread, NULL, foreign_sender, chan))
		return -EAGAIN;
	while ((err = weir_chan_recv(chan, &item)) == 0)
		expect(item == expected++);
	ck_assert_int_eq(err, -EPIPE);
	ck_assert_int_eq(pthread_join(thread, &sent), 0);
	ck_assert_uint_eq(expected, (uintptr_t)sent);
	return 0;
}

START_TEST(threads_that_are_no_workers_wake_a_worker)
{
	run_on(1, receive_foreign, NULL);
}
END_TEST

/*
 * The sender never parks, so that its messages come when the receiver has just looked for some and
 * is about to park.
 */
static int ask_spinning(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;

	for (unsigned i = 0; is_stressed(i, TRIPS); i++) {
		unsigned got = i + 1;
		TRY(weir_chan_try_send(there, &i));
		while (weir_chan_try_recv(back, &got) == -EAGAIN)
			(void)weir_now(); /* for the simulator: see spin() */
		expect(got == i);
		for (volatile uint64_t wait = random_next(&seed) % 4096; wait > 0; wait--)
			;
	}
	weir_chan_close(there);
	return 0;
}

static int ping_spinning(void *seed)
{
	return ping_pong(ask_spinning, seed);
}

START_TEST(a_message_that_comes_while_parking_is_seen)
{
	uint64_t seed = test_seed();

	run_on(2, ping_spinning, &seed);
}
END_TEST

/* ---- Idleness ------------------------------------------------------------------------------- */

static void block_thread(int64_t ns)
{
	struct timespec time = { ns / WEIR_SEC, ns % WEIR_SEC };

	while (nanosleep(&time, &time) < 0)
		;
}

static uint64_t turns_of(int first, int last)
{
	struct weir_worker_stats stats;
	uint64_t sum = 0;

	for (int i = first; i <= last; i++) {
		ck_assert_int_eq(weir_worker_stats_get(i, &stats), 0);
		sum += stats.turns;
	}
	return sum;
}

/*
 * What workers have used they give back over some seconds; then they are quiet. It is worker 0's
 * thread that is blocked meanwhile, which holds up nothing on the others.
 */
static int watch_others(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	uint64_t before;
	int windows = 0, quiet = 0;

	(void)arg;
	for (unsigned i = 0; i < 100; i++)
		TRY(weir_spawn(&scope, nothing, NULL, .worker = WEIR_ON_WORKER(1 + i % 2)));
	TRY(weir_scope_wait(&scope));
	do {
		before = turns_of(1, 3);
		block_thread(2 * WEIR_SEC);
		ck_assert_int_lt(++windows, 15);
		quiet = turns_of(1, 3) == before ? quiet + 1 : 0;
	} while (quiet < 2);
	return 0;
}

START_TEST(idle_workers_come_to_rest)
{
	run_on(4, watch_others, NULL);
}
END_TEST

/* ---- What else sleeps ----------------------------------------------------------------------- */

/* How often a thread of this name has gone to sleep, or been stopped. */
static long sleeps_of(const char *name)
{
	char path[64], line[128], wanted[64];
	long count = -1;

	snprintf(wanted, sizeof wanted, "Name:\t%s\n", name);
	for (int tid = getpid(); tid < getpid() + 64 && count < 0; tid++) {
		snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
		FILE *file = fopen(path, "re");
		bool is_it = false;
		while (file && fgets(line, sizeof line, file)) {
			is_it |= strcmp(line, wanted) == 0;
			if (is_it)
				(void)sscanf(line, "voluntary_ctxt_switches: %ld", &count);
		}
		if (file)
			fclose(file);
	}
	return count;
}

static void *do_nothing(void *end)
{
	(void)pthread_setname_np(pthread_self(), "idle");
	while (sem_wait(end) < 0)
		;
	return NULL;
}

/* Those of the watcher beyond those of a thread that does nothing. */
static long sleeps_of_watcher(void)
{
	long idle = sleeps_of("idle"), watcher = sleeps_of("weir/watch");

	ck_assert_int_ge(idle, 0);
	ck_assert_int_ge(watcher, 0);
	return watcher - idle;
}

struct sleeps {
	long before, after;
};

/* On a thread of its own, with the worker asleep. */
static int count_sleeps(void *arg)
{
	struct sleeps *sleeps = arg;

	block_thread(300 * WEIR_MS);
	sleeps->before = sleeps_of_watcher();
	block_thread(1500 * WEIR_MS);
	sleeps->after = sleeps_of_watcher();
	return 0;
}

/* Whether the worker woke up for its heap: not where its last epoch was of just then, nothing being
 * left to do. */
static bool rest_once(struct sleeps *ret)
{
	struct weir_worker_stats before, after;

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(weir_sleep(10 * WEIR_MS), 0);
	ck_assert_int_eq(weir_worker_stats_get(0, &before), 0);
	ck_assert_int_eq(weir_blocking(count_sleeps, ret), 0);
	ck_assert_int_eq(weir_worker_stats_get(0, &after), 0);
	return after.wakes_heap > before.wakes_heap;
}

static int rest_beside_the_watcher(void *arg)
{
	struct sleeps sleeps;
	pthread_t idle;
	sem_t end;
	int tries = 0;

	(void)arg;
	ck_assert_int_eq(sem_init(&end, 0, 0), 0);
	ck_assert_int_eq(pthread_create(&idle, NULL, do_nothing, &end), 0);
	while (!rest_once(&sleeps))
		ck_assert_int_lt(++tries, 10);
	ck_assert_int_le(sleeps.after - sleeps.before, 1);
	ck_assert_int_eq(sem_post(&end), 0);
	ck_assert_int_eq(pthread_join(idle, NULL), 0);
	return 0;
}

START_TEST(a_worker_that_wakes_up_for_its_heap_lets_the_watcher_sleep)
{
	setenv("WEIR_STALL_MS", "25", 1);
	setenv("WEIR_MEM_DECAY_MS", "500", 1);
	run_on(1, rest_beside_the_watcher, NULL);
}
END_TEST

enum { LOAD_BLOCKS = 400, LOAD_BLOCK_BYTES = 128 << 10 };

/* More than one step of the heap gives back, which a sleep is to see the end of. */
static int rest_after_a_load(void *arg)
{
	static char *blocks[LOAD_BLOCKS];
	struct weir_worker_stats before, after;

	(void)arg;
	for (int i = 0; i < LOAD_BLOCKS; i++) {
		blocks[i] = weir_alloc(LOAD_BLOCK_BYTES);
		ck_assert_ptr_nonnull(blocks[i]);
		memset(blocks[i], i, LOAD_BLOCK_BYTES);
	}
	for (int i = 0; i < LOAD_BLOCKS; i++)
		weir_free(blocks[i]);
	ck_assert_int_eq(weir_worker_stats_get(0, &before), 0);
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(weir_sleep(300 * WEIR_MS), 0);
		ck_assert_int_eq(weir_worker_stats_get(0, &after), 0);
		if (after.wakes_heap > before.wakes_heap)
			return 0;
	}
	ck_abort_msg("the heap never woke its worker");
	return 0;
}

START_TEST(a_worker_gives_back_a_load_while_it_sleeps)
{
	setenv("WEIR_MEM_DECAY_MS", "50", 1);
	run_on(1, rest_after_a_load, NULL);
}
END_TEST

/* Woken for the timer, and hardly for anything else. */
static int watch_sleep(void *arg)
{
	uint64_t before;

	(void)arg;
	TRY(weir_sleep(WEIR_MS));
	before = turns_of(0, 0);
	TRY(weir_sleep(2 * WEIR_SEC));
	ck_assert_uint_le(turns_of(0, 0) - before, 4);
	return 0;
}

START_TEST(a_sleep_of_seconds_takes_few_turns)
{
	run_on(1, watch_sleep, NULL);
}
END_TEST

Suite *runtime_park_suite(void)
{
	Suite *suite = suite_create("runtime_park");
	TCase *wakes = tcase_create("wakes");
	TCase *foreign = tcase_create("foreign");
	TCase *idle = tcase_create("idle");
	TCase *blocked = tcase_create("blocked");

	/* the time limit is the watchdog: a lost wake-up is a hang */
	tcase_set_timeout(wakes, 60);
	tcase_add_test(wakes, ping_pong_between_workers_never_stalls);
	tcase_add_test(wakes, a_message_that_comes_while_parking_is_seen);
	tcase_add_test(wakes, millions_of_messages_both_ways_all_arrive);
	tcase_add_test(wakes, a_worker_is_woken_while_the_sender_computes);
	tcase_add_test(wakes, a_wake_up_from_between_two_tasks_waits_for_no_task);
	suite_add_tcase(suite, wakes);
	tcase_set_tags(foreign, "real"); /* a thread of the system's */
	tcase_set_timeout(foreign, 60);
	tcase_add_test(foreign, threads_that_are_no_workers_wake_a_worker);
	suite_add_tcase(suite, foreign);
	tcase_set_timeout(idle, 60);
	tcase_add_test(idle, a_sleep_of_seconds_takes_few_turns);
	suite_add_tcase(suite, idle);
	tcase_set_tags(blocked, "real"); /* one worker's thread is blocked beside the others' */
	tcase_set_timeout(blocked, 60);
	tcase_add_test(blocked, idle_workers_come_to_rest);
	tcase_add_test(blocked, a_worker_that_wakes_up_for_its_heap_lets_the_watcher_sleep);
	tcase_add_test(blocked, a_worker_gives_back_a_load_while_it_sleeps);
	suite_add_tcase(suite, blocked);
	return suite;
}
