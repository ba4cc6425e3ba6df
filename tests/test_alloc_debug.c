/* SPDX-License-Identifier: MIT */
/* Debug levels: each sort of misuse, and the level that catches it. */
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"

static void attach_at(uint32_t level)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.debug = level;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_int_eq(weir__heap_attach(), 0);
}

START_TEST(correct_programs_are_not_accused)
{
	enum { LIVE = 500 };
	static unsigned char *block[LIVE];
	static size_t size[LIVE];
	unsigned seed = 7;
	attach_at((uint32_t)_i);
	for (int i = 0; i < 50000; i++) {
		unsigned k = (unsigned)rand_r(&seed) % LIVE;
		if (block[k] != NULL) {
			if (block[k][0] != (unsigned char)k ||
			    block[k][size[k] - 1] != (unsigned char)k)
				ck_abort_msg("overwritten");
			if (i % 3 == 0)
				weir_free_sized(block[k], size[k]);
			else
				weir_free(block[k]);
			block[k] = NULL;
			continue;
		}
		size[k] = 1 + (size_t)rand_r(&seed) % (1u << rand_r(&seed) % 18);
		block[k] = i % 5 == 0 ? weir_alloc_aligned(64, size[k]) : weir_alloc(size[k]);
		memset(block[k], (int)k, size[k]);
		if (i % 7 == 0) {
			block[k] = weir_realloc(block[k], size[k] += 100);
			memset(block[k], (int)k, size[k]);
		}
	}
	for (int k = 0; k < LIVE; k++)
		weir_free(block[k]);
	ck_assert_uint_eq(weir__reports, 0);
	ck_assert_uint_eq(weir_mem_leaks(-1), 0);
}
END_TEST

START_TEST(a_block_freed_twice_is_caught_whatever_lies_between)
{
	attach_at(1);
	void *a = weir_alloc(100), *b = weir_alloc(100);
	weir_free(a);
	weir_free(b);
	for (int i = 0; i < 10000; i++)
		weir_free(weir_alloc(200));
	weir_free(a);
	ck_assert_uint_eq(weir__reports, 1);
	ck_assert_ptr_ne(weir_alloc(100), weir_alloc(100));
}
END_TEST

/* There is no room for the pattern behind the largest class's blocks, and none is needed. */
START_TEST(the_largest_blocks_are_whole_at_each_level)
{
	attach_at((uint32_t)_i);
	for (size_t size = WEIR_CLASS_BYTES_MAX - 40; size <= WEIR_CLASS_BYTES_MAX + 8; size += 8) {
		char *block = weir_alloc(size), *aligned = weir_alloc_aligned(128 << 10, size);
		ck_assert_uint_ge(weir_usable_size(block), size);
		ck_assert_uint_ge(weir_usable_size(aligned), size);
		block[0] = block[size - 1] = aligned[0] = aligned[size - 1] = 1;
		weir_free(block);
		weir_free(aligned);
	}
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

START_TEST(a_block_of_no_bytes_can_grow)
{
	attach_at((uint32_t)_i);
	char *block = weir_realloc(weir_alloc(0), 100);
	ck_assert_ptr_nonnull(block);
	memset(block, 1, 100);
	block = weir_realloc(block, 0);
	ck_assert_ptr_nonnull(block);
	block = weir_realloc(block, 200);
	ck_assert_ptr_nonnull(block);
	weir_free(block);
	ck_assert_uint_eq(weir__reports, 0);
	ck_assert_uint_eq(weir_mem_leaks(-1), 0);
	ck_assert_ptr_null(weir_realloc(block + 16, 10));
	ck_assert_uint_eq(weir__reports, 1);
}
END_TEST

START_TEST(a_size_that_cannot_be_is_caught)
{
	attach_at(1);
	void *p = weir_alloc(100);
	weir_free_sized(p, 101);
	ck_assert_uint_eq(weir__reports, 1);
	weir_free_sized(p, 100);
	ck_assert_uint_eq(weir__reports, 1);
}
END_TEST

START_TEST(a_byte_written_past_the_end_is_caught)
{
	attach_at(2);
	for (size_t size = 1; size < 200000; size = size * 3 + 5) {
		uint64_t before = weir__reports;
		volatile char *p = weir_alloc(size);
		ck_assert_uint_eq(weir_usable_size((void *)p), size);
		p[size] ^= 1;
		weir_free((void *)p);
		ck_assert_uint_eq(weir__reports, before + 1);
	}
}
END_TEST

/* 104 bytes at 64 leave room for the pattern anyway; 64 leave none. */
START_TEST(a_byte_written_past_the_end_of_a_pool_s_object_is_caught)
{
	static const size_t sizes[] = { 1, 16, 24, 64, 104, 5000, 512 << 10 };

	attach_at(2);
	for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(*sizes); i++) {
		weir_pool *pool;
		uint64_t before = weir__reports;
		size_t align = i % 2 == 0 ? 16 : 64, size = sizes[i / 2];
		ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = size, .align = align), 0);
		volatile char *p = weir_pool_get(pool), *good = weir_pool_get(pool);
		ck_assert_uint_eq((uintptr_t)p % align, 0);
		ck_assert_uint_eq((uintptr_t)good % align, 0);
		good[size - 1] ^= 1;
		weir_pool_put(pool, (void *)good);
		ck_assert_uint_eq(weir__reports, before);
		p[size] ^= 1;
		weir_pool_put(pool, (void *)p);
		ck_assert_uint_eq(weir__reports, before + 1);
		weir_pool_free(pool);
	}
}
END_TEST

