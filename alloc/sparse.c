/* SPDX-License-Identifier: MIT */
/*
 * sparse.c: memory of spans in which few objects are in use.
 *
 * A span's units go to the free runs when its last object is free. Until then one object of 24 KiB
 * would keep half a megabyte that the span was made of, or that others in it had used. So the
 * whole pages in which nothing is in use go back to the OS; they stay the span's, and are new when
 * its objects go out again.
 *
 * Relies on span.c for which spans may have such pages: is_dirty, set where an object comes back,
 * cleared here and where none is left. Nobody reads a free object's memory, and what says that it
 * is free lies elsewhere.
 *
 * Only when no span has got anything back for the decay time: a span whose objects come and go
 * would be paid for each time. Costs traffic a store for each object that goes to its span.
 */
#include "alloc/heap.h"

enum {
	PAGE_SHIFT = 12,
	UNITS_MAX = 8, /* of a span that holds more than one object */
	PAGES_MAX = UNITS_MAX << (WEIR__UNIT_SHIFT - PAGE_SHIFT),
	PAGES_LEAST = 4,       /* of a span: less is not worth the page faults */
	PAGES_PER_STEP = 1024, /* a millisecond's worth, as of free runs */
	SPANS_PER_STEP = 256,
};

/* A bit for each page of a span. */
struct pages {
	uint64_t word[PAGES_MAX / 64];
};

static bool has_page(const struct pages *pages, uint32_t page)
{
	return pages->word[page / 64] >> (page % 64) & 1;
}

/* The pages that an object in use lies in. */
static void find_used(const struct weir__home *home, struct weir__span *span, size_t object_bytes,
		      struct pages *ret)
{
	const uint64_t *free = weir__span_bits(home, span);

	*ret = (struct pages){ { 0 } };
	for (uint32_t i = 0; i < span->objects; i++) {
		if (free[i / 64] >> (i % 64) == UINT64_MAX >> (i % 64))
			i |= 63; /* nor any other of the word */
		if (i >= span->objects || free[i / 64] >> (i % 64) & 1)
			continue;
		size_t begin = i * object_bytes, last = begin + object_bytes - 1;
		for (size_t page = begin >> PAGE_SHIFT; page <= last >> PAGE_SHIFT; page++)
			ret->word[page / 64] |= (uint64_t)1 << (page % 64);
	}
}

/* Returns how many pages the OS was given. */
static uint32_t span_purge(struct weir__home *home, struct weir__span *span, size_t object_bytes)
{
	uint32_t unit = (uint32_t)(span - home->spans), pages = 0;
	uint32_t end = span->units << (WEIR__UNIT_SHIFT - PAGE_SHIFT);
	char *base = (char *)home->heap.window + ((size_t)unit << WEIR__UNIT_SHIFT);
	struct pages used;

	find_used(home, span, object_bytes, &used);
	for (uint32_t i = 0; i < end; i++)
		pages += !has_page(&used, i);
	if (pages < PAGES_LEAST)
		return 0;
	for (uint32_t i = 0, n; i < end; i += n + 1) {
		for (n = 0; i + n < end && !has_page(&used, i + n);)
			n++;
		if (n > 0)
			weir__os_purge(base + ((size_t)i << PAGE_SHIFT), (size_t)n << PAGE_SHIFT);
	}
	return pages;
}

/* What one step may still do. */
struct step {
	uint32_t pages, spans;
};

static bool bin_purge(struct weir__home *home, uint32_t index, struct step *left)
{
	const struct weir__bin *bin = &home->bins[index];
	size_t object_bytes = weir__pools[index].object_bytes;

	for (unsigned list = 0; list < WEIR__PARTIAL_LISTS; list++)
		for (struct weir__span *s = bin->partial[list]; s != NULL; s = s->next) {
			if (!s->is_dirty)
				continue;
			if (left->spans == 0 || left->pages == 0)
				return true;
			uint32_t pages = span_purge(home, s, object_bytes);
			left->pages -= pages < left->pages ? pages : left->pages;
			left->spans--;
			weir__span_clean(home, s);
		}
	return false;
}

bool weir__sparse_purge(struct weir__home *home)
{
	struct step left = { PAGES_PER_STEP, SPANS_PER_STEP };
	bool more = false;

	for (uint32_t i = 1; i < home->bins_end && home->dirty_spans > 0 && !more; i++)
		more = bin_purge(home, i, &left);
	return more;
}

/* Part of a huge page would split it; and what may stay until the kernel wants it may stay here. */
int64_t weir__sparse_due(const struct weir__home *home, int64_t age_ns)
{
	if (home->dirty_spans == 0 || weir__config.huge_pages == WEIR__HUGE_ALWAYS ||
	    weir__config.purge == WEIR__PURGE_FREE)
		return WEIR__NEVER;
	return home->soiled_ns + age_ns;
}
