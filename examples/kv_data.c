/* SPDX-License-Identifier: MIT */
/*
 * kv_data.c: hash tables that may have an order as well, and lists.
 *
 * A table grows and shrinks a few buckets at each access, so that no command pays for all of it.
 * Nodes, texts and rings live in the allocator's size classes, the maps and lists themselves in
 * typed pools.
 */
#include <sys/random.h>

#include "kv.h"

enum {
	BUCKETS_MIN = 4,
	MOVE_BUCKETS = 4, /* by each access to a map that is changing its size */
};

static weir_pool *maps, *lists;
static uint64_t secret[2]; /* against clients that choose colliding keys */

/* ---- Maps: the table ----------------------------------------------------------------------- */

static inline uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* By eight bytes; the last eight may have been seen in part, which costs less than a few. */
static inline uint32_t hash_of(struct bytes key)
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

/* A bounded piece of a move that is under way. */
static void map_step(struct map *m)
{
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

static inline struct node *bucket_find(struct node *n, struct bytes key, uint32_t hash)
{
	while (n && (n->hash != hash || n->key_len != key.len || memcmp(n->key, key.at, key.len)))
		n = n->next;
	return n;
}

/* What is in neither table of a map that is changing its size is not there. */
RARE static struct node *find_moving(struct map *m, struct bytes key, uint32_t hash)
{
	struct node *n;

	map_step(m);
	n = bucket_find(m->buckets[0][hash & (m->size[0] - 1)], key, hash);
	if (!n && m->size[1])
		n = bucket_find(m->buckets[1][hash & (m->size[1] - 1)], key, hash);
	return n;
}

/* NULL: it is not there. */
struct node *map_find(struct map *m, struct bytes key)
{
	uint32_t hash = hash_of(key);

	if (m->size[1])
		return find_moving(m, key, hash);
	if (!m->size[0])
		return NULL;
	return bucket_find(m->buckets[0][hash & (m->size[0] - 1)], key, hash);
}

/* Adds a key that is not there. NULL: out of memory. */
struct node *map_add(struct map *m, struct bytes key, void *value)
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

/* Every node once, as long as nothing touches the map meanwhile; then NULL. */
struct node *walk_next(struct walk *w)
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
struct node *map_random(struct map *m)
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

/* ---- Maps: the order ----------------------------------------------------------------------- */

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
bool map_rank(struct map *m, struct node *n, double order)
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

void map_unrank(struct map *m, struct node *n)
{
	if (n->ranked_at == UNRANKED)
		return;
	struct node *last = m->ranked[--m->ranked_len];
	if (last != n)
		rank_settle(m, n->ranked_at, last);
	n->ranked_at = UNRANKED;
}

/* The link of that table's bucket that points to the node; NULL: it is in the other one. */
static struct node **map_link(struct map *m, int table, const struct node *n)
{
	if (!m->size[table])
		return NULL;
	struct node **link = &m->buckets[table][n->hash & (m->size[table] - 1)];
	while (*link && *link != n)
		link = &(*link)->next;
	return *link ? link : NULL;
}

void map_remove(struct map *m, struct node *n)
{
	struct node **link = map_link(m, 0, n);

	if (!link)
		link = map_link(m, 1, n);
	*link = n->next;
	map_unrank(m, n);
	value_drop(n);
	weir_free(n);
	m->used--;
	if (!m->size[1] && m->size[0] > 4 * BUCKETS_MIN && m->used * 8 < m->size[0])
		map_resize(m, m->size[0] / 4);
}

void map_clear(struct map *m)
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

/* ---- Lists --------------------------------------------------------------------------------- */

struct text **list_at(const struct list *l, size_t i)
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

bool list_push(struct list *l, bool front, struct text *item)
{
	if (l->len == l->cap && !list_resize(l, l->cap ? l->cap * 2 : 4))
		return false;
	if (front)
		l->head = (l->head - 1) & (l->cap - 1);
	*list_at(l, front ? 0 : l->len) = item;
	l->len++;
	return true;
}

struct text *list_pop(struct list *l, bool front)
{
	struct text *item = *list_at(l, front ? 0 : l->len - 1);

	if (front)
		l->head = (l->head + 1) & (l->cap - 1);
	l->len--;
	if (l->cap > 16 && l->len < l->cap / 8)
		(void)list_resize(l, l->cap / 4); /* when it fails, the ring stays larger */
	return item;
}

/* ---- Values -------------------------------------------------------------------------------- */

struct text *text_new(struct bytes bytes)
{
	struct text *text = weir_alloc(sizeof *text + bytes.len);

	if (text) {
		text->len = bytes.len;
		memcpy(text->at, bytes.at, bytes.len);
	}
	return text;
}

void value_drop(struct node *n)
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
size_t collection_len(const struct node *n)
{
	if (!n)
		return 0;
	if (n->type == TYPE_LIST)
		return ((const struct list *)n->value)->len;
	return ((const struct map *)n->value)->used;
}

void *collection_new(enum type type)
{
	void *value = weir_pool_get(type == TYPE_LIST ? lists : maps);

	if (value)
		memset(value, 0, type == TYPE_LIST ? sizeof(struct list) : sizeof(struct map));
	return value;
}

int data_open(void)
{
	if (getrandom(secret, sizeof secret, 0) != sizeof secret)
		return -EIO;
	secret[1] |= 1;
	int err = weir_pool_new(&maps, .object_bytes = sizeof(struct map), .name = "kv map");
	if (err == 0)
		err = weir_pool_new(&lists, .object_bytes = sizeof(struct list), .name = "kv list");
	return err;
}

void data_close(void)
{
	weir_pool_free(maps);
	weir_pool_free(lists);
}
