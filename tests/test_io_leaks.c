/* SPDX-License-Identifier: MIT */
/*
 * What a program is told of blocks that it has not freed: nothing of the library's own among them,
 * and where they come from.
 */
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/runtime_test.h"

#if defined(__SANITIZE_ADDRESS__)
enum { UNDER_ASAN = true };
#else
enum { UNDER_ASAN = false };
#endif

/* A select that takes the time and forgets the descriptor, the last thing before the end. */
static int forget(void *arg)
{
	int *fds = arg;
	struct weir_case cases[] = {
		weir_case_fd(fds[0], POLLIN),
		weir_case_timer(WEIR_MS),
	};
	int which = weir_select(cases, 2);

	return which < 0 ? which : 0;
}

START_TEST(of_the_library_s_own_nothing_is_left_after_a_run)
{
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	setenv("WEIR_MEM_DEBUG", "1", 1);
	for (int i = 0; i < 3; i++) {
		run_on(2, forget, fds);
		ck_assert_uint_eq(weir_mem_leaks(STDERR_FILENO), 0);
	}
}
END_TEST

static __attribute__((noinline)) int lose_some(void *arg)
{
	static char *volatile lost;

	(void)arg;
	for (volatile int i = 0; i < 3; i++) /* one call, not three: unrolled they would be */
		lost = weir_zalloc(1000);
	weir_free(lost);
	return 0;
}

static __attribute__((noinline)) int free_again(void *arg)
{
	char *volatile block = weir_alloc(100);

	(void)arg;
	weir_free(block);
	weir_free(weir_alloc(50));
	weir_free(block);
	return 0;
}

static __attribute__((noinline)) int write_late(void *arg)
{
	volatile char *block = weir_alloc(100);

	(void)arg;
	weir_free((void *)block);
	block[5] = 1;
	return 0;
}

static char told[16384];

/* What a process says on standard error that runs fn(NULL) at a debug level and exits. */
static void listen_to(weir_fn fn, const char *level)
{
	size_t len = 0;
	int fds[2], status;
	ssize_t n;

	ck_assert_int_eq(pipe(fds), 0);
	pid_t child = fork();
	if (child == 0) {
		dup2(fds[1], STDERR_FILENO);
		setenv("WEIR_MEM_DEBUG", level, 1);
		exit(weir_run(fn, NULL, .workers = 1, .signals_ignored = true) != 0);
	}
	close(fds[1]);
	while ((n = read(fds[0], told + len, sizeof told - 1 - len)) > 0)
		len += (size_t)n;
	told[len] = '\0';
	close(fds[0]);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}

/* The first frame that names `function` lies behind `before`. */
static void expect_frame(const char *before, const char *function)
{
	const char *at = strstr(told, before);

	ck_assert_msg(at && strstr(at, function), "no %s behind \"%s\" in:\n%s", function, before,
		      told);
}

START_TEST(at_level_three_the_end_of_the_process_tells_who_has_lost_what)
{
	listen_to(lose_some, "3");
	ck_assert_ptr_nonnull(strstr(told, "2 blocks, 2000 bytes, not freed"));
	expect_frame("not freed", "lose_some+");
	listen_to(lose_some, "2");
	ck_assert_str_eq(told, "");
}
END_TEST

START_TEST(a_second_free_is_told_of_with_its_place)
{
	listen_to(free_again, "1");
	expect_frame("freed twice", "free_again+");
}
END_TEST

START_TEST(at_level_three_with_that_of_the_first_and_of_the_allocation)
{
	listen_to(free_again, "3");
	expect_frame("freed twice", "free_again+");
	expect_frame("it was freed", "free_again+");
	expect_frame("it was allocated", "free_again+");
}
END_TEST

START_TEST(a_write_after_free_is_told_of_at_the_end_at_the_latest)
{
	listen_to(write_late, "3");
	expect_frame("written to after it was freed", "write_late+");
}
END_TEST

Suite *io_leaks_suite(void)
{
	Suite *suite = suite_create("io_leaks");
	TCase *leaks = tcase_create("leaks");

	tcase_set_tags(leaks, "fast");
	tcase_set_timeout(leaks, 20);
	tcase_add_test(leaks, of_the_library_s_own_nothing_is_left_after_a_run);
	suite_add_tcase(suite, leaks);
	/* each in a process of its own, which the simulator has none of */
	leaks = tcase_create("reports");
	tcase_set_tags(leaks, "fast real");
	tcase_set_timeout(leaks, 20);
	tcase_add_test(leaks, at_level_three_the_end_of_the_process_tells_who_has_lost_what);
	tcase_add_test(leaks, a_second_free_is_told_of_with_its_place);
	tcase_add_test(leaks, at_level_three_with_that_of_the_first_and_of_the_allocation);
	if (!UNDER_ASAN) /* which would come first */
		tcase_add_test(leaks, a_write_after_free_is_told_of_at_the_end_at_the_latest);
	suite_add_tcase(suite, leaks);
	return suite;
}
