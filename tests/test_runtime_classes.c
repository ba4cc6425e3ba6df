/* SPDX-License-Identifier: MIT */
/*
 * Classes of tasks: shares are kept to the nanosecond, nobody starves, an idle class saves nothing
 * up, and whoever is in one class only knows nothing of it.
 */
#include <stdatomic.h>
#include <string.h>

#include "runtime/task.h"
#include "tests/runtime_test.h"

/* ---- Whose turn it is, without a clock ------------------------------------------------------ */

static struct weir__runtime runtime;
static struct weir__worker worker;
static struct weir__task tasks[WEIR__PRIORITIES];

static void set_up_worker(void)
{
	weir__config_init(&runtime.config);
	worker = (struct weir__worker){ .runtime = &runtime };
	worker.runq_tail = &worker.runq_head;
	weir__classes_init(&worker);
	for (unsigned p = 1; p < WEIR__PRIORITIES; p++)
		tasks[p] = (struct weir__task){ .priority = (uint8_t)p };
}

static struct weir__task *take(void)
{
	struct weir__task *task = worker.runq_head;

	worker.runq_head = task->next;
	if (!task->next)
		worker.runq_tail = &worker.runq_head;
	return task;
}

/* All classes named are always ready; counts the time each gets, in turns of `turn_ns`. */
static void share(unsigned classes, int64_t turn_ns, uint64_t rounds, uint64_t *ret_ns)
{
	memset(ret_ns, 0, WEIR__PRIORITIES * sizeof *ret_ns);
	for (unsigned p = 1; p < WEIR__PRIORITIES; p++)
		if (classes & 1u << p)
			weir__ready(&worker, &tasks[p], 0);
	weir__class_next(&worker, 0);
	for (uint64_t i = 0; i < rounds; i++) {
		struct weir__task *task = take();
		expect(task == &tasks[worker.priority]);
		ret_ns[task->priority] += (uint64_t)turn_ns;
		weir__ready(&worker, task, 0);
		weir__class_next(&worker, turn_ns);
	}
}

/* Both within one turn of each. */
static void check_ratio(const uint64_t *ns, unsigned more, unsigned less, double ratio)
{
	double got = (double)ns[more] / (double)ns[less];

	ck_assert_double_ge(got, ratio * 0.98);
	ck_assert_double_le(got, ratio * 1.02);
}

START_TEST(time_is_shared_as_the_shares_say)
{
	uint64_t ns[WEIR__PRIORITIES];

	set_up_worker();
	share(1 << 1 | 1 << 2 | 1 << 3, 17000, 200000, ns);
	check_ratio(ns, WEIR_PRIORITY_HIGH, WEIR_PRIORITY_NORMAL, 10);
	check_ratio(ns, WEIR_PRIORITY_NORMAL, WEIR_PRIORITY_BACKGROUND, 10);

	set_up_worker();
	worker.classes[WEIR_PRIORITY_BACKGROUND].shares = 50;
	share(1 << 2 | 1 << 3, 3, 30000, ns);
	check_ratio(ns, WEIR_PRIORITY_NORMAL, WEIR_PRIORITY_BACKGROUND, 2);
	ck_assert_uint_eq(ns[WEIR_PRIORITY_HIGH], 0);
}
END_TEST

START_TEST(counts_that_wrap_are_compared_all_the_same)
{
	uint64_t ns[WEIR__PRIORITIES];

	set_up_worker();
	for (unsigned p = 1; p < WEIR__PRIORITIES; p++)
		worker.classes[p].used = UINT64_MAX - 5000000;
	share(1 << 1 | 1 << 2 | 1 << 3, 20000, 100000, ns);
	check_ratio(ns, WEIR_PRIORITY_HIGH, WEIR_PRIORITY_NORMAL, 10);
	check_ratio(ns, WEIR_PRIORITY_NORMAL, WEIR_PRIORITY_BACKGROUND, 10);
}
END_TEST

