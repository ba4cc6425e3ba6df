/* SPDX-License-Identifier: MIT */
/*
 * bench_alloc_server: what an allocator does to a process that lives long.
 *
 *   bench_alloc_server           all loads, all allocators found here, a table
 *   bench_alloc_server churn     one load: churn, queue, burst
 *   bench_alloc_server series    memory over time, as comma-separated values (see below)
 *
 * churn: two threads replace random blocks of 8 to 1,000 bytes among 5,000 each; now and then a
 * thread ends and hands all its blocks to a new one, so that most are freed by another thread than
 * allocated them (the load of larson). queue: one thread allocates 16 to 512 bytes, another frees,
 * with at most 2,048 blocks between them; memory must not grow with time. burst: 20,000 blocks of
 * 1 to 5 KB, written and freed in random order, then idle for 15 s; the figures are the memory at
 * the peak and at the end, in MB over what the process had before.
 *
 * series prints the burst's resident memory every 100 ms for every allocator, and for weir what the
 * pools of a worker hold against what a varying load has out. One row is series,name,seconds,value.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

#include "alloc_rivals.h"

/* ---- Any allocator -------------------------------------------------------------------------- */

static enum alloc_kind kind;

static char *get(size_t size)
{
	char *p = kind == ALLOC_LIBC ? malloc(size) : weir_alloc(size);
	if (p == NULL)
		exit(1);
	p[0] = p[size - 1] = 1;
	return p;
}

static void put(char *p, size_t size)
{
	if (kind == ALLOC_WEIR)
		weir_free(p);
	else if (kind == ALLOC_SIZED)
		weir_free_sized(p, size);
	else
		free(p);
}

static void attach(void)
{
	if (kind != ALLOC_LIBC && weir_thread_attach() < 0)
		exit(1);
}

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

static double resident_mb(void)
{
	long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");
	if (file != NULL && fscanf(file, "%*d %ld", &pages) != 1)
		pages = 0;
	if (file != NULL)
		fclose(file);
	return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static void print_result(double ns, double peak_mb, double end_mb)
{
	printf("%f %f %f\n", ns, peak_mb, end_mb);
}

/* ---- churn ---------------------------------------------------------------------------------- */

enum { CHURN_BLOCKS = 5000, CHURN_THREADS = 2, CHURN_LIVES = 20 };

struct churner {
	char *block[CHURN_BLOCKS];
	size_t size[CHURN_BLOCKS];
	size_t ops; /* of one life */
	uint32_t random;
	long cpu;
};

static void *churn_once(void *arg)
{
	struct churner *c = arg;
	alloc_run_on(c->cpu);
	attach();
	for (size_t i = 0; i < c->ops; i++) {
		size_t at = next_random(&c->random) % CHURN_BLOCKS;
		if (c->block[at] != NULL)
			put(c->block[at], c->size[at]);
		c->size[at] = 8 + next_random(&c->random) % 993;
		c->block[at] = get(c->size[at]);
	}
	return NULL;
}

static void churn(bool quick)
{
	static struct churner churner[CHURN_THREADS];
	pthread_t thread[CHURN_THREADS];
	double peak = 0, before = resident_mb(), started = alloc_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	size_t ops = quick ? 20000 : 200000;
	for (unsigned life = 0; life < CHURN_LIVES; life++) {
		for (unsigned i = 0; i < CHURN_THREADS; i++) {
			churner[i].ops = ops;
			churner[i].cpu = (long)i % sysconf(_SC_NPROCESSORS_ONLN);
			churner[i].random += i + 1;
			if (pthread_create(&thread[i], NULL, churn_once, &churner[i]) != 0)
				exit(1);
		}
		for (unsigned i = 0; i < CHURN_THREADS; i++)
			pthread_join(thread[i], NULL);
		double now = resident_mb() - before;
		peak = now > peak ? now : peak;
	}
	double ns = alloc_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - started;
	print_result(ns / ((double)ops * CHURN_LIVES * CHURN_THREADS), peak,
		     resident_mb() - before);
}

/* ---- queue ---------------------------------------------------------------------------------- */

enum { BATCH = 256, BATCHES = 8 };

static struct {
	char *block[BATCHES][BATCH];
	sem_t filled, emptied;
	size_t batches;
} queue;

static size_t queue_size(size_t i)
{
	return 16 + i * 37 % 497;
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) < 0)
		;
}

static void *queue_drain(void *arg)
{
	(void)arg;
	alloc_run_on(sysconf(_SC_NPROCESSORS_ONLN) - 1);
	attach();
	for (size_t i = 0; i < queue.batches; i++) {
		wait_for(&queue.filled);
		for (size_t k = 0; k < BATCH; k++)
			put(queue.block[i % BATCHES][k], queue_size(i * BATCH + k));
		sem_post(&queue.emptied);
	}
	return NULL;
}

