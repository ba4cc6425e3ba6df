/* SPDX-License-Identifier: MIT */
/*
 * The list of all tasks: weir_tasks_write() and SIGQUIT.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child.h"
#include "tests/runtime_test.h"

/* The portable switch shows the library's frames and the first of ours at least. */
static bool has_all_frames(void)
{
	const char *chosen = getenv("WEIR_SWITCH");

	return !chosen || strcmp(chosen, "ucontext") != 0;
}

/* ---- The text of a list --------------------------------------------------------------------- */

static char *list_tasks(void)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	expect(out != NULL);
	expect(weir_tasks_write(out) == 0);
	fclose(out);
	return text;
}

static const char *find(const char *text, const char *wanted)
{
	const char *at = strstr(text, wanted);

	if (!at)
		ck_abort_msg("no \"%s\" in:\n%s", wanted, text);
	return at;
}

/* The line that names the task, from its first character on. */
static const char *line_of(const char *text, const char *name)
{
	char quoted[80];

	snprintf(quoted, sizeof quoted, "\"%s\"", name);
	const char *at = find(text, quoted);
	while (at > text && at[-1] != '\n')
		at--;
	return at;
}

static void has(const char *line, const char *wanted)
{
	const char *end = strchr(line, '\n'), *at = strstr(line, wanted);

	if (!at || (end && at > end))
		ck_abort_msg("no \"%s\" in: %.*s", wanted, (int)(end ? end - line : 200), line);
}

static unsigned count_of(const char *text, const char *wanted)
{
	unsigned count = 0;

	for (; (text = strstr(text, wanted)) != NULL; text++)
		count++;
	return count;
}

/* The list once so many tasks are parked: how soon they are is no matter. */
static char *list_when_parked(unsigned parked)
{
	for (;;) {
		char *text = list_tasks();

		if (count_of(text, ", parked ") == parked)
			return text;
		free(text);
		weir_sleep(WEIR_MS);
	}
}

static int indent_of(const char *line)
{
	return (int)strspn(line, " ");
}

/* ---- What is in it -------------------------------------------------------------------------- */

__attribute__((noinline)) static int sleep_within(int depth)
{
	int err = depth > 0 ? sleep_within(depth - 1) : weir_sleep(1000 * WEIR_SEC);

	__asm__ volatile("" ::: "memory"); /* so that the calls are no jumps */
	return err;
}

__attribute__((noinline)) static int sleep_long(void *arg)
{
	int err = sleep_within(arg ? 0 : 2);

	__asm__ volatile("" ::: "memory");
	return err;
}

static int receive_item(void *arg)
{
	int item;

	return weir_chan_recv(arg, &item);
}

static int send_item(void *arg)
{
	int item = 1;

	return weir_chan_send(arg, &item);
}

enum { SPAWN_LINE = __LINE__ + 5 };
static int wait_for_children(void *arg)
{
	WEIR_SCOPE(scope, 3600 * WEIR_SEC);

	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "grandchild", .worker = *(unsigned *)arg));
	return weir_scope_wait(&scope);
}

static int list_waits(void *arg)
{
	unsigned worker = WEIR_ON_WORKER(*(int *)arg);
	char site[64];
	WEIR_SCOPE(scope, WEIR_FOREVER);
	weir_auto_chan empty = weir_chan_new(sizeof(int), 2);
	weir_auto_chan full = weir_chan_new(sizeof(int), 1);
	WEIR_SCOPE(inner, WEIR_FOREVER);

	TRY(weir_chan_try_send(full, &(int){ 1 }));
	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "sleeper", .worker = worker));
	TRY(weir_spawn(&inner, receive_item, empty, .name = "receiver", .worker = worker));
	TRY(weir_spawn(&inner, send_item, full, .name = "sender", .worker = worker));
	TRY(weir_spawn(&inner, wait_for_children, &worker, .name = "parent", .worker = worker));
	char *text = list_when_parked(5);
	has(text, "weir: 6 tasks on 2 workers");
	has(line_of(text, "main"), "running; spawned at weir_run; ");
	has(line_of(text, "main"), " scopes; stack ");
	has(line_of(text, "sleeper"), " in sleep;");
	has(line_of(text, "receiver"), " in channel (to receive, 0 of 2 in it);");
	has(line_of(text, "sender"), " in channel (to send, 1 of 1 in it);");
	has(line_of(text, "parent"), " in scope join (1 tasks), deadline in 3599 s;");
	snprintf(site, sizeof site, "spawned at tests/test_runtime_dump.c:%d;", SPAWN_LINE);
	has(line_of(text, "grandchild"), site);
	has(line_of(text, "grandchild"),
	    worker == 1 ? ", worker 0, parked 0." : ", worker 1, parked 0.");
	expect(indent_of(line_of(text, "main")) == 0);
	expect(indent_of(line_of(text, "sender")) == 2);
	expect(indent_of(line_of(text, "grandchild")) == 4);
	expect(line_of(text, "grandchild") > line_of(text, "parent"));
	free(text);
	return 0;
}