/* With the least shares: 104 days of running are half of what is counted before it wraps. */
START_TEST(a_class_that_was_idle_for_months_has_its_turn)
{
	uint64_t ns[WEIR__PRIORITIES];

	set_up_worker();
	for (unsigned p = 1; p < WEIR__PRIORITIES; p++)
		worker.classes[p].shares = 1;
	share(1 << 2 | 1 << 3, 24 * 3600 * WEIR_SEC, 2 * 150, ns);
	weir__ready(&worker, &tasks[WEIR_PRIORITY_HIGH], 0);
	weir__class_next(&worker, 20000);
	weir__class_next(&worker, 20000);
	ck_assert_ptr_eq(take(), &tasks[WEIR_PRIORITY_HIGH]);
}
END_TEST

START_TEST(an_idle_class_has_saved_nothing_up)
{
	uint64_t ns[WEIR__PRIORITIES];

	set_up_worker();
	weir__ready(&worker, &tasks[WEIR_PRIORITY_NORMAL], 0);
	for (int i = 0; i < 1000; i++) { /* alone for a second */
		(void)take();
		weir__ready(&worker, &tasks[WEIR_PRIORITY_NORMAL], 0);
		weir__class_next(&worker, WEIR_MS);
	}
	(void)take();
	share(1 << 2 | 1 << 3, 20000, 110, ns);
	ck_assert_uint_ge(ns[WEIR_PRIORITY_BACKGROUND], 9 * 20000);
	ck_assert_uint_le(ns[WEIR_PRIORITY_BACKGROUND], 12 * 20000);
}
END_TEST

/* It parks after each turn, and is ready again one turn of the other later. */
START_TEST(who_pauses_for_a_moment_owes_what_it_has_used)
{
	uint64_t ns[WEIR__PRIORITIES] = { 0 };
	bool is_away = false;

	set_up_worker();
	weir__ready(&worker, &tasks[WEIR_PRIORITY_NORMAL], 0);
	weir__ready(&worker, &tasks[WEIR_PRIORITY_BACKGROUND], 0);
	for (int i = 0; i < 20000; i++) {
		struct weir__task *task = take();
		ns[task->priority] += 20000;
		if (task->priority == WEIR_PRIORITY_NORMAL) {
			weir__ready(&worker, task, 0);
			if (is_away)
				weir__ready(&worker, &tasks[WEIR_PRIORITY_BACKGROUND], 0);
		}
		is_away = task->priority == WEIR_PRIORITY_BACKGROUND;
		weir__class_next(&worker, 20000);
	}
	check_ratio(ns, WEIR_PRIORITY_NORMAL, WEIR_PRIORITY_BACKGROUND, 10);
}
END_TEST

START_TEST(of_equals_the_higher_is_first_and_order_within_stays)
{
	struct weir__task more[2] = { { .priority = WEIR_PRIORITY_HIGH },
				      { .priority = WEIR_PRIORITY_NORMAL } };

	set_up_worker();
	weir__ready(&worker, &tasks[WEIR_PRIORITY_NORMAL], 0);
	weir__ready(&worker, &tasks[WEIR_PRIORITY_HIGH], 0);
	weir__ready(&worker, &more[0], 0);
	weir__ready(&worker, &more[1], 0);
	weir__class_next(&worker, 0);
	ck_assert_ptr_eq(take(), &tasks[WEIR_PRIORITY_HIGH]);
	ck_assert_ptr_eq(take(), &more[0]);
	weir__class_next(&worker, 1000);
	ck_assert_ptr_eq(take(), &tasks[WEIR_PRIORITY_NORMAL]);
	ck_assert_ptr_eq(take(), &more[1]);
	ck_assert_ptr_null(worker.runq_head);
	ck_assert_uint_eq(worker.classes_waiting, 0);
}
END_TEST

/* ---- On a worker ---------------------------------------------------------------------------- */

static char trace[64];

