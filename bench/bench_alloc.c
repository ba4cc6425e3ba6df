/* SPDX-License-Identifier: MIT */
/*
 * bench_alloc: the time of alloc and free, weir's and everybody else's.
 *
 *   bench_alloc                  all loops, all allocators found here, a table of 9 rounds
 *   bench_alloc --csv            the same as comma-separated values
 *   bench_alloc --quick          a tenth of the operations, 3 rounds
 *   bench_alloc --allocator weir only that one
 *   bench_alloc "64 B"           only the loops whose names contain that
 *
 * Every figure comes from a process of its own, pinned to one CPU, that warms up and then measures
 * by thread CPU time; what the warm-up took is the column cold_ns of the CSV: with the first pages
 * and the first spans in it. Allocators take turns within a round, so that a slow minute of the
 * machine is everybody's. Rivals are put under the same malloc loops with LD_PRELOAD; the ones not
 * installed are left out. One operation is an alloc, a touch of the first and last byte (or a
 * memset where the name says so), and a free; `live` is how many blocks are out at a time, oldest
 * freed first. In "freed elsewhere" one thread allocates and another, on the other CPU, frees:
 * there the time is that of the wall.
 *
 * The loops are those of two documents: 64 B, 8 to 256 B in turn and 1,024 + i % 4,096 bytes from
 * an analysis of a runtime's allocator, which has one block live and pools filled before the clock
 * starts; the eight sizes from 63 KB to 10 MB from one about graded buffer pools. Random is what
 * neither has: sizes and ages without any order.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

#include "alloc_rivals.h"

enum { LIVE_MAX = 1024 };

/* ---- Loops ---------------------------------------------------------------------------------- */

static inline size_t size_fixed(size_t i)
{
	(void)i;
	return 64;
}
static inline size_t size_mixed(size_t i)
{
	return (size_t)8 << i % 6;
}
static inline size_t size_1k_5k(size_t i)
{
	return 1024 + (i & 4095);
}
/* The requests of the graded-pools problem, in turn. */
static inline size_t size_graded(size_t i)
{
	static const size_t kib[8] = { 63, 64, 65, 512, 1024, 2048, 2049, 10240 };
	return kib[i & 7] << 10;
}

static inline size_t size_powers(size_t i)
{
	return (size_t)512 << i % 5;
}
static inline size_t size_small(size_t i)
{
	return 8 + i * 37 % 249;
}
static inline size_t size_middle(size_t i)
{
	return 256 + i * 37 % 769;
}
static inline size_t size_large(size_t i)
{
	return 1024 + i * 37 % 7169;
}

static inline void touch(char *p, size_t size)
{
	*(volatile char *)p = 1;
	*(volatile char *)(p + size - 1) = 1;
}
/*
 * By the C library's function, as where a size comes from outside. Where gcc sees its range it
 * makes `rep stos` of it, whose start takes longer than an alloc and a free.
 */
static inline void clear(char *p, size_t size)
{
	static void *(*volatile set)(void *, int, size_t) = memset;
	set(p, 0, size);
}

/* A ring of `live` blocks: each operation frees the oldest and allocates one in its place. */
#define LOOP(name, alloc, dealloc, size_of, use)                                                   \
	static void name(size_t ops, size_t live)                                                  \
	{                                                                                          \
		static char *ring[LIVE_MAX];                                                       \
		static size_t sizes[LIVE_MAX];                                                     \
		size_t at = 0, waiting = live - 1;                                                 \
		for (size_t i = 0; i < waiting; i++) {                                             \
			ring[i] = alloc(sizes[i] = size_of(i));                                    \
			use(ring[i], size_of(i));                                                  \
		}                                                                                  \
		for (size_t i = 0; i < ops; i++) {                                                 \
			size_t size = size_of(i);                                                  \
			char *p = alloc(size);                                                     \
			use(p, size);                                                              \
			if (live == 1) {                                                           \
				dealloc(p, size);                                                  \
				continue;                                                          \
			}                                                                          \
			dealloc(ring[at], sizes[at]);                                              \
			ring[at] = p;                                                              \
			sizes[at] = size;                                                          \
			at = at + 1 == waiting ? 0 : at + 1;                                       \
		}                                                                                  \
		for (size_t i = 0; i < waiting; i++)                                               \
			dealloc(ring[i], sizes[i]);                                                \
	}

/* 1,000 live, every other one freed, and into the holes one at a time. */
#define HOLES(name, alloc, dealloc)                                                                \
	static void name(size_t ops, size_t live)                                                  \
	{                                                                                          \
		static char *kept[LIVE_MAX];                                                       \
		for (size_t i = 0; i < live; i++)                                                  \
			kept[i] = alloc(64);                                                       \
		for (size_t i = 0; i < live; i += 2)                                               \
			dealloc(kept[i], 64);                                                      \
		for (size_t i = 0; i < ops; i++) {                                                 \
			char *p = alloc(64);                                                       \
			touch(p, 64);                                                              \
			dealloc(p, 64);                                                            \
		}                                                                                  \
		for (size_t i = 1; i < live; i += 2)                                               \
			dealloc(kept[i], 64);                                                      \
	}

