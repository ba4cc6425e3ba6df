/* SPDX-License-Identifier: MIT */
/*
 * file_test.h: what the suites of files share.
 */
#ifndef TESTS_FILE_TEST_H
#define TESTS_FILE_TEST_H

#include <unistd.h>

#include "tests/descriptors.h"
#include "tests/runtime_test.h"

/* A name of this process's own, in turn out of four. */
static inline const char *name_of(const char *what)
{
	static char names[4][64];
	static unsigned next;
	char *name = names[next++ % 4];

	snprintf(name, sizeof names[0], "/tmp/weir-test-%d-%s", (int)getpid(), what);
	return name;
}

/* Runs fn on two workers; no descriptor is left. */
static inline void run_file_test(weir_fn fn)
{
	int before = count_descriptors();

	run_on(2, fn, NULL);
	ck_assert_int_eq(count_descriptors(), before);
}

#endif
