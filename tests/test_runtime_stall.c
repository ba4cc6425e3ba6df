/* SPDX-License-Identifier: MIT */
/*
 * Tasks that hold their worker are counted and reported; nobody else is, and idleness costs
 * nothing.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "runtime/stall.h"
#include "tests/runtime_test.h"

/* The stays here are multiples of this; long enough for a loaded machine to tell them apart. */
enum { LIMIT_MS = 40 };

static void set_limit(const char *ms)
{
	ck_assert_int_eq(setenv("WEIR_STALL_MS", ms, 1), 0);
}

static uint64_t stalls_of(int worker)
{
	struct weir_worker_stats stats;

	expect(weir_worker_stats_get(worker, &stats) == 0);
	return stats.stalls;
}

/* Until worker `worker` has stalled so often; the count is what a test waits for. */
static int await_stalls(int worker, uint64_t count)
{
	while (stalls_of(worker) < count)
		TRY(weir_sleep(5 * WEIR_MS));
	return 0;
}

/* Holds worker 0 as long as it takes: on a loaded machine much of the time does not count. */
static void hold_until_counted(uint64_t count)
{
	while (stalls_of(0) < count)
		compute(WEIR_MS);
}

/* ---- Who is reported ------------------------------------------------------------------------ */

static _Atomic bool go_on;

__attribute__((noinline)) static int compute_until_told(void *arg)
{
	(void)arg;
	while (!go_on)
		__asm__ volatile("" ::: "memory");
	return 0;
}

static int never[2]; /* until it is closed */

__attribute__((noinline)) static int block_until_told(void *arg)
{
	(void)arg;
	char c;

	while (!go_on) /* EINTR, when the thread is asked */
		(void)!read(never[0], &c, 1);
	return 0;
}

static const char *holder_name = "holder";

static int hold_worker_1(void *arg)
{
	weir_fn fn = *(weir_fn *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, fn, NULL, .name = holder_name, .worker = WEIR_ON_WORKER(1)));
	TRY(await_stalls(1, 1));
	TRY(weir_sleep(4 * LIMIT_MS * WEIR_MS));
	uint64_t other = stalls_of(0), held = stalls_of(1);
	go_on = true;
	(void)close(never[1]);
	TRY(weir_scope_wait(&scope));
	/* one stay is one stall, however long it is; worker 0 has held nobody */
	return held == 1 && other == 0 ? 0 : -EIO;
}

static int run_hold_worker_1(void *arg)
{
	TRY(pipe(never));
	return weir_run(hold_worker_1, arg, .workers = 2);
}

START_TEST(a_task_that_holds_its_worker_is_named_once)
{
	weir_fn holders[] = { compute_until_told, block_until_told };

	/* to be asked counts as computing, and takes a slow machine long */
	set_limit(_i == 0 ? "40" : "120");
	ck_assert_int_eq(end_of(run_hold_worker_1, &holders[_i]), 0);
	const char *at = assert_said("weir: task ");
	ck_assert_ptr_null(strstr(at + 1, "weir: task "));
	assert_said("\"holder\", spawned at tests/test_runtime_stall.c:");
	assert_said(", has held worker 1 for ");
	assert_said(_i == 0 ? " ms, computing\n" : " ms, in a call that blocks\n");
	assert_said(_i == 0 ? " compute_until_told+0x" : " block_until_told+0x");
}
END_TEST

START_TEST(a_task_without_a_name_is_called_by_its_function)
{
	weir_fn fn = compute_until_told;

	holder_name = NULL;
	set_limit("40");
	ck_assert_int_eq(end_of(run_hold_worker_1, &fn), 0);
	assert_said(" \"compute_until_told\", spawned at tests/test_runtime_stall.c:");
}
END_TEST

static int hold_briefly(void *arg)
{
	(void)arg;
	hold_until_counted(1);
	return 0;
}

static int run_hold_briefly(void *arg)
{
	(void)arg;
	return weir_run(hold_briefly, NULL, .workers = 1);
}

/* Shorter than a tick of the kernel, by which some of its counts go. */
START_TEST(who_computes_for_a_moment_is_not_said_to_block)
{
	set_limit("2");
	ck_assert_int_eq(end_of(run_hold_briefly, NULL), 0);
	assert_said(" ms, computing\n");
}
END_TEST

static int hold_repeatedly(void *arg)
{
	(void)arg;
	for (uint64_t i = 1; i <= 3; i++) {
		hold_until_counted(i);
		TRY(weir_sleep(WEIR_MS)); /* another stay begins */
	}
	return 0;
}

static int run_hold_repeatedly(void *arg)
{
	(void)arg;
	return weir_run(hold_repeatedly, NULL, .workers = 1);
}

