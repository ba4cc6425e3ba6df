/* SPDX-License-Identifier: MIT */
/*
 * Asserts, the crash report and the report of a stack overflow. Each victim is a child; what it
 * said and what it died of are looked at here.
 */
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <weir/io.h>

#include "child.h"
#include "runtime/fatal.h"

/* A sanitizer catches the signal after us, and ends the process its own way. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SANITIZER 1
#endif
#endif
#ifndef HAS_SANITIZER
#define HAS_SANITIZER 0
#endif

static void assert_died_of(int status, int signal_number)
{
	if (HAS_SANITIZER)
		ck_assert_int_ne(status, 0);
	else
		ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == signal_number,
			      "ended with %#x, having said:\n%s", (unsigned)status, said);
}

/* ---- Running off the stack ----------------------------------------------------------------------
 */

struct victim {
	weir_fn fn;
	enum weir_stack_class stack;
	unsigned on;
};

__attribute__((noinline)) static int recurse(int depth)
{
	volatile char frame[64];
	frame[0] = (char)depth;
	return depth == INT_MAX ? 0 : recurse(depth + 1) + frame[0];
}

static int overflow(void *arg)
{
	(void)arg;
	return recurse(0);
}

/* Of the spawn below: on one line, because compilers differ in which of several they name. */
enum { SPAWN_LINE = __LINE__ + 7 };

static int spawn_victim(void *arg)
{
	const struct victim *v = arg;
	int err;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	err = weir_spawn(&scope, v->fn, NULL, .name = "victim", .stack = v->stack, .worker = v->on);
	return err < 0 ? err : weir_scope_wait(&scope);
}

static int run_with_victim(void *arg)
{
	return weir_run(spawn_victim, arg, .workers = 2);
}

START_TEST(an_overflow_names_task_site_and_stack)
{
	static const struct {
		enum weir_stack_class stack;
		const char *size, *hint;
	} expected[] = {
		{ WEIR_STACK_32K, ", stack 32 KiB\n", "try .stack = WEIR_STACK_256K" },
		{ WEIR_STACK_64K, ", stack 64 KiB\n", "try .stack = WEIR_STACK_256K" },
		{ WEIR_STACK_256K, ", stack 256 KiB\n", "try .stack = WEIR_STACK_1M" },
		{ WEIR_STACK_1M, ", stack 1024 KiB\n", "no stack is larger" },
	};
	struct victim victim = { .fn = overflow, .stack = expected[_i].stack };
	char text[64];
	int status = end_of(run_with_victim, &victim);
	assert_died_of(status, SIGSEGV);
	const char *report = assert_said("weir: stack overflow in task \"victim\" (id ");
	ck_assert_int_ge(report[strlen("weir: stack overflow in task \"victim\" (id ")], '0');
	snprintf(text, sizeof(text), "), spawned at tests/test_runtime_fatal.c:%d, stack ",
		 SPAWN_LINE);
	assert_said(text);
	assert_said(expected[_i].size);
	assert_said(expected[_i].hint);
}
END_TEST

START_TEST(the_frames_are_those_of_the_task)
{
	struct victim victim = { .fn = overflow };
	end_of(run_with_victim, &victim);
	const char *first = assert_said("\n  #0  0x");
	assert_said(" more ...\n");
	/* The innermost frames are calls of one function from one place. */
	const char *second = strstr(first + 1, "\n  #2  "), *third = strstr(first + 1, "\n  #3  ");
	ck_assert_ptr_nonnull(second);
	ck_assert_ptr_nonnull(third);
	ck_assert_mem_eq(second + 7, third + 7, strcspn(third + 7, "\n"));
	char self[256] = "";
	ck_assert_int_gt(readlink("/proc/self/exe", self, sizeof(self) - 4), 0);
	assert_said(strcat(self, "+0x"));
}
END_TEST

START_TEST(an_overflow_on_another_worker_is_reported_too)
{
	struct victim victim = { .fn = overflow, .on = WEIR_ON_WORKER(1) };
	assert_died_of(end_of(run_with_victim, &victim), SIGSEGV);
	assert_said("weir: stack overflow in task \"victim\" (id ");
}
END_TEST

/* ---- Other faults -------------------------------------------------------------------------------
 */

static int *volatile nowhere = (int *)16;

static int touch_nowhere(void *arg)
{
	(void)arg;
	return *nowhere;
}

static int send_segv(void *arg)
{
	(void)arg;
	raise(SIGSEGV);
	return 0;
}

