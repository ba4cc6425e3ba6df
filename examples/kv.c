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
	NAME_BYTES = 64,
	TABLE_BUCKETS_MIN = 4,
	REHASH_BUCKETS = 4, /* moved by each access to a table that is changing its size */
	SWEEP_KEYS = 256,   /* expired at one go before others may run */
	SKIP_LEVELS = 24,
};
#define REDIS_VERSION "7.0.15" /* what its clients are told, so that they use what is there */

static const int64_t IDLE_NS = 3600 * WEIR_SEC; /* between commands */
static const int64_t HALF_NS = 60 * WEIR_SEC;	/* of silence inside a command */
static const int64_t SEND_NS = 60 * WEIR_SEC;	/* for a client to take one batch of answers */
static const int64_t SWEEP_NS = 10 * WEIR_MS;	/* keys that expire closer together go together */

struct bytes {
	char *at;
	size_t len;
};

/* A string value. */
struct text {
	size_t len;
	char at[];
};

enum type { TYPE_STRING, TYPE_LIST, TYPE_SET, TYPE_HASH, TYPE_ZSET };

/* An entry of a table: a key of the keyspace, a member of a set, a field of a hash. */
struct node {
	struct node *next;
	void *value; /* struct text, list, table or zset; NULL in sets; struct rank in zsets */
	int64_t expires_ms; /* keyspace only; 0: never */
	uint32_t heap_at;   /* where heap[] has it; valid when expires_ms is set */
	uint32_t hash;
	uint32_t key_len;
	uint8_t type;
	char key[];
};

/* While it changes its size, buckets[0] empties into buckets[1] and `moved` says how far. */
struct table {
	struct node **buckets[2];
	size_t size[2]; /* powers of two; size[1] is 0 unless it moves */
	size_t moved;
	size_t used;
};

/* A ring: item i is items[(head + i) % cap]. */
struct list {
	struct text **items;
	size_t cap;
	size_t head;
	size_t len;
};

/* One member's place in the order of a sorted set (a skip list). */
struct rank {
	double score;
	struct node *member;
	struct rank *next[];
};

struct zset {
	struct table members; /* value: struct rank */
	struct rank *head;
	int levels;
};

struct client {
	weir_conn *conn;
	weir_buf out;
	int err;      /* why it has to go; answers are dropped from then on */
	bool closing; /* after what is in `out` */
	int protocol; /* 2 or 3 */
	uint64_t id;
	char *in; /* what is being parsed: a lease's bytes, or pending */
	size_t in_len;
	size_t start; /* of the command being parsed */
	size_t at;    /* the first byte not parsed yet */
	int64_t args_left;
	int64_t bulk_len; /* of the argument whose header has been read; -1: none */
	char *pending;	  /* a command cut off by the end of a read; NULL: none */
	size_t pending_cap;
	const struct command *command; /* the one that runs */
	struct bytes *argv;
	size_t argc;
	size_t args_cap;
	struct bytes args_inline[ARGS_INLINE];
	char name[NAME_BYTES];
};

struct command {
	const char *name;
	void (*run)(struct client *c);
	int arity; /* with the name; negative: at least */
	char keys; /* '1': the first argument, '*': all, '2': every second, ' ': none */
	int arg;   /* what tells it from others with the same function */
};

static weir_pool *tables, *lists, *zsets;
static struct table keyspace;
static struct node **heap; /* keys that expire, the earliest first */
static size_t heap_len, heap_cap;
static int64_t now_ms;
static int64_t sweep_at_ms; /* when the sweeper will look next */
static weir_chan *sweeper_poke;
static uint64_t secret[2]; /* against clients that choose colliding keys */
static uint64_t commands_run, expired_keys, client_ids;

/* ---- Strings -------------------------------------------------------------------------------- */

static struct text *text_new(const char *at, size_t len)
{
	struct text *text = weir_alloc(sizeof *text + len);

