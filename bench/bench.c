/* SPDX-License-Identifier: MIT */
/*
 * bench.c: rounds, medians and the machine line of bench.h.
 */
#include "bench.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

int64_t bench_now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void usage(const struct bench *b, int status)
{
	fprintf(status ? stderr : stdout,
		"usage: %s [--rounds N] [--csv] [FILTER]\n"
		"Runs the microbenchmarks whose names contain FILTER, in N rounds (5-%d; 7).\n",
		b->program, BENCH_ROUNDS_MAX);
	exit(status);
}

void bench_init(struct bench *b, const char *program, int argc, char **argv)
{
	static const struct option options[] = { { "rounds", required_argument, NULL, 'r' },
						 { "csv", no_argument, NULL, 'c' },
						 { "help", no_argument, NULL, 'h' },
						 { NULL, 0, NULL, 0 } };
	int letter;
	memset(b, 0, sizeof(*b));
	b->program = program;
	b->rounds = 7;
	while ((letter = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (letter == 'r')
			b->rounds = (unsigned)atoi(optarg);
		else if (letter == 'c')
			b->csv = true;
		else
			usage(b, letter != 'h');
	}
	if (b->rounds < 5 || b->rounds > BENCH_ROUNDS_MAX || optind < argc - 1)
		usage(b, 1);
	if (optind < argc)
		b->filter = argv[optind];
}

void bench_add(struct bench *b, const char *name, bench_fn fn, void *arg)
{
	if (b->count == BENCH_COUNT_MAX || (b->filter && !strstr(name, b->filter)))
		return;
	b->cases[b->count++] = (struct bench_case){ .name = name, .fn = fn, .arg = arg };
}

static void run_case(struct bench_case *c, double *ret_ns)
{
	int64_t start = bench_now_ns();
	uint64_t operations = c->fn(c->arg);
	int64_t end = bench_now_ns();
	if (operations == 0)
		c->failed = true;
	else
		*ret_ns = (double)(end - start) / (double)operations;
}

void bench_run(struct bench *b)
{
	double warm_up;
	for (unsigned round = 0; round < b->rounds; round++) {
		for (unsigned i = 0; i < b->count; i++) {
			run_case(&b->cases[i], &warm_up);
			run_case(&b->cases[i], &b->cases[i].ns[round]);
		}
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(const double *sorted, unsigned n)
{
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static void report_case(const struct bench *b, struct bench_case *c)
{
	if (c->failed) {
		fprintf(stderr, "%s: %s failed\n", b->program, c->name);
		return;
	}
	qsort(c->ns, b->rounds, sizeof(c->ns[0]), compare);
	double low = c->ns[0], middle = median(c->ns, b->rounds), high = c->ns[b->rounds - 1];
	if (b->csv)
		printf("%s,%s,%u,%.2f,%.2f,%.2f\n", c->name, b->program, b->rounds, low, middle,
		       high);
	else
		printf("  %-24s %10.1f %10.1f %10.1f\n", c->name, low, middle, high);
}

int bench_report(struct bench *b)
{
	int status = 0;
	bench_machine_line(b->csv ? stderr : stdout, b->csv ? "# " : "");
	if (b->csv)
		puts("name,program,rounds,min_ns,median_ns,max_ns");
	else
		printf("  %-24s %10s %10s %10s  ns per operation, %u rounds\n", b->program, "min",
		       "median", "max", b->rounds);
	for (unsigned i = 0; i < b->count; i++) {
		report_case(b, &b->cases[i]);
		status |= b->cases[i].failed;
	}
	return status;
}

/* The first line that `command` prints, or "unknown". */
static void first_line(const char *command, char *ret, size_t room)
{
	FILE *pipe = popen(command, "re");
	snprintf(ret, room, "unknown");
	if (!pipe)
		return;
	char line[128];
	if (fgets(line, sizeof(line), pipe)) {
		line[strcspn(line, "\n")] = '\0';
		snprintf(ret, room, "%s", line);
	}
	pclose(pipe);
}

static void cpu_model(char *ret, size_t room)
{
	char line[256];
	FILE *file = fopen("/proc/cpuinfo", "re");
	snprintf(ret, room, "unknown CPU");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		char *value = strchr(line, ':');
		if (!value || strncmp(line, "model name", 10) != 0)
			continue;
		value[strcspn(value, "\n")] = '\0';
		snprintf(ret, room, "%s", value + 2);
		break;
	}
	fclose(file);
}

void bench_machine_line(FILE *out, const char *prefix)
{
	struct utsname uts;
	char cpu[128], commit[128];
	uname(&uts);
	cpu_model(cpu, sizeof(cpu));
	first_line("git describe --always --dirty 2>/dev/null", commit, sizeof(commit));
#if defined(__clang__)
	const char *compiler = "";
#else
	const char *compiler = "gcc ";
#endif
	fprintf(out, "%s%s, %ld CPUs, Linux %s %s, %s%s, commit %s\n", prefix, cpu,
		sysconf(_SC_NPROCESSORS_ONLN), uts.release, uts.machine, compiler, __VERSION__,
		commit);
}
