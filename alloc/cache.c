/* SPDX-License-Identifier: MIT */
/*
 * cache.c: the slow path of alloc and free: what happens when a cache's bounds are reached.
 *
 * The inlined paths in alloc.h stop at the marks `low` and `high`, which are usually not the ends
 * of the stack but the edge of where it has moved lately. Here the mark is pushed on a step, and
 * only at its ends is it a miss or an overflow: then a batch goes between the cache and its
 * spans. Batches double in a row of misses, so that a burst on a cold pool costs few of them.
 *
 * A miss and an overflow in one epoch prove that a larger cache would have served. When enough has
 * happened since the last look the law in adapt.c is asked at once instead of at the next tick.
 */
#include <stdatomic.h>
#include <string.h>

#include "alloc/heap.h"

enum {
	BATCH_MAX = 64,
	BATCH_BYTES_MAX = 64 << 10,
	MISSES_PER_TURN = 64, /* of a thread that is no worker */
	EVENTS_PER_LOOK = 4,  /* refills and flushes that end a pool's epoch early */
};

/* How far a mark moves at once: water marks are that exact. */
static uint32_t mark_step(const struct weir__cache *cache)
{
	return 1 + cache->cap / 32;
}

/* ---- Setting up ----------------------------------------------------------------------------- */

/*
 * Room for cap pointers and the NULL in front of them, from the size classes' spans: no cache, no
 * recursion.
 */
static void **slots_new(struct weir__home *home, uint32_t cap, uint32_t *ret_room)
{
	size_t bytes = ((size_t)cap + 1) * sizeof(void *);
	void *block;
	if (bytes > WEIR_CLASS_BYTES_MAX)
		return NULL;
	uint32_t index = weir__class_pool(bytes);
	if (weir__span_take(home, index, &block, 1) == 0)
		return NULL;
	*ret_room = (uint32_t)(weir__pools[index].object_bytes / sizeof(void *)) - 1;
	weir__watch_internal(block, weir__pools[index].object_bytes);
	WEIR__ADD(home->bins[index].internal, 1);
	void **slots = block;
	slots[0] = NULL; /* so that head[-1] can be read when there is nothing */
	return slots + 1;
}

static void slots_free(struct weir__home *home, void **slots)
{
	WEIR__ADD(home->bins[weir__span_pool(home, slots - 1)].internal, (uint64_t)-1);
	weir__span_give(home, slots - 1);
}

static void set_count(struct weir__cache *cache, uint32_t count)
{
	WEIR__SET(cache->head, cache->slots + count);
}

static void marks_reset(const struct weir__home *home, struct weir__cache *cache)
{
	bool closed = home->mode != 0;
	cache->low = closed ? (void **)UINTPTR_MAX : cache->head;
	cache->high = closed ? NULL : cache->head;
}

/*
 * What the budget counts of a cache: not the one object that each may hold. Else a single block of
 * 10 MiB, freed, would leave nothing for all the small classes.
 */
static uint64_t cost(const struct weir__cache *cache, uint32_t cap)
{
	return cap == 0 ? 0 : (uint64_t)(cap - 1) * cache->object_bytes;
}

static void cache_open(struct weir__home *home, uint32_t index)
{
	const struct weir__pool *pool = &weir__pools[index];
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__bin *bin = &home->bins[index];
	if (!bin->open) {
		bin->open = true;
		atomic_fetch_add_explicit(&weir__pools[index].heaps, 1, memory_order_relaxed);
		if (index >= home->bins_end)
			WEIR__SET(home->bins_end, index + 1);
	}
	cache->object_bytes = pool->object_bytes;
	cache->reciprocal = pool->reciprocal;
	cache->valid = pool->valid;
	uint32_t cap = weir__adapt_first_cap(home, index);
	WEIR__SET(cache->slots, slots_new(home, cap, &bin->room));
	set_count(cache, 0);
	WEIR__SET(cache->cap, cache->slots == NULL ? 0 : cap);
	WEIR__SET(home->cap_bytes, home->cap_bytes + cost(cache, cache->cap));
	memset(&bin->demand, 0, sizeof(bin->demand));
	struct weir__law *law = &bin->demand.law;
	law->decayed_ns = law->resized_ns = law->used_ns = home->now_ns;
	bin->demand.epoch_allocs = cache->allocs;
	bin->demand.epoch_fetched = bin->fetched;
	bin->demand.use_max = bin->demand.use_min = (int64_t)bin->out;
	marks_reset(home, cache);
}

