/* SPDX-License-Identifier: MIT */
/* Blocks that many use: threads with a heap of their own and without, that come, go and fork. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/heap_test.h"

/* ---- Churn ---------------------------------------------------------------------------------- */

struct live {
	unsigned char *block;
	size_t size;
	unsigned char mark;
};

static void check_live(const struct live *live, unsigned seed)
{
	if (live->block[0] != live->mark || live->block[live->size - 1] != live->mark ||
	    live->block[live->size / 2] != live->mark)
		ck_abort_msg("seed %u: %zu bytes at %p overwritten", seed, live->size,
			     (void *)live->block);
}

static void churn(unsigned seed, unsigned ops)
{
	enum { LIVE = 4096 };
	static struct live live[LIVE];
	unsigned state = seed;
	for (unsigned i = 0; i < ops; i++) {
		struct live *l = &live[rand_r(&state) % LIVE];
		if (l->block != NULL) {
			check_live(l, seed);
			weir_free(l->block);
			l->block = NULL;
			continue;
		}
		l->size = 1 + (size_t)rand_r(&state) % (1u << rand_r(&state) % 18);
		l->block = weir_alloc(l->size);
		l->mark = (unsigned char)rand_r(&state);
		if (l->block == NULL || weir_usable_size(l->block) != expected_room(l->size))
			ck_abort_msg("seed %u: %zu bytes got %zu", seed, l->size,
				     weir_usable_size(l->block));
		l->block[0] = l->block[l->size / 2] = l->block[l->size - 1] = l->mark;
		if (i % 1000 == 0)
			weir__heap_turn((int64_t)i * 1000000);
	}
	for (unsigned i = 0; i < LIVE; i++)
		weir_free(live[i].block);
}

START_TEST(a_million_random_operations_keep_blocks_apart_and_capacities_pure)
{
	unsigned seed = (unsigned)time(NULL);
	attach();
	churn(seed, 1000000);
	if (blocks_in_use() != 0)
		ck_abort_msg("seed %u: %lu blocks lost", seed, (unsigned long)blocks_in_use());
}
END_TEST

/* ---- Threads -------------------------------------------------------------------------------- */

