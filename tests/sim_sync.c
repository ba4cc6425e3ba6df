/* SPDX-License-Identifier: MIT */
/*
 * sim_sync.c: scenarios of what tasks of different workers wait with: it excludes whom it should,
 * wakes whom it should, once, and a wait that was given up takes nothing with it.
 */
#include "sim.h"

enum { TASKS = 6, ROUNDS = 12 };

/* Spawns `count` tasks here and there and waits for them. */
static int crowd(weir_fn fn, void *arg, int count)
{
	int err = 0;

	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < count && err == 0; i++)
		err = weir_spawn(&scope, fn, arg, .worker = some_worker());
	return err == 0 ? weir_scope_wait(&scope) : err;
}

/* Often for ever, now and then so short that the wait is given up. */
static int64_t some_patience(void)
{
	return pick(3) ? WEIR_FOREVER : some_time();
}

/* Something to do while others want to come in. */
static int dawdle(void)
{
	switch (pick(4)) {
	case 0:
		return weir_sleep(some_time());
	case 1:
		return weir_yield();
	default:
		return 0;
	}
}

/* ---- Mutex -------------------------------------------------------------- */

struct room {
	struct weir_mutex mutex;
	struct weir_cond cond;
	unsigned inside, visits, given_up;
	unsigned filled, taken;
};

static int visit(void *arg)
{
	struct room *room = arg;
	int err = 0;

	for (int i = 0; i < ROUNDS && err == 0; i++) {
		WEIR_SCOPE(patience, some_patience());
		err = weir_mutex_lock(&room->mutex);
		if (err == 0) {
			claim(++room->inside == 1);
			err = dawdle();
			room->visits++;
			claim(room->inside-- == 1);
			weir_mutex_unlock(&room->mutex);
		} else {
			room->given_up++;
		}
		err = err == -ETIME ? 0 : err;
	}
	return err;
}

static int mutex(void *arg)
{
	struct room room = { .visits = 0 };

	(void)arg;
	weir_mutex_init(&room.mutex);
	int err = crowd(visit, &room, TASKS);
	claim(room.visits + room.given_up == TASKS * ROUNDS || !sim_is_plain);
	claim(weir_mutex_try_lock(&room.mutex) == 0);
	weir_mutex_unlock(&room.mutex);
	weir_mutex_done(&room.mutex);
	return err;
}

/* ---- Condition ---------------------------------------------------------- */

static int fill(void *arg)
{
	struct room *room = arg;
	int err = 0;

	for (int i = 0; i < ROUNDS && err == 0; i++) {
		err = weir_mutex_lock(&room->mutex);
		if (err < 0)
			break;
		room->filled++;
		weir_cond_signal(&room->cond);
		weir_mutex_unlock(&room->mutex);
		err = dawdle();
	}
	return depended_on(err);
}

/* A wait that is given up must not keep the signal to itself. */
static int take(void *arg)
{
	struct room *room = arg;
	int err = 0;

	for (int i = 0; i < ROUNDS && err == 0;) {
		err = weir_mutex_lock(&room->mutex);
		if (err < 0)
			break;
		claim(++room->inside == 1);
		while (room->taken == room->filled && err == 0) {
			WEIR_SCOPE(patience, some_patience());
			room->inside--;
			err = weir_cond_wait(&room->cond, &room->mutex);
			claim(++room->inside == 1);
			if (err == -ETIME)
				err = 0;
		}
		if (err == 0) {
			room->taken++;
			i++;
		}
		room->inside--;
		weir_mutex_unlock(&room->mutex);
	}
	return depended_on(err);
}

static int fill_or_take(void *arg)
{
	struct room *room = arg;

	return room->visits++ % 2 ? fill(room) : take(room);
}

static int condition(void *arg)
{
	struct room room = { .visits = 0 };

	(void)arg;
	weir_mutex_init(&room.mutex);
	weir_cond_init(&room.cond);
	int err = crowd(fill_or_take, &room, TASKS);
	claim(room.filled == room.taken || err < 0);
	weir_cond_done(&room.cond);
	weir_mutex_done(&room.mutex);
	return err;
}

/* ---- Readers and writers ------------------------------------------------ */

struct book {
	struct weir_rwlock lock;
	int readers, writers;
};

