/* SPDX-License-Identifier: MIT */
/*
 * kv_commands.c: what each command does, and the table of them.
 *
 * A command is a plain function. It returns NULL when it has answered, or the error that is its
 * answer. execute() has seen to the number of arguments and, for those that work on one type, to
 * c->key: NULL when there is no such key, a new and empty one for those that add. It removes what
 * is empty afterwards.
 */
#include <unistd.h>

#include "kv.h"

#define REDIS_VERSION "7.0.15" /* what its clients are told, so that they use what is there */

static const int64_t EXPIRES_MS_MAX = INT64_C(1) << 52; /* exact as a double */

/* Which of a command's arguments are keys. NEW_KEY: one, made when it is not there. */
enum keys { NO_KEY, ONE_KEY, NEW_KEY, ALL_KEYS, SECOND_KEYS };

struct command {
	const char *name;
	const char *(*run)(struct client *c);
	int arity; /* with the name; negative: at least */
	enum keys keys;
	enum type type; /* of its one key; ANY: it looks itself */
	int arg;	/* what tells it from others with the same function */
};

static uint64_t commands_run;

static const char OOM[] = "-OOM out of memory\r\n";
static const char SYNTAX[] = "-ERR syntax error\r\n";
static const char WRONG_COUNT[] = "-ERR wrong number of arguments\r\n";
static const char WRONG_TYPE[] =
	"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
static const char NOT_INTEGER[] = "-ERR value is not an integer or out of range\r\n";
static const char NOT_FLOAT[] = "-ERR value is not a valid float\r\n";
static const char OVERFLOW[] = "-ERR increment or decrement would overflow\r\n";
static const char WRONG_EXPIRY[] = "-ERR invalid expire time\r\n";
static const char UNKNOWN_SUBCOMMAND[] = "-ERR unknown subcommand\r\n";

/* ---- Strings ------------------------------------------------------------------------------- */

static const char *cmd_get(struct client *c)
{
	reply_text(c, c->key ? c->key->value : NULL);
	return NULL;
}

/* The time `unit_ms` * argument i from now on; not before `least_ms`. */
static const char *arg_expiry(struct client *c, size_t i, int64_t unit_ms, int64_t least_ms,
			      int64_t *ret)
{
	int64_t n, most = (EXPIRES_MS_MAX - now_ms()) / unit_ms;

	if (!to_integer(c->argv[i], &n))
		return NOT_INTEGER;
	if (n >= most || n <= -most || now_ms() + n * unit_ms < least_ms)
		return WRONG_EXPIRY;
	*ret = now_ms() + n * unit_ms;
	return NULL;
}

struct set_options {
	int64_t expires_ms;
	bool nx, xx;
};

static const char *set_options(struct client *c, struct set_options *o)
{
	const char *err = NULL;

	for (size_t i = 3; !err && i < c->argc; i++) {
		bool ex = equals(c->argv[i], "ex"), px = equals(c->argv[i], "px");
		if (equals(c->argv[i], "nx"))
			o->nx = true;
		else if (equals(c->argv[i], "xx"))
			o->xx = true;
		else if (!(ex || px) || o->expires_ms || i + 1 == c->argc)
			err = SYNTAX;
		else
			err = arg_expiry(c, ++i, ex ? 1000 : 1, now_ms() + 1, &o->expires_ms);
	}
	return !err && o->nx && o->xx ? SYNTAX : err;
}

static const char *cmd_set(struct client *c)
{
	struct set_options o = { 0 };
	const char *err = set_options(c, &o);

	if (err)
		return err;
	struct node *key = key_find(c->argv[1]);
	if (key ? o.nx : o.xx) {
		reply_text(c, NULL);
		return NULL;
	}
	key = key_store(key, c->argv[1], c->argv[2]);
	if (!key || (o.expires_ms && !key_expire(key, o.expires_ms)))
		return OOM;
	reply(c, "+OK\r\n");
	return NULL;
}

static struct bytes text_bytes(struct text *text)
{
	return (struct bytes){ text->at, text->len };
}

