/* SPDX-License-Identifier: MIT */
/*
 * Acceptance: the graded buffer pools of an encoder. Its report had three pools that wasted up to
 * 97 % at their boundaries, buffers whose capacity did not match their pool, and 104 MB left behind
 * by 1000 buffers of 1 MB. What it asks for: less than 50 % waste at every boundary, capacities
 * that stay true, less than 10 MB left behind, no allocation in steady use, and safety in threads.
 * The same table can be had (WEIR_POOL_CLASSES=graded) to see what it would waste.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc/heap.h"

enum { KB = 1 << 10, MB = 1 << 20 };

static int64_t now;

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir_mem_level_force(WEIR_MEM_NONE);
	now = weir__os_now();
	weir__heap_turn(now);
}

static void configure(const char *classes)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	ck_assert_int_eq(weir__classes_parse(classes, &config.classes), 0);
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}

/* Anonymous memory that the kernel could not take at once. */
static size_t resident(void)
{
	char line[256];
	unsigned long kib = 0, anonymous = 0, lazy = 0;
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "Anonymous: %lu kB", &kib) == 1)
			anonymous = kib;
		if (sscanf(line, "LazyFree: %lu kB", &kib) == 1)
			lazy = kib;
	}
	fclose(file);
	return (anonymous - lazy) * 1024;
}

static size_t room_of(size_t size)
{
	void *block = weir_alloc(size);
	if (block == NULL)
		ck_abort_msg("no block of %zu bytes", size);
	size_t room = weir_usable_size(block);
	((volatile char *)block)[0] = 1;
	((volatile char *)block)[room - 1] = 1;
	weir_free(block);
	return room;
}

/* ---- Waste ---------------------------------------------------------------------------------- */

/* The report's rows, and what its three pools wasted. */
static const struct {
	const char *name;
	size_t size;
	double before;
} row[] = {
	{ "63 KB", 63 * KB, 1.6 },	  { "64 KB", 64 * KB, 0 }, { "65 KB", 65 * KB, 96.8 },
	{ "512 KB", 512 * KB, 75.0 },	  { "1 MB", MB, 50.0 },	   { "2 MB", 2 * MB, 0 },
	{ "2 MB + 1", 2 * MB + 1, 80.0 }, { "10 MB", 10 * MB, 0 },
};

/* Prints them, and returns the waste of all eight together. */
static double table(const char *name)
{
	double used = 0, given = 0;
	printf("%-10s %12s %12s %8s %8s\n", name, "asked", "block", "waste", "before");
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		size_t room = room_of(row[i].size);
		double waste = 100.0 * (double)(room - row[i].size) / (double)room;
		printf("%-10s %12zu %12zu %7.1f%% %7.1f%%\n", row[i].name, row[i].size, room, waste,
		       row[i].before);
		if (strcmp(name, "default") == 0)
			ck_assert_double_le(waste, 20.0);
		used += (double)row[i].size;
		given += (double)room;
	}
	printf("%-10s %33.1f%%\n", "together", 100.0 * (given - used) / given);
	return (given - used) / given;
}

START_TEST(the_eight_boundary_rows_waste_less_than_before_and_than_the_graded_table)
{
	configure(_i == 0 ? "geom4" : "graded");
	attach();
	double waste = table(_i == 0 ? "default" : "graded");
	if (_i == 0)
		ck_assert_double_lt(waste, 0.05);
	else /* 2 MB + 1 in 10 MB: the row that its own test would have failed */
		ck_assert_double_gt(waste, 0.2);
}
END_TEST