/* Each operation frees a block of any age and puts one of any size, 1 to 1,000 bytes, in its place.
 */
#define RANDOM(name, alloc, dealloc)                                                               \
	static void name(size_t ops, size_t live)                                                  \
	{                                                                                          \
		static char *ring[LIVE_MAX];                                                       \
		static size_t sizes[LIVE_MAX];                                                     \
		uint32_t state = 12345;                                                            \
		for (size_t i = 0; i < live; i++)                                                  \
			ring[i] = alloc(sizes[i] = 1 + next_random(&state) % 1000);                \
		for (size_t i = 0; i < ops; i++) {                                                 \
			size_t at = next_random(&state) % live;                                    \
			dealloc(ring[at], sizes[at]);                                              \
			sizes[at] = 1 + next_random(&state) % 1000;                                \
			ring[at] = alloc(sizes[at]);                                               \
			touch(ring[at], sizes[at]);                                                \
		}                                                                                  \
		for (size_t i = 0; i < live; i++)                                                  \
			dealloc(ring[i], sizes[i]);                                                \
	}

static inline uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* Without the barrier the compiler removes malloc and free as a pair. */
static inline void *libc_alloc(size_t size)
{
	void *p = malloc(size);
	__asm__ volatile("" : "+r"(p));
	return p;
}

#define FREE(p, size)	   free(p)
#define WEIR_FREE(p, size) weir_free(p)

