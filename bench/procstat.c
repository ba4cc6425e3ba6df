/* SPDX-License-Identifier: MIT */
/*
 * procstat.c: readings of /proc and of CPU clocks for procstat.h.
 */
#include "procstat.h"

#include <dirent.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef int (*task_fn)(pid_t tid, void *arg);

/* Calls fn for every thread of the process until one returns an error. */
static int for_each_task(pid_t pid, task_fn fn, void *arg)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	int err = 0;
	struct dirent *entry;
	while (err == 0 && (entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] != '.')
			err = fn((pid_t)atoi(entry->d_name), arg);
	}
	closedir(dir);
	return err;
}

/* A thread that ended between readdir() and here is not an error; its switches are lost. */
static int add_switches(pid_t tid, void *arg)
{
	struct procstat *stat = arg;
	char path[64], line[128];
	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	unsigned long long count;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "voluntary_ctxt_switches: %llu", &count) == 1)
			stat->sleeps += count;
		else if (sscanf(line, "nonvoluntary_ctxt_switches: %llu", &count) == 1)
			stat->preemptions += count;
	}
	fclose(file);
	return 0;
}

static int read_rss(pid_t pid, int64_t *ret)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? -ESRCH : -errno;
	long long pages;
	int got = fscanf(file, "%*d %lld", &pages);
	fclose(file);
	if (got != 1)
		return -EIO;
	*ret = pages * sysconf(_SC_PAGESIZE);
	return 0;
}

int procstat_read(pid_t pid, struct procstat *ret)
{
	struct procstat stat = { 0 };
	clockid_t clock;
	struct timespec ts;
	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
		return -ESRCH;
	stat.cpu_ns = ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
	int err = read_rss(pid, &stat.rss_bytes);
	if (err < 0)
		return err;
	err = for_each_task(pid, add_switches, &stat);
	if (err < 0)
		return err;
	*ret = stat;
	return 0;
}

int machstat_read(struct machstat *ret)
{
	FILE *file = fopen("/proc/stat", "re");
	if (!file)
		return -errno;
	long long user, nice, sys, idle, iowait, irq, softirq, steal;
	int got = fscanf(file, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &user, &nice, &sys,
			 &idle, &iowait, &irq, &softirq, &steal);
	fclose(file);
	if (got != 8)
		return -EIO;
	int64_t tick_ns = INT64_C(1000000000) / sysconf(_SC_CLK_TCK);
	ret->busy_ns = (user + nice + sys + irq + softirq) * tick_ns;
	ret->steal_ns = steal * tick_ns;
	return 0;
}

static int tracepoint_id(const char *name, uint64_t *ret)
{
	static const char *const folders[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };
	char path[128];
	FILE *file = NULL;
	for (unsigned i = 0; i < 2 && !file; i++) {
		snprintf(path, sizeof(path), "%s/events/%s/id", folders[i], name);
		file = fopen(path, "re");
	}
	if (!file)
		return -errno;
	unsigned long long id;
	int got = fscanf(file, "%llu", &id);
	fclose(file);
	if (got != 1)
		return -EIO;
	*ret = id;
	return 0;
}

static int count_task(pid_t tid, void *arg)
{
	struct trace_counter *counter = arg;
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = counter->tracepoint,
		.inherit = 1,
	};
	if (counter->fd_count == sizeof(counter->fds) / sizeof(counter->fds[0]))
		return -E2BIG;
	int fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return errno == ESRCH ? 0 : -errno;
	counter->fds[counter->fd_count++] = fd;
	return 0;
}

int trace_counter_open(struct trace_counter *counter, const char *tracepoint, pid_t pid)
{
	counter->fd_count = 0;
	int err = tracepoint_id(tracepoint, &counter->tracepoint);
	if (err == 0)
		err = for_each_task(pid, count_task, counter);
	if (err < 0)
		trace_counter_close(counter);
	return err;
}

uint64_t trace_counter_read(const struct trace_counter *counter)
{
	uint64_t sum = 0, count;
	for (unsigned i = 0; i < counter->fd_count; i++) {
		if (read(counter->fds[i], &count, sizeof(count)) == (ssize_t)sizeof(count))
			sum += count;
	}
	return sum;
}

void trace_counter_close(struct trace_counter *counter)
{
	while (counter->fd_count > 0)
		close(counter->fds[--counter->fd_count]);
}
