/* SPDX-License-Identifier: MIT */
/*
 * Children: start, talk to, wait for, kill. None is left behind, nor a descriptor.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/descriptors.h"
#include "tests/runtime_test.h"

#define ARGV(...)                                                                                  \
	(const char *const[])                                                                      \
	{                                                                                          \
		__VA_ARGS__, NULL                                                                  \
	}

/* All a stream says until its end, as a string. */
static int read_all(weir_conn *conn, char *ret, size_t cap)
{
	size_t len = 0;

	for (;;) {
		weir_auto_buf buf = { 0 };
		ssize_t n = weir_recv(conn, &buf);
		if (n <= 0) {
			ret[len] = '\0';
			return (int)n;
		}
		expect(len + (size_t)n < cap);
		memcpy(ret + len, buf.data, (size_t)n);
		len += (size_t)n;
	}
}

/* The ring closes later, and a worker may have to wait for a CPU first. */
static int await_descriptors(int before)
{
	for (int i = 0; i < 500 && count_descriptors() != before; i++)
		TRY(weir_sleep(10 * WEIR_MS));
	return count_descriptors() == before ? 0 : -EMFILE;
}

/* ---- Talking -------------------------------------------------------------------------------- */

static int run_cat(void *arg)
{
	weir_auto_process cat = NULL;
	char text[64];
	int status;

	(void)arg;
	TRY(weir_process_spawn(&cat, ARGV("cat"), .in = WEIR_STDIO_PIPE, .out = WEIR_STDIO_PIPE));
	expect(weir_process_id(cat) > 0 && !weir_process_stderr(cat));
	for (int i = 0; i < 100; i++) {
		TRY(weir_write(weir_process_stdin(cat), "hello\n", 6));
		ssize_t n = weir_read_until(weir_process_stdout(cat), '\n', text, sizeof text);
		expect(n == 6 && memcmp(text, "hello\n", 6) == 0);
	}
	TRY(weir_shutdown(weir_process_stdin(cat)));
	TRY(read_all(weir_process_stdout(cat), text, sizeof text));
	TRY(weir_process_wait(cat, &status));
	expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	TRY(weir_process_wait(cat, &status)); /* again */
	return weir_process_kill(cat, SIGTERM) == -ESRCH ? 0 : -EIO;
}

START_TEST(what_goes_into_cat_comes_out)
{
	run_on(2, run_cat, NULL);
}
END_TEST

