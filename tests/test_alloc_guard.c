/* SPDX-License-Identifier: MIT */
/* Sampled blocks between guard pages: how often, that they are blocks like any other, and what they
 * catch. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <weir/weir.h>

#include "alloc/heap.h"
#include "child.h"

static int64_t now;

static void attach(uint64_t guard_bytes)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.guard_bytes = guard_bytes;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	weir__heap_turn(now);
}

static bool is_guarded(const void *block)
{
	return weir__guard_size(block) != 0;
}

/* Allocates and frees, epoch after epoch, until a block is guarded; gives it. */
static void *guarded_block(size_t size)
{
	for (int i = 0; i < 100000; i++) {
		void *block = weir_alloc(size);
		if (is_guarded(block))
			return block;
		weir_free(block);
		if (i % 10 == 0)
			weir__heap_turn(now += 100 * WEIR__MS);
	}
	ck_abort_msg("none was guarded");
	return NULL;
}

START_TEST(about_one_block_in_so_many_bytes_is_guarded)
{
	enum { EVERY = 1 << 20, SIZE = 1000, EPOCHS = 2000, EACH = 200 };
	attach(EVERY);
	uint64_t bytes = 0;
	for (int epoch = 0; epoch < EPOCHS; epoch++) {
		void *block[EACH];
		for (int i = 0; i < EACH; i++)
			block[i] = weir_alloc(SIZE);
		for (int i = 0; i < EACH; i++)
			weir_free(block[i]);
		bytes += (uint64_t)EACH * 1024;
		weir__heap_turn(now += 100 * WEIR__MS);
	}
	uint64_t expected = bytes / EVERY;
	ck_assert_uint_gt(weir__guard_samples(), expected / 3);
	ck_assert_uint_lt(weir__guard_samples(), expected * 3);
}
END_TEST

START_TEST(without_being_asked_for_none_is_guarded)
{
	attach(0);
	for (int i = 0; i < 100000; i++) {
		weir_free(weir_alloc(1000));
		if (i % 100 == 0)
			weir__heap_turn(now += 100 * WEIR__MS);
	}
	ck_assert_uint_eq(weir__guard_samples(), 0);
}
END_TEST

START_TEST(a_guarded_block_is_a_block_like_any_other)
{
	attach(1);
	for (size_t size = 1; size <= 8192; size = size * 5 / 4 + 1) {
		char *block = guarded_block(size);
		ck_assert_uint_eq(weir_usable_size(block), size);
		ck_assert_uint_eq((uintptr_t)block % 16, 0);
		memset(block, 7, size);
		block = weir_realloc(block, size * 3);
		ck_assert_int_eq(block[0], 7);
		ck_assert_int_eq(block[size - 1], 7);
		weir_free(block);
	}
	for (int i = 0; i < 2000; i++) { /* alignment holds whether sampled or not */
		size_t align = (size_t)16 << i % 9;
		void *block = weir_alloc_aligned(align, 100);
		ck_assert_uint_eq((uintptr_t)block % align, 0);
		weir_free(block);
		weir__heap_turn(now += 100 * WEIR__MS);
	}
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

/* The largest that is sampled: as much as a slot has, and a power of two. */
START_TEST(the_alignment_of_a_class_holds_in_every_slot)
{
	attach(1);
	for (int i = 0; i < 200; i++) {
		char *block = guarded_block(8192);
		ck_assert_uint_eq((uintptr_t)block % 8192, 0);
		weir_free(block);
	}
}
END_TEST

START_TEST(more_blocks_than_slots_are_no_trouble)
{
	enum { BLOCKS = 300 };
	static void *block[BLOCKS];
	unsigned guarded = 0;
	attach(1);
	for (int i = 0; i < BLOCKS * 20; i++) {
		void **at = &block[i % BLOCKS];
		weir_free(*at);
		*at = weir_alloc(100 + (size_t)i % 5000);
		memset(*at, i, 100);
		if (i % 3 == 0)
			weir__heap_turn(now += 100 * WEIR__MS);
	}
	for (int i = 0; i < BLOCKS; i++) {
		guarded += is_guarded(block[i]);
		weir_free(block[i]);
	}
	ck_assert_uint_gt(guarded, 20);
	ck_assert_uint_le(guarded, 64);
	ck_assert_uint_eq(weir__reports, 0);
}
END_TEST

START_TEST(objects_of_typed_pools_are_guarded_too)
{
	weir_pool *pool, *other;
	attach(1);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 200, .align = 64), 0);
	ck_assert_int_eq(weir_pool_new(&other, .object_bytes = 200), 0);
	void *object = NULL;
	for (int i = 0; i < 10000 && !is_guarded(object); i++) {
		if (object != NULL)
			weir_pool_put(pool, object);
		object = weir_pool_get(pool);
		weir__heap_turn(now += 100 * WEIR__MS);
	}
	ck_assert(is_guarded(object));
	ck_assert_uint_eq((uintptr_t)object % 64, 0);
	weir_pool_put(other, object);
	ck_assert_uint_eq(weir__reports, 1); /* not of this pool; it is still out */
	weir_pool_put(pool, object);
	ck_assert_uint_eq(weir__reports, 1);
	weir_pool_put(pool, object);
	ck_assert_uint_eq(weir__reports, 2);
}
END_TEST

