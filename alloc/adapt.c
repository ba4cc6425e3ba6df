/* SPDX-License-Identifier: MIT */
/*
 * adapt.c: the law by which caches grow and shrink.
 *
 * What a cache of a pool needs is its demand's *swing*: the most objects out at once in an epoch
 * less the fewest. A cache of that capacity would have served the epoch without a miss. The
 * decaying maximum of the swing (instant attack, half-life 10 s) is the target:
 *
 *   grow    capacity < need, and it missed after it had overflowed within the half-life, or nearly
 *           always hit and was nearly used up; to the least capacity * 1.5^k that is enough
 *   shrink  capacity > 2 * need, or hardly hit and long idle; at most once in 5 s, by 0.7 and not
 *           below need
 *
 * For a steady need N the band [N, 2N] absorbs: nothing in it grows, nothing in it shrinks, a grow
 * lands in [N, 1.5N] and a shrink above N, so the band must be wider than both steps. Bursts more
 * frequent than the half-life times log2(2 / 1.5) = 4.2 s cause no resizing at all.
 *
 * All caches of a heap share a budget of bytes. A pool that is refused takes from the least useful
 * one, judged by objects fetched from the spans per epoch and byte, at most a twentieth of the
 * budget every 2 s.
 *
 * The law itself (weir__law_next) is a function of its arguments.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "alloc/heap.h"

#define UNUSED_NS (10000 * WEIR__MS) /* a cache not allocated from for so long is emptied */
#define MOVE_NS	  (2000 * WEIR__MS)

enum {
	FIRST_BYTES = 4 << 10,
	FIRST_MAX = 64,
	RESERVE_BYTES = 16 << 10,
	LIMIT_SHARE = 8,
	MOVE_SHARE = 20,     /* of the budget, at once */
	MOVE_HYSTERESIS = 5, /* a donor has at most 4/5 of the recipient's misses */
};

struct weir__alloc_config weir__config = {
	.adapt = WEIR__ADAPT_DEMAND,
	.epoch_ns = 100 * WEIR__MS,
	.halflife_ns = 10000 * WEIR__MS,
	.dwell_ns = 5000 * WEIR__MS,
	.shrink_idle_ns = 60000 * WEIR__MS,
	.decay_ns = 10000 * WEIR__MS,
	.regret_ns = 60000 * WEIR__MS,
	.grow_percent = 150,
	.shrink_percent = 70,
	.band_percent = 200,
	.grow_hit_percent = 90,
	.grow_pressure_percent = 80,
	.shrink_hit_percent = 30,
	.reserve = 4,
	.worker_bytes = 16 << 20,
};

void weir__alloc_config_get(struct weir__alloc_config *ret)
{
	*ret = weir__config;
}

/* Steps that leave the band at once would make it oscillate: 5 % of room. */
static bool band_holds(const struct weir__alloc_config *config)
{
	uint32_t up = config->grow_percent;
	uint32_t down = 10000 / config->shrink_percent;
	return config->band_percent * 100 >= (up > down ? up : down) * 105;
}

int weir__alloc_configure(const struct weir__alloc_config *config)
{
	if (config->adapt > WEIR__ADAPT_OFF || config->epoch_ns < WEIR__MS ||
	    config->halflife_ns < WEIR__MS || config->dwell_ns < 0 || config->shrink_idle_ns < 0 ||
	    config->decay_ns < 0 || config->regret_ns < WEIR__MS)
		return -EINVAL;
	if (config->grow_percent <= 100 || config->shrink_percent < 1 ||
	    config->shrink_percent >= 100 || !band_holds(config))
		return -EINVAL;
	if (config->debug > 3 || config->unpooled > 1 || config->purge > WEIR__PURGE_FREE ||
	    config->huge_pages > WEIR__HUGE_ALWAYS || config->numa > WEIR__NUMA_INTERLEAVE ||
	    config->oom > WEIR__OOM_ABORT)
		return -EINVAL;
	if (config->debug != weir__config.debug && atomic_load(&weir__home_count) > 0)
		return -EBUSY;
	size_t n = sizeof(config->classes);
	bool described = weir__pools[1].object_bytes != 0;
	if (described && memcmp(&config->classes, &weir__config.classes, n) != 0)
		return -EBUSY;
	weir__config = *config;
	uint32_t modes = (config->debug > 0 ? WEIR__MODE_CHECK : 0) |
			 (config->unpooled ? WEIR__MODE_UNPOOLED : 0);
	atomic_fetch_or(&weir__mode, modes);
	atomic_fetch_and(&weir__mode, modes | ~(uint32_t)(WEIR__MODE_CHECK | WEIR__MODE_UNPOOLED));
	return 0;
}