/* INCR and DECR */
static const char *cmd_incr(struct client *c)
{
	struct node *key = c->key;
	int64_t n = 0;
	char digits[24];

	if (key && !to_integer(text_bytes(key->value), &n))
		return NOT_INTEGER;
	if (__builtin_add_overflow(n, c->command->arg, &n))
		return OVERFLOW;
	struct text *text = text_new((struct bytes){ digits, from_integer(digits, n) });
	if (!text)
		return OOM;
	if (key) { /* which goes on to expire as it would have */
		weir_free(key->value);
		key->value = text;
	} else if (!map_add(&keyspace, c->argv[1], text)) {
		weir_free(text);
		return OOM;
	}
	reply_integer(c, n);
	return NULL;
}

static const char *cmd_mget(struct client *c)
{
	reply_count(c, '*', (int64_t)c->argc - 1);
	for (size_t i = 1; i < c->argc; i++) {
		struct node *key = key_find(c->argv[i]);
		reply_text(c, key && key->type == TYPE_STRING ? key->value : NULL);
	}
	return NULL;
}

static const char *cmd_mset(struct client *c)
{
	if (c->argc % 2 == 0)
		return WRONG_COUNT;
	for (size_t i = 1; i < c->argc; i += 2)
		if (!key_store(key_find(c->argv[i]), c->argv[i], c->argv[i + 1]))
			return OOM;
	reply(c, "+OK\r\n");
	return NULL;
}

/* ---- Keys ---------------------------------------------------------------------------------- */

/* DEL and EXISTS */
static const char *cmd_count(struct client *c)
{
	bool deletes = c->command->arg;
	int64_t n = 0;

	for (size_t i = 1; i < c->argc; i++) {
		struct node *key = key_find(c->argv[i]);
		n += key != NULL;
		if (key && deletes)
			map_remove(&keyspace, key);
	}
	reply_integer(c, n);
	return NULL;
}

static const char *cmd_expire(struct client *c)
{
	int64_t at;
	const char *err = arg_expiry(c, 2, c->command->arg, INT64_MIN, &at);

	if (err)
		return err;
	struct node *key = key_find(c->argv[1]);
	if (key && at <= now_ms())
		map_remove(&keyspace, key);
	else if (key && !key_expire(key, at))
		return OOM;
	reply_integer(c, key != NULL);
	return NULL;
}

static const char *cmd_ttl(struct client *c)
{
	struct node *key = key_find(c->argv[1]);
	int64_t unit_ms = c->command->arg;

	if (!key || key->ranked_at == UNRANKED)
		reply_integer(c, key ? -1 : -2);
	else
		reply_integer(c, ((int64_t)key->order - now_ms() + unit_ms / 2) / unit_ms);
	return NULL;
}

static const char *cmd_dbsize(struct client *c)
{
	reply_integer(c, (int64_t)keyspace.used);
	return NULL;
}

static const char *cmd_flushall(struct client *c)
{
	map_clear(&keyspace);
	reply(c, "+OK\r\n");
	return NULL;
}

/* ---- Lists --------------------------------------------------------------------------------- */

static const char *cmd_push(struct client *c)
{
	struct list *l = c->key->value;

	for (size_t i = 2; i < c->argc; i++) {
		struct text *item = text_new(c->argv[i]);
		if (!item || !list_push(l, c->command->arg, item)) {
			weir_free(item);
			return OOM;
		}
	}
	reply_integer(c, (int64_t)l->len);
	return NULL;
}

static const char *cmd_pop(struct client *c)
{
	struct text *item = c->key ? list_pop(c->key->value, c->command->arg) : NULL;

	reply_text(c, item);
	weir_free(item);
	return NULL;
}

/* "start stop", where negative numbers count from the end. */
static const char *cmd_lrange(struct client *c)
{
	int64_t start, stop, n = (int64_t)collection_len(c->key);

	if (!to_integer(c->argv[2], &start) || !to_integer(c->argv[3], &stop))
		return NOT_INTEGER;
	start = start < -n ? 0 : start < 0 ? start + n : start;
	stop = stop < -n ? -1 : stop < 0 ? stop + n : stop >= n ? n - 1 : stop;
	reply_count(c, '*', start > stop ? 0 : stop - start + 1);
	for (; start <= stop; start++)
		reply_text(c, *list_at(c->key->value, (size_t)start));
	return NULL;
}

/* ---- Sets, hashes, sorted sets ------------------------------------------------------------- */

