/* SPDX-License-Identifier: MIT */
/*
 * What belongs to a task: memory that ends with it, calls that are made when it ends, values under
 * keys.
 */
#include <stdatomic.h>
#include <string.h>

#include "tests/runtime_test.h"

static char trace[64];

static void note(void *arg)
{
	size_t len = strlen(trace);

	expect(len < sizeof trace - 1);
	trace[len] = *(const char *)arg;
}

static int run_one(weir_fn fn, void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, fn, arg));
	return weir_scope_wait(&scope);
}

/* Blocks in use, of all size classes. */
static uint64_t blocks_in_use(void)
{
	struct weir_pool_stats stats[WEIR_CLASS_COUNT];
	size_t n = weir_pool_stats_get(stats, WEIR_CLASS_COUNT);
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += stats[i].in_use;
	return sum;
}

/* ---- Memory --------------------------------------------------------------------------------- */

static int allocate_many(void *arg)
{
	unsigned char *blocks[400];
	uint64_t seed = (uintptr_t)arg | 1;

	for (unsigned i = 0; i < 400; i++) {
		size_t size = random_next(&seed) % (i % 50 == 0 ? 300000 : 700);
		blocks[i] = weir_task_alloc(size + 1);
		expect(blocks[i] != NULL && (uintptr_t)blocks[i] % 16 == 0);
		memset(blocks[i], (int)(i & 0xff), size + 1);
		blocks[i][size] = (unsigned char)~i;
	}
	seed = (uintptr_t)arg | 1;
	for (unsigned i = 0; i < 400; i++) {
		size_t size = random_next(&seed) % (i % 50 == 0 ? 300000 : 700);
		for (size_t k = 0; k < size; k++)
			expect(blocks[i][k] == (i & 0xff));
		expect(blocks[i][size] == (unsigned char)~i);
	}
	return 0;
}

static int memory_ends_with_tasks(void *arg)
{
	TRY(run_one(allocate_many, (void *)77));
	uint64_t before = blocks_in_use();
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (uintptr_t i = 0; i < 30; i++)
			TRY(weir_spawn(&scope, allocate_many, (void *)(i * 1234567 + 1)));
		TRY(weir_scope_wait(&scope));
	}
	(void)arg;
	ck_assert_uint_eq(blocks_in_use(), before);
	return 0;
}

START_TEST(memory_is_the_tasks_own_and_ends_with_it)
{
	run_on(1, memory_ends_with_tasks, NULL);
}
END_TEST

static int odd_sizes(void *arg)
{
	char *a = weir_task_alloc(0);
	char *b = weir_task_alloc(0);

	(void)arg;
	ck_assert_ptr_nonnull(a);
	ck_assert_ptr_nonnull(b);
	ck_assert_ptr_ne(a, b);
	volatile size_t huge = SIZE_MAX;
	for (size_t less = 0; less < 64; less++)
		ck_assert_ptr_null(weir_task_alloc(huge - less));
	ck_assert_ptr_null(weir_task_alloc(huge / 2));
	char *copy = weir_task_strdup("a\nb");
	ck_assert_str_eq(copy, "a\nb");
	ck_assert_str_eq(weir_task_strdup(""), "");
	return 0;
}

START_TEST(sizes_that_cannot_be_are_refused)
{
	ck_assert_ptr_null(weir_task_alloc(1));
	ck_assert_ptr_null(weir_task_strdup("outside"));
	run_on(1, odd_sizes, NULL);
}
END_TEST

static int fail_each(void *arg)
{
	(void)weir_mem_fail_after(1);
	void *none = weir_task_alloc(10);
	int err = weir_task_defer(note, "x");
	static const struct weir_task_key key = { "key", note };
	int set = weir_task_set(&key, "y");
	(void)weir_mem_fail_after(0);
	(void)arg;
	ck_assert_ptr_null(none);
	ck_assert_int_eq(err, -ENOMEM);
	ck_assert_int_eq(set, -ENOMEM);
	ck_assert_ptr_null(weir_task_get(&key));
	ck_assert_ptr_nonnull(weir_task_alloc(100)); /* it has a chunk; then a second one fails */
	(void)weir_mem_fail_after(1);
	none = weir_task_alloc(3000);
	void *none_of_next = NULL;
	while ((none_of_next = weir_task_alloc(100)) != NULL)
		continue;
	(void)weir_mem_fail_after(0);
	ck_assert_ptr_null(none);
	return weir_task_alloc(100) ? 0 : -ENOMEM;
}

