/* SPDX-License-Identifier: MIT */
/*
 * alloc_text.c: the statistics as text: OpenMetrics for what scrapes, JSON for everything else.
 *
 * Both are made from the same tables, of a pool's figures, a heap's, the process's and a stage's,
 * so that a new figure is one line here. OpenMetrics wants all samples of a family together: it
 * walks heaps and pools once for each figure and keeps nothing, so that the memory it takes does
 * not depend on how many there are; what is counted later than another figure comes before it in
 * the table. Pools may share a name and heaps change hands; numbers make their labels unique.
 */
#include <errno.h>
#include <string.h>

#include "alloc/heap.h"

enum type { counter, gauge };

struct figure {
	const char *name;
	const char *text;
	size_t offset; /* of a uint64_t or size_t */
	enum type type;
};

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "figures are read as uint64_t");

/* The types are those of OpenMetrics. */
/* clang-format off */
#define FIGURE(of, field, type, text) \
	{ #field, text, offsetof(struct weir_##of##_stats, field), type }

static const struct figure pool_figures[] = {
	FIGURE(pool, misses,        counter, "Objects handed out that the cache could not serve."),
	FIGURE(pool, allocs,        counter, "Objects handed out."),
	FIGURE(pool, overflows,     counter, "Frees that found the cache full."),
	FIGURE(pool, remote_frees,  counter, "Objects freed by a thread that did not own them."),
	FIGURE(pool, resizes,       counter, "Times a cache's capacity has changed."),
	FIGURE(pool, sampled,       counter, "Requests whose exact size was seen."),
	FIGURE(pool, sampled_bytes, counter, "Bytes these have asked for."),
	FIGURE(pool, object_bytes,  gauge,   "Bytes of an object."),
	FIGURE(pool, in_use,        gauge,   "Objects out now."),
	FIGURE(pool, peak,          gauge,   "Most objects out at once."),
	FIGURE(pool, cached,        gauge,   "Objects free in the cache."),
	FIGURE(pool, capacity,      gauge,   "Objects the cache may hold."),
	FIGURE(pool, demand,        gauge,   "Objects the cache would need, by remembered demand."),
};

static const struct figure heap_figures[] = {
	FIGURE(heap, remote_sent,    counter, "Blocks of other heaps that its thread has freed."),
	FIGURE(heap, span_bytes,     gauge,   "Bytes of spans and of free runs that own memory."),
	FIGURE(heap, free_bytes,     gauge,   "Of those, in no span."),
	FIGURE(heap, kept_bytes,     gauge,   "Beside those, left to the kernel to take."),
	FIGURE(heap, cached_bytes,   gauge,   "Bytes free in caches."),
	FIGURE(heap, capacity_bytes, gauge,   "Bytes free in caches if all were full."),
	FIGURE(heap, waiting_bytes,  gauge,   "Bytes freed by others, not yet taken home."),
	FIGURE(heap, stacks,         gauge,   "Task stacks in use."),
	FIGURE(heap, stacks_cached,  gauge,   "Task stacks free, warm."),
};

static const struct figure mem_figures[] = {
	FIGURE(mem, allocated_bytes,  counter, "Bytes in blocks handed out."),
	FIGURE(mem, resident_bytes,   gauge,   "Resident bytes of the whole process."),
	FIGURE(mem, large_bytes,      gauge,   "Bytes of blocks above the largest class."),
	FIGURE(mem, guarded,          counter, "Blocks allocated between guard pages."),
	FIGURE(mem, os_maps,          counter, "mmap calls."),
	FIGURE(mem, os_purged_bytes,  counter, "Bytes that were there, given back."),
	FIGURE(mem, level,            gauge,   "Memory pressure: from 0, none, to 4, critical."),
	FIGURE(mem, level_raises,     counter, "Times the level went up."),
	FIGURE(mem, stalls,           counter, "Times the kernel told of waits for memory."),
	FIGURE(mem, moved,            counter, "Objects of movable pools that changed place."),
	FIGURE(mem, reclaims,         counter, "Times a reclaimer was asked."),
	FIGURE(mem, reclaimed_bytes,  counter, "Bytes these have freed, measured."),
	FIGURE(mem, reclaim_overruns, counter, "Times one took longer than 50 us."),
	FIGURE(mem, refusals,         counter, "Allocations refused for want of memory."),
};

static const struct figure stage_figures[] = {
	FIGURE(mem_stage, runs,           counter, "Times the stage of a level was run."),
	FIGURE(mem_stage, ns,             counter, "Nanoseconds spent in it."),
	FIGURE(mem_stage, returned_bytes, counter, "Bytes that were there, given back by it."),
};
/* clang-format on */

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static const char *const level_name[] = { "none", "low", "medium", "high", "critical" };

static unsigned long long value(const void *stats, const struct figure *figure)
{
	uint64_t n;
	memcpy(&n, (const char *)stats + figure->offset, sizeof(n));
	return n;
}

static int end(FILE *out)
{
	return fflush(out) != 0 || ferror(out) ? -EIO : 0;
}

/* Bytes of the UTF-8 character that begins there; 0: none does. */
static size_t character_bytes(const unsigned char *at)
{
	if (at[0] < 0x80)
		return 1;
	if (at[0] < 0xc2 || at[0] > 0xf4)
		return 0;
	size_t n = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
	for (size_t i = 1; i < n; i++)
		if ((at[i] & 0xc0) != 0x80) /* its end, maybe */
			return 0;
	/* longer than it must be, half of a pair, or beyond the last */
	bool is_none = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
		       (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f);
	return is_none ? 0 : n;
}

/*
 * Between quotes. Both formats are UTF-8 and escape alike; what is none, and control characters,
 * are not worth more than a '?'.
 */
static void write_quoted(FILE *out, const char *text)
{
	fputc('"', out);
	for (size_t n; *text != '\0'; text += n > 0 ? n : 1) {
		n = character_bytes((const unsigned char *)text);
		if (*text == '"' || *text == '\\')
			fputc('\\', out);
		if (n == 0 || (unsigned char)*text < ' ')
			fputc('?', out);
		else
			fwrite(text, 1, n, out);
	}
	fputc('"', out);
}

/* A typed pool's name is its owner's, who may take it back once the pool is freed. */
static void write_pool_name(FILE *out, uint32_t index)
{
	char name[64];
	pthread_mutex_lock(&weir__heaps_lock);
	snprintf(name, sizeof(name), "%s", weir__pools[index].name);
	pthread_mutex_unlock(&weir__heaps_lock);
	write_quoted(out, name);
}

/* ---- OpenMetrics ---------------------------------------------------------------------------- */

static void write_family(FILE *out, const char *prefix, const struct figure *figure)
{
	bool counts = figure->type == counter;
	fprintf(out, "# TYPE weir_%s_%s %s\n# HELP weir_%s_%s %s\n", prefix, figure->name,
		counts ? "counter" : "gauge", prefix, figure->name, figure->text);
}

static const char *suffix(const struct figure *figure)
{
	return figure->type == counter ? "_total" : "";
}

static void write_pools(FILE *out, const struct figure *figure, size_t heaps)
{
	struct weir_pool_stats stats;
	write_family(out, "pool", figure);
	for (size_t heap = 0; heap < heaps; heap++)
		for (uint32_t i = 1; i <= WEIR__POOLS_MAX; i++) {
			if (!weir__heap_pool_stats(heap, i, &stats))
				continue;
			fprintf(out, "weir_pool_%s%s{heap=\"%zu\",id=\"%u\",pool=", figure->name,
				suffix(figure), heap, i);
			write_pool_name(out, i);
			fprintf(out, "} %llu\n", value(&stats, figure));
		}
}

static void write_heaps(FILE *out, const struct figure *figure, size_t heaps)
{
	struct weir_heap_stats stats;
	write_family(out, "heap", figure);
	for (size_t heap = 0; weir_heap_stats_get(heap, &stats) == 0 && heap < heaps; heap++)
		fprintf(out, "weir_heap_%s%s{heap=\"%zu\"} %llu\n", figure->name, suffix(figure),
			heap, value(&stats, figure));
}

/* Not a label of everything: a heap may change hands, and its series would break. */
static void write_workers(FILE *out, size_t heaps)
{
	static const struct figure figure = { "worker", "Whose heap it is; -1: no worker's.", 0,
					      gauge };
	struct weir_heap_stats stats;
	write_family(out, "heap", &figure);
	for (size_t heap = 0; weir_heap_stats_get(heap, &stats) == 0 && heap < heaps; heap++)
		fprintf(out, "weir_heap_worker{heap=\"%zu\"} %d\n", heap, stats.worker);
}

/* Time is in seconds there, whose point is a comma in some locales. */
static void write_stage(FILE *out, unsigned long long n, bool is_time)
{
	if (is_time)
		fprintf(out, "%llu.%09llu\n", n / 1000000000, n % 1000000000);
	else
		fprintf(out, "%llu\n", n);
}

static void write_stages(FILE *out, const struct weir_mem_stats *stats)
{
	for (unsigned i = 0; i < COUNT(stage_figures); i++) {
		struct figure figure = stage_figures[i];
		bool is_time = strcmp(figure.name, "ns") == 0;
		if (is_time)
			figure.name = "seconds", figure.text = "Time spent in it.";
		write_family(out, "mem_stage", &figure);
		for (unsigned level = WEIR_MEM_MEDIUM; level <= WEIR_MEM_CRITICAL; level++) {
			fprintf(out, "weir_mem_stage_%s_total{level=\"%s\"} ", figure.name,
				level_name[level]);
			write_stage(out, value(&stats->stages[level], &figure), is_time);
		}
	}
}

int weir_mem_write_openmetrics(FILE *out)
{
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	for (unsigned i = 0; i < COUNT(mem_figures); i++) {
		write_family(out, "mem", &mem_figures[i]);
		fprintf(out, "weir_mem_%s%s %llu\n", mem_figures[i].name, suffix(&mem_figures[i]),
			value(&stats, &mem_figures[i]));
	}
	write_stages(out, &stats);
	write_workers(out, stats.heaps);
	for (unsigned i = 0; i < COUNT(heap_figures); i++)
		write_heaps(out, &heap_figures[i], stats.heaps);
	for (unsigned i = 0; i < COUNT(pool_figures); i++)
		write_pools(out, &pool_figures[i], stats.heaps);
	return end(out);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void write_members(FILE *out, const void *stats, const struct figure *figures, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s\"%s\":%llu", i > 0 ? "," : "", figures[i].name,
			value(stats, &figures[i]));
}

static void write_json_stages(FILE *out, const struct weir_mem_stats *stats)
{
	fputs(",\"stages\":{", out);
	for (unsigned level = WEIR_MEM_MEDIUM; level <= WEIR_MEM_CRITICAL; level++) {
		fprintf(out, "%s\"%s\":{", level > WEIR_MEM_MEDIUM ? "," : "", level_name[level]);
		write_members(out, &stats->stages[level], stage_figures, COUNT(stage_figures));
		fputc('}', out);
	}
	fputc('}', out);
}

static void write_json_pools(FILE *out, size_t heap)
{
	struct weir_pool_stats stats;
	const char *separator = "";
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX; i++) {
		if (!weir__heap_pool_stats(heap, i, &stats))
			continue;
		fprintf(out, "%s\n{\"id\":%u,\"pool\":", separator, i);
		write_pool_name(out, i);
		fputc(',', out);
		write_members(out, &stats, pool_figures, COUNT(pool_figures));
		fputc('}', out);
		separator = ",";
	}
}

int weir_mem_write_json(FILE *out)
{
	struct weir_mem_stats stats;
	struct weir_heap_stats heap_stats;
	weir_mem_stats_get(&stats);
	fputc('{', out);
	write_members(out, &stats, mem_figures, COUNT(mem_figures));
	write_json_stages(out, &stats);
	fputs(",\"heaps\":[", out);
	for (size_t heap = 0; weir_heap_stats_get(heap, &heap_stats) == 0; heap++) {
		fprintf(out, "%s\n{\"heap\":%zu,\"worker\":%d,", heap > 0 ? "," : "", heap,
			heap_stats.worker);
		write_members(out, &heap_stats, heap_figures, COUNT(heap_figures));
		fputs(",\"pools\":[", out);
		write_json_pools(out, heap);
		fputs("]}", out);
	}
	fputs("]}\n", out);
	return end(out);
}