static int touch_past_the_end(void *arg)
{
	char name[] = "/tmp/weir-test-XXXXXX";
	int fd = mkstemp(name);
	(void)arg;
	unlink(name);
	volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	return page[0]; /* the file is empty: SIGBUS */
}

START_TEST(another_fault_dies_of_its_signal_without_a_report)
{
	static const struct {
		weir_fn fn;
		int signal_number;
	} faults[] = { { touch_nowhere, SIGSEGV },
		       { send_segv, SIGSEGV },
		       { touch_past_the_end, SIGBUS } };
	struct victim victim = { .fn = faults[_i].fn };
	assert_died_of(end_of(run_with_victim, &victim), faults[_i].signal_number);
	assert_not_said("stack overflow in task");
}
END_TEST

static void say_and_exit(int signal_number, siginfo_t *info, void *context)
{
	char text[64];
	(void)context;
	int len = snprintf(text, sizeof(text), "earlier handler: %d at %p\n", signal_number,
			   info->si_addr);
	_exit(write(STDERR_FILENO, text, (size_t)len) == len ? 7 : 8);
}

static int run_behind_a_handler(void *arg)
{
	struct sigaction action = { .sa_sigaction = say_and_exit, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &action, NULL);
	return run_with_victim(arg);
}

START_TEST(an_earlier_handler_gets_the_other_faults)
{
	struct victim victim = { .fn = touch_nowhere };
	int status = end_of(run_behind_a_handler, &victim);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%#x: %s", (unsigned)status,
		      said);
	assert_said("earlier handler: 11 at 0x10\n");
}
END_TEST

static int touch_nowhere_elsewhere(void *arg)
{
	return weir_blocking(touch_nowhere, arg);
}

START_TEST(an_earlier_handler_gets_the_faults_of_blocking_calls)
{
	struct victim victim = { .fn = touch_nowhere_elsewhere };
	int status = end_of(run_behind_a_handler, &victim);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%#x: %s", (unsigned)status,
		      said);
	assert_said("earlier handler: 11 at 0x10\n");
}
END_TEST

START_TEST(an_earlier_handler_gets_an_overflow_after_the_report)
{
	struct victim victim = { .fn = overflow };
	int status = end_of(run_behind_a_handler, &victim);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%#x: %s", (unsigned)status,
		      said);
	const char *report = assert_said("weir: stack overflow in task \"victim\"");
	ck_assert(assert_said("earlier handler: 11 at 0x") > report);
	ck_assert_ptr_null(strstr(report + 1, "weir: stack overflow"));
}
END_TEST

static int run_ignoring(void *arg)
{
	signal(SIGSEGV, SIG_IGN);
	return run_with_victim(arg);
}

START_TEST(an_ignored_signal_that_is_sent_stays_ignored)
{
	struct victim victim = { .fn = send_segv };
	ck_assert_int_eq(end_of(run_ignoring, &victim), 0);
	victim.fn = touch_nowhere;
	assert_died_of(end_of(run_ignoring, &victim), SIGSEGV);
}
END_TEST

/* ---- Signal stacks ------------------------------------------------------------------------------
 */

START_TEST(a_detached_thread_has_the_signal_stack_it_had)
{
	static char own[1 << 16];
	stack_t mine = { .ss_sp = own, .ss_size = sizeof(own) }, now;
	ck_assert_int_eq(sigaltstack(&mine, NULL), 0);
	weir__fatal_detach_thread();
	ck_assert_int_eq(weir__fatal_attach_thread(), 0);
	ck_assert_int_eq(weir__fatal_attach_thread(), 0);
	ck_assert_int_eq(sigaltstack(NULL, &now), 0);
	ck_assert_ptr_ne(now.ss_sp, own);
	ck_assert_int_eq(now.ss_flags, 0);
	memset(now.ss_sp, 0xa5, now.ss_size);
	weir__fatal_detach_thread();
	ck_assert_int_eq(sigaltstack(NULL, &now), 0);
	ck_assert_ptr_eq(now.ss_sp, own);
	ck_assert_uint_eq(now.ss_size, sizeof(own));
}
END_TEST

/* ---- Asserts ------------------------------------------------------------------------------------
 */

static int fail_assert(void *arg)
{
	WEIR_ASSERT(arg == &arg);
	return 0;
}

START_TEST(a_failed_assert_reports_the_task_and_aborts)
{
	struct victim victim = { .fn = fail_assert };
	assert_died_of(end_of(run_with_victim, &victim), SIGABRT);
	assert_said("------ weir " WEIR_VERSION ": cut here ------\n");
	assert_said("weir: assertion failed: arg == &arg\n");
	assert_said("weir: at tests/test_runtime_fatal.c:");
	assert_said(", worker 0, in task \"victim\" (id ");
	assert_said("), spawned at tests/test_runtime_fatal.c:");
	assert_said("\n  #0  0x");
	assert_said("------ weir: cut here; ");
}
END_TEST

