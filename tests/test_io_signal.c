/* SPDX-License-Identifier: MIT */
/*
 * Signals as events: weir_signal_wait().
 */
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "tests/runtime_test.h"

static _Atomic int told[3];

struct listener {
	int index;
	int rounds;
};

static _Atomic unsigned begun;

static int listen(void *arg)
{
	const struct listener *listener = arg;

	begun++;
	for (int i = 0; i < listener->rounds; i++) {
		int number = weir_signal_wait(SIGHUP, SIGUSR1);
		if (number < 0)
			return number;
		told[listener->index] += number == SIGHUP ? 1 : 100;
	}
	return 0;
}

/* Until so many are about to wait, and a while more, in which they do. */
static int await_listeners(unsigned count)
{
	while (begun < count)
		TRY(weir_sleep(WEIR_MS));
	return weir_sleep(20 * WEIR_MS);
}

/* ---- Waiting -------------------------------------------------------------------------------- */

static int send_to_one(void *arg)
{
	struct listener listener = { 0, 3 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, listen, &listener, .worker = WEIR_ON_WORKER(1)));
	for (int i = 1; i <= 3; i++) {
		TRY(await_listeners(1));
		TRY(kill(getpid(), i == 2 ? SIGUSR1 : SIGHUP));
		while (told[0] != (i == 1 ? 1 : i == 2 ? 101 : 102))
			TRY(weir_sleep(WEIR_MS));
	}
	return weir_scope_wait(&scope);
}

START_TEST(a_task_is_told_which_signal_came)
{
	run_on(2, send_to_one, NULL);
}
END_TEST

static int send_to_three(void *arg)
{
	struct listener listeners[3] = { { 0, 1 }, { 1, 1 }, { 2, 1 } };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned i = 0; i < 3; i++)
		TRY(weir_spawn(&scope, listen, &listeners[i], .worker = WEIR_ON_WORKER(i % 2)));
	TRY(await_listeners(3));
	TRY(kill(getpid(), SIGHUP));
	TRY(weir_scope_wait(&scope));
	return told[0] == 1 && told[1] == 1 && told[2] == 1 ? 0 : -EIO;
}

START_TEST(all_who_wait_are_told)
{
	run_on(2, send_to_three, NULL);
}
END_TEST

static int send_before(void *arg)
{
	WEIR_SCOPE(scope, 20 * WEIR_MS);

	(void)arg;
	/* from the first wait on it is ours */
	if (weir_signal_wait(SIGHUP) != -ETIME)
		return -EIO;
	weir_scope_close(&scope);
	TRY(raise(SIGHUP));
	TRY(raise(SIGHUP));
	WEIR_SCOPE(later, 20 * WEIR_MS);
	if (weir_signal_wait(SIGUSR2, SIGHUP) != SIGHUP)
		return -EIO;
	return weir_signal_wait(SIGUSR2, SIGHUP) == -ETIME ? 0 : -EIO; /* kept once */
}

START_TEST(a_signal_nobody_waited_for_is_kept_once)
{
	run_on(1, send_before, NULL);
}
END_TEST

static int cancel_the_first(void *arg)
{
	struct listener listeners[2] = { { 0, 1 }, { 1, 1 } };
	WEIR_SCOPE(second, WEIR_FOREVER);
	WEIR_SCOPE(first, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&first, listen, &listeners[0], .worker = WEIR_ON_WORKER(1)));
	TRY(await_listeners(1));
	TRY(weir_spawn(&second, listen, &listeners[1]));
	TRY(await_listeners(2));
	weir_scope_close(&first);
	TRY(kill(getpid(), SIGUSR1));
	TRY(weir_scope_wait(&second));
	return told[0] == 0 && told[1] == 100 ? 0 : -EIO;
}

START_TEST(a_cancelled_waiter_takes_no_signal_with_it)
{
	run_on(2, cancel_the_first, NULL);
}
END_TEST

static int wait_for_own(void *arg)
{
	return weir_signal_wait(*(int *)arg) == *(int *)arg ? 0 : -EIO;
}

