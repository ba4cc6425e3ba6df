/* SPDX-License-Identifier: MIT */
/*
 * test_io_sim.c: the simulator itself: its clock, its network, its verdicts. What it finds in the
 * library is the business of tests/sim.c.
 */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

#include "tests/echo_test.h"

#define expect(condition)                                                                          \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ck_abort_msg("%s", #condition);                                            \
	} while (0)

/* What the run says goes here; what the one before it said is there until the next. */
static char *said, *said_before;
static size_t said_len;

static int run_saying(const struct weir_sim_opts *opts)
{
	struct weir_sim_opts with_report = *opts;
	free(said_before);
	said_before = said;
	said = NULL;
	with_report.report = open_memstream(&said, &said_len);
	int err = weir_sim_run_with(&with_report);
	fclose(with_report.report);
	return err;
}
static void use_own_seeds(void)
{
	unsetenv("WEIR_SIM_SEED");
}

static void forget(void)
{
	free(said_before);
	free(said);
}

#define run_sim(...)                                                                               \
	run_saying(&(struct weir_sim_opts){ __VA_ARGS__, .size = sizeof(struct weir_sim_opts) })

/* ---- A service ---------------------------------------------------------- */

static int serve(void *listener)
{
	return weir_serve(listener, echo);
}

static int client(void *address)
{
	weir_auto_conn conn = NULL;
	char sent[300], back[300];
	int err = weir_connect(&conn, address);

	for (size_t len = 1; err == 0 && len < sizeof sent; len += 50) {
		memset(sent, (int)len, len);
		ssize_t n = weir_write(conn, sent, len);
		err = n == (ssize_t)len ? weir_read_full(conn, back, len)
					: (n < 0 ? (int)n : -EPIPE);
		if (err == 0)
			expect(memcmp(sent, back, len) == 0);
	}
	return err;
}

static int echo_service(void *address)
{
	weir_auto_listener listener = NULL;
	int err = weir_listen(&listener, address);

	if (err < 0)
		return err;
	WEIR_SCOPE(server, WEIR_FOREVER);
	err = weir_spawn(&server, serve, listener);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 5 && err == 0; i++)
		err = weir_spawn(&clients, client, (void *)weir_listener_address(listener));
	return err == 0 ? weir_scope_wait(&clients) : err;
}

/* ---- The same seed, the same run ---------------------------------------- */

START_TEST(the_same_seed_gives_the_same_run)
{
	struct weir_sim_result first, again;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		expect(weir_sim_run(seed, echo_service, "127.0.0.1:0", .result = &first) == 0);
		expect(weir_sim_run(seed, echo_service, "127.0.0.1:0", .result = &again) == 0);
		expect(memcmp(&first, &again, sizeof first) == 0);
		expect(first.steps > 10 && first.suspensions > 10);
	}
}
END_TEST

START_TEST(the_same_seed_gives_the_same_run_with_failures)
{
	struct weir_sim_result first, again;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		char *kept;
		int err = run_sim(seed, echo_service, "unix:@echo", .failures = true,
				  .result = &first);
		kept = said;
		expect(run_sim(seed, echo_service, "unix:@echo", .failures = true,
			       .result = &again) == err);
		expect(first.hash == again.hash && strcmp(kept, said) == 0);
	}
}
END_TEST

START_TEST(other_seeds_give_other_runs)
{
	struct weir_sim_result one, other;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		expect(weir_sim_run(seed, echo_service, ":0", .result = &one) == 0);
		expect(weir_sim_run(seed + 1, echo_service, ":0", .result = &other) == 0);
		expect(one.hash != other.hash);
	}
}
END_TEST

START_TEST(the_environment_names_the_seed)
{
	struct weir_sim_result result;

	setenv("WEIR_SIM_SEED", "4711", 1);
	ck_assert_int_eq(weir_sim_run(1, echo_service, ":0", .runs = 100, .result = &result), 0);
	unsetenv("WEIR_SIM_SEED");
	ck_assert_uint_eq(result.seed, 4711);
}
END_TEST