START_TEST(every_size_to_10_mb_and_one_is_served_and_no_size_wastes_half)
{
	double used = 0, given = 0;
	attach();
	for (size_t size = 0; size <= 10 * (size_t)MB + 1; size++) {
		size_t room = room_of(size);
		if (room < size || (size > 64 && (room - size) * 5 > room) ||
		    (size > 8 && (room - size) * 2 >= room))
			ck_abort_msg("%zu bytes in %zu", size, room);
		if (size > 64) { /* each weighs what it does on a logarithmic scale */
			used += 1;
			given += (double)room / (double)size;
		}
	}
	ck_assert_double_le(1 - used / given, 0.10);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* ---- Capacities ----------------------------------------------------------------------------- */

START_TEST(a_million_operations_later_every_block_has_the_capacity_of_its_class)
{
	enum { LIVE = 200, OPS = 1000000 };
	static void *block[LIVE];
	unsigned seed = (unsigned)time(NULL), state = seed;
	attach();
	for (int i = 0; i < OPS; i++) {
		void **at = &block[rand_r(&state) % LIVE];
		weir_free(*at);
		size_t size = (size_t)(rand_r(&state) % (64 << rand_r(&state) % 15)) + 1;
		*at = weir_alloc(size);
		if (*at == NULL || weir_usable_size(*at) != weir_class_size(weir_size_class(size)))
			ck_abort_msg("seed %u: %zu bytes in %zu", seed, size,
				     weir_usable_size(*at));
	}
	for (int i = 0; i < LIVE; i++)
		weir_free(block[i]);
}
END_TEST

START_TEST(a_block_that_is_not_ours_enters_no_pool)
{
	attach();
	char *foreign = malloc(65 * KB);
	weir_free(foreign);
	ck_assert_uint_eq(weir__reports, 1);
	for (int i = 0; i < 100; i++)
		ck_assert_ptr_ne(weir_alloc(65 * KB), foreign);
	free(foreign);
}
END_TEST

/* ---- What stays behind ---------------------------------------------------------------------- */

static void *get_touch_put(void *arg)
{
	int live = *(int *)arg;
	char *block[32];
	if (weir__home_self() == NULL)
		ck_assert_int_eq(weir_thread_attach(), 0);
	for (int i = 0; i < 1000 / live; i++) {
		for (int k = 0; k < live; k++)
			memset(block[k] = weir_alloc(MB), k, MB);
		for (int k = 0; k < live; k++)
			weir_free(block[k]);
	}
	return NULL;
}

/* As a worker that has nothing else to do. */
static void decay(void)
{
	int64_t next = weir__heap_idle(now);
	while (next != INT64_MAX)
		next = weir__heap_idle(now = next);
}

START_TEST(a_thousand_buffers_of_1_mb_leave_next_to_nothing)
{
	int live = _i == 0 ? 1 : 32;
	attach();
	size_t before = resident();
	(void)get_touch_put(&live);
	if (live > 1)
		decay();
	ck_assert_uint_lt(resident() - before, 2 * MB);
}
END_TEST

START_TEST(so_do_eight_threads_of_them)
{
	enum { THREADS = 8 };
	pthread_t thread[THREADS];
	int live = 1;
	attach();
	size_t before = resident();
	for (int i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, get_touch_put, &live);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_uint_lt(resident() - before, 2 * MB);
}
END_TEST

START_TEST(in_steady_use_nothing_is_allocated)
{
	struct weir_mem_stats before, after;
	attach();
	for (int round = 0; round < 1000; round++) {
		if (round == 10)
			weir_mem_stats_get(&before);
		for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
			(void)room_of(row[i].size);
		weir__heap_turn(now += 10 * WEIR__MS);
	}
	weir_mem_stats_get(&after);
	ck_assert_uint_eq(after.misses, before.misses);
	ck_assert_uint_eq(after.os_maps, before.os_maps);
	ck_assert_uint_ge(after.allocs - before.allocs, 7900);
}
END_TEST

Suite *alloc_graded_buffers_suite(void)
{
	Suite *s = suite_create("alloc_graded_buffers");
	bool plain = !WEIR__ASAN && !WEIR__TSAN; /* else memory and time are the sanitizer's */
	TCase *waste = tcase_create("waste");
	tcase_set_timeout(waste, 30);
	if (plain) {
		tcase_add_loop_test(
			waste,
			the_eight_boundary_rows_waste_less_than_before_and_than_the_graded_table, 0,
			2);
		tcase_add_test(waste,
			       every_size_to_10_mb_and_one_is_served_and_no_size_wastes_half);
	}
	suite_add_tcase(s, waste);
	TCase *capacity = tcase_create("capacity");
	tcase_set_timeout(capacity, 60);
	if (plain)
		tcase_add_test(
			capacity,
			a_million_operations_later_every_block_has_the_capacity_of_its_class);
	tcase_add_test(capacity, a_block_that_is_not_ours_enters_no_pool);
	suite_add_tcase(s, capacity);
	TCase *left = tcase_create("left_behind");
	tcase_set_timeout(left, 30);
	if (plain) {
		tcase_add_loop_test(left, a_thousand_buffers_of_1_mb_leave_next_to_nothing, 0, 2);
		tcase_add_test(left, so_do_eight_threads_of_them);
		tcase_add_test(left, in_steady_use_nothing_is_allocated);
	}
	suite_add_tcase(s, left);
	return s;
}
