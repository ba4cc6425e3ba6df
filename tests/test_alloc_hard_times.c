/* SPDX-License-Identifier: MIT */
/* Requests that cannot be, address space and memory that run out, threads that come and go. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/heap.h"

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

static uint64_t blocks_in_use(void)
{
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	uint64_t sum = 0;
	for (size_t i = weir_pool_stats_get(stats, WEIR__POOLS_MAX); i-- > 0;)
		sum += stats[i].in_use;
	return sum;
}

/* ---- Sizes ---------------------------------------------------------------------------------- */

START_TEST(sizes_beyond_the_address_space_are_refused_and_nothing_breaks)
{
	static const size_t sizes[] = { SIZE_MAX,	 SIZE_MAX - 1,	  SIZE_MAX - 15,
					SIZE_MAX - 4095, SIZE_MAX - 4096, SIZE_MAX / 2 + 1,
					SIZE_MAX / 2,	 (size_t)1 << 62, (size_t)1 << 50 };
	attach();
	char *block = weir_alloc(100);
	strcpy(block, "here");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		volatile size_t size = sizes[i]; /* or the compiler complains */
		ck_assert_ptr_null(weir_alloc(size));
		ck_assert_ptr_null(weir_zalloc(size));
		ck_assert_ptr_null(weir_realloc(block, size));
		for (size_t align = 16; align <= 2 << 20; align *= 2)
			ck_assert_ptr_null(weir_alloc_aligned(align, size));
		weir_buf buf = WEIR_BUF_INIT;
		ck_assert_int_eq(weir_buf_get(&buf, size), -ENOMEM);
		ck_assert_ptr_null(buf.block);
	}
	ck_assert_str_eq(block, "here");
	weir_free(block);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

static uint64_t refusals(void)
{
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	return stats.refusals;
}

START_TEST(each_refusal_counts_once)
{
	volatile size_t absurd = SIZE_MAX, huge = (size_t)1 << 60;
	attach();
	void *large = weir_alloc(20 << 20);
	uint64_t before = refusals();
	ck_assert_ptr_null(weir_alloc(absurd));
	ck_assert_uint_eq(refusals(), before + 1);
	ck_assert_ptr_null(weir_alloc_aligned(128, absurd));
	ck_assert_uint_eq(refusals(), before + 2);
	ck_assert_ptr_null(weir_realloc(large, absurd));
	ck_assert_uint_eq(refusals(), before + 3);
	ck_assert_ptr_null(weir_realloc(large, huge));
	ck_assert_uint_eq(refusals(), before + 4);
	weir_mem_fail_after(1);
	ck_assert_ptr_null(weir_realloc(large, 40 << 20));
	weir_mem_fail_after(0);
	ck_assert_uint_eq(refusals(), before + 5);
	weir_free(large);
}
END_TEST

/* ---- Address space and memory --------------------------------------------------------------- */

enum { BLOCKS = 4000 };
static char *block[BLOCKS];

/* Takes as much as it gets, in blocks of one size, and gives it back. Returns how many it got. */
static unsigned fill_and_free(size_t size)
{
	unsigned n = 0;
	while (n < BLOCKS && (block[n] = weir_alloc(size)) != NULL) {
		block[n][0] = block[n][size - 1] = (char)n;
		n++;
	}
	for (unsigned i = n; i-- > 0;) {
		if (block[i][0] != (char)i || block[i][size - 1] != (char)i)
			ck_abort_msg("block %u overwritten", i);
		weir_free(block[i]);
	}
	return n;
}

/* Small blocks, large ones, small ones: each phase has to get what the one before has left. */
START_TEST(an_address_space_of_1_gb_is_shared_by_phases_of_any_size)
{
	static const size_t sizes[] = { 100, 300000, 5000, 20 << 20, 64, 1 << 20, 12345 };
	struct rlimit limit = { 1 << 30, 1 << 30 };
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
	attach();
	int64_t now = weir__os_now();
	for (int round = 0; round < 5; round++)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			unsigned n = fill_and_free(sizes[i]);
			if (n == 0 || (n < BLOCKS && (uint64_t)n * sizes[i] < 150 << 20))
				ck_abort_msg("only %u of %zu bytes", n, sizes[i]);
			weir__heap_turn(now += 300 * WEIR__MS);
		}
	ck_assert_uint_eq(blocks_in_use(), 0);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

