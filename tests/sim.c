/* SPDX-License-Identifier: MIT */
/*
 * sim.c: runs the scenarios with many seeds, on all processors.
 *
 *   sim                      10,000 seeds each
 *   sim -n 500 -f 7 echo     500 seeds from 7 on, of the scenarios whose names begin so
 *   WEIR_SIM_SEED=77 sim echo+failures
 *   WEIR_SIM_SEED=3 sim echo@12
 *
 * Each scenario has runs of four kinds: with what no program can see (the plain name); with errors
 * too (+failures); and, for the first seeds, with everything cancelled at the n-th point where a
 * task is parked (@n), or that task alone (@n-task), for every n there is (every few, where there
 * are more than 500).
 *
 * Runs are made in children, which say in shared memory what they are at: so the one command that
 * repeats a run is known when the run has crashed or hangs.
 */
#include "sim.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_MAX = 60, JOBS_MAX = 64, CANCEL_SEEDS = 10, POINTS_MAX = 500, NAME_BYTES = 64 };

uint64_t sim_random_state;
bool sim_is_plain;

enum kind { PLAIN, FAILURES, CANCEL_ALL, CANCEL_TASK };

/* What a child is at, and what it has done. Written by the child, read by the parent. */
struct progress {
	char name[NAME_BYTES];
	uint64_t seed;
	uint64_t runs, steps, faults, refused;
};

struct task {
	uint64_t first, count;
	unsigned jobs, job;
	char **names;
	struct progress *progress;
};

static const struct sim_scenario *const tables[] = { sim_net_scenarios,	  sim_datagram_scenarios,
						     sim_task_scenarios,  sim_sync_scenarios,
						     sim_many_scenarios,  sim_file_scenarios,
						     sim_copy_scenarios,  sim_channel_scenarios,
						     sim_ending_scenarios };

/* ---- One run ------------------------------------------------------------ */

/* Errors that a world with failures may give any program. */
static bool is_worldly(int err, enum kind kind)
{
	switch (err) {
	case -ECANCELED: /* a server failed, and with it the scope around its clients */
	case -ESHUTDOWN:
	case -ECONNRESET:
	case -ECONNREFUSED:
	case -ENOTCONN:
	case -ETIMEDOUT:
	case -EPIPE:
	case -ENODATA:
		return kind != PLAIN;
	case -EMFILE:
	case -ENOMEM:
	case -EIO:
	case -ENOSPC:
		return kind == FAILURES;
	default:
		return err >= 0;
	}
}

static int run_once(const struct sim_scenario *scenario, struct progress *progress, uint64_t seed,
		    enum kind kind, uint64_t at, FILE *report, struct weir_sim_result *ret)
{
	static const char *const forms[] = { "%s", "%s+failures", "%s@%llu", "%s@%llu-task" };

	snprintf(progress->name, NAME_BYTES, forms[kind], scenario->name, (unsigned long long)at);
	progress->seed = seed;
	sim_random_state = seed * 0x9e3779b97f4a7c15 | 1;
	sim_is_plain = kind == PLAIN;
	alarm(SECONDS_MAX);
	int err = weir_sim_run(seed, scenario->fn, NULL, .failures = kind == FAILURES,
			       .cancel_at = at, .cancel_task = kind == CANCEL_TASK,
			       .report = report, .result = ret);
	alarm(0);
	progress->runs++;
	progress->steps += ret->steps;
	progress->faults += ret->faults;
	progress->refused += err < 0;
	return is_worldly(err, kind) ? 0 : err;
}

/* ---- A child's share ---------------------------------------------------- */

struct child {
	const struct task *task;
	struct progress *progress;
	FILE *report;
	char *said;
	size_t said_bytes;
};

static void run_or_exit(struct child *child, const struct sim_scenario *scenario, uint64_t seed,
			enum kind kind, uint64_t at, struct weir_sim_result *ret)
{
	rewind(child->report);
	int err = run_once(scenario, child->progress, seed, kind, at, child->report, ret);
	if (err == 0)
		return;
	fflush(child->report);
	fprintf(stderr, "%.*s", (int)ftell(child->report), child->said);
	exit(1);
}

static void cancel_everywhere(struct child *child, const struct sim_scenario *scenario,
			      uint64_t seed, enum kind kind)
{
	struct weir_sim_result result;
	uint64_t at = 1;

	run_or_exit(child, scenario, seed, PLAIN, 0, &result);
	uint64_t step = 1 + result.suspensions / POINTS_MAX;
	do {
		run_or_exit(child, scenario, seed, kind, at, &result);
		at += step;
	} while (result.suspensions + step >= at);
}

