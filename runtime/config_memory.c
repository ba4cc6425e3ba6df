/* SPDX-License-Identifier: MIT */
/*
 * config_memory.c: what of the options concerns the allocator.
 *
 * The allocator knows no table of options and reads no environment; libweir-malloc.so, which is the
 * allocator under another name, takes this file and config.c along and nothing else of the runtime.
 */
#include <errno.h>
#include <string.h>

#include <weir/runtime.h>

#include "alloc/alloc_internal.h"
#include "runtime/config.h"

/* What the option table has found good. */
static void sizes_of(const struct weir__config *config, struct weir__alloc_config *pools)
{
	const char *classes = (const char *)(uintptr_t)config->pool_classes;
	const char *reserves = (const char *)(uintptr_t)config->pool_reserves;

	(void)!weir__classes_parse(classes ? classes : "geom4", &pools->classes);
	(void)!weir__reserves_parse(reserves ? reserves : "none", &pools->reserves);
}

static void pools_of(const struct weir__config *config, struct weir__alloc_config *pools)
{
	pools->unpooled = (uint32_t)config->pool;
	pools->adapt = (uint32_t)config->pool_adapt;
	pools->grow_percent = (uint32_t)config->pool_grow;
	pools->shrink_percent = (uint32_t)config->pool_shrink;
	pools->band_percent = (uint32_t)config->pool_band;
	pools->grow_hit_percent = (uint32_t)config->pool_grow_hit;
	pools->grow_pressure_percent = (uint32_t)config->pool_grow_pressure;
	pools->shrink_hit_percent = (uint32_t)config->pool_shrink_hit;
	pools->debug = (uint32_t)config->mem_debug;
	pools->reserve = (uint32_t)config->pool_reserve;
	pools->worker_bytes = config->pool_worker_bytes;
	pools->purge = (uint32_t)config->mem_purge;
	pools->huge_pages = (uint32_t)config->mem_huge_pages;
	pools->numa = (uint32_t)config->mem_numa;
	pools->guard_bytes = config->mem_guard_bytes;
	pools->mem_limit = config->mem_limit;
	pools->oom = (uint32_t)config->mem_oom;
	pools->epoch_ns = (int64_t)config->pool_epoch_ms * WEIR_MS;
	pools->halflife_ns = (int64_t)config->pool_halflife_ms * WEIR_MS;
	pools->dwell_ns = (int64_t)config->pool_dwell_ms * WEIR_MS;
	pools->shrink_idle_ns = (int64_t)config->pool_shrink_idle_ms * WEIR_MS;
	pools->decay_ns = (int64_t)config->mem_decay_ms * WEIR_MS;
	pools->regret_ns = (int64_t)config->mem_halflife_ms * WEIR_MS;
}

int weir__config_apply_memory(const struct weir__config *config, FILE *err)
{
	struct weir__alloc_config pools, current;

	weir__alloc_config_get(&current);
	pools = current;
	pools_of(config, &pools);
	sizes_of(config, &pools);
	if (memcmp(&pools, &current, sizeof pools) == 0)
		return 0;
	int result = weir__alloc_configure(&pools);
	if (result == -EINVAL)
		fprintf(err,
			"weir: WEIR_POOL_BAND_PERCENT=%u: want 5 %% more than "
			"WEIR_POOL_GROW_PERCENT and than 100 / WEIR_POOL_SHRINK_PERCENT\n",
			pools.band_percent);
	if (result == -EBUSY)
		fprintf(err, "weir: WEIR_MEM_DEBUG and WEIR_POOL_CLASSES cannot change once "
			     "memory has been allocated\n");
	return result;
}
