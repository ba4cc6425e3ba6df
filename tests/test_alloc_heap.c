/* SPDX-License-Identifier: MIT */
/* Blocks: what weir_alloc() gives and weir_free() takes, with and without a heap of one's own. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/heap_test.h"

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

START_TEST(first_blocks_of_different_sizes_lie_in_different_sets_of_a_cache)
{
	unsigned begin_in[64] = { 0 };
	attach();
	for (unsigned c = weir_size_class(256); c <= weir_size_class(1024); c++) {
		void *block = weir_alloc(weir_class_size(c));
		ck_assert_ptr_nonnull(block);
		unsigned set = (unsigned)((uintptr_t)block / 64 % 64);
		ck_assert_uint_le(++begin_in[set], 2);
	}
}
END_TEST

START_TEST(first_blocks_of_a_size_lie_in_one_page)
{
	attach();
	for (unsigned c = 0; c <= weir_size_class(1024); c++)
		for (int i = 0; i < 2; i++) {
			char *block = weir_alloc(weir_class_size(c));
			ck_assert_ptr_nonnull(block);
			size_t offset = (uintptr_t)block % WEIR__UNIT_BYTES;
			ck_assert_uint_le(offset + weir_class_size(c), 4096);
		}
}
END_TEST

START_TEST(all_objects_of_a_span_can_be_taken_at_once)
{
	static void *taken[4096];
	attach();
	for (unsigned c = 0; c <= weir_size_class(4096); c++) {
		uint32_t bytes = (uint32_t)weir_class_size(c);
		uint32_t index = weir__class_pool(bytes);
		uint32_t objects = weir__pools[index].span_objects;
		ck_assert_uint_eq(weir__span_take(weir__home_self(), index, taken, objects),
				  objects);
		for (uint32_t i = 0; i < objects; i++) {
			ck_assert(i == 0 || (char *)taken[i] == (char *)taken[i - 1] + bytes);
			memset(taken[i], 1, bytes);
		}
		for (uint32_t i = 1; i < objects; i++) /* the next span lies elsewhere */
			ck_assert(weir__span_give(weir__home_self(), taken[i]));
	}
}
END_TEST

START_TEST(a_span_is_used_up_before_another_begins)
{
	attach();
	for (unsigned c = 0; c <= weir_size_class(4096); c++) {
		uint32_t index = weir__class_pool(weir_class_size(c));
		uint32_t objects = weir__pools[index].span_objects;
		const struct weir__bin *bin = &weir__home_self()->bins[index];
		for (uint32_t i = 0; i < 2 * objects; i++) {
			ck_assert_ptr_nonnull(weir_alloc(weir_class_size(c)));
			ck_assert_uint_eq(bin->spans, (bin->out + objects - 1) / objects);
		}
	}
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
	tcase_add_test(sizes, first_blocks_of_different_sizes_lie_in_different_sets_of_a_cache);
	tcase_add_test(sizes, first_blocks_of_a_size_lie_in_one_page);
	tcase_add_test(sizes, all_objects_of_a_span_can_be_taken_at_once);
	tcase_add_test(sizes, a_span_is_used_up_before_another_begins);
	suite_add_tcase(s, sizes);
	TCase *misuse = tcase_create("misuse");
	tcase_add_test(misuse, pointers_that_are_no_blocks_are_reported_and_left_alone);
	tcase_add_test(misuse, a_block_freed_twice_in_a_row_is_reported);
	suite_add_tcase(s, misuse);
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
