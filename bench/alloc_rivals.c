/* SPDX-License-Identifier: MIT */
/*
 * alloc_rivals.c: who is compared, where their libraries are, and how a process of theirs is
 * started.
 */
#define _GNU_SOURCE
#include "alloc_rivals.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

const struct alloc_rival alloc_rivals[ALLOC_RIVALS] = {
	{ "weir", NULL, ALLOC_WEIR, true },
	{ "weir-sized", NULL, ALLOC_SIZED, true },
	{ "weir-malloc", "libweir-malloc.so", ALLOC_LIBC, true },
	{ "glibc", NULL, ALLOC_LIBC, false },
	{ "jemalloc", "libjemalloc.so.2", ALLOC_LIBC, false },
	{ "mimalloc", "libmimalloc.so.2", ALLOC_LIBC, false },
	{ "tcmalloc", "libtcmalloc_minimal.so.4", ALLOC_LIBC, false },
};

static const char *only; /* the allocator that --allocator names; NULL: all */

static const char *const kinds[] = { "libc", "weir", "sized" };

static int usage(const char *program, const char *modes)
{
	fprintf(stderr, "usage: %s [--rounds 1..%d] [--csv] [--quick] [--allocator NAME]%s%s\n",
		program, ALLOC_ROUNDS_MAX, modes == NULL ? "" : " ", modes == NULL ? "" : modes);
	return -1;
}

int alloc_options_read(struct alloc_options *ret, int argc, char **argv, const char *modes)
{
	*ret = (struct alloc_options){ .rounds = 9 };
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--csv") == 0)
			ret->csv = true;
		else if (strcmp(argv[i], "--quick") == 0)
			ret->quick = true, ret->rounds = 3;
		else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
			ret->rounds = (unsigned)atoi(argv[++i]);
		else if (strcmp(argv[i], "--allocator") == 0 && i + 1 < argc)
			only = argv[++i];
		else if (strcmp(argv[i], "--one") == 0 && i + 1 < argc)
			ret->one = argv[++i];
		else if (modes != NULL && argv[i][0] != '-' && ret->mode == NULL)
			ret->mode = argv[i];
		else
			return usage(argv[0], modes);
	}
	bool sane = ret->rounds >= 1 && ret->rounds <= ALLOC_ROUNDS_MAX;
	return sane ? 0 : usage(argv[0], modes);
}

enum alloc_kind alloc_kind_of(const char *name)
{
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strcmp(name, kinds[i]) == 0)
			return (enum alloc_kind)i;
	return ALLOC_LIBC;
}

static const char *self(void)
{
	static char path[4096];
	if (path[0] == '\0' && readlink("/proc/self/exe", path, sizeof(path) - 1) < 0)
		path[0] = '\0';
	return path;
}

/* Where the dynamic linker would find it; empty: nowhere. */
static void library_path(const char *library, char *ret, size_t room)
{
	static const char *const directories[] = { "/usr/lib/x86_64-linux-gnu", "/usr/lib64",
						   "/usr/lib/aarch64-linux-gnu", "/usr/lib",
						   "/usr/local/lib" };
	const char *slash = strrchr(self(), '/');
	int length = slash == NULL ? 0 : (int)(slash - self());
	snprintf(ret, room, "%.*s/../%s", length, self(), library); /* beside the build directory */
	for (size_t i = 0; access(ret, R_OK) != 0; i++) {
		ret[0] = '\0';
		if (i == sizeof(directories) / sizeof(*directories))
			return;
		snprintf(ret, room, "%s/%s", directories[i], library);
	}
}

bool alloc_rival_is_here(size_t rival)
{
	char path[4096];
	if (only != NULL && strcmp(only, alloc_rivals[rival].name) != 0)
		return false;
	if (alloc_rivals[rival].library == NULL)
		return true;
	library_path(alloc_rivals[rival].library, path, sizeof(path));
	return path[0] != '\0';
}

FILE *alloc_rival_run(size_t rival, const struct alloc_options *options)
{
	char path[4096] = "", command[9000];
	if (alloc_rivals[rival].library != NULL)
		library_path(alloc_rivals[rival].library, path, sizeof(path));
	snprintf(command, sizeof(command), "LD_PRELOAD='%s' exec '%s' --one %s%s '%s'", path,
		 self(), kinds[alloc_rivals[rival].kind], options->quick ? " --quick" : "",
		 options->mode == NULL ? "" : options->mode);
	return popen(command, "re");
}

void alloc_run_on(long cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

double alloc_clock_ns(int clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int alloc_by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

void alloc_print_machine(const char *mark)
{
	bench_machine_line(stdout, mark);
}