static int read_or_write(void *arg)
{
	struct book *book = arg;
	int err = 0;

	for (int i = 0; i < ROUNDS && err == 0; i++) {
		bool writes = pick(3) == 0;
		WEIR_SCOPE(patience, some_patience());
		err = writes ? weir_rwlock_write(&book->lock) : weir_rwlock_read(&book->lock);
		if (err == 0) {
			int *mine = writes ? &book->writers : &book->readers;
			++*mine;
			claim(book->writers == 0 || (book->writers == 1 && book->readers == 0));
			err = dawdle();
			--*mine;
			weir_rwlock_unlock(&book->lock);
		}
		err = err == -ETIME ? 0 : err;
	}
	return err;
}

static int readers_and_writers(void *arg)
{
	struct book book = { .readers = 0 };

	(void)arg;
	weir_rwlock_init(&book.lock);
	int err = crowd(read_or_write, &book, TASKS);
	claim(weir_rwlock_try_write(&book.lock) == 0);
	weir_rwlock_unlock(&book.lock);
	weir_rwlock_done(&book.lock);
	return err;
}

/* ---- Semaphore ---------------------------------------------------------- */

enum { UNITS = 5 };

struct stock {
	struct weir_sem sem;
	size_t out;
};

static int borrow(void *arg)
{
	struct stock *stock = arg;
	int err = 0;

	for (int i = 0; i < ROUNDS && err == 0; i++) {
		size_t units = 1 + pick(UNITS);
		WEIR_SCOPE(patience, some_patience());
		err = weir_sem_wait_for(&stock->sem, units);
		if (err == 0) {
			stock->out += units;
			claim(stock->out <= UNITS);
			err = dawdle();
			stock->out -= units;
			claim(weir_sem_post_many(&stock->sem, units) == 0);
		}
		err = err == -ETIME ? 0 : err;
	}
	return err;
}

static int semaphore(void *arg)
{
	struct stock stock = { .out = 0 };

	(void)arg;
	weir_sem_init(&stock.sem, UNITS);
	int err = crowd(borrow, &stock, TASKS);
	claim(weir_sem_units(&stock.sem) == UNITS);
	weir_sem_done(&stock.sem);
	return err;
}

/* ---- Events, notifications, values sent once ---------------------------- */

struct signals {
	struct weir_event event;
	struct weir_notify notify;
	struct weir_oneshot oneshots[TASKS];
	unsigned next, arrived, sent, heard;
	bool is_set;
};

static int await_event(void *arg)
{
	struct signals *signals = arg;
	int err;

	if (signals->next++ == 0) { /* the first sets it */
		err = dawdle();
		signals->is_set = true;
		weir_event_set(&signals->event);
		return err;
	}
	do {
		WEIR_SCOPE(patience, some_patience());
		err = weir_event_wait(&signals->event);
	} while (err == -ETIME);
	claim(err < 0 || signals->is_set);
	signals->arrived += err == 0;
	return err;
}

static int event(void *arg)
{
	struct signals signals = { .next = 0 };

	(void)arg;
	weir_event_init(&signals.event);
	int err = crowd(await_event, &signals, TASKS);
	claim(signals.arrived == TASKS - 1 || !sim_is_plain);
	weir_event_done(&signals.event);
	return err;
}

/* One works off what others hand in: a notification may stand for many, never for none. */
static int notify_or_work(void *arg)
{
	struct signals *signals = arg;
	bool works = signals->next++ == 0;
	int err = 0;

	for (int i = 0; i < ROUNDS && err == 0 && !works; i++) {
		err = dawdle();
		if (err == 0)
			signals->sent++;
		weir_notify_one(&signals->notify);
	}
	while (works && err == 0 && signals->heard < (TASKS - 1) * ROUNDS) {
		WEIR_SCOPE(patience, some_patience());
		err = weir_notify_wait(&signals->notify);
		signals->heard = signals->sent;
		err = err == -ETIME ? 0 : err;
	}
	return depended_on(err);
}

static int notify(void *arg)
{
	struct signals signals = { .next = 0 };

	(void)arg;
	weir_notify_init(&signals.notify);
	int err = crowd(notify_or_work, &signals, TASKS);
	weir_notify_done(&signals.notify);
	return err;
}

static int send_or_receive(void *arg)
{
	struct signals *signals = arg;
	unsigned who = signals->next++;
	struct weir_oneshot *oneshot = &signals->oneshots[who / 2];
	void *value = NULL;
	int err = dawdle();

	if (who % 2 == 0) {
		if (weir_oneshot_send(oneshot, &signals->sent) == 0)
			signals->sent++;
		weir_oneshot_close(oneshot);
		return err;
	}
	do {
		WEIR_SCOPE(patience, some_patience());
		err = weir_oneshot_recv(oneshot, &value);
	} while (err == -ETIME);
	if (err == 0) {
		claim(value == &signals->sent);
		signals->heard++;
		claim(weir_oneshot_recv(oneshot, &value) == -EPIPE || !sim_is_plain);
	}
	weir_oneshot_close(oneshot);
	return err == -EPIPE ? 0 : err;
}

