/* SPDX-License-Identifier: MIT */
/* What a worker asleep does not need: who may have it, and what is held because it comes back. */
#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc/heap.h"

enum { LIMIT = 64 << 20, HELD = 40 << 20, BLOCK_BYTES = 64 << 10 };

static void limit(uint64_t bytes)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.mem_limit = bytes;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}

/* ---- Another worker, asleep ----------------------------------------------------------------- */

static struct sleeper {
	pthread_t thread;
	sem_t asleep, wake;
	void (*before)(void); /* what it does before it goes to sleep */
	bool lends;
	struct weir__home *home;
} sleeper;

static void *sleep_once(void *arg)
{
	struct sleeper *s = arg;
	ck_assert_int_eq(weir__heap_attach(), 0);
	s->home = weir__home_self();
	int64_t now = weir__os_now();
	weir__heap_turn(now);
	s->before();
	(void)weir__heap_idle(now + 150 * WEIR__MS); /* an epoch's end: it rests */
	if (s->lends)
		weir__heap_lend();
	sem_post(&s->asleep);
	while (sem_wait(&s->wake) != 0)
		;
	weir__heap_resume();
	ck_assert_ptr_eq(weir__home_self(), s->home);
	weir_free(weir_alloc(100)); /* life goes on */
	weir__heap_detach();
	return NULL;
}

static void put_to_sleep(void (*before)(void), bool lends)
{
	sleeper = (struct sleeper){ .before = before, .lends = lends };
	sem_init(&sleeper.asleep, 0, 0);
	sem_init(&sleeper.wake, 0, 0);
	ck_assert_int_eq(pthread_create(&sleeper.thread, NULL, sleep_once, &sleeper), 0);
	while (sem_wait(&sleeper.asleep) != 0)
		;
}

static void wake_up(void)
{
	sem_post(&sleeper.wake);
	pthread_join(sleeper.thread, NULL);
}

static void *block[HELD / BLOCK_BYTES * 2];

static unsigned fill(unsigned most, size_t size)
{
	unsigned n = 0;
	while (n < most && (block[n] = weir_alloc(size)) != NULL)
		memset(block[n++], 1, size);
	return n;
}

static void empty(unsigned n)
{
	while (n > 0)
		weir_free(block[--n]);
}

static void use_and_free(void)
{
	unsigned n = fill(HELD / BLOCK_BYTES, BLOCK_BYTES);
	ck_assert_uint_eq(n, HELD / BLOCK_BYTES);
	empty(n);
}

/* ---- Lending -------------------------------------------------------------------------------- */

START_TEST(memory_that_lies_with_a_worker_asleep_is_not_lost)
{
	limit(LIMIT);
	put_to_sleep(use_and_free, _i == 1);
	ck_assert_uint_ge(weir__committed(), HELD);
	ck_assert_int_eq(weir__heap_attach(), 0);
	unsigned n = fill(HELD / BLOCK_BYTES, BLOCK_BYTES);
	ck_assert_uint_le(weir__committed(), LIMIT);
	if (_i == 1)
		ck_assert_uint_eq(n, HELD / BLOCK_BYTES);
	else /* it did not lend */
		ck_assert_uint_lt(n, HELD / BLOCK_BYTES);
	empty(n);
	wake_up();
}
END_TEST

static void *kept;

/* One object of a span stays, so the span stays, with room for others. */
static void use_most_of_a_span(void)
{
	kept = weir_alloc(1000);
}