START_TEST(what_a_free_can_see_is_reported)
{
	attach(1);
	char *block = guarded_block(100); /* of a class of 112 */
	weir_free(block + 16);
	ck_assert_uint_eq(weir__reports, 1);
	block[100] = 1;
	weir_free(block);
	ck_assert_uint_eq(weir__reports, 2);
	weir_free(block);
	ck_assert_uint_eq(weir__reports, 3);
}
END_TEST

START_TEST(the_last_byte_of_a_slot_is_looked_at_and_none_stays)
{
	attach(1);
	char *block = guarded_block(0);
	ck_assert_uint_eq(weir_usable_size(block), 1);
	weir_free(block);
	ck_assert_uint_eq(weir__reports, 0);
	block = guarded_block(100); /* of a class of 112 */
	block[111] = 1;
	uintptr_t page = (uintptr_t)block & ~(uintptr_t)4095;
	ck_assert_uint_eq(weir__os_first_resident((void *)page, 4096), 0);
	weir_free(block);
	ck_assert_uint_eq(weir__reports, 1);
	ck_assert_uint_eq(weir__os_first_resident((void *)page, 4096), 4096);
}
END_TEST

START_TEST(a_slot_rests_as_long_as_others_are_free)
{
	struct weir__guarded found;
	attach(1);
	char *first = guarded_block(100);
	weir_free(first);
	ck_assert(weir__guard_find(first, &found));
	ck_assert(found.is_freed && found.freed_by != NULL && found.allocated_by != NULL);
	for (int i = 0; i < 63; i++) {
		char *next = guarded_block(100);
		ck_assert_ptr_ne(next, first);
		weir_free(next);
	}
	ck_assert_ptr_eq(guarded_block(100), first);
}
END_TEST

/* The mark that sends the next request to a slot is not one of demand's. */
START_TEST(waiting_for_a_request_to_guard_is_no_demand)
{
	struct weir_pool_stats pool;
	void *block[3];
	attach(1);
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 3; i++)
			block[i] = weir_alloc(1000);
		for (int i = 0; i < 3; i++)
			weir_free(block[i]);
		weir__heap_turn(now += 100 * WEIR__MS);
		ck_assert_uint_ne(weir__home_self()->guard_index, 0);
		weir__heap_turn(now += 100 * WEIR__MS); /* no request has come */
	}
	ck_assert(weir__heap_pool_stats(0, weir_size_class(1000) + 1, &pool));
	ck_assert_uint_le(pool.peak, 8); /* rounded by a mark or two */
	ck_assert_uint_le(pool.demand, 8);
	ck_assert_uint_le(pool.capacity, 8);
}
END_TEST

