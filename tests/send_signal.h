/* SPDX-License-Identifier: MIT */
/*
 * send_signal.h: signals to another process, each of which arrives: two of a kind that wait
 * together are one.
 */
#ifndef TESTS_SEND_SIGNAL_H
#define TESTS_SEND_SIGNAL_H

#include <check.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

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
}

#endif