static void run_seed(struct child *child, const struct sim_scenario *scenario, uint64_t seed)
{
	struct weir_sim_result result;

	run_or_exit(child, scenario, seed, PLAIN, 0, &result);
	run_or_exit(child, scenario, seed, FAILURES, 0, &result);
	if (seed >= child->task->first + CANCEL_SEEDS)
		return;
	cancel_everywhere(child, scenario, seed, CANCEL_ALL);
	cancel_everywhere(child, scenario, seed, CANCEL_TASK);
}

static bool is_wanted(const char *name, char *const *prefixes)
{
	if (!*prefixes)
		return true;
	for (; *prefixes; prefixes++)
		if (strncmp(name, *prefixes, strlen(*prefixes)) == 0)
			return true;
	return false;
}

/* Seeds in the outer loop: every scenario has had some when time is up. */
static _Noreturn void run_share(const struct task *task)
{
	struct child child = { .task = task, .progress = &task->progress[task->job] };

	child.report = open_memstream(&child.said, &child.said_bytes);
	for (uint64_t i = task->job; i < task->count; i += task->jobs)
		for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
			for (const struct sim_scenario *at = tables[t]; at->name; at++)
				if (is_wanted(at->name, task->names))
					run_seed(&child, at, task->first + i);
	exit(0);
}

/* ---- All of them -------------------------------------------------------- */

static int say_how_to_repeat(const struct progress *progress, int status)
{
	if (WIFSIGNALED(status))
		fprintf(stderr, "sim: %s\n",
			WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
	fprintf(stderr, "repeat it: WEIR_SIM_SEED=%llu build/tests/sim %s\n",
		(unsigned long long)progress->seed, progress->name);
	return 1;
}

static int run_all(struct task *task)
{
	struct progress sum = { .name = "" };
	pid_t pids[JOBS_MAX];
	int failed = 0, status;

	for (task->job = 0; task->job < task->jobs; task->job++)
		if ((pids[task->job] = fork()) == 0)
			run_share(task);
	for (unsigned i = 0; i < task->jobs; i++) {
		const struct progress *progress = &task->progress[i];
		if (waitpid(pids[i], &status, 0) == pids[i] && status != 0)
			failed = say_how_to_repeat(progress, status);
		sum.runs += progress->runs;
		sum.steps += progress->steps;
		sum.faults += progress->faults;
		sum.refused += progress->refused;
	}
	printf("sim: %llu runs, %llu steps, %llu faults, %llu runs ended with an error of their "
	       "own%s\n",
	       (unsigned long long)sum.runs, (unsigned long long)sum.steps,
	       (unsigned long long)sum.faults, (unsigned long long)sum.refused,
	       failed ? "; FAILED" : "");
	return failed;
}

/* "echo@12-task" as the runner has printed it. */
static int repeat(const char *name, uint64_t seed)
{
	const char *cut = name + strcspn(name, "+@");
	enum kind kind = *cut == '+' ? FAILURES : *cut == '@' ? CANCEL_ALL : PLAIN;
	char *end = NULL;
	uint64_t at = *cut == '@' ? strtoull(cut + 1, &end, 10) : 0;
	struct weir_sim_result result;
	struct progress progress;

	if (end && *end)
		kind = CANCEL_TASK;
	for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
		for (const struct sim_scenario *scenario = tables[t]; scenario->name; scenario++) {
			if (strlen(scenario->name) != (size_t)(cut - name) ||
			    strncmp(scenario->name, name, (size_t)(cut - name)) != 0)
				continue;
			int err = run_once(scenario, &progress, seed, kind, at, stderr, &result);
			printf("%s, seed %llu: %s, hash %016llx, %llu steps\n", name,
			       (unsigned long long)seed, err < 0 ? weir_errname(err) : "good",
			       (unsigned long long)result.hash, (unsigned long long)result.steps);
			return err < 0;
		}
	}
	fprintf(stderr, "no such scenario: %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	const char *seed = getenv("WEIR_SIM_SEED");
	struct task task = { .first = 1, .count = 10000 };
	int option;

	task.jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	while ((option = getopt(argc, argv, "n:f:j:")) != -1) {
		uint64_t value = optarg ? strtoull(optarg, NULL, 10) : 0;
		if (option == 'n')
			task.count = value;
		else if (option == 'f')
			task.first = value;
		else if (option == 'j')
			task.jobs = (unsigned)value;
		else
			return 2;
	}
	task.names = argv + optind;
	if (seed && task.names[0])
		return repeat(task.names[0], strtoull(seed, NULL, 10));
	if (task.jobs > JOBS_MAX)
		task.jobs = JOBS_MAX;
	task.progress = mmap(NULL, JOBS_MAX * sizeof(struct progress), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return task.progress == MAP_FAILED ? 2 : run_all(&task);
}
