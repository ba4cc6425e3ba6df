/* SPDX-License-Identifier: MIT */
/*
 * bench_waste: what rounding up costs, weir's classes and everybody else's.
 *
 *   bench_waste          a table
 *   bench_waste --csv    the same as comma-separated values
 *
 * For each distribution of sizes 20,000 requests are made, always the same ones, and the waste is
 * what lies in the blocks beyond what was asked for: 1 - asked / usable, all requests together, and
 * for the worst of them. Blocks are freed at once: this is about rounding, not about
 * fragmentation. Rivals answer malloc_usable_size() and are put under this program with LD_PRELOAD;
 * the ones not installed are left out. glibc's 8 bytes of header are not in its figure.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/weir.h>

#include "bench.h"

enum { REQUESTS = 20000, COLUMNS = 6 };

static uint64_t state;

/* xorshift64, and the same sequence in every process */
static double uniform(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (double)(state >> 11) / (double)(1ull << 53);
}

/* Between the two, each doubling as likely as the next. */
static size_t log_uniform(unsigned from_bit, double doublings)
{
	double at = uniform() * doublings;
	unsigned whole = (unsigned)at;
	double base = (double)((size_t)1 << (from_bit + whole));
	return (size_t)(base * (1 + (at - whole)));
}

static size_t graded(unsigned i)
{
	static const size_t kib[] = { 63, 64, 65, 512, 1024, 2048, 0, 10240 };
	return kib[i % 8] != 0 ? kib[i % 8] << 10 : (2u << 20) + 1;
}

static size_t size_of(int column, unsigned i)
{
	switch (column) {
	case 0:
		return 1024 + i % 4096;
	case 1:
		return log_uniform(4, 12);
	case 2:
		return (8 << 10) + (size_t)(uniform() * (56 << 10));
	case 3:
		return log_uniform(16, 7.32);
	case 4:
		return ((size_t)1 << (6 + i % 11)) + (size_t)(uniform() * 256);
	default:
		return graded(i);
	}
}

static const char *const column_names[COLUMNS] = { "1-5 KB",	  "16 B-64 KB", "8-64 KB",
						   "64 KB-10 MB", "2^k + 256",	"graded rows" };

struct waste {
	double together, worst;
};

static struct waste measure(int column, bool weir)
{
	double asked = 0, given = 0, worst = 0;
	state = 88172645463325252u;
	for (unsigned i = 0; i < REQUESTS; i++) {
		size_t size = size_of(column, i);
		void *block = weir ? weir_alloc(size) : malloc(size);
		if (block == NULL)
			continue;
		double room = (double)(weir ? weir_usable_size(block) : malloc_usable_size(block));
		if (weir)
			weir_free(block);
		else
			free(block);
		asked += (double)size;
		given += room;
		if (1 - (double)size / room > worst)
			worst = 1 - (double)size / room;
	}
	return (struct waste){ 1 - asked / given, worst };
}

static void print_row(const char *name, bool csv, bool weir)
{
	printf(csv ? "%s" : "%-16s", name);
	for (int i = 0; i < COLUMNS; i++) {
		struct waste w = measure(i, weir);
		printf(csv ? ",%.3f,%.3f" : " %6.1f (%4.1f)", 100 * w.together, 100 * w.worst);
	}
	putchar('\n');
	fflush(stdout);
}

struct row {
	const char *name;
	bool csv;
};

static int weir_row(void *arg)
{
	const struct row *row = arg;
	print_row(row->name, row->csv, true);
	return 0;
}

/* ---- One process for each ------------------------------------------------------------------- */

static const char *const presets[] = { "geom4", "pow2", "zokio", "grpc", "graded" };

static const struct {
	const char *name, *library;
} rivals[] = {
	{ "glibc", NULL },
	{ "jemalloc", "libjemalloc.so.2" },
	{ "mimalloc", "libmimalloc.so.2" },
	{ "tcmalloc", "libtcmalloc_minimal.so.4" },
};

static bool installed(const char *library)
{
	char path[200];
	snprintf(path, sizeof(path), "/usr/lib/x86_64-linux-gnu/%s", library);
	if (access(path, R_OK) == 0)
		return true;
	snprintf(path, sizeof(path), "/usr/lib/aarch64-linux-gnu/%s", library);
	return access(path, R_OK) == 0;
}

/* The same program again, for one row. */
static void run(char *self, const char *variable, const char *value, const char *name, bool csv)
{
	char *argv[] = { self, "--row", (char *)(uintptr_t)name, csv ? "--csv" : NULL, NULL };
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		if (value != NULL)
			setenv(variable, value, 1);
		execv("/proc/self/exe", argv);
		_exit(1);
	}
	if (child > 0)
		waitpid(child, NULL, 0);
}

static int one_row(const char *name, bool csv)
{
	struct row row = { name, csv };
	if (strncmp(name, "weir", 4) == 0)
		return weir_run(weir_row, &row, .workers = 1) < 0;
	print_row(name, csv, false);
	return 0;
}

static void print_head(bool csv)
{
	printf(csv ? "allocator" : "%-16s", "waste %, (worst)");
	for (int i = 0; i < COLUMNS; i++)
		printf(csv ? ",%s,worst" : " %13s", column_names[i]);
	putchar('\n');
}

int main(int argc, char **argv)
{
	bool csv = argc > 1 && strcmp(argv[argc - 1], "--csv") == 0;
	char name[40];
	if (argc > 2 && strcmp(argv[1], "--row") == 0)
		return one_row(argv[2], csv);
	bench_machine_line(stdout, "# ");
	print_head(csv);
	for (size_t i = 0; i < sizeof(presets) / sizeof(*presets); i++) {
		snprintf(name, sizeof(name), "weir %s", presets[i]);
		run(argv[0], "WEIR_POOL_CLASSES", presets[i], name, csv);
	}
	for (size_t i = 0; i < sizeof(rivals) / sizeof(*rivals); i++)
		if (rivals[i].library == NULL || installed(rivals[i].library))
			run(argv[0], "LD_PRELOAD", rivals[i].library, rivals[i].name, csv);
	return 0;
}
