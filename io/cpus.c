/* SPDX-License-Identifier: MIT */
/*
 * cpus.c: the affinity mask and the CPU quotas of the cgroups the process is in.
 *
 * A quota binds everything below it, so each level up to the root is asked; what cannot be read
 * limits nothing. In a container the path of the cgroup may not exist in what is mounted: then the
 * root, which is asked last, is the container's own.
 */
#include "io/cpus.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "runtime/affinity.h"

enum { CPUS_MAX = 256 };

/* quota in units of period, rounded up; no limit (UINT_MAX) when either is not positive. */
static unsigned cpus_of(long long quota, long long period)
{
	if (quota <= 0 || period <= 0)
		return UINT_MAX;
	long long cpus = quota / period + (quota % period > 0);
	return cpus < UINT_MAX ? (unsigned)cpus : UINT_MAX;
}

static FILE *open_in(const char *directory, const char *name)
{
	char path[PATH_MAX];
	int len = snprintf(path, sizeof path, "%s/%s", directory, name);

	return len < (int)sizeof path ? fopen(path, "re") : NULL;
}

static long long read_number(const char *directory, const char *name)
{
	FILE *file = open_in(directory, name);
	long long number = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%lld", &number) != 1)
		number = 0;
	(void)fclose(file);
	return number;
}

static unsigned quota_v2(const char *directory)
{
	FILE *file = open_in(directory, "cpu.max");
	long long quota = 0, period = 0;

	if (!file)
		return UINT_MAX;
	if (fscanf(file, "%lld %lld", &quota, &period) != 2) /* "max 100000" */
		quota = 0;
	(void)fclose(file);
	return cpus_of(quota, period);
}

static unsigned quota_v1(const char *directory)
{
	return cpus_of(read_number(directory, "cpu.cfs_quota_us"),
		       read_number(directory, "cpu.cfs_period_us"));
}

/* The least of what `quota` says of mount + path and of every directory above it. */
static unsigned least(const char *mount, const char *path, unsigned (*quota)(const char *))
{
	char directory[PATH_MAX];
	size_t root = strlen(mount);
	unsigned count = UINT_MAX;

	if (snprintf(directory, sizeof directory, "%s%s", mount, path) >= (int)sizeof directory)
		return count;
	for (;;) {
		unsigned here = quota(directory);
		count = here < count ? here : count;
		char *slash = strrchr(directory, '/');
		if (!slash || slash < directory + root)
			return count;
		*slash = '\0';
	}
}

/* Is `name` one of the words between commas? */
static int is_listed(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = list; (at = strstr(at, name)) != NULL; at += len)
		if ((at == list || at[-1] == ',') && (at[len] == ',' || at[len] == '\0'))
			return 1;
	return 0;
}

/* One line of /proc/self/cgroup, "4:cpu,cpuacct:/path" or "0::/path"; spoils it. */
static unsigned quota_of_line(const char *root, char *line)
{
	char mount[PATH_MAX];
	char *controllers = strchr(line, ':');
	char *path = controllers ? strchr(controllers + 1, ':') : NULL;

	if (!path)
		return UINT_MAX;
	*controllers++ = *path++ = '\0';
	path[strcspn(path, "\n")] = '\0';
	if (*controllers == '\0') {
		snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
		return least(mount, path, quota_v2);
	}
	if (!is_listed(controllers, "cpu"))
		return UINT_MAX;
	snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, controllers);
	unsigned by_list = least(mount, path, quota_v1);
	snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/cpu", root);
	unsigned by_name = least(mount, path, quota_v1);
	return by_list < by_name ? by_list : by_name;
}

static unsigned quota_now(const char *root)
{
	FILE *file = open_in(root, "proc/self/cgroup");
	char line[PATH_MAX];
	unsigned count = UINT_MAX;

	if (!file)
		return count;
	while (fgets(line, sizeof line, file)) {
		unsigned here = quota_of_line(root, line);
		count = here < count ? here : count;
	}
	(void)fclose(file);
	return count;
}

unsigned weir__cpus_count(const char *root)
{
	unsigned count = weir__affinity_count_own(), quota = quota_now(root);

	count = quota < count ? quota : count;
	count = count > 0 ? count : 1;
	return count < CPUS_MAX ? count : CPUS_MAX;
}
