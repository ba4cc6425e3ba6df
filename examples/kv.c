/* SPDX-License-Identifier: MIT */
/*
 * kv: a key-value server that Redis clients can talk to (RESP2, RESP3, inline commands).
 *
 *   ./kv :6379
 *   redis-cli set greeting hello
 *   redis-benchmark -q
 *
 * The idea: one worker owns the data, so a command is a plain function that never parks, and needs
 * no lock. Commands are parsed in the lease they arrived in; only a command that is cut off by the
 * end of a read is copied, into a block that grows as its bytes come. The answers to all the
 * commands of one read go out with one send. Keys and values live in the allocator's size classes
 * and typed pools.
 *
 * It relies on: nothing between a command's first line and its last parks; flush() does, and runs
 * only between commands.
 *
 * To read it in the order of a request: serve_client() at the end, parse_command(), execute(), a
 * cmd_ function, the answers; the data structures, which come first, are ordinary.
 */
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>
#include <weir/io.h>

enum {
	BULK_BYTES_MAX = 512 << 20,
	ARGS_MAX = 1 << 20,
	INLINE_BYTES_MAX = 64 << 10,
	COUNT_LINE_BYTES_MAX = 32, /* "*1048576\r\n" */
	COMMAND_BYTES_MAX = 1 << 30,
	ARGS_INLINE = 8, /* more are allocated */
	OUT_BYTES_FIRST = 4 << 10,
	OUT_BYTES_MAX = 64 << 10, /* then it is sent before the next command runs */
	BUCKETS_MIN = 4,
	MOVE_BUCKETS = 4, /* by each access to a map that is changing its size */
	SWEEP_KEYS = 256, /* expired at one go before others may run */
};
#define REDIS_VERSION "7.0.15" /* what its clients are told, so that they use what is there */

static const int64_t IDLE_NS = 3600 * WEIR_SEC; /* between commands */
static const int64_t HALF_NS = 60 * WEIR_SEC;	/* of silence inside a command */
static const int64_t SEND_NS = 60 * WEIR_SEC;	/* for a client to take one batch of answers */
static const int64_t SWEEP_NS = 10 * WEIR_MS;	/* keys that expire closer together go together */
static const int64_t EXPIRES_MS_MAX = INT64_C(1) << 52; /* exact as a double */

struct bytes {
	char *at;
	size_t len;
};

/* A string value. */
struct text {
	size_t len;
	char at[];
};

enum type { TYPE_STRING, TYPE_LIST, TYPE_SET, TYPE_HASH, TYPE_ZSET, ANY };

/* What a map consists of: a key of the keyspace, a member of a set, a field of a hash. */
struct node {
	struct node *next;
	void *value;	    /* text, list or map, by type; NULL in sets */
	double order;	    /* when it expires (ms), or its score */
	uint32_t ranked_at; /* its place in ranked[]; UNRANKED: it has no order */
	uint32_t hash;
	uint32_t key_len;
	uint8_t type;
	char key[];
};
#define UNRANKED UINT32_MAX

/*
 * The keyspace and every set, hash and sorted set. While it changes its size, buckets[0] empties
 * into buckets[1] and `moved` says how far. The nodes that have an order are in a binary heap, too:
 * what expires or scores least is ranked[0].
 */
struct map {
	struct node **buckets[2];
	size_t size[2]; /* powers of two; size[1] is 0 unless it moves */
	size_t moved;
	size_t used;
	struct node **ranked;
	size_t ranked_len;
	size_t ranked_cap;
};

/* A ring: item i is items[(head + i) % cap]. */
struct list {
	struct text **items;
	size_t cap;
	size_t head;
	size_t len;
};

struct client {
	weir_conn *conn;
	weir_buf out;
	int err;      /* why it has to go; answers are dropped from then on */
	bool closing; /* after what is in `out` */
	int protocol; /* 2 or 3 */
	char *in;     /* what is being parsed: a lease's bytes, or pending */
	size_t in_len;
	size_t start; /* of the command being parsed */
	size_t at;    /* the first byte not parsed yet */
	int64_t args_left;
	int64_t bulk_len; /* of the argument whose header has been read; -1: none */
	char *pending;	  /* a command cut off by the end of a read; NULL: none */
	size_t pending_cap;
	const struct command *command; /* the one that runs */
	struct node *key;	       /* that it works on; see run() */
	struct bytes *argv;
	size_t argc;
	size_t args_cap;
	struct bytes args_inline[ARGS_INLINE];
};

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

