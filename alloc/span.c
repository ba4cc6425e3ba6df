/* SPDX-License-Identifier: MIT */
/*
 * span.c: the objects of a heap's spans, and the units that spans are made of.
 *
 * Objects: a bitmap for each span says which are in it. Nothing is written into the objects
 * themselves, so the memory of free ones can be purged, poisoned, or never have been touched. Of
 * the spans that are partly free the fullest serve first: the others may then run empty and become
 * free runs.
 *
 * Units: free runs hang on lists by length (exact to 16 units, then four lists per doubling), and
 * each knows its neighbours through map[] and the descriptors at both its ends, so that they merge
 * when freed.
 *
 * All of it belongs to the heap's owner: no locks and no atomics but for the relaxed stores into
 * map[], which other threads read to find the pool of a block they free.
 */
#include <string.h>

#include "alloc/heap.h"

enum {
	HELD_MIN = 16,	/* units: less is not worth the wake-ups */
	LARGER_MAX = 4, /* classes up, one doubling: for want of memory a block may be half empty */
};

/* ---- Free runs ------------------------------------------------------------------------------ */

/* The list for runs of n units: all in it are at least as long as those of the lists before. */
static unsigned run_bin(uint32_t n)
{
	if (n < 16)
		return n;
	unsigned bit = 31u - (unsigned)__builtin_clz(n);
	return 16u + ((bit - 4u) << 2) + ((n >> (bit - 2)) & 3u);
}

static uint32_t unit_of(const struct weir__home *home, const struct weir__span *span)
{
	return (uint32_t)(span - home->spans);
}

static char *unit_address(const struct weir__home *home, uint32_t unit)
{
	return (char *)home->heap.window + ((size_t)unit << WEIR__UNIT_SHIFT);
}

static void run_link(struct weir__home *home, struct weir__span *run)
{
	unsigned bin = run_bin(run->units);
	run->prev = NULL;
	run->next = home->runs[bin];
	if (run->next != NULL)
		run->next->prev = run;
	home->runs[bin] = run;
	home->run_bins[bin >> 6] |= 1ull << (bin & 63);
	WEIR__ADD(home->dirty_units, run->dirty_units);
	WEIR__ADD(home->kept_units, run->kept_units);
}

static void run_unlink(struct weir__home *home, struct weir__span *run)
{
	unsigned bin = run_bin(run->units);
	if (run->next != NULL)
		run->next->prev = run->prev;
	if (run->prev != NULL)
		run->prev->next = run->next;
	else
		home->runs[bin] = run->next;
	if (home->runs[bin] == NULL)
		home->run_bins[bin >> 6] &= ~(1ull << (bin & 63));
	WEIR__ADD(home->dirty_units, -(uint64_t)run->dirty_units);
	WEIR__ADD(home->kept_units, -(uint64_t)run->kept_units);
}

/* Of the bits [from, from + n): those of one word, and how many they are. */
static uint64_t word_mask(uint32_t from, uint32_t n, uint32_t *ret_step)
{
	uint32_t step = 64 - from % 64;
	if (step > n)
		step = n;
	*ret_step = step;
	return (step == 64 ? ~0ull : (1ull << step) - 1) << (from % 64);
}

static uint32_t bits_count(const uint64_t *bits, uint32_t from, uint32_t n)
{
	uint32_t count = 0, step;
	for (; n > 0; n -= step, from += step)
		count +=
			(uint32_t)__builtin_popcountll(bits[from / 64] & word_mask(from, n, &step));
	return count;
}

static void bits_set(uint64_t *bits, uint32_t from, uint32_t n, bool value)
{
	for (uint32_t step; n > 0; n -= step, from += step) {
		uint64_t mask = word_mask(from, n, &step);
		bits[from / 64] = value ? bits[from / 64] | mask : bits[from / 64] & ~mask;
	}
}

/* What a run has of the OS; home.dirty and home.kept know where. */
struct memory {
	uint32_t dirty_units; /* used since the last purge */
	uint32_t kept_units;  /* that the last purge has left to the kernel; see release() */
	int64_t freed_ns;
};

static struct memory memory_of(const struct weir__span *run)
{
	return (struct memory){ run->dirty_units, run->kept_units, run->freed_ns };
}

