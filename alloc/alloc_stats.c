/* SPDX-License-Identifier: MIT */
/*
 * alloc_stats.c: the heaps' counters, summed.
 *
 * Each counter has one writer, its heap's owner, who stores it whole; readers load it relaxed and
 * may be a moment behind. Heaps are never unmapped, so there is nothing to lock. Sums of counters
 * read at different moments can be off by what happened in between: differences are clamped at
 * zero.
 */
#include <stdatomic.h>

#include "alloc/heap.h"

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static void add_pool(const struct weir__home *home, uint32_t index, struct weir_pool_stats *sum)
{
	const struct weir__cache *cache = &home->heap.cache[index];
	const struct weir__bin *bin = &home->bins[index];
	uint64_t count = WEIR__GET(cache->count);
	sum->allocs += WEIR__GET(cache->allocs);
	sum->misses += WEIR__GET(cache->misses);
	sum->overflows += WEIR__GET(bin->overflows);
	sum->in_use += less(WEIR__GET(bin->out), count + WEIR__GET(bin->internal));
	sum->cached += count;
	sum->capacity += WEIR__GET(cache->cap);
	sum->remote_frees += WEIR__GET(bin->remote_frees);
	sum->resizes += WEIR__GET(bin->resizes);
}

static uint32_t homes(void)
{
	return atomic_load_explicit(&weir__home_count, memory_order_acquire);
}

static struct weir_pool_stats sum_of(uint32_t index)
{
	struct weir_pool_stats sum = { .name = weir__pools[index].name,
				       .object_bytes = weir__pools[index].object_bytes };
	for (uint32_t i = 0, n = homes(); i < n; i++)
		if (index < WEIR__GET(weir__homes[i]->bins_end))
			add_pool(weir__homes[i], index, &sum);
	return sum;
}

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

void weir__pool_stats_restart(uint32_t index)
{
	weir__pools[index].before = sum_of(index);
}

size_t weir_pool_stats_get(struct weir_pool_stats *ret, size_t n)
{
	size_t filled = 0;
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX && filled < n; i++) {
		struct weir_pool_stats stats = pool_stats(i);
		if (stats.allocs > 0)
			ret[filled++] = stats;
	}
	return filled;
}

void weir_mem_stats_get(struct weir_mem_stats *ret)
{
	*ret = (struct weir_mem_stats){ 0 };
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX; i++) {
		struct weir_pool_stats stats = pool_stats(i);
		ret->allocs += stats.allocs;
		ret->misses += stats.misses;
		ret->cached_bytes += stats.cached * stats.object_bytes;
		ret->pools += stats.allocs > 0;
	}
	struct weir__stack_counts stacks = { 0 };
	for (uint32_t i = 0, n = homes(); i < n; i++) {
		ret->span_bytes += WEIR__GET(weir__homes[i]->span_units) << WEIR__UNIT_SHIFT;
		ret->span_bytes += WEIR__GET(weir__homes[i]->dirty_units) << WEIR__UNIT_SHIFT;
		weir__stacks_count(weir__homes[i], &stacks);
	}
	ret->span_bytes += weir__large_bytes();
	ret->stack_bytes = stacks.bytes;
	ret->stacks = stacks.in_use;
	ret->stacks_cached = stacks.cached;
	ret->level = (uint64_t)weir_mem_level_get();
	ret->level_raises = atomic_load_explicit(&weir__level_raises, memory_order_relaxed);
	for (unsigned i = 0; i <= WEIR_MEM_CRITICAL; i++)
		ret->compactions += weir__compact_counts.stages[i];
	ret->moved = weir__compact_counts.moved;
	ret->reclaims = weir__compact_counts.reclaims;
	ret->reclaimed_bytes = weir__compact_counts.reclaimed_bytes;
	ret->reclaim_overruns = weir__compact_counts.reclaim_overruns;
	ret->os_maps = atomic_load_explicit(&weir__os_counts.maps, memory_order_relaxed);
	ret->os_purged_bytes =
		atomic_load_explicit(&weir__os_counts.purged_bytes, memory_order_relaxed);
}