START_TEST(each_task_says_what_it_waits_for_and_where_it_comes_from)
{
	run_on(2, list_waits, &_i);
}
END_TEST

static int list_frames(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, sleep_long, NULL, .worker = WEIR_ON_WORKER(1)));
	char *text = list_when_parked(1);
	const char *task = line_of(text, "sleep_long"); /* it has no other name */
	expect(count_of(task, " weir_sleep+0x") == 1);
	expect(count_of(task, " sleep_within+0x") >= (has_all_frames() ? 3 : 1));
	if (has_all_frames())
		expect(count_of(task, " sleep_long+0x") == 1);
	find(text, " weir_tasks_write+0x");
	find(text, " list_frames+0x");
	free(text);
	return 0;
}

START_TEST(parked_and_running_tasks_show_their_frames)
{
	run_on(2, list_frames, NULL);
}
END_TEST

static int list_states(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "unborn"));
	char *text = list_tasks();
	has(line_of(text, "unborn"), ", worker 0, not started;");
	free(text);
	TRY(weir_yield());
	weir_scope_cancel(&scope);
	text = list_tasks();
	has(line_of(text, "unborn"), ", worker 0, ready, cancelled;");
	free(text);
	return 0;
}

START_TEST(a_task_that_has_not_run_or_is_cancelled_says_so)
{
	run_on(1, list_states, NULL);
}
END_TEST

static int receive_bytes(void *arg)
{
	weir_auto_buf buf = { 0 };

	return (int)weir_recv(arg, &buf);
}

static int list_receiver(void *arg)
{
	weir_auto_listener listener = NULL;
	weir_auto_conn client = NULL;
	weir_auto_conn server = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_connect(&client, weir_listener_address(listener)));
	TRY(weir_accept(listener, &server));
	TRY(weir_spawn(&scope, receive_bytes, server, .name = "receiver"));
	char *text = list_when_parked(1);
	has(line_of(text, "receiver"), " in recv (");
	free(text);
	return 0;
}

START_TEST(a_receiving_task_names_its_connection)
{
	run_on(1, list_receiver, NULL);
}
END_TEST

enum { MANY = 3000 };

static int spawn_half(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned i = 0; i < MANY / 2; i++)
		TRY(weir_spawn(&scope, sleep_long, NULL, .name = "one of many",
			       .worker = WEIR_ON_WORKER(i % 2)));
	return weir_scope_wait(&scope);
}

static int list_many(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, spawn_half, NULL, .name = "half", .worker = WEIR_ON_WORKER(0)));
	TRY(weir_spawn(&scope, spawn_half, NULL, .name = "half", .worker = WEIR_ON_WORKER(1)));
	char *text = list_when_parked(MANY + 2);
	find(text, "weir: 3003 tasks on 2 workers\n");
	expect(count_of(text, "\"one of many\"") == MANY);
	expect(count_of(text, "\"half\"") == 2);
	/* what waits in the same place does not say it again and again */
	expect(count_of(text, "frames as above") > MANY / 2);
	free(text);
	return 0;
}

START_TEST(thousands_on_two_workers_are_all_there)
{
	run_on(2, list_many, NULL);
}
END_TEST

static int list_deep(void *arg)
{
	int depth = *(int *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (depth == 0) {
		char *text = list_tasks();
		find(text, "weir: 201 tasks on 2 workers\n");
		find(text, "; depth 200;");
		free(text);
		return 0;
	}
	depth--;
	TRY(weir_spawn(&scope, list_deep, &depth, .name = "level",
		       .worker = WEIR_ON_WORKER(depth % 2)));
	return weir_scope_wait(&scope);
}

START_TEST(a_deep_tree_is_walked_to_its_end)
{
	run_on(2, list_deep, &(int){ 200 });
}
END_TEST

/* ---- Hard times ----------------------------------------------------------------------------- */

static int list_again_and_again(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < *(int *)arg; i++) {
		TRY(weir_spawn(&scope, sleep_long, NULL));
		free(list_tasks());
		TRY(weir_yield());
	}
	weir_scope_cancel(&scope);
	return 0;
}

