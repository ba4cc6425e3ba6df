/* SPDX-License-Identifier: MIT */
/*
 * Acceptance: the allocator that the Zokio analysis asks for. Pools from 8 B to 64 KB instead of to
 * 256 B, sizes that follow demand by its thresholds, memory that pools share, compaction and three
 * stages of pressure, a small start and at most 5 MB held when nothing is in use. Its loops are
 * timed in bench/bench_alloc.c; here they must not leave the caches.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"

enum { MB = 1 << 20 };

static int64_t now;

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir_mem_level_force(WEIR_MEM_NONE);
	now = weir__os_now();
	weir__heap_turn(now);
}

static struct weir_mem_stats stats(void)
{
	struct weir_mem_stats ret;
	weir_mem_stats_get(&ret);
	return ret;
}

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

/* ---- Coverage ------------------------------------------------------------------------------- */

START_TEST(every_request_to_64_kb_and_beyond_is_pooled)
{
	attach();
	for (size_t size = 1; size <= MB; size = size * 9 / 8 + 1) {
		weir_free(weir_alloc(size));
		uint64_t misses = stats().misses;
		for (int i = 0; i < 100; i++)
			weir_free(weir_alloc(size));
		if (stats().misses != misses)
			ck_abort_msg("%zu bytes: not from the cache", size);
	}
}
END_TEST

/* The load that was compared with Tokio, and the other loops, with one, 32 and 1024 blocks out. */
static size_t size_of(int loop, unsigned i)
{
	switch (loop) {
	case 0:
		return 64;
	case 1:
		return (size_t)8 << i % 6;
	case 2:
		return (size_t)512 << i % 5;
	default:
		return 1024 + i % 4096;
	}
}

static void run_loop(int loop, unsigned live)
{
	static char *ring[1024];
	for (unsigned i = 0; i < 20000; i++) {
		size_t size = size_of(loop, i);
		weir_free(ring[i % live]);
		ring[i % live] = memset(weir_alloc(size), 0, size);
		if (i % 2000 == 0)
			weir__heap_turn(now += 100 * WEIR__MS);
	}
	for (unsigned i = 0; i < live; i++) {
		weir_free(ring[i]);
		ring[i] = NULL;
	}
}

START_TEST(the_loops_are_served_from_the_caches)
{
	static const unsigned live[] = { 1, 32, 1024 };
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.worker_bytes = 32 * MB; /* 1024 of 1 to 5 KB, one class after the other, are 14 MB */
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	attach();
	for (int loop = 0; loop < 4; loop++) {
		run_loop(loop, live[_i]);
		run_loop(loop, live[_i]);
		struct weir_mem_stats before = stats();
		run_loop(loop, live[_i]);
		struct weir_mem_stats after = stats();
		uint64_t allocs = after.allocs - before.allocs;
		uint64_t misses = after.misses - before.misses;
		if (live[_i] == 1)
			ck_assert_uint_eq(misses, 0);
		ck_assert_uint_le(misses * 100, allocs); /* 99 % hits, whatever is out */
	}
}
END_TEST

/* ---- A small start -------------------------------------------------------------------------- */

START_TEST(thirteen_pools_with_their_counts_cost_nothing_before_they_are_used)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	ck_assert_int_eq(weir__classes_parse("zokio", &config.classes), 0);
	ck_assert_int_eq(weir__reserves_parse("zokio", &config.reserves), 0);
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	(void)resident();
	size_t before = resident();
	attach();
	for (size_t size = 8; size <= 64 << 10; size *= 2)
		weir_free(weir_alloc(size));
	ck_assert_uint_lt(resident() - before, MB);
	ck_assert_uint_le(weir__home_self()->cap_bytes, config.worker_bytes);
}
END_TEST

/* ---- Its thresholds ------------------------------------------------------------------------- */

static uint32_t next(double hit_rate, double swing, uint32_t cap, int64_t idle_ms)
{
	struct weir__law law = { .hit_rate = hit_rate, .swing = swing };
	struct weir__epoch epoch = { 0 };
	return weir__law_next(&law, &epoch, cap, 1, idle_ms * WEIR__MS);
}

