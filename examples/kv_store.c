/* SPDX-License-Identifier: MIT */
/*
 * kv_store.c: the keys, by name and by the time they expire.
 *
 * A key past its time goes when somebody asks for it, or by the sweeper, a task that sleeps until
 * the first of them is due: for good while nothing expires.
 */
#include "kv.h"

enum { SWEEP_KEYS = 256 }; /* expired at one go before others may run */

static const int64_t SWEEP_NS = 10 * WEIR_MS; /* keys that expire closer together go together */
static const int64_t NAP_MS_MAX = 86400000;   /* far from what nanoseconds cannot count */

struct map keyspace;
uint64_t expired_keys;
static int64_t clock_ms;    /* 0: to be read when somebody asks */
static int64_t sweep_at_ms; /* when the sweeper will look next */
static weir_chan *sweeper_poke;

/* One reading serves all the commands of a read, and most need none. */
int64_t now_ms(void)
{
	if (!clock_ms)
		clock_ms = weir_now() / WEIR_MS;
	return clock_ms;
}

void clock_forget(void)
{
	clock_ms = 0;
}

static bool is_expired(const struct node *key)
{
	return key->ranked_at != UNRANKED && key->order <= (double)now_ms();
}

static void remove_expired(struct node *key)
{
	map_remove(&keyspace, key);
	expired_keys++;
}

/* The key's node, or NULL. A key past its time is deleted on the way. */
struct node *key_find(struct bytes name)
{
	struct node *key = map_find(&keyspace, name);

	if (!key || !is_expired(key))
		return key;
	remove_expired(key);
	return NULL;
}

/* SET: `key` is what key_find() said. Returns the node, which does not expire; NULL: no memory. */
struct node *key_store(struct node *key, struct bytes name, struct bytes value)
{
	struct text *old = key && key->type == TYPE_STRING ? key->value : NULL;

	if (old && old->len == value.len) {
		map_unrank(&keyspace, key);
		memcpy(old->at, value.at, value.len);
		return key;
	}
	struct text *text = text_new(value);
	if (!text)
		return NULL;
	if (!key) {
		key = map_add(&keyspace, name, text);
		if (!key)
			weir_free(text);
		return key;
	}
	map_unrank(&keyspace, key);
	value_drop(key);
	key->type = TYPE_STRING;
	key->value = text;
	return key;
}

/* A new key with an empty collection, which gets a member at once or is removed. NULL: no memory.
 */
struct node *key_collection(struct bytes name, enum type type)
{
	struct node made = { .value = collection_new(type), .type = (uint8_t)type };

	if (!made.value)
		return NULL;
	struct node *key = map_add(&keyspace, name, made.value);
	if (key)
		key->type = made.type;
	else
		value_drop(&made);
	return key;
}

/* Wakes the sweeper when this key is due before it would look. False: out of memory. */
bool key_expire(struct node *key, int64_t at_ms)
{
	if (!map_rank(&keyspace, key, (double)at_ms))
		return false;
	if (at_ms < sweep_at_ms)
		(void)!weir_chan_try_send(sweeper_poke, ""); /* full: it will wake anyway */
	return true;
}

/* Until the first key is due, or somebody pokes because a key is due earlier. */
static int sweep_wait(void)
{
	int64_t ns = WEIR_FOREVER;
	char poke;

	sweep_at_ms = INT64_MAX;
	if (keyspace.ranked_len > 0) {
		int64_t ms = (int64_t)keyspace.ranked[0]->order - weir_now() / WEIR_MS;
		ns = (ms < NAP_MS_MAX ? ms : NAP_MS_MAX) * WEIR_MS;
		ns = ns < SWEEP_NS ? SWEEP_NS : ns;
		sweep_at_ms = (weir_now() + ns) / WEIR_MS;
	}
	WEIR_SCOPE(nap, ns);
	int err = weir_chan_recv(sweeper_poke, &poke);
	return err == -ETIME ? 0 : err;
}

/* Deletes what has expired without being asked for. Sleeps for good while nothing expires. */
int sweep(void *arg)
{
	int err = 0;

	(void)arg;
	while (err == 0) {
		err = sweep_wait();
		clock_forget();
		for (int n = 0; n < SWEEP_KEYS && keyspace.ranked_len > 0; n++) {
			if (!is_expired(keyspace.ranked[0]))
				break;
			remove_expired(keyspace.ranked[0]);
		}
	}
	return err;
}

int store_open(void)
{
	sweeper_poke = weir_chan_new(1, 1);
	return sweeper_poke ? data_open() : -ENOMEM;
}

void store_close(void)
{
	map_clear(&keyspace);
	data_close();
	weir_chan_free(sweeper_poke);
}
