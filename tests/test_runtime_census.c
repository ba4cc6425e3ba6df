/* SPDX-License-Identifier: MIT */
/*
 * How deep the stacks of tasks get: weir_stack_uses_get(), and the lines below the list of tasks.
 */
#include <alloca.h>
#include <string.h>

#include "runtime/task.h"
#include "tests/runtime_test.h"

/* What the runtime's own frames may add: more of them where each call is checked. */
enum { FRAMES_MAX = TESTS_SLOW ? 12 << 10 : 3 << 10 };

static struct weir_stack_use uses[WEIR_STACK_USES_MAX];

static const struct weir_stack_use *use_of(const char *site)
{
	size_t n = weir_stack_uses_get(uses, WEIR_STACK_USES_MAX);

	for (size_t i = 0; i < n; i++)
		if (strcmp(uses[i].site, site) == 0)
			return &uses[i];
	return NULL;
}

static uint64_t measured_at(const char *site)
{
	const struct weir_stack_use *use = use_of(site);

	return use ? use->measured : 0;
}

/* Uses so many bytes of stack, and not more than it says. */
__attribute__((noinline)) static int use_stack(void *arg)
{
	volatile char *bytes = alloca((size_t)(intptr_t)arg);

	for (size_t i = 0; i < (size_t)(intptr_t)arg; i++)
		bytes[i] = 1;
	return bytes[0] == 1 ? 0 : -EINVAL;
}

static int use_and_sleep(void *arg)
{
	int err = use_stack(arg);

	return err < 0 ? err : weir_sleep(1000 * WEIR_SEC);
}

static void run_one(weir_fn fn, size_t bytes, const char *site, enum weir_stack_class stack)
{
	struct weir_task_opts opts = {
		.fn = fn, .arg = (void *)bytes, .size = sizeof opts, .site = site, .stack = stack
	};
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_int_eq(weir_spawn_with(&scope, &opts), 0);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
}

static void set_census(const char *one_in)
{
	setenv("WEIR_STACK_CENSUS", one_in, 1);
}

/* ---- What is measured ----------------------------------------------------------------------- */

static int measure_depths(void *arg)
{
	static const size_t bytes[] = { 1000, 10000, 30000 };
	static const char *const sites[] = { "a", "b", "c" };

	(void)arg;
	for (int i = 0; i < 3; i++) {
		run_one(use_stack, bytes[i], sites[i], WEIR_STACK_64K);
		const struct weir_stack_use *use = use_of(sites[i]);
		ck_assert_ptr_nonnull(use);
		ck_assert_uint_ge(use->deepest_bytes, bytes[i]);
		ck_assert_uint_le(use->deepest_bytes, bytes[i] + FRAMES_MAX);
		ck_assert_uint_eq(use->measured, 1);
		ck_assert_int_eq(use->stack, WEIR_STACK_64K);
		ck_assert_uint_eq(use->usable_bytes, 46 << 10);
	}
	return 0;
}

START_TEST(a_task_s_stack_is_measured_to_the_frame)
{
	set_census("1");
	run_on(1, measure_depths, NULL);
}
END_TEST

static int deep_then_shallow(void *arg)
{
	(void)arg;
	for (int i = 0; i < 10; i++) {
		run_one(use_stack, 30000, "deep", WEIR_STACK_64K);
		run_one(use_stack, 100, "shallow", WEIR_STACK_64K);
	}
	ck_assert_uint_gt(use_of("deep")->deepest_bytes, 30000);
	ck_assert_uint_lt(use_of("shallow")->deepest_bytes, 100 + FRAMES_MAX);
	ck_assert_uint_eq(use_of("shallow")->measured, 10);
	run_one(use_stack, 100, "deep", WEIR_STACK_64K); /* it is the deepest that counts */
	ck_assert_uint_gt(use_of("deep")->deepest_bytes, 30000);
	return 0;
}

START_TEST(what_a_task_before_has_used_of_the_stack_is_not_counted)
{
	set_census("1");
	run_on(1, deep_then_shallow, NULL);
}
END_TEST