static int run_shell(void *arg)
{
	weir_auto_process shell = NULL;
	char out[256], err[256];
	int status;

	(void)arg;
	TRY(weir_process_spawn(
		&shell, ARGV("sh", "-c", "pwd; echo $COLOUR; echo oh >&2; cat; exit 7"),
		.env = ARGV("COLOUR=green", "PATH=/bin:/usr/bin"), .cwd = "/",
		.in = WEIR_STDIO_NULL, .out = WEIR_STDIO_PIPE, .err = WEIR_STDIO_PIPE));
	TRY(read_all(weir_process_stdout(shell), out, sizeof out));
	TRY(read_all(weir_process_stderr(shell), err, sizeof err));
	TRY(weir_process_wait(shell, &status));
	expect(strcmp(out, "/\ngreen\n") == 0 && strcmp(err, "oh\n") == 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : -EIO;
}

START_TEST(streams_environment_directory_and_status_are_as_asked)
{
	run_on(1, run_shell, NULL);
}
END_TEST

static int list_descriptors(void *arg)
{
	weir_auto_process ls = NULL;
	char out[512];
	int leaked = dup(0); /* by a program that does not care */

	(void)arg;
	TRY(weir_process_spawn(
		&ls, ARGV("sh", "-c", "for f in /proc/self/fd/*; do echo ${f##*/}; done"),
		.in = WEIR_STDIO_NULL, .out = WEIR_STDIO_PIPE, .err = WEIR_STDIO_NULL));
	TRY(read_all(weir_process_stdout(ls), out, sizeof out));
	close(leaked);
	/* and the one it lists the directory with */
	return strncmp(out, "0\n1\n2\n", 6) == 0 && strlen(out) <= 9 ? 0 : -EIO;
}

START_TEST(a_child_inherits_its_streams_and_nothing_else)
{
	run_on(2, list_descriptors, NULL);
}
END_TEST

/* ---- What goes wrong ------------------------------------------------------------------------ */

static int spawn_nonsense(void *arg)
{
	weir_process *process = NULL;
	int before = count_descriptors();

	(void)arg;
	for (int i = 0; i < 20; i++) {
		expect(weir_process_spawn(&process, ARGV("/nonexistent/program"),
					  .in = WEIR_STDIO_PIPE,
					  .out = WEIR_STDIO_PIPE) == -ENOENT);
		expect(weir_process_spawn(&process, ARGV("no-such-program-in-the-path")) ==
		       -ENOENT);
		expect(weir_process_spawn(&process, ARGV("true"), .cwd = "/nonexistent") ==
		       -ENOENT);
		expect(weir_process_spawn(&process, ARGV("/dev/null")) == -EACCES);
		expect(weir_process_spawn(&process, ARGV("true"), .in = 17) == -EINVAL);
	}
	expect(process == NULL);
	return await_descriptors(before);
}

START_TEST(a_program_that_is_not_there_is_an_error_and_leaves_nothing)
{
	run_on(1, spawn_nonsense, NULL);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
}
END_TEST

static _Atomic pid_t last_pid;

/* A child that SIGTERM does not impress, once it has said so. */
static int start_stubborn(weir_process **ret)
{
	char text[16];

	TRY(weir_process_spawn(
		ret, ARGV("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 100; done"),
		.out = WEIR_STDIO_PIPE));
	last_pid = weir_process_id(*ret);
	return (int)weir_read_until(weir_process_stdout(*ret), '\n', text, sizeof text);
}

static int ignore_term(void *arg)
{
	weir_auto_process child = NULL;
	int status;

	(void)arg;
	TRY(start_stubborn(&child));
	TRY(weir_process_kill(child, SIGTERM));
	WEIR_SCOPE(scope, 50 * WEIR_MS);
	expect(weir_process_wait(child, &status) == -ETIME);
	weir_scope_close(&scope);
	TRY(weir_process_kill(child, SIGKILL));
	TRY(weir_process_wait(child, &status));
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : -EIO;
}

START_TEST(a_child_that_ignores_sigterm_is_waited_for_and_killed)
{
	run_on(1, ignore_term, NULL);
}
END_TEST

static int wait_for_stubborn(void *arg)
{
	weir_auto_process child = NULL;
	int status;

	(void)arg;
	TRY(start_stubborn(&child));
	return weir_process_wait(child, &status);
}

static int cancel_waiting(void *arg)
{
	WEIR_SCOPE(scope, *(int64_t *)arg);

	TRY(weir_spawn(&scope, wait_for_stubborn, NULL, .worker = WEIR_ON_WORKER(1)));
	while (!last_pid)
		if (weir_sleep(WEIR_MS) < 0)
			break;
	(void)weir_sleep(20 * WEIR_MS);
	weir_scope_close(&scope);
	expect(last_pid > 0);
	expect(kill(last_pid, 0) == -1 && errno == ESRCH); /* dead, and waited for */
	return 0;
}

START_TEST(leaving_kills_and_buries)
{
	int64_t timeouts[] = { WEIR_FOREVER, 300 * WEIR_MS };

	run_on(2, cancel_waiting, &timeouts[_i]);
}
END_TEST

static int wait_twice(void *arg)
{
	int status;

	return weir_process_wait(arg, &status) == -EBUSY ? 0 : -EIO;
}

static int wait_abroad(void *arg)
{
	int status;

	return weir_process_wait(arg, &status) == -EXDEV ? 0 : -EIO;
}

static int kill_abroad(void *arg)
{
	return weir_process_kill(arg, SIGTERM) == -EXDEV ? 0 : -EIO;
}

static int wait_here(void *arg)
{
	int status;

	return weir_process_wait(arg, &status);
}

static int wait_oddly(void *arg)
{
	weir_auto_process child = NULL;
	WEIR_SCOPE(waiting, WEIR_FOREVER);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_process_spawn(&child, ARGV("sleep", "1000")));
	TRY(weir_spawn(&waiting, wait_here, child));
	TRY(weir_yield());
	TRY(weir_spawn(&scope, wait_twice, child));
	TRY(weir_spawn(&scope, wait_abroad, child, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_spawn(&scope, kill_abroad, child, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_scope_wait(&scope));
	weir_scope_close(&scope);
	weir_scope_close(&waiting);
	return 0;
}

START_TEST(one_task_of_its_worker_waits)
{
	run_on(2, wait_oddly, NULL);
}
END_TEST

struct ended {
	weir_process *child;
	int result;
	bool is_over;
};

static int wait_until_closed(void *arg)
{
	struct ended *ended = arg;
	int status;

	ended->result = weir_process_wait(ended->child, &status);
	ended->is_over = true;
	return 0;
}

static int close_under_a_waiter(void *arg)
{
	struct ended ended = { .result = 77 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_process_spawn(&ended.child, ARGV("sleep", "1000")));
	last_pid = weir_process_id(ended.child);
	TRY(weir_spawn(&scope, wait_until_closed, &ended,
		       .worker = WEIR_ON_WORKER((unsigned)weir_worker_index())));
	TRY(weir_sleep(5 * WEIR_MS));
	expect(!ended.is_over);
	weir_process_close(ended.child);
	expect(ended.is_over && ended.result == -ECANCELED);
	expect(kill(last_pid, 0) == -1 && errno == ESRCH);
	return weir_scope_wait(&scope);
}

START_TEST(closing_ends_who_waits_for_it)
{
	run_on(1, close_under_a_waiter, NULL);
}
END_TEST

/* A worker's thread takes no signals; its children do. */
static int terminate(void *arg)
{
	weir_auto_process child = NULL;
	int status;
	WEIR_SCOPE(patience, 10 * WEIR_SEC);

	(void)arg;
	TRY(weir_process_spawn(&child, ARGV("sleep", "1000")));
	TRY(weir_process_kill(child, SIGTERM));
	TRY(weir_process_wait(child, &status));
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM ? 0 : -EIO;
}

static int terminate_on_each(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, terminate, arg, .worker = WEIR_ON_WORKER(0)));
	TRY(weir_spawn(&scope, terminate, arg, .worker = WEIR_ON_WORKER(1)));
	return weir_scope_wait(&scope);
}