void weir__cache_mark(struct weir__home *home, uint32_t index)
{
	marks_reset(home, &home->heap.cache[index]);
}

void weir__cache_fold(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__bin *bin = &home->bins[index];
	if (home->mode == 0) {
		/* above the head it waits for a request to guard (guard.c) and has measured none */
		void **low = cache->low < cache->head ? cache->low : cache->head;
		int64_t most = (int64_t)bin->out - (low - cache->slots);
		int64_t least = (int64_t)bin->out - (cache->high - cache->slots);
		if (most > bin->demand.use_max)
			bin->demand.use_max = most;
		if (least < bin->demand.use_min)
			bin->demand.use_min = least;
	}
	marks_reset(home, cache);
}

void weir__cache_flush(struct weir__home *home, uint32_t index, uint32_t n)
{
	struct weir__cache *cache = &home->heap.cache[index];
	uint32_t count = weir__cache_count(cache);
	if (n > count)
		n = count;
	weir__cache_fold(home, index);
	for (uint32_t i = 0; i < n; i++)
		if (!weir__span_give(home, cache->slots[i]))
			weir__report("freed twice", cache->slots[i]);
	memmove(cache->slots, cache->slots + n, (count - n) * sizeof(void *));
	set_count(cache, count - n);
	marks_reset(home, cache);
}

static void slots_grow(struct weir__home *home, uint32_t index, uint32_t cap)
{
	struct weir__cache *cache = &home->heap.cache[index];
	uint32_t room;
	void **slots = slots_new(home, cap, &room);
	if (slots == NULL)
		return;
	uint32_t count = weir__cache_count(cache);
	if (cache->slots != NULL) {
		memcpy(slots, cache->slots, count * sizeof(void *));
		slots_free(home, cache->slots);
	}
	WEIR__SET(cache->slots, slots);
	set_count(cache, count);
	home->bins[index].room = room;
}

void weir__cache_resize(struct weir__home *home, uint32_t index, uint32_t cap)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__bin *bin = &home->bins[index];
	if (cap < weir__cache_count(cache))
		weir__cache_flush(home, index, weir__cache_count(cache) - cap);
	if (cap > bin->room || cap < bin->room / 4)
		slots_grow(home, index, cap);
	if (cap > bin->room)
		cap = bin->room;
	WEIR__SET(home->cap_bytes, home->cap_bytes + cost(cache, cap) - cost(cache, cache->cap));
	WEIR__SET(cache->cap, cap);
	WEIR__SET(bin->resizes, bin->resizes + 1);
	marks_reset(home, cache);
}

void weir__cache_close(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__bin *bin = &home->bins[index];
	if (!bin->open)
		return;
	if (cache->slots != NULL) {
		weir__cache_flush(home, index, weir__cache_count(cache));
		slots_free(home, cache->slots);
	}
	WEIR__SET(home->cap_bytes, home->cap_bytes - cost(cache, cache->cap));
	WEIR__SET(cache->slots, NULL);
	WEIR__SET(cache->head, NULL);
	WEIR__SET(cache->cap, 0);
	cache->low = cache->high = NULL;
	if (home->guard_index == index) /* another one that is in use has to be guarded */
		home->guard_index = 0;
	if (bin->spans == 0) {
		if (weir__pools[index].state == WEIR__POOL_DEAD) { /* not the next one's */
			WEIR__SET(bin->peak, 0);
			WEIR__SET(bin->need, 0);
		}
		cache->valid = 0;
		bin->open = false;
		/* release: who gives the index to another pool comes after all of this */
		atomic_fetch_sub_explicit(&weir__pools[index].heaps, 1, memory_order_release);
	}
}