static int look_at_sleepers(void *arg)
{
	struct weir_task_opts opts = { .fn = use_and_sleep,
				       .arg = (void *)20000,
				       .size = sizeof opts,
				       .site = "sleeper",
				       .worker = WEIR_ON_WORKER(1) };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	ck_assert_int_eq(weir_spawn_with(&scope, &opts), 0);
	while (measured_at("sleeper") == 0 || use_of("sleeper")->deepest_bytes < 20000)
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	ck_assert_uint_lt(use_of("sleeper")->deepest_bytes, 20000 + FRAMES_MAX);
	weir_scope_cancel(&scope);
	return 0;
}

START_TEST(a_task_that_has_not_ended_is_measured_too_on_any_worker)
{
	set_census("1");
	run_on(2, look_at_sleepers, NULL);
}
END_TEST

static struct weir_event may_end[3];

static int wait_to_end(void *arg)
{
	return weir_event_wait(arg);
}

/* In every order but that of their beginning and its reverse. */
static int end_in_turn(void *arg)
{
	static const unsigned orders[][3] = { { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 } };

	const struct weir__census *census = &weir__worker_self()->runtime->census;
	const struct weir__measured *before = census->running; /* this one */

	(void)arg;
	for (unsigned i = 0; i < 4; i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned k = 0; k < 3; k++) {
			weir_event_init(&may_end[k]);
			TRY(weir_spawn(&scope, wait_to_end, &may_end[k]));
		}
		for (unsigned k = 0; k < 3; k++) {
			TRY(weir_sleep(WEIR_MS));
			weir_event_set(&may_end[orders[i][k]]);
		}
		TRY(weir_scope_wait(&scope));
		ck_assert_ptr_eq(census->running, before);
	}
	return 0;
}

START_TEST(those_that_are_measured_end_in_any_order)
{
	set_census("1");
	run_on(1, end_in_turn, NULL);
}
END_TEST

static int fit_classes(void *arg)
{
	static const struct {
		const char *site;
		size_t bytes;
		enum weir_stack_class stack, fits;
	} cases[] = {
		{ "small", 100, WEIR_STACK_64K, WEIR_STACK_32K },
		{ "fitting", 24000, WEIR_STACK_64K, WEIR_STACK_64K },
		{ "near", 33000, WEIR_STACK_64K, WEIR_STACK_256K },
		{ "large", 200000, WEIR_STACK_1M, WEIR_STACK_1M },
		{ "largest", 900000, WEIR_STACK_1M, WEIR_STACK_1M },
	};

	(void)arg;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		run_one(use_stack, cases[i].bytes, cases[i].site, cases[i].stack);
		ck_assert_int_eq(use_of(cases[i].site)->stack, cases[i].stack);
		ck_assert_int_eq(use_of(cases[i].site)->fits, cases[i].fits);
	}
	return 0;
}

START_TEST(the_class_that_fits_has_a_third_to_spare)
{
	set_census("1");
	run_on(1, fit_classes, NULL);
}
END_TEST

static int use_default_class(void *arg)
{
	run_one(use_stack, 100, "default", WEIR_STACK_DEFAULT);
	ck_assert_int_eq(use_of("default")->stack, *(enum weir_stack_class *)arg);
	return 0;
}

START_TEST(a_size_between_two_classes_is_the_larger_one)
{
	static const struct {
		const char *kb;
		enum weir_stack_class stack;
	} sizes[] = { { "33", WEIR_STACK_64K },
		      { "64", WEIR_STACK_64K },
		      { "100", WEIR_STACK_256K },
		      { "256", WEIR_STACK_256K },
		      { "500", WEIR_STACK_1M } };

	set_census("1");
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		enum weir_stack_class stack = sizes[i].stack;
		setenv("WEIR_STACK_KB", sizes[i].kb, 1);
		run_on(1, use_default_class, &stack);
	}
}
END_TEST

static int use_both_classes(void *arg)
{
	(void)arg;
	run_one(use_stack, 100, "place", WEIR_STACK_32K);
	run_one(use_stack, 100, "place", WEIR_STACK_256K);
	ck_assert_uint_eq(measured_at("place"), 1);
	return 0;
}

START_TEST(a_place_with_two_classes_has_two_entries)
{
	set_census("1");
	run_on(1, use_both_classes, NULL);
}
END_TEST

