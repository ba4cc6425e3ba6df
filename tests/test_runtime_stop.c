/* SPDX-License-Identifier: MIT */
/*
 * Stopping: weir_stop(), SIGINT and SIGTERM end a runtime in order, a second signal does not wait,
 * a third is the system's own; and who gets signals at all.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/runtime_test.h"
#include "tests/send_signal.h"

static _Atomic unsigned ended;

static int sleep_long(void *arg)
{
	(void)arg;
	int err = weir_sleep(1000 * WEIR_SEC);
	ended++;
	return err;
}

static int stop_now(void *arg)
{
	(void)arg;
	weir_stop();
	return weir_sleep(1000 * WEIR_SEC);
}

static int sleep_in_company(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < 4; i++)
		TRY(weir_spawn(&scope, sleep_long, NULL, .worker = WEIR_ON_WORKER(i % 2)));
	if (arg)
		TRY(weir_spawn(&scope, stop_now, NULL, .worker = WEIR_ON_WORKER(*(unsigned *)arg)));
	return weir_scope_wait(&scope);
}

START_TEST(stop_from_any_worker_cancels_all)
{
	unsigned worker = (unsigned)_i;

	ck_assert_int_eq(weir_run(sleep_in_company, &worker, .workers = 2), -ECANCELED);
	ck_assert_uint_eq(ended, 4);
}
END_TEST

static int stop_and_end(void *arg)
{
	(void)arg;
	weir_stop();
	weir_stop();
	return 3;
}

START_TEST(stop_of_a_runtime_that_ends_anyway_is_harmless)
{
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(weir_run(stop_and_end, NULL, .workers = 2), 3);
	weir_stop(); /* outside of one */
}
END_TEST

/* ---- How long others have ------------------------------------------------------------------- */

/* Nobody asks twice: what cleans up for much longer than WEIR_STOP_MS is waited for. */
static int stop_once_and_clean_up(void *arg)
{
	(void)arg;
	weir_stop();
	WEIR_SHIELD(shield, WEIR_FOREVER);
	TRY(weir_sleep(100 * WEIR_MS));
	ended++;
	return 0;
}

START_TEST(who_is_told_once_may_take_its_time)
{
	ck_assert_int_eq(setenv("WEIR_STOP_MS", "10", 1), 0);
	ck_assert_int_eq(setenv("WEIR_DRAIN_MS", "0", 1), 0);
	ck_assert_int_eq(weir_run(stop_once_and_clean_up, NULL, .workers = 1), 0);
	ck_assert_uint_eq(ended, 1);
}
END_TEST

static int handle_nothing(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	return (int)weir_recv(conn, &buf);
}

static int serve_nothing(void *arg)
{
	return weir_serve(arg, handle_nothing);
}

/* A client says nothing, so that nothing but the time to drain ends anything. */
static int stop_a_silent_server(void *arg)
{
	weir_auto_listener listener = NULL;
	weir_auto_conn client = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, serve_nothing, listener));
	TRY(weir_connect(&client, weir_listener_address(listener)));
	TRY(weir_sleep(20 * WEIR_MS));
	weir_stop();
	return (int)weir_recv(client, &buf);
}

START_TEST(the_end_of_the_time_to_drain_wakes_who_is_asleep)
{
	ck_assert_int_eq(setenv("WEIR_POOL_EPOCH_MS", "60000", 1), 0); /* its heap lets it sleep */
	ck_assert_int_eq(setenv("WEIR_MEM_DECAY_MS", "3600000", 1), 0);
	ck_assert_int_eq(setenv("WEIR_DRAIN_MS", "50", 1), 0);
	ck_assert_int_eq(weir_run(stop_a_silent_server, NULL, .workers = 1), -ECANCELED);
}
END_TEST

/* ---- Signals, in a process of their own ----------------------------------------------------- */

static int ready_fd;

static int tell_ready(void)
{
	char c = 1;

	return write(ready_fd, &c, 1) == 1 ? 0 : -EIO;
}

