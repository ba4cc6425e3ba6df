/* SPDX-License-Identifier: MIT */
/*
 * Whose turn it is: yielding, tasks that compute, the budget of those that never wait, and sleep.
 */
#include <netinet/in.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/runtime_test.h"

static _Atomic unsigned ran;

static int count_up(void *arg)
{
	(void)arg;
	atomic_fetch_add(&ran, 1);
	return 0;
}

/* ---- Turns ---------------------------------------------------------------------------------- */

static unsigned laps[3];

static int run_laps(void *arg)
{
	unsigned *mine = arg;

	for (int i = 0; i < 1000; i++) {
		++*mine;
		for (int k = 0; k < 3; k++) /* nobody is more than a lap ahead or behind */
			expect(abs((int)laps[k] - (int)*mine) <= 1);
		TRY(weir_yield());
	}
	return 0;
}

static int race(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (int i = 0; i < 3; i++)
		TRY(weir_spawn(&scope, run_laps, &laps[i]));
	return weir_scope_wait(&scope);
}

START_TEST(yielding_is_fair)
{
	run_on(1, race, NULL);
}
END_TEST

static _Atomic bool stop_yielding;

static int yield_until_told(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop_yielding))
		TRY(weir_yield());
	return 0;
}

/* With a peer of plain system calls, which never block here. */
static int talk(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t len = sizeof address;
	weir_auto_conn conn = NULL;
	char text[32], said[5];

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	(void)snprintf(text, sizeof text, "127.0.0.1:%d", ntohs(address.sin_port));
	TRY(weir_connect(&conn, text));
	int peer = accept(listener, NULL, NULL);
	ck_assert_int_eq(write(peer, "hello", 5), 5);
	TRY((int)weir_read_full(conn, said, sizeof said));
	ck_assert_int_eq(memcmp(said, "hello", 5), 0);
	(void)close(peer);
	(void)close(listener);
	return 0;
}

/* There, and back as a message. */
static int visit(void)
{
	WEIR_SCOPE(other, WEIR_FOREVER);

	TRY(weir_spawn(&other, count_up, NULL, .worker = WEIR_ON_WORKER(1)));
	return weir_scope_wait(&other);
}

/* The yielding task never leaves the run queue empty. */
static int yield_against(void *arg)
{
	int what = *(int *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, yield_until_told, NULL));
	TRY(what == 0 ? visit() : what == 1 ? weir_sleep(WEIR_MS) : talk());
	atomic_store(&stop_yielding, true);
	return weir_scope_wait(&scope);
}

START_TEST(a_yielding_task_keeps_nothing_else_waiting)
{
	run_on(2, yield_against, &_i);
}
END_TEST

static int64_t laps_from_ns;
static int laps_late;

static int compute_laps(void *arg)
{
	(void)arg;
	while (!stop_yielding) {
		laps_late += laps_from_ns && weir_now() > laps_from_ns;
		compute(300 * WEIR_US);
		TRY(weir_yield());
	}
	return 0;
}

/* Counts what still runs between the end of the sleep and the sleeper. */
static int sleep_among_computers(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (int i = 0; i < 4; i++)
		TRY(weir_spawn(&scope, compute_laps, NULL));
	TRY(weir_sleep(30 * WEIR_MS));
	laps_from_ns = weir_now() + 10 * WEIR_MS;
	TRY(weir_sleep(10 * WEIR_MS));
	stop_yielding = true;
	ck_assert_int_le(laps_late, 16); /* everyone's turn, and a few for the clock */
	return weir_scope_wait(&scope);
}

START_TEST(tasks_that_compute_keep_the_clock_going)
{
	run_on(1, sleep_among_computers, NULL);
}
END_TEST

static weir_chan *chan;
static unsigned max_burst;

/* Both ends in one task: no operation has to park. */
static int spend(void *arg)
{
	int item = 0;

	(void)arg;
	for (int i = 0; i < 5000; i++) {
		TRY(weir_chan_send(chan, &item));
		TRY(weir_chan_recv(chan, &item));
		ran++;
	}
	return 0;
}

static int watch(void *arg)
{
	unsigned before = ran;

	(void)arg;
	while (ran < 5000) {
		TRY(weir_yield());
		if (ran - before > max_burst)
			max_burst = ran - before;
		before = ran;
	}
	return 0;
}

static int spend_and_watch(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 1);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	chan = own;
	TRY(weir_spawn(&scope, watch, NULL));
	TRY(weir_spawn(&scope, spend, NULL));
	return weir_scope_wait(&scope);
}

START_TEST(a_task_that_never_waits_yields_when_its_budget_is_spent)
{
	ck_assert_int_eq(setenv("WEIR_BUDGET", "32", 1), 0);
	run_on(1, spend_and_watch, NULL);
	ck_assert_uint_gt(max_burst, 10);
	ck_assert_uint_le(max_burst, 17); /* two operations each */
}
END_TEST

/* ---- Time ----------------------------------------------------------------------------------- */

static int64_t wakes_due[16]; /* when those who woke had wanted to, in the order of waking */
static unsigned wakes;

static int sleep_for(void *arg)
{
	int64_t ns = (intptr_t)arg;
	int64_t start = weir_now();

	TRY(weir_sleep(ns));
	ck_assert_int_ge(weir_now() - start, ns);
	wakes_due[wakes++] = start + ns;
	return 0;
}

static int sleep_sort(void *arg)
{
	static const int ms[] = { 115, 10, 70, 25, 205, 55, 40, 160, 85, 145 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (int i = 0; i < 10; i++)
		TRY(weir_spawn(&scope, sleep_for, (void *)(intptr_t)(ms[i] * WEIR_MS)));
	TRY(weir_scope_wait(&scope));
	TRY(sleep_for((void *)1));
	TRY(sleep_for((void *)1000));
	TRY(sleep_for((void *)(intptr_t)(100 * WEIR_US)));
	return weir_sleep(-5);
}

START_TEST(sleepers_wake_in_order_and_never_early)
{
	int64_t late =
		is_simulated() ? 110 * WEIR_MS : 10 * WEIR_MS; /* where threads stand still */

	run_on(1, sleep_sort, NULL);
	ck_assert_uint_eq(wakes, 13);
	for (unsigned i = 1; i < wakes; i++) /* the clock is ours, a little before the runtime's */
		ck_assert_int_gt(wakes_due[i], wakes_due[i - 1] - late);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *runtime_turns_suite(void)
{
	Suite *suite = suite_create("runtime_turns");
	TCase *turns = tcase_create("turns");

	tcase_set_tags(turns, "fast");
	tcase_set_timeout(turns, 20);
	tcase_add_test(turns, yielding_is_fair);
	tcase_add_loop_test(turns, a_yielding_task_keeps_nothing_else_waiting, 0, 2);
	tcase_add_test(turns, tasks_that_compute_keep_the_clock_going);
	tcase_add_test(turns, a_task_that_never_waits_yields_when_its_budget_is_spent);
	tcase_add_test(turns, sleepers_wake_in_order_and_never_early);
	suite_add_tcase(suite, turns);
	TCase *outside = tcase_create("outside");
	tcase_set_tags(outside, "fast real"); /* a socket of the system's */
	tcase_set_timeout(outside, 20);
	tcase_add_loop_test(outside, a_yielding_task_keeps_nothing_else_waiting, 2, 3);
	suite_add_tcase(suite, outside);
	return suite;
}
