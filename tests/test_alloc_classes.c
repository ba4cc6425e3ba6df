/* SPDX-License-Identifier: MIT */
/* Size classes by name and by list: what is taken, what blocks get, what is kept in reserve. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"

static void configure(const char *classes, const char *reserves)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	ck_assert_int_eq(weir__classes_parse(classes, &config.classes), 0);
	ck_assert_int_eq(weir__reserves_parse(reserves, &config.reserves), 0);
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}

static size_t given(size_t size)
{
	void *block = weir_alloc(size);
	ck_assert_ptr_nonnull(block);
	size_t bytes = weir_usable_size(block);
	memset(block, 1, bytes);
	weir_free(block);
	return bytes;
}

/* ---- Classes -------------------------------------------------------------------------------- */

static const struct {
	const char *classes;
	size_t size;
	size_t bytes;
} expected[] = {
	{ "geom4", 65, 80 },
	{ "pow2", 1, 16 },
	{ "pow2", 65, 128 },
	{ "pow2", 1025, 2048 },
	{ "pow2", (8 << 20) + 1, 16 << 20 },
	/* the pools of the Zokio analysis; above them the default goes on */
	{ "zokio", 16, 16 },
	{ "zokio", 33, 64 },
	{ "zokio", 5119, 8192 },
	{ "zokio", 65536, 65536 },
	{ "zokio", 65537, 80 << 10 },
	/* the tiers of gRPC, and its selection table */
	{ "grpc", 100, 256 },
	{ "grpc", 1000, 4096 },
	{ "grpc", 10000, 16384 },
	{ "grpc", 20000, 32768 },
	{ "grpc", 500000, 1 << 20 },
	{ "grpc", 2000000, 2 << 20 },
	/* the graded buffers, by name and as a list */
	{ "graded", 1, 8 << 10 },
	{ "graded", 65 << 10, 128 << 10 },
	{ "graded", (2 << 20) + 1, 10 << 20 },
	{ "8k,16k,32k,64k,128k,256k,512k,1m,2m,10m", (2 << 20) + 1, 10 << 20 },
	{ "100", 17, 112 }, /* rounded up to a class */
	{ "100", 113, 128 },
};

START_TEST(a_block_is_as_large_as_the_preset_says)
{
	configure(expected[_i].classes, "none");
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_uint_eq(given(expected[_i].size), expected[_i].bytes);
}
END_TEST

static const char *const presets[] = { "geom4", "pow2", "zokio", "grpc", "graded", "48,4k,8m" };

