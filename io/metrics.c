/* SPDX-License-Identifier: MIT */
/*
 * metrics.c: everything that is counted, as OpenMetrics text: workers, serving, memory, odd events.
 *
 * The format wants all samples of a family together, so the table of families is the outer loop.
 * Each family reads the counters again: what is counted later comes first, as in runtime/stats.c.
 */
#include "io/io_internal.h"

#include <stddef.h>
#include <stdlib.h>

#include "runtime/count.h"

WEIR__SECTION_BOUNDS(const struct weir__odd_event, weir_odd_events);

struct family {
	const char *name;
	const char *help;
	bool is_gauge;
	size_t offset;
};

#define WORKER(field, is_gauge, help)                                                              \
	{                                                                                          \
		"weir_worker_" #field, help, is_gauge, offsetof(struct weir_worker_stats, field)   \
	}
static const struct family worker_families[] = {
	WORKER(wakes, false, "Wake-ups by other threads."),
	WORKER(wakes_io, false, "Sleeps that a completion ended."),
	WORKER(wakes_timer, false, "Sleeps that a task's timer ended."),
	WORKER(wakes_heap, false, "Sleeps that ended because memory was to be given back."),
	WORKER(wakes_other, false, "Sleeps that ended for another reason."),
	WORKER(parks, false, "Sleeps in the kernel."),
	WORKER(turns, false, "Trips round the loop."),
	WORKER(switches, false, "Task resumptions."),
	WORKER(spawns, false, "Tasks spawned."),
	WORKER(tasks, true, "Tasks alive."),
	WORKER(lingers_found, false, "Times a worker that looked out found something to do."),
	WORKER(lingers, false, "Times the worker looked out for something before it would sleep."),
	WORKER(rescues, false, "Times it rested because another worker had no CPU."),
	WORKER(steals, false, "Tasks taken from other workers before they started."),
	WORKER(stalls, false, "Times a task held the worker beyond WEIR_STALL_MS."),
	WORKER(enters, false, "System calls of the driver."),
	WORKER(submissions, false, "Operations handed to the kernel."),
	WORKER(completions, false, "Operations completed."),
	WORKER(timers_fired, false, "Timers fired."),
	WORKER(recv_empty, false, "Receives that found no buffer."),
	WORKER(cq_overflows, false, "Overflows of the completion queue."),
	WORKER(stale_completions, false, "Completions nobody waited for any more."),
};
#undef WORKER

#define SERVE(field, is_gauge, help)                                                               \
	{                                                                                          \
		"weir_serve_" #field, help, is_gauge, offsetof(struct weir_serve_stats, field)     \
	}
static const struct family serve_families[] = {
	SERVE(accepted, false, "Clients accepted."),
	SERVE(open, true, "Clients connected."),
	SERVE(failed, false, "Handlers that returned an error."),
	SERVE(accept_pauses, false, "Times accepting stopped for want of room."),
};
#undef SERVE

#define DATAGRAMS(field, help)                                                                     \
	{                                                                                          \
		"weir_datagrams_" #field, help, false,                                             \
			offsetof(struct weir__datagram_counts, field)                              \
	}
static const struct family datagram_families[] = {
	DATAGRAMS(received, "Datagrams that programs have taken."),
	DATAGRAMS(cut, "Datagrams received that were longer than their room."),
	DATAGRAMS(sent, "Datagrams sent."),
	DATAGRAMS(failed, "Datagrams that could not be sent."),
};
#undef DATAGRAMS
#define FILES(field, help)                                                                         \
	{                                                                                          \
		"weir_file_" #field, help, false, offsetof(struct weir_file_stats, field)          \
	}
static const struct family file_families[] = {
	FILES(reads, "Operations that read files."),
	FILES(writes, "Operations that wrote files."),
	FILES(read_bytes, "Bytes read from files."),
	FILES(written_bytes, "Bytes written to files."),
	FILES(others, "Files opened, closed, looked at, renamed and so on."),
	FILES(pooled, "Operations on files that held a thread of the pool."),
};
#undef FILES

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static void write_head(const char *name, const char *help, bool is_gauge, FILE *out)
{
	fprintf(out, "# TYPE %s %s\n# HELP %s %s\n", name, is_gauge ? "gauge" : "counter", name,
		help);
}

static unsigned long long value_of(const void *stats, const struct family *family)
{
	return *(const uint64_t *)((const char *)stats + family->offset);
}

