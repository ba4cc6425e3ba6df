/* SPDX-License-Identifier: MIT */
/*
 * bench_mpsc.c: Tokio's sync_mpsc benchmarks on weir, all of them.
 *
 *   bench_mpsc [--rounds N] [--csv] [FILTER]      WEIR_WORKERS (1): how many workers
 *
 * The counts and the sizes of the items are theirs; rivals/tokio's tokio_mpsc is the same program
 * for Tokio. Both grow by blocks, Tokio's of 32 items, weir's of 1 to 16 KiB or one item: that is
 * what the create and send rows compare. The rows of unbounded channels have a channel with room
 * for a million here, because in weir every queue has a bound.
 */
#include <stdlib.h>

#include <weir/weir.h>

#include "tasks.h"

enum {
	SENDERS = 5,
	MESSAGES = 1000, /* of each sender */
	ALL = SENDERS * MESSAGES,
	ROOMY = 1000000,
	TIGHT = 100,
	MEDIUM = 512, /* bytes of an item */
	LARGE = 32768,
	SEND_ROOM = 1000,
	TURNS = 1000,
};

struct channel {
	size_t item_bytes, capacity;
};

static uint64_t create(void *arg)
{
	const struct channel *kind = arg;
	for (unsigned i = 0; i < TURNS; i++) {
		weir_chan *chan = weir_chan_new(kind->item_bytes, kind->capacity);
		if (!chan)
			return 0;
		weir_chan_free(chan);
	}
	return TURNS;
}

/* A new channel, one item in and out. */
static uint64_t send_one(void *arg)
{
	static char in[LARGE], out[LARGE];
	const struct channel *kind = arg;
	for (unsigned i = 0; i < TURNS; i++) {
		weir_auto_chan chan = weir_chan_new(kind->item_bytes, kind->capacity);
		if (!chan || weir_chan_send(chan, in) < 0 || weir_chan_recv(chan, out) < 0)
			return 0;
	}
	return TURNS;
}

static int send_messages(void *arg)
{
	weir_chan *chan = arg;
	for (uint64_t i = 0; i < MESSAGES; i++) {
		int err = weir_chan_send(chan, &i);
		if (err < 0)
			return err;
	}
	return 0;
}

static uint64_t receive_all(weir_chan *chan)
{
	uint64_t message;
	for (unsigned i = 0; i < ALL; i++) {
		if (weir_chan_recv(chan, &message) < 0)
			return 0;
	}
	return ALL;
}

/* As many at a time as there are. */
static uint64_t receive_many(weir_chan *chan)
{
	static uint64_t messages[ALL];
	for (size_t done = 0; done < ALL;) {
		ssize_t count = weir_chan_recv_many(chan, messages, ALL);
		if (count < 0)
			return 0;
		done += (size_t)count;
	}
	return ALL;
}

typedef uint64_t (*receive_fn)(weir_chan *chan);

static uint64_t contention(size_t capacity, receive_fn receive)
{
	weir_auto_chan chan = weir_chan_new(sizeof(uint64_t), capacity);
	if (!chan)
		return 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < SENDERS; i++) {
		if (weir_spawn(&scope, send_messages, chan) < 0)
			return 0;
	}
	uint64_t done = receive(chan);
	return weir_scope_wait(&scope) < 0 ? 0 : done;
}

static uint64_t contention_roomy(void *arg)
{
	(void)arg;
	return contention(ROOMY, receive_all);
}

static uint64_t contention_roomy_many(void *arg)
{
	(void)arg;
	return contention(ROOMY, receive_many);
}

static uint64_t contention_full(void *arg)
{
	(void)arg;
	return contention(TIGHT, receive_all);
}

static uint64_t contention_full_many(void *arg)
{
	(void)arg;
	return contention(TIGHT, receive_many);
}

/* All is sent before anything is received, by one task. */
static uint64_t uncontended_by(receive_fn receive)
{
	weir_auto_chan chan = weir_chan_new(sizeof(uint64_t), ROOMY);
	for (unsigned i = 0; i < SENDERS; i++) {
		if (!chan || send_messages(chan) < 0)
			return 0;
	}
	return receive(chan);
}

static uint64_t uncontended(void *arg)
{
	(void)arg;
	return uncontended_by(receive_all);
}

static uint64_t uncontended_many(void *arg)
{
	(void)arg;
	return uncontended_by(receive_many);
}

static void add_all(struct bench *bench)
{
	static struct channel least = { MEDIUM, 1 }, tight = { MEDIUM, TIGHT };
	static struct channel vast = { MEDIUM, 100000 }, medium = { MEDIUM, SEND_ROOM };
	static struct channel large = { LARGE, SEND_ROOM };
	bench_add(bench, "mpsc_create_1", create, &least);
	bench_add(bench, "mpsc_create_100", create, &tight);
	bench_add(bench, "mpsc_create_100000", create, &vast);
	bench_add(bench, "mpsc_send_medium", send_one, &medium);
	bench_add(bench, "mpsc_send_large", send_one, &large);
	bench_add(bench, "mpsc_contention", contention_roomy, NULL);
	bench_add(bench, "mpsc_contention_many", contention_roomy_many, NULL);
	bench_add(bench, "mpsc_contention_full", contention_full, NULL);
	bench_add(bench, "mpsc_contention_full_many", contention_full_many, NULL);
	bench_add(bench, "mpsc_contention_unbounded", contention_roomy, NULL);
	bench_add(bench, "mpsc_contention_unbounded_many", contention_roomy_many, NULL);
	bench_add(bench, "mpsc_uncontended", uncontended, NULL);
	bench_add(bench, "mpsc_uncontended_many", uncontended_many, NULL);
	bench_add(bench, "mpsc_uncontended_unbounded", uncontended, NULL);
	bench_add(bench, "mpsc_uncontended_unbounded_many", uncontended_many, NULL);
}

int main(int argc, char **argv)
{
	static struct bench bench;
	const char *text = getenv("WEIR_WORKERS");
	bench_init(&bench, "bench_mpsc", argc, argv);
	add_all(&bench);
	return bench_run_tasks(&bench, bench_run_in_task, text ? (unsigned)atoi(text) : 1);
}