/* ---- Arithmetic without a mathematics library ----------------------------------------------- */

/* To within 0.2 %: a half for each whole unit, a parabola for the rest. */
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

/* ---- The law -------------------------------------------------------------------------------- */

void weir__law_measure(struct weir__law *law, const struct weir__epoch *epoch, int64_t now_ns)
{
	double swing = (double)epoch->swing;
	int64_t elapsed = now_ns - law->decayed_ns;
	if (swing > law->swing)
		law->swing = swing;
	else if (elapsed > 0)
		law->swing = swing +
			     (law->swing - swing) * weir__halved((double)elapsed /
								 (double)weir__config.halflife_ns);
	law->decayed_ns = now_ns;
	if (epoch->flushes > 0)
		law->flushed_ns = now_ns;
	if (epoch->allocs == 0)
		return;
	double hit = 1.0 - (double)epoch->fetched / (double)epoch->allocs;
	law->hit_rate += 0.2 * ((hit > 0 ? hit : 0) - law->hit_rate);
	law->used_ns = now_ns;
}

/* The least cap * g^k that is enough, each step at least one. */
static double grown(uint32_t cap, double need)
{
	double n = cap;
	double factor = weir__config.grow_percent / 100.0;
	while (n < need)
		n = n * factor > n + 1 ? n * factor : n + 1;
	return round_up(n);
}

/* Useful and nearly used up: the rule the thresholds come from. */
static bool nearly_full(const struct weir__law *law, uint32_t cap)
{
	return law->hit_rate * 100 >= weir__config.grow_hit_percent &&
	       law->swing * 100 > (double)weir__config.grow_pressure_percent * cap;
}

static bool useless(const struct weir__law *law, int64_t now_ns)
{
	return law->hit_rate * 100 < weir__config.shrink_hit_percent &&
	       now_ns - law->used_ns > weir__config.shrink_idle_ns;
}

/* Hit rate and idle time alone, as it was first proposed; the floor of 1 makes it safe. */
static uint32_t threshold_next(const struct weir__law *law, uint32_t cap, int64_t now_ns)
{
	if (nearly_full(law, cap))
		return (uint32_t)grown(cap, cap + 1.0);
	if (useless(law, now_ns) && cap > 1)
		return cap * weir__config.shrink_percent / 100 > 0
			       ? cap * weir__config.shrink_percent / 100
			       : 1;
	return cap;
}

static uint32_t demand_next(const struct weir__law *law, const struct weir__epoch *epoch,
			    uint32_t cap, uint32_t reserve, int64_t now_ns)
{
	double need = round_up(law->swing);
	if (need < reserve)
		need = reserve;
	if (cap < need) {
		bool would_have_served =
			epoch->refills > 0 && now_ns - law->flushed_ns < weir__config.halflife_ns;
		if (!would_have_served && !nearly_full(law, cap))
			return cap;
		double want = grown(cap, need);
		return want > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)want;
	}
	bool above = cap * 100.0 > weir__config.band_percent * need;
	if ((!above && !useless(law, now_ns)) || now_ns - law->resized_ns < weir__config.dwell_ns)
		return cap;
	double down = (double)((uint64_t)cap * weir__config.shrink_percent / 100);
	return (uint32_t)(down > need ? down : need);
}

