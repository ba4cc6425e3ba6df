/* SPDX-License-Identifier: MIT */
/*
 * alloc_stats.c: the heaps' counters, summed.
 *
 * Each counter has one writer, its heap's owner, who stores it whole; readers load it relaxed and
 * may be a moment behind. Heaps are never unmapped, so there is nothing to lock. Sums of counters
 * read at different moments can be off by what happened in between: differences are clamped at
 * zero.
 */
#include <errno.h>
#include <stdatomic.h>

#include "alloc/heap.h"

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t more(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint32_t homes(void)
{
	return atomic_load_explicit(&weir__home_count, memory_order_acquire);
}

/* ---- Pools ---------------------------------------------------------------------------------- */

static void add_pool(const struct weir__home *home, uint32_t index, struct weir_pool_stats *sum)
{
	const struct weir__cache *cache = &home->heap.cache[index];
	const struct weir__bin *bin = &home->bins[index];
	if (index >= WEIR__GET(home->bins_end))
		return;
	uint64_t count = weir__cache_count(cache);
	uint64_t in_use = less(WEIR__GET(bin->out), count + WEIR__GET(bin->internal));
	sum->misses += weir__misses(bin);
	sum->allocs += WEIR__GET(cache->allocs);
	sum->overflows += WEIR__GET(bin->overflows);
	sum->in_use += in_use;
	sum->peak += more(WEIR__GET(bin->peak), in_use);
	sum->cached += count;
	sum->capacity += WEIR__GET(cache->cap);
	sum->demand += WEIR__GET(bin->need);
	sum->remote_frees += WEIR__GET(bin->remote_frees);
	sum->resizes += WEIR__GET(bin->resizes);
	sum->sampled += WEIR__GET(bin->asked);
	sum->sampled_bytes += WEIR__GET(bin->asked_bytes);
}

static struct weir_pool_stats empty_sum(uint32_t index)
{
	return (struct weir_pool_stats){ .name = WEIR__GET(weir__pools[index].name),
					 .object_bytes =
						 WEIR__GET(weir__pools[index].object_bytes) };
}

static struct weir_pool_stats sum_of(uint32_t index)
{
	struct weir_pool_stats sum = empty_sum(index);
	for (uint32_t i = 0, n = homes(); i < n; i++)
		add_pool(weir__homes[i], index, &sum);
	return sum;
}

/* What the pools that had the index before have counted does not count. */
static struct weir_pool_stats pool_stats(uint32_t index)
{
	struct weir_pool_stats sum = sum_of(index);
	const struct weir_pool_stats *before = &weir__pools[index].before;
	sum.allocs = less(sum.allocs, before->allocs);
	sum.misses = less(sum.misses, before->misses);
	sum.overflows = less(sum.overflows, before->overflows);
	sum.remote_frees = less(sum.remote_frees, before->remote_frees);
	sum.resizes = less(sum.resizes, before->resizes);
	return sum;
}

/* Of pools whose index another has got since. Under the heaps lock. */
static struct {
	uint64_t allocs, misses, bytes;
} gone;

void weir__pool_stats_restart(uint32_t index)
{
	struct weir_pool_stats last = pool_stats(index);
	gone.allocs += last.allocs;
	gone.misses += last.misses;
	gone.bytes += last.allocs * last.object_bytes;
	weir__pools[index].before = sum_of(index);
}

size_t weir_pool_stats_get(struct weir_pool_stats *ret, size_t n)
{
	size_t filled = 0;
	pthread_mutex_lock(&weir__heaps_lock); /* a pool may be made or freed meanwhile */
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX && filled < n; i++) {
		struct weir_pool_stats stats = pool_stats(i);
		if (stats.allocs > 0)
			ret[filled++] = stats;
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	return filled;
}

bool weir__heap_pool_stats(size_t heap, uint32_t index, struct weir_pool_stats *ret)
{
	struct weir_pool_stats sum = empty_sum(index);
	if (heap < homes())
		add_pool(weir__homes[heap], index, &sum);
	*ret = sum;
	return sum.allocs > 0 || sum.in_use > 0;
}

int weir_heap_pool_stats_get(size_t heap, struct weir_pool_stats *ret, size_t n)
{
	size_t filled = 0;
	if (heap >= homes())
		return -EINVAL;
	pthread_mutex_lock(&weir__heaps_lock);
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX && filled < n; i++)
		filled += weir__heap_pool_stats(heap, i, &ret[filled]);
	pthread_mutex_unlock(&weir__heaps_lock);
	return (int)filled;
}

/* ---- Heaps ---------------------------------------------------------------------------------- */