START_TEST(reports_come_once_a_second_and_the_others_are_counted)
{
	int64_t reports = 0, before_ns = weir_now();

	set_limit("40");
	ck_assert_int_eq(end_of(run_hold_repeatedly, NULL), 0);
	int64_t took_ns = weir_now() - before_ns;
	for (const char *at = assert_said("weir: task "); at; at = strstr(at + 1, "weir: task "))
		reports++;
	/* one, unless the machine was busy with other things */
	ck_assert_int_le(reports, 1 + took_ns / WEIR_SEC);
}
END_TEST

START_TEST(quiet_counts_without_a_word)
{
	set_limit("40");
	ck_assert_int_eq(setenv("WEIR_QUIET", "1", 1), 0);
	ck_assert_int_eq(end_of(run_hold_repeatedly, NULL), 0);
	assert_not_said("weir:");
}
END_TEST

enum { CROWD = 200000, ATTEMPTS = 20 };

static int end_badly(void *arg)
{
	(void)arg;
	return -EPROTO;
}

static int do_nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* The first task of a crowd ends with an error: then all the others are told, which takes long. */
static int end_amid_a_crowd(void *arg)
{
	(void)arg;
	for (int n = 0; n < ATTEMPTS; n++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, end_badly, NULL, .name = "gone"));
		for (int i = 0; i < CROWD; i++)
			TRY(weir_spawn(&scope, do_nothing, NULL));
		uint64_t before = stalls_of(0);
		expect(weir_scope_wait(&scope) == -EPROTO);
		if (stalls_of(0) > before)
			break;
	}
	return 0;
}

static int run_end_amid_a_crowd(void *arg)
{
	(void)arg;
	return weir_run(end_amid_a_crowd, NULL, .workers = 1);
}

/* Its record is free memory, which AddressSanitizer knows. */
START_TEST(a_task_that_has_ended_is_not_looked_at)
{
	set_limit("2");
	ck_assert_int_eq(end_of(run_end_amid_a_crowd, NULL), 0);
	assert_not_said("\"gone\"");
}
END_TEST

/* ---- Who is not ----------------------------------------------------------------------------- */

static int yield_often(void *arg)
{
	int64_t end = weir_now() + *(int64_t *)arg;

	while (weir_now() < end) {
		compute(100 * WEIR_US);
		TRY(weir_yield());
	}
	return 0;
}

/* Alone or by two, with and without switches to others; the worker never parks meanwhile. */
static int yield_without_stalls(void *arg)
{
	int64_t ns = 6 * LIMIT_MS * WEIR_MS;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < *(int *)arg; i++)
		TRY(weir_spawn(&scope, yield_often, &ns));
	TRY(weir_scope_wait(&scope));
	return stalls_of(0) == 0 ? 0 : -EIO;
}

START_TEST(a_busy_worker_that_gets_on_is_no_stall)
{
	set_limit("40");
	run_on(1, yield_without_stalls, &_i);
}
END_TEST

static int hold_unseen(void *arg)
{
	(void)arg;
	compute(6 * LIMIT_MS * WEIR_MS);
	return stalls_of(0) == 0 ? 0 : -EIO;
}

START_TEST(nobody_is_looked_at_when_told_so)
{
	set_limit("0");
	run_on(1, hold_unseen, NULL);
}
END_TEST

static int list_often(void *arg)
{
	(void)arg;
	for (int i = 0; i < 10; i++) {
		FILE *out = tmpfile();
		expect(out && weir_tasks_write(out) == 0);
		fclose(out);
	}
	return stalls_of(0) == 0 ? 0 : -EIO;
}

START_TEST(waiting_for_a_list_of_tasks_is_no_stall)
{
	set_limit("40");
	run_on(2, list_often, NULL);
}
END_TEST

/* ---- Who sleeps beside a message ------------------------------------------------------------ */

static struct weir_event may_hold;
static _Atomic bool has_returned;

static int hold_until_returned(void *arg)
{
	(void)arg;
	TRY(weir_event_wait(&may_hold));
	while (!has_returned)
		;
	return 0;
}

/* With many short turns before, so that its worker does not look at the clock behind it. */
static int let_hold(void *arg)
{
	(void)arg;
	TRY(weir_sleep(20 * WEIR_MS));
	for (int i = 0; i < 2000; i++)
		TRY(weir_yield());
	weir_event_set(&may_hold);
	return 0;
}