START_TEST(free_objects_of_a_worker_asleep_serve_when_there_is_nothing_else)
{
	put_to_sleep(use_most_of_a_span, true);
	ck_assert_int_eq(weir__heap_attach(), 0);
	limit(weir__committed()); /* not one span more */
	unsigned n = fill(100, 1000);
	ck_assert_uint_gt(n, 50);
	ck_assert_uint_lt(n, 100);
	for (unsigned i = 0; i < n; i++)
		ck_assert_ptr_eq(weir__home_of(block[i]), sleeper.home);
	empty(n);
	weir__heap_turn(weir__os_now() + (INT64_C(1) << 40)); /* sends them home */
	limit(0);
	wake_up();
	weir_free(kept);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

static size_t borrow(const struct weir_reclaim_request *request, void *arg)
{
	(void)request;
	*(void **)arg = weir_alloc(BLOCK_BYTES);
	return 0;
}

START_TEST(a_reclaimer_gets_nothing_from_a_worker_asleep_either)
{
	weir_reclaimer *reclaimer;
	void *got = NULL;
	put_to_sleep(use_and_free, true);
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_int_eq(weir_reclaimer_add(&reclaimer, .fn = borrow, .arg = &got), 0);
	(void)weir_mem_compact(1, WEIR_MEM_HIGH);
	ck_assert_ptr_null(got);
	weir_reclaimer_del(reclaimer);
	wake_up();
}
END_TEST

START_TEST(a_thread_whose_heap_is_lent_allocates_and_frees)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	struct weir__home *home = weir__home_self();
	int64_t now = weir__os_now();
	void *own = weir_alloc(100);
	weir__heap_lend(); /* it has not rested */
	ck_assert_ptr_eq(weir__home_self(), home);
	weir__heap_turn(now);
	(void)weir__heap_idle(now + 150 * WEIR__MS);
	weir__heap_lend();
	ck_assert_ptr_null(weir__home_self());
	void *other = weir_alloc(100);
	ck_assert_ptr_nonnull(other);
	ck_assert_ptr_ne(weir__home_of(other), home);
	weir_free(own);
	weir__heap_resume();
	weir_free(other);
	weir__heap_resume(); /* nothing to take back */
	ck_assert_ptr_eq(weir__home_self(), home);
	ck_assert(weir__remote_waiting(home));
	weir__heap_turn(now + 200 * WEIR__MS);
	ck_assert(!weir__remote_waiting(home));
}
END_TEST

START_TEST(compaction_reaches_workers_asleep_at_once)
{
	put_to_sleep(use_and_free, true);
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_uint_ge(weir__committed(), HELD / 2);
	ck_assert_uint_ge(weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH), HELD / 2);
	ck_assert_uint_le(weir__committed(), 1 << 20);
	wake_up();
}
END_TEST

/* ---- Everything at once --------------------------------------------------------------------- */

enum { LENDERS = 3, ROUNDS = 300 };

static void work(unsigned *state)
{
	unsigned char *held[40];
	size_t sizes[40];
	for (int i = 0; i < 40; i++) {
		sizes[i] = 1 + (size_t)rand_r(state) % 60000;
		held[i] = weir_alloc(sizes[i]);
		if (held[i] != NULL)
			held[i][0] = held[i][sizes[i] - 1] = (unsigned char)i;
	}
	for (int i = 0; i < 40; i++) {
		if (held[i] != NULL &&
		    (held[i][0] != i || held[i][sizes[i] - 1] != (unsigned char)i))
			ck_abort_msg("overwritten");
		weir_free(held[i]);
	}
}

static void *lend_and_work(void *arg)
{
	unsigned state = (unsigned)(uintptr_t)arg;
	ck_assert_int_eq(weir__heap_attach(), 0);
	int64_t now = weir__os_now();
	for (int i = 0; i < ROUNDS; i++) {
		work(&state);
		weir__heap_turn(now += 50 * WEIR__MS);
		(void)weir__heap_idle(now += 100 * WEIR__MS);
		weir__heap_lend();
		nanosleep(&(struct timespec){ .tv_nsec = rand_r(&state) % 100000 }, NULL);
		weir__heap_resume();
	}
	weir__heap_detach();
	return NULL;
}

