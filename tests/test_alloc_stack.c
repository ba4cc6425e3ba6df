/* SPDX-License-Identifier: MIT */
/* Task stacks: guards, reuse, colours, and what they cost. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "alloc/heap.h"

enum { KIB = 1024, LINE = 64 };

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

static struct weir__stack *get(size_t bytes)
{
	struct weir__stack *stack = weir__stack_get(bytes);
	ck_assert_ptr_nonnull(stack);
	return stack;
}

static uint64_t mappings(void)
{
	uint64_t lines = 0;
	FILE *file = fopen("/proc/self/maps", "r");
	for (int c; (c = fgetc(file)) != EOF;)
		lines += c == '\n';
	fclose(file);
	return lines;
}

START_TEST(all_of_a_stack_can_be_written)
{
	static const struct {
		size_t asked, usable;
	} want[] = { { 1, 30 * KIB },	     { 32 * KIB, 30 * KIB },   { 33 * KIB, 46 * KIB },
		     { 64 * KIB, 46 * KIB }, { 256 * KIB, 238 * KIB }, { 1024 * KIB, 1006 * KIB } };
	attach();
	for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++)
		for (int n = 0; n < 40; n++) {
			struct weir__stack *stack = get(want[i].asked);
			size_t usable = (size_t)(stack->top - stack->base);
			ck_assert_uint_ge(usable, want[i].usable);
			ck_assert_uint_eq((uintptr_t)stack->top % 16, 0);
			memset(stack->base, 1, usable);
		}
	ck_assert_ptr_null(weir__stack_get(1024 * KIB + 1));
}
END_TEST

START_TEST(below_a_stack_is_its_guard)
{
	attach();
	volatile char *base = get(64 * KIB)->base;
	base[0] = 1;
	base[-1] = 1;
}
END_TEST

START_TEST(the_far_end_of_the_guard_is_guarded_too)
{
	attach();
	(void)get(64 * KIB);
	struct weir__stack *stack = get(64 * KIB);
	*(volatile char *)(stack->base - stack->guard_bytes) = 1;
}
END_TEST

START_TEST(the_stack_put_last_comes_first)
{
	attach();
	struct weir__stack *a = get(64 * KIB), *b = get(64 * KIB), *c = get(32 * KIB);
	weir__stack_put(a);
	weir__stack_put(b);
	weir__stack_put(c);
	ck_assert_ptr_eq(get(64 * KIB), b);
	ck_assert_ptr_eq(get(64 * KIB), a);
	ck_assert_ptr_eq(get(32 * KIB), c);
}
END_TEST

START_TEST(tops_are_spread_over_26_cache_lines)
{
	bool seen[64] = { false };
	int colours = 0;
	attach();
	for (int i = 0; i < 512; i++) {
		size_t line = (uintptr_t)get(64 * KIB)->top % 4096 / LINE;
		size_t colour = (64 - line) % 64;
		ck_assert_uint_ge(colour, WEIR__LEDGE_BYTES / LINE);
		ck_assert_uint_lt(colour, 32);
		colours += !seen[colour];
		seen[colour] = true;
	}
	ck_assert_int_eq(colours, 26);
}
END_TEST

START_TEST(an_address_finds_its_stack)
{
	attach();
	for (int i = 0; i < 100; i++) {
		struct weir__stack *stack = get(i % 2 == 0 ? 64 * KIB : 256 * KIB);
		ck_assert_ptr_eq(weir__stack_find(stack->base), stack);
		ck_assert_ptr_eq(weir__stack_find(stack->top - 1), stack);
		ck_assert_ptr_eq(weir__stack_find(stack->base - 1), stack);
		ck_assert_ptr_eq(weir__stack_find(stack->base - stack->guard_bytes), stack);
	}
	int local = 0;
	ck_assert_ptr_null(weir__stack_find(&local));
	ck_assert_ptr_null(weir__stack_find(NULL));
}
END_TEST

START_TEST(without_a_heap_there_is_no_stack)
{
	ck_assert_ptr_null(weir__stack_get(64 * KIB));
	ck_assert_ptr_null(weir__stack_find(&weir__heap_none));
}
END_TEST

START_TEST(forty_thousand_stacks_run_into_no_limit_of_mappings)
{
	attach();
	struct weir__stack *first = get(64 * KIB);
	if (first->slab == NULL || weir__os_guard(first->base, 16 * KIB) != 0) {
		puts("skipped: no MADV_GUARD_INSTALL");
		return;
	}
	uint64_t before = mappings();
	for (int i = 0; i < 40000; i++) {
		struct weir__stack *stack = get(64 * KIB);
		stack->top[-1] = 1;
	}
	ck_assert_uint_lt(mappings() - before, 200);
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	ck_assert_uint_eq(stats.stacks, 40001);
}
END_TEST

START_TEST(guards_by_mprotect_end_before_the_kernels_mappings_do)
{
	attach();
	weir__os_refuse_guards_for_test();
	uint64_t n = 0;
	while (weir__stack_get(32 * KIB) != NULL)
		ck_assert_uint_lt(++n, 1000000);
	ck_assert_uint_gt(n, 1000);
	ck_assert_ptr_nonnull(weir__os_map(1 << 20, 4096)); /* the rest of the process goes on */
	FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
	unsigned long most = 0;
	ck_assert_int_eq(fscanf(file, "%lu", &most), 1);
	fclose(file);
	ck_assert_uint_lt(mappings(), most);
}
END_TEST