/* Describes [unit, unit + units) as a free run, at both ends. */
static struct weir__span *run_make(struct weir__home *home, uint32_t unit, uint32_t units,
				   struct memory memory)
{
	struct weir__span *run = &home->spans[unit];
	run->units = units;
	run->dirty_units = memory.dirty_units;
	run->kept_units = memory.kept_units;
	run->freed_ns = memory.freed_ns;
	home->spans[unit + units - 1].units = units;
	return run;
}

/* The free run that ends just before, or begins at, `unit`; NULL when a span is there. */
static struct weir__span *run_before(struct weir__home *home, uint32_t unit)
{
	if (unit == 0 || weir__unit_pool(weir__unit_at(home, unit - 1)) != 0)
		return NULL;
	return &home->spans[unit - home->spans[unit - 1].units];
}

static struct weir__span *run_at(struct weir__home *home, uint32_t unit)
{
	if (unit >= home->frontier || weir__unit_pool(weir__unit_at(home, unit)) != 0)
		return NULL;
	return &home->spans[unit];
}

/* A run made of two is as old as the part with more memory in it. */
static struct memory joined(struct memory a, struct memory b)
{
	return (struct memory){
		.dirty_units = a.dirty_units + b.dirty_units,
		.kept_units = a.kept_units + b.kept_units,
		.freed_ns = a.dirty_units > b.dirty_units ? a.freed_ns : b.freed_ns,
	};
}

/* They become a free run, with the memory that home.dirty and home.kept say they have. */
static void units_put(struct weir__home *home, uint32_t unit, uint32_t units)
{
	struct memory memory = { bits_count(home->dirty, unit, units),
				 bits_count(home->kept, unit, units), home->now_ns };
	struct weir__span *left = run_before(home, unit);
	if (left != NULL) {
		run_unlink(home, left);
		memory = joined(memory_of(left), memory);
		unit -= left->units;
		units += left->units;
	}
	struct weir__span *right = run_at(home, unit + units);
	if (right != NULL) {
		run_unlink(home, right);
		memory = joined(memory_of(right), memory);
		units += right->units;
	}
	run_link(home, run_make(home, unit, units, memory));
}

/* Frees units that no span has any more. */
static void units_free(struct weir__home *home, uint32_t unit, uint32_t units)
{
	bits_set(home->dirty, unit, units, true);
	bits_set(home->kept, unit, units, false);
	units_put(home, unit, units);
}

/* The first run on lists [bin, end) that is long enough; the lists above `bin` all are. */
static struct weir__span *run_find(struct weir__home *home, uint32_t units)
{
	unsigned bin = run_bin(units);
	for (struct weir__span *run = home->runs[bin]; run != NULL; run = run->next)
		if (run->units >= units)
			return run;
	for (unsigned word = (bin + 1) >> 6; word < 2; word++) {
		uint64_t mask = word == (bin + 1) >> 6 ? ~0ull << ((bin + 1) & 63) : ~0ull;
		uint64_t bits = home->run_bins[word] & mask;
		if (bits != 0)
			return home->runs[(word << 6) + (unsigned)__builtin_ctzll(bits)];
	}
	return NULL;
}

/*
 * The second clock. What is free for the decay time goes back, and is paid for again when it is
 * wanted again. So what was given back lately and is then wanted is regretted: as much as that is
 * held from then on, however old, and the regret fades with a half-life of a minute. A load that
 * comes once leaves nothing behind after the decay time; one that comes every half minute finds its
 * memory where it was.
 */
static void fade(struct weir__home *home)
{
	double age = (double)(home->now_ns - home->regret_ns) / (double)weir__config.regret_ns;
	home->regret_ns = home->now_ns;
	if (age > 0) {
		home->purged_lately *= weir__halved(age);
		home->regretted *= weir__halved(age);
	}
}

static void note_regret(struct weir__home *home, uint32_t clean_units)
{
	if (home->purged_lately < 1 || clean_units == 0)
		return;
	fade(home);
	double n = clean_units < home->purged_lately ? clean_units : home->purged_lately;
	home->purged_lately -= n;
	home->regretted += n;
}