uint32_t weir__law_next(struct weir__law *law, const struct weir__epoch *epoch, uint32_t cap,
			uint32_t reserve, int64_t now_ns)
{
	switch (weir__config.adapt) {
	case WEIR__ADAPT_OFF:
		return cap;
	case WEIR__ADAPT_THRESHOLD:
		return threshold_next(law, cap, now_ns);
	default:
		return demand_next(law, epoch, cap, reserve, now_ns);
	}
}

/* ---- For one pool of a heap ----------------------------------------------------------------- */

uint32_t weir__adapt_kept(uint32_t index)
{
	uint32_t n = 0;
	if (index > WEIR_CLASS_COUNT)
		return 0;
	for (uint32_t i = index; i > 0 && weir__class_pool(weir_class_size(i - 1)) == index; i--)
		if (n < weir__config.reserves.objects[i - 1])
			n = weir__config.reserves.objects[i - 1];
	return n;
}

/* The capacity below which no cache shrinks. */
static uint32_t reserve(uint32_t index)
{
	uint32_t n = RESERVE_BYTES / weir__pools[index].object_bytes;
	if (n > weir__config.reserve)
		n = weir__config.reserve;
	if (n < weir__adapt_kept(index))
		n = weir__adapt_kept(index);
	return n < 1 ? 1 : n;
}

/* What all caches of a heap may hold: where memory is limited, of that an eighth at most. */
static uint64_t budget_bytes(void)
{
	uint64_t share = weir__limit() / LIMIT_SHARE;
	return share == 0 || share > weir__config.worker_bytes ? weir__config.worker_bytes : share;
}

uint32_t weir__adapt_first_cap(const struct weir__home *home, uint32_t index)
{
	uint32_t object_bytes = weir__pools[index].object_bytes;
	uint32_t kept = weir__adapt_kept(index);
	uint32_t cap = FIRST_BYTES / object_bytes;
	uint64_t budget = budget_bytes();
	if (home->cap_bytes + (uint64_t)kept * object_bytes <= budget && kept > 0)
		return kept;
	if (cap > FIRST_MAX)
		cap = FIRST_MAX;
	if (cap < 2)
		cap = 2;
	bool fits = home->cap_bytes + (uint64_t)cap * object_bytes <= budget;
	return fits ? cap : 1; /* without room to keep one, it would not be a cache */
}

static void epoch_begin(struct weir__home *home, uint32_t index)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__demand *demand = &home->bins[index].demand;
	demand->use_max = demand->use_min =
		(int64_t)home->bins[index].out - weir__cache_count(cache);
	demand->epoch_allocs = cache->allocs;
	demand->epoch_fetched = home->bins[index].fetched;
	demand->epoch = (struct weir__epoch){ 0 };
}

static void epoch_end(struct weir__home *home, uint32_t index, int64_t now_ns)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__demand *demand = &home->bins[index].demand;
	weir__cache_fold(home, index);
	demand->epoch.swing = (uint64_t)(demand->use_max - demand->use_min);
	demand->epoch.allocs = cache->allocs - demand->epoch_allocs;
	demand->epoch.fetched = home->bins[index].fetched - demand->epoch_fetched;
	demand->fetched += 0.2 * ((double)demand->epoch.fetched - demand->fetched);
	weir__law_measure(&demand->law, &demand->epoch, now_ns);
	if (demand->epoch.allocs > 0)
		demand->law.used_ns -= home->rested_ns;
	struct weir__bin *bin = &home->bins[index];
	WEIR__SET(bin->need, (uint64_t)round_up(demand->law.swing));
	if (demand->use_max > (int64_t)(bin->peak + bin->internal))
		WEIR__SET(bin->peak, (uint64_t)demand->use_max - bin->internal);
}