START_TEST(stacks_idle_beyond_the_peak_are_given_back)
{
	enum { STACKS = 2000 };
	static struct weir__stack *stack[STACKS];
	struct weir_mem_stats stats;
	attach();
	int64_t now = weir__os_now();
	for (int i = 0; i < STACKS; i++) {
		stack[i] = get(64 * KIB);
		memset(stack[i]->top - 8 * KIB, 1, 8 * KIB);
	}
	weir__heap_turn(now += 200 * WEIR__MS);
	for (int i = 0; i < STACKS; i++)
		weir__stack_put(stack[i]);
	weir__heap_turn(now += 200 * WEIR__MS);
	weir_mem_stats_get(&stats);
	ck_assert_uint_gt(stats.stacks_cached, STACKS * 9 / 10); /* the peak is fresh */
	unsigned wakes = 0;
	for (int64_t next = now; next != INT64_MAX; now = next, wakes++) {
		next = weir__heap_idle(now);
		ck_assert_uint_lt(wakes, 2000);
	}
	weir_mem_stats_get(&stats);
	ck_assert_uint_lt(stats.stacks_cached, 64);
	ck_assert_uint_gt(stats.os_purged_bytes, STACKS * 8ull * KIB / 2);
	ck_assert_ptr_nonnull(get(64 * KIB));
}
END_TEST

/* A server that goes on with a few tasks after it has had many. */
START_TEST(a_burst_s_stacks_are_given_back_in_twenty_seconds_beside_other_work)
{
	enum { STACKS = 2000, AFTER_MS = 20000, STEP_MS = 100 };
	static struct weir__stack *stack[STACKS];
	struct weir_mem_stats stats;
	attach();
	int64_t now = weir__os_now();
	for (int i = 0; i < STACKS; i++) {
		stack[i] = get(64 * KIB);
		memset(stack[i]->top - 8 * KIB, 1, 8 * KIB);
	}
	weir__heap_turn(now += STEP_MS * WEIR__MS);
	for (int i = 0; i < STACKS; i++)
		weir__stack_put(stack[i]);
	for (int ms = 0; ms < AFTER_MS + 2 * 1000; ms += STEP_MS) {
		struct weir__stack *other = get(64 * KIB);
		weir__heap_turn(now += STEP_MS * WEIR__MS);
		weir__stack_put(other);
	}
	weir_mem_stats_get(&stats);
	ck_assert_uint_ge(stats.os_purged_bytes, STACKS * 8ull * KIB * 95 / 100);
	const struct weir__stacks *stacks = &weir__home_self()->stacks[1];
	ck_assert_uint_lt(stacks->idle_count - stacks->clean, STACKS / 20);
}
END_TEST

START_TEST(a_parked_peak_keeps_its_stacks_warm)
{
	attach();
	int64_t now = weir__os_now();
	struct weir__stack *stack[100];
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 100; i++)
			stack[i] = get(64 * KIB);
		for (int i = 0; i < 100; i++)
			weir__stack_put(stack[i]);
		weir__heap_turn(now += 1000 * WEIR__MS);
	}
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	ck_assert_uint_ge(stats.stacks_cached, 100);
	ck_assert_uint_eq(weir__home_self()->stacks[1].clean, 0);
}
END_TEST

