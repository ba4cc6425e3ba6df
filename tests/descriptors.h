/* SPDX-License-Identifier: MIT */
/*
 * descriptors.h: how many descriptors are open, to see that none is left.
 */
#ifndef TESTS_DESCRIPTORS_H
#define TESTS_DESCRIPTORS_H

#include <check.h>
#include <dirent.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/*
 * The library looks into /proc and /sys at any time and on any thread: files open for a moment,
 * nobody's leak. The one it keeps is the trigger of stalls on memory, named after pressure.
 */
static inline bool is_a_look(const char *opened)
{
	return (strncmp(opened, "/proc/", 6) == 0 || strncmp(opened, "/sys/", 5) == 0) &&
	       !strstr(opened, "pressure");
}

static inline int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char opened[256];
	int count = 0;

	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir)) != NULL) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, opened, sizeof opened - 1);
		opened[n > 0 ? n : 0] = '\0';
		count += n > 0 && !is_a_look(opened);
	}
	closedir(dir);
	return count;
}

#endif
