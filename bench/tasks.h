/* SPDX-License-Identifier: MIT */
/*
 * tasks.h: what the benchmarks of tasks share: running in a runtime, and the channels that several
 * of them measure. A header, because what is linked to every benchmark uses nothing of weir.
 */
#ifndef BENCH_TASKS_H
#define BENCH_TASKS_H

#include <weir/weir.h>

#include "bench.h"

struct bench_row {
	const char *name; /* NULL: the end of the table */
	bench_fn fn;
};

static inline void bench_add_rows(struct bench *bench, const struct bench_row *rows)
{
	for (; rows->name; rows++)
		bench_add(bench, rows->name, rows->fn, NULL);
}

/* A main function for bench_run_tasks(). */
static inline int bench_run_in_task(void *bench)
{
	bench_run(bench);
	return 0;
}

/* Runs `fn`, which calls bench_run(), and prints. Returns the exit code. */
static inline int bench_run_tasks(struct bench *bench, weir_fn fn, unsigned workers)
{
	int err = weir_run(fn, bench, .workers = workers);

	if (err < 0) {
		fprintf(stderr, "%s: %s\n", bench->program, weir_strerror(err));
		return 1;
	}
	return bench_report(bench);
}

/* ---- Channels ------------------------------------------------------------------------------- */

struct stream {
	weir_chan *to;
	weir_chan *back;
	unsigned items;
};

static inline int send_all(void *arg)
{
	const struct stream *stream = arg;

	for (uint64_t i = 0; i < stream->items; i++) {
		int err = weir_chan_send(stream->to, &i);
		if (err < 0)
			return err;
	}
	return 0;
}

static inline int answer_all(void *arg)
{
	const struct stream *stream = arg;
	uint64_t item;
	int err;

	while ((err = weir_chan_recv(stream->to, &item)) == 0) {
		err = weir_chan_send(stream->back, &item);
		if (err < 0)
			return err;
	}
	return err == -EPIPE ? 0 : err;
}

/* There and back, to a task on `worker`; one operation is a round trip. */
static inline uint64_t round_trips(unsigned trips, unsigned worker)
{
	weir_auto_chan to = weir_chan_new(sizeof(uint64_t), 1);
	weir_auto_chan back = weir_chan_new(sizeof(uint64_t), 1);
	struct stream stream = { to, back, 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (!to || !back ||
	    weir_spawn(&scope, answer_all, &stream, .worker = WEIR_ON_WORKER(worker)) < 0)
		return 0;
	for (uint64_t i = 0, item; i < trips; i++) {
		if (weir_chan_send(to, &i) < 0 || weir_chan_recv(back, &item) < 0 || item != i)
			return 0;
	}
	weir_chan_close(to);
	return weir_scope_wait(&scope) < 0 ? 0 : trips;
}

/* From tasks on the workers in turn, the last worker first, to this one. */
static inline uint64_t stream_items(unsigned items, unsigned senders, size_t capacity,
				    unsigned workers)
{
	weir_auto_chan to = weir_chan_new(sizeof(uint64_t), capacity);
	struct stream stream = { to, NULL, items / senders };
	uint64_t item, all = (uint64_t)stream.items * senders;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (unsigned i = 0; i < senders; i++)
		if (!to || weir_spawn(&scope, send_all, &stream,
				      .worker = WEIR_ON_WORKER((workers - 1 + i) % workers)) < 0)
			return 0;
	for (uint64_t i = 0; i < all; i++)
		if (weir_chan_recv(to, &item) < 0)
			return 0;
	return weir_scope_wait(&scope) < 0 ? 0 : all;
}

#endif