/* LLEN, SCARD, HLEN, ZCARD */
static const char *cmd_len(struct client *c)
{
	reply_integer(c, (int64_t)collection_len(c->key));
	return NULL;
}

/* SREM and HDEL */
static const char *cmd_remove(struct client *c)
{
	int64_t removed = 0;

	for (size_t i = 2; c->key && i < c->argc; i++) {
		struct node *n = map_find(c->key->value, c->argv[i]);
		removed += n != NULL;
		if (n)
			map_remove(c->key->value, n);
	}
	reply_integer(c, removed);
	return NULL;
}

/* SMEMBERS and HGETALL */
static const char *cmd_all(struct client *c)
{
	bool is_hash = c->command->type == TYPE_HASH;
	struct walk w = { .map = c->key ? c->key->value : NULL };

	reply_frame(c, is_hash ? '%' : '~', collection_len(c->key));
	for (struct node *n = c->key ? walk_next(&w) : NULL; n; n = walk_next(&w)) {
		reply_bulk(c, n->key, n->key_len);
		if (is_hash)
			reply_text(c, n->value);
	}
	return NULL;
}

static const char *cmd_sadd(struct client *c)
{
	int64_t added = 0;

	for (size_t i = 2; i < c->argc; i++) {
		if (map_find(c->key->value, c->argv[i]))
			continue;
		if (!map_add(c->key->value, c->argv[i], NULL))
			return OOM;
		added++;
	}
	reply_integer(c, added);
	return NULL;
}

static const char *cmd_spop(struct client *c)
{
	if (!c->key) {
		reply_text(c, NULL);
		return NULL;
	}
	struct node *member = map_random(c->key->value);
	reply_bulk(c, member->key, member->key_len);
	map_remove(c->key->value, member);
	return NULL;
}

static const char *cmd_hset(struct client *c)
{
	int64_t added = 0;

	if (c->argc % 2)
		return WRONG_COUNT;
	for (size_t i = 2; i < c->argc; i += 2) {
		struct text *text = text_new(c->argv[i + 1]);
		struct node *field = map_find(c->key->value, c->argv[i]);
		if (text && field) {
			weir_free(field->value);
			field->value = text;
		} else if (text && map_add(c->key->value, c->argv[i], text)) {
			added++;
		} else {
			weir_free(text);
			return OOM;
		}
	}
	reply_integer(c, added);
	return NULL;
}

static const char *cmd_hget(struct client *c)
{
	struct node *field = c->key ? map_find(c->key->value, c->argv[2]) : NULL;

	reply_text(c, field ? field->value : NULL);
	return NULL;
}

/* Returns 1 for a new member, 0 for one that was there, or -ENOMEM. */
static int zset_add(struct map *m, double score, struct bytes name)
{
	struct node *member = map_find(m, name);
	bool is_new = !member;

	if (is_new)
		member = map_add(m, name, NULL);
	if (!member)
		return -ENOMEM;
	if (map_rank(m, member, score))
		return is_new;
	map_remove(m, member); /* it is new: one that has a place keeps it */
	return -ENOMEM;
}

/* Every score is looked at before anything changes. */
static const char *cmd_zadd(struct client *c)
{
	double score = 0;
	int64_t added = 0;

	if (c->argc % 2)
		return SYNTAX;
	for (size_t i = 2; i < c->argc; i += 2)
		if (!to_double(c->argv[i], &score))
			return NOT_FLOAT;
	for (size_t i = 2; i < c->argc; i += 2) {
		(void)to_double(c->argv[i], &score);
		int n = zset_add(c->key->value, score, c->argv[i + 1]);
		if (n < 0)
			return OOM;
		added += n;
	}
	reply_integer(c, added);
	return NULL;
}

static const char *cmd_zpopmin(struct client *c)
{
	reply_count(c, '*', c->key ? 2 : 0);
	if (!c->key)
		return NULL;
	struct map *m = c->key->value;
	struct node *first = m->ranked[0];
	reply_bulk(c, first->key, first->key_len);
	reply_double(c, first->order);
	map_remove(m, first);
	return NULL;
}

/* ---- The connection and the server --------------------------------------------------------- */