/* Units of free runs that the decay leaves alone. */
static uint64_t held_units(const struct weir__home *home)
{
	bool holds = home->regretted >= HELD_MIN && home->level == WEIR_MEM_NONE;
	return holds ? (uint64_t)home->regretted : 0;
}

/* Cuts `units` off the low end; what remains keeps its age. */
static uint32_t run_take(struct weir__home *home, struct weir__span *run, uint32_t units)
{
	uint32_t unit = unit_of(home, run);
	uint32_t rest = run->units - units;
	struct memory memory = memory_of(run);
	uint32_t dirty_units = bits_count(home->dirty, unit, units);
	note_regret(home, units - dirty_units);
	memory.dirty_units -= dirty_units;
	memory.kept_units -= bits_count(home->kept, unit, units);
	run_unlink(home, run);
	if (rest > 0)
		run_link(home, run_make(home, unit + units, rest, memory));
	return unit;
}

/* Core files get what is in use, in steps: each costs a system call. */
static void dump_up_to_frontier(struct weir__home *home)
{
	enum { STEP_BYTES = 16 << 20 };
	uint32_t units = STEP_BYTES >> WEIR__UNIT_SHIFT;

	if (units < home->frontier - home->dumped)
		units = home->frontier - home->dumped;
	if (units > home->unit_count - home->dumped)
		units = home->unit_count - home->dumped;
	weir__os_dump((char *)home->heap.window + ((size_t)home->dumped << WEIR__UNIT_SHIFT),
		      (size_t)units << WEIR__UNIT_SHIFT, true);
	home->dumped += units;
}

/*
 * Returns the first of `units` units that are now the caller's; UINT32_MAX: the window is full, or
 * the process's limit is reached.
 */
static uint32_t units_alloc(struct weir__home *home, uint32_t units)
{
	struct weir__span *run = run_find(home, units);
	bool grows = run == NULL || run->dirty_units < units;
	if (grows && !weir__within_limit(home, (uint64_t)units << WEIR__UNIT_SHIFT))
		return UINT32_MAX;
	if (run != NULL)
		return run_take(home, run, units);
	if (home->unit_count - home->frontier < units) {
		weir__refusal_note(WEIR__REFUSED_WINDOW);
		return UINT32_MAX;
	}
	uint32_t unit = home->frontier;
	home->frontier += units;
	if (home->frontier > home->dumped)
		dump_up_to_frontier(home);
	return unit;
}

/* ---- Giving back ---------------------------------------------------------------------------- */

/* What is dirty stays, for shortage to take. */
static void leave(struct weir__home *home, uint32_t unit, uint32_t units)
{
	for (uint32_t i = unit; i < unit + units; i++)
		if (bits_count(home->dirty, i, 1) > 0)
			bits_set(home->kept, i, 1, true);
}

/* The run's dirty units from `begin` on were given back, or left. */
static void settle(struct weir__home *home, struct weir__span *run, uint32_t begin)
{
	uint32_t unit = unit_of(home, run);
	uint32_t kept_units = bits_count(home->kept, unit, run->units);
	uint32_t gone = bits_count(home->dirty, begin, unit + run->units - begin);
	bits_set(home->dirty, begin, unit + run->units - begin, false);
	WEIR__ADD(home->dirty_units, -(uint64_t)gone);
	WEIR__ADD(home->kept_units, (uint64_t)kept_units - run->kept_units);
	run->dirty_units -= gone;
	run->kept_units = kept_units;
}

static void purge(struct weir__home *home, uint32_t unit, uint32_t units)
{
	weir__os_purge(unit_address(home, unit), (size_t)units << WEIR__UNIT_SHIFT);
	bits_set(home->kept, unit, units, false);
}

/*
 * What time alone does with [unit, end), as WEIR_MEM_PURGE and WEIR_MEM_HUGE_PAGES say. Giving part
 * of a huge page back would split it, so the ends stay; they go with what is freed next to them, or
 * when memory is short.
 */
