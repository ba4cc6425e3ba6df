/* SPDX-License-Identifier: MIT */
/*
 * meter.c: what a server does while somebody else's load generator runs.
 *
 *   meter PID COUNT_FILE REPORT COMMAND [ARG...]
 *
 * Runs the command and writes one line to the file REPORT: the system calls process PID made
 * meanwhile, its calls of malloc, and its CPU time in nanoseconds; "-" for what was not counted.
 * Counting system calls needs root and tracefs and costs each of them a little, so it has a run of
 * its own: COUNT_FILE "-" asks for them; otherwise COUNT_FILE is what count_malloc.so keeps for
 * that process. The exit code is the command's.
 */
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "procstat.h"

extern char **environ;

struct reading {
	struct trace_counter syscalls;
	bool has_syscalls;
	bool has_mallocs;
	uint64_t mallocs;
	struct procstat stat;
};

static int read_count(const char *path, uint64_t *ret)
{
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	size_t n = fread(ret, sizeof *ret, 1, file);
	fclose(file);
	return n == 1 ? 0 : -1;
}

static int run(char **argv)
{
	pid_t child;
	int status;
	int err = posix_spawnp(&child, argv[0], NULL, NULL, argv, environ);
	if (err != 0) {
		fprintf(stderr, "meter: %s: %s\n", argv[0], strerror(err));
		return 127;
	}
	if (waitpid(child, &status, 0) < 0)
		return 127;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void print_count(FILE *out, bool known, uint64_t count)
{
	if (known)
		fprintf(out, "%" PRIu64 " ", count);
	else
		fputs("- ", out);
}

static int report(const char *path, const struct reading *before, const struct reading *after)
{
	FILE *out = fopen(path, "we");
	if (!out)
		return -1;
	uint64_t syscalls = before->has_syscalls ? trace_counter_read(&before->syscalls) : 0;
	print_count(out, before->has_syscalls, syscalls);
	print_count(out, before->has_mallocs && after->has_mallocs,
		    after->mallocs - before->mallocs);
	fprintf(out, "%" PRId64 "\n", after->stat.cpu_ns - before->stat.cpu_ns);
	return fclose(out);
}

int main(int argc, char **argv)
{
	struct reading before = { 0 }, after = { 0 };
	if (argc < 5) {
		fputs("usage: meter PID COUNT_FILE REPORT COMMAND [ARG...]\n", stderr);
		return 2;
	}
	pid_t pid = (pid_t)atoi(argv[1]);
	const char *count_file = argv[2];
	if (strcmp(count_file, "-") == 0)
		before.has_syscalls =
			trace_counter_open(&before.syscalls, TRACE_SYSCALLS, pid) == 0;
	before.has_mallocs = read_count(count_file, &before.mallocs) == 0;
	if (procstat_read(pid, &before.stat) < 0) {
		fprintf(stderr, "meter: no process %d\n", (int)pid);
		return 2;
	}
	int code = run(argv + 4);
	after.has_mallocs = read_count(count_file, &after.mallocs) == 0;
	if (procstat_read(pid, &after.stat) < 0) {
		fprintf(stderr, "meter: process %d has ended\n", (int)pid);
		return 2;
	}
	return report(argv[3], &before, &after) == 0 ? code : 2;
}
