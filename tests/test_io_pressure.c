/* SPDX-License-Identifier: MIT */
/*
 * test_io_pressure.c: a server while memory is short, and workers asleep whose heaps have something
 * to do. Through the public headers alone, on the driver that WEIR_DRIVER names.
 */
#include "tests/net_test.h"

/* Whatever this machine feels. */
static void level(enum weir_mem_level level)
{
	weir_mem_level_force((int)level);
}

/* ---- Accepting ------------------------------------------------------------------------------ */

static int serve_echo(void *arg)
{
	return weir_serve(arg, echo);
}

static void open_conn(weir_conn **ret, const weir_listener *listener)
{
	ck_assert_int_eq(weir_connect(ret, weir_listener_address(listener)), 0);
	ck_assert_int_eq(weir_write(*ret, "x", 1), 1);
}

/* Whether the byte comes back within so long. */
static int answered(weir_conn *conn, int64_t timeout_ns)
{
	char byte = 0;
	WEIR_SCOPE(wait, timeout_ns);
	int err = weir_read_full(conn, &byte, 1);
	if (err == 0)
		ck_assert_int_eq(byte, 'x');
	return err;
}

static struct weir_serve_stats stats(void)
{
	struct weir_serve_stats ret;
	weir_serve_stats_get(&ret);
	return ret;
}

static int shed(void *arg)
{
	weir_auto_listener listener = NULL;
	weir_auto_conn early = NULL;
	weir_conn *late[3];
	(void)arg;
	level(WEIR_MEM_NONE);
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	WEIR_SCOPE(server, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&server, serve_echo, listener), 0);
	open_conn(&early, listener);
	ck_assert_int_eq(answered(early, WEIR_FOREVER), 0);

	level(WEIR_MEM_CRITICAL);
	for (int i = 0; i < 3; i++) /* the first still meets an armed accept */
		open_conn(&late[i], listener);
	ck_assert_int_eq(answered(late[0], 150 * WEIR_MS), -ETIME);
	ck_assert_int_eq(answered(late[2], 150 * WEIR_MS), -ETIME);
	ck_assert_uint_eq(stats().accepted, 1);
	ck_assert_uint_eq(stats().accept_pauses, 1); /* however often it has looked */
	ck_assert_int_eq(weir_write(early, "x", 1), 1);
	ck_assert_int_eq(answered(early, WEIR_FOREVER), 0); /* who is in is served */

	level(WEIR_MEM_HIGH);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(answered(late[i], WEIR_FOREVER), 0);
	ck_assert_uint_eq(stats().accepted, 4);
	for (int i = 0; i < 3; i++)
		weir_conn_close(late[i]);
	weir_scope_close(&server);
	return 0;
}

START_TEST(while_memory_is_critically_short_new_clients_wait)
{
	run_on(1, shed, NULL);
}
END_TEST

static int cancel_while_short(void *arg)
{
	weir_auto_listener listener = NULL;
	weir_auto_conn conn = NULL;
	char byte;
	(void)arg;
	level(WEIR_MEM_CRITICAL);
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	WEIR_SCOPE(server, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&server, serve_echo, listener), 0);
	open_conn(&conn, listener);
	ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
	weir_scope_close(&server);
	weir_listener_close(listener);
	listener = NULL;
	int err = weir_read_full(conn, &byte, 1);
	ck_assert(err == -ENODATA || err == -ECONNRESET);
	return 0;
}

START_TEST(a_server_that_waits_for_memory_can_be_cancelled)
{
	run_on(1, cancel_while_short, NULL);
	run_on(2, cancel_while_short, NULL);
}
END_TEST

/* ---- Workers asleep ------------------------------------------------------------------------- */

enum { BLOCKS = 200, BLOCK_BYTES = 4096 };
static void *block[BLOCKS];

static int fill(void *arg)
{
	(void)arg;
	for (int i = 0; i < BLOCKS; i++)
		ck_assert_ptr_nonnull(block[i] = weir_alloc(BLOCK_BYTES));
	return 0;
}