START_TEST(every_class_and_alignment_works_with_every_preset)
{
	configure(presets[_i], "none");
	ck_assert_int_eq(weir__heap_attach(), 0);
	for (unsigned class = 0; class < WEIR_CLASS_COUNT; class ++) {
		size_t size = weir_class_size(class);
		ck_assert_uint_ge(given(size), size);
		ck_assert_uint_ge(given(size - 1), size - 1);
		ck_assert_uint_eq(given(given(size)) % 16, 0);
	}
	for (size_t align = 16; align <= 2 << 20; align *= 2)
		for (size_t size = 1; size < 100000; size = size * 3 + 1) {
			char *block = weir_alloc_aligned(align, size);
			ck_assert_uint_eq((uintptr_t)block % align, 0);
			block[0] = block[size - 1] = 1;
			weir_free(block);
		}
	char *grown = weir_alloc(1);
	for (size_t size = 1; size < 20 << 20; size = size * 2 + 1) {
		grown = weir_realloc(grown, size);
		ck_assert_ptr_nonnull(grown);
		grown[size - 1] = 1;
	}
	weir_free(grown);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* Constant and other sizes of all classes up to 8 KiB, freed in any way: one pool, one cache. */
START_TEST(classes_that_a_preset_merges_share_one_pool)
{
	struct weir_pool_stats stats[WEIR_CLASS_COUNT];
	configure("graded", "none");
	for (size_t size = 1; size <= 8 << 10; size += 100) {
		volatile size_t other = size;
		void *a = weir_alloc(other), *b = weir_alloc(100), *c = weir_alloc(7000);
		weir_free(a);
		weir_free_sized(b, 100);
		weir_free_sized(c, 7000);
		weir_free_sized(weir_alloc_aligned(64, other), other);
	}
	weir_free(weir_zalloc(9 << 10));
	size_t n = weir_pool_stats_get(stats, WEIR_CLASS_COUNT), used = 0;
	for (size_t i = 0; i < n && i < WEIR_CLASS_COUNT; i++) {
		if (stats[i].allocs == 0)
			continue;
		used++;
		ck_assert(strcmp(stats[i].name, "8 KiB") == 0 ||
			  strcmp(stats[i].name, "16 KiB") == 0);
		ck_assert_uint_eq(stats[i].in_use, 0);
	}
	ck_assert_uint_eq(used, 2);
}
END_TEST

START_TEST(the_largest_reserve_of_merged_classes_holds)
{
	configure("pow2", "80:7,112:30,128:9");
	ck_assert_uint_eq(weir__adapt_kept(weir__class_pool(70)), 30);
	ck_assert_uint_eq(weir__adapt_kept(weir__class_pool(200)), 0);
}
END_TEST

START_TEST(what_is_no_list_of_classes_is_refused)
{
	static const char *const bad[] = {
		"",    "geom5", "8k,", ",8k", "16k,8k", "8k,8k",  "0",
		"17m", "8 k",	"8kb", "-1",  "1g",	"8k;16k", "99999999999999999999"
	};
	struct weir__classes classes;
	memset(&classes, 7, sizeof(classes));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(weir__classes_parse(bad[i], &classes) == -EINVAL, "%s", bad[i]);
	ck_assert_uint_eq(classes.object_bytes[0], 0x07070707);
}
END_TEST

START_TEST(classes_are_settled_by_the_first_heap)
{
	struct weir__alloc_config config;
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__alloc_config_get(&config);
	ck_assert_int_eq(weir__classes_parse("pow2", &config.classes), 0);
	ck_assert_int_eq(weir__alloc_configure(&config), -EBUSY);
	ck_assert_uint_eq(given(65), 80);
}
END_TEST

/* ---- Reserves ------------------------------------------------------------------------------- */

enum { KEPT = 300, SIZE = 1000 };

static uint64_t cached(void)
{
	struct weir_pool_stats stats;
	(void)weir__heap_pool_stats(0, weir_size_class(SIZE) + 1, &stats);
	return stats.cached;
}

static void burst(void)
{
	static void *block[KEPT * 4];
	for (int i = 0; i < KEPT * 4; i++)
		ck_assert_ptr_nonnull(block[i] = weir_alloc(SIZE));
	for (int i = 0; i < KEPT * 4; i++)
		weir_free(block[i]);
}

START_TEST(a_reserve_stays_through_idle_times_and_ends_with_pressure)
{
	configure("geom4", _i == 0 ? "none" : "1000:300");
	ck_assert_int_eq(weir__heap_attach(), 0);
	int64_t now = weir__os_now();
	weir__heap_turn(now);
	burst();
	for (int i = 0; i < 300; i++)
		weir__heap_turn(now += 1000 * WEIR__MS);
	ck_assert_uint_eq(cached(), _i == 0 ? 0 : KEPT);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
	ck_assert_uint_eq(cached(), _i == 0 ? 0 : KEPT);
	unsigned wakes = 0; /* what is kept is no reason to wake up */
	for (int64_t next = now; next != INT64_MAX; now = next, wakes++)
		next = weir__heap_idle(now);
	ck_assert_uint_lt(wakes, 100);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(cached(), 0);
}
END_TEST

START_TEST(a_cache_with_a_reserve_begins_with_room_for_it)
{
	configure("geom4", "zokio");
	ck_assert_int_eq(weir__heap_attach(), 0);
	struct weir_pool_stats stats;
	weir_free(weir_alloc(64));
	ck_assert(weir__heap_pool_stats(0, weir_size_class(64) + 1, &stats));
	ck_assert_uint_eq(stats.capacity, 6000);
	ck_assert_uint_le(stats.cached, 64); /* room, not blocks */
}
END_TEST

START_TEST(reserves_do_not_break_the_budget)
{
	struct weir__alloc_config config;
	configure("geom4", "1m:65536,64k:65536,64:65536");
	weir__alloc_config_get(&config);
	config.worker_bytes = 1 << 20;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir_free(weir_alloc(1 << 20));
	weir_free(weir_alloc(64 << 10));
	weir_free(weir_alloc(64));
	ck_assert_uint_le(weir__home_self()->cap_bytes, (1 << 20) + (64 << 10) + (1 << 20));
}
END_TEST

START_TEST(what_is_no_list_of_reserves_is_refused)
{
	static const char *const bad[] = { "",
					   "some",
					   "64",
					   "64:",
					   ":64",
					   "64:0",
					   "64:5,",
					   "64:65537",
					   "17m:1",
					   "0:1",
					   "64:1,63:2" /* one class */,
					   "64:1k2" };
	struct weir__reserves reserves;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(weir__reserves_parse(bad[i], &reserves) == -EINVAL, "%s", bad[i]);
	ck_assert_int_eq(weir__reserves_parse("64:1,4k:2k,10m:1", &reserves), 0);
	ck_assert_uint_eq(reserves.objects[weir_size_class(4096)], 2048);
}
END_TEST

Suite *alloc_classes_suite(void)
{
	Suite *s = suite_create("alloc_classes");
	TCase *classes = tcase_create("classes");
	tcase_set_tags(classes, "fast");
	tcase_add_loop_test(classes, a_block_is_as_large_as_the_preset_says, 0,
			    sizeof(expected) / sizeof(*expected));
	tcase_add_loop_test(classes, every_class_and_alignment_works_with_every_preset, 0,
			    sizeof(presets) / sizeof(*presets));
	tcase_add_test(classes, classes_that_a_preset_merges_share_one_pool);
	tcase_add_test(classes, the_largest_reserve_of_merged_classes_holds);
	tcase_add_test(classes, what_is_no_list_of_classes_is_refused);
	tcase_add_test(classes, classes_are_settled_by_the_first_heap);
	suite_add_tcase(s, classes);
	TCase *reserves = tcase_create("reserves");
	if (!WEIR__ASAN) { /* where blocks go home whole */
		tcase_add_loop_test(
			reserves, a_reserve_stays_through_idle_times_and_ends_with_pressure, 0, 2);
		tcase_add_test(reserves, a_cache_with_a_reserve_begins_with_room_for_it);
	}
	tcase_add_test(reserves, reserves_do_not_break_the_budget);
	tcase_add_test(reserves, what_is_no_list_of_reserves_is_refused);
	suite_add_tcase(s, reserves);
	return s;
}
