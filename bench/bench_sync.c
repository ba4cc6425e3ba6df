/* SPDX-License-Identifier: MIT */
/*
 * bench_sync.c: what tasks that wait for each other cost: selects, joins, watch and broadcast on
 * one worker, and channels, locks and oneshots between tasks of two.
 *
 *   bench_sync [--rounds N] [--csv] [FILTER]
 *
 * Names that begin with two_ have one party on each of two workers: there the wake-ups count, and a
 * machine with fewer than two free CPUs measures its scheduler. bench_suite.c has what Tokio's own
 * benchmarks measure.
 */
#include "tasks.h"

enum {
	ITEMS = 100000,
	TRIPS = 5000,
	TURNS = 50000,
	READERS = 4,
	BATCH = 32,
};

/* ---- select -------------------------------------------------------------------------------- */

/* Two channels, one of them ready. */
static uint64_t select_ready(void *arg)
{
	weir_auto_chan empty = weir_chan_new(sizeof(uint64_t), 1);
	weir_auto_chan full = weir_chan_new(sizeof(uint64_t), 1);
	uint64_t item = 0;
	(void)arg;
	for (unsigned i = 0; i < TURNS; i++) {
		struct weir_case cases[] = { weir_case_recv(empty, &item),
					     weir_case_recv(full, &item) };
		if (weir_chan_try_send(full, &item) < 0 || weir_select(cases, 2) != 1)
			return 0;
	}
	return TURNS;
}

/* A round trip that ends in a select of two channels and a timer, which parks. */
static uint64_t select_parked(void *arg)
{
	weir_auto_chan to = weir_chan_new(sizeof(uint64_t), 1);
	weir_auto_chan back = weir_chan_new(sizeof(uint64_t), 1);
	weir_auto_chan never = weir_chan_new(sizeof(uint64_t), 1);
	struct stream stream = { to, back, 0 };
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	if (weir_spawn(&scope, answer_all, &stream) < 0)
		return 0;
	for (uint64_t i = 0, item; i < TURNS; i++) {
		struct weir_case cases[] = { weir_case_recv(never, &item),
					     weir_case_recv(back, &item),
					     weir_case_timer(10 * WEIR_SEC) };
		if (weir_chan_send(to, &i) < 0 || weir_select(cases, 3) != 1)
			return 0;
	}
	weir_chan_close(to);
	return weir_scope_wait(&scope) < 0 ? 0 : TURNS;
}

/* ---- one to another ------------------------------------------------------------------------ */

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static uint64_t join_result(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < TURNS; i++) {
		struct weir_join join;
		int result;
		if (weir_spawn(&scope, nothing, NULL, .join = &join) < 0 ||
		    weir_join_wait(&join, &result) < 0)
			return 0;
		if (weir_scope_wait(&scope) < 0) /* the join is borrowed until then */
			return 0;
	}
	return TURNS;
}

static int read_broadcast(void *arg)
{
	struct weir_reader reader;
	uint64_t item;
	int err;
	weir_reader_init(&reader, arg);
	while ((err = weir_reader_recv(&reader, &item)) == 0)
		;
	return err == -EPIPE ? 0 : err;
}

/* Four readers; one operation is one item read. */
static uint64_t broadcast(void *arg)
{
	weir_auto_broadcast all = weir_broadcast_new(sizeof(uint64_t), 64);
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < READERS; i++) {
		if (weir_spawn(&scope, read_broadcast, all) < 0)
			return 0;
	}
	for (uint64_t i = 0; i < TURNS; i++) {
		if ((i % BATCH == 0 && weir_yield() < 0) || weir_broadcast_send(all, &i) < 0)
			return 0;
	}
	weir_broadcast_close(all);
	return weir_scope_wait(&scope) < 0 ? 0 : (uint64_t)TURNS * READERS;
}

static int follow(void *arg)
{
	uint64_t version = 0, value;
	int err;
	while ((err = weir_watch_wait(arg, &version, &value)) == 0)
		;
	return err == -EPIPE ? 0 : err;
}