/* Three who wait for one each: nobody is told of another's. */
static int send_each(void *arg)
{
	static int numbers[] = { SIGHUP, SIGUSR1, SIGUSR2 };
	struct weir_join joins[3];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (int i = 0; i < 3; i++)
		TRY(weir_spawn(&scope, wait_for_own, &numbers[i], .join = &joins[i]));
	TRY(weir_sleep(5 * WEIR_MS));
	for (int i = 3; i-- > 0;) {
		int result = 1;
		TRY(kill(getpid(), numbers[i]));
		TRY(weir_join_wait(&joins[i], &result));
		ck_assert_int_eq(result, 0);
		TRY(weir_sleep(WEIR_MS));
		for (int k = 0; k < i; k++)
			ck_assert(!weir_join_has_ended(&joins[k]));
	}
	return weir_scope_wait(&scope);
}

START_TEST(who_waits_for_another_signal_is_not_told)
{
	run_on(1, send_each, NULL);
}
END_TEST

static _Atomic bool is_parked, is_told;

static int note_signal(void *arg)
{
	(void)arg;
	told[0] = weir_signal_wait(SIGUSR1);
	return 0;
}

/* The signal has been handed out, and what tells the task of it is not here yet. */
static int cancel_who_was_told(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, note_signal, NULL));
	TRY(weir_sleep(5 * WEIR_MS));
	is_parked = true;
	while (!is_told)
		spin();
	weir_scope_cancel(&scope);
	return weir_scope_wait(&scope) == -ECANCELED ? 0 : -EIO;
}

static int tell_on_worker_0(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, cancel_who_was_told, NULL, .worker = WEIR_ON_WORKER(1)));
	while (!is_parked)
		TRY(weir_sleep(WEIR_MS));
	TRY(kill(getpid(), SIGUSR1));
	TRY(weir_sleep(20 * WEIR_MS));
	is_told = true;
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(told[0], SIGUSR1);
	return 0;
}

START_TEST(who_was_told_and_is_cancelled_has_been_told)
{
	run_on(2, tell_on_worker_0, NULL);
}
END_TEST

static int wait_for_term(void *arg)
{
	WEIR_SCOPE(scope, 10 * WEIR_MS);

	(void)arg;
	if (weir_signal_wait(SIGTERM) != -ETIME)
		return -EIO;
	weir_scope_close(&scope);
	TRY(kill(getpid(), SIGTERM));
	TRY(weir_sleep(20 * WEIR_MS)); /* it does not stop us */
	return weir_signal_wait(SIGTERM) == SIGTERM ? 7 : -EIO;
}

static int send_term(void *arg)
{
	(void)arg;
	TRY(kill(getpid(), SIGTERM));
	return weir_sleep(1000 * WEIR_SEC);
}

START_TEST(who_waits_for_sigterm_is_not_stopped_by_it)
{
	ck_assert_int_eq(weir_run(wait_for_term, NULL, .workers = 2), 7);
	/* the next runtime is */
	ck_assert_int_eq(weir_run(send_term, NULL, .workers = 1), -ECANCELED);
}
END_TEST

static int wait_for_odd_ones(void *arg)
{
	static const int odd[] = { SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGILL, SIGFPE,
				   SIGURG,  0,	     -1,      65,     1000 };

	(void)arg;
	for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++)
		expect(weir_signal_wait(SIGHUP, odd[i]) == -EINVAL);
	expect(weir_signal_wait_any(odd, 0) == -EINVAL);
	return 0;
}

START_TEST(what_cannot_be_waited_for_is_refused)
{
	ck_assert_int_eq(weir_signal_wait(SIGHUP), -EINVAL); /* outside tasks */
	run_on(1, wait_for_odd_ones, NULL);
}
END_TEST

START_TEST(handlers_go_back_with_the_runtime)
{
	struct sigaction own = { .sa_handler = SIG_IGN }, after;

	ck_assert_int_eq(sigaction(SIGHUP, &own, NULL), 0);
	for (int i = 0; i < 3; i++) {
		run_on(2, send_before, NULL);
		ck_assert_int_eq(sigaction(SIGHUP, NULL, &after), 0);
		ck_assert(after.sa_handler == SIG_IGN);
	}
}
END_TEST

/* ---- Simulated machines --------------------------------------------------------------------- */

static int wait_simulated(void *arg)
{
	WEIR_SCOPE(scope, WEIR_SEC);

	(void)arg;
	return weir_signal_wait(SIGUSR1) == -ETIME ? 0 : -EIO;
}

