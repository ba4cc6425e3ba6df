/* SPDX-License-Identifier: MIT */
/*
 * sim_task.c: scenarios of tasks, scopes and channels: a scope ends after all of its tasks, with
 * the first error; every item is received once; nobody sleeps too short, and nobody for ever.
 */
#include "sim.h"

/* ---- Channels between workers ------------------------------------------- */

enum { PRODUCERS = 4, CONSUMERS = 3, ITEMS = 40 };

struct market {
	weir_chan *chan;
	unsigned char seen[PRODUCERS * ITEMS];
	unsigned next; /* producer */
	unsigned producing;
	unsigned received;
};

static int produce(void *arg)
{
	struct market *market = arg;
	unsigned first = market->next++ * ITEMS;
	int err = 0;

	for (unsigned i = 0; i < ITEMS && err == 0; i++) {
		unsigned item = first + i;
		err = weir_chan_send(market->chan, &item);
		if (err == 0 && pick(8) == 0)
			err = weir_sleep(some_time());
	}
	if (--market->producing == 0)
		weir_chan_close(market->chan);
	return depended_on(err);
}

/* With a deadline now and then: what was not received is there for the next. */
static int consume(void *arg)
{
	struct market *market = arg;
	unsigned item;
	int err = 0;

	while (err == 0 || err == -ETIME) {
		WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
		err = weir_chan_recv(market->chan, &item);
		if (err < 0)
			continue;
		claim(item < PRODUCERS * ITEMS && !market->seen[item]);
		market->seen[item] = 1;
		market->received++;
	}
	return depended_on(err == -EPIPE ? 0 : err);
}

static int run_market(void *arg)
{
	struct market *market = arg;
	int err = 0;

	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < PRODUCERS && err == 0; i++, market->producing += err == 0)
		err = weir_spawn(&scope, produce, market, .worker = some_worker());
	for (int i = 0; i < CONSUMERS && err == 0; i++)
		err = weir_spawn(&scope, consume, market, .worker = some_worker());
	return err == 0 ? weir_scope_wait(&scope) : err;
}

static int channels(void *arg)
{
	struct market market = { .chan = weir_chan_new(sizeof(unsigned), 1 + pick(5)) };
	weir_auto_chan chan = market.chan;

	(void)arg;
	if (!chan)
		return -ENOMEM;
	int err = run_market(&market);
	if (err == 0)
		claim(market.received == PRODUCERS * ITEMS || !sim_is_plain);
	return err;
}

/* ---- Storms ------------------------------------------------------------- */

struct storm {
	unsigned alive;
	unsigned depth;
};

/* On the stack of a task whose scope has its children: they must be gone before it. */
static int branch(void *arg)
{
	const struct storm *parent = arg;
	struct storm storm = { .depth = parent->depth - 1 };
	unsigned *alive = &((struct storm *)arg)->alive;
	int err = 0;

	++*alive;
	if (storm.depth > 0) {
		WEIR_SCOPE(scope, pick(3) ? WEIR_FOREVER : some_time());
		unsigned count = 1 + (unsigned)pick(3);
		for (unsigned i = 0; i < count && err == 0; i++)
			err = weir_spawn(&scope, branch, &storm, .worker = some_worker());
		if (pick(3) == 0)
			err = weir_sleep(some_time());
		if (pick(4) == 0)
			weir_scope_cancel(&scope);
		if (err == 0 && pick(3))
			err = weir_scope_wait(&scope);
	} else {
		err = weir_sleep(some_time());
	}
	claim(storm.alive == 0);
	--*alive;
	return err == -ETIME || err == -ECANCELED ? err : 0;
}

static int scope_storm(void *arg)
{
	struct storm storm = { .depth = 4 };
	int err = 0;

	(void)arg;
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (int i = 0; i < 5 && err == 0; i++)
			err = weir_spawn(&scope, branch, &storm, .worker = some_worker());
		if (err == 0)
			err = weir_scope_wait(&scope);
	}
	claim(storm.alive == 0);
	return err == -ETIME ? 0 : err;
}

/* ---- The first error ---------------------------------------------------- */

static int fail_later(void *arg)
{
	int err = weir_sleep(some_time());

	return err < 0 ? err : *(int *)arg;
}

static int wait_to_be_cancelled(void *arg)
{
	int err = weir_sleep(WEIR_FOREVER);

	claim(err == -ECANCELED || !sim_is_plain);
	++*(int *)arg;
	return err;
}

