/* SPDX-License-Identifier: MIT */
/*
 * bench_million.c: what a million tasks cost, in time and in memory.
 *
 *   queued   spawned and not started
 *   parked   each with a stack, asleep, and then cancelled
 *   skynet   a tree of 1,111,111 tasks, ten children each; the leaves are numbers, to be summed
 *
 * Each runs in a process of its own, on one worker, so that the peak of its memory is its own.
 * Memory of a task is what the process has more than before: resident pages, and the kernel's page
 * tables for them. The peak is that of the whole process, as the others print it.
 * bench/rivals/tokio/src/bin/skynet.rs and bench/rivals/go/skynet are the same tree.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/weir.h>

#include "bench.h"

enum { MILLION = 1000000, CHILDREN = 10 };

static unsigned count = MILLION;

/* ---- What the process has ------------------------------------------------------------------- */

struct memory {
	int64_t resident; /* bytes, like the next two */
	int64_t tables;
	int64_t peak; /* of resident, since the process began */
	int mappings;
};

static int64_t status_bytes(const char *line, const char *name)
{
	size_t len = strlen(name);

	return strncmp(line, name, len) == 0 ? strtoll(line + len, NULL, 10) * 1024 : 0;
}

static struct memory memory_read(void)
{
	struct memory memory = { 0 };
	char line[512];
	FILE *status = fopen("/proc/self/status", "r");
	FILE *maps = fopen("/proc/self/maps", "r");

	while (status && fgets(line, sizeof line, status)) {
		memory.resident += status_bytes(line, "VmRSS:");
		memory.tables += status_bytes(line, "VmPTE:");
		memory.peak += status_bytes(line, "VmHWM:");
	}
	while (maps && fgets(line, sizeof line, maps))
		memory.mappings++;
	if (status)
		fclose(status);
	if (maps)
		fclose(maps);
	return memory;
}

static struct memory before;

/* `tasks` are there now, after so long. */
static void report(const char *what, unsigned tasks, int64_t ns)
{
	struct memory now = memory_read();
	int64_t bytes = now.resident + now.tables - before.resident - before.tables;

	printf("  %-18s %8u tasks %9.1f ns each %8.0f B each, peak %6.1f MiB, %d mappings\n", what,
	       tasks, (double)ns / tasks, (double)bytes / tasks, (double)now.peak / (1 << 20),
	       now.mappings);
}

/* ---- Queued and parked ---------------------------------------------------------------------- */

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int queued(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	(void)arg;
	before = memory_read();
	int64_t start = weir_now();
	for (unsigned i = 0; i < count; i++) {
		int err = weir_spawn(&scope, nothing, NULL);
		if (err < 0)
			return err;
	}
	report("queued", count, weir_now() - start);
	start = weir_now();
	int err = weir_scope_wait(&scope);
	report("run and joined", count, weir_now() - start);
	return err;
}

static int sleep_for_good(void *arg)
{
	(void)arg;
	int err = weir_sleep(WEIR_FOREVER);
	return err == -ECANCELED ? 0 : err;
}

static int parked(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	(void)arg;
	before = memory_read();
	int64_t start = weir_now();
	for (unsigned i = 0; i < count; i++) {
		int err = weir_spawn(&scope, sleep_for_good, NULL);
		if (err < 0)
			return err;
	}
	int err = weir_yield();
	if (err < 0)
		return err;
	report("parked", count, weir_now() - start);
	start = weir_now();
	weir_scope_cancel(&scope);
	err = weir_scope_wait(&scope);
	report("cancelled", count, weir_now() - start);
	return err == -ECANCELED ? 0 : err;
}

/* ---- Skynet --------------------------------------------------------------------------------- */

struct node {
	uint64_t first;
	uint64_t leaves;
	uint64_t sum;
};

static int grow(void *arg)
{
	struct node *node = arg;
	struct node children[CHILDREN];

	if (node->leaves == 1) {
		node->sum = node->first;
		return 0;
	}
	WEIR_SCOPE(scope, WEIR_FOREVER);
	uint64_t each = node->leaves / CHILDREN;
	for (unsigned i = 0; i < CHILDREN; i++) {
		children[i] = (struct node){ node->first + i * each, each, 0 };
		int err = weir_spawn(&scope, grow, &children[i]);
		if (err < 0)
			return err;
	}
	int err = weir_scope_wait(&scope);
	for (unsigned i = 0; i < CHILDREN; i++)
		node->sum += children[i].sum;
	return err;
}

static int skynet(void *arg)
{
	(void)arg;
	before = memory_read();
	for (unsigned round = 0; round < 5; round++) {
		struct node root = { 0, MILLION, 0 };
		WEIR_SCOPE(scope, WEIR_FOREVER);
		int64_t start = weir_now();
		int err = weir_spawn(&scope, grow, &root);
		if (err == 0)
			err = weir_scope_wait(&scope);
		if (err < 0)
			return err;
		report(root.sum == 499999500000 ? "skynet" : "skynet (wrong sum)", 1111111,
		       weir_now() - start);
	}
	return 0;
}

/* ---- All ------------------------------------------------------------------------------------ */

static int run_alone(const char *name, weir_fn fn)
{
	int status = 0;

	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		int err = weir_run(fn, NULL, .workers = 1);
		if (err < 0)
			printf("  %-18s %s\n", name, weir_strerror(err));
		fflush(stdout);
		_exit(err < 0);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		weir_fn fn;
	} cases[] = { { "queued", queued }, { "parked", parked }, { "skynet", skynet } };
	const char *only = argc > 1 ? argv[1] : NULL;
	int failed = 0;

	if (argc > 2)
		count = (unsigned)strtoul(argv[2], NULL, 10);
	bench_machine_line(stdout, "");
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
		if (!only || strcmp(only, cases[i].name) == 0)
			failed |= run_alone(cases[i].name, cases[i].fn);
	return failed;
}