static weir_pool *maps, *lists;
static struct map keyspace;
static int64_t clock_ms;    /* 0: to be read when somebody asks; see now_ms() */
static int64_t sweep_at_ms; /* when the sweeper will look next */
static weir_chan *sweeper_poke;
static uint64_t secret[2]; /* against clients that choose colliding keys */
static uint64_t commands_run, expired_keys;

/* ---- Strings and numbers --------------------------------------------------------------------- */

static struct text *text_new(struct bytes bytes)
{
	struct text *text = weir_alloc(sizeof *text + bytes.len);

	if (text) {
		text->len = bytes.len;
		memcpy(text->at, bytes.at, bytes.len);
	}
	return text;
}

static struct bytes text_bytes(struct text *text)
{
	return (struct bytes){ text->at, text->len };
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* By eight bytes; the last eight may have been seen in part, which costs less than a few. */
static uint32_t hash_of(struct bytes key)
{
	const char *at = key.at, *end = key.at + key.len;
	uint64_t hash = mix(secret[0] ^ key.len, 0x9e3779b97f4a7c15), word = 0;

	for (; end - at > 8; at += 8) {
		memcpy(&word, at, 8);
		hash = mix(hash ^ word, secret[1]);
	}
	if (key.len >= 8)
		memcpy(&word, end - 8, 8);
	else
		while (at < end)
			word = word << 8 | (unsigned char)*at++;
	return (uint32_t)mix(hash ^ word, secret[1]);
}

static bool equals(struct bytes a, const char *word)
{
	return a.len == strlen(word) && !strncasecmp(a.at, word, a.len);
}

/* All of `text` is a decimal integer. */
static bool to_integer(struct bytes text, int64_t *ret)
{
	bool minus = text.len > 1 && text.at[0] == '-';
	uint64_t n = 0, limit = (uint64_t)INT64_MAX + minus;

	if (text.len == minus || text.len > 20)
		return false;
	for (size_t i = minus; i < text.len; i++) {
		unsigned digit = (unsigned)(text.at[i] - '0');
		if (digit > 9 || n > (limit - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	*ret = (int64_t)(minus ? 0 - n : n);
	return true;
}

/* All of `text` is a number, but not NaN. */
static bool to_double(struct bytes text, double *ret)
{
	char copy[128], *end;

	if (text.len == 0 || text.len >= sizeof copy || strchr(" \t\n\v\f\r", text.at[0]))
		return false;
	memcpy(copy, text.at, text.len);
	copy[text.len] = 0;
	double n = strtod(copy, &end);
	if (end != copy + text.len || isnan(n))
		return false;
	*ret = n;
	return true;
}

/* `ret` has room for 20 bytes. */
static inline size_t from_integer(char *ret, int64_t n)
{
	uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
	size_t len = 1 + (n < 0);

	if (rest < 10 && n >= 0) {
		*ret = (char)('0' + n);
		return 1;
	}
	for (uint64_t tens = rest / 10; tens; tens /= 10)
		len++;
	for (char *at = ret + len; at > ret + (n < 0); rest /= 10)
		*--at = (char)('0' + rest % 10);
	if (n < 0)
		*ret = '-';
	return len;
}

/* The shortest of 15 and 17 digits that reads back as the same number. `ret` has room for 40 bytes.
 */
static size_t from_double(char *ret, double n)
{
	snprintf(ret, 40, "%.15g", n);
	if (strtod(ret, NULL) != n)
		snprintf(ret, 40, "%.17g", n);
	return strlen(ret);
}

/* ---- Maps: the table ------------------------------------------------------------------------- */

static void value_drop(struct node *n);

static void map_finish_move(struct map *m)
{
	weir_free(m->buckets[0]);
	m->buckets[0] = m->buckets[1];
	m->size[0] = m->size[1];
	m->buckets[1] = NULL;
	m->size[1] = 0;
}

static void map_move_bucket(struct map *m, size_t bucket)
{
	struct node *next;

	for (struct node *n = m->buckets[0][bucket]; n; n = next) {
		struct node **to = &m->buckets[1][n->hash & (m->size[1] - 1)];
		next = n->next;
		n->next = *to;
		*to = n;
	}
	m->buckets[0][bucket] = NULL;
}

/* A bounded piece of the move, so that no access pays for a whole map. */
static void map_step(struct map *m)
{
	if (!m->size[1])
		return;
	for (int full = 0, seen = 0; full < MOVE_BUCKETS && seen < 8 * MOVE_BUCKETS; seen++) {
		if (m->moved == m->size[0]) {
			map_finish_move(m);
			return;
		}
		full += m->buckets[0][m->moved] != NULL;
		map_move_bucket(m, m->moved++);
	}
}

/* Starts to move to `size` buckets. Failing is no error: the map stays as dense as it is. */
static void map_resize(struct map *m, size_t size)
{
	struct node **buckets = weir_zalloc(size * sizeof(struct node *));

	if (!buckets)
		return;
	int which = m->size[0] ? 1 : 0;
	m->buckets[which] = buckets;
	m->size[which] = size;
	m->moved = 0;
}

/* The link that points to the key's node; NULL when it is not there. */
static struct node **map_seek(struct map *m, struct bytes key, uint32_t hash)
{
	map_step(m);
	for (int i = 0; i < 2 && m->size[i]; i++) {
		struct node **link = &m->buckets[i][hash & (m->size[i] - 1)];
		for (; *link; link = &(*link)->next)
			if ((*link)->hash == hash && (*link)->key_len == key.len &&
			    !memcmp((*link)->key, key.at, key.len))
				return link;
	}
	return NULL;
}

static struct node *map_find(struct map *m, struct bytes key)
{
	struct node **link = map_seek(m, key, hash_of(key));
	return link ? *link : NULL;
}

/* Adds a key that is not there. NULL: out of memory. */
static struct node *map_add(struct map *m, struct bytes key, void *value)
{
	if (!m->size[1] && m->used >= m->size[0])
		map_resize(m, m->size[0] ? m->size[0] * 2 : BUCKETS_MIN);
	if (!m->size[0])
		return NULL;
	struct node *n = weir_alloc(sizeof *n + key.len);
	if (!n)
		return NULL;
	*n = (struct node){ .value = value,
			    .ranked_at = UNRANKED,
			    .hash = hash_of(key),
			    .key_len = (uint32_t)key.len };
	memcpy(n->key, key.at, key.len);
	int which = m->size[1] ? 1 : 0;
	struct node **bucket = &m->buckets[which][n->hash & (m->size[which] - 1)];
	n->next = *bucket;
	*bucket = n;
	m->used++;
	return n;
}

struct walk {
	const struct map *map;
	struct node *node;
	size_t bucket; /* the next one, counted through both arrays */
};

/* Every node once, as long as nothing touches the map meanwhile; then NULL. */
static struct node *walk_next(struct walk *w)
{
	const struct map *m = w->map;

	if (w->node)
		w->node = w->node->next;
	while (!w->node && w->bucket < m->size[0] + m->size[1]) {
		size_t b = w->bucket++;
		w->node = b < m->size[0] ? m->buckets[0][b] : m->buckets[1][b - m->size[0]];
	}
	return w->node;
}

/* A node by chance. The map is not empty. */
static struct node *map_random(struct map *m)
{
	static uint64_t dice;
	size_t buckets = m->size[0] + m->size[1];
	struct walk w = { m, NULL, mix(++dice ^ secret[0], secret[1]) % buckets };
	struct node *n = walk_next(&w);

	if (n)
		return n;
	w.bucket = 0;
	return walk_next(&w);
}

/* ---- Maps: the order ------------------------------------------------------------------------- */

static bool node_before(const struct node *a, const struct node *b)
{
	if (a->order != b->order)
		return a->order < b->order;
	int sign = memcmp(a->key, b->key, a->key_len < b->key_len ? a->key_len : b->key_len);
	return sign ? sign < 0 : a->key_len < b->key_len;
}

static void rank_put(struct map *m, size_t i, struct node *n)
{
	m->ranked[i] = n;
	n->ranked_at = (uint32_t)i;
}

/* Puts `n` where it belongs, starting from the free place i. */
static void rank_settle(struct map *m, size_t i, struct node *n)
{
	while (i > 0 && node_before(n, m->ranked[(i - 1) / 2])) {
		rank_put(m, i, m->ranked[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (size_t child = 2 * i + 1; child < m->ranked_len; child = 2 * i + 1) {
		if (child + 1 < m->ranked_len &&
		    node_before(m->ranked[child + 1], m->ranked[child]))
			child++;
		if (!node_before(m->ranked[child], n))
			break;
		rank_put(m, i, m->ranked[child]);
		i = child;
	}
	rank_put(m, i, n);
}

/* Gives a node its order, or another one. False: out of memory. */
static bool map_rank(struct map *m, struct node *n, double order)
{
	if (n->ranked_at == UNRANKED && m->ranked_len == m->ranked_cap) {
		size_t cap = m->ranked_cap ? m->ranked_cap * 2 : 4;
		struct node **bigger = weir_realloc(m->ranked, cap * sizeof *bigger);
		if (!bigger)
			return false;
		m->ranked = bigger;
		m->ranked_cap = cap;
	}
	n->order = order;
	rank_settle(m, n->ranked_at == UNRANKED ? m->ranked_len++ : n->ranked_at, n);
	return true;
}

static void map_unrank(struct map *m, struct node *n)
{
	if (n->ranked_at == UNRANKED)
		return;
	struct node *last = m->ranked[--m->ranked_len];
	if (last != n)
		rank_settle(m, n->ranked_at, last);
	n->ranked_at = UNRANKED;
}

static void map_remove(struct map *m, struct node *n)
{
	struct node **link = map_seek(m, (struct bytes){ n->key, n->key_len }, n->hash);

	*link = n->next;
	map_unrank(m, n);
	value_drop(n);
	weir_free(n);
	m->used--;
	if (!m->size[1] && m->size[0] > 4 * BUCKETS_MIN && m->used * 8 < m->size[0])
		map_resize(m, m->size[0] / 4);
}

static void map_clear(struct map *m)
{
	struct node *next;

	for (int i = 0; i < 2; i++) {
		for (size_t b = 0; b < m->size[i]; b++)
			for (struct node *n = m->buckets[i][b]; n; n = next) {
				next = n->next;
				value_drop(n);
				weir_free(n);
			}
		weir_free(m->buckets[i]);
	}
	weir_free(m->ranked);
	memset(m, 0, sizeof *m);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static struct text **list_at(const struct list *l, size_t i)
{
	return &l->items[(l->head + i) & (l->cap - 1)];
}

static bool list_resize(struct list *l, size_t cap)
{
	struct text **items = weir_alloc(cap * sizeof *items);

	if (!items)
		return false;
	for (size_t i = 0; i < l->len; i++)
		items[i] = *list_at(l, i);
	weir_free(l->items);
	l->items = items;
	l->cap = cap;
	l->head = 0;
	return true;
}

static bool list_push(struct list *l, bool front, struct text *item)
{
	if (l->len == l->cap && !list_resize(l, l->cap ? l->cap * 2 : 4))
		return false;
	if (front)
		l->head = (l->head - 1) & (l->cap - 1);
	*list_at(l, front ? 0 : l->len) = item;
	l->len++;
	return true;
}

static struct text *list_pop(struct list *l, bool front)
{
	struct text *item = *list_at(l, front ? 0 : l->len - 1);

	if (front)
		l->head = (l->head + 1) & (l->cap - 1);
	l->len--;
	if (l->cap > 16 && l->len < l->cap / 8)
		(void)list_resize(l, l->cap / 4); /* when it fails, the ring stays larger */
	return item;
}

/* ---- Values and keys ------------------------------------------------------------------------- */

/* Frees a node's value. */
static void value_drop(struct node *n)
{
	if (n->type == TYPE_STRING) {
		weir_free(n->value);
	} else if (n->type == TYPE_LIST) {
		struct list *l = n->value;
		for (size_t i = 0; i < l->len; i++)
			weir_free(*list_at(l, i));
		weir_free(l->items);
		weir_pool_put(lists, l);
	} else {
		map_clear(n->value);
		weir_pool_put(maps, n->value);
	}
}

/* NULL: 0. */
static size_t collection_len(const struct node *key)
{
	if (!key)
		return 0;
	if (key->type == TYPE_LIST)
		return ((const struct list *)key->value)->len;
	return ((const struct map *)key->value)->used;
}

/* An empty collection; it gets a first member at once, or is removed. NULL: out of memory. */
static struct node *collection_new(struct bytes name, enum type type)
{
	weir_pool *pool = type == TYPE_LIST ? lists : maps;
	void *value = weir_pool_get(pool);

	if (!value)
		return NULL;
	memset(value, 0, type == TYPE_LIST ? sizeof(struct list) : sizeof(struct map));
	struct node *key = map_add(&keyspace, name, value);
	if (key)
		key->type = (uint8_t)type;
	else
		weir_pool_put(pool, value);
	return key;
}

/* Wakes the sweeper when this key is due before it would look. False: out of memory. */
static bool key_expire(struct node *key, int64_t at_ms)
{
	if (!map_rank(&keyspace, key, (double)at_ms))
		return false;
	if (at_ms < sweep_at_ms)
		(void)!weir_chan_try_send(sweeper_poke, ""); /* full: it will wake anyway */
	return true;
}

/* One reading serves all the commands of a read, and most need none. */
static int64_t now_ms(void)
{
	if (!clock_ms)
		clock_ms = weir_now() / WEIR_MS;
	return clock_ms;
}

static bool is_expired(const struct node *key)
{
	return key->ranked_at != UNRANKED && key->order <= (double)now_ms();
}

/* The key's node, or NULL. A key past its time is deleted on the way. */
static struct node *key_find(struct bytes name)
{
	struct node *key = map_find(&keyspace, name);

	if (!key || !is_expired(key))
		return key;
	map_remove(&keyspace, key);
	expired_keys++;
	return NULL;
}

/* SET: `key` is what key_find() said. Returns the node, which does not expire; NULL: no memory. */
static struct node *key_store(struct node *key, struct bytes name, struct bytes value)
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

/* ---- Answers --------------------------------------------------------------------------------- */

static char *more_room(struct client *c, size_t len)
{
	weir_buf bigger;
	size_t cap = c->out.cap * 2 > OUT_BYTES_FIRST ? c->out.cap * 2 : OUT_BYTES_FIRST;

	if (!c->err)
		c->err = weir_buf_get(&bigger, cap > c->out.len + len ? cap : c->out.len + len);
	if (c->err)
		return NULL;
	if (c->out.len)
		memcpy(bigger.data, c->out.data, c->out.len);
	bigger.len = c->out.len;
	weir_buf_release(&c->out);
	c->out = bigger;
	return c->out.data + c->out.len;
}

/* Room for `len` more bytes; NULL when there is no memory: then the client has to go. */
static inline char *room(struct client *c, size_t len)
{
	if (WEIR_LIKELY(c->out.cap - c->out.len >= len))
		return c->out.data + c->out.len;
	return more_room(c, len);
}

static void reply_bytes(struct client *c, const char *at, size_t len)
{
	char *to = room(c, len);

	if (!to)
		return;
	memcpy(to, at, len);
	c->out.len += len;
}

/* Whole lines of the protocol. */
static inline void reply(struct client *c, const char *lines)
{
	reply_bytes(c, lines, strlen(lines));
}

static void reply_count(struct client *c, char kind, int64_t n)
{
	char *to = room(c, 24);

	if (!to)
		return;
	to[0] = kind;
	size_t len = 1 + from_integer(to + 1, n);
	memcpy(to + len, "\r\n", 2);
	c->out.len += len + 2;
}

static void reply_integer(struct client *c, int64_t n)
{
	reply_count(c, ':', n);
}

static void reply_bulk(struct client *c, const char *at, size_t len)
{
	char *to = room(c, len + 26);

	if (!to)
		return;
	to[0] = '$';
	size_t n = 1 + from_integer(to + 1, (int64_t)len);
	memcpy(to + n, "\r\n", 2);
	memcpy(to + n + 2, at, len);
	memcpy(to + n + 2 + len, "\r\n", 2);
	c->out.len += n + len + 4;
}

/* NULL: there is none. */
static void reply_text(struct client *c, const struct text *text)
{
	if (text)
		reply_bulk(c, text->at, text->len);
	else
		reply(c, c->protocol == 3 ? "_\r\n" : "$-1\r\n");
}

/* A set ('~') or a map ('%', of n pairs), which RESP2 sees as arrays. */
static void reply_frame(struct client *c, char kind, size_t n)
{
	if (c->protocol == 3)
		reply_count(c, kind, (int64_t)n);
	else
		reply_count(c, '*', (int64_t)(kind == '%' ? 2 * n : n));
}

static void reply_double(struct client *c, double n)
{
	char digits[40];
	size_t len = from_double(digits, n);

	if (c->protocol == 2) {
		reply_bulk(c, digits, len);
		return;
	}
	reply(c, ",");
	reply_bytes(c, digits, len);
	reply(c, "\r\n");
}

/* One line, so what a client sent may be quoted: control characters become blanks. */
__attribute__((format(printf, 2, 3))) static void reply_error(struct client *c, const char *format,
							      ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	for (char *at = text; *at; at++)
		if ((unsigned char)*at < ' ')
			*at = ' ';
	reply(c, "-");
	reply(c, text);
	reply(c, "\r\n");
}

/* ---- Commands: strings ----------------------------------------------------------------------- */

/*
 * A command returns NULL when it has answered, or the error that is its answer. execute() has seen
 * to the number of arguments and, for those that work on one type, to c->key: NULL when there is
 * no such key, a new and empty one for those that add. It removes what is empty afterwards.
 */
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

/* ---- Commands: keys -------------------------------------------------------------------------- */

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

/* ---- Commands: lists ------------------------------------------------------------------------- */

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

/* ---- Commands: sets, hashes, sorted sets ------------------------------------------------------
 */

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

/* ---- Commands: the connection and the server ---------------------------------------------------
 */

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

/* ---- The table of commands --------------------------------------------------------------------
 */

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

static void commands_init(void)
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
		c->key = collection_new(c->argv[1], type);
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

static void execute(struct client *c)
{
	const struct command *command = command_find(c->argv[0]);
	struct bytes name = c->argv[0];

	commands_run++;
	c->command = command;
	if (!command)
		reply_error(c, "ERR unknown command '%.*s'", (int)(name.len < 128 ? name.len : 128),
			    name.at);
	else if (command->arity > 0 ? (int)c->argc != command->arity
				    : (int)c->argc < -command->arity)
		reply_error(c, "ERR wrong number of arguments for '%s' command", command->name);
	else
		run(c);
}

/* ---- The protocol --------------------------------------------------------------------------- */

/* These return 1 when a command is whole, 0 when bytes are missing, -EPROTO after the answer. */

static int protocol_error(struct client *c, const char *what)
{
	reply_error(c, "ERR Protocol error: %s", what);
	c->closing = true;
	return -EPROTO;
}

static int more_args(struct client *c)
{
	struct bytes *more = weir_alloc(2 * c->args_cap * sizeof *more);

	if (!more)
		return c->err = -ENOMEM;
	memcpy(more, c->argv, c->argc * sizeof *more);
	if (c->argv != c->args_inline)
		weir_free(c->argv);
	c->argv = more;
	c->args_cap *= 2;
	return 0;
}

/* Returns 0 or -ENOMEM. */
static inline int push_arg(struct client *c, char *at, size_t len)
{
	if (c->argc == c->args_cap && more_args(c) < 0)
		return c->err;
	c->argv[c->argc++] = (struct bytes){ at, len };
	return 0;
}

static void drop_args(struct client *c)
{
	if (c->argv != c->args_inline)
		weir_free(c->argv);
	c->argv = c->args_inline;
	c->args_cap = ARGS_INLINE;
	c->argc = 0;
}

/*
 * One word of an inline command, unquoted in place: inside quotes, a backslash stands for what
 * follows it. Returns behind the word; NULL: a quote is not closed.
 */
static char *inline_word(char *at, const char *end, struct bytes *ret)
{
	char *to = at, quote = 0;

	ret->at = at;
	for (; at < end && (quote || (*at != ' ' && *at != '\t')); at++) {
		if (quote && *at == quote) {
			quote = 0;
			if (at + 1 < end && at[1] != ' ' && at[1] != '\t')
				return NULL;
		} else if (!quote && (*at == '"' || *at == '\'')) {
			quote = *at;
		} else {
			at += quote && *at == '\\' && at + 1 < end;
			*to++ = *at;
		}
	}
	ret->len = (size_t)(to - ret->at);
	return quote ? NULL : at;
}

static int parse_inline(struct client *c)
{
	char *at = c->in + c->at;
	size_t left = c->in_len - c->at;
	char *end = memchr(at, '\n', left);
	struct bytes word;

	if ((end ? (size_t)(end - at) : left) > INLINE_BYTES_MAX)
		return protocol_error(c, "too big inline request");
	if (!end)
		return 0;
	c->at += (size_t)(end - at) + 1;
	if (end > at && end[-1] == '\r')
		end--;
	for (;;) {
		while (at < end && (*at == ' ' || *at == '\t'))
			at++;
		if (at == end)
			return 1;
		at = inline_word(at, end, &word);
		if (!at)
			return protocol_error(c, "unbalanced quotes in request");
		if (push_arg(c, word.at, word.len) < 0)
			return c->err;
	}
}

/* Negative, too large, no number at all, or not a whole line yet. */
static int parse_odd_count(struct client *c, const char *too_long, const char *invalid,
			   int64_t *ret)
{
	char *at = c->in + c->at;
	size_t left = c->in_len - c->at;
	char *end = memchr(at, '\n', left < COUNT_LINE_BYTES_MAX ? left : COUNT_LINE_BYTES_MAX);

	if (!end)
		return left < COUNT_LINE_BYTES_MAX ? 0 : protocol_error(c, too_long);
	if (end[-1] != '\r' || !to_integer((struct bytes){ at + 1, (size_t)(end - at) - 2 }, ret))
		return protocol_error(c, invalid);
	c->at += (size_t)(end - at) + 1;
	return 1;
}

/* A number on a line of its own, behind its first character. */
static inline int parse_count(struct client *c, const char *too_long, const char *invalid,
			      int64_t *ret)
{
	const char *first = c->in + c->at + 1, *end = c->in + c->in_len, *at = first;
	int64_t n = 0;

	for (; at < end && at < first + 10 && (unsigned char)(*at - '0') < 10; at++)
		n = n * 10 + (*at - '0');
	if (at == first || end - at < 2 || memcmp(at, "\r\n", 2) != 0)
		return parse_odd_count(c, too_long, invalid, ret);
	*ret = n;
	c->at = (size_t)(at + 2 - c->in);
	return 1;
}

static inline int parse_bulk_header(struct client *c)
{
	char message[40];

	if (c->at == c->in_len)
		return 0;
	if (c->in[c->at] != '$') {
		snprintf(message, sizeof message, "expected '$', got '%c'", c->in[c->at]);
		return protocol_error(c, message);
	}
	int got = parse_count(c, "too big bulk count string", "invalid bulk length", &c->bulk_len);
	if (got > 0 && (c->bulk_len < 0 || c->bulk_len > BULK_BYTES_MAX))
		return protocol_error(c, "invalid bulk length");
	return got;
}

static inline int parse_bulk(struct client *c)
{
	int got = c->bulk_len < 0 ? parse_bulk_header(c) : 1;
	size_t len = (size_t)c->bulk_len;

	if (got <= 0)
		return got;
	if (c->in_len - c->at < len + 2)
		return 0;
	if (push_arg(c, c->in + c->at, len) < 0)
		return c->err;
	c->at += len + 2; /* the CR LF at the end is not looked at, as in Redis */
	c->bulk_len = -1;
	c->args_left--;
	return 1;
}

static int parse_command(struct client *c)
{
	int got;

	if (c->args_left == 0) {
		if (c->at == c->in_len)
			return 0;
		if (c->in[c->at] != '*')
			return parse_inline(c);
		got = parse_count(c, "too big mbulk count string", "invalid multibulk length",
				  &c->args_left);
		if (got <= 0)
			return got;
		if (c->args_left > ARGS_MAX)
			return protocol_error(c, "invalid multibulk length");
		if (c->args_left < 0)
			c->args_left = 0;
	}
	while (c->args_left > 0) {
		got = parse_bulk(c);
		if (got <= 0)
			return got;
	}
	return 1;
}

/* ---- Clients -------------------------------------------------------------------------------- */

/* Sends what has been built. Returns 0 or the reason why not all of it could go. */
static int flush(struct client *c)
{
	size_t len = c->out.len;

	if (len == 0)
		return 0;
	WEIR_SCOPE(sending, SEND_NS);
	ssize_t n = weir_send(c->conn, &c->out);
	clock_ms = 0;
	return n < 0 ? (int)n : (size_t)n < len ? -ETIME : 0;
}

/* Answers every whole command in c->in. Returns 0 or why the client has to go at once. */
static int run_commands(struct client *c)
{
	clock_ms = 0;
	while (!c->closing && !c->err && parse_command(c) > 0) {
		if (c->argc)
			execute(c);
		drop_args(c);
		c->start = c->at;
		if (c->out.len > OUT_BYTES_MAX)
			c->err = flush(c);
	}
	return c->err;
}

static ssize_t receive(struct client *c, weir_buf *ret)
{
	WEIR_SCOPE(waiting, c->pending ? HALF_NS : IDLE_NS);
	return weir_recv(c->conn, ret);
}

/* The arguments found so far move with the bytes they point to. `from` is still allocated. */
static void move_input(struct client *c, char *to, const char *from)
{
	size_t left = c->in_len - c->start;

	memcpy(to, from, left);
	for (size_t i = 0; i < c->argc; i++)
		c->argv[i].at = to + (c->argv[i].at - from);
	c->in = to;
	c->in_len = left;
	c->at -= c->start;
	c->start = 0;
}

/* Gives c->pending `cap` bytes with what is left of the input in front. Returns 0 or -ENOMEM. */
static int pending_move(struct client *c, size_t cap)
{
	char *bigger = weir_alloc(cap);

	if (!bigger)
		return -ENOMEM;
	move_input(c, bigger, c->in + c->start);
	weir_free(c->pending);
	c->pending = bigger;
	c->pending_cap = cap;
	return 0;
}

/* Makes *lease what is parsed next, behind what is pending. */
static int take_input(struct client *c, const weir_buf *lease)
{
	if (!c->pending) {
		c->in = lease->data;
		c->in_len = lease->len;
		c->at = c->start = 0;
		return 0;
	}
	size_t len = c->in_len + lease->len;
	if (len > COMMAND_BYTES_MAX)
		return -EMSGSIZE;
	int err = len > c->pending_cap ? pending_move(c, 2 * len) : 0;
	if (err < 0)
		return err;
	memcpy(c->pending + c->in_len, lease->data, lease->len);
	c->in_len = len;
	return 0;
}

/* The lease is about to end: what has not been parsed moves to a block of its own. */
static int keep_rest(struct client *c)
{
	size_t left = c->in_len - c->start;

	if (left > 0 && (!c->pending || c->start > 0))
		return pending_move(c, left < 512 ? 1024 : 2 * left);
	if (left == 0) {
		weir_free(c->pending);
		c->pending = NULL;
	}
	return 0;
}

/* One read and the answers to it. Returns 1 to go on, 0 when done, or an error. */
static int turn(struct client *c)
{
	weir_auto_buf lease = WEIR_BUF_INIT;
	ssize_t n = receive(c, &lease);

	if (n <= 0)
		return (int)n;
	int err = take_input(c, &lease);
	if (err == 0)
		err = run_commands(c);
	if (err == 0)
		err = keep_rest(c);
	weir_buf_release(&lease); /* not to be kept while a slow reader takes its answers */
	if (err == 0)
		err = flush(c);
	return err < 0 ? err : !c->closing;
}

static int serve_client(weir_conn *conn)
{
	struct client c = { .conn = conn,
			    .out = WEIR_BUF_INIT,
			    .protocol = 2,
			    .bulk_len = -1,
			    .argv = c.args_inline,
			    .args_cap = ARGS_INLINE };
	int more;

	do
		more = turn(&c);
	while (more > 0);
	drop_args(&c);
	weir_free(c.pending);
	weir_buf_release(&c.out);
	return more;
}

/* ---- Start ---------------------------------------------------------------------------------- */

/* Until the first key is due, or somebody pokes because a key is due earlier. */
static int sweep_wait(void)
{
	int64_t ns = WEIR_FOREVER;
	char poke;

	sweep_at_ms = INT64_MAX;
	if (keyspace.ranked_len > 0) {
		ns = (int64_t)keyspace.ranked[0]->order * WEIR_MS - weir_now();
		ns = ns < SWEEP_NS ? SWEEP_NS : ns;
		sweep_at_ms = (weir_now() + ns) / WEIR_MS;
	}
	WEIR_SCOPE(nap, ns);
	int err = weir_chan_recv(sweeper_poke, &poke);
	return err == -ETIME ? 0 : err;
}

/* Deletes what has expired without being asked for. Sleeps for good while nothing expires. */
static int sweep(void *arg)
{
	int err = 0;

	(void)arg;
	while (err == 0) {
		err = sweep_wait();
		clock_ms = 0;
		for (int n = 0; n < SWEEP_KEYS && keyspace.ranked_len > 0; n++) {
			if (!is_expired(keyspace.ranked[0]))
				break;
			map_remove(&keyspace, keyspace.ranked[0]);
			expired_keys++;
		}
	}
	return err;
}

static int serve(const char *address)
{
	weir_auto_listener ln = NULL;
	int err = weir_listen(&ln, address);

	if (err < 0)
		return err;
	printf("kv: listening on %s\n", weir_listener_address(ln));
	fflush(stdout);
	WEIR_SCOPE(all, WEIR_FOREVER);
	err = weir_spawn(&all, sweep, NULL, .name = "sweeper");
	return err < 0 ? err : weir_serve(ln, serve_client, .name = "client");
}

static int store_open(void)
{
	if (getrandom(secret, sizeof secret, 0) != sizeof secret)
		return -EIO;
	secret[1] |= 1;
	commands_init();
	sweeper_poke = weir_chan_new(1, 1);
	int err = sweeper_poke ? 0 : -ENOMEM;
	if (err == 0)
		err = weir_pool_new(&maps, .object_bytes = sizeof(struct map), .name = "kv map");
	if (err == 0)
		err = weir_pool_new(&lists, .object_bytes = sizeof(struct list), .name = "kv list");
	return err;
}

static void store_close(void)
{
	map_clear(&keyspace);
	weir_pool_free(maps);
	weir_pool_free(lists);
	weir_chan_free(sweeper_poke);
}

static int start(void *address)
{
	int err = store_open();

	if (err == 0)
		err = serve(address);
	store_close();
	return err;
}

int main(int argc, char **argv)
{
	int err = weir_run(start, argc > 1 ? argv[1] : "127.0.0.1:6379", .workers = 1);

	if (err < 0 && err != -ECANCELED)
		fprintf(stderr, "kv: %s\n", weir_strerror(err));
	return err < 0 && err != -ECANCELED;
}
