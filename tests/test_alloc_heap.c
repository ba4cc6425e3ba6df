/* SPDX-License-Identifier: MIT */
/* Blocks: what weir_alloc() gives and weir_free() takes, with and without a heap of one's own. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "alloc/heap.h"

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

/* Blocks out over all pools, so that a test can see whether all came home. */
static uint64_t blocks_in_use(void)
{
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	uint64_t sum = 0;
	size_t n = weir_pool_stats_get(stats, WEIR__POOLS_MAX);
	for (size_t i = 0; i < n; i++)
		sum += stats[i].in_use;
	return sum;
}

static size_t expected_room(size_t size)
{
	if (size > WEIR_CLASS_BYTES_MAX)
		return (size + 4095) & ~(size_t)4095;
	return weir_class_size(weir_size_class(size));
}

/* ---- Sizes ---------------------------------------------------------------------------------- */

START_TEST(every_class_gives_whole_blocks_that_do_not_overlap)
{
	enum { EACH = 3 };
	static char *block[WEIR_CLASS_COUNT][EACH];
	attach();
	for (unsigned c = 0; c < 60; c++)
		for (unsigned i = 0; i < EACH; i++) {
			size_t bytes = weir_class_size(c);
			block[c][i] = weir_alloc(bytes);
			ck_assert_ptr_nonnull(block[c][i]);
			ck_assert_uint_eq((uintptr_t)block[c][i] % 16, 0);
			ck_assert_uint_eq(weir_usable_size(block[c][i]), bytes);
			memset(block[c][i], (int)(c * EACH + i + 1), bytes);
		}
	for (unsigned c = 0; c < 60; c++)
		for (unsigned i = 0; i < EACH; i++) {
			char want = (char)(c * EACH + i + 1);
			for (size_t b = 0; b < weir_class_size(c); b++)
				if (block[c][i][b] != want)
					ck_abort_msg("class %u block %u byte %zu", c, i, b);
			weir_free(block[c][i]);
		}
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

START_TEST(sizes_around_every_class_boundary_are_served)
{
	attach();
	for (unsigned c = 0; c < WEIR_CLASS_COUNT; c++)
		for (int d = -1; d <= 1; d++) {
			size_t size = weir_class_size(c) + (size_t)d;
			char *p = weir_alloc(size);
			ck_assert_ptr_nonnull(p);
			ck_assert_uint_eq(weir_usable_size(p), expected_room(size));
			p[0] = p[size - 1] = 1;
			weir_free(p);
		}
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

START_TEST(size_zero_gives_a_block)
{
	attach();
	void *a = weir_alloc(0), *b = weir_alloc(0);
	ck_assert(a != NULL && b != NULL && a != b);
	weir_free(a);
	weir_free(b);
}
END_TEST

START_TEST(blocks_above_16_mb_are_mapped_and_unmapped)
{
	struct weir_mem_stats before, during, after;
	attach();
	weir_mem_stats_get(&before);
	char *p = weir_alloc(100u << 20);
	ck_assert_ptr_nonnull(p);
	p[0] = p[(100u << 20) - 1] = 1;
	weir_mem_stats_get(&during);
	weir_free(p);
	weir_mem_stats_get(&after);
	ck_assert_uint_ge(during.span_bytes, before.span_bytes + (100u << 20));
	ck_assert_uint_lt(after.span_bytes, during.span_bytes - (99u << 20));
	volatile size_t absurd = SIZE_MAX; /* the compiler would refuse a constant */
	ck_assert_ptr_null(weir_alloc(absurd));
	ck_assert_ptr_null(weir_alloc(absurd / 2));
}
END_TEST

START_TEST(zalloc_clears_what_was_used_before)
{
	attach();
	for (size_t size = 1; size < 100000; size = size * 3 + 1) {
		char *p = weir_alloc(size);
		memset(p, 0xff, size);
		weir_free(p);
		char *q = weir_zalloc(size);
		for (size_t i = 0; i < size; i++)
			ck_assert_int_eq(q[i], 0);
		weir_free(q);
	}
}
END_TEST

START_TEST(realloc_keeps_the_content)
{
	attach();
	size_t size = 1;
	unsigned char *p = weir_realloc(NULL, size);
	p[0] = 7;
	for (; size < 40u << 20; size = size * 2 + 3) {
		size_t bigger = size * 2 + 3;
		unsigned char *q = weir_realloc(p, bigger);
		ck_assert_ptr_nonnull(q);
		ck_assert_uint_ge(weir_usable_size(q), bigger);
		ck_assert(q[0] == 7 && (size == 1 || q[size - 1] == 9));
		q[bigger - 1] = 9;
		p = q;
	}
	p = weir_realloc(p, 100);
	ck_assert_uint_eq(weir_usable_size(p), 112);
	ck_assert_int_eq(p[0], 7);
	volatile size_t absurd = SIZE_MAX;
	ck_assert_ptr_null(weir_realloc(p, absurd));
	ck_assert_int_eq(p[0], 7);
	weir_free(p);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

START_TEST(aligned_blocks_are_aligned_at_every_power_to_2_mb)
{
	attach();
	for (size_t align = 1; align <= 2u << 20; align *= 2)
		for (size_t size = 1; size < 20u << 20; size = size * 7 + 5) {
			char *p = weir_alloc_aligned(align, size);
			ck_assert_ptr_nonnull(p);
			ck_assert_uint_eq((uintptr_t)p % align, 0);
			ck_assert_uint_ge(weir_usable_size(p), size);
			p[0] = p[size - 1] = 1;
			weir_free(p);
		}
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

START_TEST(alignments_that_are_none_are_refused)
{
	attach();
	ck_assert_ptr_null(weir_alloc_aligned(0, 64));
	ck_assert_ptr_null(weir_alloc_aligned(24, 64));
	ck_assert_ptr_null(weir_alloc_aligned(4u << 20, 64));
}
END_TEST

/* ---- Misuse --------------------------------------------------------------------------------- */

START_TEST(pointers_that_are_no_blocks_are_reported_and_left_alone)
{
	int local = 0;
	attach();
	char *p = weir_alloc(1000);
	memset(p, 5, 1000);
	weir_free(NULL);
	ck_assert_uint_eq(weir__reports, 0);
	weir_free(&local);
	weir_free(p + 16);
	weir_free(p + 1);
	weir_free((void *)(uintptr_t)0x1234);
	weir_free(p + (8 << 20)); /* in the window, in no span */
	ck_assert_uint_eq(weir__reports, 5);
	ck_assert_uint_eq(weir_usable_size(p + 16), 0);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(p[i], 5);
	weir_free(p);
	ck_assert_uint_eq(weir__reports, 5);
}
END_TEST

START_TEST(a_block_freed_twice_in_a_row_is_reported)
{
	attach();
	void *p = weir_alloc(64);
	weir_free(p);
	weir_free(p);
	ck_assert_uint_eq(weir__reports, 1);
	void *a = weir_alloc(64), *b = weir_alloc(64);
	ck_assert_ptr_ne(a, b);
}
END_TEST

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

/* ---- Hard times ----------------------------------------------------------------------------- */

START_TEST(a_small_address_space_gets_a_small_window)
{
	struct rlimit limit = { 1500u << 20, 1500u << 20 };
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
	attach();
	ck_assert_uint_le(weir__heap_self->window_bytes, 1u << 30);
	ck_assert_uint_ge(weir__heap_self->window_bytes, 256u << 20);
	static void *block[200];
	int n = 0;
	while (n < 200 && (block[n] = weir_alloc(10u << 20)) != NULL)
		n++;
	ck_assert_int_gt(n, 20);
	ck_assert_int_lt(n, 200);
	ck_assert_ptr_nonnull(weir_alloc(100)); /* small blocks go on */
	while (n-- > 0)
		weir_free(block[n]);
	ck_assert_ptr_nonnull(weir_alloc(16u << 20));
}
END_TEST

START_TEST(each_allocation_can_be_made_to_fail)
{
	attach();
	weir_free(weir_alloc(64)); /* warm: the cache could serve */
	for (uint64_t nth = 1; nth <= 20; nth++) {
		weir_mem_fail_after(nth);
		uint64_t made = 0;
		void *block[20];
		while (made < 20 && (block[made] = weir_alloc(64)) != NULL)
			made++;
		ck_assert_uint_eq(made, nth - 1);
		ck_assert_ptr_null(weir_alloc(100000));
		ck_assert_ptr_null(weir_alloc(100u << 20));
		ck_assert_ptr_null(weir_alloc_aligned(1u << 20, 1));
		ck_assert_ptr_null(weir__stack_get(65536));
		weir_buf buf = WEIR_BUF_INIT;
		ck_assert_int_eq(weir_buf_get(&buf, 100), -ENOMEM);
		ck_assert_ptr_null(buf.block);
		while (made > 0)
			weir_free(block[--made]);
		ck_assert_uint_eq(weir_mem_fail_after(0), nth + 5);
	}
	void *p = weir_alloc(64);
	ck_assert_ptr_nonnull(p);
	weir_free(p);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

/* ---- Memory given back ---------------------------------------------------------------------- */

/* Anonymous memory only: pages of code come and go with the tests that ran before. */
static size_t resident(void)
{
	char line[256];
	unsigned long kib = 0;
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "Anonymous: %lu kB", &kib) == 1)
			break;
	fclose(file);
	return kib * 1024;
}

START_TEST(an_idle_heap_is_small)
{
	(void)resident(); /* stdio allocates */
	size_t before = resident();
	attach();
	weir_free(weir_alloc(64));
	weir_free(weir_alloc(4096));
	ck_assert_uint_lt(resident() - before, 100u << 10);
}
END_TEST

START_TEST(a_megabyte_a_thousand_times_costs_a_megabyte)
{
	attach();
	size_t before = resident();
	for (int i = 0; i < 1000; i++) {
		char *p = weir_alloc(1u << 20);
		memset(p, 1, 1u << 20);
		weir_free(p);
	}
	ck_assert_uint_lt(resident() - before, 2u << 20);
}
END_TEST

START_TEST(what_a_burst_used_is_given_back_when_idle)
{
	static void *block[100000];
	attach();
	size_t before = resident();
	for (int i = 0; i < 100000; i++) {
		block[i] = weir_alloc(1024);
		memset(block[i], 1, 1024);
	}
	for (int i = 0; i < 32; i++) {
		void *p = weir_alloc(1u << 20);
		memset(p, 1, 1u << 20);
		weir_free(p);
	}
	size_t peak = resident();
	for (int i = 0; i < 100000; i++)
		weir_free(block[i]);
	int64_t now = weir__os_now();
	unsigned wakes = 0;
	for (int64_t next = now; next != INT64_MAX; now = next, wakes++) {
		next = weir__heap_idle(now);
		ck_assert_uint_lt(wakes, 1000);
	}
	size_t after = resident();
	ck_assert_uint_gt(peak - before, 95u << 20);
	ck_assert_uint_lt((after - before) * 20, peak - before);
}
END_TEST

/* A run made of a purged and a used part, of which the purged part is taken again. */
START_TEST(memory_behind_a_clean_part_of_a_run_is_given_back)
{
	enum { FIRST = 6 << 20, SECOND = 4 << 20 };
	attach();
	size_t before = resident();
	char *first = weir_alloc(FIRST), *second = weir_alloc(SECOND), *fence = weir_alloc(FIRST);
	memset(first, 1, FIRST);
	weir_free(first);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL); /* the first part is clean */
	memset(second, 1, SECOND);
	weir_free(second);
	weir__cache_flush(weir__home_self(), weir_size_class(SECOND) + 1, 1);
	void *again = weir_alloc(FIRST);
	ck_assert_ptr_eq(again, first);
	int64_t now = weir__os_now();
	for (int64_t next = now; next != INT64_MAX; now = next)
		next = weir__heap_idle(now);
	ck_assert_uint_lt(resident() - before, 1u << 20);
	weir_free(fence);
	weir_free(again);
}
END_TEST

/* What is cached goes in as many wake-ups as there are things to give, not in one a second. */
START_TEST(an_idle_heap_wakes_up_a_few_times_and_then_never)
{
	struct weir_mem_stats stats;
	attach();
	int64_t now = weir__os_now();
	weir__heap_turn(now);
	for (size_t size = 16; size <= 1u << 20; size *= 2)
		weir_free(weir_alloc(size));
	now += 10 * WEIR__MS; /* the epoch has not seen it */
	unsigned wakes = 0;
	for (int64_t next = weir__heap_idle(now); next != INT64_MAX; wakes++) {
		ck_assert_int_gt(next, now); /* else the worker would spin */
		ck_assert_uint_lt(wakes, 5);
		now = next;
		next = weir__heap_idle(now);
	}
	weir_mem_stats_get(&stats);
	ck_assert_uint_gt(wakes, 0);
	ck_assert_uint_eq(stats.cached_bytes, 0);
}
END_TEST

/* Nothing at all in the decay time, then everything, whatever tier it lay in. */
START_TEST(an_idle_heap_gives_everything_back_at_its_first_look)
{
	enum { BLOCKS = 100000, BYTES = 1024 };
	static void *block[BLOCKS];
	struct weir_mem_stats stats;
	attach();
	int64_t now = weir__os_now();
	weir__heap_turn(now);
	size_t before = resident();
	for (int i = 0; i < BLOCKS; i++)
		memset(block[i] = weir_alloc(BYTES), 1, BYTES);
	size_t peak = resident();
	for (int i = 0; i < BLOCKS; i++)
		weir_free(block[i]);
	now += 10 * WEIR__MS; /* the epoch has not seen it */
	int64_t look = weir__heap_idle(now);
	if (weir__limit() == 0) /* else it wants to lend, and looks sooner */
		ck_assert_int_ge(look, now + weir__config.decay_ns);
	now += weir__config.decay_ns + weir__config.epoch_ns;
	unsigned steps = 1;
	while (weir__heap_rested(now, weir__config.decay_ns))
		ck_assert_uint_lt(steps++, 100);
	ck_assert_uint_gt(steps, 10); /* a millisecond's worth each */
	ck_assert_int_eq(weir__heap_idle(now), INT64_MAX);
	weir_mem_stats_get(&stats);
	ck_assert_uint_eq(stats.cached_bytes, 0);
	ck_assert_uint_lt((resident() - before) * 20, peak - before);
}
END_TEST

Suite *alloc_heap_suite(void)
{
	Suite *s = suite_create("alloc_heap");
	bool plain = !WEIR__ASAN && !WEIR__TSAN; /* else resident memory is the sanitizer's */
	TCase *sizes = tcase_create("sizes");
	tcase_set_timeout(sizes, 30);
	tcase_add_test(sizes, every_class_gives_whole_blocks_that_do_not_overlap);
	tcase_add_test(sizes, sizes_around_every_class_boundary_are_served);
	tcase_add_test(sizes, size_zero_gives_a_block);
	tcase_add_test(sizes, blocks_above_16_mb_are_mapped_and_unmapped);
	tcase_add_test(sizes, zalloc_clears_what_was_used_before);
	tcase_add_test(sizes, realloc_keeps_the_content);
	tcase_add_test(sizes, aligned_blocks_are_aligned_at_every_power_to_2_mb);
	tcase_add_test(sizes, alignments_that_are_none_are_refused);
	suite_add_tcase(s, sizes);
	TCase *misuse = tcase_create("misuse");
	tcase_add_test(misuse, pointers_that_are_no_blocks_are_reported_and_left_alone);
	tcase_add_test(misuse, a_block_freed_twice_in_a_row_is_reported);
	suite_add_tcase(s, misuse);
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
	TCase *hard = tcase_create("hard_times");
	tcase_set_timeout(hard, 30);
	if (plain)
		tcase_add_test(hard, a_small_address_space_gets_a_small_window);
	tcase_add_test(hard, each_allocation_can_be_made_to_fail);
	suite_add_tcase(s, hard);
	TCase *back = tcase_create("given_back");
	tcase_set_timeout(back, 30);
	if (plain) {
		tcase_add_test(back, an_idle_heap_is_small);
		tcase_add_test(back, a_megabyte_a_thousand_times_costs_a_megabyte);
		tcase_add_test(back, what_a_burst_used_is_given_back_when_idle);
		tcase_add_test(back, memory_behind_a_clean_part_of_a_run_is_given_back);
		tcase_add_test(back, an_idle_heap_wakes_up_a_few_times_and_then_never);
		tcase_add_test(back, an_idle_heap_gives_everything_back_at_its_first_look);
	}
	suite_add_tcase(s, back);
	return s;
}
