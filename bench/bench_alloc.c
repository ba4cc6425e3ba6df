/* SPDX-License-Identifier: MIT */
/*
 * bench_alloc: the time of alloc and free, weir's and everybody else's.
 *
 *   bench_alloc                  all loops, all allocators found here, a table
 *   bench_alloc --csv            the same as comma-separated values
 *   bench_alloc --rounds 9
 *
 * Every figure comes from a process of its own, pinned to one CPU, that warms up and then measures
 * by thread CPU time. Allocators take turns within a round, so that a slow minute of the machine is
 * everybody's. Rivals are put under the same malloc loops with LD_PRELOAD; the ones not installed
 * are left out. One operation is an alloc, a touch of the first and last byte (or a memset where
 * the name says so), and a free; `live` is how many blocks are out at a time. In "freed elsewhere"
 * one thread allocates and another, on the other CPU, frees: there the time is that of the wall.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

enum { ROUNDS_MAX = 31, LIVE_MAX = 1024 };

static double clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

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

static inline void touch(char *p, size_t size)
{
	*(volatile char *)p = 1;
	*(volatile char *)(p + size - 1) = 1;
}
static inline void clear(char *p, size_t size)
{
	memset(p, 0, size);
	__asm__ volatile("" ::"r"(p) : "memory");
}

/* A ring of `live` blocks: each operation frees the oldest and allocates one in its place. */
#define LOOP(name, alloc, dealloc, size_of, use)                                                   \
	static void name(size_t ops, size_t live)                                                  \
	{                                                                                          \
		static char *ring[LIVE_MAX];                                                       \
		size_t at = 0;                                                                     \
		for (size_t i = 0; i < live - 1; i++) {                                            \
			ring[i] = alloc(size_of(i));                                               \
			use(ring[i], size_of(i));                                                  \
		}                                                                                  \
		for (size_t i = 0; i < ops; i++) {                                                 \
			size_t size = size_of(i);                                                  \
			char *p = alloc(size);                                                     \
			use(p, size);                                                              \
			if (live == 1) {                                                           \
				dealloc(p);                                                        \
				continue;                                                          \
			}                                                                          \
			dealloc(ring[at]);                                                         \
			ring[at] = p;                                                              \
			at = at + 1 == live - 1 ? 0 : at + 1;                                      \
		}                                                                                  \
		for (size_t i = 0; i < live - 1; i++)                                              \
			dealloc(ring[i]);                                                          \
	}

/* Without the barrier the compiler removes malloc and free as a pair. */
static inline void *libc_alloc(size_t size)
{
	void *p = malloc(size);
	__asm__ volatile("" : "+r"(p));
	return p;
}

