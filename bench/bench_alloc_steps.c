/* SPDX-License-Identifier: MIT */
/*
 * bench_alloc_steps: how many instructions a pair of alloc and free takes, and how many of them are
 * for statistics and for the control of the caches.
 *
 *   bench_alloc_steps [--csv]
 *
 * A child process runs the loop and is stepped through it, instruction by instruction, with ptrace:
 * exact, the same on every run, and unlike valgrind it does not make the allocator think that a
 * tool watches. The loop's own instructions are taken out by running it empty. "statistics" is the
 * difference to the same code compiled without its counter; "elsewhere" is what ran outside the
 * loop: misses, overflows, epochs and the law of adapt.c.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/alloc.h>

#include "alloc_pairs.h"
#include "alloc_rivals.h"
#include "bench.h"

ALLOC_PAIRS(counted)

enum { PAIRS = 100, RANDOM_PAIRS = 2000, WARM_PAIRS = 3000000 };

struct steps {
	double inside, outside; /* instructions per pair: of the loop's function, and of others */
};

static void empty_loop(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		void *volatile p = NULL;
		(void)p;
	}
}

static void child(alloc_pair_fn fn, size_t n, size_t warm)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 || weir_thread_attach() < 0)
		_exit(1);
	fn(warm);
	raise(SIGSTOP);
	fn(n);
	raise(SIGSTOP);
	_exit(0);
}

static unsigned long long where(pid_t pid)
{
	struct user_regs_struct registers;
#if defined(__x86_64__)
	if (ptrace(PTRACE_GETREGS, pid, NULL, &registers) == 0)
		return registers.rip;
#else
	(void)pid, (void)registers;
#endif
	return 0;
}

/* The function begins at `fn` and is shorter than `bytes`: others lie elsewhere. */
static int count(alloc_pair_fn fn, size_t bytes, size_t n, size_t warm, struct steps *ret)
{
	int status;
	unsigned long long begin = (unsigned long long)(uintptr_t)fn;
	double inside = 0, outside = 0, entered = 0;
	pid_t pid = fork();
	if (pid == 0)
		child(fn, n, warm);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
		return -1;
	for (;;) {
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 ||
		    waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
			return -1;
		if (WSTOPSIG(status) == SIGSTOP)
			break;
		bool in = where(pid) - begin < bytes;
		inside += in;
		entered = inside > 0;
		outside += entered && !in;
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	*ret = (struct steps){ inside / (double)n, outside / (double)n };
	return 0;
}

enum { FUNCTION_BYTES = 600 };

static int weigh(const char *name, alloc_pair_fn counted, alloc_pair_fn uncounted, size_t n,
		 size_t warm, double loop, bool csv)
{
	struct steps with, without;
	if (count(counted, FUNCTION_BYTES, n, warm, &with) < 0 ||
	    count(uncounted, FUNCTION_BYTES, n, warm, &without) < 0) {
		fprintf(stderr, "bench_alloc_steps: no tracing here\n");
		return -1;
	}
	double pair = with.inside - loop, statistics = with.inside - without.inside;
	printf(csv ? "%s,%.2f,%.2f,%.2f\n" : "%-22s%12.2f%12.2f%12.2f\n", name, pair, statistics,
	       with.outside);
	return 0;
}

int main(int argc, char **argv)
{
	const struct alloc_pairs *c = &alloc_pairs_counted, *u = &alloc_pairs_uncounted;
	bool csv = argc > 1 && strcmp(argv[1], "--csv") == 0;
	struct steps loop;
	alloc_run_on(0); /* both: a step is two switches */
	if (count(empty_loop, 64, PAIRS, PAIRS, &loop) < 0)
		return 1;
	bench_machine_line(stdout, csv ? "# " : "");
	printf(csv ? "%s,%s,%s,%s\n" : "%-22s%12s%12s%12s   instructions per pair\n", "pair",
	       "inlined", "statistics", "elsewhere");
	return weigh("64 B", c->fixed, u->fixed, PAIRS, PAIRS, loop.inside, csv) < 0 ||
	       weigh("64 B sized", c->fixed_sized, u->fixed_sized, PAIRS, PAIRS, loop.inside, csv) <
		       0 ||
	       weigh("1-5 KB", c->medium, u->medium, PAIRS, 8192, loop.inside, csv) < 0 ||
	       weigh("1-5 KB sized", c->medium_sized, u->medium_sized, PAIRS, 8192, loop.inside,
		     csv) < 0 ||
	       weigh("random, 1024 live", c->random, u->random, RANDOM_PAIRS, WARM_PAIRS, 0, csv) <
		       0;
}
