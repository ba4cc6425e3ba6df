/* SPDX-License-Identifier: MIT */
/*
 * Tasks, from outside: what a program may count on when it spawns, yields and sleeps, on one worker
 * and on several, and when there is no memory.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "tests/runtime_test.h"

static _Atomic unsigned ran;

static int count_up(void *arg)
{
	(void)arg;
	atomic_fetch_add(&ran, 1);
	return 0;
}

static int return_arg(void *arg)
{
	return (int)(intptr_t)arg;
}

/* ---- Many parked ---------------------------------------------------------------------------- */

/* Bytes of the process that are in memory, and how many mappings it has. */
static int64_t resident_bytes(unsigned *ret_mappings)
{
	char line[512];
	FILE *statm = fopen("/proc/self/statm", "r"), *maps = fopen("/proc/self/maps", "r");
	long pages = 0;

	ck_assert(statm && maps && fscanf(statm, "%*d %ld", &pages) == 1);
	*ret_mappings = 0;
	while (fgets(line, sizeof line, maps))
		++*ret_mappings;
	(void)fclose(statm);
	(void)fclose(maps);
	return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static unsigned parked_now;

static int park_for_good(void *arg)
{
	(void)arg;
	parked_now++;
	return weir_sleep(WEIR_FOREVER) == -ECANCELED ? 0 : -EIO;
}

/* Where it can be, more than 32,700: guards made by mprotect() use up the kernel's mappings then.
 */
static int park_many(void *arg)
{
	unsigned mappings, count = *(unsigned *)arg;
	int64_t before = resident_bytes(&mappings);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < count; i++) {
		int err = weir_spawn(&scope, park_for_good, NULL);
		if (err < 0)
			return err;
	}
	while (parked_now < count)
		(void)weir_yield();
	int64_t each = (resident_bytes(&mappings) - before) / count;
	if (!TESTS_SLOW) {
		/* a context saved by swapcontext() is larger: some colours leave it too little */
		ck_assert_int_le(each, getenv("WEIR_SWITCH") ? 4900 : 4600);
		if (guards_are_free())
			ck_assert_uint_lt(mappings, 1000);
	}
	weir_scope_cancel(&scope);
	return weir_scope_wait(&scope) == -ECANCELED ? 0 : -EIO;
}

START_TEST(a_parked_task_costs_a_page_and_a_record)
{
	unsigned count = TESTS_SLOW ? 500 : guards_are_free() ? 36000 : 20000;

	run_on(1, park_many, &count);
}
END_TEST

/* ---- Depth first ---------------------------------------------------------------------------- */

static uint64_t stacks_max, leaves;

/* 1 + 10 + ... + 10^depth tasks. */
static int branch(void *arg)
{
	uintptr_t depth = (uintptr_t)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (depth == 0) {
		struct weir_mem_stats stats;
		if (leaves++ % 64 == 0) {
			weir_mem_stats_get(&stats);
			stacks_max = stats.stacks > stacks_max ? stats.stacks : stacks_max;
		}
		return 0;
	}
	for (int i = 0; i < 10; i++) {
		int err = weir_spawn(&scope, branch, (void *)(depth - 1));
		if (err < 0)
			return err;
	}
	return weir_scope_wait(&scope);
}

START_TEST(a_tree_has_about_as_many_stacks_as_it_is_deep)
{
	/* a tree gets broader with every slice, which are many where tasks are slow, as measured
	 * ones are; and ThreadSanitizer has 8,128 fibers */
	ck_assert_int_eq(setenv("WEIR_SLICE_US", "100000", 1), 0);
	run_on(1, branch, (void *)(uintptr_t)(TESTS_SLOW ? 4 : 5));
	ck_assert_uint_eq(leaves, TESTS_SLOW ? 10000 : 100000);
	fprintf(stderr, "STACKS %lu\n", stacks_max);
	ck_assert_uint_le(stacks_max, 1000); /* in the order of spawning: 11,111 */
}
END_TEST