static int wait_for_signal(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, sleep_long, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(tell_ready());
	return weir_scope_wait(&scope);
}

/* Does not listen to anything, nor lets others. */
static int ignore_signals(void *arg)
{
	(void)arg;
	TRY(tell_ready());
	for (;;)
		compute(WEIR_MS);
}

/* Cleans up forever, on both workers, unless somebody looks through the shields. */
static int clean_up(void *arg)
{
	(void)arg;
	for (;;) {
		WEIR_SHIELD(shield, WEIR_FOREVER);
		WEIR_SHIELD(inner, WEIR_FOREVER);
		TRY(weir_sleep(weir_worker_index() ? 1000 * WEIR_SEC : WEIR_MS));
	}
}

static int clean_up_in_company(void *arg)
{
	WEIR_SHIELD(shield, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&shield, clean_up, NULL, .worker = WEIR_ON_WORKER(0)));
	TRY(weir_spawn(&shield, clean_up, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(tell_ready());
	return weir_scope_wait(&shield);
}

static volatile bool go_on_forever = true;

static int never_end(void *arg)
{
	(void)arg;
	while (go_on_forever)
		compute(WEIR_MS);
	return 0;
}

static int wait_for_the_endless(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "sleeper"));
	TRY(weir_spawn(&scope, never_end, NULL, .name = "endless", .worker = WEIR_ON_WORKER(1)));
	TRY(tell_ready());
	return weir_scope_wait(&scope);
}

/* Computes when the signal comes: the handler runs on its stack and must wake what will park later.
 */
static int compute_then_wait(void *arg)
{
	(void)arg;
	TRY(tell_ready());
	compute(20 * WEIR_MS);
	return weir_sleep(1000 * WEIR_SEC);
}

static useconds_t stays_us; /* the process, after its runtime */

static pid_t start_child(weir_fn fn)
{
	int ends[2];
	char c;

	ck_assert_int_eq(pipe(ends), 0);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		ready_fd = ends[1];
		int err = weir_run(fn, NULL, .workers = 2);
		(void)usleep(stays_us);
		_exit(err == -ECANCELED ? 0 : 1);
	}
	(void)close(ends[1]);
	ck_assert_int_eq(read(ends[0], &c, 1), 1);
	(void)close(ends[0]);
	return pid;
}