START_TEST(a_child_of_any_worker_takes_signals)
{
	run_on(2, terminate_on_each, NULL);
}
END_TEST

/* ---- Many ----------------------------------------------------------------------------------- */

static int run_true(void *arg)
{
	weir_auto_process child = NULL;
	int status;

	(void)arg;
	TRY(weir_process_spawn(&child, ARGV("true"), .in = WEIR_STDIO_PIPE,
			       .out = WEIR_STDIO_PIPE));
	TRY(weir_process_wait(child, &status));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int run_many(void *arg)
{
	int before = count_descriptors();

	for (int round = 0; round < 4; round++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned i = 0; i < *(unsigned *)arg; i++)
			TRY(weir_spawn(&scope, run_true, NULL, .worker = WEIR_ON_WORKER(i % 2)));
		TRY(weir_scope_wait(&scope));
	}
	return await_descriptors(before);
}

START_TEST(many_children_leave_no_zombie_and_no_descriptor)
{
	run_on(2, run_many, &(unsigned){ 10 });
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
}
END_TEST

/* The kernel buries them, some of them before their start has returned. */
static int ignore_children(void *arg)
{
	int before = count_descriptors();

	(void)arg;
	for (int i = 0; i < 60; i++) {
		weir_auto_process child = NULL;
		int status = 77;
		TRY(weir_process_spawn(&child, ARGV("true"), .out = WEIR_STDIO_PIPE));
		expect(weir_process_wait(child, &status) == -ECHILD && status == 77);
		expect(weir_process_kill(child, SIGTERM) == -ESRCH);
	}
	return await_descriptors(before);
}

START_TEST(where_sigchld_is_ignored_children_start_and_their_status_is_unknown)
{
	signal(SIGCHLD, SIG_IGN);
	run_on(1, ignore_children, NULL);
}
END_TEST

/* ---- What the program has done to itself ----------------------------------------------------- */