static bool spawned_enough;
static uint64_t chain_links;

/* Two chains that would take turns at the head of the queue for ever. */
static int spawn_next_link(void *arg)
{
	chain_links++;
	return spawned_enough ? 0 : weir_spawn((struct weir_scope *)arg, spawn_next_link, arg);
}

static int take_a_hundred_turns(void *arg)
{
	(void)arg;
	for (int i = 0; i < 100; i++) {
		int err = weir_yield();
		if (err < 0)
			return err;
	}
	spawned_enough = true;
	return 0;
}

static int spawn_chains(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, take_a_hundred_turns, arg);

	for (int i = 0; i < 2 && err == 0; i++)
		err = weir_spawn(&scope, spawn_next_link, &scope);
	return err < 0 ? err : weir_scope_wait(&scope);
}

START_TEST(who_spawns_for_ever_keeps_nobody_waiting)
{
	run_on(1, spawn_chains, NULL);
	ck_assert_uint_gt(chain_links, 100);
}
END_TEST

/* ---- Spawn and join ------------------------------------------------------------------------- */

static int order[64];
static unsigned order_len;

static int note(void *arg)
{
	order[order_len++] = (int)(intptr_t)arg;
	return 0;
}

static int spawn_ten(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (intptr_t i = 0; i < 10; i++)
		TRY(weir_spawn(&scope, note, (void *)i));
	ck_assert_uint_eq(order_len, 0); /* spawning does not run anything */
	return weir_scope_wait(&scope);
}

START_TEST(tasks_start_in_the_order_of_spawning)
{
	run_on(1, spawn_ten, NULL);
	ck_assert_uint_eq(order_len, 10);
	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(order[i], i);
}
END_TEST

START_TEST(the_result_of_the_first_task_is_that_of_run)
{
	ck_assert_int_eq(weir_run(return_arg, (void *)42), 42);
	ck_assert_int_eq(weir_run(return_arg, (void *)(intptr_t)-ENXIO), -ENXIO);
}
END_TEST

static int queue_many(void *arg)
{
	unsigned count = *(unsigned *)arg;
	struct weir_worker_stats stats;
	struct weir_mem_stats before, after;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	weir_mem_stats_get(&before);
	for (unsigned i = 0; i < count; i++)
		TRY(weir_spawn(&scope, count_up, NULL));
	weir_mem_stats_get(&after);
	TRY(weir_worker_stats_get(0, &stats));
	ck_assert_uint_eq(stats.tasks, count + 1);
	ck_assert_uint_eq(stats.spawns, count);
	/* a queued task is a record, not a stack */
	ck_assert_uint_lt(after.span_bytes - before.span_bytes, count * 256ul + (1 << 20));
	TRY(weir_scope_wait(&scope));
	TRY(weir_worker_stats_get(0, &stats));
	ck_assert_uint_eq(stats.tasks, 1);
	return 0;
}

START_TEST(a_hundred_thousand_queued_tasks_hold_no_stack)
{
	unsigned count = TESTS_SLOW ? 10000 : 100000; /* each is a fiber to TSan */

	run_on(1, queue_many, &count);
	ck_assert_uint_eq(ran, count);
}
END_TEST

/* A tree: every task spawns two more and waits for them. */
static int tree(void *arg)
{
	intptr_t depth = (intptr_t)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	atomic_fetch_add(&ran, 1);
	if (depth == 0)
		return 0;
	TRY(weir_spawn(&scope, tree, (void *)(depth - 1)));
	TRY(weir_spawn(&scope, tree, (void *)(depth - 1),
		       .worker = depth % 3 ? 0 : WEIR_ON_WORKER((unsigned)depth % 2)));
	return weir_scope_wait(&scope);
}

START_TEST(a_tree_over_two_workers_joins)
{
	run_on(2, tree, (void *)10);
	ck_assert_uint_eq(ran, 2047);
}
END_TEST

/* ---- Stacks --------------------------------------------------------------------------------- */