START_TEST(want_of_memory_is_told_and_takes_nothing)
{
	memset(trace, 0, sizeof trace);
	run_on(1, fail_each, NULL);
	ck_assert_str_eq(trace, "");
}
END_TEST

/* ---- Deferred calls ------------------------------------------------------------------------- */

static _Atomic bool has_deferred;

static int defer_three(void *arg)
{
	for (const char *p = "abc"; *p; p++)
		TRY(weir_task_defer(note, (void *)(uintptr_t)p));
	note("-");
	has_deferred = true;
	return arg ? weir_sleep(1000 * WEIR_SEC) : 0;
}

static int end_or_cancel(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, defer_three, arg, .worker = WEIR_ON_WORKER(1)));
	while (!has_deferred)
		TRY(weir_sleep(WEIR_MS));
	if (arg)
		weir_scope_cancel(&scope);
	int err = weir_scope_wait(&scope);
	ck_assert_int_eq(err, arg ? -ECANCELED : 0);
	ck_assert_str_eq(trace, "-cba");
	return 0;
}

START_TEST(deferred_calls_run_last_first_on_every_way_out)
{
	memset(trace, 0, sizeof trace);
	run_on(2, end_or_cancel, _i ? trace : NULL);
}
END_TEST

static int root_defers(void *arg)
{
	TRY(weir_task_defer(note, "r"));
	return *(int *)arg;
}

START_TEST(the_first_task_defers_too)
{
	int result = 7;

	memset(trace, 0, sizeof trace);
	ck_assert_int_eq(weir_run(root_defers, &result, .workers = 1), 7);
	ck_assert_str_eq(trace, "r");
}
END_TEST

static int slept[2];
static int64_t left;

static void block_twice(void *arg)
{
	(void)arg;
	left = weir_time_left();
	slept[0] = weir_sleep(WEIR_MS);
	slept[1] = weir_sleep(1000 * WEIR_SEC);
}

static int defer_blocking(void *arg)
{
	(void)arg;
	TRY(weir_task_defer(block_twice, NULL));
	return weir_sleep(1000 * WEIR_SEC);
}

static int cancel_once(void)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, defer_blocking, NULL));
	TRY(weir_yield());
	weir_scope_close(&scope); /* joins: the calls are over when it returns */
	return 0;
}

static int cancel_blocking(void *arg)
{
	(void)arg;
	do { /* a busy machine may not let it wake up within the bound */
		TRY(cancel_once());
		ck_assert_int_eq(slept[1], -ETIME);
		ck_assert_int_le(left, 30 * WEIR_MS);
	} while (slept[0] == -ETIME);
	ck_assert_int_eq(slept[0], 0);
	ck_assert_int_gt(left, 0);
	return 0;
}

START_TEST(deferred_calls_may_block_for_a_bounded_time)
{
	setenv("WEIR_DEFER_MS", "30", 1);
	run_on(1, cancel_blocking, NULL);
}
END_TEST

static _Atomic bool is_cleaned;

static void clean_slowly(void *arg)
{
	(void)arg;
	(void)weir_sleep(WEIR_MS);
	is_cleaned = true;
}

static int defer_slow(void *arg)
{
	(void)arg;
	TRY(weir_task_defer(clean_slowly, NULL));
	return 5;
}

static int defer_slow_gen(struct weir_gen *gen, void *arg)
{
	(void)gen;
	return defer_slow(arg);
}

/* Whoever hears of the end of a task finds done what it has deferred. */
static int hear_of_the_end(void *arg)
{
	struct weir_join join;
	struct weir_gen gen;
	void *item;
	int result = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned worker = 0; worker < 2; worker++) {
		is_cleaned = false;
		TRY(weir_spawn(&scope, defer_slow, NULL, .join = &join,
			       .worker = WEIR_ON_WORKER(worker)));
		TRY(weir_join_wait(&join, &result));
		ck_assert(is_cleaned);
		ck_assert_int_eq(result, 5);
		is_cleaned = false;
		ck_assert_int_eq(weir_call_on(worker, defer_slow, NULL), 5);
		ck_assert(is_cleaned);
	}
	is_cleaned = false;
	TRY(weir_gen_open(&gen, &scope, defer_slow_gen, NULL));
	ck_assert_int_eq(weir_gen_next(&gen, &item), 0);
	ck_assert(is_cleaned);
	return weir_scope_wait(&scope);
}