static void release(struct weir__home *home, uint32_t unit, uint32_t end)
{
	const uint32_t huge_units = WEIR__HUGE_BYTES >> WEIR__UNIT_SHIFT;
	uint32_t whole = unit, whole_end = end;
	if (weir__config.huge_pages == WEIR__HUGE_ALWAYS) {
		whole = (unit + huge_units - 1) & ~(huge_units - 1);
		whole_end &= ~(huge_units - 1);
		if (whole_end < whole)
			whole_end = whole = unit;
	}
	if (weir__config.purge == WEIR__PURGE_FREE) {
		leave(home, unit, end - unit);
		weir__os_release(unit_address(home, whole), (size_t)(whole_end - whole)
								    << WEIR__UNIT_SHIFT);
	} else {
		leave(home, unit, whole - unit);
		leave(home, whole_end, end - whole_end);
		purge(home, whole, whole_end - whole);
	}
}

/* The unit from which to the end of the run there are so many dirty ones. */
static uint32_t last_dirty(const struct weir__home *home, struct weir__span *run, uint64_t n)
{
	uint32_t unit = unit_of(home, run) + run->units;
	while (unit > unit_of(home, run) && n > 0)
		n -= bits_count(home->dirty, --unit, 1);
	return unit;
}

/* Of one run, at most so many dirty units. Returns how many. */
static uint64_t run_release(struct weir__home *home, struct weir__span *run, uint64_t most)
{
	uint32_t end = unit_of(home, run) + run->units;
	uint32_t begin = run->dirty_units > most ? last_dirty(home, run, most) : unit_of(home, run);
	uint64_t before = run->dirty_units;
	release(home, begin, end);
	settle(home, run, begin);
	home->purged_lately += (double)(before - run->dirty_units);
	return before - run->dirty_units;
}

uint64_t weir__runs_purge(struct weir__home *home, int64_t age_ns, uint64_t units_max)
{
	uint64_t purged = 0;
	fade(home);
	uint64_t held = held_units(home);
	uint64_t most = home->dirty_units > held ? home->dirty_units - held : 0;
	if (most > units_max)
		most = units_max;
	for (unsigned bin = WEIR__RUN_BINS; bin-- > 0 && purged < most;)
		for (struct weir__span *run = home->runs[bin]; run != NULL; run = run->next) {
			if (run->dirty_units == 0 || home->now_ns - run->freed_ns < age_ns)
				continue;
			if (purged < most)
				purged += run_release(home, run, most - purged);
		}
	return purged;
}

void weir__runs_purge_all(struct weir__home *home)
{
	for (unsigned bin = WEIR__RUN_BINS; bin-- > 0;)
		for (struct weir__span *run = home->runs[bin]; run != NULL; run = run->next) {
			if (run->dirty_units == 0 && run->kept_units == 0)
				continue;
			purge(home, unit_of(home, run), run->units);
			settle(home, run, unit_of(home, run));
		}
}

/* When what is held has faded to three quarters of what is there: then a quarter of it goes. */
static int64_t held_due(const struct weir__home *home, uint64_t held)
{
	double halves = 0;
	while ((double)held * weir__halved(halves) > 0.75 * (double)home->dirty_units)
		halves += 0.125;
	return home->now_ns + (int64_t)(halves * (double)weir__config.regret_ns) + 1;
}

int64_t weir__runs_due(const struct weir__home *home, int64_t age_ns)
{
	int64_t due = WEIR__NEVER;
	uint64_t held = held_units(home);
	if (home->dirty_units == 0)
		return due;
	if (home->dirty_units <= held)
		return held_due(home, held);
	for (unsigned bin = 0; bin < WEIR__RUN_BINS; bin++)
		for (const struct weir__span *run = home->runs[bin]; run != NULL; run = run->next)
			if (run->dirty_units > 0 && run->freed_ns + age_ns < due)
				due = run->freed_ns + age_ns;
	return due;
}

/* ---- Spans ---------------------------------------------------------------------------------- */

uint64_t *weir__span_bits(const struct weir__home *home, struct weir__span *span)
{
	if (span->objects <= 64)
		return &span->bits;
	return home->bitmaps + (size_t)unit_of(home, span) * WEIR__BITMAP_WORDS;
}

/* Free objects of it may have memory from here on. */
static void soil(struct weir__home *home, struct weir__span *span)
{
	home->dirty_spans += !span->is_dirty;
	span->is_dirty = true;
	home->soiled_ns = home->now_ns;
}