/* Uses most of a stack of its class, over a yield, so that two tasks on one stack would show. */
static int use_stack(void *arg)
{
	size_t bytes = (size_t)(intptr_t)arg;
	volatile char *area = __builtin_alloca(bytes);
	char mark = (char)(uintptr_t)&area;

	for (size_t i = 0; i < bytes; i += 64)
		area[i] = mark;
	TRY(weir_yield());
	for (size_t i = 0; i < bytes; i += 64)
		if (area[i] != mark)
			return -EFAULT;
	atomic_fetch_add(&ran, 1);
	return 0;
}

static int mix_stacks(void *arg)
{
	static const size_t most[] = { 16 << 10, 8 << 10, 16 << 10, 200 << 10, 900 << 10 };
	uint64_t seed = *(uint64_t *)arg;

	for (int round = 0; round < ROUNDS(100); round++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (int i = 0; i < 40; i++) {
			unsigned stack = (unsigned)(random_next(&seed) % 5);
			size_t bytes = TESTS_SLOW ? most[stack] / 4 : most[stack];
			bool brief =
				random_next(&seed) % 2; /* ends at once: its stack is inherited */
			TRY(weir_spawn(&scope, brief ? count_up : use_stack, (void *)bytes,
				       .stack = (enum weir_stack_class)stack));
		}
		TRY(weir_scope_wait(&scope));
	}
	return 0;
}

START_TEST(stacks_of_mixed_classes_are_inherited_by_their_own)
{
	uint64_t seed = test_seed();

	ck_assert_int_eq(setenv("WEIR_SWITCH", _i ? "ucontext" : "asm", 1), 0);
	run_on(1, mix_stacks, &seed);
	ck_assert_uint_eq(ran, (unsigned)ROUNDS(100) * 40);
}
END_TEST

static int yield_thrice(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++)
		TRY(weir_yield());
	return 0;
}

/* The second has the stack of the first, and nobody to yield to. */
static int inherit_and_yield(void *arg)
{
	struct weir_mem_stats stats;
	uint64_t before;

	(void)arg;
	weir_mem_stats_get(&stats);
	before = stats.stacks;
	for (int i = 0; i < 10; i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, count_up, NULL));
		TRY(weir_spawn(&scope, yield_thrice, NULL));
		TRY(weir_scope_wait(&scope));
	}
	weir_mem_stats_get(&stats);
	ck_assert_uint_eq(stats.stacks, before);
	return 0;
}

START_TEST(who_inherited_a_stack_keeps_it_when_there_is_nobody_to_yield_to)
{
	run_on(1, inherit_and_yield, NULL);
}
END_TEST

/* ---- Without memory ------------------------------------------------------------------------- */

static int spawn_without_memory(void *arg)
{
	int value = 7;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_mem_fail_after(1);
	int err = weir_spawn(&scope, count_up, &value);
	weir_mem_fail_after(0);
	ck_assert_int_eq(err, -ENOMEM);
	TRY(weir_scope_wait(&scope)); /* nothing is in it */
	ck_assert_uint_eq(ran, 0);
	ck_assert_int_eq(value, 7);
	return weir_spawn(&scope, count_up, NULL) < 0 ? -1 : weir_scope_wait(&scope);
}

START_TEST(a_failed_spawn_has_taken_nothing)
{
	run_on(1, spawn_without_memory, NULL);
	ck_assert_uint_eq(ran, 1);
}
END_TEST

static _Atomic bool memory_is_gone;

static int occupy_worker(void *arg)
{
	(void)arg;
	while (!memory_is_gone)
		compute(100 * WEIR_US);
	for (void *block; (block = weir_alloc(64)) != NULL;)
		weir_free(block); /* until this worker has noticed, too */
	return 0;
}

