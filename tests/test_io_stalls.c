/* SPDX-License-Identifier: MIT */
/*
 * test_io_stalls.c: stalls for want of memory, as the kernel tells of them. A TCP socket with
 * urgent data stands in for the trigger: it too is ready for POLLPRI and for nothing else.
 */
#include <weir/weir.h>

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "io/pressure.h"

static uint64_t stalls(void)
{
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	return stats.stalls;
}

/* Open descriptors of a file of stall figures. */
static unsigned triggers(void)
{
	unsigned count = 0;
	char path[300], target[300];
	DIR *directory = opendir("/proc/self/fd");
	ck_assert_ptr_nonnull(directory);
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
		snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
		ssize_t n = readlink(path, target, sizeof target - 1);
		target[n > 0 ? n : 0] = '\0';
		count += strstr(target, "/pressure/memory") || strstr(target, "/memory.pressure");
	}
	closedir(directory);
	return count;
}

static void run(weir_fn fn, void *arg)
{
	ck_assert_int_eq(weir_run(fn, arg, .workers = 1, .signals_ignored = true), 0);
}

/* ---- The kernel's own ----------------------------------------------------------------------- */

static int is_armed(void *before)
{
	ck_assert_uint_gt(triggers(), *(unsigned *)before); /* and a copy for epoll */
	return 0;
}

START_TEST(worker_0_waits_for_stalls_while_it_runs_and_not_longer)
{
	int fd = weir__stalls_open(NULL);
	if (fd < 0) {
		printf("skipped: no trigger here: %s\n", strerror(-fd));
		return;
	}
	close(fd);
	unsigned none = 0;
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(triggers(), 0);
		run(is_armed, &none);
	}
	ck_assert_uint_eq(triggers(), 0);
}
END_TEST

/* The watcher's thread has started: ASan's allocator, which it may use until then, survives no
 * fork. */
static void await_watcher(void)
{
	FILE *nowhere = fopen("/dev/null", "w");
	ck_assert_ptr_nonnull(nowhere);
	ck_assert_int_eq(weir_tasks_write(nowhere), 0);
	ck_assert_int_eq(fclose(nowhere), 0);
}

static int run_in_a_child(void *arg)
{
	int status;
	await_watcher();
	pid_t child = fork();
	(void)arg;
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		unsigned before = triggers(); /* the driver's copies are the parent's as well */
		int err = weir_run(is_armed, &before, .workers = 1, .signals_ignored = true);
		_exit(err == 0 ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	return 0;
}

START_TEST(a_child_has_its_own)
{
	int fd = weir__stalls_open(NULL);
	if (fd < 0)
		return;
	close(fd);
	run(run_in_a_child, NULL);
}
END_TEST

/* ---- One that can be made ready ------------------------------------------------------------- */

static void make_pair(int fds[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof address;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(listener, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fds[0], (struct sockaddr *)&address, sizeof address), 0);
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fds[1], 0);
	close(listener);
}

/* Ours in the place of the kernel's. Returns the end to say so with. */
static int stand_in(int *ret_fd)
{
	int fds[2];
	make_pair(fds);
	weir__pressure_unwatch(weir__worker_self());
	weir__pressure_watch(weir__worker_self(), fds[1]);
	*ret_fd = fds[1];
	return fds[0];
}

static void await_stalls(uint64_t least)
{
	for (int i = 0; stalls() < least; i++) {
		ck_assert_int_lt(i, 2000);
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	}
}

/* Ready once for each change of the host's name, which the test may change for itself. */
static int told_twice(void *arg)
{
	int fd = open("/proc/sys/kernel/hostname", O_RDONLY | O_CLOEXEC);
	(void)arg;
	ck_assert_int_ge(fd, 0);
	weir__pressure_unwatch(weir__worker_self());
	weir__pressure_watch(weir__worker_self(), fd);
	ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
	ck_assert_uint_eq(stalls(), 0);
	for (unsigned i = 1; i <= 2; i++) {
		ck_assert_int_eq(sethostname("stalled", 7), 0);
		await_stalls(i);
	}
	ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
	ck_assert_uint_eq(stalls(), 2);
	return 0;
}

START_TEST(each_stall_is_heard_of)
{
	if (unshare(CLONE_NEWUTS) < 0) {
		puts("skipped: not allowed to have a host name of its own");
		return;
	}
	run(told_twice, NULL);
}
END_TEST