static int run_broken_pipe(void *arg)
{
	weir_auto_process child = NULL;

	TRY(weir_process_spawn(&child, ARGV("sh", "-c", "kill -PIPE $$; exit 3")));
	return weir_process_wait(child, arg);
}

START_TEST(a_child_does_not_ignore_sigpipe_with_its_parent)
{
	int status;

	ck_assert(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	run_on(1, run_broken_pipe, &status);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGPIPE);
}
END_TEST

enum { DESCRIPTORS = 1000 };

/* By every program that is started now. */
static bool is_inherited(int fd)
{
	int flags = fcntl(fd, F_GETFD);

	return flags >= 0 && !(flags & FD_CLOEXEC);
}

static int run_echo(void *arg)
{
	weir_auto_process child = NULL;
	static bool was_open[DESCRIPTORS];
	char text[16];

	(void)arg;
	for (int fd = 0; fd < DESCRIPTORS; fd++)
		was_open[fd] = is_inherited(fd);
	TRY(weir_process_spawn(&child, ARGV("cat"), .in = WEIR_STDIO_PIPE, .out = WEIR_STDIO_PIPE));
	for (int fd = 0; fd < DESCRIPTORS; fd++) /* nothing for who else is started */
		expect(was_open[fd] || !is_inherited(fd));
	TRY(weir_write(weir_process_stdin(child), "hello", 5));
	TRY(weir_shutdown(weir_process_stdin(child)));
	TRY(read_all(weir_process_stdout(child), text, sizeof text));
	return strcmp(text, "hello") == 0 ? 0 : -EIO;
}

static int run_echo_without_stdin(void *arg)
{
	(void)close(STDIN_FILENO);
	int before = count_descriptors();
	TRY(run_echo(arg));
	return await_descriptors(before);
}

START_TEST(a_program_without_standard_input_has_children_with_one)
{
	run_on(1, run_echo_without_stdin, NULL);
}
END_TEST

static int spawn_without_memory(void *arg)
{
	int err = -ENOMEM, before = count_descriptors();

	(void)arg;
	for (unsigned n = 1; err == -ENOMEM; n++) {
		weir_auto_process child = NULL;
		weir_mem_fail_after(n);
		err = weir_process_spawn(&child, ARGV("true"), .in = WEIR_STDIO_PIPE,
					 .out = WEIR_STDIO_PIPE, .err = WEIR_STDIO_PIPE);
		weir_mem_fail_after(0);
		expect(err == 0 || count_descriptors() == before);
		expect(err == 0 ? n > 3 : err == -ENOMEM);
	}
	return err;
}

START_TEST(without_memory_no_child_is_started_and_nothing_is_left)
{
	run_on(1, spawn_without_memory, NULL);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

Suite *io_process_suite(void)
{
	Suite *suite = suite_create("io_process");
	TCase *child = tcase_create("child");

	tcase_set_tags(child, "real");
	tcase_set_timeout(child, 20);
	tcase_add_test(child, what_goes_into_cat_comes_out);
	tcase_add_test(child, streams_environment_directory_and_status_are_as_asked);
	tcase_add_test(child, a_child_inherits_its_streams_and_nothing_else);
	tcase_add_test(child, a_program_that_is_not_there_is_an_error_and_leaves_nothing);
	tcase_add_test(child, a_child_that_ignores_sigterm_is_waited_for_and_killed);
	tcase_add_loop_test(child, leaving_kills_and_buries, 0, 2);
	tcase_add_test(child, one_task_of_its_worker_waits);
	tcase_add_test(child, closing_ends_who_waits_for_it);
	tcase_add_test(child, a_child_of_any_worker_takes_signals);
	tcase_add_test(child, many_children_leave_no_zombie_and_no_descriptor);
	tcase_add_test(child, where_sigchld_is_ignored_children_start_and_their_status_is_unknown);
	tcase_add_test(child, a_child_does_not_ignore_sigpipe_with_its_parent);
	tcase_add_test(child, a_program_without_standard_input_has_children_with_one);
	tcase_add_test(child, without_memory_no_child_is_started_and_nothing_is_left);
	suite_add_tcase(suite, child);
	return suite;
}