static void write_workers(unsigned workers, FILE *out)
{
	for (size_t i = 0; i < COUNT_OF(worker_families); i++) {
		const struct family *family = &worker_families[i];

		write_head(family->name, family->help, family->is_gauge, out);
		for (unsigned worker = 0; worker < workers; worker++) {
			struct weir_worker_stats stats;
			if (weir_worker_stats_get((int)worker, &stats) == 0)
				fprintf(out, "%s%s{worker=\"%u\"} %llu\n", family->name,
					family->is_gauge ? "" : "_total", worker,
					value_of(&stats, family));
		}
	}
}

/* Families that have one sample each, in `stats`. */
static void write_sums(const struct family *families, size_t count, const void *stats, FILE *out)
{
	for (size_t i = 0; i < count; i++) {
		const struct family *family = &families[i];

		write_head(family->name, family->help, family->is_gauge, out);
		fprintf(out, "%s%s %llu\n", family->name, family->is_gauge ? "" : "_total",
			value_of(stats, family));
	}
}

static void write_serving(FILE *out)
{
	struct weir_serve_stats stats;

	weir_serve_stats_get(&stats);
	write_sums(serve_families, COUNT_OF(serve_families), &stats, out);
}

static void write_files(FILE *out)
{
	struct weir_file_stats stats;

	weir_file_stats_get(&stats);
	write_sums(file_families, COUNT_OF(file_families), &stats, out);
}

static void write_datagrams(const struct weir__runtime *runtime, FILE *out)
{
	for (size_t i = 0; i < COUNT_OF(datagram_families); i++) {
		const struct family *family = &datagram_families[i];
		unsigned long long sum = 0;

		for (unsigned at = 0; at < runtime->workers_count; at++) {
			const struct weir__io *io = weir__io_of_any(runtime->workers[at]);
			if (!io)
				continue;
			const char *counts = (const char *)&io->datagrams;
			sum += __atomic_load_n(
				(const uint64_t *)(const void *)(counts + family->offset),
				__ATOMIC_RELAXED);
		}
		write_head(family->name, family->help, false, out);
		fprintf(out, "%s_total %llu\n", family->name, sum);
	}
}

static void write_odd_events(FILE *out)
{
	const struct weir__odd_event *odd = __start_weir_odd_events;

	write_head("weir_odd_events", "What should not happen and did not hurt.", false, out);
	for (; odd < __stop_weir_odd_events; odd++)
		fprintf(out, "weir_odd_events_total{why=\"%s\",site=\"%s\"} %llu\n", odd->why,
			odd->site,
			(unsigned long long)__atomic_load_n(&odd->count, __ATOMIC_RELAXED));
}

static void write_stack(const char *family, bool is_gauge, const struct weir_stack_use *use,
			uint64_t value, FILE *out)
{
	static const char *const classes[] = { "default", "32K", "64K", "256K", "1M" };

	fprintf(out, "%s%s{site=\"%s\",stack=\"%s\"} %llu\n", family, is_gauge ? "" : "_total",
		use->site, classes[use->stack], (unsigned long long)value);
}

static int write_stacks(FILE *out)
{
	static const char deepest[] = "weir_stack_deepest_bytes",
			  measured[] = "weir_stack_measured";
	struct weir_stack_use *uses = calloc(WEIR_STACK_USES_MAX, sizeof *uses);

	if (!uses)
		return -ENOMEM;
	size_t count = weir_stack_uses_get(uses, WEIR_STACK_USES_MAX);
	write_head(deepest, "Most that a measured task has used of its stack, by spawn site.", true,
		   out);
	for (size_t i = 0; i < count; i++)
		write_stack(deepest, true, &uses[i], uses[i].deepest_bytes, out);
	write_head(measured, "Tasks measured.", false, out);
	for (size_t i = 0; i < count; i++)
		write_stack(measured, false, &uses[i], uses[i].measured, out);
	free(uses);
	return 0;
}

int weir_metrics_write(FILE *out)
{
	struct weir__worker *self = weir__worker_self();

	if (!self)
		return -EINVAL;
	write_workers(self->runtime->workers_count, out);
	write_serving(out);
	write_datagrams(self->runtime, out);
	write_files(out);
	write_odd_events(out);
	int err = write_stacks(out);
	if (err == 0)
		err = weir_mem_write_openmetrics(out);
	if (err < 0)
		return err;
	return fputs("# EOF\n", out) < 0 || fflush(out) != 0 || ferror(out) ? -EIO : 0;
}
