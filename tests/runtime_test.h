/* SPDX-License-Identifier: MIT */
/*
 * runtime_test.h: what the suites of the runtime share. They see tasks as a program does: through
 * weir_run(), on the driver that WEIR_DRIVER names.
 */
#ifndef TESTS_RUNTIME_TEST_H
#define TESTS_RUNTIME_TEST_H

#include <check.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <weir/weir.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TESTS_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TESTS_SLOW 1
#endif
#endif
#ifndef TESTS_SLOW
#define TESTS_SLOW 0
#endif

static inline bool is_simulated(void)
{
	const char *driver = getenv("WEIR_DRIVER");

	return driver && strcmp(driver, "sim") == 0;
}

/*
 * How often a stress loop goes round: less where every access is checked, where a seed does what
 * elsewhere chance has to do, and where TESTS_BRIEF says that it is done in full elsewhere.
 */
#define ROUNDS(n) (TESTS_SLOW || is_simulated() || getenv("TESTS_BRIEF") ? ((n) + 19) / 20 : (n))

/* Whether a stack's guard takes no mapping of its own: since Linux 6.13. */
static inline bool guards_are_free(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool are = page != MAP_FAILED && madvise(page, 4096, 102 /* MADV_GUARD_INSTALL */) == 0;

	if (page != MAP_FAILED)
		munmap(page, 4096);
	return are;
}

/* For loops: Check writes down every assertion that is passed, which takes microseconds. */
#define expect(condition)                                                                          \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ck_abort_msg("%s", #condition);                                            \
	} while (0)

/* Runs fn(arg) on so many workers; it must end well. */
#define run_on(count, fn, arg)                                                                     \
	ck_assert_int_eq(weir_run((fn), (arg), .workers = (count), .signals_ignored = true), 0)

/* For tests in a loop: another seed every time, WEIR_TEST_SEED repeats one. */
static inline uint64_t test_seed(void)
{
	const char *given = getenv("WEIR_TEST_SEED");
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	uint64_t seed = given ? strtoull(given, NULL, 0)
			      : (uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec;
	fprintf(stderr, "WEIR_TEST_SEED=%llu\n", (unsigned long long)seed);
	return seed | 1;
}

/* xorshift64 */
static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Computes for so long: does not park, and does not tell the worker what time it is. */
static inline void compute(int64_t ns)
{
	int64_t end = weir_now() + ns;

	while (weir_now() < end)
		;
}

/*
 * In a loop that holds its worker until another thread has done something. Simulated workers are
 * one thread: another has its turn where the clock is read, and giving up the CPU as well would be
 * a wait for every other process of the machine.
 */
static inline void spin(void)
{
	(void)weir_now();
	if (!is_simulated())
		(void)sched_yield();
}

enum { STRESS_S = 2 };

/*
 * A stress loop goes round ROUNDS(n) times, or for two seconds in all where its test is short of
 * CPU: what a round needs, others to be woken, can then take a thousand times as long.
 */
static inline bool is_stressed(unsigned round, unsigned n)
{
	static _Atomic int64_t end_ns; /* of the process, which Check makes for one test */

	if (round == 0 && end_ns == 0)
		end_ns = weir_now() + STRESS_S * WEIR_SEC;
	return round < (unsigned)ROUNDS(n) && (round < 10 || weir_now() < end_ns);
}

/* Gives up on the first error inside a task; the runner sees it as weir_run()'s result. */
#define TRY(call)                                                                                  \
	do {                                                                                       \
		int try_err = (call);                                                              \
		if (try_err < 0)                                                                   \
			return try_err;                                                            \
	} while (0)

#endif