static void touch(struct weir__stack *stack)
{
	memset(stack->top - 20 * KIB, 1, 20 * KIB);
}

static void put_touched(struct weir__stack *stack)
{
	touch(stack);
	weir__stack_put(stack);
}

START_TEST(a_stack_that_was_used_again_is_purged_again)
{
	attach();
	for (int i = 0; i < 3; i++) {
		struct weir__stack *a = get(64 * KIB), *b = get(64 * KIB);
		put_touched(a);
		put_touched(b);
		ck_assert_uint_ge(weir__stack_touched(a), 20 * KIB);
		weir__stacks_purge(weir__home_self());
		ck_assert_uint_eq(weir__stack_touched(a), 0);
		ck_assert_uint_eq(weir__stack_touched(b), 0);
	}
}
END_TEST

/* Of 8 and 8 slots, the second with one out: the first goes, and the rest is not taken for clean.
 */
START_TEST(a_slab_that_goes_leaves_exact_figures)
{
	enum { FIRST = 8, ALL = 16 };
	struct weir__stack *stack[ALL];
	attach();
	const struct weir__stacks *stacks = &weir__home_self()->stacks[1];
	for (int i = 0; i < ALL; i++)
		stack[i] = get(64 * KIB);
	ck_assert_uint_eq(stacks->total, ALL);
	ck_assert_ptr_ne(stack[FIRST - 1]->slab, stack[FIRST]->slab);
	for (int i = 0; i < ALL - 1; i++)
		put_touched(stack[i]);
	int64_t now = weir__os_now(); /* two windows of ten seconds */
	for (int i = 0; i < 3; i++)
		(void)weir__stacks_turn(weir__home_self(), now += INT64_C(11000) * WEIR__MS);
	while (stacks->total == ALL)
		(void)weir__stacks_turn(weir__home_self(), now += INT64_C(11000) * WEIR__MS);
	ck_assert_uint_eq(stacks->total, FIRST);
	ck_assert_uint_eq(stacks->idle_count, FIRST - 1);
	weir__stacks_purge(weir__home_self());
	for (int i = FIRST; i < ALL - 1; i++)
		ck_assert_uint_eq(weir__stack_touched(stack[i]), 0);
	weir__stack_put(stack[ALL - 1]);
	weir__stacks_drop(weir__home_self());
	ck_assert_uint_eq(stacks->total, 0);
	ck_assert_uint_eq(stacks->idle_count, 0);
	weir__stack_put(get(64 * KIB));
	ck_assert_uint_eq(stacks->total, FIRST);
}
END_TEST

Suite *alloc_stack_suite(void)
{
	Suite *s = suite_create("alloc_stack");
	TCase *one = tcase_create("one");
	tcase_set_tags(one, "fast");
	tcase_add_test(one, all_of_a_stack_can_be_written);
	if (!WEIR__ASAN && !WEIR__TSAN) { /* they turn the signal into a report of their own */
		tcase_add_test_raise_signal(one, below_a_stack_is_its_guard, SIGSEGV);
		tcase_add_test_raise_signal(one, the_far_end_of_the_guard_is_guarded_too, SIGSEGV);
	}
	tcase_add_test(one, the_stack_put_last_comes_first);
	tcase_add_test(one, tops_are_spread_over_26_cache_lines);
	tcase_add_test(one, an_address_finds_its_stack);
	tcase_add_test(one, without_a_heap_there_is_no_stack);
	suite_add_tcase(s, one);
	TCase *many = tcase_create("many");
	tcase_set_timeout(many, 30);
	tcase_add_test(many, forty_thousand_stacks_run_into_no_limit_of_mappings);
	tcase_add_test(many, guards_by_mprotect_end_before_the_kernels_mappings_do);
	tcase_add_test(many, stacks_idle_beyond_the_peak_are_given_back);
	tcase_add_test(many, a_burst_s_stacks_are_given_back_in_twenty_seconds_beside_other_work);
	tcase_add_test(many, a_parked_peak_keeps_its_stacks_warm);
	if (!WEIR__ASAN && !WEIR__TSAN) { /* what they have touched stays */
		tcase_add_test(many, a_stack_that_was_used_again_is_purged_again);
		tcase_add_test(many, a_slab_that_goes_leaves_exact_figures);
	}
	suite_add_tcase(s, many);
	return s;
}