static int join_beside_a_holder(void *arg)
{
	WEIR_SCOPE(holders, WEIR_FOREVER);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_event_init(&may_hold);
	TRY(weir_spawn(&holders, hold_until_returned, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_spawn(&scope, let_hold, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_sleep(5 * WEIR_MS)); /* then it has nobody to look after, and sleeps for good */
	TRY(weir_scope_wait(&scope));
	has_returned = true;
	weir_scope_close(&scope);
	return weir_scope_wait(&holders);
}

START_TEST(the_end_of_a_task_is_told_while_the_next_one_computes)
{
	set_limit("40");
	ck_assert_int_eq(setenv("WEIR_QUIET", "1", 1), 0);
	ck_assert_int_eq(setenv("WEIR_POOL_EPOCH_MS", "60000", 1), 0); /* heaps let workers sleep */
	ck_assert_int_eq(setenv("WEIR_MEM_DECAY_MS", "3600000", 1), 0);
	run_on(2, join_beside_a_holder, NULL);
}
END_TEST

/* ---- What it costs -------------------------------------------------------------------------- */

/* How often the watcher's thread has gone to sleep; -1 when there is none. */
static long watcher_sleeps(void)
{
	struct dirent *entry;
	long sleeps = -1;
	DIR *dir = opendir("/proc/self/task");

	expect(dir != NULL);
	while ((entry = readdir(dir)) != NULL) {
		char path[300], line[128];
		bool is_it = false;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
		FILE *status = fopen(path, "r");
		while (status && fgets(line, sizeof line, status)) {
			is_it |= strcmp(line, "Name:\tweir/watch\n") == 0;
			if (is_it)
				(void)sscanf(line, "voluntary_ctxt_switches: %ld", &sleeps);
		}
		if (status)
			fclose(status);
	}
	closedir(dir);
	return sleeps;
}

static int sleep_long_and_look(void *arg)
{
	(void)arg;
	TRY(weir_sleep(100 * WEIR_MS)); /* so that it has noticed */
	long before = watcher_sleeps();
	TRY(weir_sleep(800 * WEIR_MS));
	long after = watcher_sleeps();
	expect(before > 0);
	/* a handful for each time the worker wakes up (its heap does), 400 if it never slept */
	if (after - before > 100)
		ck_abort_msg("%ld wake-ups while idle", after - before);
	return 0;
}

START_TEST(the_watcher_sleeps_while_all_workers_do)
{
	set_limit("4");
	run_on(2, sleep_long_and_look, NULL);
}
END_TEST

static int hold_after_idleness(void *arg)
{
	(void)arg;
	TRY(weir_sleep(10 * LIMIT_MS * WEIR_MS));
	hold_until_counted(1);
	return 0;
}

START_TEST(after_idleness_it_looks_again)
{
	set_limit("40");
	run_on(2, hold_after_idleness, NULL);
}
END_TEST

static volatile sig_atomic_t times_asked;

static void count_asked(int number)
{
	(void)number;
	times_asked++;
}

/* The thread is there, between its start and its first turn, for as long as the machine likes. */
START_TEST(a_worker_that_has_not_begun_is_not_asked)
{
	static struct weir__worker worker;
	static struct weir__capture capture;
	struct weir__worker *workers[] = { &worker };
	struct weir__runtime runtime = { .workers = workers, .workers_count = 1 };

	runtime.config.stall_ms = 1;
	worker.thread = pthread_self();
	ck_assert_int_eq(sem_init(&capture.answered, 0, 0), 0);
	ck_assert_ptr_ne(signal(SIGURG, count_asked), SIG_ERR);
	struct weir__stalls *stalls = weir__stalls_new(&runtime, &capture);
	ck_assert_ptr_nonnull(stalls);
	for (int look = 0; look < 8; look++) {
		(void)weir__stalls_look(stalls);
		(void)usleep(1000);
	}
	weir__stalls_free(stalls);
	ck_assert_int_eq(times_asked, 0);
}
END_TEST

Suite *runtime_stall_suite(void)
{
	Suite *suite = suite_create("runtime_stall");
	TCase *stall = tcase_create("stall");
	TCase *signals = tcase_create("signals");

	tcase_set_tags(stall, "real"); /* who holds the worker holds the one thread there is */
	tcase_set_timeout(stall, 20);
	tcase_add_loop_test(stall, a_busy_worker_that_gets_on_is_no_stall, 1, 3);
	tcase_add_test(stall, nobody_is_looked_at_when_told_so);
	tcase_add_test(stall, waiting_for_a_list_of_tasks_is_no_stall);
	tcase_add_test(stall, the_watcher_sleeps_while_all_workers_do);
	tcase_add_test(stall, a_worker_that_has_not_begun_is_not_asked);
	suite_add_tcase(suite, stall);

	tcase_set_tags(signals, "real"); /* the same */
	tcase_set_timeout(signals, 20);
	if (SIGNALS_COME) {
		tcase_add_loop_test(signals, a_task_that_holds_its_worker_is_named_once, 0, 2);
		tcase_add_test(signals, a_task_without_a_name_is_called_by_its_function);
		tcase_add_loop_test(signals, who_computes_for_a_moment_is_not_said_to_block, 0, 4);
		tcase_add_test(signals, reports_come_once_a_second_and_the_others_are_counted);
		tcase_add_test(signals, quiet_counts_without_a_word);
		tcase_add_test(signals, after_idleness_it_looks_again);
		tcase_add_test(signals, the_end_of_a_task_is_told_while_the_next_one_computes);
		tcase_add_test(signals, a_task_that_has_ended_is_not_looked_at);
	}
	suite_add_tcase(suite, signals);
	return suite;
}