static int oneshots(void *arg)
{
	struct signals signals = { .next = 0 };

	(void)arg;
	for (int i = 0; i < TASKS; i++)
		weir_oneshot_init(&signals.oneshots[i]);
	int err = crowd(send_or_receive, &signals, 2 * TASKS);
	claim(signals.heard <= signals.sent);
	claim(signals.heard == TASKS || !sim_is_plain);
	for (int i = 0; i < TASKS; i++)
		weir_oneshot_done(&signals.oneshots[i]);
	return err;
}

/* ---- Select ------------------------------------------------------------- */

enum { ITEMS = 30, CHANNELS = 3, SELECTORS = 3 };

struct switchboard {
	weir_chan *chans[CHANNELS];
	struct weir_event over;
	unsigned char seen[CHANNELS * ITEMS];
	unsigned next, received, producing;
};

static int dial(struct switchboard *board, unsigned which)
{
	int err = 0;

	for (unsigned i = 0; i < ITEMS && err == 0; i++) {
		unsigned item = which * ITEMS + i;
		err = weir_chan_send(board->chans[which], &item);
		if (err == 0)
			err = dawdle();
	}
	return depended_on(err);
}

/* From whichever channel has something; each item comes to one selector, once. */
static int answer(struct switchboard *board)
{
	unsigned items[CHANNELS];
	int took = 0;

	while (board->received < CHANNELS * ITEMS && (took >= 0 || took == -ETIME)) {
		struct weir_case cases[CHANNELS + 2];
		for (int i = 0; i < CHANNELS; i++)
			cases[i] = weir_case_recv(board->chans[i], &items[i]);
		cases[CHANNELS] = weir_case_timer(1 + some_time());
		cases[CHANNELS + 1] = weir_case_event(&board->over);
		WEIR_SCOPE(patience, some_patience());
		took = weir_select(cases, CHANNELS + 2);
		if (took < 0 || took >= CHANNELS)
			continue;
		claim(cases[took].result == 0);
		claim(items[took] / ITEMS == (unsigned)took && !board->seen[items[took]]);
		board->seen[items[took]] = 1;
		board->received++;
	}
	weir_event_set(&board->over);
	return depended_on(took < 0 && took != -ETIME ? took : 0);
}

static int dial_or_answer(void *arg)
{
	struct switchboard *board = arg;
	unsigned who = board->next++;

	return who < CHANNELS ? dial(board, who) : answer(board);
}

static int selecting(void *arg)
{
	struct switchboard board = { .next = 0 };
	int err = 0;

	(void)arg;
	weir_event_init(&board.over);
	for (int i = 0; i < CHANNELS; i++) {
		board.chans[i] = weir_chan_new(sizeof(unsigned), 1 + pick(4));
		err = board.chans[i] ? err : -ENOMEM;
	}
	if (err == 0)
		err = crowd(dial_or_answer, &board, CHANNELS + SELECTORS);
	claim(err < 0 || board.received == CHANNELS * ITEMS || !sim_is_plain);
	for (int i = 0; i < CHANNELS; i++)
		weir_chan_free(board.chans[i]);
	weir_event_done(&board.over);
	return err;
}

/* ---- Tasks for whoever is idle, and their results ------------------------ */

static int square(void *arg)
{
	int number = *(int *)arg, err = dawdle();

	return err < 0 ? err : number * number;
}

static int joins(void *arg)
{
	struct weir_join join[20];
	int numbers[20], result, err = 0, spawned = 0;

	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 20 && err == 0; i++, spawned += err == 0) {
		numbers[i] = i;
		err = weir_spawn(&scope, square, &numbers[i], .join = &join[i], .any = true);
	}
	for (int i = 0; i < spawned && err == 0; i++) {
		err = weir_join_wait(&join[i], &result);
		if (err == 0)
			claim(result == i * i || (result < 0 && !sim_is_plain));
	}
	return err == 0 ? weir_scope_wait(&scope) : err;
}

const struct sim_scenario sim_sync_scenarios[] = {
	{ "mutex", mutex },
	{ "condition", condition },
	{ "readers_and_writers", readers_and_writers },
	{ "semaphore", semaphore },
	{ "event", event },
	{ "notify", notify },
	{ "oneshots", oneshots },
	{ "selecting", selecting },
	{ "joins", joins },
	{ NULL, NULL },
};
