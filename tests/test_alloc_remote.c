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

/* ---- Batches -------------------------------------------------------------------------------- */

enum { SENT = 30 };
static char *sent[SENT];

/* Blocks of a heap whose owner is another worker; this thread is both. Returns that heap. */
static struct weir__home *take_for_another(size_t size)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	struct weir__home *owner = weir__home_self();
	for (int i = 0; i < SENT; i++)
		ck_assert_ptr_nonnull(sent[i] = weir_alloc(size));
	weir__heap_self = &weir__heap_none;
	ck_assert_int_eq(weir__heap_attach(), 0);
	return owner;
}

static void free_all_sent(void)
{
	for (int i = 0; i < SENT; i++)
		weir_free(sent[i]);
}

/* The last of a batch are sent; what the owner then counts as in use. */
static uint64_t in_use_when_home(struct weir__home *owner)
{
	weir__remote_post(weir__home_self());
	weir__heap_self = &owner->heap;
	uint64_t blocks = weir__heap_in_use();
	ck_assert(!weir__remote_waiting(owner));
	return blocks;
}

static const size_t sent_sizes[] = { 1, 16, 24, 48, 64, 100, 300, 5000, 70000 };

/* From a link for each block to one for all. */
START_TEST(blocks_of_any_size_come_home_from_a_batch)
{
	struct weir__home *owner = take_for_another(sent_sizes[_i]);
	free_all_sent();
	ck_assert_uint_eq(in_use_when_home(owner), 0);
	ck_assert_uint_eq(owner->inbox_bytes, 0);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* ---- Owners ---------------------------------------------------------------------------------- */

enum { OWNERS = 12 }; /* more than there are places for chains */

static pthread_barrier_t meet;

static void *own_two(void *blocks)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	for (int i = 0; i < 2; i++)
		((void **)blocks)[i] = weir_alloc(5000);
	pthread_barrier_wait(&meet);
	pthread_barrier_wait(&meet);
	weir__heap_turn(weir__os_now());
	ck_assert_uint_eq(weir__heap_in_use(), 0);
	weir__heap_detach();
	return NULL;
}

START_TEST(blocks_of_many_owners_find_each_its_own)
{
	pthread_t thread[OWNERS];
	void *blocks[OWNERS][2];
	pthread_barrier_init(&meet, NULL, OWNERS + 1);
	for (int i = 0; i < OWNERS; i++)
		pthread_create(&thread[i], NULL, own_two, blocks[i]);
	pthread_barrier_wait(&meet);
	ck_assert_int_eq(weir__heap_attach(), 0);
	for (int n = 0; n < 2; n++)
		for (int i = 0; i < OWNERS; i++)
			weir_free(blocks[i][n]);
	weir__heap_turn(weir__os_now());
	pthread_barrier_wait(&meet);
	for (int i = 0; i < OWNERS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_uint_eq(weir__reports, 0);
	pthread_barrier_destroy(&meet);
}
END_TEST

static void *own_large(void *block)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	*(void **)block = weir_alloc(16 << 10);
	pthread_barrier_wait(&meet);
	pthread_barrier_wait(&meet);
	weir__heap_detach();
	return NULL;
}

/* One of this size is as much as a chain carries. */
START_TEST(a_large_block_does_not_wait_for_others)
{
	pthread_t thread;
	void *block;
	pthread_barrier_init(&meet, NULL, 2);
	pthread_create(&thread, NULL, own_large, &block);
	pthread_barrier_wait(&meet);
	ck_assert_int_eq(weir__heap_attach(), 0);
	struct weir__home *owner = weir__home_of(block);
	weir_free(block);
	ck_assert(weir__remote_waiting(owner));
	pthread_barrier_wait(&meet);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&meet);
}
END_TEST