/* ---- Miss and overflow ---------------------------------------------------------------------- */

/* Asks the law before its time when misses and overflows alternate. */
static void look_early(struct weir__home *home, uint32_t index)
{
	struct weir__demand *demand = &home->bins[index].demand;
	if (demand->epoch.refills > 0 && demand->epoch.flushes > 0 &&
	    demand->epoch.refills + demand->epoch.flushes >= EVENTS_PER_LOOK)
		weir__adapt_pool(home, index, home->now_ns);
}

static uint32_t refill_batch(const struct weir__cache *cache, struct weir__bin *bin)
{
	uint32_t most = BATCH_BYTES_MAX / cache->object_bytes;
	if (most > BATCH_MAX)
		most = BATCH_MAX;
	if (most > cache->cap / 2)
		most = cache->cap / 2;
	uint32_t n = bin->batch == 0 ? 2 : bin->batch * 2;
	if (n > most)
		n = most;
	bin->batch = n;
	return n == 0 ? 1 : n;
}

/* The first taken should be on top: neighbours in memory are then handed out in order. */
static void reverse(void **slots, uint32_t n)
{
	for (uint32_t i = 0; i < n / 2; i++) {
		void *t = slots[i];
		slots[i] = slots[n - 1 - i];
		slots[n - 1 - i] = t;
	}
}

/* Fills an empty cache with at least one object. False: memory is exhausted. */
static bool refill(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__bin *bin = &home->bins[index];
	weir__remote_drain(home);
	if (weir__cache_count(cache) > 0)
		return true;
	weir__cache_fold(home, index);
	bin->demand.epoch.refills++;
	look_early(home, index);
	uint32_t n = weir__span_take(home, index, cache->slots, refill_batch(cache, bin));
	reverse(cache->slots, n);
	bin->fetched += n;
	set_count(cache, n);
	marks_reset(home, cache);
	return n > 0;
}

static void overflow(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	WEIR__ADD(home->bins[index].overflows, 1);
	weir__cache_fold(home, index);
	home->bins[index].demand.epoch.flushes++;
	home->bins[index].batch = 0;
	look_early(home, index);
	if (weir__cache_count(cache) == cache->cap)
		weir__cache_flush(home, index, (cache->cap + 1) / 2);
}

/* ---- Get and put ---------------------------------------------------------------------------- */

static void *get_uncached(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	void *block;
	if (weir__span_take(home, index, &block, 1) == 0)
		return NULL;
	WEIR__ADD(cache->allocs, 1);
	weir__count_miss(&home->bins[index]);
	return block;
}

/* The fast path's twin, for when it was closed or stood at the low mark. */
static void *get_cached(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	bool missed = weir__cache_count(cache) == 0;
	if (missed && !refill(home, index))
		return NULL;
	uint32_t count = weir__cache_count(cache) - 1;
	if (home->mode == 0 && cache->low > cache->slots + count) {
		uint32_t step = mark_step(cache);
		cache->low = cache->slots + (count > step ? count - step : 0);
	}
	set_count(cache, count);
	WEIR__ADD(cache->allocs, 1);
	if (missed)
		weir__count_miss(&home->bins[index]);
	return cache->slots[count];
}

static void *get_once(struct weir__home *home, uint32_t index)
{
	bool uncached =
		(home->mode & WEIR__MODES_UNCACHED) != 0 || home->heap.cache[index].cap == 0;
	void *block = uncached ? get_uncached(home, index) : get_cached(home, index);
	return block != NULL ? block : weir__span_take_larger(home, index);
}

/* What the other pools have cached goes home before one is refused. False: nothing may. */
static bool give_up_caches(struct weir__home *home)
{
	if ((home->mode & WEIR__MODE_FAULTS) != 0 || home->reclaiming)
		return false;
	weir__compact_home(home, WEIR_MEM_HIGH);
	return true;
}