START_TEST(the_end_of_a_task_is_told_after_its_deferred_calls)
{
	run_on(2, hear_of_the_end, NULL);
}
END_TEST

static void spawn_and_defer_more(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	note(arg);
	expect(run_one(defer_three, NULL) == 0);
	expect(weir_task_defer(note, "m") == 0);
	expect(weir_task_alloc(5000) != NULL);
}

static int defer_spawning(void *arg)
{
	(void)arg;
	TRY(weir_task_defer(note, "z"));
	return weir_task_defer(spawn_and_defer_more, "s");
}

START_TEST(a_deferred_call_may_open_scopes_and_defer_more)
{
	memset(trace, 0, sizeof trace);
	run_on(1, defer_spawning, NULL);
	ck_assert_str_eq(trace, "s-cbamz");
}
END_TEST

static void nothing(void *arg)
{
	(void)arg;
}

START_TEST(outside_tasks_nothing_can_be_deferred_or_set)
{
	static const struct weir_task_key key = { "key", note };

	memset(trace, 0, sizeof trace);
	ck_assert_int_eq(weir_task_defer(nothing, NULL), -EINVAL);
	ck_assert_int_eq(weir_task_set(&key, "a"), -EINVAL);
	ck_assert_ptr_null(weir_task_get(&key));
	ck_assert_str_eq(trace, "");
}
END_TEST

/* ---- Values --------------------------------------------------------------------------------- */

static const struct weir_task_key first_key = { "first", note };
static const struct weir_task_key plain_key = { "plain", NULL };

static int use_values(void *arg)
{
	ck_assert_ptr_null(weir_task_get(&first_key));
	TRY(weir_task_set(&first_key, NULL));
	TRY(weir_task_set(&first_key, arg));
	TRY(weir_task_set(&plain_key, arg));
	TRY(weir_yield());
	ck_assert_ptr_eq(weir_task_get(&first_key), arg);
	TRY(weir_task_set(&first_key, arg)); /* itself: not done with */
	TRY(weir_task_set(&first_key, "2"));
	ck_assert_ptr_eq(weir_task_get(&plain_key), arg);
	TRY(weir_task_set(&plain_key, NULL));
	ck_assert_ptr_null(weir_task_get(&plain_key));
	TRY(weir_task_set(&first_key, NULL));
	return weir_task_set(&first_key, "3");
}

static int use_values_in_two(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_task_set(&first_key, "p"));
	TRY(weir_spawn(&scope, use_values, "1"));
	TRY(weir_spawn(&scope, use_values, "1"));
	TRY(weir_scope_wait(&scope));
	ck_assert_str_eq(trace, "123123");
	ck_assert_str_eq(weir_task_get(&first_key), "p");
	return 0;
}

START_TEST(values_are_each_tasks_own_and_done_with_once)
{
	memset(trace, 0, sizeof trace);
	run_on(1, use_values_in_two, NULL);
	ck_assert_str_eq(trace, "123123p");
}
END_TEST

static void set_again(void *value)
{
	static unsigned times;

	note(value);
	if (times++ < 3)
		expect(weir_task_set(&first_key, "v") == 0);
	expect(weir_task_defer(note, "d") == 0);
}

static int leave_resetting(void *arg)
{
	static const struct weir_task_key resetting = { "resetting", set_again };

	(void)arg;
	TRY(weir_task_defer(note, "0"));
	return weir_task_set(&resetting, "r");
}

START_TEST(destructors_run_after_deferred_calls_and_may_ask_for_more)
{
	memset(trace, 0, sizeof trace);
	run_on(1, leave_resetting, NULL);
	ck_assert_str_eq(trace, "0rdv");
}
END_TEST

/* ---- Want of memory, at each place in turn -------------------------------------------------- */

static int three_items(struct weir_gen *gen, void *arg)
{
	for (int i = 0; i < 3; i++)
		TRY(weir_gen_yield(gen, arg));
	return 0;
}

