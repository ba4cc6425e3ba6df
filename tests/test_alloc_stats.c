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

static void *read_pools(void *unused)
{
	(void)unused;
	while (!done) {
		struct weir_pool_stats stats[64];
		size_t n = weir_pool_stats_get(stats, 64);
		for (size_t i = 0; i < n; i++)
			expect(stats[i].misses <= stats[i].allocs);
	}
	return NULL;
}

/* Of more than a unit's alignment: no cache serves these, each is a miss. */
static int only_misses(void *arg)
{
	int64_t end = weir_now() + 300 * WEIR_MS;

	(void)arg;
	while (weir_now() < end) {
		for (int i = 0; i < 1000; i++) {
			void *block = weir_alloc_aligned(131072, 200);
			expect(block != NULL);
			weir_free(block);
		}
		ck_assert_int_eq(weir_yield(), 0);
	}
	return 0;
}

/* Of each pool of each heap: what the text says of both. */
static void check_text(const char *text)
{
	static unsigned long long misses[4][1024], allocs[4][1024];
	unsigned heap, id;
	char figure[16];

	memset(misses, 0, sizeof misses);
	memset(allocs, 0, sizeof allocs);
	for (; text; text = strchr(text, '\n')) {
		text += *text == '\n';
		if (sscanf(text, "weir_pool_%15[a-z]_total{heap=\"%u\",id=\"%u\"", figure, &heap,
			   &id) != 3 ||
		    heap >= 4 || id >= 1024)
			continue;
		const char *value = strstr(text, "} ");
		expect(value != NULL);
		unsigned long long n = strtoull(value + 2, NULL, 10);
		if (strcmp(figure, "misses") == 0)
			misses[heap][id] = n;
		else if (strcmp(figure, "allocs") == 0)
			allocs[heap][id] = n;
	}
	for (heap = 0; heap < 4; heap++)
		for (id = 0; id < 1024; id++)
			if (misses[heap][id] > allocs[heap][id])
				ck_abort_msg("%llu of %llu", misses[heap][id], allocs[heap][id]);
}

static void *scrape(void *unused)
{
	unsigned scrapes = 0;

	for (; !done; scrapes++) {
		char *text;
		size_t length;
		FILE *out = open_memstream(&text, &length);
		expect(out && weir_mem_write_openmetrics(out) == 0 && fclose(out) == 0);
		check_text(text);
		free(text);
	}
	expect(scrapes > 0);
	return unused;
}

START_TEST(no_scraper_sees_more_misses_than_allocations)
{
	pthread_t reader;

	ck_assert_int_eq(pthread_create(&reader, NULL, scrape, NULL), 0);
	run_on(1, only_misses, NULL);
	done = true;
	pthread_join(reader, NULL);
}
END_TEST

START_TEST(no_reader_sees_more_misses_than_allocations)
{
	pthread_t reader;

	ck_assert_int_eq(pthread_create(&reader, NULL, read_pools, NULL), 0);
	run_on(1, only_misses, NULL);
	done = true;
	pthread_join(reader, NULL);
}
END_TEST

Suite *alloc_stats_suite(void)
{
	Suite *suite = suite_create("alloc_stats");
	TCase *reading = tcase_create("reading");

	tcase_set_tags(reading, "real"); /* threads of the system's */
	tcase_add_test(reading, statistics_may_be_read_while_caches_are_resized);
	tcase_add_test(reading, no_reader_sees_more_misses_than_allocations);
	tcase_add_test(reading, no_scraper_sees_more_misses_than_allocations);
	suite_add_tcase(suite, reading);
	return suite;
}