static int note(void *arg)
{
	size_t len = strlen(trace);

	expect(len < sizeof trace - 1);
	trace[len] = *(const char *)arg;
	return 0;
}

static int check_priority(void *arg)
{
	ck_assert_uint_eq(weir__worker_self()->current->priority, *(enum weir_priority *)arg);
	return 0;
}

static int spawn_checking(void *arg)
{
	enum weir_priority high = WEIR_PRIORITY_HIGH;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(check_priority(arg));
	TRY(weir_spawn(&scope, check_priority, arg));
	TRY(weir_spawn(&scope, check_priority, &high, .priority = high));
	return weir_scope_wait(&scope);
}

static int inherit(void *arg)
{
	enum weir_priority background = WEIR_PRIORITY_BACKGROUND, normal = WEIR_PRIORITY_NORMAL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, spawn_checking, &background, .priority = background));
	TRY(weir_spawn(&scope, note, "n"));
	TRY(weir_spawn(&scope, spawn_checking, &normal));
	TRY(weir_spawn(&scope, note, "h", .priority = WEIR_PRIORITY_HIGH));
	TRY(weir_scope_wait(&scope));
	ck_assert_str_eq(trace, "hn");
	ck_assert_int_eq(weir_task_priority_set(WEIR_PRIORITY_INHERIT), -EINVAL);
	ck_assert_int_eq(weir_task_priority_set((enum weir_priority)4), -EINVAL);
	ck_assert_int_eq(weir_spawn(&scope, note, "x", .priority = (enum weir_priority)4), -EINVAL);
	return 0;
}

START_TEST(the_higher_class_is_first_and_children_inherit)
{
	ck_assert_int_eq(weir_task_priority_set(WEIR_PRIORITY_HIGH), -EINVAL);
	run_on(1, inherit, NULL);
}
END_TEST

static _Atomic bool over;

static int count_until_over(void *arg)
{
	unsigned *count = arg;

	while (!over) {
		compute(5 * WEIR_US);
		++*count;
		TRY(weir_yield());
	}
	return 0;
}

static int work_behind(void *arg)
{
	unsigned counts[3] = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_task_priority_set(WEIR_PRIORITY_BACKGROUND));
	TRY(weir_yield());
	for (unsigned i = 0; i < 3; i++)
		TRY(weir_spawn(&scope, count_until_over, &counts[i], .priority = i % 2 + 1));
	/*
	 * It gets its turn, again and again, and so do all others: that of normal priority once
	 * what this task used before it went behind is made up for.
	 */
	for (int i = 0; i < 30 || !counts[0] || !counts[1] || !counts[2]; i++)
		TRY(weir_yield());
	over = true;
	(void)arg;
	return weir_scope_wait(&scope);
}

START_TEST(the_background_gets_its_turn_behind_tasks_that_never_wait)
{
	run_on(1, work_behind, NULL);
}
END_TEST

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int mixed(void *arg)
{
	uint64_t seed = (uintptr_t)arg | 1;

	for (int i = 0; i < 30; i++) {
		switch (random_next(&seed) % 5) {
		case 0:
			TRY(weir_sleep((int64_t)(random_next(&seed) % 50000)));
			break;
		case 1:
			compute((int64_t)(random_next(&seed) % 20000));
			break;
		case 2:
			TRY(weir_task_priority_set(1 + random_next(&seed) % 3));
			break;
		case 3: {
			WEIR_SCOPE(scope, WEIR_FOREVER);
			TRY(weir_spawn(&scope, nothing, NULL, .priority = random_next(&seed) % 4,
				       .worker = WEIR_ON_WORKER(random_next(&seed) % 2)));
			TRY(weir_scope_wait(&scope));
			break;
		}
		default:
			TRY(weir_yield());
		}
	}
	return 0;
}

static int start_anywhere(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned i = 0; i < ROUNDS(400); i++)
		TRY(weir_spawn(&scope, mixed, (void *)(uintptr_t)(i * 77777 + 1), .priority = i % 4,
			       .any = true));
	return weir_scope_wait(&scope);
}

