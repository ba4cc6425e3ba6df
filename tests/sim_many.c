/* SPDX-License-Identifier: MIT */
/*
 * sim_many.c: scenarios of one that speaks to many, and of many that wait for each other.
 */
#include "sim.h"

enum { TASKS = 5, ITEMS = 40 };

struct crowd {
	weir_broadcast *broadcast;
	weir_watch *watch;
	struct weir_once once;
	struct weir_barrier barrier;
	struct weir_group group;
	unsigned next, tries, arrived, phases[TASKS], finished;
	bool is_made;
};

static int gather(weir_fn fn, struct crowd *crowd)
{
	int err = 0;

	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < TASKS && err == 0; i++)
		err = weir_spawn(&scope, fn, crowd, .worker = some_worker());
	return err == 0 ? weir_scope_wait(&scope) : err;
}

/* ---- Broadcast ---------------------------------------------------------- */

static int speak(struct crowd *crowd)
{
	int err = 0;

	for (unsigned item = 0; item < ITEMS && err == 0; item++) {
		err = weir_broadcast_send(crowd->broadcast, &item);
		if (err == 0 && pick(2))
			err = weir_sleep(some_time());
	}
	weir_broadcast_close(crowd->broadcast);
	return depended_on(err);
}

/* What was read and what was missed is everything, in order. */
static int listen_to(struct crowd *crowd)
{
	struct weir_reader reader;
	unsigned item, count = 0;
	int first = -1, err = 0;

	weir_reader_init(&reader, crowd->broadcast);
	while (err == 0 || err == -EOVERFLOW || err == -ETIME) {
		WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
		err = weir_reader_recv(&reader, &item);
		if (err < 0)
			continue;
		if (first < 0)
			first = (int)(item - count - weir_reader_missed(&reader));
		claim(item == (unsigned)first + count + weir_reader_missed(&reader));
		count++;
	}
	if (err == -EPIPE && first >= 0)
		claim(first + count + weir_reader_missed(&reader) == ITEMS || !sim_is_plain);
	return err == -EPIPE ? 0 : err;
}

static int speak_or_listen(void *arg)
{
	struct crowd *crowd = arg;

	return crowd->next++ == 2 ? speak(crowd) : listen_to(crowd);
}

static int broadcast(void *arg)
{
	weir_auto_broadcast channel = weir_broadcast_new(sizeof(unsigned), 1 + pick(6));
	struct crowd crowd = { .broadcast = channel };

	(void)arg;
	return channel ? gather(speak_or_listen, &crowd) : -ENOMEM;
}

/* ---- Watch -------------------------------------------------------------- */

static int change(struct crowd *crowd)
{
	int err = 0;

	for (unsigned value = 1; value <= ITEMS; value++) {
		weir_watch_set(crowd->watch, &value);
		if (err == 0 && pick(2))
			err = weir_sleep(some_time());
	}
	return err;
}

/* Values only grow, and the last one comes to everybody. */
static int follow(struct crowd *crowd)
{
	uint64_t version = 0, before = 0;
	unsigned value = 0, last = 0;
	int err = 0;

	while (value < ITEMS && (err == 0 || err == -ETIME)) {
		WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
		err = weir_watch_wait(crowd->watch, &version, &value);
		if (err == 0)
			claim(value >= last && version > before);
		last = value;
		before = version;
	}
	return err == -ETIME ? 0 : err;
}

static int change_or_follow(void *arg)
{
	struct crowd *crowd = arg;

	return crowd->next++ == 0 ? change(crowd) : follow(crowd);
}

static int watch(void *arg)
{
	unsigned zero = 0;
	weir_auto_watch value = weir_watch_new(sizeof zero, &zero);
	struct crowd crowd = { .watch = value };

	(void)arg;
	return value ? gather(change_or_follow, &crowd) : -ENOMEM;
}

/* ---- Once, barrier, group ----------------------------------------------- */

static int make(void *arg)
{
	struct crowd *crowd = arg;
	int err = weir_sleep(some_time());

	if (err < 0)
		return err;
	if (crowd->tries++ < 2)
		return -EBADMSG;
	claim(!crowd->is_made);
	crowd->is_made = true;
	return 0;
}

static int make_once(void *arg)
{
	struct crowd *crowd = arg;
	int err;

	do {
		WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
		err = weir_once(&crowd->once, make, crowd);
	} while (err == -EBADMSG || err == -ETIME);
	claim(err < 0 || crowd->is_made);
	return err;
}

static int once(void *arg)
{
	struct crowd crowd = { .next = 0 };

	(void)arg;
	return gather(make_once, &crowd);
}

/* Nobody is two phases ahead of anybody. */
static int march(void *arg)
{
	struct crowd *crowd = arg;
	unsigned *mine = &crowd->phases[crowd->next++];
	int err = 0;

	while (*mine < 8 && err >= 0) {
		WEIR_SCOPE(patience, pick(4) ? WEIR_FOREVER : some_time());
		err = weir_barrier_wait(&crowd->barrier);
		if (err == -ETIME) {
			err = 0;
			continue;
		}
		if (err < 0)
			break;
		crowd->arrived += err == 1;
		++*mine;
		for (int i = 0; i < TASKS; i++)
			claim(crowd->phases[i] + 1 >= *mine && crowd->phases[i] <= *mine + 1);
	}
	return depended_on(err < 0 ? err : 0);
}

static int barrier(void *arg)
{
	struct crowd crowd = { .next = 0 };

	(void)arg;
	weir_barrier_init(&crowd.barrier, TASKS);
	int err = gather(march, &crowd);
	claim(crowd.arrived == 8 || !sim_is_plain);
	weir_barrier_done(&crowd.barrier);
	return err;
}

static int finish_or_wait(void *arg)
{
	struct crowd *crowd = arg;
	int err;

	if (crowd->next++ > 1) {
		err = weir_sleep(some_time());
		crowd->finished++;
		weir_group_finish(&crowd->group);
		return err;
	}
	do {
		WEIR_SCOPE(patience, pick(3) ? WEIR_FOREVER : some_time());
		err = weir_group_wait(&crowd->group);
	} while (err == -ETIME);
	claim(err < 0 || crowd->finished == TASKS - 2);
	return err;
}

static int group(void *arg)
{
	struct crowd crowd = { .next = 0 };

	(void)arg;
	weir_group_init(&crowd.group);
	int err = weir_group_add(&crowd.group, TASKS - 2);
	if (err == 0)
		err = gather(finish_or_wait, &crowd);
	weir_group_done(&crowd.group);
	return err;
}

/* ---- Intervals ---------------------------------------------------------- */

/* Ticks and dropped ticks together keep pace with time; none comes early. */
static int intervals(void *arg)
{
	struct weir_interval interval;
	int64_t period = 1 + some_time(), start = weir_now();
	int err = weir_interval_init(&interval, period, WEIR_MISSED_SKIP);
	int64_t ticks = 0;

	(void)arg;
	for (int i = 0; i < 20 && err >= 0; i++) {
		err = weir_interval_wait(&interval);
		if (err < 0)
			break;
		ticks += 1 + err;
		claim(weir_now() - start >= ticks * period);
		if (pick(3) == 0)
			err = weir_sleep(some_time());
	}
	return err < 0 ? err : 0;
}

const struct sim_scenario sim_many_scenarios[] = {
	{ "broadcast", broadcast },
	{ "watch", watch },
	{ "once", once },
	{ "barrier", barrier },
	{ "group", group },
	{ "intervals", intervals },
	{ NULL, NULL },
};
