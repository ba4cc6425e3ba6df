/* SPDX-License-Identifier: MIT */
/*
 * procstat.h: what a process, and everybody else, used of the machine.
 *
 * Two readings and their difference make a figure. CPU time comes from the process's CPU clock,
 * which the scheduler keeps to the nanosecond for all its threads, dead ones included; the
 * machine's busy time comes from /proc/stat and is good to about ten milliseconds. Work the kernel
 * does for the process in interrupt context is charged to whichever thread it interrupted.
 */
#ifndef BENCH_PROCSTAT_H
#define BENCH_PROCSTAT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct procstat {
	int64_t cpu_ns;	      /* user and system, all threads */
	uint64_t sleeps;      /* voluntary context switches: times a thread went to sleep */
	uint64_t preemptions; /* involuntary ones */
	int64_t rss_bytes;
};

/* Reads process `pid`. Returns 0, -ESRCH or the error of reading /proc. */
int procstat_read(pid_t pid, struct procstat *ret);

struct machstat {
	int64_t busy_ns;  /* all CPUs: user, nice, system, interrupts */
	int64_t steal_ns; /* taken by the host */
};

/* Returns 0 or the error of reading /proc/stat. */
int machstat_read(struct machstat *ret);

/*
 * Counts how often a process comes by a tracepoint of the kernel. Needs tracefs, and root or
 * perf_event_paranoid <= -1; it slows each passage down a little, so it is never on while time is
 * measured.
 */
#define TRACE_SYSCALLS "raw_syscalls/sys_enter"
#define TRACE_CQES     "io_uring/io_uring_complete" /* completions posted to its rings */

struct trace_counter {
	int fds[256]; /* one for each thread alive at the start; their children are inherited */
	unsigned fd_count;
	uint64_t tracepoint;
};

/* Starts counting. Returns 0 or the error that made it impossible; nothing is held then. */
int trace_counter_open(struct trace_counter *counter, const char *tracepoint, pid_t pid);
/* The count so far. */
uint64_t trace_counter_read(const struct trace_counter *counter);
void trace_counter_close(struct trace_counter *counter);

#endif
