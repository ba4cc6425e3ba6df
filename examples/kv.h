/* SPDX-License-Identifier: MIT */
/*
 * kv.h: what the parts of the key-value server are to each other.
 *
 *   kv.c           clients: a read, the commands in it, one send; and the start
 *   kv_protocol.c  bytes into commands, answers into bytes
 *   kv_commands.c  what each command does
 *   kv_store.c     the keys: found, stored, expired
 *   kv_data.c      the data structures of all that: maps that may have an order, lists
 *
 * One worker owns all of it, and nothing parks between a command's first line and its last: that
 * is why nothing here has a lock.
 */
#ifndef KV_H
#define KV_H

#include <string.h>
#include <weir/io.h>

/* What hardly ever runs stays out of the way of what does. */
#define RARE __attribute__((cold, noinline))

struct bytes {
	char *at;
	size_t len;
};

/* ---- kv_data.c ------------------------------------------------------------------------------ */

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

/* Every node of a map once; the first two fields are set, the rest is zero. */
struct walk {
	const struct map *map;
	struct node *node;
	size_t bucket; /* the next one, counted through both arrays */
};

/* A ring: item i is items[(head + i) % cap]. */
struct list {
	struct text **items;
	size_t cap;
	size_t head;
	size_t len;
};

int data_open(void);
void data_close(void);
struct text *text_new(struct bytes bytes); /* NULL: out of memory, here and below */
struct node *map_find(struct map *m, struct bytes key);
struct node *map_add(struct map *m, struct bytes key, void *value); /* a key that is not there */
void map_remove(struct map *m, struct node *n);			    /* with its value */
void map_clear(struct map *m);
bool map_rank(struct map *m, struct node *n, double order); /* false: out of memory */
void map_unrank(struct map *m, struct node *n);
struct node *map_random(struct map *m); /* which is not empty */
struct node *walk_next(struct walk *w); /* then NULL; nothing may touch the map meanwhile */
struct text **list_at(const struct list *l, size_t i);
bool list_push(struct list *l, bool front, struct text *item); /* false: out of memory */
struct text *list_pop(struct list *l, bool front);
void *collection_new(enum type type); /* an empty list or map */
size_t collection_len(const struct node *n);
void value_drop(struct node *n); /* frees its value, whatever that is */

/* ---- kv_store.c ----------------------------------------------------------------------------- */

extern struct map keyspace;
extern uint64_t expired_keys;

int64_t now_ms(void);
void clock_forget(void); /* the next command that asks for the time reads the clock */
struct node *key_find(struct bytes name);
struct node *key_store(struct node *key, struct bytes name, struct bytes value);
struct node *key_collection(struct bytes name, enum type type);
bool key_expire(struct node *key, int64_t at_ms);
int store_open(void);
void store_close(void);
int sweep(void *arg); /* a task */

/* ---- kv_protocol.c -------------------------------------------------------------------------- */

enum { ARGS_INLINE = 8 }; /* more are allocated */

struct client {
	weir_conn *conn;
	weir_buf out;
	int err;      /* why it has to go; answers are dropped from then on */
	bool closing; /* after what is in `out` */
	int protocol; /* 2 or 3 */
	char *start;  /* of the command being parsed: in a lease, or in `pending` */
	char *at;     /* the first byte not parsed yet */
	char *end;    /* of what has come */
	int64_t args_left;
	char *pending; /* a command cut off by the end of a read; NULL: none */
	size_t pending_cap;
	const struct command *command; /* the one that runs */
	struct node *key;	       /* that it works on; see execute() */
	struct bytes *argv;
	size_t argc;
	size_t args_cap;
	struct bytes args_inline[ARGS_INLINE];
};

/* Returns 1 when a command is whole, 0 when bytes are missing, or an error after the answer. */
int parse_command(struct client *c);
RARE void free_args(struct client *c);

static inline void drop_args(struct client *c)
{
	if (c->argv != c->args_inline)
		free_args(c);
	c->argc = 0;
}

bool equals(struct bytes a, const char *word);
bool to_integer(struct bytes text, int64_t *ret);
bool to_double(struct bytes text, double *ret);
size_t from_integer(char *ret, int64_t n); /* `ret` has room for 20 bytes */

RARE char *more_room(struct client *c, size_t len);
void reply_count(struct client *c, char kind, int64_t n);
void reply_bulk(struct client *c, const char *at, size_t len);
void reply_text(struct client *c, const struct text *text); /* NULL: there is none */
void reply_frame(struct client *c, char kind, size_t n);
void reply_double(struct client *c, double n);
RARE __attribute__((format(printf, 2, 3))) void reply_error(struct client *c, const char *format,
							    ...);

/* Room for `len` more bytes; NULL when there is no memory: then the client has to go. */
static inline char *room(struct client *c, size_t len)
{
	if (WEIR_LIKELY(c->out.cap - c->out.len >= len))
		return c->out.data + c->out.len;
	return more_room(c, len);
}

static inline void reply_bytes(struct client *c, const char *at, size_t len)
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

static inline void reply_integer(struct client *c, int64_t n)
{
	reply_count(c, ':', n);
}

/* ---- kv_commands.c -------------------------------------------------------------------------- */

void commands_init(void);
void execute(struct client *c);

#endif