START_TEST(lending_and_taking_at_random_corrupts_nothing)
{
	pthread_t thread[LENDERS];
	limit(4 << 20); /* always short */
	for (uintptr_t i = 0; i < LENDERS; i++)
		pthread_create(&thread[i], NULL, lend_and_work, (void *)(i + 1));
	for (int i = 0; i < LENDERS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_uint_eq(weir__reports, 0);
	ck_assert_int_eq(weir__heap_attach(), 0);
	(void)weir__heap_idle(weir__os_now() + (INT64_C(1) << 40));
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	for (size_t i = weir_pool_stats_get(stats, WEIR__POOLS_MAX); i-- > 0;)
		ck_assert_uint_eq(stats[i].in_use, 0);
}
END_TEST

/* ---- The second clock ----------------------------------------------------------------------- */

static int64_t now;

static uint64_t purged(void)
{
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	return stats.os_purged_bytes;
}

/* Sleeps as a worker would, until that time. Returns how often it woke up. */
static unsigned sleep_until(int64_t end)
{
	unsigned wakes = 0;
	for (int64_t next = weir__heap_idle(now); next < end; wakes++) {
		ck_assert_uint_lt(wakes, 1000);
		next = weir__heap_idle(now = next);
	}
	now = end;
	weir__heap_turn(now);
	return wakes;
}

static void begin(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir_mem_level_force(WEIR_MEM_NONE);
	now = weir__os_now();
	weir__heap_turn(now);
}

START_TEST(after_one_spike_everything_goes_within_the_decay_time)
{
	begin();
	use_and_free();
	(void)sleep_until(now + 25000 * WEIR__MS); /* caches empty after 10 s, runs go 10 s later */
	ck_assert_uint_ge(purged(), HELD - HELD / 20);
	ck_assert_uint_le(weir__committed(), HELD / 20);
}
END_TEST

START_TEST(what_comes_back_every_half_minute_is_held_after_the_first_times)
{
	begin();
	for (int i = 0; i < 10; i++) {
		use_and_free();
		(void)sleep_until(now + 30000 * WEIR__MS);
	}
	uint64_t before = purged();
	ck_assert_uint_ge(before, HELD);
	for (int i = 0; i < 10; i++) {
		use_and_free();
		(void)sleep_until(now + 30000 * WEIR__MS);
	}
	/* without the second clock it would be ten times HELD */
	ck_assert_uint_lt(purged() - before, HELD * (uint64_t)4);
	unsigned wakes = sleep_until(now + 900000 * WEIR__MS);
	/* the turn at its end let a cache shrink, and its old room was cached for 10 s more */
	wakes += sleep_until(now + 30000 * WEIR__MS);
	ck_assert_uint_lt(wakes, 100);
	ck_assert_uint_le(weir__committed(), 2 << 20);
	ck_assert_int_eq(weir__heap_idle(now), INT64_MAX);
}
END_TEST

START_TEST(what_is_held_goes_when_memory_is_short)
{
	begin();
	for (int i = 0; i < 4; i++) {
		use_and_free();
		(void)sleep_until(now + 30000 * WEIR__MS);
	}
	ck_assert_uint_ge(weir__committed(), HELD / 4);
	weir_mem_level_force(WEIR_MEM_LOW);
	(void)sleep_until(now + 5000 * WEIR__MS);
	ck_assert_uint_le(weir__committed(), 1 << 20);
}
END_TEST

/* ---- On another clock ----------------------------------------------------------------------- */

START_TEST(a_stopped_clock_stays_stopped_until_the_heap_changes_hands)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__heap_stop_clock();
	now = weir__os_now();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM); /* all heaps answer in their turns */
	weir__heap_turn(now);
	weir_mem_level_force(WEIR_MEM_CRITICAL);
	weir__heap_turn(now += WEIR__MS);
	ck_assert_int_eq(weir__heap_idle(now), INT64_MAX);
	weir__heap_lend(); /* workers of one thread cannot: it would be another's that comes back */
	struct weir__home *home = weir__home_self();
	ck_assert_ptr_nonnull(home);
	weir__heap_detach();
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_ptr_eq(weir__home_self(), home);
	ck_assert_int_le(home->epoch_ns, now); /* has one again, and it is over */
	weir__heap_detach();
}
END_TEST

Suite *alloc_lend_suite(void)
{
	Suite *s = suite_create("alloc_lend");
	TCase *lending = tcase_create("lending");
	tcase_set_timeout(lending, 20);
	tcase_add_loop_test(lending, memory_that_lies_with_a_worker_asleep_is_not_lost, 0, 2);
	tcase_add_test(lending, free_objects_of_a_worker_asleep_serve_when_there_is_nothing_else);
	tcase_add_test(lending, a_reclaimer_gets_nothing_from_a_worker_asleep_either);
	tcase_add_test(lending, a_thread_whose_heap_is_lent_allocates_and_frees);
	if (!WEIR__ASAN && !WEIR__TSAN)
		tcase_add_test(lending, compaction_reaches_workers_asleep_at_once);
	tcase_add_test(lending, a_stopped_clock_stays_stopped_until_the_heap_changes_hands);
	suite_add_tcase(s, lending);
	TCase *stress = tcase_create("stress");
	tcase_set_timeout(stress, 60);
	tcase_add_test(stress, lending_and_taking_at_random_corrupts_nothing);
	suite_add_tcase(s, stress);
	TCase *held = tcase_create("second_clock");
	tcase_set_timeout(held, 20);
	if (!WEIR__ASAN && !WEIR__TSAN) {
		tcase_add_test(held, after_one_spike_everything_goes_within_the_decay_time);
		tcase_add_test(held,
			       what_comes_back_every_half_minute_is_held_after_the_first_times);
		tcase_add_test(held, what_is_held_goes_when_memory_is_short);
	}
	suite_add_tcase(s, held);
	return s;
}
