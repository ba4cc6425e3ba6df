/* SPDX-License-Identifier: MIT */
/*
 * sim_ending.c: scenarios of things that end while others are at them: objects that are taken away
 * by the first who was let on, channels that go while a batch is under way, generators that are
 * cancelled while one waits for an item.
 */
#include "sim.h"

/* ---- Generators --------------------------------------------------------- */

enum { ITEMS = 12, CONSUMERS = 2 };

struct series {
	struct weir_gen gen;
	unsigned made, fetched, last;
	bool is_over;	/* its function has returned */
	bool is_closed; /* its scope is left */
};

static int dawdle(void)
{
	return pick(3) ? 0 : weir_sleep(some_time());
}

/* When it is cancelled it takes its time. */
static int make_items(struct weir_gen *gen, void *arg)
{
	struct series *series = arg;
	unsigned item;
	int err = 0;

	for (item = 1; item <= ITEMS && err == 0; item++) {
		err = dawdle();
		series->made = item;
		int shown = weir_gen_yield(gen, &item);
		err = err < 0 ? err : shown;
	}
	if (err < 0 && pick(2)) {
		WEIR_SHIELD(shield, WEIR_SEC);
		(void)weir_sleep(some_time());
	}
	series->is_over = true;
	return err;
}

/* Each item once, in order; and no end before the end. */
static int fetch_items(void *arg)
{
	struct series *series = arg;
	int err = 0;

	while (err == 0 || err == -ETIME || err == -EBUSY) {
		void *item = NULL;
		{
			WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
			err = weir_gen_next(&series->gen, &item);
		}
		if (err == 0) {
			claim(series->is_over);
			break;
		}
		if (err == 1) {
			unsigned number = *(unsigned *)item;
			claim(number > series->last && number <= series->made);
			series->last = number;
			series->fetched++;
			err = dawdle();
		} else if (err == -EBUSY || err == -ETIME) {
			if (series->is_closed)
				return 0;
			err = weir_sleep(1 + some_time());
		}
	}
	return depended_on(err);
}

static int generators(void *arg)
{
	struct series series = { .made = 0 };
	bool is_cut = pick(2);
	int err;

	(void)arg;
	WEIR_SCOPE(consumers, WEIR_FOREVER);
	{
		WEIR_SCOPE(scope, is_cut ? some_time() : WEIR_FOREVER);
		err = weir_gen_open(&series.gen, &scope, make_items, &series);
		for (int i = 0; i < CONSUMERS && err == 0; i++)
			err = weir_spawn(&consumers, fetch_items, &series);
		if (err == 0)
			err = is_cut ? weir_sleep(WEIR_SEC) : weir_scope_wait(&consumers);
	}
	series.is_closed = true;
	claim(err < 0 || series.fetched == ITEMS || !sim_is_plain);
	if (is_cut && err == -ETIME)
		err = 0;
	return err < 0 ? err : weir_scope_wait(&consumers);
}

/* ---- Letting many go ---------------------------------------------------- */

enum { AT_ONCE = 64 }; /* are let go under one lock */

struct hall {
	struct weir_event door;
	struct weir_barrier barrier;
	struct weir_scope *scope;
	bool is_closed;
	unsigned let_on;
};

/* The first who comes through ends the door, and has something else there; others may stand in it.
 */
static int come_through(void *arg)
{
	struct hall *hall = arg;
	int err = weir_event_wait(&hall->door);

	hall->let_on += err == 0;
	if (err == 0 && !hall->is_closed) {
		hall->is_closed = true;
		weir_event_done(&hall->door);
		memset(&hall->door, 0xa5, sizeof hall->door);
	}
	return err == -EPIPE ? 0 : err;
}

static int letting_go(void *arg)
{
	struct hall hall = { .let_on = 0 };
	unsigned count = AT_ONCE + 2 + (unsigned)pick(8);
	int err = 0;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < count && err == 0; i++)
		err = weir_spawn(&scope, come_through, &hall, .worker = some_worker());
	if (err == 0)
		err = weir_sleep(10 * WEIR_SEC); /* all of them wait by then */
	if (err == 0)
		weir_event_set(&hall.door);
	if (err == 0)
		err = weir_scope_wait(&scope);
	claim(err < 0 || hall.let_on == count || !sim_is_plain);
	return err;
}

/* The first who comes through has all the others cancelled: they have come all the same. */
static int come_in_time(void *arg)
{
	struct hall *hall = arg;
	int err = weir_barrier_wait(&hall->barrier);

	claim(err >= 0 || !sim_is_plain);
	hall->let_on += err >= 0;
	if (err >= 0 && !hall->is_closed) {
		hall->is_closed = true;
		weir_scope_cancel(hall->scope);
	}
	return depended_on(err < 0 ? err : 0);
}

static int coming_in_time(void *arg)
{
	struct hall hall = { .let_on = 0 };
	unsigned count = AT_ONCE + 2 + (unsigned)pick(8);
	int err = 0;

	(void)arg;
	weir_barrier_init(&hall.barrier, count);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	hall.scope = &scope;
	for (unsigned i = 0; i < count && err == 0; i++)
		err = weir_spawn(&scope, come_in_time, &hall, .worker = some_worker());
	if (err == 0 || hall.is_closed)
		err = weir_scope_wait(&scope);
	if (hall.is_closed && err == -ECANCELED)
		err = 0;
	claim(err < 0 || hall.let_on == count || !sim_is_plain);
	return err;
}

/* ---- Batches ------------------------------------------------------------ */

enum { BATCH = 4 };

struct batch {
	weir_chan *chan;
	ssize_t moved;
	bool sends, is_over;
};

static int move_batch(void *arg)
{
	struct batch *batch = arg;
	unsigned items[BATCH] = { 1, 2, 3, 4 };

	batch->moved = batch->sends ? weir_chan_send_many(batch->chan, items, BATCH)
				    : weir_chan_recv_many(batch->chan, items, BATCH);
	batch->is_over = true;
	return 0;
}

/* Who has given it an item, or room, frees the channel before it has noticed. */
static int batches(void *arg)
{
	struct batch batch = { .chan = weir_chan_new(sizeof(unsigned), 1), .sends = pick(2) };
	unsigned item = 1;
	int err = batch.chan ? 0 : -ENOMEM;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	if (err == 0)
		err = weir_spawn(&scope, move_batch, &batch, .worker = some_worker());
	if (err == 0 && !batch.sends)
		claim(weir_chan_try_send(batch.chan, &item) == 0);
	while (err == 0 && !batch.is_over && weir_chan_len(batch.chan) == !batch.sends)
		err = weir_sleep(some_time());
	if (err == 0 && batch.sends && weir_chan_try_recv(batch.chan, &item) == 0)
		claim(item == 1);
	if (err < 0) /* it may not have begun: let it end first */
		weir_scope_close(&scope);
	weir_chan_free(batch.chan);
	if (err == 0)
		err = weir_scope_wait(&scope);
	claim(err < 0 || !sim_is_plain || batch.moved >= 1);
	claim(batch.moved <= (batch.sends ? 3 : 1));
	return err;
}

const struct sim_scenario sim_ending_scenarios[] = {
	{ "generators", generators },
	{ "letting_go", letting_go },
	{ "coming_in_time", coming_in_time },
	{ "batches", batches },
	{ NULL, NULL },
};