START_TEST(a_failed_assert_outside_tasks_reports_without_one)
{
	assert_died_of(end_of(fail_assert, NULL), SIGABRT);
	assert_said("weir: assertion failed: arg == &arg\n");
	assert_said("\n  #0  0x");
	assert_not_said("in task");
}
END_TEST

START_TEST(an_offset_counts_from_the_start_of_its_module)
{
	unsigned long pc, offset;
	Dl_info info;
	end_of(fail_assert, NULL);
	ck_assert_int_eq(sscanf(assert_said("  #0  "), "  #0  %lx  %*[^+]+%lx", &pc, &offset), 2);
	ck_assert_int_ne(dladdr((void *)pc, &info), 0);
	ck_assert_uint_eq(pc - offset, (unsigned long)info.dli_fbase);
}
END_TEST

static uintptr_t damage;

__attribute__((noinline)) static int fail_on_a_damaged_stack(void *arg)
{
	volatile uintptr_t *frame = __builtin_frame_address(0);
	frame[0] = damage;
	WEIR_ASSERT(arg == &frame);
	return 0;
}

START_TEST(a_damaged_chain_ends_the_frames_and_not_the_report)
{
	static const uintptr_t damages[] = { 0,		  1,
					     16,	  UINTPTR_MAX - 15,
					     UINTPTR_MAX, UINTPTR_MAX / 2 };
	damage = damages[_i];
	struct victim victim = { .fn = fail_on_a_damaged_stack };
	assert_died_of(end_of(run_with_victim, &victim), SIGABRT);
	assert_said("\n  #1  0x");
	assert_not_said("\n  #2  0x");
	assert_said("------ weir: cut here; ");
	assert_died_of(end_of(fail_on_a_damaged_stack, NULL), SIGABRT);
	assert_said("------ weir: cut here; ");
}
END_TEST

START_TEST(a_true_assert_is_evaluated_once_and_a_debug_one_by_level)
{
	int evaluated = 0;
	WEIR_ASSERT(++evaluated == 1);
	ck_assert_int_eq(evaluated, 1);
	WEIR_DASSERT(++evaluated > 1);
	WEIR_XASSERT(++evaluated > 1);
#if !defined(WEIR_DEBUG)
	ck_assert_int_eq(evaluated, 1);
#else
	ck_assert_int_eq(evaluated, WEIR_DEBUG >= 2 ? 3 : 2);
#endif
}
END_TEST

Suite *runtime_fatal_suite(void)
{
	Suite *suite = suite_create("runtime_fatal");
	TCase *stacks = tcase_create("overflow");
	tcase_set_timeout(stacks, 20);
	tcase_add_loop_test(stacks, an_overflow_names_task_site_and_stack, 0, 4);
	tcase_add_test(stacks, the_frames_are_those_of_the_task);
	tcase_add_test(stacks, an_overflow_on_another_worker_is_reported_too);
	suite_add_tcase(suite, stacks);
	TCase *faults = tcase_create("other_faults");
	tcase_set_timeout(faults, 20);
	tcase_add_loop_test(faults, another_fault_dies_of_its_signal_without_a_report, 0, 3);
	tcase_add_test(faults, an_earlier_handler_gets_the_other_faults);
	tcase_add_test(faults, an_earlier_handler_gets_the_faults_of_blocking_calls);
	tcase_add_test(faults, an_earlier_handler_gets_an_overflow_after_the_report);
	tcase_add_test(faults, an_ignored_signal_that_is_sent_stays_ignored);
	suite_add_tcase(suite, faults);
	TCase *signal_stacks = tcase_create("signal_stacks");
	tcase_add_test(signal_stacks, a_detached_thread_has_the_signal_stack_it_had);
	suite_add_tcase(suite, signal_stacks);
	TCase *asserts = tcase_create("asserts");
	tcase_add_test(asserts, a_failed_assert_reports_the_task_and_aborts);
	tcase_add_test(asserts, a_failed_assert_outside_tasks_reports_without_one);
	tcase_add_test(asserts, an_offset_counts_from_the_start_of_its_module);
	tcase_add_loop_test(asserts, a_damaged_chain_ends_the_frames_and_not_the_report, 0, 6);
	tcase_add_test(asserts, a_true_assert_is_evaluated_once_and_a_debug_one_by_level);
	suite_add_tcase(suite, asserts);
	return suite;
}