int weir_heap_stats_get(size_t heap, struct weir_heap_stats *ret)
{
	if (heap >= homes())
		return -EINVAL;
	struct weir__home *home = weir__homes[heap];
	struct weir__stack_counts stacks = { 0 };
	weir__stacks_count(home, &stacks);
	uint64_t free_units = WEIR__GET(home->dirty_units);
	*ret = (struct weir_heap_stats){
		.worker = WEIR__GET(home->worker),
		.attached = atomic_load_explicit(&home->owned, memory_order_relaxed) != 0,
		.span_bytes = (WEIR__GET(home->span_units) + free_units) << WEIR__UNIT_SHIFT,
		.free_bytes = free_units << WEIR__UNIT_SHIFT,
		.kept_bytes = WEIR__GET(home->kept_units) << WEIR__UNIT_SHIFT,
		.capacity_bytes = WEIR__GET(home->cap_bytes),
		.remote_sent = WEIR__GET(home->remote_sent),
		.waiting_bytes = atomic_load_explicit(&home->inbox_bytes, memory_order_relaxed),
		.stacks = stacks.in_use,
		.stacks_cached = stacks.cached,
	};
	pthread_mutex_lock(&weir__heaps_lock);
	for (uint32_t i = 1; i < WEIR__GET(home->bins_end); i++) {
		struct weir_pool_stats pool;
		(void)weir__heap_pool_stats(heap, i, &pool);
		ret->allocs += pool.allocs;
		ret->misses += pool.misses;
		ret->cached_bytes += pool.cached * pool.object_bytes;
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	return 0;
}

/* ---- The process ---------------------------------------------------------------------------- */

static void add_heaps(struct weir_mem_stats *ret)
{
	struct weir__stack_counts stacks = { 0 };
	ret->heaps = homes();
	for (size_t i = 0; i < ret->heaps; i++) {
		const struct weir__home *home = weir__homes[i];
		uint64_t free_bytes = WEIR__GET(home->dirty_units) << WEIR__UNIT_SHIFT;
		ret->span_bytes += WEIR__GET(home->span_units) << WEIR__UNIT_SHIFT;
		ret->span_bytes += free_bytes;
		ret->free_bytes += free_bytes;
		ret->kept_bytes += WEIR__GET(home->kept_units) << WEIR__UNIT_SHIFT;
		ret->capacity_bytes += WEIR__GET(home->cap_bytes);
		weir__stacks_count(home, &stacks);
	}
	ret->large_bytes = weir__large_bytes();
	ret->span_bytes += ret->large_bytes;
	ret->stack_bytes = stacks.bytes;
	ret->stacks = stacks.in_use;
	ret->stacks_cached = stacks.cached;
}

static void add_pressure(struct weir_mem_stats *ret)
{
	const struct weir__compact_counts *counts = &weir__compact_counts;
	ret->level = (uint64_t)weir_mem_level_get();
	ret->level_raises = atomic_load_explicit(&weir__level_raises, memory_order_relaxed);
	for (unsigned i = 0; i <= WEIR_MEM_CRITICAL; i++) {
		ret->stages[i].runs = counts->stages[i].runs;
		ret->stages[i].ns = counts->stages[i].ns;
		ret->stages[i].returned_bytes = counts->stages[i].returned_bytes;
		ret->compactions += ret->stages[i].runs;
	}
	ret->stalls = atomic_load_explicit(&weir__stalls, memory_order_relaxed);
	ret->moved = counts->moved;
	ret->reclaims = counts->reclaims;
	ret->reclaimed_bytes = counts->reclaimed_bytes;
	ret->reclaim_overruns = counts->reclaim_overruns;
}

void weir_mem_stats_get(struct weir_mem_stats *ret)
{
	*ret = (struct weir_mem_stats){ 0 };
	pthread_mutex_lock(&weir__heaps_lock);
	ret->allocs = gone.allocs;
	ret->misses = gone.misses;
	ret->allocated_bytes = gone.bytes;
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX; i++) {
		struct weir_pool_stats stats = pool_stats(i);
		ret->allocs += stats.allocs;
		ret->misses += stats.misses;
		ret->allocated_bytes += stats.allocs * stats.object_bytes;
		ret->cached_bytes += stats.cached * stats.object_bytes;
		ret->pools += stats.allocs > 0;
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	add_heaps(ret);
	add_pressure(ret);
	ret->resident_bytes = weir__resident_bytes();
	ret->guarded = weir__guard_samples();
	ret->refusals = atomic_load_explicit(&weir__refusals, memory_order_relaxed);
	ret->os_maps = atomic_load_explicit(&weir__os_counts.maps, memory_order_relaxed);
	ret->os_purged_bytes =
		atomic_load_explicit(&weir__os_counts.purged_bytes, memory_order_relaxed);
}
