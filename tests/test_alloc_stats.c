/* SPDX-License-Identifier: MIT */
/*
 * Statistics are read by anybody at any time: no torn figure, and nothing for ThreadSanitizer.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/runtime_test.h"

static atomic_bool done;

/* Bursts that grow, so that caches are resized. */
static int burst(void *arg)
{
	static void *blocks[4000];
	int64_t end = weir_now() + 300 * WEIR_MS;

	(void)arg;
	for (int most = 8; weir_now() < end; most = most * 2 > 4000 ? 8 : most * 2) {
		for (int i = 0; i < most; i++)
			expect((blocks[i] = weir_alloc(200)) != NULL);
		for (int i = 0; i < most; i++)
			weir_free(blocks[i]);
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	}
	return 0;
}

static void *read_all(void *unused)
{
	(void)unused;
	while (!done) {
		struct weir_mem_stats stats;
		weir_mem_stats_get(&stats);
		expect(stats.misses <= stats.allocs);
	}
	return NULL;
}

START_TEST(statistics_may_be_read_while_caches_are_resized)
{
	struct weir_mem_stats before, after;
	pthread_t reader;

	weir_mem_stats_get(&before);
	ck_assert_int_eq(pthread_create(&reader, NULL, read_all, NULL), 0);
	run_on(1, burst, NULL);
	done = true;
	pthread_join(reader, NULL);
	weir_mem_stats_get(&after);
	ck_assert_uint_gt(after.allocs, before.allocs);
}
END_TEST

Suite *alloc_stats_suite(void)
{
	Suite *suite = suite_create("alloc_stats");
	TCase *reading = tcase_create("reading");

	tcase_add_test(reading, statistics_may_be_read_while_caches_are_resized);
	suite_add_tcase(suite, reading);
	return suite;
}
