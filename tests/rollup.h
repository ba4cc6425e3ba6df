/* SPDX-License-Identifier: MIT */
/*
 * rollup.h: the memory of this process, as the kernel counts it.
 */
#ifndef TESTS_ROLLUP_H
#define TESTS_ROLLUP_H

#include <check.h>
#include <stdio.h>
#include <string.h>

/* A figure of /proc/self/smaps_rollup, in bytes. */
static inline size_t rollup(const char *figure)
{
	char line[256];
	unsigned long kib = 0;
	size_t n = strlen(figure);
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, figure, n) == 0 && line[n] == ':')
			ck_assert_int_eq(sscanf(line + n + 1, " %lu kB", &kib), 1);
	fclose(file);
	return kib * 1024;
}

#endif