static int first_error(void *arg)
{
	int bad = -EBADMSG, cancelled = 0, err = 0, started = 0;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 5 && err == 0; i++, started += err == 0)
		err = weir_spawn(&scope, wait_to_be_cancelled, &cancelled, .worker = some_worker());
	if (err == 0)
		err = weir_spawn(&scope, fail_later, &bad, .worker = some_worker());
	if (err == 0)
		err = weir_scope_wait(&scope);
	else
		weir_scope_close(&scope);
	claim(err < 0);
	/* the stacks for some may have been missing */
	claim(cancelled == started || !sim_is_plain);
	return err == -EBADMSG ? 0 : err;
}

/* The failing task alone is cancelled: then nobody fails. */
static int first_error_or_none(void *arg)
{
	WEIR_SCOPE(scope, WEIR_SEC);
	int err = first_error(arg);

	return err == -ETIME && !sim_is_plain ? 0 : err;
}

/* ---- Time --------------------------------------------------------------- */

static int sleeper(void *arg)
{
	unsigned *awake = arg;

	for (int i = 0; i < 5; i++) {
		int64_t ns = some_time(), before = weir_now();
		int err = weir_sleep(ns);
		if (err < 0)
			return err;
		claim(weir_now() - before >= ns);
	}
	++*awake;
	return 0;
}

static int late_sleeper(void *arg)
{
	int64_t ns = 1 + some_time(), before = weir_now();
	unsigned *awake = arg;

	WEIR_SCOPE(outer, ns);
	WEIR_SCOPE(inner, 2 * ns + WEIR_SEC);
	int err = weir_sleep(WEIR_FOREVER);
	if (err == -ETIME) {
		claim(weir_now() - before >= ns && weir_time_left() == 0);
		++*awake;
	}
	return err == -ETIME ? 0 : err;
}

static int sleeping(void *arg)
{
	unsigned awake = 0;
	int err = 0;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 10 && err == 0; i++)
		err = weir_spawn(&scope, i % 2 ? sleeper : late_sleeper, &awake,
				 .worker = some_worker());
	if (err == 0)
		err = weir_scope_wait(&scope);
	if (err == 0)
		claim(awake == 10 || !sim_is_plain);
	return err;
}

/* ---- Shields ------------------------------------------------------------ */

struct cleaning {
	weir_chan *chan;
	unsigned began, cleaned;
};

static int clean_up_afterwards(void *arg)
{
	struct cleaning *cleaning = arg;
	int err;

	cleaning->began++;
	err = weir_sleep(WEIR_FOREVER);
	WEIR_SHIELD(shield, WEIR_SEC);
	if (weir_chan_send(cleaning->chan, &err) == 0)
		cleaning->cleaned++;
	return err;
}

/* Everybody is cancelled, and says so through a channel that takes one at a time. */
static int shields(void *arg)
{
	struct cleaning cleaning = { .chan = weir_chan_new(sizeof(int), 1) };
	weir_auto_chan chan = cleaning.chan;
	unsigned heard = 0, spawned = 0;
	int err = 0, item;

	(void)arg;
	if (!chan)
		return -ENOMEM;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 6 && err == 0; i++, spawned += err == 0)
		err = weir_spawn(&scope, clean_up_afterwards, &cleaning, .worker = some_worker());
	if (err == 0)
		err = weir_sleep(WEIR_MS + some_time());
	weir_scope_cancel(&scope);
	{
		WEIR_SHIELD(shield, 2 * WEIR_SEC);
		while (heard < spawned && weir_chan_recv(chan, &item) == 0)
			heard++;
	}
	weir_scope_close(&scope);
	while (weir_chan_try_recv(chan, &item) == 0)
		heard++;
	claim(heard == cleaning.cleaned);
	claim(cleaning.cleaned == cleaning.began || !sim_is_plain);
	return err == -ECANCELED && sim_is_plain ? 0 : err;
}

/* ---- Ping-pong ---------------------------------------------------------- */

struct table {
	weir_chan *there, *back;
};

static int pong(void *arg)
{
	struct table *table = arg;
	int ball, err;

	while ((err = weir_chan_recv(table->there, &ball)) == 0)
		if ((err = weir_chan_send(table->back, &ball)) < 0)
			break;
	return depended_on(err == -EPIPE ? 0 : err);
}