/* Tasks of another stack class than the one before them: there is no stack to inherit. */
static int start_without_memory(void *arg)
{
	unsigned worker = *(unsigned *)arg;
	struct weir_worker_stats stats;
	struct weir_join join;
	int result = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (worker)
		TRY(weir_spawn(&scope, occupy_worker, NULL, .worker = worker));
	for (int i = 0; i < 5; i++)
		TRY(weir_spawn(&scope, count_up, NULL, .worker = worker, .stack = WEIR_STACK_32K));
	TRY(weir_spawn(&scope, count_up, NULL, .worker = worker, .stack = WEIR_STACK_32K,
		       .join = &join));
	weir_mem_fail_after(1);
	memory_is_gone = true;
	int err = weir_scope_wait(&scope);
	weir_mem_fail_after(0);
	ck_assert_int_eq(err, -ENOMEM);
	ck_assert_uint_eq(ran, 0);
	ck_assert(weir_join_has_ended(&join)); /* who waits for it is told */
	weir_scope_close(&scope);
	TRY(weir_join_wait(&join, &result));
	ck_assert_int_eq(result, -ENOMEM);
	TRY(weir_worker_stats_get(WEIR_ALL_WORKERS, &stats));
	ck_assert_uint_eq(stats.tasks, 1);
	return 0;
}

START_TEST(a_task_that_gets_no_stack_ends_with_enomem)
{
	unsigned worker = _i ? WEIR_ON_WORKER(1) : 0;

	run_on(2, start_without_memory, &worker);
}
END_TEST

/* ---- Names ---------------------------------------------------------------------------------- */

static uint64_t ids[200];

static int check_names(void *arg)
{
	intptr_t i = (intptr_t)arg;

	ids[i] = weir_task_id();
	ck_assert_str_eq(weir_task_name(), i == 0 ? "zero" : "task");
	return 0;
}

static int spawn_names(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	ck_assert_str_eq(weir_task_name(), "main");
	TRY(weir_spawn(&scope, check_names, (void *)0, .name = "zero"));
	for (intptr_t i = 1; i < 200; i++)
		TRY(weir_spawn(&scope, check_names, (void *)i,
			       .worker = WEIR_ON_WORKER((unsigned)i % 2)));
	TRY(weir_scope_wait(&scope));
	for (int i = 0; i < 200; i++) {
		ck_assert_uint_ne(ids[i], 0);
		ck_assert_uint_ne(ids[i], weir_task_id());
		for (int k = 0; k < i; k++)
			expect(ids[i] != ids[k]);
	}
	return 0;
}

START_TEST(names_are_kept_and_ids_differ)
{
	run_on(2, spawn_names, NULL);
}
END_TEST

START_TEST(outside_tasks_there_is_nothing_to_ask)
{
	struct weir_worker_stats stats;
	struct weir_scope scope;

	ck_assert_uint_eq(weir_task_id(), 0);
	ck_assert_int_eq(weir_worker_index(), -1);
	ck_assert_int_eq(weir_yield(), -EINVAL);
	ck_assert_int_eq(weir_sleep(1), -EINVAL);
	ck_assert_int_eq(weir_time_left(), WEIR_FOREVER);
	ck_assert_int_eq(weir_worker_stats_get(0, &stats), -EINVAL);
	weir_scope_open(&scope, WEIR_SEC);
	ck_assert_int_eq(weir_spawn(&scope, count_up, NULL), -EINVAL);
	ck_assert_int_eq(weir_scope_wait(&scope), -EINVAL);
	weir_scope_cancel(&scope);
	weir_scope_close(&scope);
}
END_TEST

/* ---- Workers -------------------------------------------------------------------------------- */

static _Atomic unsigned seen_workers;

static int tell_worker(void *arg)
{
	ck_assert_int_eq(weir_worker_index(), (int)(intptr_t)arg);
	TRY(weir_yield());
	TRY(weir_sleep(WEIR_US));
	ck_assert_int_eq(weir_worker_index(), (int)(intptr_t)arg);
	atomic_fetch_or(&seen_workers, 1u << weir_worker_index());
	return 0;
}