static uint64_t wakes_of(int worker)
{
	struct weir_worker_stats ret;
	ck_assert_int_eq(weir_worker_stats_get(worker, &ret), 0);
	return ret.wakes;
}

/* Until the other worker has nothing more to do but sleep, as far as can be seen. */
static void let_sleep(void)
{
	struct weir_worker_stats before, after;
	do {
		ck_assert_int_eq(weir_worker_stats_get(1, &before), 0);
		ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
		ck_assert_int_eq(weir_worker_stats_get(1, &after), 0);
	} while (after.turns != before.turns);
}

static void await_wake(uint64_t before)
{
	for (int i = 0; wakes_of(1) == before; i++) {
		ck_assert_int_lt(i, 1000);
		ck_assert_int_eq(weir_sleep(5 * WEIR_MS), 0);
	}
}

static int free_of_another(void *arg)
{
	WEIR_SCOPE(other, WEIR_FOREVER);
	(void)arg;
	level(WEIR_MEM_NONE);
	ck_assert_int_eq(weir_spawn(&other, fill, NULL, .worker = WEIR_ON_WORKER(1)), 0);
	ck_assert_int_eq(weir_scope_wait(&other), 0);
	let_sleep();
	uint64_t before = wakes_of(1);
	for (int i = 0; i < BLOCKS; i++)
		weir_free(block[i]);
	await_wake(before);
	return 0;
}

START_TEST(a_worker_asleep_is_woken_for_what_others_have_freed)
{
	run_on(2, free_of_another, NULL);
}
END_TEST

static int fill_and_free(void *arg)
{
	(void)fill(arg);
	for (int i = 0; i < BLOCKS; i++)
		weir_free(memset(block[i], 1, BLOCK_BYTES));
	return 0;
}

static uint64_t compactions(void)
{
	struct weir_mem_stats ret;
	weir_mem_stats_get(&ret);
	return ret.compactions;
}

static void await_compactions(uint64_t least)
{
	for (int i = 0; compactions() < least; i++) {
		ck_assert_int_lt(i, 1000);
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	}
}

static int compact_the_sleeping(void *arg)
{
	WEIR_SCOPE(other, WEIR_FOREVER);
	(void)arg;
	level(WEIR_MEM_NONE);
	ck_assert_int_eq(weir_spawn(&other, fill_and_free, NULL, .worker = WEIR_ON_WORKER(1)), 0);
	ck_assert_int_eq(weir_scope_wait(&other), 0);
	let_sleep();
	uint64_t wakes = wakes_of(1), stages = compactions();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
	await_wake(wakes);
	await_compactions(stages + 2); /* ours and its own */

	let_sleep();
	wakes = wakes_of(1), stages = compactions();
	level(WEIR_MEM_HIGH);
	await_wake(wakes);
	await_compactions(stages + 2);
	return 0;
}

START_TEST(workers_asleep_give_back_too_when_memory_gets_short)
{
	run_on(2, compact_the_sleeping, NULL);
}
END_TEST

Suite *io_pressure_suite(void)
{
	Suite *s = suite_create("io_pressure");
	TCase *accepting = tcase_create("accepting");
	tcase_add_test(accepting, while_memory_is_critically_short_new_clients_wait);
	tcase_add_test(accepting, a_server_that_waits_for_memory_can_be_cancelled);
	suite_add_tcase(s, accepting);
	TCase *asleep = tcase_create("asleep");
	tcase_set_tags(asleep, "real"); /* simulated workers do not look after each other's heaps */
	tcase_set_timeout(asleep, 20);
	tcase_add_test(asleep, a_worker_asleep_is_woken_for_what_others_have_freed);
	tcase_add_test(asleep, workers_asleep_give_back_too_when_memory_gets_short);
	suite_add_tcase(s, asleep);
	return s;
}