static void span_link(struct weir__bin *bin, struct weir__span *span, uint8_t list)
{
	span->list = list;
	if (list == WEIR__PARTIAL_LISTS)
		return;
	WEIR__ADD(bin->partial_count[list], 1);
	span->prev = NULL;
	span->next = bin->partial[list];
	if (span->next != NULL)
		span->next->prev = span;
	bin->partial[list] = span;
}

static void span_unlink(struct weir__bin *bin, struct weir__span *span)
{
	if (span->list == WEIR__PARTIAL_LISTS)
		return;
	WEIR__ADD(bin->partial_count[span->list], -1u);
	if (span->next != NULL)
		span->next->prev = span->prev;
	if (span->prev != NULL)
		span->prev->next = span->next;
	else
		bin->partial[span->list] = span->next;
}

/* Moves it to the list its fullness calls for; full spans are on none. */
static void span_relist(struct weir__bin *bin, struct weir__span *span)
{
	uint8_t list = WEIR__PARTIAL_LISTS;
	if (span->free > 0)
		list = (uint8_t)((unsigned)(span->objects - span->free) * WEIR__PARTIAL_LISTS /
				 span->objects);
	if (list != span->list) {
		span_unlink(bin, span);
		span_link(bin, span, list);
	}
}

static void span_fill(struct weir__home *home, struct weir__span *span,
		      const struct weir__pool *pool)
{
	span->units = pool->span_units;
	span->objects = (uint16_t)pool->span_objects;
	span->free = span->objects;
	span->first_word = 0;
	uint64_t *bits = weir__span_bits(home, span);
	uint32_t whole = span->objects / 64;
	memset(bits, 0xff, whole * sizeof(*bits));
	if (span->objects % 64 != 0)
		bits[whole] = (1ull << (span->objects % 64)) - 1;
}

/* Units become a span of the pool: from here on map[] answers for them. */
static struct weir__span *span_begin(struct weir__home *home, uint32_t index, uint32_t unit)
{
	const struct weir__pool *pool = &weir__pools[index];
	struct weir__span *span = &home->spans[unit];
	uintptr_t address = (uintptr_t)unit_address(home, unit);
	span_fill(home, span, pool);
	span->is_dirty = false;
	if (bits_count(home->dirty, unit, pool->span_units) > 0)
		soil(home, span);
	for (uint32_t i = 0; i < pool->span_units; i++) {
		struct weir__unit *entry = weir__unit_at(home, unit + i);
		WEIR__SET(entry->span, address);
		WEIR__SET(entry->key,
			  address + ((size_t)i << WEIR__UNIT_SHIFT) + WEIR__PLACE(index));
	}
	WEIR__ADD(home->span_units, pool->span_units);
	WEIR__ADD(home->bins[index].spans, 1);
	span_link(&home->bins[index], span, 0);
	return span;
}

static struct weir__span *span_new(struct weir__home *home, uint32_t index)
{
	uint32_t unit = units_alloc(home, weir__pools[index].span_units);
	return unit == UINT32_MAX ? NULL : span_begin(home, index, unit);
}

/* An empty span's units go to the free runs; any pool may have them next. */
static void span_end(struct weir__home *home, uint32_t index, struct weir__span *span)
{
	uint32_t unit = unit_of(home, span);
	uint32_t units = span->units;
	weir__span_clean(home, span);
	span_unlink(&home->bins[index], span);
	WEIR__ADD(home->bins[index].spans, -1u);
	WEIR__ADD(home->span_units, -(uint64_t)units);
	for (uint32_t i = 0; i < units; i++)
		WEIR__SET(weir__unit_at(home, unit + i)->key, 0);
	home->heap.newest = NULL; /* may have been in it */
	home->heap.newest_place = 0;
	units_free(home, unit, units);
}

/*
 * Where a span's first n objects are taken: somewhere in its first page, if they all fit there, or
 * the first of all pools would lie in the same sets of a core's cache. Those below them are next.
 */