/* On one thread with the waiter, which is parked meanwhile. */
static int signal_others(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, wait_simulated, NULL));
	TRY(weir_yield());
	TRY(kill(getpid(), SIGUSR1));
	while (!told[0])
		usleep(1000);
	return weir_scope_wait(&scope);
}

static int simulate(void *arg)
{
	(void)arg;
	return weir_sim_run(1, signal_others, NULL, .calm = true, .workers = 1);
}

static int wait_beside_a_simulation(void *arg)
{
	struct listener listener = { 0, 1 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, listen, &listener));
	TRY(await_listeners(1));
	TRY(weir_blocking(simulate, NULL));
	return weir_scope_wait(&scope);
}

START_TEST(a_signal_is_not_told_to_simulated_tasks)
{
	run_on(1, wait_beside_a_simulation, NULL);
}
END_TEST

static int leave_one_behind(void *arg)
{
	WEIR_SCOPE(scope, WEIR_MS);

	(void)arg;
	expect(weir_signal_wait(SIGUSR1) == -ETIME);
	return raise(SIGUSR1);
}

START_TEST(what_came_in_an_earlier_run_comes_to_nobody)
{
	run_on(1, leave_one_behind, NULL);
	ck_assert_int_eq(weir_sim_run(1, wait_simulated, NULL), 0);
	ck_assert_int_eq(signal(SIGUSR1, SIG_IGN) == SIG_ERR, 0);
	run_on(1, wait_simulated, NULL);
}
END_TEST

/* ---- Many ----------------------------------------------------------------------------------- */

static _Atomic int received;

static int count_signals(void *arg)
{
	(void)arg;
	for (;;) {
		TRY(weir_signal_wait(SIGUSR1, SIGUSR2));
		received++;
	}
}

static int storm(void *arg)
{
	int rounds = *(int *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < 4; i++)
		TRY(weir_spawn(&scope, count_signals, NULL, .worker = WEIR_ON_WORKER(i % 3)));
	TRY(weir_sleep(5 * WEIR_MS));
	for (int i = 0; i < rounds; i++) {
		TRY(kill(getpid(), i % 2 ? SIGUSR1 : SIGUSR2));
		if (i % 4 == 0)
			TRY(weir_yield());
	}
	/* whatever was merged on the way, one that comes now is told */
	TRY(weir_sleep(20 * WEIR_MS));
	int before = received;
	TRY(kill(getpid(), SIGUSR1));
	while (received == before)
		TRY(weir_sleep(WEIR_MS));
	weir_scope_cancel(&scope);
	return 0;
}

START_TEST(a_storm_of_signals_leaves_nobody_waiting)
{
	run_on(3, storm, &(int){ ROUNDS(5000) });
}
END_TEST

Suite *io_signal_suite(void)
{
	Suite *suite = suite_create("io_signal");
	TCase *wait = tcase_create("wait");
	TCase *many = tcase_create("many");

	tcase_set_tags(wait, "fast real");
	tcase_set_timeout(wait, 20);
	tcase_add_test(wait, a_task_is_told_which_signal_came);
	tcase_add_test(wait, all_who_wait_are_told);
	tcase_add_test(wait, a_signal_nobody_waited_for_is_kept_once);
	tcase_add_test(wait, a_cancelled_waiter_takes_no_signal_with_it);
	tcase_add_test(wait, who_waits_for_another_signal_is_not_told);
	tcase_add_test(wait, who_was_told_and_is_cancelled_has_been_told);
	tcase_add_test(wait, who_waits_for_sigterm_is_not_stopped_by_it);
	tcase_add_test(wait, what_cannot_be_waited_for_is_refused);
	tcase_add_test(wait, handlers_go_back_with_the_runtime);
	tcase_add_test(wait, a_signal_is_not_told_to_simulated_tasks);
	tcase_add_test(wait, what_came_in_an_earlier_run_comes_to_nobody);
	suite_add_tcase(suite, wait);

	tcase_set_tags(many, "real");
	tcase_set_timeout(many, 20);
	tcase_add_test(many, a_storm_of_signals_leaves_nobody_waiting);
	suite_add_tcase(suite, many);
	return suite;
}
