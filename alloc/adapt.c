/* SPDX-License-Identifier: MIT */
/*
 * adapt.c: the law by which caches grow and shrink.
 *
 * What a cache of a pool needs is its demand's *swing*: the most objects out at once in an epoch
 * less the fewest. A cache of that capacity would have served the epoch without a miss. The
 * decaying maximum of the swing (instant attack, half-life 10 s) is the target:
 *
 *   grow    capacity < need, and it missed and overflowed in one epoch, or nearly always hit and
 *           was nearly used up; to the least capacity * 1.5^k that is enough
 *   shrink  capacity > 2 * need, at most once in 5 s, by 0.7 and not below need
 *
 * For a steady need N the band [N, 2N] absorbs: nothing in it grows, nothing in it shrinks, a grow
 * lands in [N, 1.5N] and a shrink above N. Capacities stay between 1 and what the heap's byte
 * budget allows.
 */
#include "alloc/heap.h"

#define GROW	      1.5
#define SHRINK	      0.7
#define BAND	      2.0
#define GROW_HIT      0.9
#define GROW_PRESSURE 0.8
#define SHRINK_HIT    0.3
#define HALFLIFE_NS   (10000 * WEIR__MS)
#define DWELL_NS      (5000 * WEIR__MS)
#define IDLE_NS	      (60000 * WEIR__MS)
#define UNUSED_NS     (10000 * WEIR__MS) /* a cache not allocated from for so long is emptied */

enum {
	BUDGET_BYTES = 8 << 20, /* all caches of a heap, when full */
	FIRST_BYTES = 4 << 10,
	FIRST_MAX = 64,
	RESERVE_MAX = 4,
	RESERVE_BYTES = 16 << 10,
};

uint32_t weir__adapt_first_cap(const struct weir__home *home, uint32_t object_bytes)
{
	(void)home;
	uint32_t cap = FIRST_BYTES / object_bytes;
	if (cap > FIRST_MAX)
		cap = FIRST_MAX;
	return cap < 2 ? 2 : cap;
}

/* 2^-x for x >= 0, to within 0.2 %: a half for each whole unit, a parabola for the rest. */
double weir__halved(double x)
{
	double value = 1.0;
	for (; x >= 1.0 && value > 1e-9; x -= 1.0)
		value *= 0.5;
	return x >= 1.0 ? 0.0 : value * (1.0 - x * (0.6742 - 0.1742 * x));
}

static double round_up(double x)
{
	double whole = (double)(int64_t)x;
	return whole < x ? whole + 1 : whole;
}

/* The capacity below which no cache shrinks. */
static uint32_t reserve(uint32_t object_bytes)
{
	uint32_t n = RESERVE_BYTES / object_bytes;
	return n > RESERVE_MAX ? RESERVE_MAX : n < 1 ? 1 : n;
}

static void measure(struct weir__home *home, uint32_t index, int64_t now_ns)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__demand *demand = &home->bins[index].demand;
	double swing = (double)(demand->use_max - demand->use_min);
	int64_t elapsed = now_ns - demand->decayed_ns;
	if (swing > demand->swing)
		demand->swing = swing;
	else if (elapsed > 0)
		demand->swing = swing + (demand->swing - swing) *
						weir__halved((double)elapsed / HALFLIFE_NS);
	demand->decayed_ns = now_ns;
	uint64_t allocs = cache->allocs - demand->epoch_allocs;
	uint64_t misses = cache->misses - demand->epoch_misses;
	if (allocs > 0) {
		double hit = 1.0 - (double)misses / (double)allocs;
		demand->hit_rate += 0.2 * (hit - demand->hit_rate);
		demand->used_ns = now_ns;
	}
}

static void epoch_begin(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__bin *bin = &home->bins[index];
	int64_t use = (int64_t)bin->out - cache->count;
	bin->demand.use_max = bin->demand.use_min = use;
	bin->demand.epoch_allocs = cache->allocs;
	bin->demand.epoch_misses = cache->misses;
	bin->demand.refills = bin->demand.flushes = 0;
}

static uint32_t grown(uint32_t cap, double need)
{
	double n = cap;
	while (n < need)
		n = n * GROW > n + 1 ? n * GROW : n + 1;
	return n > (double)(UINT32_MAX / 2) ? UINT32_MAX / 2 : (uint32_t)round_up(n);
}

/* The capacity the budget leaves this pool, at least what it has. */
static uint32_t affordable(const struct weir__home *home, const struct weir__cache *cache)
{
	if (home->cap_bytes >= BUDGET_BYTES)
		return cache->cap;
	return cache->cap + (uint32_t)((BUDGET_BYTES - home->cap_bytes) / cache->object_bytes);
}

static uint32_t next_cap(const struct weir__home *home, uint32_t index, double need, int64_t now_ns)
{
	const struct weir__cache *cache = &home->heap.cache[index];
	const struct weir__demand *demand = &home->bins[index].demand;
	uint32_t cap = cache->cap;
	if (cap < need) {
		bool short_of = demand->refills > 0 && demand->flushes > 0;
		bool nearly = demand->hit_rate >= GROW_HIT && demand->swing > GROW_PRESSURE * cap;
		if (!short_of && !nearly)
			return cap;
		uint32_t want = grown(cap, need);
		uint32_t most = affordable(home, cache);
		return want < most ? want : most;
	}
	bool above = cap > BAND * need;
	bool useless = demand->hit_rate < SHRINK_HIT && now_ns - demand->used_ns > IDLE_NS;
	if ((!above && !useless) || now_ns - demand->resized_ns < DWELL_NS)
		return cap;
	double down = cap * SHRINK;
	return (uint32_t)round_up(down > need ? down : need);
}

void weir__adapt_pool(struct weir__home *home, uint32_t index, int64_t now_ns)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__demand *demand = &home->bins[index].demand;
	if (cache->cap == 0)
		return;
	weir__cache_fold(home, index);
	measure(home, index, now_ns);
	double need = round_up(demand->swing);
	double floor_cap = reserve(cache->object_bytes);
	uint32_t cap = next_cap(home, index, need > floor_cap ? need : floor_cap, now_ns);
	epoch_begin(home, index);
	if (cap != cache->cap) {
		demand->resized_ns = now_ns;
		weir__cache_resize(home, index, cap);
	}
	if (cache->count > 0 && now_ns - demand->used_ns > UNUSED_NS)
		weir__cache_flush(home, index, cache->count);
}
