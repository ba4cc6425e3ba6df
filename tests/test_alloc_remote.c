/* SPDX-License-Identifier: MIT */
/*
 * Blocks that others free while their owner comes and goes: all of them get home, once. The proof
 * for every interleaving is tests/model/inbox.pml; this is for the compiler, the CPU and
 * ThreadSanitizer.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"

enum { ROUNDS = 600, BLOCKS = 70, FREERS = 3 };

static struct round {
	unsigned char *block[FREERS][BLOCKS];
	_Atomic unsigned ready; /* rounds whose blocks are there */
	_Atomic unsigned done;	/* freers that have freed them, over all rounds */
} round_now;

static unsigned char pattern(unsigned freer, unsigned i)
{
	return (unsigned char)(freer * 89 + i);
}

static size_t size_of(unsigned i)
{
	return 16 + i * 37 % 1500;
}

/* Attaches, allocates for everybody, and leaves while they free: at any point of that. */
static void *owner(void *arg)
{
	unsigned pause = *(unsigned *)arg;
	ck_assert_int_eq(weir_thread_attach(), 0);
	for (unsigned f = 0; f < FREERS; f++)
		for (unsigned i = 0; i < BLOCKS; i++) {
			round_now.block[f][i] = weir_alloc(size_of(i));
			memset(round_now.block[f][i], pattern(f, i), size_of(i));
		}
	atomic_fetch_add(&round_now.ready, 1);
	for (volatile unsigned i = 0; i < pause; i++)
		if (i % 64 == 0)
			weir_free(weir_alloc(100));
	weir_thread_detach();
	return NULL;
}

/* Freer 0 has a heap and posts chains; the others have none and post singly. */
static void *freer(void *arg)
{
	unsigned f = *(unsigned *)arg;
	if (f == 0)
		ck_assert_int_eq(weir_thread_attach(), 0);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		while (atomic_load(&round_now.ready) < round)
			sched_yield();
		for (unsigned i = 0; i < BLOCKS; i++) {
			unsigned char *block = round_now.block[f][i];
			if (block[size_of(i) - 1] != pattern(f, i))
				ck_abort_msg("round %u, block %u was overwritten", round, i);
			weir_free(block);
		}
		if (f == 0)
			weir__heap_turn(weir__os_now()); /* the last chain goes */
		atomic_fetch_add(&round_now.done, 1);
	}
	return NULL;
}

/* One with an owner may have blocks waiting: freer 0 may have come late and adopted it. */
static void check_heaps_without_owner(unsigned round)
{
	pthread_mutex_lock(&weir__heaps_lock); /* nobody is in the midst of leaving */
	for (uint32_t i = 0; i < weir__home_count; i++) {
		struct weir__home *home = weir__homes[i];
		if (home->owned)
			continue;
		if (weir__remote_waiting(home))
			ck_abort_msg("round %u: heap %u has nobody to empty its inbox", round, i);
		if (home->inbox_bytes != 0)
			ck_abort_msg("round %u: %lld bytes wait in heap %u, which is empty", round,
				     (long long)home->inbox_bytes, i);
	}
	pthread_mutex_unlock(&weir__heaps_lock);
}

static void run_rounds(unsigned seed)
{
	for (unsigned round = 1; round <= ROUNDS; round++) {
		unsigned pause = (unsigned)rand_r(&seed) % 3000;
		pthread_t thread;
		ck_assert_int_eq(pthread_create(&thread, NULL, owner, &pause), 0);
		pthread_join(thread, NULL);
		while (atomic_load(&round_now.done) < round * FREERS)
			sched_yield();
		check_heaps_without_owner(round);
	}
}

START_TEST(nothing_is_left_in_the_inbox_of_a_heap_without_owner)
{
	pthread_t thread[FREERS];
	unsigned number[FREERS];
	struct weir_mem_stats before, after;
	weir_mem_stats_get(&before);
	for (unsigned f = 0; f < FREERS; f++) {
		number[f] = f;
		ck_assert_int_eq(pthread_create(&thread[f], NULL, freer, &number[f]), 0);
	}
	run_rounds(20261122);
	for (unsigned f = 0; f < FREERS; f++)
		pthread_join(thread[f], NULL);
	check_heaps_without_owner(ROUNDS);
	struct weir_pool_stats pool[WEIR__POOLS_MAX];
	size_t pools = weir_pool_stats_get(pool, WEIR__POOLS_MAX);
	for (size_t i = 0; i < pools; i++)
		if (pool[i].in_use != 0)
			ck_abort_msg("%lu of %s did not come home", (unsigned long)pool[i].in_use,
				     pool[i].name);
	weir_mem_stats_get(&after);
	ck_assert_uint_ge(after.allocs - before.allocs, (uint64_t)ROUNDS * FREERS * BLOCKS);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

Suite *alloc_remote_suite(void)
{
	Suite *s = suite_create("alloc_remote");
	TCase *leaving = tcase_create("leaving");
	tcase_set_timeout(leaving, 30);
	tcase_add_test(leaving, nothing_is_left_in_the_inbox_of_a_heap_without_owner);
	suite_add_tcase(s, leaving);
	return s;
}