static uint32_t first_object(const struct weir__home *home, const struct weir__span *span,
			     uint32_t object_bytes, uint32_t n)
{
	enum { PAGE_BYTES = 4096, STEP_BYTES = 23 * 64 };

	if (span->free < span->objects || n * object_bytes >= PAGE_BYTES)
		return 0;
	return unit_of(home, span) * STEP_BYTES % (PAGE_BYTES - n * object_bytes) / object_bytes;
}

/* Up to n of the span's objects, in the order of their addresses. */
static uint32_t span_pull(struct weir__home *home, struct weir__span *span, uint32_t object_bytes,
			  void **ret, uint32_t n)
{
	uint64_t *bits = weir__span_bits(home, span);
	char *base = unit_address(home, unit_of(home, span));
	uint32_t first = first_object(home, span, object_bytes, n);
	uint32_t word = span->first_word + first / 64;
	uint64_t below = (1ull << first % 64) - 1; /* of the first word */
	uint32_t taken = 0;
	while (taken < n && taken < span->free) {
		if ((bits[word] & ~below) == 0) {
			word++;
			below = 0;
			continue;
		}
		uint32_t bit = (uint32_t)__builtin_ctzll(bits[word] & ~below);
		bits[word] &= ~(1ull << bit);
		ret[taken++] = base + (size_t)(word * 64 + bit) * object_bytes;
	}
	if (first == 0)
		span->first_word = (uint16_t)word;
	span->free = (uint16_t)(span->free - taken);
	if (span->free == 0)
		weir__span_clean(home, span);
	return taken;
}

static struct weir__span *fullest(struct weir__bin *bin)
{
	for (unsigned list = WEIR__PARTIAL_LISTS; list-- > 0;)
		if (bin->partial[list] != NULL)
			return bin->partial[list];
	return NULL;
}

uint32_t weir__span_take(struct weir__home *home, uint32_t index, void **ret, uint32_t n)
{
	struct weir__bin *bin = &home->bins[index];
	uint32_t taken = 0;
	while (taken < n) {
		struct weir__span *span = fullest(bin);
		if (span == NULL && taken == 0)
			span = span_new(home, index);
		if (span == NULL)
			break;
		taken += span_pull(home, span, weir__pools[index].object_bytes, ret + taken,
				   n - taken);
		span_relist(bin, span);
	}
	WEIR__ADD(bin->out, taken);
	return taken;
}

void *weir__span_take_aligned(struct weir__home *home, uint32_t index, size_t align)
{
	uint32_t units = weir__pools[index].span_units;
	uint32_t step = (uint32_t)(align >> WEIR__UNIT_SHIFT);
	uint32_t unit = units_alloc(home, units + step - 1);
	if (unit == UINT32_MAX)
		return NULL;
	uint32_t head =
		-(uint32_t)((uintptr_t)unit_address(home, unit) >> WEIR__UNIT_SHIFT) & (step - 1);
	uint32_t tail = step - 1 - head;
	struct weir__span *span = span_begin(home, index, unit + head);
	if (head > 0) /* nobody has touched them meanwhile */
		units_put(home, unit, head);
	if (tail > 0)
		units_put(home, unit + head + units, tail);
	void *block;
	span_pull(home, span, weir__pools[index].object_bytes, &block, 1);
	span_relist(&home->bins[index], span);
	WEIR__ADD(home->bins[index].out, 1);
	return block;
}

bool weir__span_give(struct weir__home *home, void *block)
{
	size_t offset = (uintptr_t)block - home->heap.window;
	uint32_t unit = (uint32_t)(offset >> WEIR__UNIT_SHIFT);
	uint32_t index = weir__unit_pool(weir__unit_at(home, unit));
	uint32_t first = weir__span_first(home, unit);
	uint64_t within = offset - ((size_t)first << WEIR__UNIT_SHIFT);
	uint32_t object =
		(uint32_t)((unsigned __int128)within * weir__pools[index].reciprocal >> 64);
	struct weir__span *span = &home->spans[first];
	uint64_t *bits = weir__span_bits(home, span);
	if ((bits[object / 64] >> (object % 64) & 1) != 0)
		return false;
	bits[object / 64] |= 1ull << (object % 64);
	if (object / 64 < span->first_word)
		span->first_word = (uint16_t)(object / 64);
	span->free++;
	struct weir__bin *bin = &home->bins[index];
	WEIR__ADD(bin->out, (uint64_t)-1);
	if (span->free == span->objects) {
		span_end(home, index, span);
	} else {
		soil(home, span);
		span_relist(bin, span);
	}
	return true;
}

