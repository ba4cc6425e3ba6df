/* SPDX-License-Identifier: MIT */
/*
 * send_signal.h: signals to another process, each of which arrives: two of a kind that wait
 * together are one. ThreadSanitizer takes a signal at once and has the handler run later, at a call
 * it knows; of that nothing can be seen from outside, so there it is given time.
 */
#ifndef TESTS_SEND_SIGNAL_H
#define TESTS_SEND_SIGNAL_H

#include <check.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

/* TSan lets a signal through only at calls it knows: a loop that computes cannot be interrupted. */
#if defined(__SANITIZE_THREAD__)
#define SIGNALS_COME 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIGNALS_COME 0
#endif
#endif
#ifndef SIGNALS_COME
#define SIGNALS_COME 1
#endif

/* Whether a signal sent to the process waits for a thread that takes it. */
static inline bool is_pending(pid_t pid, int number)
{
	unsigned long long pending = 0;
	char path[64], line[128];

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *status = fopen(path, "r");
	while (status != NULL && fgets(line, sizeof(line), status) != NULL)
		if (sscanf(line, "ShdPnd: %llx", &pending) == 1)
			break;
	if (status != NULL)
		fclose(status);
	return pending >> (number - 1) & 1;
}

static inline void send_signal(pid_t pid, int number)
{
	ck_assert_int_eq(kill(pid, number), 0);
	while (is_pending(pid, number))
		usleep(1000);
	if (!SIGNALS_COME)
		usleep(100000);
}

#endif
