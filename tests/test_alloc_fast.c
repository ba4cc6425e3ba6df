/* SPDX-License-Identifier: MIT */
/* The paths that programs inline: which cache they find, and what they refuse to put into it. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

/* The compiler must not know them: a constant takes another way. */
static size_t unknown(size_t size)
{
	__asm__("" : "+r"(size));
	return size;
}

START_TEST(a_size_finds_the_same_cache_by_table_as_by_arithmetic)
{
	attach();
	struct weir__heap *heap = weir__heap_self;
	for (size_t size = 0; size <= WEIR__TABLE_BYTES_MAX; size++)
		ck_assert_uint_eq(weir__place_for(heap, unknown(size)),
				  WEIR__PLACE(weir_size_class(size) + 1));
	ck_assert_uint_eq(weir__place_for(heap, 64), WEIR__PLACE(4));
	ck_assert_uint_eq(weir__place_for(heap, 5000), WEIR__PLACE(weir_size_class(5000) + 1));
}
END_TEST

START_TEST(no_size_near_the_largest_number_wraps_round)
{
	attach();
	for (size_t less = 0; less < 64; less++) {
		ck_assert_ptr_null(weir_alloc(unknown(SIZE_MAX - less)));
		void *block = weir_alloc(100);
		weir_free_sized(block, unknown(SIZE_MAX - less));
		ck_assert_ptr_eq(weir_alloc(100), block);
		weir_free(block);
	}
}
END_TEST

static void check_address(const struct weir__pool *pool, uint64_t span, uint64_t address, bool is)
{
	struct weir__cache cache = { .reciprocal = pool->reciprocal, .valid = pool->valid };
	if (weir__is_object(&cache, (void *)address, span) != is)
		ck_abort_msg("%u bytes in the span at %lx: %lx", pool->object_bytes,
			     (unsigned long)span, (unsigned long)address);
}

/* Every address of a small span, some of a large one and those around each object's start. */
static void check_span(const struct weir__pool *pool, uint64_t span)
{
	uint32_t bytes = pool->object_bytes;
	uint64_t end = (uint64_t)pool->span_units << WEIR__UNIT_SHIFT;
	for (uint64_t at = 0; at < end; at += at % bytes < 32 || bytes < 4096 ? 1 : 1009)
		check_address(pool, span, span + at,
			      at % bytes == 0 && at / bytes < pool->span_objects);
	for (uint64_t k = 0; k <= pool->span_objects; k++)
		for (int off = -1; off <= 1; off++)
			check_address(pool, span, span + k * bytes + (uint64_t)off,
				      off == 0 && k < pool->span_objects);
}

/* What the same entry of the map would be found for, and what is as far from the span. */
static void check_elsewhere(const struct weir__pool *pool, uint64_t span)
{
	const uint64_t window = (uint64_t)WEIR__MAP_UNITS << WEIR__UNIT_SHIFT;
	const uint64_t addresses_end = 1ull << 47;
	for (uint64_t base = span % window; base < addresses_end; base += window) {
		if (base == span)
			continue;
		for (unsigned k = 0; k < 20; k++)
			for (int off = -1; off <= 1; off++)
				check_address(pool, span,
					      base + (uint64_t)k * pool->object_bytes +
						      (uint64_t)off,
					      false);
	}
	for (uint64_t near = 0; near < 1 << 10; near++) {
		check_address(pool, span, near, false);
		check_address(pool, span, addresses_end - 1 - near, false);
	}
}

static void check_objects_of(uint32_t bytes)
{
	struct weir__pool *pool = &weir__pools[WEIR__POOLS_MAX];
	weir__pool_describe(pool, bytes);
	check_span(pool, 5ull << 32);
	check_elsewhere(pool, 3ull << 28);
	check_elsewhere(pool, 5ull << 40);
	check_elsewhere(pool, (1ull << 47) - (1 << 28));
}

START_TEST(one_compare_tells_the_starts_of_objects_from_all_else)
{
	for (unsigned i = 0; i < WEIR_CLASS_COUNT; i++)
		check_objects_of((uint32_t)weir_class_size(i));
	for (uint32_t bytes = 16; bytes <= 512 << 10; bytes = (bytes * 17 / 16 + 31) & ~15u)
		check_objects_of(bytes);
}
END_TEST