static int end_of(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

START_TEST(one_signal_ends_a_runtime_without_servers_at_once)
{
	int number = _i % 2 ? SIGINT : SIGTERM;

	ck_assert_int_eq(setenv("WEIR_DRAIN_MS", "3600000", 1), 0); /* there is nothing to drain */
	pid_t pid = start_child(_i / 2 ? compute_then_wait : wait_for_signal);
	ck_assert_int_eq(kill(pid, number), 0);
	int status = end_of(pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(the_second_signal_goes_through_shields)
{
	int status;

	ck_assert_int_eq(setenv("WEIR_STOP_MS", "3600000", 1), 0); /* nobody is left behind */
	pid_t pid = start_child(clean_up_in_company);

	send_signal(pid, SIGTERM);
	(void)usleep(50000); /* in which it could end, if it did */
	ck_assert_int_eq(waitpid(pid, &status, WNOHANG), 0);
	ck_assert_int_eq(kill(pid, SIGTERM), 0);
	status = end_of(pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(who_does_not_end_after_the_second_is_named_and_left_behind)
{
	char text[8192] = "";
	size_t len = 0;
	ssize_t got;
	int ends[2];

	stays_us = 300000; /* who is left behind is left alone */
	ck_assert_int_eq(setenv("WEIR_STOP_MS", "50", 1), 0);
	ck_assert_int_eq(pipe(ends), 0);
	int err = dup(STDERR_FILENO);
	ck_assert_int_eq(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
	pid_t pid = start_child(wait_for_the_endless);
	ck_assert_int_eq(dup2(err, STDERR_FILENO), STDERR_FILENO);
	(void)close(ends[1]);
	send_signal(pid, SIGINT);
	send_signal(pid, SIGINT);
	int status = end_of(pid);
	while ((got = read(ends[0], text + len, sizeof text - 1 - len)) > 0)
		len += (size_t)got;
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0); /* weir_run() returned -ECANCELED */
	const char *list = strstr(text, "weir: told to stop twice, and these do not end:\n");
	ck_assert_msg(list != NULL, "said: %s", text);
	ck_assert_msg(strstr(list + 10, "told to stop twice") == NULL, "said: %s", text);
	ck_assert_ptr_nonnull(strstr(list, "\"endless\", "));
	ck_assert_ptr_nonnull(strstr(list, "spawned at tests/test_runtime_stop.c:"));
	ck_assert_ptr_nonnull(strstr(list, "\"main\", worker 0, parked "));
	ck_assert_ptr_null(strstr(list, "\"sleeper\"")); /* it did end */
}
END_TEST

/* Tells it over and over, and does not end. */
static int stop_without_end(void *arg)
{
	(void)arg;
	TRY(tell_ready());
	for (;;) {
		weir_stop();
		compute(WEIR_MS);
		(void)weir_yield();
	}
}

START_TEST(who_asks_a_third_time_gets_no_more_time)
{
	ck_assert_int_eq(setenv("WEIR_STOP_MS", "100", 1), 0);
	int status = end_of(start_child(stop_without_end));
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

static bool has_ended(pid_t pid, int *ret_status)
{
	return waitpid(pid, ret_status, WNOHANG) == pid;
}

START_TEST(the_third_signal_is_not_ours_any_more)
{
	pid_t pid = start_child(ignore_signals);
	int status = 0;

	for (int i = 0; i < 2; i++) {
		send_signal(pid, SIGINT);
		(void)usleep(50000); /* in which it could end, if it did */
		ck_assert(!has_ended(pid, &status));
	}
	do { /* where one has not been taken yet the next adds nothing to it */
		(void)kill(pid, SIGINT);
		(void)usleep(50000);
	} while (!has_ended(pid, &status));
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGINT);
}
END_TEST

/* That it dies of the signal that it just got: another would hide that it did not. */
static void assert_killed(pid_t pid, int number)
{
	int status = 0;

	for (int i = 0; i < 1000 && !has_ended(pid, &status); i++)
		(void)usleep(10000);
	if (status == 0)
		(void)kill(pid, SIGKILL);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), number);
}

/* Whatever the first two were. */
START_TEST(the_third_signal_of_either_kind_kills)
{
	pid_t pid = start_child(ignore_signals);

	for (int i = 0; i < 2; i++)
		send_signal(pid, SIGINT);
	send_signal(pid, SIGTERM);
	assert_killed(pid, SIGTERM);
}
END_TEST

/* Told so twice by a task of its own, with a task that does not end: a signal is the third. */
static int stop_twice_and_stay(void *arg)
{
	(void)arg;
	weir_stop();
	weir_stop();
	return ignore_signals(NULL);
}

START_TEST(a_signal_after_two_calls_kills)
{
	pid_t pid = start_child(stop_twice_and_stay);

	ck_assert_int_eq(kill(pid, SIGTERM), 0);
	assert_killed(pid, SIGTERM);
}
END_TEST

START_TEST(handlers_are_put_back)
{
	struct sigaction before, during, after;
	struct sigaction own = { .sa_handler = SIG_IGN };

	ck_assert_int_eq(sigaction(SIGTERM, &own, NULL), 0);
	ck_assert_int_eq(sigaction(SIGTERM, NULL, &before), 0);
	ck_assert_int_eq(weir_run(stop_and_end, NULL, .workers = 1), 3);
	ck_assert_int_eq(sigaction(SIGTERM, NULL, &after), 0);
	ck_assert(before.sa_handler == after.sa_handler);
	ck_assert_int_eq(weir_run(stop_and_end, NULL, .workers = 1, .signals_ignored = true), 3);
	ck_assert_int_eq(sigaction(SIGTERM, NULL, &during), 0);
	ck_assert(during.sa_handler == SIG_IGN);
}
END_TEST

/* ---- Who gets signals ----------------------------------------------------------------------- */

static int note_mask(void *arg)
{
	return pthread_sigmask(SIG_SETMASK, NULL, arg);
}

static int note_masks(void *arg)
{
	sigset_t *masks = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < 3; i++)
		TRY(weir_spawn(&scope, note_mask, &masks[i], .worker = WEIR_ON_WORKER(i)));
	return weir_scope_wait(&scope);
}

START_TEST(threads_of_ours_take_no_signals_and_the_callers_keeps_its_own)
{
	static const int numbers[] = {
		SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD, SIGALRM, SIGQUIT
	};
	sigset_t own, masks[3];

	ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, NULL, &own), 0);
	run_on(3, note_masks, masks);
	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		ck_assert_int_eq(sigismember(&masks[0], numbers[i]), sigismember(&own, numbers[i]));
		ck_assert_int_eq(sigismember(&masks[1], numbers[i]), 1);
		ck_assert_int_eq(sigismember(&masks[2], numbers[i]), 1);
	}
}
END_TEST