static __attribute__((noinline)) void turn_amid_a_request(struct weir__home *home)
{
	home->amid = true;
	weir__heap_turn(weir__os_now());
	home->amid = false;
}

void *weir__home_get(struct weir__home *home, uint32_t index)
{
	weir__home_sync_mode(home);
	if (home->turns_itself && ++home->misses_seen % MISSES_PER_TURN == 0)
		turn_amid_a_request(home);
	if (home->heap.cache[index].cap == 0)
		cache_open(home, index);
	if (weir__fault())
		return NULL;
	void *block = get_once(home, index);
	return block == NULL && give_up_caches(home) ? get_once(home, index) : block;
}

static void put_cached(struct weir__home *home, uint32_t index, void *block)
{
	struct weir__cache *cache = &home->heap.cache[index];
	uint32_t count = weir__cache_count(cache);
	if (cache->head[-1] == block) {
		weir__report("freed twice", block);
		return;
	}
	if (count == cache->cap) {
		overflow(home, index);
		count = weir__cache_count(cache);
	}
	if (home->mode == 0 && cache->high <= cache->slots + count) {
		uint32_t high = count + mark_step(cache);
		cache->high = cache->slots + (high < cache->cap ? high : cache->cap);
	}
	cache->slots[count] = block;
	set_count(cache, count + 1);
}

void weir__home_put(struct weir__home *home, uint32_t index, void *block)
{
	weir__home_sync_mode(home);
	if ((home->mode & WEIR__MODE_CHECK) != 0) {
		if (!weir__check_free(home, index, &block))
			return;
		index = weir__span_pool(home, block); /* of the one that comes out of quarantine */
	}
	struct weir__cache *cache = &home->heap.cache[index];
	weir__watch_free(block, weir__pools[index].object_bytes);
	if ((home->mode & WEIR__MODES_UNCACHED) == 0 && cache->cap > 0)
		put_cached(home, index, block);
	else if (!weir__span_give(home, block))
		weir__report("freed twice", block);
}

static void *get_aligned(struct weir__home *home, uint32_t index, size_t align)
{
	weir__home_sync_mode(home);
	struct weir__cache *cache = &home->heap.cache[index];
	if (cache->cap == 0)
		cache_open(home, index);
	void *block = weir__fault() ? NULL : weir__span_take_aligned(home, index, align);
	if (block == NULL && give_up_caches(home))
		block = weir__span_take_aligned(home, index, align);
	if (block != NULL) {
		WEIR__ADD(cache->allocs, 1);
		weir__count_miss(&home->bins[index]);
	}
	return block;
}

/* ---- From the inlined paths ----------------------------------------------------------------- */

/* Any thread: those without a heap share one, under the lock. */
static void *get(uint32_t index)
{
	struct weir__home *home = weir__home_self();
	void *block;
	if (home != NULL) {
		block = weir__home_get(home, index);
	} else {
		pthread_mutex_lock(&weir__heaps_lock);
		home = weir__home_guest();
		block = home == NULL ? NULL : weir__home_get(home, index);
		pthread_mutex_unlock(&weir__heaps_lock);
	}
	return block != NULL ? block : weir__lent_get(index);
}

/* The fast path does not know what was asked for: this is the sample that the waste is told from.
 */
static void note_asked(uint32_t index, size_t size)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL)
		return;
	WEIR__ADD(home->bins[index].asked, 1);
	WEIR__ADD(home->bins[index].asked_bytes, size);
}

void *weir__alloc_exact(size_t room, size_t size, void *site)
{
	uint32_t index = weir__class_pool(room);
	void *block = weir__guard_is_due(index) ? weir__guard_get(index, size, site) : NULL;
	if (block != NULL)
		return block;
	block = get(index);
	note_asked(index, size);
	bool window_full = block == NULL && room > WEIR__UNIT_BYTES && weir__mode == 0;
	if (window_full && !weir__fault()) /* the machine may not be */
		return weir__large_alloc(size, WEIR__UNIT_BYTES);
	if (block == NULL)
		return weir__refused(size);
	weir__watch_alloc(block, size, weir__pools[index].object_bytes);
	if (weir__config.debug > 0)
		weir__check_alloc(block, size, site);
	return block;
}

