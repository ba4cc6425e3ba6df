/* SPDX-License-Identifier: MIT */
/*
 * test_io_under_sim.c: weir_run() on the driver "sim": programs and tests that were not written for
 * the simulator, as they are.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/child.h"
#include "tests/runtime_test.h"

#define TRY(call)                                                                                  \
	do {                                                                                       \
		int try_err = (call);                                                              \
		if (try_err < 0)                                                                   \
			return try_err;                                                            \
	} while (0)

/* The tests say themselves what is simulated, and how. */
static void use_own_seeds(void)
{
	unsetenv("WEIR_DRIVER");
	unsetenv("WEIR_SIM_SEED");
}

static int run_simulated(unsigned workers, weir_fn fn, void *arg)
{
	return weir_run(fn, arg, .workers = workers, .driver = "sim");
}

/* ---- A program as it is --------------------------------------------------------------------- */

static int echo(weir_conn *conn)
{
	char bytes[64];
	ssize_t n;

	while ((n = weir_read_until(conn, '\n', bytes, sizeof bytes)) > 0)
		if (weir_write(conn, bytes, (size_t)n) != n)
			return -ECONNRESET;
	return (int)n;
}

static int serve(void *listener)
{
	return weir_serve(listener, echo);
}

/* What a run has come to: it depends on every delay and fault. */
struct trace {
	unsigned workers;
	int64_t took_ns;
};

static int talk_for_a_week(void *arg)
{
	struct trace *trace = arg;
	weir_auto_listener listener = NULL;
	weir_auto_conn conn = NULL;
	char line[64];
	int64_t start = weir_now();
	WEIR_SCOPE(server, WEIR_FOREVER);

	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&server, serve, listener));
	TRY(weir_connect(&conn, weir_listener_address(listener)));
	for (int day = 0; day < 7; day++) {
		TRY(weir_sleep(86400 * WEIR_SEC));
		expect(weir_write(conn, "hello\n", 6) == 6);
		expect(weir_read_until(conn, '\n', line, sizeof line) == 6);
	}
	weir_scope_cancel(&server);
	*trace = (struct trace){ (unsigned)weir_worker_count(), weir_now() - start };
	return 7;
}

static struct trace week(const char *seed)
{
	struct trace trace;

	if (seed)
		setenv("WEIR_SIM_SEED", seed, 1);
	setenv("WEIR_DRIVER", "sim", 1);
	ck_assert_int_eq(weir_run(talk_for_a_week, &trace), 7);
	unsetenv("WEIR_DRIVER");
	unsetenv("WEIR_SIM_SEED");
	return trace;
}

START_TEST(the_environment_has_a_program_simulated)
{
	struct trace one = week(NULL), same = week(NULL), first = week("1"), other = week("2");

	ck_assert_int_ge(one.took_ns, 7 * 86400 * WEIR_SEC);
	ck_assert_int_eq(one.took_ns, same.took_ns);
	ck_assert_int_eq(one.took_ns, first.took_ns);
	ck_assert_int_ne(one.took_ns, other.took_ns);
}
END_TEST

/* What a program takes for granted that no seed has chosen: a pipe's room, a clock that moves. */
static int fill_a_pipe_and_compute(void *arg)
{
	static char bytes[64 << 10];
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	WEIR_SCOPE(patience, 3600 * WEIR_SEC);

	(void)arg;
	TRY(weir_pipe(&in, &out));
	expect(weir_stream_write(out, bytes, sizeof bytes) == sizeof bytes); /* nobody reads */
	int64_t end = weir_now() + 20 * WEIR_MS;
	unsigned looks = 0;
	while (weir_now() < end)
		looks++;
	return looks < 100000 ? 0 : -ELOOP;
}

START_TEST(a_program_finds_what_every_machine_has)
{
	char seed[16];

	setenv("WEIR_DRIVER", "sim", 1);
	for (int i = 1; i <= 30; i++) {
		snprintf(seed, sizeof seed, "%d", i);
		setenv("WEIR_SIM_SEED", seed, 1);
		ck_assert_int_eq(weir_run(fill_a_pipe_and_compute, NULL, .workers = 1), 0);
	}
}
END_TEST