static bool move_anywhere(void *from, void *to, void *arg)
{
	void **list = arg;

	(void)to;
	for (int i = 0; i < 3000; i++)
		if (list[i] == from)
			list[i] = to;
	return true;
}

START_TEST(an_object_that_was_moved_is_not_accused)
{
	static void *objects[3000];
	weir_pool *pool;

	attach_at(2);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 120, .move = move_anywhere,
				       .move_arg = objects),
			 0);
	for (int i = 0; i < 3000; i++)
		objects[i] = memset(weir_pool_get(pool), i, 120);
	for (int i = 0; i < 3000; i++)
		if (i % 8 != 0) {
			weir_pool_put(pool, objects[i]);
			objects[i] = NULL;
		}
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	ck_assert_uint_gt(weir__compact_counts.moved, 0);
	for (int i = 0; i < 3000; i += 8) {
		ck_assert_int_eq(((unsigned char *)objects[i])[119], (unsigned char)i);
		weir_pool_put(pool, objects[i]);
	}
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

START_TEST(a_write_after_free_is_caught)
{
	attach_at(2);
	char *volatile p = weir_alloc(100);
	weir_free(p);
	*(volatile char *)(p + 50) = 1;
	for (int i = 0; i < 1000; i++)
		weir_free(weir_alloc(100));
	ck_assert_uint_eq(weir__reports, 1);
}
END_TEST

START_TEST(fresh_and_freed_memory_is_recognised)
{
	attach_at(2);
	unsigned char *volatile p = weir_alloc(100);
	ck_assert_uint_eq(p[0], 0xd0);
	ck_assert_uint_eq(p[99], 0xd0);
	unsigned char *zero = weir_zalloc(100);
	ck_assert_uint_eq(zero[99], 0);
}
END_TEST

static __attribute__((noinline)) void *leak_here(size_t size)
{
	void *block = weir_alloc(size);
	__asm__ volatile("" : "+r"(block)); /* no tail call: the site is in here */
	return block;
}

static char report[4000];

static void read_report(uint64_t want_blocks)
{
	int fds[2];
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_uint_eq(weir_mem_leaks(fds[1]), want_blocks);
	close(fds[1]);
	ssize_t n = read(fds[0], report, sizeof(report) - 1);
	ck_assert_int_ge(n, 0);
	report[n] = '\0';
	close(fds[0]);
}

START_TEST(what_was_never_freed_is_reported_by_trace)
{
	attach_at(3);
	read_report(0);
	ck_assert_str_eq(report, "");
	void *kept[5];
	for (volatile int i = 0; i < 5; i++) /* one call, not five: unrolled they would be */
		kept[i] = leak_here(1000);
	void *other = weir_alloc(70);
	weir_free(weir_alloc(50));
	read_report(6);
	ck_assert_ptr_nonnull(
		strstr(report, "5 blocks, 5000 bytes, not freed, allocated\n    #0 "));
	ck_assert_ptr_nonnull(strstr(report, "1 blocks, 70 bytes, not freed, allocated\n    #0 "));
	for (int i = 0; i < 5; i++)
		weir_free(kept[i]);
	weir_free(other);
	read_report(0);
}
END_TEST

/* Where it was called: in leak_here(), not in the allocator. */
START_TEST(a_trace_begins_with_the_program_s_own_call)
{
	Dl_info info;
	attach_at(3);
	void *block = leak_here(1000);
	read_report(1);
	const char *plus = strchr(strstr(report, "#0"), '+');
	ck_assert(plus != NULL && dladdr((void *)leak_here, &info) != 0);
	uintptr_t offset = (uintptr_t)strtoul(plus + 1, NULL, 16);
	uintptr_t begin = (uintptr_t)leak_here - (uintptr_t)info.dli_fbase;
	ck_assert_msg(offset > begin && offset < begin + 4000, "%s", report);
	weir_free(block);
}
END_TEST

static __attribute__((noinline)) void *leak_there(size_t size)
{
	void *block = leak_here(size);
	__asm__ volatile("" : "+r"(block));
	return block;
}

START_TEST(callers_of_one_allocating_function_are_told_apart)
{
	attach_at(3);
	void *a = leak_here(100), *b = leak_there(100);
	read_report(2);
	const char *first = strstr(report, "1 blocks, 100 bytes");
	ck_assert(first != NULL && strstr(first + 1, "1 blocks, 100 bytes") != NULL);
	weir_free(a);
	weir_free(b);
}
END_TEST

