/* SPDX-License-Identifier: MIT */
/*
 * bench.h: the harness of the microbenchmarks.
 *
 * A benchmark is a function that does something many times and returns how many; the harness times
 * it. In each round all benchmarks run one after another, so that a slow minute of the machine
 * falls on all of them alike; and each runs twice, of which the second counts, because the one
 * before it has left its own data in the caches. A figure is nanoseconds of wall time per
 * operation: the minimum, which is what the code can do, and the median, which is what it does
 * here.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define BENCH_COUNT_MAX	 64
#define BENCH_ROUNDS_MAX 101

/* Returns the operations done; 0 says that it failed, and its row is left out. */
typedef uint64_t (*bench_fn)(void *arg);

struct bench_case {
	const char *name;
	bench_fn fn;
	void *arg;
	double ns[BENCH_ROUNDS_MAX]; /* per operation, by round */
	bool failed;
};

struct bench {
	const char *program; /* the first CSV column after the name */
	unsigned rounds;     /* 7 */
	bool csv;
	const char *filter; /* only names that contain it; NULL: all */
	unsigned count;
	struct bench_case cases[BENCH_COUNT_MAX];
};

/*
 * Reads --rounds N, --csv and a filter from the command line, which is borrowed. Prints the usage
 * and exits when they do not parse.
 */
void bench_init(struct bench *b, const char *program, int argc, char **argv);

/* Adds a benchmark unless the filter leaves it out. `name` and `arg` are borrowed. */
void bench_add(struct bench *b, const char *name, bench_fn fn, void *arg);

/* Runs them all; parks when the benchmarks do. */
void bench_run(struct bench *b);

/* Prints the machine line and a row for each; sorts the rounds. Returns 1 when a benchmark failed,
 * else 0. */
int bench_report(struct bench *b);

/* CPU, kernel, compiler and the revision the build was made of, in one line with `prefix` before
 * it. */
void bench_machine_line(FILE *out, const char *prefix);

int64_t bench_now_ns(void);

#endif