START_TEST(tasks_that_start_anywhere_keep_their_class)
{
	run_on(2, start_anywhere, NULL);
}
END_TEST

static weir_chan *asked, *answered;
static unsigned turns;

static int answer(void *arg)
{
	unsigned item;

	(void)arg;
	while (weir_chan_recv(asked, &item) == 0) {
		item = turns - item;
		TRY(weir_chan_send(answered, &item));
	}
	return 0;
}

static int take_turns(void *arg)
{
	(void)arg;
	while (!over) {
		turns++;
		TRY(weir_yield());
	}
	return 0;
}

/* A hundred normal tasks are in front of a normal one that wakes; a high one runs next. */
static int wake_high(void *arg)
{
	weir_auto_chan to = weir_chan_new(sizeof(unsigned), 1);
	weir_auto_chan from = weir_chan_new(sizeof(unsigned), 1);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	asked = to;
	answered = from;
	TRY(weir_spawn(&scope, answer, NULL, .priority = *(enum weir_priority *)arg));
	for (int i = 0; i < 100; i++)
		TRY(weir_spawn(&scope, take_turns, NULL));
	TRY(weir_yield());
	unsigned waited = 0;
	for (int i = 0; i < 50; i++) {
		unsigned between = turns;
		TRY(weir_chan_send(to, &between));
		TRY(weir_chan_recv(from, &between));
		waited += between;
	}
	/* at each of 50 times, or hardly ever: a slice may end in between */
	if (*(enum weir_priority *)arg == WEIR_PRIORITY_HIGH)
		ck_assert_uint_le(waited, 50 * 20);
	else
		ck_assert_uint_ge(waited, 50 * 100);
	over = true;
	weir_chan_close(to);
	return weir_scope_wait(&scope);
}

START_TEST(a_high_task_that_wakes_runs_next)
{
	enum weir_priority priority = _i ? WEIR_PRIORITY_HIGH : WEIR_PRIORITY_NORMAL;

	run_on(1, wake_high, &priority);
}
END_TEST

static int mix(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < ROUNDS(600); i++)
		TRY(weir_spawn(&scope, mixed, (void *)(uintptr_t)random_next(&seed),
			       .priority = random_next(&seed) % 4,
			       .worker = WEIR_ON_WORKER(random_next(&seed) % 2)));
	return weir_scope_wait(&scope);
}

START_TEST(no_task_is_lost_between_classes)
{
	uint64_t seed = test_seed();

	run_on(2, mix, &seed);
}
END_TEST

Suite *runtime_classes_suite(void)
{
	Suite *suite = suite_create("runtime_classes");
	TCase *turns_case = tcase_create("turns");
	TCase *workers = tcase_create("workers");

	tcase_set_tags(turns_case, "fast");
	tcase_add_test(turns_case, time_is_shared_as_the_shares_say);
	tcase_add_test(turns_case, counts_that_wrap_are_compared_all_the_same);
	tcase_add_test(turns_case, a_class_that_was_idle_for_months_has_its_turn);
	tcase_add_test(turns_case, an_idle_class_has_saved_nothing_up);
	tcase_add_test(turns_case, who_pauses_for_a_moment_owes_what_it_has_used);
	tcase_add_test(turns_case, of_equals_the_higher_is_first_and_order_within_stays);
	tcase_add_test(turns_case, the_higher_class_is_first_and_children_inherit);
	suite_add_tcase(suite, turns_case);
	tcase_set_timeout(workers, 60);
	tcase_add_test(workers, the_background_gets_its_turn_behind_tasks_that_never_wait);
	tcase_add_loop_test(workers, a_high_task_that_wakes_runs_next, 0, 2);
	tcase_add_test(workers, no_task_is_lost_between_classes);
	tcase_add_test(workers, tasks_that_start_anywhere_keep_their_class);
	suite_add_tcase(suite, workers);
	return suite;
}