START_TEST(a_block_freed_with_another_size_goes_home_to_its_own_class)
{
	attach();
	unsigned state = 12345;
	void *block[64] = { NULL };
	for (int i = 0; i < 200000; i++) {
		int at = rand_r(&state) % 64;
		if (block[at] != NULL)
			weir_free_sized(block[at], unknown((size_t)rand_r(&state) % 10000));
		size_t size = (size_t)rand_r(&state) % 10000;
		block[at] = weir_alloc(size);
		if (weir_usable_size(block[at]) != weir_class_size(weir_size_class(size)))
			ck_abort_msg("operation %d: %zu bytes for %zu", i,
				     weir_usable_size(block[at]), size);
	}
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

START_TEST(the_right_size_takes_the_short_way)
{
	struct weir_mem_stats before, after;
	attach();
	void *block = weir_alloc(200);
	weir_free_sized(block, 200);
	weir_mem_stats_get(&before);
	for (int i = 0; i < 1000; i++) {
		void *again = weir_alloc(200);
		ck_assert_ptr_eq(again, block);
		weir_free_sized(again, 200);
	}
	weir_mem_stats_get(&after);
	ck_assert_uint_eq(after.allocs - before.allocs, 1000);
	ck_assert_uint_eq(after.misses, before.misses);
}
END_TEST

/* The way back of the block that was handed out last is another than that of the rest. */
START_TEST(blocks_go_home_to_their_own_class_in_whatever_order)
{
	unsigned state = 77;
	char *block[4];
	attach();
	for (int i = 0; i < 100000; i++) {
		size_t size[4], n = 1 + (size_t)rand_r(&state) % 4;
		for (size_t k = 0; k < n; k++) {
			size[k] = unknown(1 + (size_t)rand_r(&state) % 3000);
			block[k] = weir_alloc(size[k]);
			if (weir_usable_size(block[k]) != weir_class_size(weir_size_class(size[k])))
				ck_abort_msg("round %d: %zu bytes for %zu", i,
					     weir_usable_size(block[k]), size[k]);
			memset(block[k], (int)k, size[k]);
		}
		for (size_t k = 0; k < n; k++)
			ck_assert_int_eq(block[k][size[k] - 1], (int)k);
		bool newest_first = rand_r(&state) % 2 == 0;
		for (size_t k = 0; k < n; k++)
			weir_free(block[newest_first ? n - 1 - k : k]);
	}
	ck_assert_uint_eq(weir__heap_in_use(), 0);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* The same address may be of another class by then. */
START_TEST(no_block_is_the_newest_when_its_span_has_ended)
{
	attach();
	struct weir__heap *heap = weir__heap_self;
	weir_free(weir_alloc(5000));
	char *block = weir_alloc(5000);
	ck_assert(weir__mode != 0 || heap->newest == block);
	weir_free(block);
	(void)weir_mem_compact(0, WEIR_MEM_HIGH);
	ck_assert_ptr_null(heap->newest);
	ck_assert_uint_eq(heap->newest_place, 0);
	weir_free(NULL); /* which is no block, although it is the newest */
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

START_TEST(what_is_not_a_block_is_refused_whatever_size_is_given)
{
	char here[64];
	attach();
	weir_free_sized(NULL, 64);
	ck_assert_uint_eq(weir__reports, 0);
	weir_free_sized(here, 64);
	ck_assert_uint_eq(weir__reports, 1);
	char *block = weir_alloc(64);
	weir_free_sized(block, 64);
	weir_free_sized(block, 64);
	ck_assert_uint_eq(weir__reports, 2);
	weir_free_sized((char *)weir__heap_self->window + (1 << 30), 64); /* in no span */
	ck_assert_uint_eq(weir__reports, 3);
}
END_TEST

START_TEST(an_address_that_shares_a_block_s_entry_of_the_map_is_not_taken)
{
	attach();
	struct weir__heap *heap = weir__heap_self;
	char *block = weir_alloc(64), *other = weir_alloc(64);
	weir_free(block); /* there is room, and what is on top is another */
	block = weir_alloc(64);
	weir_free(other);
	size_t place = weir__place_for(heap, 64);
	uintptr_t window = (uintptr_t)WEIR__MAP_UNITS << WEIR__UNIT_SHIFT;
	for (uintptr_t k = 1; k < 2048; k++) {
		void *alias = (void *)((uintptr_t)block + k * window);
		ck_assert_ptr_eq(weir__unit_of(heap, alias), weir__unit_of(heap, block));
		ck_assert(!weir__heap_push(heap, alias));
		ck_assert(!weir__heap_push_at(heap, unknown(place), alias, false));
	}
	/* a sanitizer closes the inlined paths */
	ck_assert(weir__mode != 0 || weir__heap_push_at(heap, unknown(place), block, false));
}
END_TEST

Suite *alloc_fast_suite(void)
{
	Suite *s = suite_create("alloc_fast");
	TCase *sizes = tcase_create("sizes");
	tcase_set_tags(sizes, "fast");
	tcase_add_test(sizes, a_size_finds_the_same_cache_by_table_as_by_arithmetic);
	tcase_add_test(sizes, no_size_near_the_largest_number_wraps_round);
	tcase_add_test(sizes, the_right_size_takes_the_short_way);
	suite_add_tcase(s, sizes);
	TCase *misuse = tcase_create("misuse"); /* which memcheck would report as well */
	tcase_add_test(misuse, what_is_not_a_block_is_refused_whatever_size_is_given);
	tcase_add_test(misuse, an_address_that_shares_a_block_s_entry_of_the_map_is_not_taken);
	suite_add_tcase(s, misuse);
	TCase *objects = tcase_create("objects");
	tcase_add_test(objects, one_compare_tells_the_starts_of_objects_from_all_else);
	tcase_add_test(objects, no_block_is_the_newest_when_its_span_has_ended);
	tcase_add_test(objects, blocks_go_home_to_their_own_class_in_whatever_order);
	tcase_add_test(objects, a_block_freed_with_another_size_goes_home_to_its_own_class);
	suite_add_tcase(s, objects);
	return s;
}