static const char *cmd_ping(struct client *c)
{
	if (c->argc > 2)
		return WRONG_COUNT;
	if (c->argc == 2)
		reply_bulk(c, c->argv[1].at, c->argv[1].len);
	else
		reply(c, "+PONG\r\n");
	return NULL;
}

static const char *cmd_quit(struct client *c)
{
	c->closing = true;
	reply(c, "+OK\r\n");
	return NULL;
}

/* What a browser that was tricked into talking to us would send first. */
static const char *cmd_http(struct client *c)
{
	c->closing = true;
	return NULL;
}

static void reply_pair(struct client *c, const char *name, const char *value)
{
	reply_bulk(c, name, strlen(name));
	reply_bulk(c, value, strlen(value));
}

/* HELLO [protocol]. No AUTH: there are no users here. */
static const char *cmd_hello(struct client *c)
{
	int64_t protocol = c->protocol;

	if (c->argc > 1 && (!to_integer(c->argv[1], &protocol) || protocol < 2 || protocol > 3))
		return "-NOPROTO unsupported protocol version\r\n";
	if (c->argc > 2)
		return SYNTAX;
	c->protocol = (int)protocol;
	reply_frame(c, '%', 5);
	reply_pair(c, "server", "redis"); /* the protocol it speaks; clients look for it */
	reply_pair(c, "version", REDIS_VERSION);
	reply_pair(c, "mode", "standalone");
	reply_pair(c, "role", "master");
	reply_bulk(c, "proto", 5);
	reply_integer(c, protocol);
	return NULL;
}

/* CONFIG GET one, or "*". There is nothing to set. */
static const char *cmd_config(struct client *c)
{
	static const char *config[][2] = {
		{ "appendonly", "no" }, { "databases", "1" }, { "maxmemory", "0" }, { "save", "" }
	};
	enum { COUNT = sizeof config / sizeof config[0] };
	size_t i = 0, end = COUNT;

	if (!equals(c->argv[1], "get") || c->argc != 3)
		return UNKNOWN_SUBCOMMAND;
	if (!equals(c->argv[2], "*")) {
		while (i < COUNT && !equals(c->argv[2], config[i][0]))
			i++;
		end = i < COUNT ? i + 1 : COUNT;
	}
	for (reply_frame(c, '%', end - i); i < end; i++)
		reply_pair(c, config[i][0], config[i][1]);
	return NULL;
}

/* All of it, whatever section is asked for. */
static const char *cmd_info(struct client *c)
{
	struct weir_worker_stats w = { 0 };
	struct weir_serve_stats s = { 0 };
	struct weir_mem_stats m = { 0 };
	char text[2048];

	weir_serve_stats_get(&s);
	weir_mem_stats_get(&m);
	(void)!weir_worker_stats_get(WEIR_ALL_WORKERS, &w); /* zeros outside a runtime: not here */
	int len = snprintf(
		text, sizeof text,
		"# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nweir_version:%s\r\n"
		"process_id:%d\r\n\r\n"
		"# Clients\r\nconnected_clients:%ju\r\n\r\n"
		"# Memory\r\nused_memory:%ju\r\ncached_memory:%ju\r\nmem_allocs:%ju\r\n"
		"mem_hits:%ju\r\nmem_misses:%ju\r\nos_maps:%ju\r\nmem_level:%ju\r\n"
		"mem_stalls:%ju\r\nmem_refusals:%ju\r\nmem_stages_medium:%ju\r\n"
		"mem_stages_high:%ju\r\nmem_stages_critical:%ju\r\n\r\n"
		"# Stats\r\ntotal_connections_received:%ju\r\ntotal_commands_processed:%ju\r\n"
		"expired_keys:%ju\r\nturns:%ju\r\nparks:%ju\r\nswitches:%ju\r\nenters:%ju\r\n"
		"submissions:%ju\r\ncompletions:%ju\r\n\r\n"
		"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n"
		"# Keyspace\r\ndb0:keys=%zu,expires=%zu,avg_ttl=0\r\n",
		REDIS_VERSION, weir_version(), (int)getpid(), s.open, m.span_bytes - m.cached_bytes,
		m.cached_bytes, m.allocs, m.allocs - m.misses, m.misses, m.os_maps, m.level,
		m.stalls, m.refusals, m.stages[WEIR_MEM_MEDIUM].runs, m.stages[WEIR_MEM_HIGH].runs,
		m.stages[WEIR_MEM_CRITICAL].runs, s.accepted, commands_run, expired_keys, w.turns,
		w.parks, w.switches, w.enters, w.submissions, w.completions, keyspace.used,
		keyspace.ranked_len);
	reply_bulk(c, text, (size_t)len); /* far below the room there is */
	return NULL;
}