/* One operation is a change and its arrival. */
static uint64_t watch(void *arg)
{
	uint64_t value = 0;
	weir_auto_watch watched = weir_watch_new(sizeof value, &value);
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	if (weir_spawn(&scope, follow, watched) < 0)
		return 0;
	for (; value < TURNS; value++) {
		weir_watch_set(watched, &value);
		if (weir_yield() < 0)
			return 0;
	}
	weir_watch_close(watched);
	return weir_scope_wait(&scope) < 0 ? 0 : TURNS;
}

/* ---- two workers --------------------------------------------------------------------------- */

static int send_batches(void *arg)
{
	const struct stream *stream = arg;
	uint64_t batch[BATCH] = { 0 };
	for (unsigned i = 0; i < stream->items; i += BATCH) {
		ssize_t n = weir_chan_send_many(stream->to, batch, BATCH);
		if (n < 0)
			return (int)n;
	}
	return 0;
}

static uint64_t stream_from(weir_fn sender, unsigned senders, size_t capacity)
{
	weir_auto_chan to = weir_chan_new(sizeof(uint64_t), capacity);
	struct stream stream = { to, NULL, ITEMS / senders / BATCH * BATCH };
	uint64_t items = (uint64_t)stream.items * senders, batch[BATCH];
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < senders; i++) {
		if (weir_spawn(&scope, sender, &stream, .worker = WEIR_ON_WORKER(1)) < 0)
			return 0;
	}
	for (uint64_t got = 0; got < items;) {
		ssize_t n = sender == send_all ? weir_chan_recv(to, batch)
					       : weir_chan_recv_many(to, batch, BATCH);
		if (n < 0)
			return 0;
		got += sender == send_all ? 1 : (uint64_t)n;
	}
	return weir_scope_wait(&scope) < 0 ? 0 : items;
}

static uint64_t two_chan_spsc(void *arg)
{
	(void)arg;
	return stream_from(send_all, 1, 128);
}

static uint64_t two_chan_mpsc(void *arg)
{
	(void)arg;
	return stream_from(send_all, 5, 128);
}

static uint64_t two_chan_batches(void *arg)
{
	(void)arg;
	return stream_from(send_batches, 1, 128);
}

static uint64_t two_chan_pingpong(void *arg)
{
	(void)arg;
	return round_trips(TRIPS, 1);
}

static int lock_often(void *arg)
{
	for (unsigned i = 0; i < TURNS; i++) {
		int err = weir_mutex_lock(arg);
		if (err < 0)
			return err;
		weir_mutex_unlock(arg);
	}
	return 0;
}

static uint64_t two_mutex(void *arg)
{
	struct weir_mutex mutex;
	(void)arg;
	weir_mutex_init(&mutex);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < 2; i++) {
		if (weir_spawn(&scope, lock_often, &mutex, .worker = WEIR_ON_WORKER(i)) < 0)
			return 0;
	}
	int err = weir_scope_wait(&scope);
	weir_mutex_done(&mutex);
	return err < 0 ? 0 : 2 * TURNS;
}

/* ---- all ----------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	static struct bench bench;
	static const struct bench_row rows[] = {
		{ "select_ready", select_ready },
		{ "select_parked", select_parked },
		{ "join_result", join_result },
		{ "broadcast_4", broadcast },
		{ "watch", watch },
		{ "two_chan_spsc_128", two_chan_spsc },
		{ "two_chan_mpsc_128", two_chan_mpsc },
		{ "two_chan_batches", two_chan_batches },
		{ "two_chan_pingpong", two_chan_pingpong },
		{ "two_mutex", two_mutex },
		{ NULL, NULL },
	};
	bench_init(&bench, "bench_sync", argc, argv);
	bench_add_rows(&bench, rows);
	return bench_run_tasks(&bench, bench_run_in_task, 2);
}
