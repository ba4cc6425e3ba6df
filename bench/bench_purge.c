/* SPDX-License-Identifier: MIT */
/*
 * bench_purge: what giving memory back costs, and what it gives, by policy.
 *
 *   bench_purge            a table
 *   bench_purge --csv      the same as comma-separated values
 *   bench_purge --rounds 5
 *
 * One round: 128 MiB of blocks of 256 KiB are filled and freed, then the worker is idle until the
 * decay has done its part. "fill" is the time to allocate and fill a MiB after such a rest, against
 * which the fill of memory that was kept is the ideal; "system" is the system time of a whole
 * round, idle part included, per MiB; "resident" is what is left at rest, of which the kernel can
 * take "lazy" at any time. A policy is its variables: every row is a process of its own.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/weir.h>

#include "bench.h"

enum { MIB = 1 << 20, BLOCK_BYTES = 256 << 10, BLOCKS = 512, ROUNDS_MAX = 31 };
enum { FILLED_MIB = BLOCKS / (MIB / BLOCK_BYTES) };

static const struct policy {
	const char *name;
	const char *variables[4][2];
} policies[] = {
	{ "kept (no decay)", { { "WEIR_MEM_DECAY_MS", "3600000" } } },
	{ "dontneed", { { "WEIR_MEM_DECAY_MS", "200" } } },
	{ "free", { { "WEIR_MEM_DECAY_MS", "200" }, { "WEIR_MEM_PURGE", "free" } } },
	{ "dontneed, huge pages",
	  { { "WEIR_MEM_DECAY_MS", "200" }, { "WEIR_MEM_HUGE_PAGES", "always" } } },
	{ "free, huge pages",
	  { { "WEIR_MEM_DECAY_MS", "200" },
	    { "WEIR_MEM_PURGE", "free" },
	    { "WEIR_MEM_HUGE_PAGES", "always" } } },
};

struct result {
	double fill_us, system_us;   /* medians, for a MiB */
	double resident, lazy, huge; /* MiB; huge: at the peak */
};

static unsigned rounds = 5;

static double rollup_mib(const char *figure)
{
	char line[256];
	double kib = 0;
	size_t n = strlen(figure);
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, figure, n) == 0 && line[n] == ':')
			kib = atof(line + n + 1);
	if (file != NULL)
		fclose(file);
	return kib / 1024;
}

static double system_us(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_stime.tv_sec * 1e6 + (double)usage.ru_stime.tv_usec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[n / 2];
}

/* Returns the nanoseconds that filling took. */
static double burst(double *ret_huge)
{
	static char *block[BLOCKS];
	int64_t start = weir_now();
	for (int i = 0; i < BLOCKS; i++) {
		block[i] = weir_alloc(BLOCK_BYTES);
		if (block[i] == NULL)
			return 0;
		memset(block[i], i, BLOCK_BYTES);
		if (i % 16 == 0)
			weir_yield();
	}
	double took = (double)(weir_now() - start);
	*ret_huge = rollup_mib("AnonHugePages");
	for (int i = 0; i < BLOCKS; i++)
		weir_free(block[i]);
	return took;
}

static int measure(void *arg)
{
	struct result *result = arg;
	double fill[ROUNDS_MAX], spent[ROUNDS_MAX];
	(void)burst(&result->huge); /* the first has no rest before it */
	for (unsigned i = 0; i < rounds; i++) {
		double before = system_us();
		int err = weir_sleep(6 * WEIR_SEC);
		if (err < 0)
			return err;
		result->resident = rollup_mib("Anonymous");
		result->lazy = rollup_mib("LazyFree");
		fill[i] = burst(&result->huge) / 1e3 / FILLED_MIB;
		spent[i] = (system_us() - before) / FILLED_MIB;
	}
	result->fill_us = median(fill, rounds);
	result->system_us = median(spent, rounds);
	return 0;
}

/* In a child: variables are read once, and memory starts anew. */
static bool run(const struct policy *policy, struct result *ret)
{
	int fds[2];
	if (pipe(fds) < 0)
		return false;
	pid_t child = fork();
	if (child == 0) {
		struct result result = { 0 };
		for (int i = 0; i < 4 && policy->variables[i][0] != NULL; i++)
			setenv(policy->variables[i][0], policy->variables[i][1], 1);
		int err = weir_run(measure, &result, .workers = 1);
		bool sent = err == 0 && write(fds[1], &result, sizeof(result)) == sizeof(result);
		_exit(sent ? 0 : 1);
	}
	close(fds[1]);
	bool got = child > 0 && read(fds[0], ret, sizeof(*ret)) == sizeof(*ret);
	close(fds[0]);
	return child > 0 && waitpid(child, NULL, 0) == child && got;
}

int main(int argc, char **argv)
{
	bool csv = false, failed = false;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--csv") == 0)
			csv = true;
		else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
			rounds = (unsigned)atoi(argv[++i]);
		else
			rounds = 0;
	}
	if (rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: bench_purge [--csv] [--rounds 1..%d]\n", ROUNDS_MAX);
		return 2;
	}
	bench_machine_line(stdout, "# ");
	puts(csv ? "policy,fill_us_per_mib,system_us_per_mib,resident_mib,lazy_mib,huge_mib"
		 : "policy                  fill us/MiB  system us/MiB  resident MiB  lazy MiB  "
		   "huge at peak");
	for (size_t i = 0; i < sizeof(policies) / sizeof(*policies); i++) {
		struct result r;
		if (!run(&policies[i], &r)) {
			failed = true;
			continue;
		}
		printf(csv ? "\"%s\",%.1f,%.1f,%.1f,%.1f,%.1f\n"
			   : "%-22s %12.1f %14.1f %13.1f %9.1f %13.1f\n",
		       policies[i].name, r.fill_us, r.system_us, r.resident, r.lazy, r.huge);
		fflush(stdout);
	}
	return failed;
}
