/* SPDX-License-Identifier: MIT */
/*
 * extra.c: memory, deferred calls and values that go with their task.
 *
 * Memory is taken from chunks of the worker's heap by moving a pointer; chunks double, so a task
 * that allocates much makes few. Deferred calls and values are records in that memory. All is given
 * back at once, by the task itself, when its function has returned: there is no other way for a
 * task to end, because cancelled ones return, too.
 */
#include "runtime/extra.h"

#include <string.h>

#include "runtime/fatal.h"
#include "runtime/task.h"

enum {
	ALIGN = 16,
	CHUNK_BYTES_MIN = 512,
	CHUNK_BYTES_MAX = 64 << 10,
	/* what is at least so much of the next chunk gets one of its own */
	LARGE_FRACTION = 4,
};

struct weir__chunk {
	_Alignas(ALIGN) struct weir__chunk *next;
};

struct weir__deferred {
	struct weir__deferred *next;
	void (*fn)(void *arg);
	void *arg;
};

struct weir__value {
	struct weir__value *next;
	const struct weir_task_key *key;
	void *value; /* NULL: taken away; the record stays for the next */
};

static struct weir__task *task_self(void)
{
	struct weir__worker *self = weir__worker_self();

	return self ? self->current : NULL;
}

/* ---- Memory ------------------------------------------------------------- */

static struct weir__extra *make_extra(struct weir__task *task)
{
	struct weir__chunk *chunk = weir_alloc(CHUNK_BYTES_MIN);

	if (!chunk)
		return NULL;
	chunk->next = NULL;
	struct weir__extra *extra = (void *)(chunk + 1);
	*extra = (struct weir__extra){
		.room = (char *)(extra + 1),
		.end = (char *)chunk + CHUNK_BYTES_MIN,
		.chunks = chunk,
		.chunk_bytes = 2 * (size_t)CHUNK_BYTES_MIN,
	};
	_Static_assert(sizeof(struct weir__extra) % ALIGN == 0, "what follows is aligned");
	task->extra = extra;
	task->has_extra = 1;
	return extra;
}

/* A block of its own goes second in the list: the newest chunk still has room. */
static void *alloc_large(struct weir__extra *extra, size_t size)
{
	if (size > SIZE_MAX - sizeof(struct weir__chunk))
		return NULL;
	struct weir__chunk *chunk = weir_alloc(size + sizeof(struct weir__chunk));
	if (!chunk)
		return NULL;
	chunk->next = extra->chunks->next;
	extra->chunks->next = chunk;
	return chunk + 1;
}

static void *alloc_from_new(struct weir__extra *extra, size_t size)
{
	size_t bytes = extra->chunk_bytes;
	struct weir__chunk *chunk = weir_alloc(bytes);

	if (!chunk)
		return NULL;
	chunk->next = extra->chunks;
	extra->chunks = chunk;
	extra->room = (char *)(chunk + 1) + size;
	extra->end = (char *)chunk + bytes;
	if (bytes < CHUNK_BYTES_MAX)
		extra->chunk_bytes = 2 * bytes;
	return chunk + 1;
}

/* Of the running task. */
static void *alloc_in(struct weir__task *task, size_t size)
{
	struct weir__extra *extra = task->has_extra ? task->extra : make_extra(task);

	if (!extra)
		return NULL;
	size_t rounded = size ? (size + (ALIGN - 1)) & ~(size_t)(ALIGN - 1) : ALIGN;
	if (rounded < size)
		return NULL;
	if (rounded <= (size_t)(extra->end - extra->room)) {
		void *block = extra->room;
		extra->room += rounded;
		return block;
	}
	if (rounded >= extra->chunk_bytes / LARGE_FRACTION)
		return alloc_large(extra, rounded);
	return alloc_from_new(extra, rounded);
}

void *weir_task_alloc(size_t size)
{
	struct weir__task *task = task_self();

	return task ? alloc_in(task, size) : NULL;
}

char *weir_task_strdup(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = weir_task_alloc(size);

	return copy ? memcpy(copy, text, size) : NULL;
}

/* ---- Deferred calls ----------------------------------------------------- */

int weir_task_defer(void (*fn)(void *arg), void *arg)
{
	struct weir__task *task = task_self();

	if (!task || !fn)
		return -EINVAL;
	struct weir__deferred *deferred = alloc_in(task, sizeof *deferred);
	if (!deferred)
		return -ENOMEM;
	*deferred = (struct weir__deferred){ task->extra->deferred, fn, arg };
	task->extra->deferred = deferred;
	return 0;
}

/* ---- Values ------------------------------------------------------------- */

static struct weir__value *find(const struct weir__task *task, const struct weir_task_key *key)
{
	struct weir__value *value = task->has_extra ? task->extra->values : NULL;

	while (value && value->key != key)
		value = value->next;
	return value;
}

void *weir_task_get(const struct weir_task_key *key)
{
	const struct weir__task *task = task_self();
	const struct weir__value *found = task ? find(task, key) : NULL;

	return found ? found->value : NULL;
}

static void replace(struct weir__value *place, void *value)
{
	void *old = place->value;

	place->value = value;
	if (old && old != value && place->key->done)
		place->key->done(old);
}

int weir_task_set(const struct weir_task_key *key, void *value)
{
	struct weir__task *task = task_self();

	if (!task || !key)
		return -EINVAL;
	struct weir__value *place = find(task, key);
	if (!place && value) {
		place = alloc_in(task, sizeof *place);
		if (!place)
			return -ENOMEM;
		*place = (struct weir__value){ task->extra->values, key, NULL };
		task->extra->values = place;
	}
	if (place)
		replace(place, value);
	return 0;
}

/* ---- The end ------------------------------------------------------------ */

/* Calls and destructors may ask for more of either. */
static void finish(struct weir__extra *extra)
{
	while (extra->deferred || extra->values) {
		struct weir__deferred *deferred = extra->deferred;
		if (deferred) {
			extra->deferred = deferred->next;
			deferred->fn(deferred->arg);
			continue;
		}
		struct weir__value *value = extra->values;
		extra->values = value->next;
		replace(value, NULL);
	}
}

void weir__extra_end(struct weir__worker *self)
{
	if (self->current->has_extra)
		weir__extra_done(self, self->current);
}

void weir__extra_done(struct weir__worker *self, struct weir__task *task)
{
	struct weir__extra *extra = task->extra;

	WEIR_ASSERT(!task->scope); /* a scope is closed before its function returns */
	if (extra->deferred || extra->values) {
		WEIR_SHIELD(shield, (int64_t)self->runtime->config.defer_ms * WEIR_MS);
		finish(extra);
	}
	task->has_extra = 0;
	for (struct weir__chunk *chunk = extra->chunks, *next; chunk; chunk = next) {
		next = chunk->next; /* the last one holds `extra` */
		weir_free(chunk);
	}
}