	if (text) {
		text->len = len;
		memcpy(text->at, at, len);
	}
	return text;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash_of(const char *at, size_t len)
{
	uint64_t hash = mix(secret[0] ^ len, 0x9e3779b97f4a7c15), word;

	for (; len >= 8; at += 8, len -= 8) {
		memcpy(&word, at, 8);
		hash = mix(hash ^ word, secret[1]);
	}
	word = 0;
	memcpy(&word, at, len);
	return (uint32_t)mix(hash ^ word, secret[1]);
}

static uint64_t random_bits(void)
{
	static uint64_t state;

	state += 0x9e3779b97f4a7c15;
	return mix(state ^ secret[0], secret[1]);
}

static bool equals(struct bytes a, const char *word)
{
	return a.len == strlen(word) && !strncasecmp(a.at, word, a.len);
}

/* All of `text` is a decimal integer. */
static bool to_integer(const char *at, size_t len, int64_t *ret)
{
	bool minus = len > 1 && *at == '-';
	uint64_t n = 0, limit = (uint64_t)INT64_MAX + minus;

	if (len == minus || len > 20)
		return false;
	for (size_t i = minus; i < len; i++) {
		unsigned digit = (unsigned)(at[i] - '0');
		if (digit > 9 || n > (limit - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	*ret = (int64_t)(minus ? 0 - n : n);
	return true;
}

/* All of `text` is a number, but not NaN. */
static bool to_double(const char *at, size_t len, long double *ret)
{
	char copy[128], *end;

	if (len == 0 || len >= sizeof copy || strchr(" \t\n\v\f\r", at[0]))
		return false;
	memcpy(copy, at, len);
	copy[len] = 0;
	long double n = strtold(copy, &end);
	if (end != copy + len || isnan(n))
		return false;
	*ret = n;
	return true;
}

static size_t from_integer(char *ret, int64_t n)
{
	char digits[20], *at = digits + sizeof digits;
	uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;

	do
		*--at = (char)('0' + rest % 10);
	while ((rest /= 10));
	if (n < 0)
		*--at = '-';
	memcpy(ret, at, (size_t)(digits + sizeof digits - at));
	return (size_t)(digits + sizeof digits - at);
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

/* ---- Tables --------------------------------------------------------------------------------- */

static void table_finish_move(struct table *t)
{
	weir_free(t->buckets[0]);
	t->buckets[0] = t->buckets[1];
	t->size[0] = t->size[1];
	t->buckets[1] = NULL;
	t->size[1] = 0;
}

static void table_move_bucket(struct table *t, size_t bucket)
{
	struct node *next;

	for (struct node *n = t->buckets[0][bucket]; n; n = next) {
		struct node **to = &t->buckets[1][n->hash & (t->size[1] - 1)];
		next = n->next;
		n->next = *to;
		*to = n;
	}
	t->buckets[0][bucket] = NULL;
}

/* A bounded piece of the move, so that no access pays for a whole table. */
static void table_step(struct table *t)
{
	if (!t->size[1])
		return;
	for (int full = 0, seen = 0; full < REHASH_BUCKETS && seen < 8 * REHASH_BUCKETS; seen++) {
		if (t->moved == t->size[0]) {
			table_finish_move(t);
			return;
		}
		full += t->buckets[0][t->moved] != NULL;
		table_move_bucket(t, t->moved++);
	}
}

/* Starts to move to `size` buckets. Failing is no error: the table stays as dense as it is. */
static void table_resize(struct table *t, size_t size)
{
	struct node **buckets = weir_zalloc(size * sizeof(struct node *));

	if (!buckets)
		return;
	int which = t->size[0] ? 1 : 0;
	t->buckets[which] = buckets;
	t->size[which] = size;
	t->moved = 0;
}

/* The link that points to the key's node; NULL when it is not there. */
static struct node **table_seek(struct table *t, const char *key, size_t len, uint32_t hash)
{
	table_step(t);
	for (int i = 0; i < 2 && t->size[i]; i++) {
		struct node **link = &t->buckets[i][hash & (t->size[i] - 1)];
		for (; *link; link = &(*link)->next)
			if ((*link)->hash == hash && (*link)->key_len == len &&
			    !memcmp((*link)->key, key, len))
				return link;
	}
	return NULL;
}

static struct node *table_find(struct table *t, struct bytes key)
{
	struct node **link = table_seek(t, key.at, key.len, hash_of(key.at, key.len));
	return link ? *link : NULL;
}

/* Adds a key that is not there. NULL: out of memory. */
static struct node *table_add(struct table *t, struct bytes key, void *value)
{
	if (!t->size[1] && t->used >= t->size[0])
		table_resize(t, t->size[0] ? t->size[0] * 2 : TABLE_BUCKETS_MIN);
	if (!t->size[0])
		return NULL;
	struct node *n = weir_alloc(sizeof *n + key.len);
	if (!n)
		return NULL;
	*n = (struct node){ .value = value,
			    .hash = hash_of(key.at, key.len),
			    .key_len = (uint32_t)key.len };
	memcpy(n->key, key.at, key.len);
	int which = t->size[1] ? 1 : 0;
	struct node **bucket = &t->buckets[which][n->hash & (t->size[which] - 1)];
	n->next = *bucket;
	*bucket = n;
	t->used++;
	return n;
}

/* Gives the node that `link` points to. */
static struct node *table_take(struct table *t, struct node **link)
{
	struct node *n = *link;

	*link = n->next;
	t->used--;
	if (!t->size[1] && t->size[0] > 4 * TABLE_BUCKETS_MIN && t->used * 8 < t->size[0])
		table_resize(t, t->size[0] / 4);
	return n;
}

/* Frees the buckets; calls `drop` for each node. */
static void table_clear(struct table *t, void (*drop)(struct node *n))
{
	struct node *next;

	for (int i = 0; i < 2; i++) {
		for (size_t b = 0; b < t->size[i]; b++)
			for (struct node *n = t->buckets[i][b]; n; n = next) {
				next = n->next;
				drop(n);
			}
		weir_free(t->buckets[i]);
	}
	memset(t, 0, sizeof *t);
}

struct walk {
	const struct table *table;
	struct node *node;
	size_t bucket; /* the next one, counted through both arrays */
};

/* Every node once, as long as nothing touches the table meanwhile; then NULL. */
static struct node *walk_next(struct walk *w)
{
	const struct table *t = w->table;

	if (w->node)
		w->node = w->node->next;
	while (!w->node && w->bucket < t->size[0] + t->size[1]) {
		size_t b = w->bucket++;
		w->node = b < t->size[0] ? t->buckets[0][b] : t->buckets[1][b - t->size[0]];
	}
	return w->node;
}

/* A node by chance: the head of a random bucket's chain or one behind it. The table is not empty.
 */
static struct node *table_random(struct table *t)
{
	size_t buckets = t->size[0] + t->size[1];
	struct walk w = { t, NULL, random_bits() % buckets };
	struct node *first = walk_next(&w);

	if (!first) {
		w.bucket = 0;
		first = walk_next(&w);
	}
	struct node *chosen = first;
	unsigned seen = 1;
	for (struct node *n = first->next; n; n = n->next)
		if (random_bits() % ++seen == 0)
			chosen = n;
	return chosen;
}

/* ---- Lists ---------------------------------------------------------------------------------- */

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

/* ---- Sorted sets ---------------------------------------------------------------------------- */

static struct rank *rank_new(double score, struct node *member, int levels)
{
	struct rank *r = weir_zalloc(sizeof *r + (size_t)levels * sizeof r->next[0]);

	if (r) {
		r->score = score;
		r->member = member;
	}
	return r;
}

static bool rank_before(const struct rank *a, double score, const struct node *member)
{
	if (a->score != score)
		return a->score < score;
	const struct node *m = a->member;
	size_t len = m->key_len < member->key_len ? m->key_len : member->key_len;
	int order = memcmp(m->key, member->key, len);
	return order ? order < 0 : m->key_len < member->key_len;
}

/* On each level the last link before (score, member). */
static void zset_seek(struct zset *z, double score, struct node *member, struct rank **path[])
{
	struct rank *at = z->head;

	for (int level = SKIP_LEVELS - 1; level >= 0; level--) {
		while (level < z->levels && at->next[level] &&
		       rank_before(at->next[level], score, member))
			at = at->next[level];
		path[level] = &at->next[level];
	}
}

static bool zset_insert(struct zset *z, double score, struct node *member)
{
	struct rank **path[SKIP_LEVELS];
	int levels = 1;

	while (levels < SKIP_LEVELS && (random_bits() & 3) == 0)
		levels++;
	struct rank *r = rank_new(score, member, levels);
	if (!r)
		return false;
	zset_seek(z, score, member, path);
	for (int level = 0; level < levels; level++) {
		r->next[level] = *path[level];
		*path[level] = r;
	}
	if (levels > z->levels)
		z->levels = levels;
	member->value = r;
	return true;
}

static void zset_unlink(struct zset *z, struct rank *r)
{
	struct rank **path[SKIP_LEVELS];

	zset_seek(z, r->score, r->member, path);
	for (int level = 0; level < z->levels && *path[level] == r; level++)
		*path[level] = r->next[level];
	weir_free(r);
}

static void zset_remove(struct zset *z, struct node *member)
{
	zset_unlink(z, member->value);
	struct node **link = table_seek(&z->members, member->key, member->key_len, member->hash);
	weir_free(table_take(&z->members, link));
}

/* ---- Values --------------------------------------------------------------------------------- */

static void drop_node(struct node *n)
{
	weir_free(n);
}

static void drop_node_and_value(struct node *n)
{
	weir_free(n->value);
	weir_free(n);
}

static void list_free(struct list *l)
{
	for (size_t i = 0; i < l->len; i++)
		weir_free(*list_at(l, i));
	weir_free(l->items);
	weir_pool_put(lists, l);
}

static void table_free(struct table *t, void (*drop)(struct node *n))
{
	table_clear(t, drop);
	weir_pool_put(tables, t);
}

static void zset_free(struct zset *z)
{
	table_clear(&z->members, drop_node_and_value);
	weir_free(z->head);
	weir_pool_put(zsets, z);
}

static void value_free(enum type type, void *value)
{
	switch (type) {
	case TYPE_STRING:
		weir_free(value);
		break;
	case TYPE_LIST:
		list_free(value);
		break;
	case TYPE_SET:
		table_free(value, drop_node);
		break;
	case TYPE_HASH:
		table_free(value, drop_node_and_value);
		break;
	case TYPE_ZSET:
		zset_free(value);
		break;
	}
}

static void *pool_get_zeroed(weir_pool *pool, size_t bytes)
{
	void *object = weir_pool_get(pool);
	return object ? memset(object, 0, bytes) : NULL;
}

static struct zset *zset_new(void)
{
	struct zset *z = pool_get_zeroed(zsets, sizeof *z);

	if (!z)
		return NULL;
	z->head = rank_new(0, NULL, SKIP_LEVELS);
	if (!z->head) {
		weir_pool_put(zsets, z);
		return NULL;
	}
	z->levels = 1;
	return z;
}

/* An empty collection; it gets a first member at once, or is dropped. */
static void *collection_new(enum type type)
{
	if (type == TYPE_ZSET)
		return zset_new();
	if (type == TYPE_LIST)
		return pool_get_zeroed(lists, sizeof(struct list));
	return pool_get_zeroed(tables, sizeof(struct table));
}

static size_t collection_len(const struct node *key)
{
	if (key->type == TYPE_LIST)
		return ((const struct list *)key->value)->len;
	if (key->type == TYPE_ZSET)
		return ((const struct zset *)key->value)->members.used;
	return ((const struct table *)key->value)->used;
}

/* ---- Expiry --------------------------------------------------------------------------------- */

static void heap_put(size_t i, struct node *n)
{
	heap[i] = n;
	n->heap_at = (uint32_t)i;
}

/* Puts `n` where it belongs, starting from the free place i. */
static void heap_settle(size_t i, struct node *n)
{
	while (i > 0 && heap[(i - 1) / 2]->expires_ms > n->expires_ms) {
		heap_put(i, heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (size_t child = 2 * i + 1; child < heap_len; child = 2 * i + 1) {
		if (child + 1 < heap_len && heap[child + 1]->expires_ms < heap[child]->expires_ms)
			child++;
		if (heap[child]->expires_ms >= n->expires_ms)
			break;
		heap_put(i, heap[child]);
		i = child;
	}
	heap_put(i, n);
}

static void key_persist(struct node *key)
{
	if (!key->expires_ms)
		return;
	key->expires_ms = 0;
	struct node *last = heap[--heap_len];
	if (last != key)
		heap_settle(key->heap_at, last);
}

/* Wakes the sweeper when this key is due before it would look. False: out of memory. */
static bool key_expire(struct node *key, int64_t at_ms)
{
	if (heap_len == heap_cap) {
		size_t cap = heap_cap ? heap_cap * 2 : 64;
		struct node **bigger = weir_realloc(heap, cap * sizeof *heap);
		if (!bigger)
			return false;
		heap = bigger;
		heap_cap = cap;
	}
	key_persist(key);
	key->expires_ms = at_ms;
	heap_settle(heap_len++, key);
	if (at_ms < sweep_at_ms)
		(void)!weir_chan_try_send(sweeper_poke, ""); /* full: it will wake anyway */
	return true;
}

/* ---- Keys ----------------------------------------------------------------------------------- */

static void key_delete(struct node **link)
{
	struct node *key = table_take(&keyspace, link);

	key_persist(key);
	value_free(key->type, key->value);
	weir_free(key);
}

static void key_drop(struct node *key)
{
	key_delete(table_seek(&keyspace, key->key, key->key_len, key->hash));
}

static bool is_expired(const struct node *key)
{
	return key->expires_ms && key->expires_ms <= now_ms;
}

/* The key's node, or NULL. A key past its time is deleted on the way. */
static struct node *key_find(struct bytes name)
{
	struct node **link = table_seek(&keyspace, name.at, name.len, hash_of(name.at, name.len));

	if (!link || !is_expired(*link))
		return link ? *link : NULL;
	key_delete(link);
	expired_keys++;
	return NULL;
}

/* Takes `value` in any case. `key` is what key_find() said. False: out of memory. */
static bool key_store(struct node *key, struct bytes name, struct text *value)
{
	if (!value)
		return false;
	if (!key) {
		key = table_add(&keyspace, name, value);
		if (!key)
			weir_free(value);
		return key != NULL;
	}
	value_free(key->type, key->value);
	key->type = TYPE_STRING;
	key->value = value;
	return true;
}

/* ---- Answers -------------------------------------------------------------------------------- */

/* Room for `len` more bytes; NULL when there is no memory: then the client has to go. */
static char *room(struct client *c, size_t len)
{
	weir_buf bigger;

	if (WEIR_LIKELY(c->out.cap - c->out.len >= len))
		return c->out.data + c->out.len;
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

static void reply_word(struct client *c, const char *word)
{
	reply_bulk(c, word, strlen(word));
}

static void reply_text(struct client *c, const struct text *text)
{
	reply_bulk(c, text->at, text->len);
}

static void reply_null(struct client *c)
{
	reply(c, c->protocol == 3 ? "_\r\n" : "$-1\r\n");
}

static void reply_null_array(struct client *c)
{
	reply(c, c->protocol == 3 ? "_\r\n" : "*-1\r\n");
}

static void reply_array(struct client *c, size_t n)
{
	reply_count(c, '*', (int64_t)n);
}

static void reply_map(struct client *c, size_t pairs)
{
	reply_count(c, c->protocol == 3 ? '%' : '*',
		    (int64_t)(c->protocol == 3 ? pairs : 2 * pairs));
}

static void reply_set(struct client *c, size_t n)
{
	reply_count(c, c->protocol == 3 ? '~' : '*', (int64_t)n);
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

static void reply_oom(struct client *c)
{
	reply(c, "-OOM out of memory\r\n");
}

static void reply_syntax(struct client *c)
{
	reply(c, "-ERR syntax error\r\n");
}

static void reply_unknown_sub(struct client *c)
{
	reply_error(c, "ERR unknown subcommand '%.*s'. Try %.*s HELP.",
		    (int)(c->argv[1].len < 64 ? c->argv[1].len : 64), c->argv[1].at,
		    (int)(c->argv[0].len < 64 ? c->argv[0].len : 64), c->argv[0].at);
}

/* ---- Arguments ------------------------------------------------------------------------------ */

static bool arg_integer(struct client *c, size_t i, int64_t *ret)
{
	if (to_integer(c->argv[i].at, c->argv[i].len, ret))
		return true;
	reply(c, "-ERR value is not an integer or out of range\r\n");
	return false;
}

static bool arg_count(struct client *c, size_t i, int64_t *ret)
{
	if (to_integer(c->argv[i].at, c->argv[i].len, ret) && *ret >= 0)
		return true;
	reply(c, "-ERR value is out of range, must be positive\r\n");
	return false;
}

/* The time `unit_ms` * argument from now on. */
static bool arg_expiry(struct client *c, size_t i, int64_t unit_ms, bool past_ok, int64_t *ret)
{
	int64_t n;

	if (!arg_integer(c, i, &n))
		return false;
	if ((n > 0 || past_ok) && n < INT64_MAX / 4 / unit_ms && n > -INT64_MAX / 4 / unit_ms) {
		*ret = now_ms + n * unit_ms;
		return true;
	}
	reply_error(c, "ERR invalid expire time in '%.*s' command",
		    (int)(c->argv[0].len < 64 ? c->argv[0].len : 64), c->argv[0].at);
	return false;
}

/* The key in argument 1, NULL when there is none. False, and answered, when it has another type. */
static bool arg_key(struct client *c, enum type type, struct node **ret)
{
	struct node *key = key_find(c->argv[1]);

	if (key && key->type != type) {
		reply(c, "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
		return false;
	}
	*ret = key;
	return true;
}

/* The same, but made when it is not there. False, and answered, for want of memory too. */
static bool arg_key_or_new(struct client *c, enum type type, struct node **ret)
{
	struct node *key;

	if (!arg_key(c, type, &key))
		return false;
	if (!key) {
		void *value = collection_new(type);
		key = value ? table_add(&keyspace, c->argv[1], value) : NULL;
		if (key)
			key->type = (uint8_t)type;
		else if (value)
			value_free(type, value);
	}
	if (!key) {
		reply_oom(c);
		return false;
	}
	*ret = key;
	return true;
}

static void drop_if_empty(struct node *key)
{
	if (collection_len(key) == 0)
		key_drop(key);
}

/* ---- Commands: strings ---------------------------------------------------------------------- */

static void cmd_get(struct client *c)
{
	struct node *key;

	if (!arg_key(c, TYPE_STRING, &key))
		return;
	if (key)
		reply_text(c, key->value);
	else
		reply_null(c);
}

struct set_options {
	int64_t expires_ms;
	bool nx, xx;
};

/* False, and answered, when they do not go together. */
static bool set_options(struct client *c, struct set_options *o)
{
	for (size_t i = 3; i < c->argc; i++) {
		bool ex = equals(c->argv[i], "ex"), px = equals(c->argv[i], "px");
		if (equals(c->argv[i], "nx"))
			o->nx = true;
		else if (equals(c->argv[i], "xx"))
			o->xx = true;
		else if (!(ex || px) || o->expires_ms || i + 1 == c->argc)
			goto wrong;
		else if (!arg_expiry(c, ++i, ex ? 1000 : 1, false, &o->expires_ms))
			return false;
	}
	if (!(o->nx && o->xx))
		return true;
wrong:
	reply_syntax(c);
	return false;
}

static void cmd_set(struct client *c)
{
	struct set_options o = { 0 };

	if (!set_options(c, &o))
		return;
	struct node *key = key_find(c->argv[1]);
	if (key ? o.nx : o.xx) {
		reply_null(c);
		return;
	}
	if (key)
		key_persist(key);
	bool ok = key_store(key, c->argv[1], text_new(c->argv[2].at, c->argv[2].len));
	if (ok && o.expires_ms)
		ok = key_expire(key_find(c->argv[1]), o.expires_ms);
	if (ok)
		reply(c, "+OK\r\n");
	else
		reply_oom(c);
}

static void add_integer(struct client *c, int64_t by)
{
	struct node *key;
	int64_t n = 0;
	char digits[24];

	if (!arg_key(c, TYPE_STRING, &key))
		return;
	const struct text *text = key ? key->value : NULL;
	if (text && !to_integer(text->at, text->len, &n)) {
		reply(c, "-ERR value is not an integer or out of range\r\n");
		return;
	}
	if (__builtin_add_overflow(n, by, &n)) {
		reply(c, "-ERR increment or decrement would overflow\r\n");
		return;
	}
	if (key_store(key, c->argv[1], text_new(digits, from_integer(digits, n))))
		reply_integer(c, n);
	else
		reply_oom(c);
}

static void cmd_incr(struct client *c)
{
	add_integer(c, c->command->arg);
}

static void cmd_incrby(struct client *c)
{
	int64_t by;

	if (arg_integer(c, 2, &by))
		add_integer(c, by);
}

static void cmd_mget(struct client *c)
{
	reply_array(c, c->argc - 1);
	for (size_t i = 1; i < c->argc; i++) {
		struct node *key = key_find(c->argv[i]);
		if (key && key->type == TYPE_STRING)
			reply_text(c, key->value);
		else
			reply_null(c);
	}
}

static void reply_arity(struct client *c, const char *name)
{
	reply_error(c, "ERR wrong number of arguments for '%s' command", name);
}

static void cmd_mset(struct client *c)
{
	if (c->argc % 2 == 0) {
		reply_arity(c, "mset");
		return;
	}
	for (size_t i = 1; i < c->argc; i += 2) {
		struct node *key = key_find(c->argv[i]);
		if (key)
			key_persist(key);
		if (!key_store(key, c->argv[i], text_new(c->argv[i + 1].at, c->argv[i + 1].len))) {
			reply_oom(c);
			return;
		}
	}
	reply(c, "+OK\r\n");
}

/* ---- Commands: keys ------------------------------------------------------------------------- */

static void cmd_del(struct client *c)
{
	int64_t n = 0;

	for (size_t i = 1; i < c->argc; i++) {
		struct node *key = key_find(c->argv[i]);
		n += key != NULL;
		if (key)
			key_drop(key);
	}
	reply_integer(c, n);
}

static void cmd_exists(struct client *c)
{
	int64_t n = 0;

	for (size_t i = 1; i < c->argc; i++)
		n += key_find(c->argv[i]) != NULL;
	reply_integer(c, n);
}

static void cmd_expire(struct client *c)
{
	int64_t at;

	if (!arg_expiry(c, 2, c->command->arg, true, &at))
		return;
	struct node *key = key_find(c->argv[1]);
	if (key && at <= now_ms)
		key_drop(key);
	else if (key && !key_expire(key, at)) {
		reply_oom(c);
		return;
	}
	reply_integer(c, key != NULL);
}

static void cmd_ttl(struct client *c)
{
	struct node *key = key_find(c->argv[1]);
	int64_t unit_ms = c->command->arg;

	if (!key)
		reply_integer(c, -2);
	else if (!key->expires_ms)
		reply_integer(c, -1);
	else
		reply_integer(c, (key->expires_ms - now_ms + unit_ms / 2) / unit_ms);
}

static void cmd_dbsize(struct client *c)
{
	reply_integer(c, (int64_t)keyspace.used);
}

static void drop_key(struct node *key)
{
	value_free(key->type, key->value);
	weir_free(key);
}

static void flush_keyspace(void)
{
	heap_len = 0;
	table_clear(&keyspace, drop_key);
}

static void cmd_flushall(struct client *c)
{
	flush_keyspace();
	reply(c, "+OK\r\n");
}

/* ---- Commands: lists ------------------------------------------------------------------------ */

static void cmd_push(struct client *c)
{
	bool front = c->command->arg;
	struct node *key;

	if (!arg_key_or_new(c, TYPE_LIST, &key))
		return;
	struct list *l = key->value;
	for (size_t i = 2; i < c->argc; i++) {
		struct text *item = text_new(c->argv[i].at, c->argv[i].len);
		if (!item || !list_push(l, front, item)) {
			weir_free(item);
			drop_if_empty(key);
			reply_oom(c);
			return;
		}
	}
	reply_integer(c, (int64_t)l->len);
}

static void cmd_pop(struct client *c)
{
	bool front = c->command->arg;
	struct node *key;
	int64_t count = 1;

	if (c->argc > 3) {
		reply_syntax(c);
		return;
	}
	if ((c->argc == 3 && !arg_count(c, 2, &count)) || !arg_key(c, TYPE_LIST, &key))
		return;
	if (!key) {
		if (c->argc == 3)
			reply_null_array(c);
		else
			reply_null(c);
		return;
	}
	struct list *l = key->value;
	size_t n = (size_t)count < l->len ? (size_t)count : l->len;
	if (c->argc == 3)
		reply_array(c, n);
	while (n-- > 0) {
		struct text *item = list_pop(l, front);
		reply_text(c, item);
		weir_free(item);
	}
	drop_if_empty(key);
}

/* LLEN, SCARD, HLEN, ZCARD */
static void cmd_len(struct client *c)
{
	struct node *key;

	if (arg_key(c, (enum type)c->command->arg, &key))
		reply_integer(c, key ? (int64_t)collection_len(key) : 0);
}

/* From "start stop", where negative numbers count from the end, to a first index and a length. */
static bool arg_range(struct client *c, size_t len, size_t *ret_first, size_t *ret_n)
{
	int64_t start, stop, n = (int64_t)len;

	if (!arg_integer(c, 2, &start) || !arg_integer(c, 3, &stop))
		return false;
	start = start < -n ? 0 : start < 0 ? start + n : start;
	stop = stop < -n ? -1 : stop < 0 ? stop + n : stop >= n ? n - 1 : stop;
	*ret_first = (size_t)start;
	*ret_n = start > stop ? 0 : (size_t)(stop - start + 1);
	return true;
}

static void cmd_lrange(struct client *c)
{
	struct node *key;
	size_t first, n;

	if (!arg_key(c, TYPE_LIST, &key))
		return;
	const struct list *l = key ? key->value : NULL;
	if (!arg_range(c, l ? l->len : 0, &first, &n))
		return;
	reply_array(c, n);
	for (size_t i = first; i < first + n; i++)
		reply_text(c, *list_at(l, i));
}

/* ---- Commands: sets ------------------------------------------------------------------------- */

static void cmd_sadd(struct client *c)
{
	struct node *key;
	int64_t added = 0;

	if (!arg_key_or_new(c, TYPE_SET, &key))
		return;
	for (size_t i = 2; i < c->argc; i++) {
		if (table_find(key->value, c->argv[i]))
			continue;
		if (!table_add(key->value, c->argv[i], NULL)) {
			drop_if_empty(key);
			reply_oom(c);
			return;
		}
		added++;
	}
	reply_integer(c, added);
}

static struct node *take_member(struct table *t, struct bytes name)
{
	struct node **link = table_seek(t, name.at, name.len, hash_of(name.at, name.len));
	return link ? table_take(t, link) : NULL;
}

/* SREM and HDEL */
static void cmd_remove(struct client *c)
{
	struct node *key;
	int64_t removed = 0;

	if (!arg_key(c, (enum type)c->command->arg, &key))
		return;
	for (size_t i = 2; key && i < c->argc; i++) {
		struct node *n = take_member(key->value, c->argv[i]);
		if (n) {
			drop_node_and_value(n);
			removed++;
		}
	}
	if (key)
		drop_if_empty(key);
	reply_integer(c, removed);
}

/* SISMEMBER and HEXISTS */
static void cmd_contains(struct client *c)
{
	struct node *key;

	if (arg_key(c, (enum type)c->command->arg, &key))
		reply_integer(c, key && table_find(key->value, c->argv[2]));
}

static void cmd_smembers(struct client *c)
{
	struct node *key;

	if (!arg_key(c, TYPE_SET, &key))
		return;
	reply_set(c, key ? collection_len(key) : 0);
	struct walk w = { .table = key ? key->value : NULL };
	for (struct node *n = key ? walk_next(&w) : NULL; n; n = walk_next(&w))
		reply_bulk(c, n->key, n->key_len);
}

static void pop_random(struct client *c, struct table *t)
{
	struct node *n = table_random(t);

	reply_bulk(c, n->key, n->key_len);
	drop_node(table_take(t, table_seek(t, n->key, n->key_len, n->hash)));
}

static void cmd_spop(struct client *c)
{
	struct node *key;
	int64_t count = 1;

	if (c->argc > 3) {
		reply_syntax(c);
		return;
	}
	if ((c->argc == 3 && !arg_count(c, 2, &count)) || !arg_key(c, TYPE_SET, &key))
		return;
	size_t len = key ? collection_len(key) : 0;
	size_t n = (size_t)count < len ? (size_t)count : len;
	if (c->argc == 3)
		reply_set(c, n);
	else if (!key)
		reply_null(c);
	while (n-- > 0)
		pop_random(c, key->value);
	if (key)
		drop_if_empty(key);
}

/* ---- Commands: hashes ----------------------------------------------------------------------- */

/* Returns 1 for a new field, 0 for a changed one, or -ENOMEM. */
static int hash_set(struct table *t, struct bytes field, struct bytes value)
{
	struct text *text = text_new(value.at, value.len);
	struct node *n = table_find(t, field);

	if (text && n) {
		weir_free(n->value);
		n->value = text;
		return 0;
	}
	if (text && table_add(t, field, text))
		return 1;
	weir_free(text);
	return -ENOMEM;
}

static void cmd_hset(struct client *c)
{
	struct node *key;
	int64_t added = 0;

	if (c->argc % 2) {
		reply_arity(c, "hset");
		return;
	}
	if (!arg_key_or_new(c, TYPE_HASH, &key))
		return;
	for (size_t i = 2; i < c->argc; i += 2) {
		int n = hash_set(key->value, c->argv[i], c->argv[i + 1]);
		if (n < 0) {
			drop_if_empty(key);
			reply_oom(c);
			return;
		}
		added += n;
	}
	reply_integer(c, added);
}

static void cmd_hget(struct client *c)
{
	struct node *key;

	if (!arg_key(c, TYPE_HASH, &key))
		return;
	struct node *field = key ? table_find(key->value, c->argv[2]) : NULL;
	if (field)
		reply_text(c, field->value);
	else
		reply_null(c);
}

static void cmd_hgetall(struct client *c)
{
	struct node *key;

	if (!arg_key(c, TYPE_HASH, &key))
		return;
	reply_map(c, key ? collection_len(key) : 0);
	struct walk w = { .table = key ? key->value : NULL };
	for (struct node *n = key ? walk_next(&w) : NULL; n; n = walk_next(&w)) {
		reply_bulk(c, n->key, n->key_len);
		reply_text(c, n->value);
	}
}

/* ---- Commands: sorted sets ------------------------------------------------------------------ */

/* Every score is looked at before anything changes. */
static bool zadd_scores(struct client *c)
{
	long double score;

	for (size_t i = 2; i < c->argc; i += 2)
		if (!to_double(c->argv[i].at, c->argv[i].len, &score)) {
			reply(c, "-ERR value is not a valid float\r\n");
			return false;
		}
	return true;
}

/* Returns 1 for a new member, 0 for one that was there, or -ENOMEM. */
static int zadd_one(struct zset *z, double score, struct bytes name)
{
	struct node *member = table_find(&z->members, name);
	struct rank *old = member ? member->value : NULL;

	if (old && old->score == score)
		return 0;
	if (!member)
		member = table_add(&z->members, name, NULL);
	if (!member)
		return -ENOMEM;
	if (!zset_insert(z, score, member)) { /* first, so that failing changes nothing */
		if (!old)
			drop_node(take_member(&z->members, name));
		return -ENOMEM;
	}
	if (old)
		zset_unlink(z, old);
	return old == NULL;
}

static void cmd_zadd(struct client *c)
{
	struct node *key;
	int64_t added = 0;

	if (c->argc % 2) {
		reply_syntax(c);
		return;
	}
	if (!zadd_scores(c) || !arg_key_or_new(c, TYPE_ZSET, &key))
		return;
	for (size_t i = 2; i < c->argc; i += 2) {
		long double score;
		(void)to_double(c->argv[i].at, c->argv[i].len, &score); /* it is one: see above */
		int n = zadd_one(key->value, (double)score, c->argv[i + 1]);
		if (n < 0) {
			drop_if_empty(key);
			reply_oom(c);
			return;
		}
		added += n;
	}
	reply_integer(c, added);
}

static void cmd_zpopmin(struct client *c)
{
	struct node *key;
	int64_t count = 1;

	if ((c->argc > 2 && !arg_count(c, 2, &count)) || !arg_key(c, TYPE_ZSET, &key))
		return;
	struct zset *z = key ? key->value : NULL;
	size_t n = z && (size_t)count > z->members.used ? z->members.used : (size_t)count;
	bool pairs = c->protocol == 3 && c->argc > 2;
	reply_array(c, !z ? 0 : pairs ? n : 2 * n);
	while (z && n-- > 0) {
		struct rank *first = z->head->next[0];
		if (pairs)
			reply_array(c, 2);
		reply_bulk(c, first->member->key, first->member->key_len);
		reply_double(c, first->score);
		zset_remove(z, first->member);
	}
	if (key)
		drop_if_empty(key);
}

/* By index only; the skip list keeps no spans, so it walks to the first one. */
static void cmd_zrange(struct client *c)
{
	struct node *key;
	size_t first, n;
	bool scores = c->argc == 5 && equals(c->argv[4], "withscores");

	if (c->argc > 4 && !scores) {
		reply_syntax(c);
		return;
	}
	if (!arg_key(c, TYPE_ZSET, &key) ||
	    !arg_range(c, key ? collection_len(key) : 0, &first, &n))
		return;
	bool pairs = scores && c->protocol == 3;
	reply_array(c, scores && !pairs ? 2 * n : n);
	struct rank *r = n ? ((struct zset *)key->value)->head->next[0] : NULL;
	while (r && first-- > 0)
		r = r->next[0];
	for (; r && n-- > 0; r = r->next[0]) {
		if (pairs)
			reply_array(c, 2);
		reply_bulk(c, r->member->key, r->member->key_len);
		if (scores)
			reply_double(c, r->score);
	}
}

/* ---- Commands: the connection --------------------------------------------------------------- */

static void cmd_ping(struct client *c)
{
	if (c->argc > 2)
		reply_arity(c, "ping");
	else if (c->argc == 2)
		reply_bulk(c, c->argv[1].at, c->argv[1].len);
	else
		reply(c, "+PONG\r\n");
}

static void cmd_echo(struct client *c)
{
	reply_bulk(c, c->argv[1].at, c->argv[1].len);
}

/* There is one database. */
static void cmd_select(struct client *c)
{
	int64_t n;

	if (!arg_integer(c, 1, &n))
		return;
	reply(c, n == 0 ? "+OK\r\n" : "-ERR DB index is out of range\r\n");
}

static void cmd_quit(struct client *c)
{
	c->closing = true;
	reply(c, "+OK\r\n");
}

/* What a browser that was tricked into talking to us would send first. */
static void cmd_http(struct client *c)
{
	c->closing = true;
}

static bool set_name(struct client *c, struct bytes name)
{
	bool ok = name.len < NAME_BYTES;

	for (size_t i = 0; i < name.len; i++)
		ok = ok && name.at[i] > ' ' && name.at[i] <= '~';
	if (!ok) {
		reply(c, "-ERR Client names cannot contain spaces, newlines or special "
			 "characters.\r\n");
		return false;
	}
	memcpy(c->name, name.at, name.len);
	c->name[name.len] = 0;
	return true;
}

static bool hello_options(struct client *c)
{
	int64_t protocol = c->protocol;

	if (c->argc > 1 && (!to_integer(c->argv[1].at, c->argv[1].len, &protocol) || protocol < 2 ||
			    protocol > 3)) {
		reply(c, "-NOPROTO unsupported protocol version\r\n");
		return false;
	}
	for (size_t i = 2; i < c->argc; i += 2) {
		if (i + 1 == c->argc || !equals(c->argv[i], "setname")) {
			reply_syntax(c); /* AUTH too: there are no users here */
			return false;
		}
		if (!set_name(c, c->argv[i + 1]))
			return false;
	}
	c->protocol = (int)protocol;
	return true;
}

static void cmd_hello(struct client *c)
{
	if (!hello_options(c))
		return;
	reply_map(c, 7);
	reply_word(c, "server");
	reply_word(c, "redis"); /* the protocol it speaks; clients look for it */
	reply_word(c, "version");
	reply_word(c, REDIS_VERSION);
	reply_word(c, "proto");
	reply_integer(c, c->protocol);
	reply_word(c, "id");
	reply_integer(c, (int64_t)c->id);
	reply_word(c, "mode");
	reply_word(c, "standalone");
	reply_word(c, "role");
	reply_word(c, "master");
	reply_word(c, "modules");
	reply_array(c, 0);
}

static void cmd_client(struct client *c)
{
	struct bytes sub = c->argv[1];

	if (equals(sub, "id") && c->argc == 2)
		reply_integer(c, (int64_t)c->id);
	else if (equals(sub, "getname") && c->argc == 2)
		reply_word(c, c->name);
	else if (equals(sub, "setname") && c->argc == 3)
		reply(c, set_name(c, c->argv[2]) ? "+OK\r\n" : "");
	else if ((equals(sub, "setinfo") && c->argc == 4) || equals(sub, "no-evict") ||
		 equals(sub, "no-touch"))
		reply(c, "+OK\r\n");
	else
		reply_unknown_sub(c);
}

/* ---- Commands: the server ------------------------------------------------------------------- */

/* All fixed: SET accepts what is the case already. */
static const struct {
	const char *name, *value;
} config[] = {
	{ "appendonly", "no" }, { "databases", "1" }, { "io-threads", "1" },
	{ "maxmemory", "0" },	{ "save", "" },	      { "timeout", "3600" },
};
enum { CONFIG_COUNT = sizeof config / sizeof config[0] };

static bool is_asked(struct client *c, const char *name)
{
	for (size_t i = 2; i < c->argc; i++)
		if (equals(c->argv[i], name) || equals(c->argv[i], "*"))
			return true;
	return false;
}

static void config_get(struct client *c)
{
	size_t n = 0;

	for (size_t i = 0; i < CONFIG_COUNT; i++)
		n += is_asked(c, config[i].name);
	reply_map(c, n);
	for (size_t i = 0; i < CONFIG_COUNT; i++)
		if (is_asked(c, config[i].name)) {
			reply_word(c, config[i].name);
			reply_word(c, config[i].value);
		}
}

static bool config_is(struct bytes name, struct bytes value)
{
	for (size_t i = 0; i < CONFIG_COUNT; i++)
		if (equals(name, config[i].name))
			return equals(value, config[i].value);
	return false;
}

static void config_set(struct client *c)
{
	for (size_t i = 2; i + 1 < c->argc; i += 2)
		if (!config_is(c->argv[i], c->argv[i + 1])) {
			reply_error(
				c, "ERR CONFIG SET failed (possibly related to argument '%.*s')",
				(int)(c->argv[i].len < 64 ? c->argv[i].len : 64), c->argv[i].at);
			return;
		}
	reply(c, "+OK\r\n");
}

static void cmd_config(struct client *c)
{
	struct bytes sub = c->argv[1];

	if (equals(sub, "get") && c->argc > 2)
		config_get(c);
	else if (equals(sub, "set") && c->argc > 3 && c->argc % 2 == 0)
		config_set(c);
	else if (equals(sub, "resetstat") && c->argc == 2)
		reply(c, "+OK\r\n");
	else
		reply_unknown_sub(c);
}

__attribute__((format(printf, 2, 3))) static void add(weir_buf *text, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	size_t space = text->cap - text->len;
	int n = vsnprintf(text->data + text->len, space, format, args);
	if (n > 0 && (size_t)n < space)
		text->len += (size_t)n;
	va_end(args);
}

static void info_stats(weir_buf *text)
{
	struct weir_worker_stats w = { 0 };
	struct weir_serve_stats s = { 0 };

	weir_serve_stats_get(&s);
	(void)!weir_worker_stats_get(WEIR_ALL_WORKERS, &w); /* zeros outside a runtime: not here */
	add(text, "# Clients\r\nconnected_clients:%ju\r\n\r\n", s.open);
	add(text, "# Stats\r\ntotal_connections_received:%ju\r\ntotal_commands_processed:%ju\r\n",
	    s.accepted, commands_run);
	add(text, "expired_keys:%ju\r\nturns:%ju\r\nparks:%ju\r\nswitches:%ju\r\nenters:%ju\r\n",
	    expired_keys, w.turns, w.parks, w.switches, w.enters);
	add(text, "submissions:%ju\r\ncompletions:%ju\r\n\r\n", w.submissions, w.completions);
}

static void info_memory(weir_buf *text)
{
	struct weir_mem_stats m = { 0 };

	weir_mem_stats_get(&m);
	add(text, "# Memory\r\nused_memory:%ju\r\ncached_memory:%ju\r\n",
	    m.span_bytes - m.cached_bytes, m.cached_bytes);
	add(text, "mem_allocs:%ju\r\nmem_hits:%ju\r\nmem_misses:%ju\r\nos_maps:%ju\r\n\r\n",
	    m.allocs, m.allocs - m.misses, m.misses, m.os_maps);
}

static void info_server(weir_buf *text)
{
	add(text, "# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\n", REDIS_VERSION);
	add(text, "weir_version:%s\r\nprocess_id:%d\r\n\r\n", weir_version(), (int)getpid());
}

static void info_keyspace(weir_buf *text)
{
	if (keyspace.used)
		add(text, "# Keyspace\r\ndb0:keys=%zu,expires=%zu,avg_ttl=0\r\n", keyspace.used,
		    heap_len);
}

static void cmd_info(struct client *c)
{
	weir_auto_buf text = WEIR_BUF_INIT;
	bool all = c->argc < 2 || equals(c->argv[1], "all") || equals(c->argv[1], "everything") ||
		   equals(c->argv[1], "default");

	if (weir_buf_get(&text, 4096) < 0) {
		reply_oom(c);
		return;
	}
	if (all || equals(c->argv[1], "server"))
		info_server(&text);
	if (all || equals(c->argv[1], "clients") || equals(c->argv[1], "stats"))
		info_stats(&text);
	if (all || equals(c->argv[1], "memory"))
		info_memory(&text);
	if (all || equals(c->argv[1], "replication"))
		add(&text, "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n");
	if (all || equals(c->argv[1], "keyspace"))
		info_keyspace(&text);
	reply_bulk(c, text.len ? text.data : "", text.len);
}

static void cmd_command(struct client *c);

static const struct command commands[] = {
	{ "client", cmd_client, -2, ' ', 0 },
	{ "command", cmd_command, -1, ' ', 0 },
	{ "config", cmd_config, -2, ' ', 0 },
	{ "dbsize", cmd_dbsize, 1, ' ', 0 },
	{ "decr", cmd_incr, 2, '1', -1 },
	{ "del", cmd_del, -2, '*', 0 },
	{ "echo", cmd_echo, 2, ' ', 0 },
	{ "exists", cmd_exists, -2, '*', 0 },
	{ "expire", cmd_expire, 3, '1', 1000 },
	{ "flushall", cmd_flushall, -1, ' ', 0 },
	{ "get", cmd_get, 2, '1', 0 },
	{ "hdel", cmd_remove, -3, '1', TYPE_HASH },
	{ "hello", cmd_hello, -1, ' ', 0 },
	{ "hexists", cmd_contains, 3, '1', TYPE_HASH },
	{ "hget", cmd_hget, 3, '1', 0 },
	{ "hgetall", cmd_hgetall, 2, '1', 0 },
	{ "hlen", cmd_len, 2, '1', TYPE_HASH },
	{ "host:", cmd_http, -1, ' ', 0 },
	{ "hset", cmd_hset, -4, '1', 0 },
	{ "incr", cmd_incr, 2, '1', 1 },
	{ "incrby", cmd_incrby, 3, '1', 0 },
	{ "info", cmd_info, -1, ' ', 0 },
	{ "llen", cmd_len, 2, '1', TYPE_LIST },
	{ "lpop", cmd_pop, -2, '1', true },
	{ "lpush", cmd_push, -3, '1', true },
	{ "lrange", cmd_lrange, 4, '1', 0 },
	{ "mget", cmd_mget, -2, '*', 0 },
	{ "mset", cmd_mset, -3, '2', 0 },
	{ "pexpire", cmd_expire, 3, '1', 1 },
	{ "ping", cmd_ping, -1, ' ', 0 },
	{ "post", cmd_http, -1, ' ', 0 },
	{ "pttl", cmd_ttl, 2, '1', 1 },
	{ "quit", cmd_quit, -1, ' ', 0 },
	{ "rpop", cmd_pop, -2, '1', false },
	{ "rpush", cmd_push, -3, '1', false },
	{ "sadd", cmd_sadd, -3, '1', 0 },
	{ "scard", cmd_len, 2, '1', TYPE_SET },
	{ "select", cmd_select, 2, ' ', 0 },
	{ "set", cmd_set, -3, '1', 0 },
	{ "sismember", cmd_contains, 3, '1', TYPE_SET },
	{ "smembers", cmd_smembers, 2, '1', 0 },
	{ "spop", cmd_spop, -2, '1', 0 },
	{ "srem", cmd_remove, -3, '1', TYPE_SET },
	{ "ttl", cmd_ttl, 2, '1', 1000 },
	{ "zadd", cmd_zadd, -4, '1', 0 },
	{ "zcard", cmd_len, 2, '1', TYPE_ZSET },
	{ "zpopmin", cmd_zpopmin, -2, '1', 0 },
	{ "zrange", cmd_zrange, -4, '1', 0 },
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/* Open addressing over the lower-case name; filled once. */
static const struct command *command_slots[256];

static uint32_t command_slot(const char *name, size_t len)
{
	char lower[16];

	for (size_t i = 0; i < len; i++)
		lower[i] = name[i] | 0x20;
	return hash_of(lower, len) & 255;
}

static void commands_init(void)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		uint32_t slot = command_slot(commands[i].name, strlen(commands[i].name));
		while (command_slots[slot])
			slot = (slot + 1) & 255;
		command_slots[slot] = &commands[i];
	}
}

static const struct command *command_find(struct bytes name)
{
	if (name.len > 16)
		return NULL;
	for (uint32_t slot = command_slot(name.at, name.len);; slot = (slot + 1) & 255)
		if (!command_slots[slot] || equals(name, command_slots[slot]->name))
			return command_slots[slot];
}

static void command_info(struct client *c, const struct command *command)
{
	reply_array(c, 6);
	reply_word(c, command->name);
	reply_integer(c, command->arity);
	reply_array(c, 0);
	reply_integer(c, command->keys != ' ');
	reply_integer(c, command->keys == ' ' ? 0 : command->keys == '1' ? 1 : -1);
	reply_integer(c, command->keys == ' ' ? 0 : command->keys == '2' ? 2 : 1);
}

/* DOCS is empty: redis-cli starts without hints then. */
static void cmd_command(struct client *c)
{
	if (c->argc > 1 && equals(c->argv[1], "count")) {
		reply_integer(c, COMMAND_COUNT);
	} else if (c->argc > 1 && equals(c->argv[1], "docs")) {
		reply_map(c, 0);
	} else if (c->argc > 1) {
		reply_unknown_sub(c);
	} else {
		reply_array(c, COMMAND_COUNT);
		for (size_t i = 0; i < COMMAND_COUNT; i++)
			command_info(c, &commands[i]);
	}
}

static void execute(struct client *c)
{
	struct bytes name = c->argv[0];
	const struct command *command = command_find(name);

	commands_run++;
	c->command = command;
	if (!command)
		reply_error(c, "ERR unknown command '%.*s'", (int)(name.len < 128 ? name.len : 128),
			    name.at);
	else if (command->arity > 0 ? (int)c->argc != command->arity
				    : (int)c->argc < -command->arity)
		reply_arity(c, command->name);
	else
		command->run(c);
}

/* ---- The protocol --------------------------------------------------------------------------- */

/* These return 1 when a command is whole, 0 when bytes are missing, -EPROTO after the answer. */

static int protocol_error(struct client *c, const char *what)
{
	reply_error(c, "ERR Protocol error: %s", what);
	c->closing = true;
	return -EPROTO;
}

static bool push_arg(struct client *c, char *at, size_t len)
{
	if (c->argc == c->args_cap) {
		struct bytes *more = weir_alloc(2 * c->args_cap * sizeof *more);
		if (!more) {
			c->err = -ENOMEM;
			return false;
		}
		memcpy(more, c->argv, c->argc * sizeof *more);
		if (c->argv != c->args_inline)
			weir_free(c->argv);
		c->argv = more;
		c->args_cap *= 2;
	}
	c->argv[c->argc++] = (struct bytes){ at, len };
	return true;
}

static void drop_args(struct client *c)
{
	if (c->argv != c->args_inline)
		weir_free(c->argv);
	c->argv = c->args_inline;
	c->args_cap = ARGS_INLINE;
	c->argc = 0;
}

static int hex(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit |= 0x20;
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The byte that the escape at `*at` (behind its backslash) stands for; moves *at to its last byte.
 */
static char unescape(char **at, const char *end)
{
	char *e = *at;

	if (*e == 'x' && end - e > 2 && hex(e[1]) >= 0 && hex(e[2]) >= 0) {
		*at += 2;
		return (char)(hex(e[1]) * 16 + hex(e[2]));
	}
	switch (*e) {
	case 'n':
		return '\n';
	case 'r':
		return '\r';
	case 't':
		return '\t';
	case 'b':
		return '\b';
	case 'a':
		return '\a';
	default:
		return *e;
	}
}

/* One word of an inline command, unquoted in place. Returns behind it; NULL: a quote is not closed.
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
		} else if (quote == '"' && *at == '\\' && at + 1 < end) {
			at++;
			*to++ = unescape(&at, end);
		} else if (quote == '\'' && *at == '\\' && at + 1 < end && at[1] == '\'') {
			*to++ = *++at;
		} else if (!quote && (*at == '"' || *at == '\'')) {
			quote = *at;
		} else {
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
		if (!push_arg(c, word.at, word.len))
			return c->err;
	}
}

/* A number on a line of its own, behind its first character. */
static int parse_count(struct client *c, const char *too_long, const char *invalid, int64_t *ret)
{
	char *at = c->in + c->at;
	size_t left = c->in_len - c->at;
	char *end = memchr(at, '\n', left < COUNT_LINE_BYTES_MAX ? left : COUNT_LINE_BYTES_MAX);

	if (!end)
		return left < COUNT_LINE_BYTES_MAX ? 0 : protocol_error(c, too_long);
	if (end[-1] != '\r' || !to_integer(at + 1, (size_t)(end - at) - 2, ret))
		return protocol_error(c, invalid);
	c->at += (size_t)(end - at) + 1;
	return 1;
}

static int parse_bulk(struct client *c)
{
	char message[40];
	int got;

	if (c->bulk_len < 0) {
		if (c->at == c->in_len)
			return 0;
		if (c->in[c->at] != '$') {
			snprintf(message, sizeof message, "expected '$', got '%c'", c->in[c->at]);
			return protocol_error(c, message);
		}
		got = parse_count(c, "too big bulk count string", "invalid bulk length",
				  &c->bulk_len);
		if (got <= 0)
			return got;
		if (c->bulk_len < 0 || c->bulk_len > BULK_BYTES_MAX)
			return protocol_error(c, "invalid bulk length");
	}
	size_t len = (size_t)c->bulk_len;
	if (c->in_len - c->at < len + 2)
		return 0;
	if (!push_arg(c, c->in + c->at, len))
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
	now_ms = weir_now() / WEIR_MS;
	return n < 0 ? (int)n : (size_t)n < len ? -ETIME : 0;
}

/* Answers every whole command in c->in. Returns 0 or why the client has to go at once. */
static int run_commands(struct client *c)
{
	now_ms = weir_now() / WEIR_MS;
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
			    .id = ++client_ids,
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
	if (heap_len > 0) {
		ns = heap[0]->expires_ms * WEIR_MS - weir_now();
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
		now_ms = weir_now() / WEIR_MS;
		for (int n = 0; n < SWEEP_KEYS && heap_len > 0 && is_expired(heap[0]); n++) {
			key_drop(heap[0]);
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
		err = weir_pool_new(&tables, .object_bytes = sizeof(struct table),
				    .name = "kv table");
	if (err == 0)
		err = weir_pool_new(&lists, .object_bytes = sizeof(struct list), .name = "kv list");
	if (err == 0)
		err = weir_pool_new(&zsets, .object_bytes = sizeof(struct zset), .name = "kv zset");
	return err;
}

static void store_close(void)
{
	flush_keyspace();
	weir_free(heap);
	weir_pool_free(tables);
	weir_pool_free(lists);
	weir_pool_free(zsets);
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