static const char *cmd_command(struct client *c);

/* ---- The table ----------------------------------------------------------------------------- */

static const struct command commands[] = {
	{ "command", cmd_command, -1, NO_KEY, ANY, 0 },
	{ "config", cmd_config, -2, NO_KEY, ANY, 0 },
	{ "dbsize", cmd_dbsize, 1, NO_KEY, ANY, 0 },
	{ "decr", cmd_incr, 2, ONE_KEY, TYPE_STRING, -1 },
	{ "del", cmd_count, -2, ALL_KEYS, ANY, true },
	{ "exists", cmd_count, -2, ALL_KEYS, ANY, false },
	{ "expire", cmd_expire, 3, ONE_KEY, ANY, 1000 },
	{ "flushall", cmd_flushall, -1, NO_KEY, ANY, 0 },
	{ "get", cmd_get, 2, ONE_KEY, TYPE_STRING, 0 },
	{ "hdel", cmd_remove, -3, ONE_KEY, TYPE_HASH, 0 },
	{ "hello", cmd_hello, -1, NO_KEY, ANY, 0 },
	{ "hget", cmd_hget, 3, ONE_KEY, TYPE_HASH, 0 },
	{ "hgetall", cmd_all, 2, ONE_KEY, TYPE_HASH, 0 },
	{ "hlen", cmd_len, 2, ONE_KEY, TYPE_HASH, 0 },
	{ "host:", cmd_http, -1, NO_KEY, ANY, 0 },
	{ "hset", cmd_hset, -4, NEW_KEY, TYPE_HASH, 0 },
	{ "incr", cmd_incr, 2, ONE_KEY, TYPE_STRING, 1 },
	{ "info", cmd_info, -1, NO_KEY, ANY, 0 },
	{ "llen", cmd_len, 2, ONE_KEY, TYPE_LIST, 0 },
	{ "lpop", cmd_pop, 2, ONE_KEY, TYPE_LIST, true },
	{ "lpush", cmd_push, -3, NEW_KEY, TYPE_LIST, true },
	{ "lrange", cmd_lrange, 4, ONE_KEY, TYPE_LIST, 0 },
	{ "mget", cmd_mget, -2, ALL_KEYS, ANY, 0 },
	{ "mset", cmd_mset, -3, SECOND_KEYS, ANY, 0 },
	{ "pexpire", cmd_expire, 3, ONE_KEY, ANY, 1 },
	{ "ping", cmd_ping, -1, NO_KEY, ANY, 0 },
	{ "post", cmd_http, -1, NO_KEY, ANY, 0 },
	{ "pttl", cmd_ttl, 2, ONE_KEY, ANY, 1 },
	{ "quit", cmd_quit, -1, NO_KEY, ANY, 0 },
	{ "rpop", cmd_pop, 2, ONE_KEY, TYPE_LIST, false },
	{ "rpush", cmd_push, -3, NEW_KEY, TYPE_LIST, false },
	{ "sadd", cmd_sadd, -3, NEW_KEY, TYPE_SET, 0 },
	{ "scard", cmd_len, 2, ONE_KEY, TYPE_SET, 0 },
	{ "set", cmd_set, -3, ONE_KEY, ANY, 0 },
	{ "smembers", cmd_all, 2, ONE_KEY, TYPE_SET, 0 },
	{ "spop", cmd_spop, 2, ONE_KEY, TYPE_SET, 0 },
	{ "srem", cmd_remove, -3, ONE_KEY, TYPE_SET, 0 },
	{ "ttl", cmd_ttl, 2, ONE_KEY, ANY, 1000 },
	{ "zadd", cmd_zadd, -4, NEW_KEY, TYPE_ZSET, 0 },
	{ "zcard", cmd_len, 2, ONE_KEY, TYPE_ZSET, 0 },
	{ "zpopmin", cmd_zpopmin, 2, ONE_KEY, TYPE_ZSET, 0 },
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/*
 * Open addressing. A name is at most eight letters, so it is a number; without the bit that tells
 * lower case from upper.
 */
enum { COMMAND_SLOTS = 256, NAME_BYTES_MAX = 8 };
static struct {
	uint64_t name;
	const struct command *command;
} command_slots[COMMAND_SLOTS];

static inline uint64_t command_name(struct bytes name)
{
	uint64_t word = 0;

	for (size_t i = 0; i < name.len; i++)
		word = word << 8 | (unsigned char)(name.at[i] | 0x20);
	return word;
}

/* The name's slot, or the free one where it would be. */
static inline size_t command_slot(uint64_t name)
{
	size_t slot = name * 0x9e3779b97f4a7c15 >> 56;

	while (command_slots[slot].command && command_slots[slot].name != name)
		slot = (slot + 1) % COMMAND_SLOTS;
	return slot;
}

void commands_init(void)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		char *name = (char *)(uintptr_t)commands[i].name;
		uint64_t word = command_name((struct bytes){ name, strlen(name) });
		size_t slot = command_slot(word);
		command_slots[slot].name = word;
		command_slots[slot].command = &commands[i];
	}
}