#define LOOPS(suffix, alloc, dealloc)                                                              \
	LOOP(fixed_##suffix, alloc, dealloc, size_fixed, touch)                                    \
	LOOP(mixed_##suffix, alloc, dealloc, size_mixed, touch)                                    \
	LOOP(mixed_clear_##suffix, alloc, dealloc, size_mixed, clear)                              \
	LOOP(medium_##suffix, alloc, dealloc, size_1k_5k, touch)                                   \
	LOOP(medium_clear_##suffix, alloc, dealloc, size_1k_5k, clear)                             \
	LOOP(powers_##suffix, alloc, dealloc, size_powers, touch)                                  \
	LOOP(small_clear_##suffix, alloc, dealloc, size_small, clear)                              \
	LOOP(middle_clear_##suffix, alloc, dealloc, size_middle, clear)                            \
	LOOP(large_clear_##suffix, alloc, dealloc, size_large, clear)                              \
	LOOP(graded_##suffix, alloc, dealloc, size_graded, touch)                                  \
	HOLES(holes_##suffix, alloc, dealloc)                                                      \
	RANDOM(random_##suffix, alloc, dealloc)
LOOPS(libc, libc_alloc, FREE)
LOOPS(weir, weir_alloc, WEIR_FREE)
LOOPS(sized, weir_alloc, weir_free_sized)

/* ---- Freed elsewhere ------------------------------------------------------------------------ */

enum { BATCH = 256, BATCHES = 8 };

/* A ring of batches: the producer fills, the consumer frees and empties. */
static struct {
	void *block[BATCHES][BATCH];
	sem_t filled, emptied;
	size_t batches;
	size_t (*size_of)(size_t i);
	enum alloc_kind kind;
} handoff;

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) < 0)
		;
}

static void give_back(char *p, size_t size)
{
	if (handoff.kind == ALLOC_WEIR)
		weir_free(p);
	else if (handoff.kind == ALLOC_SIZED)
		weir_free_sized(p, size);
	else
		free(p);
}

static void *consume(void *arg)
{
	(void)arg;
	alloc_run_on(0);
	if (handoff.kind != ALLOC_LIBC && weir_thread_attach() < 0)
		exit(1);
	for (size_t i = 0; i < handoff.batches; i++) {
		wait_for(&handoff.filled);
		for (size_t k = 0; k < BATCH; k++)
			give_back(handoff.block[i % BATCHES][k], handoff.size_of(i * BATCH + k));
		sem_post(&handoff.emptied);
	}
	return NULL;
}

static void produce(size_t ops, enum alloc_kind kind, size_t (*size_of)(size_t i))
{
	pthread_t consumer;
	sem_init(&handoff.filled, 0, 0);
	sem_init(&handoff.emptied, 0, BATCHES);
	handoff.batches = ops / BATCH;
	handoff.kind = kind;
	handoff.size_of = size_of;
	if (pthread_create(&consumer, NULL, consume, NULL) != 0)
		exit(1);
	for (size_t i = 0; i < handoff.batches; i++) {
		wait_for(&handoff.emptied);
		for (size_t k = 0; k < BATCH; k++) {
			size_t size = size_of(i * BATCH + k);
			char *p = kind == ALLOC_LIBC ? libc_alloc(size) : weir_alloc(size);
			touch(p, size);
			handoff.block[i % BATCHES][k] = p;
		}
		sem_post(&handoff.filled);
	}
	pthread_join(consumer, NULL);
}

#define ELSEWHERE(suffix, kind)                                                                    \
	static void elsewhere_##suffix(size_t ops, size_t live)                                    \
	{                                                                                          \
		(void)live;                                                                        \
		produce(ops, kind, size_fixed);                                                    \
	}                                                                                          \
	static void elsewhere_medium_##suffix(size_t ops, size_t live)                             \
	{                                                                                          \
		(void)live;                                                                        \
		produce(ops, kind, size_1k_5k);                                                    \
	}
ELSEWHERE(libc, ALLOC_LIBC)
ELSEWHERE(weir, ALLOC_WEIR)
ELSEWHERE(sized, ALLOC_SIZED)

/* ---- The loops ------------------------------------------------------------------------------ */

typedef void (*loop_fn)(size_t ops, size_t live);

#define ALL(loop)                                                                                  \
	{                                                                                          \
		loop##_libc, loop##_weir, loop##_sized                                             \
	}

static const struct loop {
	const char *name;
	loop_fn fn[3]; /* by enum alloc_kind */
	size_t ops, live;
	bool threads; /* its time is that of all threads */
} loops[] = {
	{ "64 B", ALL(fixed), 10000000, 1, false },
	{ "64 B, 32 live", ALL(fixed), 10000000, 32, false },
	{ "64 B, 1024 live", ALL(fixed), 10000000, 1024, false },
	{ "64 B, among 500 holes", ALL(holes), 10000000, 1000, false },
	{ "8-256 B", ALL(mixed), 10000000, 1, false },
	{ "8-256 B, 32 live", ALL(mixed), 10000000, 32, false },
	{ "8-256 B, 1024 live", ALL(mixed), 10000000, 1024, false },
	{ "8-256 B memset", ALL(mixed_clear), 10000000, 1, false },
	{ "1-5 KB", ALL(medium), 10000000, 1, false },
	{ "1-5 KB, 32 live", ALL(medium), 10000000, 32, false },
	{ "1-5 KB, 1024 live", ALL(medium), 3000000, 1024, false },
	{ "1-5 KB memset", ALL(medium_clear), 3000000, 1, false },
	{ "1-5 KB memset, 32 live", ALL(medium_clear), 3000000, 32, false },
	{ "1-5 KB memset, 1024 live", ALL(medium_clear), 1000000, 1024, false },
	{ "512 B-8 KB powers", ALL(powers), 10000000, 1, false },
	{ "8-256 B all, memset", ALL(small_clear), 5000000, 1, false },
	{ "256 B-1 KB, memset", ALL(middle_clear), 5000000, 1, false },
	{ "1-8 KB, memset", ALL(large_clear), 2000000, 1, false },
	{ "64 KB-10 MB graded", ALL(graded), 300000, 1, false },
	{ "1-1000 B random, 1024 live", ALL(random), 5000000, 1024, false },
	{ "64 B freed elsewhere", ALL(elsewhere), 10000000, 2048, true },
	{ "1-5 KB freed elsewhere", ALL(elsewhere_medium), 2000000, 2048, true },
};
enum { LOOPS_COUNT = sizeof(loops) / sizeof(*loops) };

/* ---- One measurement: a process ------------------------------------------------------------- */

static void measure(const struct loop *l, enum alloc_kind kind, bool quick)
{
	size_t ops = quick ? l->ops / 10 : l->ops;
	clockid_t clock = l->threads ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_THREAD_CPUTIME_ID;
	double start = alloc_clock_ns(clock);
	l->fn[kind](ops / 5, l->live);
	double before = alloc_clock_ns(clock);
	l->fn[kind](ops, l->live);
	double end = alloc_clock_ns(clock);
	printf("%f %f\n", (end - before) / (double)ops, (before - start) / (double)(ops / 5));
}

static int be_measured(const struct alloc_options *options)
{
	enum alloc_kind kind = alloc_kind_of(options->one);
	alloc_run_on(sysconf(_SC_NPROCESSORS_ONLN) - 1);
	if (kind != ALLOC_LIBC && weir_thread_attach() < 0)
		return 1;
	for (size_t i = 0; i < LOOPS_COUNT; i++)
		if (strcmp(loops[i].name, options->mode) == 0)
			measure(&loops[i], kind, options->quick);
	return 0;
}

/* ---- All of them ---------------------------------------------------------------------------- */

static double results[ALLOC_RIVALS][LOOPS_COUNT][ALLOC_ROUNDS_MAX];
static double cold[ALLOC_RIVALS][LOOPS_COUNT][ALLOC_ROUNDS_MAX];
static bool chosen[LOOPS_COUNT];

static bool run_one(size_t rival, size_t loop, unsigned round, bool quick)
{
	struct alloc_options options = { .quick = quick, .mode = loops[loop].name };
	FILE *child = alloc_rival_run(rival, &options);
	if (child == NULL)
		return false;
	bool whole = fscanf(child, "%lf %lf", &results[rival][loop][round],
			    &cold[rival][loop][round]) == 2;
	if (pclose(child) == 0 && whole)
		return true;
	fprintf(stderr, "bench_alloc: no result from %s\n", alloc_rivals[rival].name);
	return false;
}

static void print_csv(unsigned rounds, const bool *here)
{
	alloc_print_machine("# ");
	printf("loop,allocator,min_ns,median_ns,rounds,cold_ns\n");
	for (size_t i = 0; i < LOOPS_COUNT; i++)
		for (size_t r = 0; r < ALLOC_RIVALS; r++)
			if (chosen[i] && here[r])
				printf("\"%s\",%s,%.2f,%.2f,%u,%.2f\n", loops[i].name,
				       alloc_rivals[r].name, results[r][i][0],
				       results[r][i][rounds / 2], rounds, cold[r][i][rounds / 2]);
}

/* How many times faster the allocator's median is than the best of those that are not ours. */
static double ratio_to_best(size_t rival, size_t loop, unsigned rounds, const bool *here)
{
	double best = 0;
	for (size_t r = 0; r < ALLOC_RIVALS; r++) {
		double median = results[r][loop][rounds / 2];
		if (here[r] && !alloc_rivals[r].ours && (best == 0 || median < best))
			best = median;
	}
	return best / results[rival][loop][rounds / 2];
}

static void print_table(unsigned rounds, const bool *here)
{
	alloc_print_machine("");
	printf("ns per alloc, use and free: median of %u rounds; then the best rival's over "
	       "ours\n\n",
	       rounds);
	printf("%-27s", "");
	for (size_t r = 0; r < ALLOC_RIVALS; r++)
		if (here[r])
			printf("%12s", alloc_rivals[r].name);
	printf("   weir  sized malloc\n");
	for (size_t i = 0; i < LOOPS_COUNT; i++) {
		if (!chosen[i])
			continue;
		printf("%-27s", loops[i].name);
		for (size_t r = 0; r < ALLOC_RIVALS; r++)
			if (here[r])
				printf("%12.2f", results[r][i][rounds / 2]);
		for (size_t r = 0; r < ALLOC_RIVALS; r++)
			if (here[r] && alloc_rivals[r].ours)
				printf("%6.2fx", ratio_to_best(r, i, rounds, here));
		printf("\n");
	}
}

static void sort_rounds(size_t rival, size_t loop, unsigned rounds)
{
	qsort(results[rival][loop], rounds, sizeof(double), alloc_by_value);
	qsort(cold[rival][loop], rounds, sizeof(double), alloc_by_value);
}

/* All rounds are as long as those that were. */
static void say_left(unsigned done, unsigned rounds, double started)
{
	double each = (alloc_clock_ns(CLOCK_MONOTONIC) - started) / 1e9 / done;
	fprintf(stderr, "  round %u of %u: %.0f s left\n", done, rounds, each * (rounds - done));
}

static int run_all(const struct alloc_options *options)
{
	bool here[ALLOC_RIVALS];
	size_t count = 0;
	for (size_t r = 0; r < ALLOC_RIVALS; r++)
		count += here[r] = alloc_rival_is_here(r);
	if (count == 0) {
		fprintf(stderr, "bench_alloc: that allocator is not installed here\n");
		return 1;
	}
	for (size_t i = 0; i < LOOPS_COUNT; i++)
		chosen[i] = options->mode == NULL || strstr(loops[i].name, options->mode) != NULL;
	double started = alloc_clock_ns(CLOCK_MONOTONIC);
	for (unsigned round = 0; round < options->rounds; round++) {
		for (size_t i = 0; i < LOOPS_COUNT; i++)
			for (size_t r = 0; r < ALLOC_RIVALS; r++)
				if (chosen[i] && here[r] && !run_one(r, i, round, options->quick))
					return 1;
		say_left(round + 1, options->rounds, started);
	}
	for (size_t r = 0; r < ALLOC_RIVALS; r++)
		for (size_t i = 0; i < LOOPS_COUNT; i++)
			sort_rounds(r, i, options->rounds);
	(options->csv ? print_csv : print_table)(options->rounds, here);
	return 0;
}

int main(int argc, char **argv)
{
	struct alloc_options options;
	if (alloc_options_read(&options, argc, argv, "[LOOP]") < 0)
		return 2;
	return options.one != NULL ? be_measured(&options) : run_all(&options);
}