START_TEST(a_limit_is_kept_while_load_oscillates_and_stages_come_in_order)
{
	enum { LIMIT = 64 << 20 };
	struct weir__alloc_config config;
	struct weir_mem_stats stats;
	uint32_t seen = 0, level_before = WEIR_MEM_NONE;
	weir__alloc_config_get(&config);
	config.mem_limit = LIMIT;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	attach();
	int64_t now = weir__os_now();
	for (int wave = 0; wave < 4; wave++) { /* up in steps of 3 MB and down again */
		for (int step = 0; step < 42; step++) {
			int at = step < 21 ? step : 41 - step;
			for (int i = at * 3; i < at * 3 + 3; i++) {
				weir_free(block[i]);
				block[i] = step < 21 ? weir_alloc(1 << 20) : NULL;
				if (block[i] != NULL)
					memset(block[i], 1, 1 << 20);
			}
			weir__heap_turn(now += 1100 * WEIR__MS);
			uint32_t level = weir_mem_level_get();
			if (level > level_before) /* one after the other on the way up */
				ck_assert_uint_eq(level, level_before + 1);
			level_before = level;
			seen |= 1u << level;
			if (weir__committed() > LIMIT)
				ck_abort_msg("%lu bytes", (unsigned long)weir__committed());
			void *small = weir_alloc(100); /* service goes on */
			ck_assert_ptr_nonnull(small);
			weir_free(small);
		}
	}
	ck_assert_uint_eq(seen, 0x1f); /* all five of them */
	weir_mem_stats_get(&stats);
	for (int level = WEIR_MEM_MEDIUM; level <= WEIR_MEM_CRITICAL; level++)
		ck_assert_uint_gt(stats.stages[level].runs, 0);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

/* Small pools are merged into larger ones: their free objects serve, as aligned as was promised. */
START_TEST(at_the_limit_larger_classes_serve_smaller_ones)
{
	struct weir__alloc_config config;
	attach();
	void *keeps_the_span = weir_alloc(128), *another = weir_alloc(256);
	void *badly_aligned = weir_alloc(224); /* its others would be */
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed(); /* not one span more */
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	unsigned n = 0, larger = 0;
	for (; n < 200 && (block[n] = weir_alloc(112)) != NULL; n++) {
		memset(block[n], 1, 112);
		larger += weir_usable_size(block[n]) == 128;
	}
	ck_assert_uint_eq(larger, n);
	ck_assert_uint_eq(n, 200);
	void *aligned = weir_alloc_aligned(64, 190); /* of a class of 192: 224 would not do */
	ck_assert_ptr_nonnull(aligned);
	ck_assert_uint_eq((uintptr_t)aligned % 64, 0);
	ck_assert_uint_eq(weir_usable_size(aligned), 256);
	ck_assert_ptr_null(weir_alloc(5000));
	weir_free(aligned);
	while (n > 0)
		weir_free(block[--n]);
	weir_free(keeps_the_span);
	weir_free(another);
	weir_free(badly_aligned);
	ck_assert_uint_eq(blocks_in_use(), 0);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* What one class has in its cache serves another before anything is refused. */
START_TEST(free_blocks_of_a_class_are_no_reason_to_refuse_another)
{
	struct weir__alloc_config config;
	attach();
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed() + (20 << 20);
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	for (size_t mib = 6; mib <= 16; mib += 2) {
		void *large = weir_alloc(mib << 20);
		ck_assert_ptr_nonnull(large);
		weir_free(large);
	}
	void *aligned = weir_alloc_aligned(2 << 20, 14 << 20);
	ck_assert_ptr_nonnull(aligned);
	ck_assert_ptr_null(weir_alloc(16 << 20));
	weir_free(aligned);
}
END_TEST

START_TEST(without_pools_everything_works_and_nothing_is_cached)
{
	struct weir__alloc_config config;
	struct weir_mem_stats stats;
	weir__alloc_config_get(&config);
	config.unpooled = 1;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	attach();
	ck_assert_uint_eq(fill_and_free(100), BLOCKS);
	ck_assert_uint_eq(fill_and_free(10000), BLOCKS);
	weir_mem_stats_get(&stats);
	ck_assert_uint_eq(stats.cached_bytes, 0);
	ck_assert_uint_eq(stats.misses, stats.allocs);
	config.unpooled = 0;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_uint_eq(fill_and_free(100), BLOCKS);
	weir_mem_stats_get(&stats);
	ck_assert_uint_gt(stats.cached_bytes, 0);
	ck_assert_uint_eq(blocks_in_use(), 0);
}
END_TEST

START_TEST(each_span_can_be_refused_and_all_is_given_back)
{
	attach();
	fill_and_free(64);
	for (uint64_t nth = 1; nth <= 200; nth++) {
		void *held[64];
		unsigned n = 0;
		weir_mem_fail_after(nth);
		for (unsigned i = 0; i < 64; i++) { /* a different way in each time */
			size_t size = (size_t)16 << i % 20;
			void *p = i % 3 == 0   ? weir_alloc_aligned((size_t)1 << (4 + i % 18), size)
				  : i % 3 == 1 ? weir_zalloc(size)
					       : weir_realloc(NULL, size);
			if (p != NULL)
				held[n++] = p;
		}
		weir_mem_fail_after(0);
		while (n > 0)
			weir_free(held[--n]);
		if (blocks_in_use() != 0)
			ck_abort_msg("refusal %lu lost a block", (unsigned long)nth);
	}
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* ---- Threads -------------------------------------------------------------------------------- */

static void *handed[64];

static void *live_briefly(void *arg)
{
	uintptr_t i = (uintptr_t)arg;
	if (i % 3 == 0)
		ck_assert_int_eq(weir_thread_attach(), 0);
	weir_free(handed[i % 64]); /* of a thread that is gone */
	handed[i % 64] = weir_alloc(16 + i * 7 % 3000);
	memset(handed[i % 64], (int)i, 16);
	weir_free(weir_alloc(100));
	if (i % 6 == 0)
		weir_thread_detach(); /* else it ends attached */
	return NULL;
}

START_TEST(ten_thousand_threads_come_and_go_and_leave_nothing)
{
	for (uintptr_t i = 0; i < 10000; i++) {
		pthread_t thread;
		ck_assert_msg(pthread_create(&thread, NULL, live_briefly, (void *)i) == 0, "%lu",
			      (unsigned long)i);
		pthread_join(thread, NULL);
	}
	for (int i = 0; i < 64; i++)
		weir_free(handed[i]);
	ck_assert_uint_le(weir__home_count, 3);
	attach();
	weir__heap_turn(INT64_C(1) << 40);
	(void)weir__heap_idle(INT64_C(1) << 41);
	ck_assert_uint_eq(blocks_in_use(), 0);
	ck_assert_uint_eq(weir__reports, 0);
	ck_assert_uint_le(weir__committed(), 2 << 20);
}
END_TEST

/* ---- Forks ---------------------------------------------------------------------------------- */

static _Atomic bool stop;

static void *work(void *arg)
{
	unsigned state = (unsigned)(uintptr_t)arg;
	ck_assert_int_eq(weir_thread_attach(), 0);
	int64_t now = weir__os_now();
	while (!stop) {
		weir_free(weir_alloc(rand_r(&state) % 100000));
		weir__heap_turn(now += 20 * WEIR__MS);
		if (rand_r(&state) % 64 == 0)
			(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	}
	return NULL;
}

/* The child goes on with what it has: allocates, forks in its turn, turns, compacts, starts a
 * thread. */
static int live_in_a_child(int depth)
{
	alarm(20); /* a lock held by nobody would hang it */
	for (int i = 0; i < 1000; i++)
		weir_free(weir_alloc((size_t)i * 37));
	weir__heap_turn(weir__os_now());
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	stop = true;
	pthread_t thread;
	if (pthread_create(&thread, NULL, work, NULL) != 0 || pthread_join(thread, NULL) != 0)
		return 1;
	if (depth == 0)
		return 0;
	pid_t child = fork();
	if (child == 0)
		_exit(live_in_a_child(depth - 1));
	int status = 1;
	return waitpid(child, &status, 0) == child ? status : 1;
}

START_TEST(a_fork_in_the_middle_of_everything_leaves_a_child_that_works)
{
	pthread_t thread[2];
	attach();
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, work, (void *)(i + 1));
	for (int i = 0; i < 40; i++) {
		int status;
		pid_t child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0)
			_exit(live_in_a_child(1));
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert_int_eq(status, 0);
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
}
END_TEST

START_TEST(a_large_block_grows_within_the_limit)
{
	struct weir__alloc_config config;
	attach();
	char *large = weir_alloc(20 << 20);
	large[0] = 7;
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed() + (20 << 20);
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	uint64_t before = refusals();
	ck_assert_ptr_null(weir_realloc(large, 41 << 20));
	ck_assert_uint_eq(refusals(), before + 1);
	char *moved = weir_realloc(large, 39 << 20); /* there is no room for both */
	ck_assert_ptr_nonnull(moved);
	ck_assert_int_eq(moved[0], 7);
	ck_assert_uint_eq(weir__large_bytes(), 39 << 20);
	weir_free(moved);
	ck_assert_uint_eq(weir__large_bytes(), 0);
}
END_TEST

START_TEST(a_large_block_gets_smaller_at_the_limit)
{
	struct weir__alloc_config config;
	attach();
	char *large = weir_alloc(60 << 20);
	large[100] = 7;
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed();
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	large = weir_realloc(large, 20 << 20);
	ck_assert_int_eq(large[100], 7);
	ck_assert_uint_eq(weir__large_bytes(), 20 << 20);
	ck_assert_uint_eq(refusals(), 0);
	weir_free(large);
}
END_TEST

START_TEST(large_blocks_are_told_apart_whichever_goes_first)
{
	enum { LARGE = 3 };
	static const unsigned order[][LARGE] = { { 0, 1, 2 }, { 1, 0, 2 }, { 2, 0, 1 } };
	void *large[LARGE];
	attach();
	for (unsigned i = 0; i < LARGE; i++)
		large[i] = weir_alloc((size_t)(20 + i) << 20);
	for (unsigned n = 0; n < LARGE; n++) {
		weir_free(large[order[_i][n]]);
		for (unsigned later = n + 1; later < LARGE; later++) {
			unsigned i = order[_i][later];
			ck_assert_uint_eq(weir_usable_size(large[i]), (size_t)(20 + i) << 20);
		}
	}
	ck_assert_uint_eq(weir__large_bytes(), 0);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* Its heap's window is, and the machine is not. */
START_TEST(a_full_window_is_no_reason_to_refuse_what_has_a_mapping_to_itself)
{
	attach();
	struct weir__home *home = weir__home_self();
	void *small = weir_alloc(100);
	home->unit_count = home->frontier;
	for (size_t align = 64 << 10; align <= 2 << 20; align *= 2) {
		char *aligned = weir_alloc_aligned(align, 300000);
		ck_assert_ptr_nonnull(aligned);
		ck_assert_uint_eq((uintptr_t)aligned % align, 0);
		aligned[0] = aligned[299999] = 1;
		weir_free(aligned);
	}
	weir_free(small);
	ck_assert_uint_eq(blocks_in_use(), 0);
	ck_assert_uint_eq(refusals(), 0);
}
END_TEST

START_TEST(a_block_gets_smaller_where_there_is_no_other)
{
	static const size_t sizes[] = { 200, 5000, 300000, 20 << 20 };
	attach();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		char *old = weir_zalloc(sizes[i]);
		old[16] = 7;
		weir_mem_fail_after(1);
		ck_assert_ptr_null(weir_realloc(old, sizes[i] * 3));
		char *smaller = weir_realloc(old, 20);
		ck_assert_ptr_nonnull(smaller);
		ck_assert_int_eq(smaller[16], 7);
		weir_mem_fail_after(0);
		weir_free(smaller);
	}
	ck_assert_uint_eq(blocks_in_use(), 0);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* A block may be half empty then, but not more. */
START_TEST(much_larger_classes_do_not_serve)
{
	struct weir__alloc_config config;
	attach();
	void *keeps_the_span = weir_alloc(1024), *another = weir_alloc(4096);
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed();
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_ptr_null(weir_alloc(320));
	void *half_empty = weir_alloc(640);
	ck_assert_uint_eq(weir_usable_size(half_empty), 1024);
	weir_free(half_empty);
	weir_free(keeps_the_span);
	weir_free(another);
}
END_TEST

/* The array for the pointers comes from the heap, too. */
START_TEST(a_cache_that_gets_no_room_to_grow_stays_as_it_is)
{
	struct weir__alloc_config config;
	attach();
	weir_free(weir_alloc(112));
	struct weir__home *home = weir__home_self();
	uint32_t index = weir__class_pool(112);
	uint32_t room = home->bins[index].room;
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed();
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	weir__cache_resize(home, index, 100000);
	ck_assert_uint_eq(home->bins[index].room, room);
	ck_assert_uint_eq(home->heap.cache[index].cap, room);
}
END_TEST

Suite *alloc_hard_times_suite(void)
{
	Suite *s = suite_create("alloc_hard_times");
	bool plain = !WEIR__ASAN && !WEIR__TSAN;
	TCase *sizes = tcase_create("sizes");
	tcase_add_test(sizes, sizes_beyond_the_address_space_are_refused_and_nothing_breaks);
	tcase_add_test(sizes, each_refusal_counts_once);
	suite_add_tcase(s, sizes);
	TCase *memory = tcase_create("memory");
	tcase_set_timeout(memory, 30);
	if (plain) {
		tcase_add_test(memory, an_address_space_of_1_gb_is_shared_by_phases_of_any_size);
		tcase_add_test(memory,
			       a_limit_is_kept_while_load_oscillates_and_stages_come_in_order);
	}
	if (plain) {
		tcase_add_test(memory, free_blocks_of_a_class_are_no_reason_to_refuse_another);
		tcase_add_test(memory, a_large_block_grows_within_the_limit);
		tcase_add_test(memory, much_larger_classes_do_not_serve);
		tcase_add_test(memory, a_cache_that_gets_no_room_to_grow_stays_as_it_is);
		tcase_add_test(memory, at_the_limit_larger_classes_serve_smaller_ones);
		tcase_add_test(memory, without_pools_everything_works_and_nothing_is_cached);
	}
	tcase_add_test(memory, a_large_block_gets_smaller_at_the_limit);
	tcase_add_loop_test(memory, large_blocks_are_told_apart_whichever_goes_first, 0, 3);
	tcase_add_test(memory, a_block_gets_smaller_where_there_is_no_other);
	if (plain) /* else every block is watched, and none comes from elsewhere */
		tcase_add_test(memory,
			       a_full_window_is_no_reason_to_refuse_what_has_a_mapping_to_itself);
	tcase_add_test(memory, each_span_can_be_refused_and_all_is_given_back);
	suite_add_tcase(s, memory);
	TCase *threads = tcase_create("threads");
	tcase_set_timeout(threads, 60);
	if (plain) {
		tcase_add_test(threads, ten_thousand_threads_come_and_go_and_leave_nothing);
		tcase_add_test(threads,
			       a_fork_in_the_middle_of_everything_leaves_a_child_that_works);
	}
	suite_add_tcase(s, threads);
	return s;
}