static int visit_workers(void *arg)
{
	unsigned count = *(unsigned *)arg;
	struct weir_worker_stats stats;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_int_eq(weir_worker_index(), 0);
	for (int round = 0; round < 20; round++)
		for (unsigned i = 0; i < count; i++)
			TRY(weir_spawn(&scope, tell_worker, (void *)(uintptr_t)i,
				       .worker = WEIR_ON_WORKER(i)));
	ck_assert_int_eq(weir_spawn(&scope, count_up, NULL, .worker = WEIR_ON_WORKER(count)),
			 -EINVAL);
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(weir_worker_stats_get((int)count, &stats), -EINVAL);
	ck_assert_int_eq(weir_worker_stats_get(-2, &stats), -EINVAL);
	TRY(weir_worker_stats_get(WEIR_ALL_WORKERS, &stats));
	ck_assert_uint_eq(stats.spawns, 20 * count);
	ck_assert_uint_eq(stats.tasks, 1);
	return 0;
}

START_TEST(tasks_run_on_the_worker_asked_for)
{
	unsigned count = (unsigned)_i;

	run_on(count, visit_workers, &count);
	ck_assert_uint_eq(seen_workers, (1u << count) - 1);
}
END_TEST

static struct weir_scope *foreign;

static int spawn_into_foreign(void *arg)
{
	(void)arg;
	ck_assert_int_eq(weir_spawn(foreign, count_up, NULL), -EXDEV);
	return 0;
}

static int lend_scope(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	foreign = &scope;
	TRY(weir_spawn(&scope, spawn_into_foreign, NULL, .worker = WEIR_ON_WORKER(1)));
	return weir_scope_wait(&scope);
}

START_TEST(a_scope_of_another_worker_takes_no_tasks)
{
	run_on(2, lend_scope, NULL);
	ck_assert_uint_eq(ran, 0);
}
END_TEST

static int wrong_options(void *arg)
{
	struct {
		struct weir_task_opts opts;
		char more[16];
	} longer = { .opts = { .fn = count_up } };
	struct weir_task_opts opts = { .fn = count_up };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	longer.opts.size = sizeof longer;
	TRY(weir_spawn_with(&scope, &longer.opts)); /* what we do not know is not asked for */
	longer.more[3] = 1;
	ck_assert_int_eq(weir_spawn_with(&scope, &longer.opts), -E2BIG);
	opts.size = offsetof(struct weir_task_opts, name); /* an older program */
	opts.worker = 99;
	TRY(weir_spawn_with(&scope, &opts));
	ck_assert_int_eq(weir_spawn(&scope, count_up, NULL, .stack = (enum weir_stack_class)99),
			 -EINVAL);
	ck_assert_int_eq(weir_spawn(&scope, NULL, NULL), -EINVAL);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(ran, 2);
	return 0;
}

START_TEST(options_of_other_versions_are_understood)
{
	run_on(1, wrong_options, NULL);
}
END_TEST

START_TEST(a_runtime_checks_its_options)
{
	struct {
		struct weir_run_opts opts;
		char more[16];
	} longer = { .opts = { .fn = count_up, .workers = 1 } };
	struct weir_run_opts opts = { .fn = count_up, .workers = 99999 };

	longer.opts.size = sizeof longer;
	ck_assert_int_eq(weir_run_with(&longer.opts), 0);
	longer.more[15] = 1;
	ck_assert_int_eq(weir_run_with(&longer.opts), -E2BIG);
	opts.size = offsetof(struct weir_run_opts, workers); /* an older program */
	ck_assert_int_eq(weir_run_with(&opts), 0);
	ck_assert_int_eq(weir_run(NULL, NULL), -EINVAL);
	ck_assert_int_eq(weir_run(count_up, NULL, .workers = 99999), -EINVAL);
	ck_assert_int_eq(weir_run(count_up, NULL, .driver = "none"), -EINVAL);
	ck_assert_uint_eq(ran, 2);
}
END_TEST

/* ---- Runtimes ------------------------------------------------------------------------------- */