/* The pool that was chosen has no cache any more, and may never have one again. */
START_TEST(sampling_goes_on_when_a_chosen_pool_is_out_of_use)
{
	attach(1);
	weir_free(weir_alloc(1000));
	weir__heap_turn(now += 100 * WEIR__MS);
	ck_assert_uint_ne(weir__home_self()->guard_index, 0);
	if (_i == 0) {
		(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	} else {
		weir__heap_detach();
		ck_assert_int_eq(weir__heap_attach(), 0);
	}
	weir_free(guarded_block(100));
}
END_TEST

/* ---- What faults ---------------------------------------------------------------------------- */

enum misuse { READ_AFTER_FREE, WRITE_AFTER_FREE, READ_PAST_END, WRITE_PAST_END, MISUSES };

static const struct {
	const char *says;
	bool is_freed;
} expected[MISUSES] = {
	[READ_AFTER_FREE] = { "weir: use after free, 10 bytes behind the beginning", true },
	[WRITE_AFTER_FREE] = { "weir: use after free, 0 bytes behind the beginning", true },
	[READ_PAST_END] = { "weir: access out of bounds, 0 bytes behind the end", false },
	[WRITE_PAST_END] = { "weir: access out of bounds, 100 bytes behind the end", false },
};

static void misuse(volatile char *block, size_t size, enum misuse what)
{
	switch (what) {
	case READ_AFTER_FREE:
		weir_free((void *)block);
		(void)block[10];
		break;
	case WRITE_AFTER_FREE:
		weir_free((void *)block);
		block[0] = 1;
		break;
	case READ_PAST_END:
		(void)block[size];
		break;
	default:
		block[size + 100] = 1;
	}
}

/* In a program: with a runtime, by the variable, and the handler that says what it was. */
static int misuse_in_a_task(void *arg)
{
	enum { SIZE = 1024 };
	enum misuse what = (enum misuse)(uintptr_t)arg;
	for (int i = 0; i < 1000000; i++) {
		char *block = weir_alloc(SIZE);
		if (is_guarded(block)) {
			misuse(block, SIZE, what);
			return 0;
		}
		weir_free(block);
		if (i % 100 == 0)
			weir_sleep(WEIR_MS);
	}
	return 0;
}

static int run_misuse(void *arg)
{
	setenv("WEIR_MEM_GUARD_BYTES", "1k", 1);
	setenv("WEIR_POOL_EPOCH_MS", "1", 1);
	return weir_run(misuse_in_a_task, arg, .workers = 1);
}

START_TEST(misuse_faults_on_the_spot_and_is_explained)
{
	int status = end_of(run_misuse, (void *)(uintptr_t)_i);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %x:\n%s",
		      (unsigned)status, said);
	assert_said(expected[_i].says);
	assert_said(" of a block of 1024 bytes");
	assert_said("weir: allocated at");
	if (expected[_i].is_freed)
		assert_said("weir: freed at");
	else
		assert_not_said("weir: freed at");
	assert_said("weir: used in ");
}
END_TEST

Suite *alloc_guard_suite(void)
{
	Suite *s = suite_create("alloc_guard");
	if (WEIR__ASAN || WEIR__TSAN) /* which see all of it themselves */
		return s;
	TCase *sampling = tcase_create("sampling");
	tcase_add_test(sampling, about_one_block_in_so_many_bytes_is_guarded);
	tcase_add_test(sampling, without_being_asked_for_none_is_guarded);
	tcase_add_test(sampling, a_guarded_block_is_a_block_like_any_other);
	tcase_add_test(sampling, the_alignment_of_a_class_holds_in_every_slot);
	tcase_add_test(sampling, more_blocks_than_slots_are_no_trouble);
	tcase_add_test(sampling, objects_of_typed_pools_are_guarded_too);
	tcase_add_test(sampling, what_a_free_can_see_is_reported);
	tcase_add_test(sampling, the_last_byte_of_a_slot_is_looked_at_and_none_stays);
	tcase_add_test(sampling, a_slot_rests_as_long_as_others_are_free);
	tcase_add_test(sampling, waiting_for_a_request_to_guard_is_no_demand);
	tcase_add_loop_test(sampling, sampling_goes_on_when_a_chosen_pool_is_out_of_use, 0, 2);
	suite_add_tcase(s, sampling);
	TCase *faults = tcase_create("faults");
	tcase_set_tags(faults, "real"); /* it samples by epochs, and a simulated heap has none */
	tcase_set_timeout(faults, 20);
	tcase_add_loop_test(faults, misuse_faults_on_the_spot_and_is_explained, 0, MISUSES);
	suite_add_tcase(s, faults);
	return s;
}