/* ---- Which tasks ---------------------------------------------------------------------------- */

static int spawn_in_turns(void *arg)
{
	static const char *const sites[] = { "even", "odd" };
	unsigned count = *(const unsigned *)arg;

	for (unsigned i = 0; i < count; i++)
		run_one(use_stack, 100, sites[i % 2], WEIR_STACK_DEFAULT);
	return 0;
}

static int count_one_in_64(void *arg)
{
	unsigned spawns = 6400;

	(void)arg;
	ck_assert_int_eq(spawn_in_turns(&spawns), 0);
	/* 100, and some more at the start */
	uint64_t even = measured_at("even"), odd = measured_at("odd");
	ck_assert_uint_ge(even + odd, 80);
	ck_assert_uint_le(even + odd, 200);
	ck_assert_uint_ge(even, 20);
	ck_assert_uint_ge(odd, 20);
	return 0;
}

START_TEST(one_in_so_many_is_measured_whatever_the_pattern_of_spawns)
{
	set_census("64");
	run_on(1, count_one_in_64, NULL);
}
END_TEST

static int look_for_first(void *arg)
{
	unsigned spawns = 1000;

	(void)arg;
	run_one(use_stack, 100, "first", WEIR_STACK_DEFAULT);
	ck_assert_uint_eq(measured_at("first"), 1);
	ck_assert_int_eq(spawn_in_turns(&spawns), 0);
	ck_assert_uint_le(measured_at("even") + measured_at("odd"), 100);
	ck_assert_uint_ge(measured_at("even"), 1);
	return 0;
}

START_TEST(what_is_spawned_at_the_start_is_measured_by_default)
{
	unsetenv("WEIR_STACK_CENSUS");
	run_on(1, look_for_first, NULL);
}
END_TEST

static int look_for_none(void *arg)
{
	unsigned spawns = 100;

	(void)arg;
	ck_assert_int_eq(spawn_in_turns(&spawns), 0);
	ck_assert_uint_eq(weir_stack_uses_get(uses, WEIR_STACK_USES_MAX), 0);
	return 0;
}

START_TEST(switched_off_none_is_measured)
{
	set_census("0");
	run_on(1, look_for_none, NULL);
	ck_assert_uint_eq(weir_stack_uses_get(uses, WEIR_STACK_USES_MAX), 0); /* outside */
}
END_TEST

/* ---- What a measured task is like ----------------------------------------------------------- */

static int answer(void *arg)
{
	(void)arg;
	return weir_sleep(WEIR_MS) < 0 ? -EIO : 42;
}

static int join_measured(void *arg)
{
	struct weir_join joins[3];
	int result = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	ck_assert_int_eq(weir_spawn(&scope, answer, NULL, .join = &joins[0]), 0);
	ck_assert_int_eq(
		weir_spawn(&scope, answer, NULL, .join = &joins[1], .worker = WEIR_ON_WORKER(1)),
		0);
	ck_assert_int_eq(weir_spawn(&scope, answer, NULL, .join = &joins[2], .any = true), 0);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(weir_join_wait(&joins[i], &result), 0);
		ck_assert_int_eq(result, 42);
	}
	return weir_scope_wait(&scope);
}

START_TEST(a_measured_task_is_joined_like_any_other_wherever_it_ran)
{
	set_census("1");
	run_on(2, join_measured, NULL);
}
END_TEST

static char *list_tasks(void)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	ck_assert_ptr_nonnull(out);
	ck_assert_int_eq(weir_tasks_write(out), 0);
	fclose(out);
	return text;
}

static int list_unstarted(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	ck_assert_int_eq(weir_spawn(&scope, use_stack, (void *)100), 0);
	char *text = list_tasks();
	ck_assert_ptr_nonnull(strstr(text, "\"use_stack\", worker 0, not started"));
	ck_assert_ptr_null(strstr(text, "weir__census"));
	free(text);
	return weir_scope_wait(&scope);
}

START_TEST(its_name_and_its_frames_in_a_list_are_its_own)
{
	set_census("1");
	run_on(1, list_unstarted, NULL);
}
END_TEST

/* ---- The text ------------------------------------------------------------------------------- */