START_TEST(runs_go_on_to_the_next_seed)
{
	struct weir_sim_result result;

	ck_assert_int_eq(weir_sim_run(5, echo_service, ":0", .runs = 10, .result = &result), 0);
	ck_assert_uint_eq(result.seed, 14);
}
END_TEST

/* ---- Time --------------------------------------------------------------- */

static int sleep_for_a_week(void *arg)
{
	const int64_t week = 7 * 86400 * WEIR_SEC;
	int64_t before = weir_now();

	(void)arg;
	expect(weir_sleep(week) == 0);
	expect(weir_now() - before >= week);
	WEIR_SCOPE(scope, WEIR_SEC);
	expect(weir_sleep(week) == -ETIME);
	expect(weir_now() - before < week + 2 * WEIR_SEC);
	return 0;
}

START_TEST(a_week_is_over_at_once)
{
	ck_assert_int_eq(weir_sim_run(1, sleep_for_a_week, NULL, .runs = 20), 0);
}
END_TEST

/* ---- Verdicts ----------------------------------------------------------- */

static int receive_from(void *chan)
{
	int item;

	return weir_chan_recv(chan, &item);
}

static int wait_for_each_other(void *arg)
{
	weir_auto_chan one = weir_chan_new(sizeof(int), 1);
	weir_auto_chan other = weir_chan_new(sizeof(int), 1);

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	expect(weir_spawn(&scope, receive_from, one, .name = "the first") == 0);
	expect(weir_spawn(&scope, receive_from, other) == 0);
	return weir_scope_wait(&scope);
}

START_TEST(a_deadlock_names_those_who_wait)
{
	ck_assert_int_eq(run_sim(3, wait_for_each_other, NULL), -EDEADLK);
	ck_assert_ptr_nonnull(strstr(said, "every task waits"));
	ck_assert_ptr_nonnull(strstr(said, "\"the first\""));
	ck_assert_ptr_nonnull(strstr(said, "\"receive_from\""));
	ck_assert_ptr_nonnull(strstr(said, "WEIR_SIM_SEED=3 repeats it"));
}
END_TEST

static int spin(void *arg)
{
	(void)arg;
	while (weir_yield() == 0)
		;
	return 0;
}

START_TEST(a_run_that_does_not_end_is_ended)
{
	ck_assert_int_eq(run_sim(1, spin, NULL, .steps_max = 1000), -ELOOP);
	ck_assert_ptr_nonnull(strstr(said, "the run does not end"));
}
END_TEST

static int leave_a_connection(void *arg)
{
	weir_auto_listener listener = NULL;
	weir_conn *conn;

	(void)arg;
	expect(weir_listen(&listener, "127.0.0.1:80") == 0);
	return weir_connect(&conn, "127.0.0.1:80");
}

START_TEST(an_open_connection_is_a_leak)
{
	ck_assert_int_eq(run_sim(1, leave_a_connection, NULL), -ENOTEMPTY);
	ck_assert_ptr_nonnull(strstr(said, "was left open: a connection with 127.0.0.1:80"));
}
END_TEST

static int keep_a_block(void *arg)
{
	*(void **)arg = weir_alloc(100);
	return 0;
}

START_TEST(a_block_is_a_leak_unless_allowed)
{
	void *block;

	ck_assert_int_eq(run_sim(1, keep_a_block, &block), -ENOTEMPTY);
	weir_free(block);
	ck_assert_int_eq(run_sim(1, keep_a_block, &block, .leaks_allowed = true), 0);
	weir_free(block);
}
END_TEST

static int give_back(void *arg)
{
	return *(int *)arg;
}

START_TEST(what_the_function_returns_is_returned)
{
	int seven = 7, bad = -EBADMSG;

	ck_assert_int_eq(run_sim(1, give_back, &seven), 7);
	ck_assert_int_eq(run_sim(1, give_back, &bad), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(said, "ends with EBADMSG"));
}
END_TEST

static int simulate_inside(void *arg)
{
	return weir_sim_run(1, give_back, arg);
}