static int churn(void *arg)
{
	for (;;) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		(void)arg;
		for (unsigned i = 0; i < 8; i++)
			TRY(weir_spawn(&scope, spawn_half, NULL, .worker = WEIR_ON_WORKER(i % 2)));
		TRY(weir_yield());
	}
}

static int list_on_all(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	WEIR_SCOPE(listers, WEIR_FOREVER);

	for (unsigned i = 0; i < 4; i++)
		TRY(weir_spawn(&listers, list_again_and_again, arg,
			       .worker = WEIR_ON_WORKER(i % 3)));
	return weir_scope_wait(&listers);
}

START_TEST(workers_that_ask_at_once_are_all_answered)
{
	run_on(3, list_on_all, &(int){ ROUNDS(40) });
}
END_TEST

static int list_amid_churn(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, churn, NULL, .worker = WEIR_ON_WORKER(1)));
	for (int i = 0; i < *(int *)arg; i++) {
		free(list_tasks());
		TRY(weir_yield());
	}
	return 0;
}

START_TEST(a_list_amid_births_and_deaths_is_sound)
{
	run_on(2, list_amid_churn, &(int){ ROUNDS(20) });
}
END_TEST

static _Atomic bool go_on;

static int compute_until_told(void *arg)
{
	(void)arg;
	while (!go_on)
		;
	return 0;
}

static int list_despite(void *arg)
{
	unsigned busy = WEIR_ON_WORKER(*(int *)arg), free_one = WEIR_ON_WORKER(1 - *(int *)arg);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "sleeper", .worker = free_one));
	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "neighbour", .worker = busy));
	TRY(weir_sleep(10 * WEIR_MS));
	TRY(weir_spawn(&scope, compute_until_told, NULL, .name = "burner", .worker = busy));
	return weir_scope_wait(&scope);
}

static int list_from_outside(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, list_despite, arg, .name = "despite", .worker = WEIR_ON_WORKER(2)));
	TRY(weir_sleep(50 * WEIR_MS));
	char *text = list_tasks();
	go_on = true;
	has(strstr(text, "\nworker 1 does not answer") ? strstr(text, "\nworker 1 ") + 1 : text,
	    "it runs ");
	find(text, " compute_until_told+0x");
	has(line_of(text, "sleeper"), ", worker 0, parked ");
	has(line_of(text, "neighbour"), ", worker 1, parked ");
	free(text);
	weir_scope_cancel(&scope);
	return 0;
}

START_TEST(a_worker_that_does_not_let_go_is_shown_with_what_it_runs)
{
	run_on(4, list_from_outside, &(int){ 1 });
}
END_TEST

START_TEST(outside_a_runtime_there_is_nothing_to_list)
{
	ck_assert_int_eq(weir_tasks_write(stdout), -EINVAL);
}
END_TEST

static int list_to_a_full_disk(void *arg)
{
	FILE *full = fopen("/dev/full", "w");

	(void)arg;
	expect(full != NULL);
	expect(weir_tasks_write(full) == -ENOSPC);
	fclose(full);
	return 0;
}

START_TEST(what_cannot_be_written_is_an_error)
{
	run_on(2, list_to_a_full_disk, NULL);
}
END_TEST

/* ---- SIGQUIT -------------------------------------------------------------------------------- */

/* What is said on standard error goes to a file, so that a task can wait for it. */
static int heard_fd;

static const char *heard(void)
{
	static char text[1 << 16];
	ssize_t len = pread(heard_fd, text, sizeof text - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	return text;
}

/*
 * Asks again until what is wanted has been listed so often: of a worker that had no CPU for too
 * long a list says just that. The others wait or compute meanwhile, as `pass` does.
 */
static int quit_until(const char *wanted, unsigned count, int (*pass)(int64_t ns))
{
	heard_fd = memfd_create("heard", MFD_CLOEXEC);
	expect(heard_fd >= 0 && dup2(heard_fd, STDERR_FILENO) == STDERR_FILENO);
	for (unsigned asked = 1; count_of(heard(), wanted) < count; asked++) {
		TRY(kill(getpid(), SIGQUIT));
		while (count_of(heard(), " tasks on ") < asked)
			TRY(pass(10 * WEIR_MS));
	}
	return 0;
}

static int quit_thrice(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, sleep_long, NULL, .name = "sleeper", .worker = WEIR_ON_WORKER(1)));
	TRY(quit_until("\"sleeper\", worker 1, parked ", 3, weir_sleep));
	return count_of(heard(), "weir: 2 tasks on 2 workers\n") >= 3 ? 0 : -EIO;
}

