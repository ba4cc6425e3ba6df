/* SPDX-License-Identifier: MIT */
/*
 * child.h: runs a function in a child, to see what it says on standard error and how it ends.
 */
#ifndef TESTS_CHILD_H
#define TESTS_CHILD_H

#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/send_signal.h"

/* What the last child wrote to standard error. */
static char said[1 << 15];

/*
 * Runs fn(arg); 0 makes the child end with status 0, another value with exit code 99. Leaves no
 * core.
 */
static inline int end_of(int (*fn)(void *), void *arg)
{
	const struct rlimit no_core = { 0, 0 };
	int fds[2], status;
	size_t len = 0;
	ssize_t got;
	ck_assert_int_eq(pipe(fds), 0);
	fflush(NULL);
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		dup2(fds[1], STDERR_FILENO);
		_exit(fn(arg) == 0 ? 0 : 99);
	}
	close(fds[1]);
	while ((got = read(fds[0], said + len, sizeof(said) - 1 - len)) > 0)
		len += (size_t)got;
	said[len] = '\0';
	close(fds[0]);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return status;
}

/* Returns where it stands in what was said. */
static inline const char *assert_said(const char *wanted)
{
	const char *at = strstr(said, wanted);
	ck_assert_msg(at != NULL, "no \"%s\" in:\n%s", wanted, said);
	return at;
}

static inline void assert_not_said(const char *unwanted)
{
	ck_assert_msg(strstr(said, unwanted) == NULL, "\"%s\" in:\n%s", unwanted, said);
}

#endif