static const struct command *command_find(struct bytes name)
{
	if (name.len > NAME_BYTES_MAX)
		return NULL;
	return command_slots[command_slot(command_name(name))].command;
}

/* The first key's place, the last one's from the end, and how far from one to the next. */
static void command_info(struct client *c, const struct command *command)
{
	enum keys keys = command->keys;

	reply_count(c, '*', 6);
	reply_bulk(c, command->name, strlen(command->name));
	reply_integer(c, command->arity);
	reply_count(c, '*', 0);
	reply_integer(c, keys != NO_KEY);
	reply_integer(c, keys == NO_KEY ? 0 : keys == ONE_KEY || keys == NEW_KEY ? 1 : -1);
	reply_integer(c, keys == NO_KEY ? 0 : keys == SECOND_KEYS ? 2 : 1);
}

/* DOCS is empty: redis-cli starts without hints then. */
static const char *cmd_command(struct client *c)
{
	if (c->argc > 1 && equals(c->argv[1], "count")) {
		reply_integer(c, COMMAND_COUNT);
	} else if (c->argc > 1 && equals(c->argv[1], "docs")) {
		reply_frame(c, '%', 0);
	} else if (c->argc > 1) {
		return UNKNOWN_SUBCOMMAND;
	} else {
		reply_count(c, '*', COMMAND_COUNT);
		for (size_t i = 0; i < COMMAND_COUNT; i++)
			command_info(c, &commands[i]);
	}
	return NULL;
}

/* Finds or makes the key of a command that works on one type. */
static const char *find_key(struct client *c)
{
	enum type type = c->command->type;

	c->key = NULL;
	if (type == ANY)
		return NULL;
	c->key = key_find(c->argv[1]);
	if (c->key && c->key->type != type)
		return WRONG_TYPE;
	if (!c->key && c->command->keys == NEW_KEY) {
		c->key = key_collection(c->argv[1], type);
		return c->key ? NULL : OOM;
	}
	return NULL;
}

static void run(struct client *c)
{
	const char *err = find_key(c);

	if (!err) {
		err = c->command->run(c);
		if (c->key && c->key->type != TYPE_STRING && collection_len(c->key) == 0)
			map_remove(&keyspace, c->key);
	}
	if (err)
		reply(c, err);
}

/* There is no such command, or it takes another number of arguments. */
RARE static void refuse(struct client *c)
{
	struct bytes name = c->argv[0];

	if (c->command)
		reply_error(c, "ERR wrong number of arguments for '%s' command", c->command->name);
	else
		reply_error(c, "ERR unknown command '%.*s'", (int)(name.len < 128 ? name.len : 128),
			    name.at);
}

static inline bool takes(const struct command *command, int argc)
{
	return command->arity > 0 ? argc == command->arity : argc >= -command->arity;
}

void execute(struct client *c)
{
	commands_run++;
	c->command = command_find(c->argv[0]);
	if (c->command && takes(c->command, (int)c->argc))
		run(c);
	else
		refuse(c);
}