static void await_closed(int fd)
{
	for (int i = 0; fcntl(fd, F_GETFD) >= 0; i++) {
		ck_assert_int_lt(i, 2000);
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	}
}

static int never_quiet(void *arg)
{
	int fd, teller = stand_in(&fd);
	(void)arg;
	ck_assert_int_eq(send(teller, "!", 1, MSG_OOB), 1);
	await_closed(fd);
	ck_assert_uint_ge(stalls(), 1);
	ck_assert_uint_le(stalls(), 4);
	close(teller);
	return 0;
}

START_TEST(a_trigger_that_fires_all_the_time_is_given_up)
{
	run(never_quiet, NULL);
}
END_TEST

static int broken(void *arg)
{
	int fd, teller = stand_in(&fd);
	(void)arg;
	uint64_t before = stalls();
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	struct linger reset = { 1, 0 };
	setsockopt(teller, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	close(teller);
	await_closed(fd);
	ck_assert_uint_eq(stalls(), before);
	return 0;
}

START_TEST(a_trigger_that_breaks_is_given_up)
{
	run(broken, NULL);
}
END_TEST

START_TEST(what_cannot_be_a_trigger_is_an_error)
{
	ck_assert_int_eq(weir__stalls_open("/nonexistent"), -ENOENT);
	ck_assert_int_eq(weir__stalls_open("/proc/self/mem"), -EIO);
}
END_TEST

/* ---- What is done about it ------------------------------------------------------------------ */

static int64_t now;
static char figures[] = "/tmp/weir_stalls_XXXXXX";

static void write_figures(const char *percent)
{
	FILE *file = fopen(figures, "w");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "some avg10=%s avg60=0.00 avg300=0.00 total=0\n", percent);
	fprintf(file, "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
	ck_assert_int_eq(fclose(file), 0);
}

static void have_figures(const char *percent)
{
	int fd = mkstemp(figures);
	ck_assert_int_ge(fd, 0);
	close(fd);
	write_figures(percent);
	snprintf(weir__stall_path, sizeof weir__stall_path, "%s", figures);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
}

static void pass(int64_t ms)
{
	weir__heap_turn(now += ms * WEIR_MS);
}

START_TEST(without_a_trigger_each_look_reads_the_figures)
{
	have_figures("8.50");
	pass(1000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_MEDIUM);
	write_figures("50.00");
	pass(30000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_CRITICAL);
	unlink(figures);
}
END_TEST

START_TEST(with_one_they_are_read_when_it_has_fired_and_until_they_have_faded)
{
	have_figures("0.00");
	weir__stalls_told(true);
	pass(1000);
	pass(30000);
	write_figures("50.00");
	pass(1000); /* nobody has told */
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_NONE);
	weir__stalls_happen(now += 10 * WEIR_MS);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_CRITICAL); /* at once */
	ck_assert_uint_eq(stalls(), 1);
	pass(10000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_CRITICAL);
	pass(20000); /* the file says the same, but it is not asked */
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_HIGH);
	weir__stalls_told(false);
	pass(2000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_CRITICAL);
	unlink(figures);
}
END_TEST

Suite *io_stalls_suite(void)
{
	Suite *s = suite_create("io_stalls");
	TCase *trigger = tcase_create("trigger");
	tcase_set_tags(trigger, "real"); /* descriptors of the system's */
	tcase_add_test(trigger, worker_0_waits_for_stalls_while_it_runs_and_not_longer);
	if (!WEIR__TSAN) /* which allows no threads in a child */
		tcase_add_test(trigger, a_child_has_its_own);
	tcase_add_test(trigger, each_stall_is_heard_of);
	tcase_add_test(trigger, a_trigger_that_fires_all_the_time_is_given_up);
	tcase_add_test(trigger, a_trigger_that_breaks_is_given_up);
	tcase_add_test(trigger, what_cannot_be_a_trigger_is_an_error);
	suite_add_tcase(s, trigger);
	TCase *level = tcase_create("level");
	tcase_set_tags(level, "fast");
	tcase_add_test(level, without_a_trigger_each_look_reads_the_figures);
	tcase_add_test(level, with_one_they_are_read_when_it_has_fired_and_until_they_have_faded);
	suite_add_tcase(s, level);
	return s;
}