uint32_t weir__span_pool(const struct weir__home *home, const void *block)
{
	const struct weir__unit *unit = weir__unit_of(&home->heap, block);
	uint32_t index = weir__unit_pool(unit);
	if (index == 0)
		return 0;
	const struct weir__pool *pool = &weir__pools[index];
	uint64_t offset = (uintptr_t)block - WEIR__GET(unit->span);
	return offset * pool->reciprocal < pool->valid ? index : 0;
}

/* ---- For compaction ------------------------------------------------------------------------- */

/* Emptier ones come first, and of those that are equally empty the lower one. */
static bool comes_before(uint32_t free, uint32_t unit, const struct weir__sparsest *other)
{
	return free > other->free || (free == other->free && unit < other->unit);
}

struct weir__span *weir__span_sparsest(const struct weir__home *home, uint32_t index,
				       struct weir__sparsest *last)
{
	struct weir__sparsest best = { 0, UINT32_MAX };
	for (struct weir__span *s = home->bins[index].partial[0]; s != NULL; s = s->next) {
		uint32_t unit = unit_of(home, s);
		bool was_there = !comes_before(last->free, last->unit,
					       &(struct weir__sparsest){ s->free, unit });
		if (!was_there && comes_before(s->free, unit, &best))
			best = (struct weir__sparsest){ s->free, unit };
	}
	*last = best;
	return best.unit == UINT32_MAX ? NULL : &home->spans[best.unit];
}

bool weir__span_is_of(const struct weir__home *home, const struct weir__span *span, uint32_t index)
{
	const struct weir__unit *unit = weir__unit_at(home, unit_of(home, span));
	return weir__unit_pool(unit) == index &&
	       weir__span_first(home, unit_of(home, span)) == unit_of(home, span);
}

void *weir__span_used(const struct weir__home *home, struct weir__span *span, uint32_t object)
{
	uint32_t unit = unit_of(home, span);
	if ((weir__span_bits(home, span)[object / 64] >> (object % 64) & 1) != 0)
		return NULL;
	uint32_t index = weir__unit_pool(weir__unit_at(home, unit));
	return unit_address(home, unit) + (size_t)object * weir__pools[index].object_bytes;
}

void *weir__span_take_elsewhere(struct weir__home *home, uint32_t index,
				const struct weir__span *not_here)
{
	struct weir__bin *bin = &home->bins[index];
	for (unsigned list = WEIR__PARTIAL_LISTS; list-- > 0;)
		for (struct weir__span *span = bin->partial[list]; span != NULL;
		     span = span->next) {
			void *object;
			if (span == not_here)
				continue;
			span_pull(home, span, weir__pools[index].object_bytes, &object, 1);
			span_relist(bin, span);
			WEIR__ADD(bin->out, 1);
			return object;
		}
	return NULL;
}

/* ---- When there is nothing else ------------------------------------------------------------- */

/* The largest power of two that divides it: what all objects of a span are aligned to. */
static uint32_t alignment(uint32_t object_bytes)
{
	return object_bytes & -object_bytes;
}

void *weir__span_take_larger(struct weir__home *home, uint32_t index)
{
	uint32_t left = LARGER_MAX;
	uint32_t align = alignment(weir__pools[index].object_bytes);
	if (index > WEIR_CLASS_COUNT)
		return NULL;
	for (uint32_t i = index + 1; left > 0 && i <= WEIR_CLASS_COUNT; i++) {
		if (weir__class_pool(weir_class_size(i - 1)) != i)
			continue; /* a preset does without it */
		left--;
		if (alignment(weir__pools[i].object_bytes) < align)
			continue;
		void *object = weir__span_take_elsewhere(home, i, NULL);
		if (object == NULL)
			continue;
		WEIR__ADD(home->heap.cache[i].allocs, 1);
		weir__count_miss(&home->bins[i]);
		return object;
	}
	return NULL;
}