static int own_all_kinds(void *arg)
{
	struct weir_gen gen;
	void *item;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (!weir_task_strdup("text") || !weir_task_alloc(2000))
		return -ENOMEM;
	TRY(weir_task_defer(note, "d"));
	TRY(weir_task_set(&first_key, "v"));
	TRY(weir_gen_open(&gen, &scope, three_items, arg));
	for (int i = 0; i < 4; i++)
		TRY(weir_gen_next(&gen, &item));
	return 0;
}

static int fail_in_turn(void *arg)
{
	int failures = 0;

	TRY(run_one(own_all_kinds, arg));
	for (uint64_t nth = 1;; nth++) {
		uint64_t before = blocks_in_use();
		memset(trace, 0, sizeof trace);
		(void)weir_mem_fail_after(nth);
		int err = run_one(own_all_kinds, arg);
		(void)weir_mem_fail_after(0);
		/* what was taken was done with, once */
		ck_assert(strcmp(trace, "") == 0 || strcmp(trace, "d") == 0 ||
			  strcmp(trace, "dv") == 0);
		ck_assert_uint_eq(blocks_in_use(), before);
		if (err == 0)
			break;
		ck_assert_int_eq(err, -ENOMEM);
		failures++;
	}
	ck_assert_int_ge(failures, 3);
	return 0;
}

START_TEST(each_allocation_may_fail_in_turn)
{
	run_on(1, fail_in_turn, &trace);
}
END_TEST

/* ---- Many ----------------------------------------------------------------------------------- */

static _Atomic unsigned called;

static void count(void *arg)
{
	(void)arg;
	called++;
}

static int random_owner(void *arg)
{
	uint64_t seed = (uintptr_t)arg | 1;

	for (unsigned i = (unsigned)(random_next(&seed) % 20); i-- > 0;) {
		unsigned *mine = weir_task_alloc(sizeof *mine * (1 + random_next(&seed) % 200));
		expect(mine != NULL);
		*mine = i;
		if (i % 2)
			TRY(weir_task_defer(count, mine));
		if (random_next(&seed) % 4 == 0)
			TRY(weir_sleep((int64_t)(random_next(&seed) % 100000)));
		expect(*mine == i);
	}
	return 0;
}

static int cancel_owners(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;

	for (unsigned round = 0; is_stressed(round, 300); round++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned i = 0; i < 20; i++)
			TRY(weir_spawn(&scope, random_owner, (void *)(uintptr_t)random_next(&seed),
				       .worker = WEIR_ON_WORKER((unsigned)random_next(&seed) % 3)));
		TRY(weir_sleep((int64_t)(random_next(&seed) % 200000)));
	}
	return 0;
}

START_TEST(owners_may_be_cancelled_at_any_time)
{
	uint64_t seed = test_seed();

	run_on(3, cancel_owners, &seed);
	ck_assert_uint_gt(called, 0);
}
END_TEST

Suite *runtime_extra_suite(void)
{
	Suite *suite = suite_create("runtime_extra");
	TCase *rules = tcase_create("rules");
	TCase *stress = tcase_create("stress");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 20);
	tcase_add_test(rules, memory_is_the_tasks_own_and_ends_with_it);
	tcase_add_test(rules, sizes_that_cannot_be_are_refused);
	tcase_add_test(rules, want_of_memory_is_told_and_takes_nothing);
	tcase_add_loop_test(rules, deferred_calls_run_last_first_on_every_way_out, 0, 2);
	tcase_add_test(rules, the_first_task_defers_too);
	tcase_add_test(rules, deferred_calls_may_block_for_a_bounded_time);
	tcase_add_test(rules, the_end_of_a_task_is_told_after_its_deferred_calls);
	tcase_add_test(rules, a_deferred_call_may_open_scopes_and_defer_more);
	tcase_add_test(rules, outside_tasks_nothing_can_be_deferred_or_set);
	tcase_add_test(rules, values_are_each_tasks_own_and_done_with_once);
	tcase_add_test(rules, each_allocation_may_fail_in_turn);
	tcase_add_test(rules, destructors_run_after_deferred_calls_and_may_ask_for_more);
	suite_add_tcase(suite, rules);
	tcase_set_timeout(stress, 60);
	tcase_add_test(stress, owners_may_be_cancelled_at_any_time);
	suite_add_tcase(suite, stress);
	return suite;
}