static int run_quit_thrice(void *arg)
{
	(void)arg;
	return weir_run(quit_thrice, NULL, .workers = 2);
}

START_TEST(sigquit_lists_and_goes_on)
{
	ck_assert_int_eq(end_of(run_quit_thrice, NULL), 0);
}
END_TEST

static int compute_for(int64_t ns)
{
	compute(ns);
	return 0;
}

__attribute__((noinline)) static int compute_through_quit(void *arg)
{
	(void)arg;
	int err = quit_until(" compute_through_quit+0x", 1, compute_for);
	__asm__ volatile("" ::: "memory"); /* so that the call is no jump */
	if (err < 0)
		return err;
	find(heard(), "worker 0 does not answer; it runs 281474976710657 \"main\", "
		      "spawned at weir_run\n");
	return weir_sleep(10 * WEIR_MS);
}

static int run_compute_through_quit(void *arg)
{
	(void)arg;
	return weir_run(compute_through_quit, NULL, .workers = 1);
}

START_TEST(sigquit_tells_of_the_only_worker_that_computes)
{
	ck_assert_int_eq(end_of(run_compute_through_quit, NULL), 0);
}
END_TEST

static int quit_unheard(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++) /* each is here when the call returns */
		TRY(kill(getpid(), SIGQUIT));
	return weir_sleep(30 * WEIR_MS);
}

static int run_quit_unheard(void *arg)
{
	(void)arg;
	return weir_run(quit_unheard, NULL, .workers = 2);
}

START_TEST(sigquit_is_left_alone_when_told_so)
{
	ck_assert_int_eq(setenv("WEIR_DUMP_SIGNAL", "0", 1), 0);
	int status = end_of(run_quit_unheard, NULL);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGQUIT);
	assert_not_said("weir:");
}
END_TEST

static _Atomic int own_quits;

static void count_quit(int number)
{
	(void)number;
	own_quits++;
}

static int run_with_own_handler(void *arg)
{
	(void)arg;
	signal(SIGQUIT, count_quit);
	int err = run_quit_unheard(NULL);
	return err < 0 ? err : own_quits - 3;
}

START_TEST(a_program_that_catches_sigquit_keeps_it)
{
	ck_assert_int_eq(end_of(run_with_own_handler, NULL), 0);
	assert_not_said("weir:");
}
END_TEST

Suite *runtime_dump_suite(void)
{
	Suite *suite = suite_create("runtime_dump");
	TCase *list = tcase_create("list");
	TCase *hard = tcase_create("hard times");
	TCase *busy = tcase_create("busy");
	TCase *quit = tcase_create("sigquit");

	tcase_set_tags(list, "fast");
	tcase_set_timeout(list, 20);
	tcase_add_loop_test(list, each_task_says_what_it_waits_for_and_where_it_comes_from, 0, 2);
	tcase_add_test(list, parked_and_running_tasks_show_their_frames);
	tcase_add_test(list, a_task_that_has_not_run_or_is_cancelled_says_so);
	tcase_add_test(list, a_receiving_task_names_its_connection);
	tcase_add_test(list, a_deep_tree_is_walked_to_its_end);
	tcase_add_test(list, outside_a_runtime_there_is_nothing_to_list);
	tcase_add_test(list, what_cannot_be_written_is_an_error);
	suite_add_tcase(suite, list);

	tcase_set_timeout(hard, 20);
	tcase_add_test(hard, thousands_on_two_workers_are_all_there);
	tcase_add_test(hard, workers_that_ask_at_once_are_all_answered);
	tcase_add_test(hard, a_list_amid_births_and_deaths_is_sound);
	suite_add_tcase(suite, hard);

	tcase_set_tags(busy, "real"); /* who holds a worker holds the one thread there is */
	tcase_set_timeout(busy, 20);
	if (SIGNALS_COME)
		tcase_add_test(busy, a_worker_that_does_not_let_go_is_shown_with_what_it_runs);
	suite_add_tcase(suite, busy);

	tcase_set_tags(quit, "real");
	tcase_set_timeout(quit, 20);
	tcase_add_test(quit, sigquit_lists_and_goes_on);
	tcase_add_test(quit, sigquit_is_left_alone_when_told_so);
	tcase_add_test(quit, a_program_that_catches_sigquit_keeps_it);
	if (SIGNALS_COME)
		tcase_add_test(quit, sigquit_tells_of_the_only_worker_that_computes);
	suite_add_tcase(suite, quit);
	return suite;
}