START_TEST(a_write_after_free_is_caught_while_the_block_waits)
{
	attach_at(2);
	char *volatile p = weir_alloc(100);
	weir_free(p);
	*(volatile char *)(p + 50) = 1;
	ck_assert_uint_eq(weir_mem_leaks(-1), 0);
	ck_assert_uint_eq(weir__reports, 1);
	ck_assert_uint_eq(weir_mem_leaks(-1), 0);
	ck_assert_uint_eq(weir__reports, 1); /* told once */
}
END_TEST

static void *free_it(void *block)
{
	weir_free(block);
	return NULL;
}

START_TEST(checks_hold_for_blocks_freed_by_other_threads)
{
	pthread_t thread;
	attach_at(2);
	char *volatile good = weir_alloc(100), *volatile bad = weir_alloc(100);
	bad[100] ^= 1;
	pthread_create(&thread, NULL, free_it, good);
	pthread_join(thread, NULL);
	pthread_create(&thread, NULL, free_it, bad);
	pthread_join(thread, NULL);
	weir__heap_turn(1);
	ck_assert_uint_eq(weir__reports, 1);
	weir_free(good);
	ck_assert_uint_eq(weir__reports, 2);
}
END_TEST

static void *free_some_and_stay(void *blocks)
{
	pthread_barrier_t *meet = ((void **)blocks)[9];
	ck_assert_int_eq(weir_thread_attach(), 0);
	for (int i = 0; i < 9; i++) /* too few to be sent */
		weir_free(((void **)blocks)[i]);
	pthread_barrier_wait(meet);
	pthread_barrier_wait(meet);
	return NULL;
}

/* With whom they lie, or that nobody has fetched them, is no business of the program's. */
START_TEST(blocks_on_their_way_home_are_no_leaks)
{
	pthread_t thread, other;
	pthread_barrier_t meet;
	void *blocks[10] = { [9] = &meet };
	attach_at((uint32_t)_i);
	pthread_barrier_init(&meet, NULL, 2);
	for (size_t i = 0; i < 9; i++)
		blocks[i] = weir_alloc(i * i * i * 10);
	void *posted = weir_alloc(300), *kept = weir_alloc(300);
	pthread_create(&thread, NULL, free_it, posted); /* at once, as it has no heap */
	pthread_join(thread, NULL);
	pthread_create(&other, NULL, free_some_and_stay, blocks);
	pthread_barrier_wait(&meet);
	ck_assert_uint_eq(weir_mem_leaks(-1), 1);
	pthread_barrier_wait(&meet);
	pthread_join(other, NULL);
	ck_assert_uint_eq(weir_mem_leaks(-1), 1);
	weir_free(kept);
	weir__heap_turn(1);
	ck_assert_uint_eq(weir_mem_leaks(-1), 0);
	ck_assert_uint_eq(weir__reports, 0);
	pthread_barrier_destroy(&meet);
}
END_TEST

START_TEST(the_level_is_fixed_once_there_are_heaps)
{
	struct weir__alloc_config config;
	attach_at(1);
	weir__alloc_config_get(&config);
	config.debug = 2;
	ck_assert_int_eq(weir__alloc_configure(&config), -EBUSY);
	config.debug = 4;
	ck_assert_int_eq(weir__alloc_configure(&config), -EINVAL);
}
END_TEST

Suite *alloc_debug_suite(void)
{
	Suite *s = suite_create("alloc_debug");
	TCase *levels = tcase_create("levels");
	tcase_set_timeout(levels, 20);
	tcase_add_loop_test(levels, correct_programs_are_not_accused, 1, 4);
	tcase_add_loop_test(levels, the_largest_blocks_are_whole_at_each_level, 1, 4);
	tcase_add_test(levels, a_block_freed_twice_is_caught_whatever_lies_between);
	tcase_add_loop_test(levels, a_block_of_no_bytes_can_grow, 1, 4);
	tcase_add_test(levels, a_size_that_cannot_be_is_caught);
	tcase_add_test(levels, an_object_that_was_moved_is_not_accused);
	if (!WEIR__ASAN) { /* which catches them first, and ends the program */
		tcase_add_test(levels, a_byte_written_past_the_end_is_caught);
		tcase_add_test(levels, a_byte_written_past_the_end_of_a_pool_s_object_is_caught);
		tcase_add_test(levels, a_write_after_free_is_caught);
		tcase_add_test(levels, a_write_after_free_is_caught_while_the_block_waits);
		tcase_add_test(levels, checks_hold_for_blocks_freed_by_other_threads);
	}
	tcase_add_test(levels, fresh_and_freed_memory_is_recognised);
	tcase_add_test(levels, what_was_never_freed_is_reported_by_trace);
	tcase_add_test(levels, a_trace_begins_with_the_program_s_own_call);
	tcase_add_test(levels, callers_of_one_allocating_function_are_told_apart);
	tcase_add_loop_test(levels, blocks_on_their_way_home_are_no_leaks, 1, 4);
	tcase_add_test(levels, the_level_is_fixed_once_there_are_heaps);
	suite_add_tcase(s, levels);
	return s;
}