void *weir__alloc_slow(size_t size)
{
	if (size > WEIR_CLASS_BYTES_MAX)
		return weir__fault() ? weir__refused(size) : weir__large_alloc(size, 4096);
	uint32_t index = weir__class_pool(size);
	/* nobody has looked yet: too large for the table, or a constant, which is not looked up */
	if (size > WEIR__TABLE_BYTES_MAX || index != weir_size_class(size) + 1) {
		size_t place = WEIR__PLACE(index);
		void *block = weir__cache_pop(weir__heap_self, &place);
		if (block != NULL)
			return block;
	}
	return weir__alloc_exact(weir__check_room(size), size, __builtin_return_address(0));
}

void *weir__pool_get_slow(uint32_t index)
{
	size_t bytes = weir__pools[index].asked_bytes, room = weir__pools[index].object_bytes;
	void *object = NULL;
	if (weir__guard_is_due(index))
		object = weir__guard_get(index, bytes, __builtin_return_address(0));
	if (object != NULL)
		return object;
	object = get(index);
	if (object == NULL)
		return weir__refused(bytes);
	weir__watch_alloc(object, room, room);
	if (weir__config.debug > 0)
		weir__check_alloc(object, bytes, __builtin_return_address(0));
	return object;
}

void *weir__alloc_run_aligned(size_t align, size_t size)
{
	size_t bytes = size > WEIR__UNIT_BYTES ? weir__check_room(size) : WEIR__UNIT_BYTES + 1;
	uint32_t index = weir__class_pool(bytes);
	struct weir__home *home = weir__home_self();
	bool locked = home == NULL;
	if (locked) {
		pthread_mutex_lock(&weir__heaps_lock);
		home = weir__home_guest();
	}
	void *block = home == NULL ? NULL : get_aligned(home, index, align);
	if (locked)
		pthread_mutex_unlock(&weir__heaps_lock);
	if (block == NULL && weir__mode == 0 && !weir__fault()) /* as in weir__alloc_exact() */
		return weir__large_alloc(size, align);
	if (block == NULL)
		return weir__refused(size);
	weir__watch_alloc(block, size, weir__pools[index].object_bytes);
	if (weir__config.debug > 0)
		weir__check_alloc(block, size, __builtin_return_address(0));
	return block;
}

/* For threads without a heap: puts it away at once when its heap has no owner either. */
static bool put_ownerless(struct weir__home *owner, uint32_t index, void *block)
{
	if (atomic_load_explicit(&owner->owned, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&weir__heaps_lock);
	bool ownerless = !atomic_load_explicit(&owner->owned, memory_order_relaxed);
	if (ownerless)
		weir__home_put(owner, index, block);
	pthread_mutex_unlock(&weir__heaps_lock);
	return ownerless;
}

/* Finds out whose block it is; `index` 0: of any pool. */
static void put(uint32_t index, void *block, void *site)
{
	struct weir__home *owner = weir__home_of(block);
	uint32_t found = owner == NULL ? 0 : weir__span_pool(owner, block);
	if (found == 0 || (index != 0 && index != found)) {
		if (owner == NULL && weir__guard_put(index, block, site))
			return;
		if (index != 0 || owner != NULL || !weir__large_free(block))
			weir__report(index == 0 ? "not a block" : "not of this pool", block);
		return;
	}
	if (weir__config.debug >= 3)
		weir__check_freeing(owner, block, site);
	if (owner == weir__home_self())
		weir__home_put(owner, found, block);
	else if (weir__home_self() != NULL || !put_ownerless(owner, found, block))
		weir__remote_free(owner, found, block);
}

void weir__free_slow(void *block)
{
	if (block != NULL)
		put(0, block, __builtin_return_address(0));
}

void weir__pool_put_slow(uint32_t index, void *object)
{
	if (object != NULL)
		put(index, object, __builtin_return_address(0));
}