#define LOOPS(suffix, alloc, dealloc)                                                              \
	LOOP(fixed_##suffix, alloc, dealloc, size_fixed, touch)                                    \
	LOOP(mixed_##suffix, alloc, dealloc, size_mixed, touch)                                    \
	LOOP(medium_##suffix, alloc, dealloc, size_1k_5k, touch)                                   \
	LOOP(medium_clear_##suffix, alloc, dealloc, size_1k_5k, clear)                             \
	LOOP(graded_##suffix, alloc, dealloc, size_graded, touch)
LOOPS(weir, weir_alloc, weir_free)
LOOPS(libc, libc_alloc, free)

/* ---- Freed elsewhere ------------------------------------------------------------------------ */

enum { BATCH = 256, BATCHES = 8 };

/* A ring of batches: the producer fills, the consumer frees and empties. */
static struct {
	void *block[BATCHES][BATCH];
	_Atomic size_t filled __attribute__((aligned(64)));
	_Atomic size_t emptied __attribute__((aligned(64)));
	size_t batches;
	bool weir;
} handoff;

static void run_on(long cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *consume(void *arg)
{
	(void)arg;
	run_on(0);
	if (handoff.weir && weir_thread_attach() < 0)
		exit(1);
	for (size_t i = 0; i < handoff.batches; i++) {
		while (atomic_load_explicit(&handoff.filled, memory_order_acquire) == i)
			sched_yield();
		for (size_t k = 0; k < BATCH; k++) {
			if (handoff.weir)
				weir_free(handoff.block[i % BATCHES][k]);
			else
				free(handoff.block[i % BATCHES][k]);
		}
		atomic_store_explicit(&handoff.emptied, i + 1, memory_order_release);
	}
	return NULL;
}

static void produce(size_t ops, bool weir)
{
	pthread_t consumer;
	handoff.filled = handoff.emptied = 0;
	handoff.batches = ops / BATCH;
	handoff.weir = weir;
	if (pthread_create(&consumer, NULL, consume, NULL) != 0)
		exit(1);
	for (size_t i = 0; i < handoff.batches; i++) {
		while (i - atomic_load_explicit(&handoff.emptied, memory_order_acquire) == BATCHES)
			sched_yield();
		for (size_t k = 0; k < BATCH; k++) {
			char *p = weir ? weir_alloc(64) : libc_alloc(64);
			touch(p, 64);
			handoff.block[i % BATCHES][k] = p;
		}
		atomic_store_explicit(&handoff.filled, i + 1, memory_order_release);
	}
	pthread_join(consumer, NULL);
}

static void elsewhere_weir(size_t ops, size_t live)
{
	(void)live;
	produce(ops, true);
}
static void elsewhere_libc(size_t ops, size_t live)
{
	(void)live;
	produce(ops, false);
}

/* ---- The loops ------------------------------------------------------------------------------ */

typedef void (*loop_fn)(size_t ops, size_t live);

static const struct loop {
	const char *name;
	loop_fn weir, libc;
	size_t ops, live;
	bool wall; /* its time is that of the wall */
} loops[] = {
	{ "64 B", fixed_weir, fixed_libc, 10000000, 1, false },
	{ "64 B, 1024 live", fixed_weir, fixed_libc, 10000000, 1024, false },
	{ "8-256 B mixed", mixed_weir, mixed_libc, 10000000, 1, false },
	{ "8-256 B mixed, 32 live", mixed_weir, mixed_libc, 10000000, 32, false },
	{ "1-5 KB", medium_weir, medium_libc, 10000000, 1, false },
	{ "1-5 KB, 32 live", medium_weir, medium_libc, 10000000, 32, false },
	{ "1-5 KB, 1024 live", medium_weir, medium_libc, 3000000, 1024, false },
	{ "1-5 KB memset", medium_clear_weir, medium_clear_libc, 3000000, 1, false },
	{ "64 KB-10 MB graded", graded_weir, graded_libc, 300000, 1, false },
	{ "64 B freed elsewhere", elsewhere_weir, elsewhere_libc, 10000000, 2048, true },
};
enum { LOOPS_COUNT = sizeof(loops) / sizeof(*loops) };

/* ---- One measurement: a process ------------------------------------------------------------- */

static const struct rival {
	const char *name;
	const char *library; /* NULL: what the process has anyway */
	bool weir;	     /* the inlined API, in a task */
} rivals[] = {
	{ "weir", NULL, true },
	{ "glibc", NULL, false },
	{ "jemalloc", "libjemalloc.so.2", false },
	{ "mimalloc", "libmimalloc.so.2", false },
	{ "tcmalloc", "libtcmalloc_minimal.so.4", false },
	{ "weir-malloc", "libweir-malloc.so", false },
};
enum { RIVALS_COUNT = sizeof(rivals) / sizeof(*rivals) };

static void measure(bool weir)
{
	for (size_t i = 0; i < LOOPS_COUNT; i++) {
		loop_fn loop = weir ? loops[i].weir : loops[i].libc;
		loop(loops[i].ops / 10, loops[i].live);
		clockid_t clock = loops[i].wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
		double before = clock_ns(clock);
		loop(loops[i].ops, loops[i].live);
		printf("%f\n", (clock_ns(clock) - before) / (double)loops[i].ops);
	}
}

static int measure_in_task(void *arg)
{
	(void)arg;
	measure(true);
	return 0;
}

static int be_measured(const char *name)
{
	run_on(sysconf(_SC_NPROCESSORS_ONLN) - 1);
	if (strcmp(name, "weir") == 0)
		return weir_run(measure_in_task, NULL, .workers = 1) < 0;
	measure(false);
	return 0;
}

/* ---- All of them ---------------------------------------------------------------------------- */

static double results[RIVALS_COUNT][LOOPS_COUNT][ROUNDS_MAX];

/* Where the dynamic linker would find it; empty: nowhere. */
static void library_path(const char *library, const char *self, char *ret, size_t room)
{
	static const char *const directories[] = { "/usr/lib/x86_64-linux-gnu", "/usr/lib64",
						   "/usr/lib/aarch64-linux-gnu", "/usr/lib",
						   "/usr/local/lib" };
	const char *slash = strrchr(self, '/');
	int length = slash == NULL ? 0 : (int)(slash - self);
	snprintf(ret, room, "%.*s/../%s", length, self, library); /* beside the build directory */
	for (size_t i = 0; access(ret, R_OK) != 0; i++) {
		ret[0] = '\0';
		if (i == sizeof(directories) / sizeof(*directories))
			return;
		snprintf(ret, room, "%s/%s", directories[i], library);
	}
}

static bool is_here(const struct rival *rival, const char *self)
{
	char path[4096];
	if (rival->library == NULL)
		return true;
	library_path(rival->library, self, path, sizeof(path));
	return path[0] != '\0';
}

static bool run_one(size_t rival, unsigned round, const char *self)
{
	char path[4096] = "", command[9000];
	if (rivals[rival].library != NULL)
		library_path(rivals[rival].library, self, path, sizeof(path));
	snprintf(command, sizeof(command), "LD_PRELOAD='%s' exec '%s' --one %s", path, self,
		 rivals[rival].weir ? "weir" : "libc");
	FILE *child = popen(command, "r");
	if (child == NULL)
		return false;
	bool whole = true;
	for (size_t i = 0; i < LOOPS_COUNT; i++)
		whole &= fscanf(child, "%lf", &results[rival][i][round]) == 1;
	return pclose(child) == 0 && whole;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void print_machine(const char *mark)
{
	struct utsname kernel;
	char line[256], *cpu = NULL;
	FILE *file = fopen("/proc/cpuinfo", "r");
	while (file != NULL && cpu == NULL && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, "model name", 10) == 0 && (cpu = strchr(line, ':')) != NULL)
			cpu[strcspn(cpu, "\n")] = '\0';
	if (file != NULL)
		fclose(file);
	uname(&kernel);
	printf("%s%s, %ld CPUs, Linux %s, %s %s, weir %s\n", mark,
	       cpu != NULL ? cpu + 2 : kernel.machine, sysconf(_SC_NPROCESSORS_ONLN),
	       kernel.release,
#ifdef __clang__
	       "clang",
#else
	       "gcc",
#endif
	       __VERSION__, weir_version());
}

static void print_csv(unsigned rounds, const bool *here)
{
	print_machine("# ");
	printf("loop,allocator,min_ns,median_ns,rounds\n");
	for (size_t i = 0; i < LOOPS_COUNT; i++)
		for (size_t r = 0; r < RIVALS_COUNT; r++)
			if (here[r])
				printf("\"%s\",%s,%.2f,%.2f,%u\n", loops[i].name, rivals[r].name,
				       results[r][i][0], results[r][i][rounds / 2], rounds);
}

/* weir's median against the best median of the others, larger is better. */
static double ratio_to_best(size_t loop, unsigned rounds, const bool *here)
{
	double best = 0;
	for (size_t r = 0; r < RIVALS_COUNT; r++) {
		double median = results[r][loop][rounds / 2];
		bool rival = here[r] && strncmp(rivals[r].name, "weir", 4) != 0;
		if (rival && (best == 0 || median < best))
			best = median;
	}
	return best / results[0][loop][rounds / 2];
}

static void print_table(unsigned rounds, const bool *here)
{
	print_machine("");
	printf("ns per alloc, use and free: min / median of %u rounds\n\n%-24s", rounds, "");
	for (size_t r = 0; r < RIVALS_COUNT; r++)
		if (here[r])
			printf("%17s", rivals[r].name);
	printf("%10s\n", "weir is");
	for (size_t i = 0; i < LOOPS_COUNT; i++) {
		printf("%-24s", loops[i].name);
		for (size_t r = 0; r < RIVALS_COUNT; r++)
			if (here[r])
				printf("%8.2f /%7.2f", results[r][i][0], results[r][i][rounds / 2]);
		printf("%9.2fx\n", ratio_to_best(i, rounds, here));
	}
}

static int run_all(unsigned rounds, bool csv)
{
	static char self[4096];
	bool here[RIVALS_COUNT];
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	for (size_t r = 0; r < RIVALS_COUNT; r++)
		here[r] = is_here(&rivals[r], self);
	for (unsigned round = 0; round < rounds; round++)
		for (size_t r = 0; r < RIVALS_COUNT; r++)
			if (here[r] && !run_one(r, round, self)) {
				fprintf(stderr, "bench_alloc: no result from %s\n", rivals[r].name);
				return 1;
			}
	for (size_t r = 0; r < RIVALS_COUNT; r++)
		for (size_t i = 0; i < LOOPS_COUNT; i++)
			qsort(results[r][i], rounds, sizeof(double), by_value);
	(csv ? print_csv : print_table)(rounds, here);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned rounds = 5;
	bool csv = false;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--one") == 0 && i + 1 < argc)
			return be_measured(argv[i + 1]);
		if (strcmp(argv[i], "--csv") == 0)
			csv = true;
		else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
			rounds = (unsigned)atoi(argv[++i]);
		else
			rounds = 0;
	}
	if (rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: bench_alloc [--csv] [--rounds 1..%d]\n", ROUNDS_MAX);
		return 2;
	}
	return run_all(rounds, csv);
}
