/* SPDX-License-Identifier: MIT */
/*
 * runtime_test.h: what the suites of the runtime share. They see tasks as a program does: through
 * weir_run(), on the driver that WEIR_DRIVER names.
 */
#ifndef TESTS_RUNTIME_TEST_H
#define TESTS_RUNTIME_TEST_H

#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

/* How often a stress loop goes round: less where every access is checked. */
#define ROUNDS(n) (TESTS_SLOW ? ((n) + 19) / 20 : (n))

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

/* Computes for so long: neither parks nor looks at the runtime's clock. */
static inline void compute(int64_t ns)
{
	struct timespec now;
	int64_t end = 0;

	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (!end)
			end = now.tv_sec * WEIR_SEC + now.tv_nsec + ns;
	} while (now.tv_sec * WEIR_SEC + now.tv_nsec < end);
}

/* Gives up on the first error inside a task; the runner sees it as weir_run()'s result. */
#define TRY(call)                                                                                  \
	do {                                                                                       \
		int try_err = (call);                                                              \
		if (try_err < 0)                                                                   \
			return try_err;                                                            \
	} while (0)

#endif