static const char *line_with(const char *text, const char *wanted)
{
	const char *at = strstr(text, wanted);

	if (!at)
		ck_abort_msg("no \"%s\" in:\n%s", wanted, text);
	while (at > text && at[-1] != '\n')
		at--;
	return at;
}

static int write_the_text(void *arg)
{
	(void)arg;
	run_one(use_stack, 100, "place.c:1", WEIR_STACK_256K);
	run_one(use_stack, 36000, "place.c:2", WEIR_STACK_64K);
	char *text = list_tasks();
	const char *heading = line_with(text, "stacks at their deepest");
	const char *small = line_with(heading, "spawned at place.c:1");
	const char *deep = line_with(heading, "spawned at place.c:2");
	ck_assert(deep < small); /* the nearest to its end first */
	ck_assert_ptr_nonnull(strstr(small,
				     " of  238 KiB,        1 measured, spawned at place.c:1; "
				     "WEIR_STACK_32K would do\n"));
	ck_assert_ptr_nonnull(strstr(deep, " of   46 KiB,        1 measured, spawned at place.c:2; "
					   "WEIR_STACK_256K would be safer\n"));
	free(text);
	return 0;
}

START_TEST(the_list_of_tasks_says_which_class_would_fit)
{
	set_census("1");
	run_on(1, write_the_text, NULL);
}
END_TEST

static int fill_the_table(void *arg)
{
	static char sites[WEIR_STACK_USES_MAX + 10][100];

	(void)arg;
	for (int i = 0; i < WEIR_STACK_USES_MAX + 10; i++) {
		snprintf(sites[i], sizeof sites[i], "%080d/place.c:%d", 0, i);
		run_one(use_stack, 100, sites[i], WEIR_STACK_DEFAULT);
	}
	ck_assert_uint_eq(weir_stack_uses_get(uses, WEIR_STACK_USES_MAX), WEIR_STACK_USES_MAX);
	ck_assert_uint_eq(weir_stack_uses_get(uses, 3), 3);
	ck_assert_uint_eq(strlen(uses[1].site), sizeof uses[1].site - 1);
	ck_assert_ptr_nonnull(strstr(uses[1].site, "0/place.c:0"));
	char *text = list_tasks();
	(void)line_with(text, "and 11 measured elsewhere"); /* main is the first */
	free(text);
	return 0;
}

START_TEST(more_places_than_the_table_has_are_counted_and_long_ones_cut)
{
	set_census("1");
	run_on(1, fill_the_table, NULL);
}
END_TEST

Suite *runtime_census_suite(void);
Suite *runtime_census_suite(void)
{
	Suite *suite = suite_create("runtime_census");
	TCase *tcase = tcase_create("stacks");

	tcase_set_tags(tcase, "fast");
	tcase_set_timeout(tcase, 20);
	tcase_add_test(tcase, a_task_s_stack_is_measured_to_the_frame);
	tcase_add_test(tcase, what_a_task_before_has_used_of_the_stack_is_not_counted);
	tcase_add_test(tcase, a_task_that_has_not_ended_is_measured_too_on_any_worker);
	tcase_add_test(tcase, those_that_are_measured_end_in_any_order);
	tcase_add_test(tcase, the_class_that_fits_has_a_third_to_spare);
	tcase_add_test(tcase, a_size_between_two_classes_is_the_larger_one);
	tcase_add_test(tcase, a_place_with_two_classes_has_two_entries);
	tcase_add_test(tcase, one_in_so_many_is_measured_whatever_the_pattern_of_spawns);
	tcase_add_test(tcase, what_is_spawned_at_the_start_is_measured_by_default);
	tcase_add_test(tcase, switched_off_none_is_measured);
	tcase_add_test(tcase, a_measured_task_is_joined_like_any_other_wherever_it_ran);
	tcase_add_test(tcase, its_name_and_its_frames_in_a_list_are_its_own);
	tcase_add_test(tcase, the_list_of_tasks_says_which_class_would_fit);
	tcase_add_test(tcase, more_places_than_the_table_has_are_counted_and_long_ones_cut);
	suite_add_tcase(suite, tcase);
	return suite;
}
