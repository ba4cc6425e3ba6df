/* SPDX-License-Identifier: MIT */
/*
 * pool.c: what the cache indexes mean. Size classes come first, then typed pools.
 *
 * A typed pool is a size class of its own: the same caches, spans and statistics, but an exact
 * object size and nobody else's objects between. Index and description are the process's, objects
 * are the heaps'. A freed pool is DEAD until each heap that had memory of it has given that back,
 * at its next epoch; only then is the index used again.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

#include "alloc/heap.h"
#include "alloc/opts.h"

struct weir__pool weir__pools[WEIR__POOLS_MAX + 1];
_Atomic uint32_t weir__pools_dead;

static char class_names[WEIR_CLASS_COUNT + 1][20];

enum {
	SMALL_BYTES_MAX = 8 << 10,   /* in spans of one unit: the tail wasted is at most 6.3 % */
	MEDIUM_BYTES_MAX = 64 << 10, /* in spans of eight; above, a span for each object */
	OBJECT_BYTES_MAX = 512 << 10,
	ALIGN_MAX = 4096,
};

static uint32_t span_units_for(uint32_t object_bytes)
{
	if (object_bytes <= SMALL_BYTES_MAX)
		return 1;
	if (object_bytes <= MEDIUM_BYTES_MAX)
		return 8;
	return (object_bytes + WEIR__UNIT_BYTES - 1) >> WEIR__UNIT_SHIFT;
}

/* The least whole number above 2^64 / b. */
static uint64_t reciprocal_of(uint64_t b)
{
	bool power = (b & (b - 1)) == 0;
	return UINT64_MAX / b + 1 + power;
}

void weir__pool_describe(struct weir__pool *pool, uint32_t object_bytes)
{
	pool->handle.index = (uint32_t)(pool - weir__pools);
	pool->handle.place = (uint32_t)WEIR__PLACE(pool->handle.index);
	WEIR__SET(pool->object_bytes, object_bytes);
	pool->asked_bytes = object_bytes;
	pool->span_units = span_units_for(object_bytes);
	pool->span_objects = (pool->span_units << WEIR__UNIT_SHIFT) / object_bytes;
	/*
	 * With r above 2^64 / b, by at most one, r * b = 2^64 + e with 0 < e <= b. At an offset of
	 * k * b + i, i < b, the low 64 bits of offset * r are i * 2^64 / b + offset * e / b. For
	 * objects, i = 0, that is k * e. All else gives more than the last object has: places
	 * between objects at least 2^64 / b, less what the second term takes away before the span;
	 * multiples of b after the span a larger k * e; and those before it a negative one, which
	 * is almost 2^64. So one compare tells objects from everything, as long as offset * e stays
	 * below 2^64: at up to 2^47 bytes, all of a process's addresses, with b up to 64 KiB.
	 * A larger object has its span to itself: then only 0 is right.
	 */
	bool alone = pool->span_objects == 1;
	pool->reciprocal = alone ? 1 : reciprocal_of(object_bytes);
	pool->valid = alone ? 1 : pool->reciprocal * object_bytes * pool->span_objects;
	atomic_store_explicit(&pool->state, WEIR__POOL_LIVE, memory_order_relaxed);
}

/* Whoever shows the label while another pool gets the index may see some of either's. */
static void name_pool(struct weir__pool *pool, const char *name)
{
	size_t last = sizeof(pool->label) - 1;
	WEIR__SET(pool->name, name);
	WEIR__SET(pool->label[last], '\0');
	for (size_t i = 0; i < last; i++) {
		WEIR__SET(pool->label[i], *name);
		name += *name != '\0';
	}
}

/* Classes are whole quarters of their unit. Not by %g, whose point is a comma in some locales. */
static const char *class_name(unsigned index, size_t bytes)
{
	static const char *const quarters[] = { "", ".25", ".5", ".75" };
	unsigned shift = bytes >= 1 << 20 ? 20 : bytes >= 1 << 10 ? 10 : 0;
	const char *unit = shift == 20 ? "MiB" : shift == 10 ? "KiB" : "B";
	snprintf(class_names[index], sizeof(class_names[index]), "%zu%s %s", bytes >> shift,
		 quarters[(bytes * 4 >> shift) & 3], unit);
	return class_names[index];
}

