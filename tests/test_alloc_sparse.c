/* SPDX-License-Identifier: MIT */
/* Memory of spans in which few objects are in use, as the kernel sees it. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "alloc/heap.h"
#include "tests/rollup.h"

enum {
	BYTES = 8 << 20,
	OBJECTS_MAX = BYTES / 192,
	OTHERS = 64 << 10, /* what arrays of caches had in free runs */
};

static const struct {
	size_t object_bytes;
	unsigned kept; /* one of so many: about one to a span */
} shape[] = { { 192, 341 }, { 4096, 16 }, { 24 << 10, 21 }, { 64 << 10, 8 } };

enum { SHAPES = sizeof(shape) / sizeof(*shape) };

static unsigned char *block[OBJECTS_MAX];
static int64_t now;

static void attach(uint32_t purge)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.purge = purge;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	weir_mem_level_force(WEIR_MEM_NONE);
	weir__heap_turn(now);
}

static uint64_t purged(void)
{
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	return stats.os_purged_bytes;
}

static unsigned use(size_t object_bytes)
{
	unsigned count = (unsigned)(BYTES / object_bytes);
	for (unsigned i = 0; i < count; i++) {
		block[i] = weir_alloc(object_bytes);
		memset(block[i], (int)i | 1, object_bytes);
	}
	return count;
}

static void check(unsigned i, size_t object_bytes)
{
	bool is_same = block[i][0] == ((i | 1) & 0xff);
	is_same = is_same && memcmp(block[i], block[i] + 1, object_bytes - 1) == 0;
	ck_assert_msg(is_same, "block %u of %zu bytes", i, object_bytes);
}

static void free_all_but(unsigned count, unsigned kept)
{
	for (unsigned i = 0; i < count; i++)
		if (i % kept != 0)
			weir_free(block[i]);
}

/* Until the heap wants to sleep for good. */
static void idle(void)
{
	int64_t next = weir__heap_idle(now);
	for (unsigned wakes = 0; next != INT64_MAX; wakes++) {
		ck_assert_uint_lt(wakes, 200);
		next = weir__heap_idle(now = next);
	}
}

START_TEST(what_lies_between_objects_in_use_goes_back)
{
	size_t bytes = shape[_i].object_bytes;
	attach(WEIR__PURGE_DONTNEED);
	size_t before = rollup("Anonymous");
	unsigned count = use(bytes);
	free_all_but(count, shape[_i].kept);
	idle();
	size_t in_use = (count / shape[_i].kept + 1) * ((bytes + 2 * 4096) & ~(size_t)4095);
	ck_assert_uint_lt(rollup("Anonymous"), before + in_use + (512 << 10));
	for (unsigned i = 0; i < count; i += shape[_i].kept)
		check(i, bytes);
}
END_TEST

START_TEST(its_objects_go_out_again_and_overlap_none)
{
	size_t bytes = shape[_i].object_bytes;
	attach(WEIR__PURGE_DONTNEED);
	unsigned count = use(bytes), kept = shape[_i].kept;
	for (unsigned round = 0; round < 3; round++) {
		free_all_but(count, kept);
		idle();
		for (unsigned i = 0; i < count; i++)
			if (i % kept != 0)
				memset(block[i] = weir_alloc(bytes), (int)i | 1, bytes);
		for (unsigned i = 0; i < count; i++)
			check(i, bytes);
	}
}
END_TEST

START_TEST(a_rest_gives_it_back_in_steps)
{
	attach(WEIR__PURGE_DONTNEED);
	size_t before = rollup("Anonymous");
	free_all_but(use(4096), 16);
	now += 10 * WEIR__MS; /* the epoch has not seen it */
	(void)weir__heap_idle(now);
	now += weir__config.decay_ns + weir__config.epoch_ns;
	unsigned steps = 1;
	while (weir__heap_rested(now, weir__config.decay_ns))
		ck_assert_uint_lt(steps++, 100);
	ck_assert_uint_gt(steps, 1); /* a millisecond's worth each */
	ck_assert_int_eq(weir__heap_idle(now), INT64_MAX);
	ck_assert_uint_lt(rollup("Anonymous"), before + (1 << 20));
}
END_TEST

/* Each second something comes back to a span. */
START_TEST(spans_that_get_objects_back_keep_their_memory)
{
	attach(WEIR__PURGE_DONTNEED);
	unsigned count = use(24 << 10), kept = 7;
	for (unsigned i = 0; i < count; i++)
		if (i % kept > 1)
			weir_free(block[i]);
	weir__cache_resize(weir__home_self(), weir_size_class(24 << 10) + 1, 1);
	uint64_t before = purged();
	for (unsigned i = 1; i < count && i < 40 * kept; i += kept) {
		weir__heap_turn(now += 1000 * WEIR__MS);
		weir_free(block[i]);
	}
	ck_assert_uint_lt(purged(), before + OTHERS);
	idle();
	ck_assert_uint_gt(purged(), before + BYTES / 2);
}
END_TEST

/* A page fault costs as much as the page is worth. */
START_TEST(a_page_or_two_of_a_span_stay)
{
	attach(WEIR__PURGE_DONTNEED);
	unsigned count = use(4096);
	weir__cache_close(weir__home_self(), weir_size_class(4096) + 1);
	uint64_t before = purged();
	for (unsigned i = 0; i < count; i += 16)
		weir_free(block[i]);
	idle();
	ck_assert_uint_lt(purged(), before + OTHERS);
}
END_TEST

START_TEST(where_free_memory_may_stay_it_stays_until_shortage)
{
	attach(WEIR__PURGE_FREE);
	free_all_but(use(24 << 10), 21);
	size_t before = rollup("Anonymous");
	idle();
	ck_assert_uint_gt(rollup("Anonymous") + BYTES / 4, before);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_lt(rollup("Anonymous") + BYTES / 2, before);
}
END_TEST

START_TEST(shortage_takes_it_at_once)
{
	attach(WEIR__PURGE_DONTNEED);
	free_all_but(use(24 << 10), 21);
	size_t before = rollup("Anonymous");
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_lt(rollup("Anonymous") + BYTES / 2, before);
}
END_TEST

Suite *alloc_sparse_suite(void)
{
	Suite *suite = suite_create("alloc_sparse");
	TCase *plain = tcase_create("blocks");
	tcase_set_timeout(plain, 30);
	tcase_add_loop_test(plain, its_objects_go_out_again_and_overlap_none, 0, SHAPES);
	suite_add_tcase(suite, plain);
	if (WEIR__ASAN || WEIR__TSAN)
		return suite; /* resident memory is the sanitizer's, too */
	TCase *pages = tcase_create("pages");
	tcase_set_timeout(pages, 30);
	tcase_add_loop_test(pages, what_lies_between_objects_in_use_goes_back, 0, SHAPES);
	tcase_add_test(pages, a_rest_gives_it_back_in_steps);
	tcase_add_test(pages, spans_that_get_objects_back_keep_their_memory);
	tcase_add_test(pages, a_page_or_two_of_a_span_stay);
	tcase_add_test(pages, where_free_memory_may_stay_it_stays_until_shortage);
	tcase_add_test(pages, shortage_takes_it_at_once);
	suite_add_tcase(suite, pages);
	return suite;
}