static const int raised[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

/* What a thread does to itself: blocked, it would end the process without the handler. */
static void assert_faults_come(const sigset_t *mask)
{
	for (unsigned i = 0; i < sizeof raised / sizeof *raised; i++)
		ck_assert_msg(sigismember(mask, raised[i]) == 0, "%s", strsignal(raised[i]));
}

static int note_masks_of_others(void *arg)
{
	sigset_t *masks = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, note_mask, &masks[0], .worker = WEIR_ON_WORKER(1)));
	TRY(weir_blocking(note_mask, &masks[1]));
	return weir_scope_wait(&scope);
}

START_TEST(faults_of_threads_of_ours_find_their_handlers)
{
	sigset_t masks[2];

	run_on(2, note_masks_of_others, masks);
	for (unsigned i = 0; i < 2; i++) {
		assert_faults_come(&masks[i]);
		ck_assert_int_eq(sigismember(&masks[i], SIGUSR1), 1);
	}
}
END_TEST

Suite *runtime_stop_suite(void)
{
	Suite *suite = suite_create("runtime_stop");
	TCase *stop = tcase_create("stop");
	TCase *signals = tcase_create("signals");

	tcase_set_tags(stop, "fast");
	tcase_set_timeout(stop, 20);
	tcase_add_loop_test(stop, stop_from_any_worker_cancels_all, 0, 2);
	tcase_add_test(stop, stop_of_a_runtime_that_ends_anyway_is_harmless);
	tcase_add_test(stop, who_is_told_once_may_take_its_time);
	tcase_add_test(stop, the_end_of_the_time_to_drain_wakes_who_is_asleep);
	suite_add_tcase(suite, stop);

	tcase_set_tags(signals, "real");
	tcase_set_timeout(signals, 20);
	tcase_add_loop_test(signals, one_signal_ends_a_runtime_without_servers_at_once, 0, 4);
	tcase_add_test(signals, the_second_signal_goes_through_shields);
	tcase_add_test(signals, who_does_not_end_after_the_second_is_named_and_left_behind);
	tcase_add_test(signals, who_asks_a_third_time_gets_no_more_time);
	tcase_add_test(signals, the_third_signal_is_not_ours_any_more);
	tcase_add_test(signals, the_third_signal_of_either_kind_kills);
	tcase_add_test(signals, a_signal_after_two_calls_kills);
	tcase_add_test(signals, handlers_are_put_back);
	tcase_add_test(signals, faults_of_threads_of_ours_find_their_handlers);
	tcase_add_test(signals, threads_of_ours_take_no_signals_and_the_callers_keeps_its_own);
	suite_add_tcase(suite, signals);
	return suite;
}