START_TEST(a_simulation_inside_a_runtime_is_refused)
{
	int zero = 0;

	ck_assert_int_eq(weir_run(simulate_inside, &zero, .workers = 1), -EINVAL);
	ck_assert_int_eq(run_sim(1, simulate_inside, &zero), -EINVAL);
	ck_assert_int_eq(run_sim(1, give_back, &zero, .workers = 17), -EINVAL);
}
END_TEST

/* ---- Faults ------------------------------------------------------------- */

static void break_third_send(struct weir_sim_op *op, void *arg)
{
	(void)arg;
	if (strcmp(op->name, "send") == 0 && op->nth == 3)
		op->error = -ECONNRESET;
}

START_TEST(a_script_makes_an_operation_fail)
{
	ck_assert_int_eq(run_sim(1, echo_service, ":0", .script = break_third_send, .calm = true,
				 .workers = 1),
			 -ECONNRESET);
}
END_TEST

static const int passing[] = { -EMFILE,	     -ENFILE,	   -ENOMEM,    -ECONNABORTED,
			       -ENETUNREACH, -ENETDOWN,	   -EHOSTDOWN, -EHOSTUNREACH,
			       -ENONET,	     -ENOPROTOOPT, -EPROTO };

static void break_first_accept(struct weir_sim_op *op, void *arg)
{
	if (strcmp(op->name, "accept") == 0 && op->nth == 1)
		op->error = *(const int *)arg;
}

/* What accept(2) tells of a client, or of want, ends no server. */
START_TEST(a_server_outlives_errors_of_accepting)
{
	int err = passing[_i];

	ck_assert_int_eq(run_sim(1, echo_service, ":0", .script = break_first_accept,
				 .script_arg = &err, .calm = true, .workers = 1),
			 0);
}
END_TEST

START_TEST(a_short_send_is_gone_on_with_however_often)
{
	struct weir_sim_faults short_io = { .short_io = 900 };

	ck_assert_int_eq(weir_sim_run(1, echo_service, ":0", .faults = &short_io, .runs = 300), 0);
}
END_TEST

enum { MUCH = 1 << 20 };

static int be_silent(weir_conn *conn)
{
	(void)conn;
	return weir_sleep(WEIR_FOREVER);
}

static int serve_silence(void *listener)
{
	return weir_serve(listener, be_silent);
}

/* To a peer that reads nothing. */
static int send_and_close(void *address)
{
	weir_auto_listener listener = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	weir_conn *conn = NULL;
	int err = weir_listen(&listener, address);

	WEIR_SCOPE(server, WEIR_FOREVER);
	if (err == 0)
		err = weir_spawn(&server, serve_silence, listener);
	if (err == 0)
		err = weir_connect(&conn, weir_listener_address(listener));
	if (err == 0)
		err = weir_buf_get(&buf, MUCH);
	if (err < 0)
		return err;
	memset(buf.data, 's', MUCH);
	buf.len = MUCH;
	expect(weir_send(conn, &buf) == MUCH);
	int64_t before = weir_now();
	weir_conn_close(conn);
	int64_t lingered = weir_now() - before;
	return lingered >= 4 * WEIR_SEC && lingered < 6 * WEIR_SEC ? 0 : -ETIME;
}

START_TEST(a_close_waits_five_seconds_for_who_does_not_read)
{
	ck_assert_int_eq(weir_sim_run(1, send_and_close, ":0", .calm = true, .runs = 20), 0);
}
END_TEST

static int connect_nowhere(void *address)
{
	weir_conn *conn;

	return weir_connect(&conn, address);
}

START_TEST(nobody_listens_there)
{
	ck_assert_int_eq(run_sim(1, connect_nowhere, "127.0.0.1:9"), -ECONNREFUSED);
	ck_assert_int_eq(run_sim(1, connect_nowhere, "unix:@nowhere"), -ECONNREFUSED);
	ck_assert_int_eq(run_sim(1, connect_nowhere, "unix:/nowhere"), -ENOENT);
}
END_TEST

/* The run came to an end of its own and left nothing. */
static void assert_clean(int err)
{
	ck_assert_msg(err != -EDEADLK && err != -ENOTEMPTY && err != -ELOOP, "%s", said);
}