START_TEST(a_thread_without_a_heap_allocates_and_frees)
{
	void *p = weir_alloc(100); /* nobody has attached yet */
	ck_assert_ptr_nonnull(p);
	memset(p, 1, 100);
	weir_free(p);
	churn(1, 20000);
	ck_assert_uint_eq(blocks_in_use(), 0);
	attach();
	weir_free(weir_alloc(100));
	weir__heap_detach();
	weir_free(weir_alloc(100));
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

enum { HANDED = 20000 };
static void *handed[HANDED];

static void *free_all(void *attached)
{
	if (attached != NULL)
		attach();
	for (int i = 0; i < HANDED; i++)
		weir_free(handed[i]);
	if (attached != NULL)
		weir__heap_detach();
	return NULL;
}

static void free_elsewhere(void *attached)
{
	pthread_t thread;
	attach();
	for (int i = 0; i < HANDED; i++) {
		handed[i] = weir_alloc(16 + (size_t)i % 3000);
		memset(handed[i], 1, 16);
	}
	ck_assert_int_eq(pthread_create(&thread, NULL, free_all, attached), 0);
	pthread_join(thread, NULL);
	(void)weir__heap_idle(weir__os_now());
	ck_assert_uint_eq(blocks_in_use(), 0);
	struct weir_pool_stats stats[WEIR_CLASS_COUNT];
	size_t n = weir_pool_stats_get(stats, WEIR_CLASS_COUNT);
	uint64_t remote = 0;
	for (size_t i = 0; i < n; i++)
		remote += stats[i].remote_frees;
	ck_assert_uint_eq(remote, HANDED);
}

START_TEST(blocks_freed_by_another_worker_come_home)
{
	free_elsewhere("attached");
}
END_TEST

START_TEST(blocks_freed_by_a_foreign_thread_come_home)
{
	free_elsewhere(NULL);
}
END_TEST

static void *free_twice(void *arg)
{
	attach();
	weir_free(arg);
	weir_free(arg);
	weir__heap_detach();
	return NULL;
}

START_TEST(a_block_freed_twice_by_another_worker_is_reported)
{
	pthread_t thread;
	attach();
	void *block = weir_zalloc(100);
	pthread_create(&thread, NULL, free_twice, block);
	pthread_join(thread, NULL);
	(void)weir__heap_idle(weir__os_now());
	ck_assert_uint_eq(weir__reports, 1);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

static _Atomic unsigned backlogs;

static void count_backlog(void *arg)
{
	ck_assert_ptr_eq(arg, &backlogs);
	backlogs++;
}

START_TEST(an_owner_asleep_is_woken_once_in_256_kib_of_backlog)
{
	enum { BLOCKS = 200, BYTES = 4096 };
	pthread_t thread;
	attach();
	weir__heap_on_news(count_backlog, &backlogs);
	for (int i = 0; i < HANDED; i++)
		handed[i] = i < BLOCKS ? weir_alloc(BYTES) : NULL;
	pthread_create(&thread, NULL, free_all, "attached");
	pthread_join(thread, NULL);
	ck_assert_uint_eq(backlogs, BLOCKS * BYTES / (256 << 10));
	(void)weir__heap_idle(weir__os_now());
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

START_TEST(what_was_freed_for_others_is_sent_by_the_end_of_the_turn)
{
	attach();
	void *block = weir_alloc(100);
	struct weir__home *owner = weir__home_self();
	weir__heap_self = &weir__heap_none; /* the same thread, as another worker */
	attach();
	weir_free(block);
	ck_assert(!weir__remote_waiting(owner));
	weir__heap_turn(1);
	ck_assert(weir__remote_waiting(owner));
}
END_TEST

START_TEST(blocks_outlive_the_worker_that_allocated_them)
{
	attach();
	for (int i = 0; i < HANDED; i++)
		handed[i] = weir_alloc(16 + (size_t)i % 3000);
	weir__heap_detach();
	ck_assert_uint_eq(blocks_in_use(), HANDED);
	for (int i = 0; i < HANDED / 2; i++)
		weir_free(handed[i]);
	attach(); /* takes the same heap over */
	for (int i = HANDED / 2; i < HANDED; i++)
		weir_free(handed[i]);
	weir__heap_turn(1);
	ck_assert_uint_eq(blocks_in_use(), 0);
	ck_assert_uint_eq(weir__home_count, 1);
}
END_TEST

enum { EXCHANGERS = 3, BOXES = 64 };
static _Atomic(void *) boxes[BOXES];

/* Puts blocks into shared boxes and frees whatever was in them: most frees are of other threads'
 * blocks. */
static void *exchange(void *arg)
{
	unsigned state = (unsigned)(uintptr_t)arg;
	bool attached = state != 1; /* one of them stays a foreign thread */
	if (attached)
		attach();
	for (int i = 0; i < 100000; i++) {
		size_t size = 16 + (size_t)rand_r(&state) % 2000;
		size_t *block = weir_alloc(size);
		block[0] = size;
		block[1] = ~size;
		block = atomic_exchange(&boxes[rand_r(&state) % BOXES], block);
		if (block != NULL && block[1] != ~block[0])
			ck_abort_msg("a block was written by somebody else");
		weir_free(block);
		if (attached && i % 100 == 0)
			weir__heap_turn((int64_t)i * 100000);
	}
	if (attached)
		weir__heap_detach();
	return NULL;
}

START_TEST(threads_that_free_each_others_blocks_lose_none)
{
	pthread_t thread[EXCHANGERS];
	for (uintptr_t i = 0; i < EXCHANGERS; i++)
		pthread_create(&thread[i], NULL, exchange, (void *)(i + 1));
	for (int i = 0; i < EXCHANGERS; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < BOXES; i++)
		weir_free(boxes[i]);
	attach();
	weir__heap_turn(INT64_C(1) << 40); /* drains the heaps nobody owns */
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

static void *attach_once(void *arg)
{
	(void)arg;
	attach();
	weir_free(weir_alloc(100));
	weir__heap_detach();
	return NULL;
}

START_TEST(threads_that_come_and_go_share_a_heap)
{
	for (int i = 0; i < 2000; i++) {
		pthread_t thread;
		ck_assert_int_eq(pthread_create(&thread, NULL, attach_once, NULL), 0);
		pthread_join(thread, NULL);
	}
	ck_assert_uint_eq(weir__home_count, 1);
}
END_TEST

static void *leave_without_a_word(void *blocks)
{
	ck_assert_int_eq(weir_thread_attach(), 0);
	ck_assert_int_eq(weir_thread_attach(), 0);
	for (int i = 0; i < 10; i++) /* too few to be sent at once */
		weir_free(((void **)blocks)[i]);
	for (int i = 0; i < 10; i++)
		((void **)blocks)[i] = weir_alloc(100);
	return NULL;
}

START_TEST(an_attached_thread_that_exits_leaves_nothing_behind)
{
	void *blocks[10];
	attach();
	for (int i = 0; i < 100; i++) {
		pthread_t thread;
		for (int k = 0; k < 10; k++)
			blocks[k] = weir_alloc(200);
		pthread_create(&thread, NULL, leave_without_a_word, blocks);
		pthread_join(thread, NULL);
		(void)weir__heap_idle(weir__os_now());
		ck_assert_uint_eq(blocks_in_use(), 10);
		for (int k = 0; k < 10; k++)
			weir_free(blocks[k]);
		weir__heap_turn(weir__os_now());
		ck_assert_uint_eq(blocks_in_use(), 0);
	}
	ck_assert_uint_eq(weir__home_count, 2);
	weir_thread_detach(); /* not a worker's business */
	ck_assert_ptr_nonnull(weir__home_self());
}
END_TEST

static void *churn_attached(void *arg)
{
	(void)arg;
	ck_assert_int_eq(weir_thread_attach(), 0);
	churn(3, 300000);
	weir_thread_detach();
	ck_assert_ptr_null(weir__home_self());
	return NULL;
}

/* Its misses are its turns: what others have freed comes home before it is asked for. */
static void *miss_and_turn(void *arg)
{
	int64_t turned;
	(void)arg;
	ck_assert_int_eq(weir_thread_attach(), 0);
	weir_free(weir_alloc(100));
	turned = weir__home_self()->now_ns;
	for (int i = 0; i < 1000 && weir__home_self()->now_ns == turned; i++) {
		(void)usleep(100);
		weir_free(weir_alloc_aligned(128 << 10, 100));
		weir_free(weir_alloc(10 << 20));
		(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL); /* the next is a miss */
	}
	ck_assert_int_ne(weir__home_self()->now_ns, turned);
	weir_thread_detach();
	return NULL;
}

START_TEST(an_attached_thread_needs_no_loop)
{
	pthread_t thread;
	pthread_create(&thread, NULL, miss_and_turn, NULL);
	pthread_join(thread, NULL);
	pthread_create(&thread, NULL, churn_attached, NULL);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

static void *churn_forever(void *stop)
{
	attach();
	while (!*(_Atomic bool *)stop)
		weir_free(weir_alloc(20u << 20)); /* takes the locks that a fork must not catch */
	weir__heap_detach();
	return NULL;
}

START_TEST(a_child_forked_at_any_moment_allocates)
{
	static _Atomic bool stop;
	pthread_t thread;
	attach();
	pthread_create(&thread, NULL, churn_forever, &stop);
	for (int i = 0; i < 100; i++) {
		pid_t child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0) {
			alarm(3); /* a lock held by nobody would hang it */
			weir_free(weir_alloc(100));
			weir_free(weir_alloc(20u << 20));
			_exit(0);
		}
		int status;
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
	}
	stop = true;
	pthread_join(thread, NULL);
}
END_TEST

Suite *alloc_threads_suite(void)
{
	Suite *s = suite_create("alloc_threads");
	bool plain =
		!WEIR__ASAN && !WEIR__TSAN; /* what their runtimes do in a child is their own */
	TCase *threads = tcase_create("threads");
	tcase_set_timeout(threads, 60);
	tcase_add_test(threads, a_million_random_operations_keep_blocks_apart_and_capacities_pure);
	tcase_add_test(threads, a_thread_without_a_heap_allocates_and_frees);
	tcase_add_test(threads, blocks_freed_by_another_worker_come_home);
	tcase_add_test(threads, blocks_freed_by_a_foreign_thread_come_home);
	tcase_add_test(threads, a_block_freed_twice_by_another_worker_is_reported);
	tcase_add_test(threads, an_owner_asleep_is_woken_once_in_256_kib_of_backlog);
	tcase_add_test(threads, what_was_freed_for_others_is_sent_by_the_end_of_the_turn);
	tcase_add_test(threads, blocks_outlive_the_worker_that_allocated_them);
	tcase_add_test(threads, threads_that_free_each_others_blocks_lose_none);
	tcase_add_test(threads, threads_that_come_and_go_share_a_heap);
	tcase_add_test(threads, an_attached_thread_that_exits_leaves_nothing_behind);
	tcase_add_test(threads, an_attached_thread_needs_no_loop);
	if (plain)
		tcase_add_test(threads, a_child_forked_at_any_moment_allocates);
	suite_add_tcase(s, threads);
	return s;
}