/* How many of `want` objects the budget allows; what the cache has it keeps. */
static uint32_t afford(struct weir__home *home, uint32_t index, uint32_t want)
{
	const struct weir__cache *cache = &home->heap.cache[index];
	uint64_t left = 0, budget = budget_bytes();
	if (home->cap_bytes < budget)
		left = (budget - home->cap_bytes) / cache->object_bytes;
	if (want <= cache->cap || want - cache->cap <= left)
		return want;
	home->bins[index].demand.refused = true;
	return cache->cap + (uint32_t)left;
}

void weir__adapt_pool(struct weir__home *home, uint32_t index, int64_t now_ns)
{
	struct weir__cache *cache = &home->heap.cache[index];
	struct weir__demand *demand = &home->bins[index].demand;
	if (cache->cap == 0)
		return;
	epoch_end(home, index, now_ns);
	uint32_t cap =
		weir__law_next(&demand->law, &demand->epoch, cache->cap, reserve(index), now_ns);
	if (cap > cache->cap)
		cap = weir__home_may_grow(home) ? afford(home, index, cap) : cache->cap;
	uint64_t bytes = demand->epoch.allocs * cache->object_bytes;
	epoch_begin(home, index);
	if (cap != cache->cap) {
		demand->law.resized_ns = now_ns;
		weir__cache_resize(home, index, cap);
	}
	uint32_t kept = weir__adapt_kept(index);
	if (weir__cache_count(cache) > kept && now_ns - demand->law.used_ns > UNUSED_NS)
		weir__cache_flush(home, index, weir__cache_count(cache) - kept);
	weir__guard_count(home, index, bytes);
}

int64_t weir__adapt_due(const struct weir__home *home)
{
	int64_t due = WEIR__NEVER;
	for (uint32_t i = 1; i < home->bins_end; i++) {
		int64_t used_ns = home->bins[i].demand.law.used_ns;
		if (weir__cache_count(&home->heap.cache[i]) > weir__adapt_kept(i) &&
		    used_ns + UNUSED_NS + 1 < due)
			due = used_ns + UNUSED_NS + 1;
	}
	return due;
}

/* ---- Moving budget between pools ------------------------------------------------------------ */

static double use_per_byte(const struct weir__home *home, uint32_t index)
{
	const struct weir__cache *cache = &home->heap.cache[index];
	return home->bins[index].demand.fetched / ((double)cache->cap * cache->object_bytes);
}

/* The most useful pool that was refused since the last look; 0: none was. */
static uint32_t recipient(struct weir__home *home)
{
	uint32_t best = 0;
	for (uint32_t i = 1; i < home->bins_end; i++) {
		bool refused = home->bins[i].demand.refused;
		home->bins[i].demand.refused = false;
		if (refused && home->heap.cache[i].cap > 0 &&
		    (best == 0 || use_per_byte(home, i) > use_per_byte(home, best)))
			best = i;
	}
	return best;
}

static uint32_t donor(const struct weir__home *home, uint32_t to)
{
	uint32_t worst = 0;
	for (uint32_t i = 1; i < home->bins_end; i++) {
		const struct weir__cache *cache = &home->heap.cache[i];
		if (i == to || cache->cap <= 1 || cache->cap <= reserve(i))
			continue;
		if (home->bins[i].demand.fetched * MOVE_HYSTERESIS >=
		    home->bins[to].demand.fetched * (MOVE_HYSTERESIS - 1))
			continue;
		if (worst == 0 || use_per_byte(home, i) < use_per_byte(home, worst))
			worst = i;
	}
	return worst;
}

void weir__adapt_budget(struct weir__home *home, int64_t now_ns)
{
	if (now_ns - home->moved_ns < MOVE_NS)
		return;
	uint32_t to = recipient(home);
	uint32_t from = to == 0 ? 0 : donor(home, to);
	if (from == 0)
		return;
	home->moved_ns = now_ns;
	const struct weir__cache *cache = &home->heap.cache[from];
	uint32_t give = (uint32_t)(budget_bytes() / MOVE_SHARE / cache->object_bytes) + 1;
	uint32_t least = reserve(from);
	weir__cache_resize(home, from, cache->cap > give + least ? cache->cap - give : least);
}