static void queue_run(bool quick)
{
	pthread_t thread;
	double peak = 0, before = resident_mb(), started = alloc_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	queue.batches = quick ? 4000 : 40000;
	sem_init(&queue.filled, 0, 0);
	sem_init(&queue.emptied, 0, BATCHES);
	alloc_run_on(0);
	attach();
	if (pthread_create(&thread, NULL, queue_drain, NULL) != 0)
		exit(1);
	for (size_t i = 0; i < queue.batches; i++) {
		wait_for(&queue.emptied);
		for (size_t k = 0; k < BATCH; k++)
			queue.block[i % BATCHES][k] = get(queue_size(i * BATCH + k));
		sem_post(&queue.filled);
		double now = i % 1024 == 0 ? resident_mb() - before : 0;
		peak = now > peak ? now : peak;
	}
	pthread_join(thread, NULL);
	double ns = alloc_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - started;
	print_result(ns / ((double)queue.batches * BATCH), peak, resident_mb() - before);
}

/* ---- burst ---------------------------------------------------------------------------------- */

enum { BURST_BLOCKS = 20000, TICK_MS = 100 };

struct burst {
	char *block[BURST_BLOCKS];
	size_t size[BURST_BLOCKS];
	uint32_t random;
	bool quick;
	bool series;
	double started;
};

/* A tick: weir's worker parks, others sleep. */
static void tick(struct burst *b)
{
	if (kind == ALLOC_LIBC)
		usleep(TICK_MS * 1000);
	else if (weir_sleep(TICK_MS * WEIR_MS) < 0)
		exit(1);
	if (b->series)
		printf("%.1f %.2f\n", (alloc_clock_ns(CLOCK_MONOTONIC) - b->started) / 1e9,
		       resident_mb());
}

static void burst_fill(struct burst *b)
{
	for (size_t i = 0; i < BURST_BLOCKS; i++) {
		b->size[i] = 1024 + (i & 4095);
		b->block[i] = get(b->size[i]);
		memset(b->block[i], 1, b->size[i]);
	}
}

static void burst_free(struct burst *b)
{
	for (size_t left = BURST_BLOCKS; left > 0; left--) {
		size_t at = next_random(&b->random) % left;
		put(b->block[at], b->size[at]);
		b->block[at] = b->block[left - 1];
		b->size[at] = b->size[left - 1];
	}
}

static int burst_in_task(void *arg)
{
	struct burst *b = arg;
	double before = resident_mb(), busy = alloc_clock_ns(CLOCK_PROCESS_CPUTIME_ID), peak = 0;
	b->started = alloc_clock_ns(CLOCK_MONOTONIC);
	if (b->series)
		printf("%.1f %.2f\n", 0.0, before);
	for (int i = 0; i < 3; i++) {
		burst_fill(b);
		double now = resident_mb() - before;
		peak = now > peak ? now : peak;
		tick(b);
		burst_free(b);
		tick(b);
	}
	busy = alloc_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - busy;
	for (int i = 0; i < (b->quick ? 30 : 150) + (b->series ? 100 : 0); i++)
		tick(b);
	if (!b->series)
		print_result(busy / (3.0 * BURST_BLOCKS), peak, resident_mb() - before);
	return 0;
}

static void burst(bool quick, bool series)
{
	static struct burst b;
	b.quick = quick;
	b.series = series;
	b.random = 7;
	if (kind == ALLOC_LIBC)
		(void)burst_in_task(&b);
	else if (weir_run(burst_in_task, &b, .workers = 1) < 0)
		exit(1);
}

/* ---- What a worker's pools hold against what is out ----------------------------------------- */

enum { WAVE_BLOCKS = 4000, WAVE_BYTES = 1024 };

/* How many blocks are out at `second`: a ramp, waves of 5 s, one spike, then little. */
static size_t wave(double second)
{
	if (second < 5)
		return (size_t)(second * 200);
	if (second < 20)
		return (size_t)second / 5 % 2 == 0 ? 300 : 1500;
	return second >= 25 && second < 26 ? WAVE_BLOCKS : 100;
}

static void print_pool(double second, size_t live)
{
	static struct weir_pool_stats stats[128];
	size_t n = weir_pool_stats_get(stats, 128);
	for (size_t i = 0; i < n; i++)
		if (stats[i].object_bytes == WAVE_BYTES)
			printf("out %.1f %zu\ncapacity %.1f %lu\ncached %.1f %lu\ndemand %.1f "
			       "%lu\n",
			       second, live, second, (unsigned long)stats[i].capacity, second,
			       (unsigned long)stats[i].cached, second,
			       (unsigned long)stats[i].demand);
}

/* The number that is out swings by as much within each tick as it has at the start of it. */
static int follow_wave(void *arg)
{
	static char *out[WAVE_BLOCKS];
	bool quick = *(bool *)arg;
	for (int i = 0; i < (quick ? 150 : 600); i++) {
		double second = i * TICK_MS / 1000.0;
		size_t live = wave(second);
		for (int pass = 0; pass < 4; pass++) {
			for (size_t k = 0; k < live; k++)
				out[k] = get(WAVE_BYTES);
			for (size_t k = 0; k < live; k++)
				put(out[k], WAVE_BYTES);
		}
		print_pool(second, live);
		if (weir_sleep(TICK_MS * WEIR_MS) < 0)
			return 1;
	}
	return 0;
}