START_TEST(the_thresholds_are_honoured_and_made_safe)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.adapt = WEIR__ADAPT_THRESHOLD;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_uint_eq(next(0.95, 90, 100, 0), 150); /* hit > 0.9 and pressure > 0.8: x 1.5 */
	ck_assert_uint_eq(next(0.89, 90, 100, 0), 100);
	ck_assert_uint_eq(next(0.95, 80, 100, 0), 100);
	ck_assert_uint_eq(next(0.29, 0, 100, 60001), 70); /* hit < 0.3 and idle > 60 s: x 0.7 */
	ck_assert_uint_eq(next(0.29, 0, 100, 60000), 100);
	ck_assert_uint_eq(next(0.31, 0, 100, 60001), 100);
	ck_assert_uint_eq(next(0.0, 0, 1, 60001), 1); /* never dead */
	ck_assert_uint_gt(next(1.0, 1.0, 1, 0), 1);   /* 1 x 1.5 is more than 1 */
	config.grow_percent = 170;
	config.shrink_percent = 60;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_uint_eq(next(0.95, 90, 100, 0), 170);
	ck_assert_uint_eq(next(0.29, 0, 100, 60001), 60);
}
END_TEST

/* ---- Memory that pools share ---------------------------------------------------------------- */

START_TEST(memory_of_one_pool_serves_the_others)
{
	enum { BLOCKS = 16000 }; /* of 4 KiB: four times what caches may hold */
	static void *block[BLOCKS];
	attach();
	for (int i = 0; i < BLOCKS; i++)
		block[i] = weir_alloc(4096);
	for (int i = 0; i < BLOCKS; i++)
		weir_free(block[i]);
	uint64_t before = stats().span_bytes;
	for (size_t size = 64; size <= 2048; size *= 2) {
		for (int i = 0; i < BLOCKS; i++)
			block[i] = weir_alloc(size);
		for (int i = 0; i < BLOCKS; i++)
			weir_free(block[i]);
	}
	ck_assert_uint_le(stats().span_bytes, before + MB);
}
END_TEST

/* ---- After any load ------------------------------------------------------------------------- */

enum { KEEP = 20000 };
static void *kept[KEEP];

static void many_small(void)
{
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < KEEP; i++)
			kept[i] = memset(weir_alloc(16 + (size_t)i % 2000), 1, 16);
		for (int i = 0; i < KEEP; i++)
			weir_free(kept[i]);
		weir__heap_turn(now += 100 * WEIR__MS);
	}
}

static void few_large(void)
{
	for (int i = 0; i < 60; i++)
		kept[i] = memset(weir_alloc((size_t)MB + (size_t)i * 70000), 1, MB);
	for (int i = 0; i < 60; i++)
		weir_free(kept[i]);
}

static void every_class(void)
{
	for (unsigned class = 0; class < WEIR_CLASS_COUNT; class ++) {
		size_t size = weir_class_size(class);
		int n = (int)((2 * MB + size - 1) / size);
		for (int i = 0; i < n && i < KEEP; i++)
			kept[i] = memset(weir_alloc(size), 1, size);
		for (int i = 0; i < n && i < KEEP; i++)
			weir_free(kept[i]);
	}
}

/* Sizes drift: what one round leaves free does not fit the next. */
static void drifting(void)
{
	for (size_t size = 500; size < 500000; size = size * 11 / 8) {
		size_t n = 20 * (size_t)MB / size;
		for (size_t i = 0; i < n && i < KEEP; i++)
			kept[i] = memset(weir_alloc(size), 1, size);
		for (size_t i = 0; i < n && i < KEEP; i += 2) /* every other first */
			weir_free(kept[i]);
		for (size_t i = 1; i < n && i < KEEP; i += 2)
			weir_free(kept[i]);
	}
}

static void *free_all(void *arg)
{
	(void)arg;
	for (int i = 0; i < KEEP; i++)
		weir_free(kept[i]);
	return NULL;
}