static int ping(struct table *table)
{
	int err = 0, back;

	for (int ball = 0; ball < 50 && err == 0; ball++) {
		err = weir_chan_send(table->there, &ball);
		if (err == 0)
			err = weir_chan_recv(table->back, &back);
		if (err == 0)
			claim(back == ball);
	}
	weir_chan_close(table->there);
	return err;
}

static int ping_pong(void *arg)
{
	weir_auto_chan there = weir_chan_new(sizeof(int), 1);
	weir_auto_chan back = weir_chan_new(sizeof(int), 1);
	struct table table = { there, back };

	(void)arg;
	if (!there || !back)
		return -ENOMEM;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, pong, &table, .worker = some_worker());
	if (err == 0)
		err = ping(&table);
	return err == 0 ? weir_scope_wait(&scope) : err;
}

/* ---- Calls, posts, tokens ----------------------------------------------- */

static int double_it(void *arg)
{
	int err = pick(2) ? weir_sleep(some_time()) : weir_yield();

	if (err == 0)
		*(int *)arg *= 2;
	return err;
}

static void count_up(void *arg)
{
	++*(unsigned *)arg;
}

static int call_around(void *arg)
{
	unsigned *posted = arg;
	int err = 0;

	for (int i = 1; i < 10 && err == 0; i++) {
		unsigned worker = (unsigned)pick((uint64_t)weir_worker_count());
		int number = i;
		err = weir_call_on(worker, double_it, &number);
		if (err == 0)
			claim(number == 2 * i);
		else
			claim(number == i || number == 2 * i);
		if (err == 0)
			err = weir_post(worker, count_up, posted);
	}
	return err;
}

/* What was posted runs before the runtime ends, so the counter is not on anybody's stack. */
static int calls_and_posts(void *arg)
{
	static unsigned posted;
	int err = 0;

	(void)arg;
	posted = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 4 && err == 0; i++)
		err = weir_spawn(&scope, call_around, &posted, .worker = some_worker());
	return err == 0 ? weir_scope_wait(&scope) : err;
}

struct bound {
	struct weir_token *token;
	unsigned ended;
};

static int bind_and_wait(void *arg)
{
	struct bound *bound = arg;

	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_scope_bind(&scope, bound->token);
	if (err == 0 || err == -ECANCELED)
		err = weir_sleep(WEIR_FOREVER);
	bound->ended++;
	claim(err == -ECANCELED || !sim_is_plain);
	return err;
}

static int cancel_token(void *arg)
{
	int err = weir_sleep(some_time());

	weir_token_cancel(arg);
	return err;
}

static int tokens(void *arg)
{
	struct weir_token token;
	struct bound bound = { .token = &token };
	int err = 0;

	(void)arg;
	weir_token_init(&token);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 5 && err == 0; i++)
		err = weir_spawn(&scope, bind_and_wait, &bound, .worker = some_worker());
	if (err == 0)
		err = weir_spawn(&scope, cancel_token, &token, .worker = some_worker());
	if (err == 0)
		err = weir_scope_wait(&scope);
	if (err == 0)
		claim(bound.ended == 5 || !sim_is_plain);
	return err;
}

/* ---- Deferred calls and many small tasks -------------------------------- */

static void take_back(void *arg)
{
	--*(unsigned *)arg;
}

static int short_life(void *arg)
{
	unsigned *alive = arg;
	int err = weir_task_defer(take_back, alive);

	if (err < 0)
		return err;
	++*alive;
	void *block = weir_task_alloc(1 + pick(3000));
	if (!block)
		return -ENOMEM;
	memset(block, 1, 1);
	return pick(2) ? weir_yield() : weir_sleep(some_time());
}

static int many(void *arg)
{
	unsigned alive = 0;
	int err = 0;

	(void)arg;
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (int i = 0; i < 60 && err == 0; i++)
			err = weir_spawn(&scope, short_life, &alive,
					 .worker = pick(2) ? some_worker() : 0);
		if (err == 0)
			err = weir_scope_wait(&scope);
	}
	claim(alive == 0);
	return err;
}

const struct sim_scenario sim_task_scenarios[] = {
	{ "channels", channels },
	{ "scope_storm", scope_storm },
	{ "first_error", first_error_or_none },
	{ "sleeping", sleeping },
	{ "shields", shields },
	{ "ping_pong", ping_pong },
	{ "calls_and_posts", calls_and_posts },
	{ "tokens", tokens },
	{ "many", many },
	{ NULL, NULL },
};