START_TEST(workers_are_as_many_as_asked_for_or_as_the_seed_says)
{
	unsigned seen = 0;
	char seed[8];

	unsetenv("WEIR_WORKERS");
	for (int i = 1; i <= 20; i++) {
		snprintf(seed, sizeof seed, "%d", i);
		seen |= 1u << week(seed).workers;
	}
	ck_assert_uint_eq(seen, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4);
	setenv("WEIR_WORKERS", "3", 1);
	ck_assert_uint_eq(week(NULL).workers, 3);
	ck_assert_int_eq(run_simulated(17, talk_for_a_week, NULL), -EINVAL);
}
END_TEST

static unsigned order[10], order_count;

static int note(void *arg)
{
	order[order_count++] = (unsigned)(uintptr_t)arg;
	return 0;
}

static int spawn_in_order(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	order_count = 0;
	for (uintptr_t i = 0; i < 10; i++)
		TRY(weir_spawn(&scope, note, (void *)i));
	return weir_scope_wait(&scope);
}

START_TEST(a_worker_s_tasks_keep_their_order)
{
	char seed[8];

	for (int n = 1; n <= 20; n++) {
		snprintf(seed, sizeof seed, "%d", n);
		setenv("WEIR_SIM_SEED", seed, 1);
		ck_assert_int_eq(run_simulated(1, spawn_in_order, NULL), 0);
		for (unsigned i = 0; i < 10; i++)
			ck_assert_uint_eq(order[i], i);
	}
}
END_TEST

/* ---- Endings -------------------------------------------------------------------------------- */

static int return_it(void *arg)
{
	return *(int *)arg;
}

static int fail_unheard(void *arg)
{
	(void)arg;
	return run_simulated(1, return_it, &(int){ -EBADMSG }) == -EBADMSG ? 0 : 1;
}

START_TEST(an_error_of_the_program_s_is_its_own_business)
{
	ck_assert_int_eq(end_of(fail_unheard, NULL), 0);
	ck_assert_str_eq(said, "");
}
END_TEST

static int wait_for_nothing(void *arg)
{
	weir_auto_chan chan = weir_chan_new(1, 1);
	char item;

	(void)arg;
	return weir_chan_recv(chan, &item);
}

static int run_stuck(void *arg)
{
	(void)arg;
	return run_simulated(2, wait_for_nothing, NULL) == -EDEADLK ? 0 : 1;
}

START_TEST(a_deadlock_is_reported_and_returned)
{
	ck_assert_int_eq(end_of(run_stuck, NULL), 0);
	assert_said("every task waits");
	assert_said("to receive, 0 of 1 in it");
	assert_said("weir: seed 1 ends with EDEADLK; WEIR_SIM_SEED=1 repeats it");
}
END_TEST

static int leave_listener(void *arg)
{
	weir_listener *listener;

	(void)arg;
	return weir_listen(&listener, "127.0.0.1:7000");
}

static int run_leaking(void *arg)
{
	(void)arg;
	return run_simulated(2, leave_listener, NULL) == -ENOTEMPTY ? 0 : 1;
}

START_TEST(what_was_left_open_is_listed)
{
	ck_assert_int_eq(end_of(run_leaking, NULL), 0);
	assert_said("a listener at 127.0.0.1:7000");
}
END_TEST

static unsigned refused;

static void post_on(void *arg)
{
	uintptr_t worker = (uintptr_t)arg;

	refused += weir_post((unsigned)worker, post_on, (void *)(1 - worker)) == -ESHUTDOWN;
}

static int post_first(void *arg)
{
	(void)arg;
	return weir_post(1, post_on, NULL);
}

START_TEST(what_was_posted_runs_before_the_end)
{
	char seed[8];

	for (unsigned i = 1; i <= 20; i++) {
		snprintf(seed, sizeof seed, "%u", i);
		setenv("WEIR_SIM_SEED", seed, 1);
		ck_assert_int_eq(run_simulated(2, post_first, NULL), 0);
		ck_assert_uint_eq(refused, i);
	}
}
END_TEST

/* ---- What the machine does ------------------------------------------------------------------ */

static _Atomic bool is_told;

static int tell(void *arg)
{
	(void)arg;
	is_told = true;
	return 0;
}

/* Holds its worker, and reads the clock: on a machine the other one would go on. */
static int hold_until_told(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	is_told = false;
	TRY(weir_spawn(&scope, tell, NULL, .worker = WEIR_ON_WORKER(1)));
	while (!is_told)
		(void)weir_now();
	return weir_scope_wait(&scope);
}

START_TEST(who_only_reads_the_clock_does_not_keep_the_others_waiting)
{
	ck_assert_int_eq(
		weir_sim_run(1, hold_until_told, NULL, .workers = 2, .calm = true, .runs = 20), 0);
}
END_TEST