static void freed_elsewhere(void)
{
	pthread_t thread;
	for (int i = 0; i < KEEP; i++)
		kept[i] = memset(weir_alloc(3000), 1, 3000);
	pthread_create(&thread, NULL, free_all, NULL);
	pthread_join(thread, NULL);
}

static void (*const loads[])(void) = { many_small, few_large, every_class, drifting,
				       freed_elsewhere };

START_TEST(after_any_load_95_percent_of_the_surplus_goes_with_time)
{
	attach();
	size_t before = resident();
	loads[_i]();
	size_t peak = resident();
	int64_t end = now + 30000 * WEIR__MS; /* caches rest for 10 s, then runs for 10 s */
	for (int64_t due = weir__heap_idle(now); due < end;)
		due = weir__heap_idle(now = due);
	size_t after = resident();
	if (peak - before > 20 * MB)
		ck_assert_uint_le((after - before) * 20, peak - before);
	ck_assert_uint_le(after - before, 2 * MB);
}
END_TEST

START_TEST(after_any_load_compaction_leaves_at_most_5_mb)
{
	attach();
	size_t before = resident();
	loads[_i]();
	(void)weir_mem_compact(SIZE_MAX, _i % 2 == 0 ? WEIR_MEM_HIGH : WEIR_MEM_CRITICAL);
	ck_assert_uint_le(stats().span_bytes, 5 * MB);
	ck_assert_uint_le(resident() - before, 5 * MB);
	weir_free(weir_alloc(100));
}
END_TEST

/* Idle objects, then sparse spans, then the caches themselves. */
START_TEST(the_three_stages_give_back_one_after_the_other)
{
	uint64_t cached[WEIR_MEM_CRITICAL + 1] = { 0 };
	attach();
	for (int level = WEIR_MEM_LOW; level <= WEIR_MEM_CRITICAL; level++) {
		many_small();
		weir_mem_level_force(level);
		weir__heap_turn(now += 1100 * WEIR__MS);
		cached[level] = stats().cached_bytes;
		ck_assert_uint_eq(stats().stages[level].runs, level >= WEIR_MEM_MEDIUM);
		if (level >= WEIR_MEM_MEDIUM)
			ck_assert_uint_gt(stats().stages[level].returned_bytes, 0);
	}
	ck_assert_uint_gt(cached[WEIR_MEM_LOW], cached[WEIR_MEM_MEDIUM]);
	ck_assert_uint_gt(cached[WEIR_MEM_MEDIUM], cached[WEIR_MEM_HIGH]);
	ck_assert_uint_eq(stats().capacity_bytes, 0); /* at the last one */
}
END_TEST

Suite *alloc_zokio_suite(void)
{
	Suite *s = suite_create("alloc_zokio");
	bool plain = !WEIR__ASAN && !WEIR__TSAN; /* else memory and caches are the sanitizer's */
	TCase *pools = tcase_create("pools");
	tcase_set_timeout(pools, 30);
	if (plain) {
		tcase_add_test(pools, every_request_to_64_kb_and_beyond_is_pooled);
		tcase_add_loop_test(pools, the_loops_are_served_from_the_caches, 0, 3);
		tcase_add_test(pools,
			       thirteen_pools_with_their_counts_cost_nothing_before_they_are_used);
	}
	tcase_add_test(pools, the_thresholds_are_honoured_and_made_safe);
	tcase_add_test(pools, memory_of_one_pool_serves_the_others);
	suite_add_tcase(s, pools);
	TCase *back = tcase_create("given_back");
	tcase_set_timeout(back, 30);
	if (plain) {
		const int n = sizeof(loads) / sizeof(*loads);
		tcase_add_loop_test(back, after_any_load_95_percent_of_the_surplus_goes_with_time,
				    0, n);
		tcase_add_loop_test(back, after_any_load_compaction_leaves_at_most_5_mb, 0, n);
		tcase_add_test(back, the_three_stages_give_back_one_after_the_other);
	}
	suite_add_tcase(s, back);
	return s;
}