/* ---- One measurement: a process ------------------------------------------------------------- */

static int be_measured(const struct alloc_options *options)
{
	bool quick = options->quick;
	kind = alloc_kind_of(options->one);
	if (strcmp(options->mode, "churn") == 0)
		churn(quick);
	else if (strcmp(options->mode, "queue") == 0)
		queue_run(quick);
	else if (strcmp(options->mode, "wave") == 0)
		return weir_run(follow_wave, &quick, .workers = 1) < 0;
	else
		burst(quick, strcmp(options->mode, "series") == 0);
	return 0;
}

/* ---- All of them ---------------------------------------------------------------------------- */

static const char *const loads[] = { "churn", "queue", "burst" };
enum { LOADS = 3, FIGURES = 3 };
static const char *const figures[FIGURES] = { "ns", "peak_mb", "end_mb" };
static double results[ALLOC_RIVALS][LOADS][FIGURES][ALLOC_ROUNDS_MAX];

static bool run_one(size_t rival, size_t load, unsigned round, bool quick)
{
	struct alloc_options options = { .quick = quick, .mode = loads[load] };
	FILE *child = alloc_rival_run(rival, &options);
	if (child == NULL)
		return false;
	bool whole = true;
	for (unsigned i = 0; i < FIGURES; i++)
		whole &= fscanf(child, "%lf", &results[rival][load][i][round]) == 1;
	if (pclose(child) == 0 && whole)
		return true;
	fprintf(stderr, "bench_alloc_server: no result from %s\n", alloc_rivals[rival].name);
	return false;
}

static void print_load(size_t load, unsigned rounds, bool csv)
{
	for (size_t r = 0; r < ALLOC_RIVALS; r++) {
		if (!alloc_rival_is_here(r))
			continue;
		printf(csv ? "%s,%s" : "%-8s%-14s", loads[load], alloc_rivals[r].name);
		for (unsigned i = 0; i < FIGURES; i++) {
			double *values = results[r][load][i];
			qsort(values, rounds, sizeof(double), alloc_by_value);
			printf(csv ? ",%.2f" : "%12.2f", values[rounds / 2]);
		}
		printf(csv ? ",%u\n" : "\n", rounds);
	}
}

static void print_head(bool csv)
{
	alloc_print_machine(csv ? "# " : "");
	printf(csv ? "load,allocator" : "%-8s%-14s", "load", "allocator");
	for (unsigned i = 0; i < FIGURES; i++)
		printf(csv ? ",%s" : "%12s", figures[i]);
	printf(csv ? ",rounds\n" : "   medians; ns of CPU per alloc and free\n");
}

static int compare(const struct alloc_options *options)
{
	const char *only = options->mode;
	for (unsigned round = 0; round < options->rounds; round++)
		for (size_t load = 0; load < LOADS; load++)
			for (size_t r = 0; r < ALLOC_RIVALS; r++)
				if ((only == NULL || strcmp(only, loads[load]) == 0) &&
				    alloc_rival_is_here(r) &&
				    !run_one(r, load, round, options->quick))
					return 1;
	print_head(options->csv);
	for (size_t load = 0; load < LOADS; load++)
		if (only == NULL || strcmp(only, loads[load]) == 0)
			print_load(load, options->rounds, options->csv);
	return 0;
}

/* Puts a name before each line the child prints. */
static int relay(size_t rival, const char *mode, const char *name, bool quick)
{
	struct alloc_options options = { .quick = quick, .mode = mode };
	FILE *child = alloc_rival_run(rival, &options);
	char line[256], key[64];
	double second, value;
	if (child == NULL)
		return 1;
	while (fgets(line, sizeof(line), child) != NULL) {
		if (sscanf(line, "%lf %lf", &second, &value) == 2)
			printf("%s,%s,%.1f,%.2f\n", name, alloc_rivals[rival].name, second, value);
		else if (sscanf(line, "%63s %lf %lf", key, &second, &value) == 3)
			printf("%s,%s,%.1f,%.0f\n", name, key, second, value);
	}
	return pclose(child) != 0;
}

static int print_series(const struct alloc_options *options)
{
	alloc_print_machine("# ");
	printf("series,name,seconds,value\n");
	for (size_t r = 0; r < ALLOC_RIVALS; r++)
		if (alloc_rivals[r].kind != ALLOC_SIZED && alloc_rival_is_here(r) &&
		    relay(r, "series", "rss_mb", options->quick) != 0)
			return 1;
	return relay(0, "wave", "pool", options->quick);
}

int main(int argc, char **argv)
{
	struct alloc_options options;
	if (alloc_options_read(&options, argc, argv, "[churn|queue|burst|series]") < 0)
		return 2;
	if (options.one != NULL)
		return be_measured(&options);
	bool series = options.mode != NULL && strcmp(options.mode, "series") == 0;
	return series ? print_series(&options) : compare(&options);
}