static unsigned started[2], stopped[2];

static void on_start(unsigned worker, void *user)
{
	ck_assert_ptr_eq(user, started);
	ck_assert_int_eq(weir_worker_index(), (int)worker);
	started[worker]++;
}

static void on_stop(unsigned worker, void *user)
{
	ck_assert_ptr_eq(user, started);
	ck_assert_int_eq(weir_worker_index(), (int)worker);
	stopped[worker]++;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

START_TEST(hooks_run_on_virtual_workers)
{
	const struct weir_thread_hooks hooks = { .start = on_start,
						 .stop = on_stop,
						 .user = started };

	ck_assert_int_eq(weir_run(nothing, NULL, .workers = 2, .driver = "sim", .hooks = &hooks),
			 0);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_uint_eq(started[i], 1);
		ck_assert_uint_eq(stopped[i], 1);
	}
}
END_TEST

START_TEST(a_foreign_loop_cannot_drive_it)
{
	weir_embed *embed = NULL;

	ck_assert_int_eq(weir_embed_open(&embed, nothing, NULL, .driver = "sim"), -EOPNOTSUPP);
	ck_assert_ptr_null(embed);
}
END_TEST

/* ---- Other threads -------------------------------------------------------------------------- */

enum { ITEMS = 200 };

static void *send_all(void *arg)
{
	for (int i = 0; i < ITEMS; i++)
		while (weir_chan_try_send(arg, &i) == -EAGAIN)
			(void)sched_yield();
	weir_chan_close(arg);
	return NULL;
}

/* Else the run might end as a deadlock before the thread has sent anything. */
static int tick_until_told(void *arg)
{
	(void)arg;
	while (!is_told) {
		(void)nanosleep(&(struct timespec){ .tv_nsec = 10000 }, NULL);
		TRY(weir_sleep(WEIR_MS));
	}
	return 0;
}

static int receive_all(void *arg)
{
	weir_auto_chan chan = weir_chan_new(sizeof(int), 4);
	pthread_t thread;
	int item, expected = 0, err;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	is_told = false;
	TRY(weir_spawn(&scope, tick_until_told, NULL));
	if (pthread_create(&thread, NULL, send_all, chan))
		return -EAGAIN;
	while ((err = weir_chan_recv(chan, &item)) == 0)
		expect(item == expected++);
	is_told = true;
	pthread_join(thread, NULL);
	expect(err == -EPIPE && expected == ITEMS);
	return weir_scope_wait(&scope);
}

/* It is in no seed; it breaks nothing either. */
START_TEST(a_thread_of_the_system_s_may_send_to_a_task)
{
	ck_assert_int_eq(run_simulated(2, receive_all, NULL), 0);
}
END_TEST

Suite *io_under_sim_suite(void)
{
	Suite *suite = suite_create("io_under_sim");
	TCase *program = tcase_create("program"), *endings = tcase_create("endings");
	TCase *machine = tcase_create("machine"), *threads = tcase_create("threads");

	tcase_add_checked_fixture(program, use_own_seeds, NULL);
	tcase_add_checked_fixture(endings, use_own_seeds, NULL);
	tcase_add_checked_fixture(machine, use_own_seeds, NULL);
	tcase_add_checked_fixture(threads, use_own_seeds, NULL);
	tcase_set_timeout(program, 20);
	tcase_add_test(program, the_environment_has_a_program_simulated);
	tcase_add_test(program, workers_are_as_many_as_asked_for_or_as_the_seed_says);
	tcase_add_test(program, a_worker_s_tasks_keep_their_order);
	tcase_add_test(program, a_program_finds_what_every_machine_has);
	suite_add_tcase(suite, program);
	tcase_add_test(endings, an_error_of_the_program_s_is_its_own_business);
	tcase_add_test(endings, a_deadlock_is_reported_and_returned);
	tcase_add_test(endings, what_was_left_open_is_listed);
	tcase_add_test(endings, what_was_posted_runs_before_the_end);
	suite_add_tcase(suite, endings);
	tcase_add_test(machine, who_only_reads_the_clock_does_not_keep_the_others_waiting);
	tcase_add_test(machine, hooks_run_on_virtual_workers);
	tcase_add_test(machine, a_foreign_loop_cannot_drive_it);
	suite_add_tcase(suite, machine);
	tcase_set_timeout(threads, 20);
	tcase_add_test(threads, a_thread_of_the_system_s_may_send_to_a_task);
	suite_add_tcase(suite, threads);
	return suite;
}
