/* SPDX-License-Identifier: MIT */
/*
 * sim_channel.c: scenarios of a channel that grows and shrinks by blocks, while some wait for room,
 * some for items and some give up, and memory is refused now and then.
 */
#include "sim.h"

enum { SENDERS = 4, RECEIVERS = 3, EACH = 40, ITEM_BYTES = 1500 };

struct parcel {
	unsigned from, number;
	char body[ITEM_BYTES];
};

struct depot {
	weir_chan *chan;
	size_t capacity;
	unsigned next, sending, sent, received;
	unsigned char state[SENDERS][EACH];
};

enum { UNSENT, SENT, SKIPPED, RECEIVED };

/* By one of the three ways. */
static int send_one(struct depot *depot, const struct parcel *parcel)
{
	struct weir_case cases[] = { weir_case_send(depot->chan, parcel),
				     weir_case_timer(1 + some_time()) };
	int err;

	switch (pick(3)) {
	case 0:
		err = weir_chan_try_send(depot->chan, parcel);
		return err == -EAGAIN ? -ETIME : err;
	case 1:
		err = weir_select(cases, 2);
		return err < 0 ? err : err == 0 ? cases[0].result : -ETIME;
	default:
		return weir_chan_send(depot->chan, parcel);
	}
}

/* What was not sent must not come. */
static int send_parcels(struct depot *depot, unsigned from)
{
	static struct parcel parcels[SENDERS];
	struct parcel *parcel = &parcels[from];
	int err = 0;

	for (unsigned i = 0; i < EACH && err == 0; i++) {
		parcel->from = from;
		parcel->number = i;
		memset(parcel->body, (int)(from + i), ITEM_BYTES);
		depot->state[from][i] = SENT; /* it may be received before this task runs */
		{
			WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
			err = send_one(depot, parcel);
		}
		if (err == 0) {
			depot->sent++;
		} else {
			claim(depot->state[from][i] == SENT);
			depot->state[from][i] = SKIPPED;
		}
		if (err == -ENOMEM || err == -ETIME)
			err = 0;
		if (err == 0 && pick(12) == 0)
			err = weir_sleep(some_time());
	}
	if (--depot->sending == 0)
		weir_chan_close(depot->chan);
	return depended_on(err);
}

static void check(struct depot *depot, const struct parcel *parcel, unsigned *next)
{
	claim(parcel->from < SENDERS && parcel->number >= next[parcel->from]);
	for (size_t i = 0; i < ITEM_BYTES; i++)
		claim(parcel->body[i] == (char)(parcel->from + parcel->number));
	claim(depot->state[parcel->from][parcel->number] == SENT);
	depot->state[parcel->from][parcel->number] = RECEIVED;
	next[parcel->from] = parcel->number + 1;
	depot->received++;
}

static int receive_parcels(struct depot *depot)
{
	unsigned next[SENDERS] = { 0 };
	struct parcel parcels[4];
	ssize_t n = 0;

	while (n >= 0 || n == -ETIME) {
		{
			WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
			n = weir_chan_recv_many(depot->chan, parcels, 1 + pick(4));
		}
		for (ssize_t i = 0; i < n; i++)
			check(depot, &parcels[i], next);
		if (n > 0 && pick(6) == 0) {
			int err = weir_sleep(some_time());
			n = err < 0 ? err : n;
		}
	}
	return n == -EPIPE ? 0 : depended_on((int)n);
}

static int send_or_receive(void *arg)
{
	struct depot *depot = arg;
	unsigned who = depot->next++;

	return who < SENDERS ? send_parcels(depot, who) : receive_parcels(depot);
}

static int growing(void *arg)
{
	struct depot depot = { .capacity = 1 + pick(pick(2) ? 12 : 120), .sending = SENDERS };
	weir_auto_chan chan = weir_chan_new(sizeof(struct parcel), depot.capacity);
	int err = chan ? 0 : -ENOMEM;

	(void)arg;
	depot.chan = chan;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < SENDERS + RECEIVERS && err == 0; i++)
		err = weir_spawn(&scope, send_or_receive, &depot, .worker = some_worker());
	if (err == 0)
		err = weir_scope_wait(&scope);
	claim(depot.received <= depot.sent);
	claim(err < 0 || depot.received == depot.sent || !sim_is_plain);
	return err;
}

const struct sim_scenario sim_channel_scenarios[] = {
	{ "growing", growing },
	{ NULL, NULL },
};