START_TEST(failures_are_errors_and_leave_nothing)
{
	unsigned failed = 0;

	for (uint64_t seed = 1; seed <= 200; seed++) {
		int err = run_sim(seed, echo_service, ":0", .failures = true);
		failed += err < 0;
		assert_clean(err);
	}
	ck_assert_uint_gt(failed, 10);
	ck_assert_uint_lt(failed, 190);
}
END_TEST

START_TEST(every_suspension_can_be_cancelled)
{
	struct weir_sim_result result;
	uint64_t at = 0;

	do {
		at++;
		assert_clean(run_sim(1, echo_service, ":0", .cancel_at = at, .result = &result));
	} while (result.suspensions >= at);
	ck_assert_uint_gt(at, 50);
}
END_TEST

/* ---- Outside of it ------------------------------------------------------ */

static int await_signal(void *arg)
{
	WEIR_SCOPE(scope, WEIR_SEC);

	(void)arg;
	expect(weir_signal_wait(SIGUSR1) == -ETIME);
	return 0;
}

START_TEST(no_signal_comes_and_handlers_are_left_alone)
{
	struct sigaction after;

	ck_assert_ptr_eq(signal(SIGUSR1, SIG_IGN), SIG_DFL);
	ck_assert_int_eq(run_sim(1, await_signal, NULL), 0);
	ck_assert_int_eq(sigaction(SIGUSR1, NULL, &after), 0);
	ck_assert_ptr_eq(after.sa_handler, SIG_IGN);
}
END_TEST

Suite *io_sim_suite(void)
{
	Suite *suite = suite_create("io_sim");
	TCase *seeds = tcase_create("seeds"), *time = tcase_create("time");
	TCase *verdicts = tcase_create("verdicts"), *faults = tcase_create("faults");
	TCase *outside = tcase_create("outside");

	tcase_add_checked_fixture(seeds, use_own_seeds, forget);
	tcase_add_checked_fixture(time, use_own_seeds, forget);
	tcase_add_checked_fixture(verdicts, use_own_seeds, forget);
	tcase_add_checked_fixture(faults, use_own_seeds, forget);
	tcase_add_checked_fixture(outside, use_own_seeds, forget);

	tcase_add_test(seeds, the_same_seed_gives_the_same_run);
	tcase_add_test(seeds, the_same_seed_gives_the_same_run_with_failures);
	tcase_add_test(seeds, other_seeds_give_other_runs);
	tcase_add_test(seeds, the_environment_names_the_seed);
	tcase_add_test(seeds, runs_go_on_to_the_next_seed);
	suite_add_tcase(suite, seeds);
	tcase_add_test(time, a_week_is_over_at_once);
	suite_add_tcase(suite, time);
	tcase_add_test(verdicts, a_deadlock_names_those_who_wait);
	tcase_add_test(verdicts, a_run_that_does_not_end_is_ended);
	tcase_add_test(verdicts, an_open_connection_is_a_leak);
	tcase_add_test(verdicts, a_block_is_a_leak_unless_allowed);
	tcase_add_test(verdicts, what_the_function_returns_is_returned);
	tcase_add_test(verdicts, a_simulation_inside_a_runtime_is_refused);
	suite_add_tcase(suite, verdicts);
	tcase_add_test(faults, a_script_makes_an_operation_fail);
	tcase_add_test(faults, a_close_waits_five_seconds_for_who_does_not_read);
	tcase_add_loop_test(faults, a_server_outlives_errors_of_accepting, 0,
			    sizeof passing / sizeof *passing);
	tcase_add_test(faults, a_short_send_is_gone_on_with_however_often);
	tcase_add_test(faults, nobody_listens_there);
	tcase_add_test(faults, failures_are_errors_and_leave_nothing);
	tcase_add_test(faults, every_suspension_can_be_cancelled);
	suite_add_tcase(suite, faults);
	tcase_add_test(outside, no_signal_comes_and_handlers_are_left_alone);
	suite_add_tcase(suite, outside);
	return suite;
}