static int run_nested(void *arg)
{
	(void)arg;
	ck_assert_int_eq(weir_run(count_up, NULL), -EINVAL);
	return 0;
}

START_TEST(a_runtime_in_a_task_is_refused)
{
	run_on(1, run_nested, NULL);
	ck_assert_uint_eq(ran, 0);
}
END_TEST

static unsigned open_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += dup2(fd, fd) == fd;
	return count;
}

START_TEST(one_runtime_after_another_leaves_nothing_open)
{
	run_on(2, tree, (void *)4);
	unsigned before = open_descriptors();
	for (unsigned i = 0; i < 20; i++) {
		ran = 0;
		run_on(i % 4 + 1 > 1 ? i % 4 + 1 : 2, tree, (void *)6);
		ck_assert_uint_eq(ran, 127);
	}
	ck_assert_uint_eq(open_descriptors(), before);
}
END_TEST

static void *thread_with_runtime(void *arg)
{
	return (void *)(intptr_t)weir_run(tree, arg, .workers = 2, .signals_ignored = true);
}

START_TEST(two_runtimes_run_side_by_side)
{
	for (int round = 0; round < 5; round++) {
		pthread_t threads[2];
		void *result;
		ran = 0;
		for (int i = 0; i < 2; i++)
			ck_assert_int_eq(
				pthread_create(&threads[i], NULL, thread_with_runtime, (void *)10),
				0);
		for (int i = 0; i < 2; i++) {
			ck_assert_int_eq(pthread_join(threads[i], &result), 0);
			ck_assert_ptr_null(result);
		}
		ck_assert_uint_eq(ran, 2 * 2047);
	}
}
END_TEST

Suite *runtime_task_suite(void)
{
	Suite *suite = suite_create("runtime_task");
	TCase *one = tcase_create("one_worker");
	TCase *more = tcase_create("workers");

	tcase_set_tags(one, "fast");
	tcase_set_timeout(one, 20);
	tcase_add_test(one, tasks_start_in_the_order_of_spawning);
	tcase_add_test(one, the_result_of_the_first_task_is_that_of_run);
	tcase_add_test(one, who_inherited_a_stack_keeps_it_when_there_is_nobody_to_yield_to);
	tcase_add_test(one, a_failed_spawn_has_taken_nothing);
	tcase_add_test(one, outside_tasks_there_is_nothing_to_ask);
	tcase_add_test(one, options_of_other_versions_are_understood);
	tcase_add_test(one, a_runtime_in_a_task_is_refused);
	suite_add_tcase(suite, one);

	tcase_set_tags(more, "fast");
	tcase_set_timeout(more, 20);
	tcase_add_test(more, a_tree_over_two_workers_joins);
	tcase_add_test(more, who_spawns_for_ever_keeps_nobody_waiting);
	tcase_add_loop_test(more, a_task_that_gets_no_stack_ends_with_enomem, 0, 2);
	tcase_add_test(more, names_are_kept_and_ids_differ);
	tcase_add_loop_test(more, tasks_run_on_the_worker_asked_for, 1, 9);
	tcase_add_test(more, a_scope_of_another_worker_takes_no_tasks);
	tcase_add_test(more, a_runtime_checks_its_options);
	tcase_add_test(more, one_runtime_after_another_leaves_nothing_open);
	tcase_add_test(more, two_runtimes_run_side_by_side);
	suite_add_tcase(suite, more);
	/* not under memcheck, to which every stack is known by a list, and every instruction is
	 * fifty */
	TCase *many = tcase_create("many");
	tcase_set_timeout(many, 20);
	tcase_add_test(many, a_hundred_thousand_queued_tasks_hold_no_stack);
	tcase_add_loop_test(many, stacks_of_mixed_classes_are_inherited_by_their_own, 0, 2);
	tcase_add_test(many, a_tree_has_about_as_many_stacks_as_it_is_deep);
	tcase_add_test(many, a_parked_task_costs_a_page_and_a_record);
	suite_add_tcase(suite, many);
	return suite;
}
