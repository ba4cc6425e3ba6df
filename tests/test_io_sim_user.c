/* SPDX-License-Identifier: MIT */
/*
 * test_io_sim_user.c: a program's test of its own service, as docs/simulator.md shows it. It sees
 * the public headers alone.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

/* ---- The service: a counter that clients add to ------------------------- */

struct counter {
	weir_listener *listener;
	unsigned long total;
};

static int add_lines(weir_conn *conn)
{
	struct counter *counter = weir_conn_user(conn);
	char line[32];
	ssize_t n;

	while ((n = weir_read_until(conn, '\n', line, sizeof line - 1)) > 0) {
		unsigned long amount;
		line[n] = '\0';
		if (sscanf(line, "add %lu\n", &amount) != 1)
			return -EBADMSG;
		counter->total += amount;
		if ((n = weir_write(conn, "ok\n", 3)) != 3)
			return n < 0 ? (int)n : -ECONNRESET;
	}
	return (int)n;
}

static int serve_counter(void *arg)
{
	struct counter *counter = arg;

	return weir_serve(counter->listener, add_lines, .user = counter);
}

/* ---- Its test ----------------------------------------------------------- */

static int add_five_times(void *address)
{
	weir_auto_conn conn = NULL;
	char line[8];
	int err = weir_connect(&conn, address);

	for (int i = 0; i < 5 && err == 0; i++) {
		if (weir_write(conn, "add 7\n", 6) != 6)
			return -ECONNRESET;
		ssize_t n = weir_read_until(conn, '\n', line, sizeof line);
		err = n == 3 ? 0 : n < 0 ? (int)n : -ECONNRESET;
	}
	return err;
}

static int four_clients(void *arg)
{
	struct counter counter = { 0 };
	weir_auto_listener listener = NULL;
	int err = weir_listen(&listener, "127.0.0.1:7000");

	(void)arg;
	if (err < 0)
		return err;
	counter.listener = listener;
	WEIR_SCOPE(server, WEIR_FOREVER);
	err = weir_spawn(&server, serve_counter, &counter);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 4 && err == 0; i++)
		err = weir_spawn(&clients, add_five_times, "127.0.0.1:7000");
	if (err == 0)
		err = weir_scope_wait(&clients);
	return err == 0 && counter.total != 4 * 5 * 7 ? -EBADMSG : err;
}

START_TEST(a_thousand_machines_count_right)
{
	ck_assert_int_eq(weir_sim_run(1, four_clients, NULL, .runs = 1000, .workers = 1), 0);
}
END_TEST

/* What is kept aside to be checked is not left over. */
START_TEST(they_do_so_at_each_debug_level)
{
	char level[] = { (char)('0' + _i), '\0' };

	ck_assert_int_eq(setenv("WEIR_MEM_DEBUG", level, 1), 0);
	ck_assert_int_eq(weir_sim_run(1, four_clients, NULL, .runs = 50), 0);
}
END_TEST

/* A counter without a lock, and clients on several workers: some machine shows it. */
struct shared {
	unsigned long total;
};

static int add_unguarded(void *arg)
{
	struct shared *shared = arg;

	for (int i = 0; i < 10; i++) {
		unsigned long seen = shared->total;
		if (weir_yield() < 0) /* "it only yields" */
			return -ECANCELED;
		shared->total = seen + 1;
	}
	return 0;
}

static int forgotten_lock(void *arg)
{
	struct shared shared = { 0 };
	int err = 0;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 3 && err == 0; i++)
		err = weir_spawn(&scope, add_unguarded, &shared);
	if (err == 0)
		err = weir_scope_wait(&scope);
	return err == 0 && shared.total != 30 ? -EBADMSG : err;
}

START_TEST(a_forgotten_lock_is_found)
{
	struct weir_sim_result result;
	FILE *nowhere = fopen("/dev/null", "w");

	unsetenv("WEIR_SIM_SEED"); /* one alone need not show it */
	ck_assert_int_eq(weir_sim_run(1, forgotten_lock, NULL, .runs = 100, .result = &result,
				      .report = nowhere),
			 -EBADMSG);
	fclose(nowhere);
	ck_assert_uint_le(result.seed, 100);
}
END_TEST

static int errors_leave_nothing(void *arg)
{
	int err = four_clients(arg);

	return err == -EBADMSG ? err : 0; /* any other is what the world has done */
}

START_TEST(failures_leave_nothing_behind)
{
	ck_assert_int_eq(weir_sim_run(1, errors_leave_nothing, NULL, .runs = 1000, .failures = true,
				      .workers = 1),
			 0);
}
END_TEST

Suite *io_sim_user_suite(void)
{
	Suite *suite = suite_create("io_sim_user");
	TCase *service = tcase_create("service");

	tcase_set_timeout(service, 20);
	tcase_add_test(service, a_thousand_machines_count_right);
	tcase_add_loop_test(service, they_do_so_at_each_debug_level, 1, 4);
	tcase_add_test(service, a_forgotten_lock_is_found);
	tcase_add_test(service, failures_leave_nothing_behind);
	suite_add_tcase(suite, service);
	return suite;
}