void weir__pools_init(void)
{
	if (weir__pools[1].object_bytes != 0)
		return;
	for (unsigned i = 1; i <= WEIR_CLASS_COUNT; i++) {
		size_t bytes = weir__config.classes.object_bytes[i - 1];
		if (bytes == 0)
			bytes = weir_class_size(i - 1);
		weir__pool_describe(&weir__pools[i], (uint32_t)bytes);
		name_pool(&weir__pools[i], class_name(i, bytes));
	}
	weir__pool_describe(&weir__pools[WEIR__POOL_BUFFER], sizeof(struct weir__block));
	name_pool(&weir__pools[WEIR__POOL_BUFFER], "buffer");
}

/* The object size that keeps every object of a span aligned; 0: the options make no sense. */
static size_t object_stride(const struct weir_pool_opts *opts)
{
	size_t align = opts->align == 0 ? 16 : opts->align;
	if (opts->object_bytes == 0 || opts->object_bytes > OBJECT_BYTES_MAX)
		return 0;
	if ((align & (align - 1)) != 0 || align > ALIGN_MAX)
		return 0;
	if (align < 16)
		align = 16;
	return (weir__check_room(opts->object_bytes) + align - 1) & ~(align - 1);
}

static struct weir__pool *find_unused(void)
{
	for (unsigned i = WEIR__POOL_TYPED; i <= WEIR__POOLS_MAX; i++) {
		struct weir__pool *pool = &weir__pools[i];
		if (pool->state == WEIR__POOL_DEAD && pool->heaps == 0) {
			pool->state = WEIR__POOL_FREE;
			atomic_fetch_sub_explicit(&weir__pools_dead, 1, memory_order_relaxed);
		}
		if (pool->state == WEIR__POOL_FREE)
			return pool;
	}
	return NULL;
}

/* Most heaps give back what they have of a freed pool in their next epoch; some have none. */
static struct weir__pool *unused_pool(void)
{
	struct weir__pool *pool = find_unused();
	if (pool != NULL || weir__pools_dead == 0)
		return pool;
	weir__homes_close_dead();
	return find_unused();
}

int weir_pool_new_with(weir_pool **ret, const struct weir_pool_opts *given)
{
	struct weir_pool_opts known = { 0 };
	const struct weir_pool_opts *opts = &known;
	if (ret == NULL || given == NULL)
		return -EINVAL;
	int err = weir__opts_copy(&known, sizeof(known), given, given->size);
	if (err < 0)
		return err;
	size_t stride = object_stride(opts);
	if (stride == 0)
		return -EINVAL;
	if (weir__fault())
		return -ENOMEM;
	pthread_mutex_lock(&weir__heaps_lock);
	weir__pools_init();
	struct weir__pool *pool = unused_pool();
	if (pool != NULL) {
		weir__pool_stats_restart((uint32_t)(pool - weir__pools));
		weir__pool_describe(pool, (uint32_t)stride);
		pool->asked_bytes = (uint32_t)opts->object_bytes;
		name_pool(pool, opts->name != NULL ? opts->name : "pool");
		pool->move = opts->move;
		pool->move_arg = opts->move_arg;
		*ret = &pool->handle;
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	return pool == NULL ? -ENOSPC : 0;
}

void weir_pool_free(weir_pool *handle)
{
	if (handle == NULL)
		return;
	struct weir__pool *pool = &weir__pools[handle->index];
	pthread_mutex_lock(&weir__heaps_lock);
	bool was_live = pool->state == WEIR__POOL_LIVE;
	if (was_live) {
		pool->state = WEIR__POOL_DEAD;
		name_pool(pool, "freed pool");
		atomic_fetch_add_explicit(&weir__pools_dead, 1, memory_order_relaxed);
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	if (!was_live) {
		weir__report("pool freed twice", handle);
		return;
	}
	struct weir__home *home = weir__home_self();
	if (home != NULL)
		weir__cache_close(home, handle->index);
}