START_TEST(what_is_freed_twice_is_left_out_of_a_batch)
{
	struct weir__home *owner = take_for_another(sent_sizes[_i]);
	weir_free(sent[7]);
	free_all_sent(); /* [7] again: not in a row */
	weir__remote_post(weir__home_self());
	weir_free(sent[3]); /* on its way */
	ck_assert_uint_eq(in_use_when_home(owner), 0);
	ck_assert_uint_eq(owner->inbox_bytes, 0);
	ck_assert_uint_eq(weir__reports, 2);
}
END_TEST

/* Whichever is written to on its way is lost, and at most what is told of in it alone. */
START_TEST(a_write_to_a_block_on_its_way_is_reported)
{
	for (int i = 0; i < SENT; i++) {
		struct weir__home *owner = take_for_another(64);
		uint64_t reports = weir__reports;
		free_all_sent();
		weir__remote_post(weir__home_self());
		memset(sent[i], 0x5a, 16);
		weir__heap_detach();
		weir__heap_self = &owner->heap;
		uint64_t lost = weir__heap_in_use();
		ck_assert_uint_ge(lost, (uint64_t)i + 1);
		ck_assert_uint_gt(weir__reports, reports);
		ck_assert(!weir__remote_waiting(owner));
	}
}
END_TEST

static unsigned wakes;

static void count_wake(void *arg)
{
	ck_assert_ptr_eq(arg, &wakes);
	wakes++;
}

enum { SMALL_BYTES = 64, BACKLOG = (256 << 10) / SMALL_BYTES };
static void *small[2 * BACKLOG];

struct range {
	unsigned begin, end;
};

static void *free_small(void *arg)
{
	const struct range *range = arg;
	for (unsigned i = range->begin; i < range->end; i++)
		weir_free(small[i]);
	return NULL;
}

/* By a thread without a heap, which sends each block by itself. Returns the owner's wake-ups. */
static unsigned wakes_after_freeing(unsigned begin, unsigned end)
{
	struct range range = { begin, end };
	pthread_t thread;
	ck_assert_int_eq(pthread_create(&thread, NULL, free_small, &range), 0);
	pthread_join(thread, NULL);
	return wakes;
}

START_TEST(an_owner_is_woken_by_the_block_that_makes_it_256_kib)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__heap_on_news(count_wake, &wakes);
	for (unsigned i = 0; i < 2 * BACKLOG; i++)
		small[i] = weir_alloc(SMALL_BYTES);
	ck_assert_uint_eq(wakes_after_freeing(0, BACKLOG - 1), 0);
	ck_assert_uint_eq(wakes_after_freeing(BACKLOG - 1, BACKLOG), 1);
	ck_assert_uint_eq(wakes_after_freeing(BACKLOG, 2 * BACKLOG - 1), 1);
	ck_assert_uint_eq(wakes_after_freeing(2 * BACKLOG - 1, 2 * BACKLOG), 2);
	ck_assert_uint_eq(weir__heap_in_use(), 0);
	weir__heap_on_news(NULL, NULL);
}
END_TEST

Suite *alloc_remote_suite(void)
{
	Suite *s = suite_create("alloc_remote");
	TCase *batches = tcase_create("batches");
	const int sizes = sizeof(sent_sizes) / sizeof(*sent_sizes);
	tcase_add_loop_test(batches, blocks_of_any_size_come_home_from_a_batch, 0, sizes);
	tcase_add_test(batches, blocks_of_many_owners_find_each_its_own);
	tcase_add_test(batches, a_large_block_does_not_wait_for_others);
	tcase_add_loop_test(batches, what_is_freed_twice_is_left_out_of_a_batch, 0, sizes);
	tcase_add_test(batches, a_write_to_a_block_on_its_way_is_reported);
	tcase_add_test(batches, an_owner_is_woken_by_the_block_that_makes_it_256_kib);
	suite_add_tcase(s, batches);
	TCase *leaving = tcase_create("leaving");
	tcase_set_timeout(leaving, 30);
	tcase_add_test(leaving, nothing_is_left_in_the_inbox_of_a_heap_without_owner);
	suite_add_tcase(s, leaving);
	return s;
}
