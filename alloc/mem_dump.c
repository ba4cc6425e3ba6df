/* SPDX-License-Identifier: MIT */
/*
 * mem_dump.c: what memory is in use for, said when there is none left.
 *
 * It may be the allocator itself that is out of memory, in the middle of anything, or a signal
 * handler that asks: nothing here allocates, takes a lock or calls stdio. All it reads are counters
 * that other threads load as well, so a figure may be a moment old but no list is ever walked.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"

enum { LINE_BYTES = 256, POOLS_SHOWN = 16, HEAPS_SHOWN = 64 };

_Atomic uint64_t weir__refusals;
_Atomic size_t weir__refused_bytes;
_Atomic uint32_t weir__refusal_cause;

static _Atomic bool dumped; /* for a refusal; once */

static const char *const level_name[] = { "none", "low", "medium", "high", "critical" };
static const char *const cause_name[] = {
	[WEIR__REFUSED_SYSTEM] = "the system gives no more",
	[WEIR__REFUSED_LIMIT] = "the limit is reached",
	[WEIR__REFUSED_WINDOW] = "the address space of its heap is full",
	[WEIR__REFUSED_TEST] = "a test has it fail",
};

/* ---- Lines ---------------------------------------------------------------------------------- */

struct line {
	int fd;
	size_t length;
	char text[LINE_BYTES];
};

static void put_bytes(struct line *line, const char *text, size_t n)
{
	if (n > LINE_BYTES - line->length)
		n = LINE_BYTES - line->length;
	memcpy(line->text + line->length, text, n);
	line->length += n;
}

static void put(struct line *line, const char *text)
{
	put_bytes(line, text, strlen(text));
}

static void put_spaces(struct line *line, size_t n)
{
	for (; n > 0; n--)
		put_bytes(line, " ", 1);
}

/* To the right of a column so wide; wider when it must be. */
static void put_number(struct line *line, uint64_t value, size_t width)
{
	char digits[20];
	size_t n = 0;
	do
		digits[sizeof(digits) - ++n] = (char)('0' + value % 10);
	while ((value /= 10) > 0);
	put_spaces(line, width > n ? width - n : 0);
	put_bytes(line, digits + sizeof(digits) - n, n);
}

static void put_label(struct line *line, const struct weir__pool *pool)
{
	size_t n = 0;
	for (char c; n < sizeof(pool->label) && (c = WEIR__GET(pool->label[n])) != '\0'; n++)
		put_bytes(line, &c, 1);
	put_spaces(line, sizeof(pool->label) - n);
}

static void put_kib(struct line *line, const char *before, uint64_t bytes)
{
	put(line, before);
	put_number(line, bytes >> 10, 0);
	put(line, " KiB");
}

static void begin(struct line *line)
{
	line->length = 0;
	put(line, "weir: memory: ");
}

static void end(struct line *line)
{
	if (line->length == LINE_BYTES)
		line->length--;
	line->text[line->length++] = '\n';
	if (write(line->fd, line->text, line->length) < 0)
		return; /* nobody to tell */
}

/* ---- The process ---------------------------------------------------------------------------- */

static void dump_totals(struct line *line)
{
	uint64_t limit = weir__limit();
	begin(line);
	put_kib(line, "", weir__committed());
	if (limit > 0)
		put_kib(line, " held of ", limit);
	else
		put(line, " held, no limit");
	put_kib(line, "; the process has ", weir__resident_bytes());
	put_kib(line, " resident; blocks above 16 MiB ", weir__large_bytes());
	put(line, "; level ");
	put(line, level_name[weir_mem_level_get()]);
	put(line, "; refused ");
	put_number(line, atomic_load_explicit(&weir__refusals, memory_order_relaxed), 0);
	end(line);
}

static void dump_heap(struct line *line, const struct weir__home *home)
{
	struct weir__stack_counts stacks = { 0 };
	weir__stacks_count(home, &stacks);
	begin(line);
	put(line, "heap ");
	put_number(line, home->id, 0);
	if (WEIR__GET(home->worker) >= 0) {
		put(line, " of worker ");
		put_number(line, (uint64_t)WEIR__GET(home->worker), 0);
	}
	put_kib(line, ": spans ", WEIR__GET(home->span_units) << WEIR__UNIT_SHIFT);
	put_kib(line, ", free ", WEIR__GET(home->dirty_units) << WEIR__UNIT_SHIFT);
	put_kib(line, ", left to the kernel ", WEIR__GET(home->kept_units) << WEIR__UNIT_SHIFT);
	put_kib(line, ", not yet home ",
		atomic_load_explicit(&home->inbox_bytes, memory_order_relaxed));
	put(line, ", stacks ");
	put_number(line, stacks.in_use, 0);
	end(line);
}

/* ---- Pools ---------------------------------------------------------------------------------- */

/* One pool of all heaps. */
struct holding {
	uint64_t bytes; /* of its spans */
	uint64_t spans, used, cached;
	uint64_t fullness[WEIR__PARTIAL_LISTS]; /* of spans that have something free, by quarters */
};

static void add_heap(const struct weir__home *home, uint32_t index, struct holding *sum)
{
	const struct weir__bin *bin = &home->bins[index];
	if (index >= WEIR__GET(home->bins_end))
		return;
	uint64_t out = WEIR__GET(bin->out);
	uint64_t cached = weir__cache_count(&home->heap.cache[index]);
	sum->spans += WEIR__GET(bin->spans);
	sum->cached += cached;
	sum->used += out > cached ? out - cached : 0;
	for (unsigned i = 0; i < WEIR__PARTIAL_LISTS; i++)
		sum->fullness[i] += WEIR__GET(bin->partial_count[i]);
}

static struct holding holding_of(uint32_t index)
{
	struct holding sum = { 0 };
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_acquire);
	for (uint32_t i = 0; i < count; i++)
		add_heap(weir__homes[i], index, &sum);
	sum.bytes = sum.spans * weir__pools[index].span_units << WEIR__UNIT_SHIFT;
	return sum;
}

static void dump_heading(struct line *line)
{
	begin(line);
	put(line, "pool                       KiB    in use    cached  used %   spans:  "
		  "<1/4  <1/2  <3/4    <1  full");
	end(line);
}

static void dump_pool(struct line *line, uint32_t index, const struct holding *sum)
{
	const struct weir__pool *pool = &weir__pools[index];
	uint64_t partial = 0;
	begin(line);
	put_label(line, pool);
	put_number(line, sum->bytes >> 10, 6);
	put_number(line, sum->used, 10);
	put_number(line, sum->cached, 10);
	put_number(line, sum->used * pool->object_bytes * 100 / sum->bytes, 8);
	put_spaces(line, 9);
	for (unsigned i = 0; i < WEIR__PARTIAL_LISTS; i++) {
		put_number(line, sum->fullness[i], 6);
		partial += sum->fullness[i];
	}
	put_number(line, sum->spans > partial ? sum->spans - partial : 0, 6);
	end(line);
}

/* The pool that holds most of those that are no larger than `below`, and come after it. */
static uint32_t largest(uint64_t below, uint32_t after, struct holding *ret)
{
	uint32_t best = 0;
	for (uint32_t i = 1; i <= WEIR__POOLS_MAX; i++) {
		struct holding sum = holding_of(i);
		bool left = sum.bytes < below || (sum.bytes == below && i > after);
		if (sum.bytes == 0 || !left || (best != 0 && sum.bytes <= ret->bytes))
			continue;
		best = i;
		*ret = sum;
	}
	return best;
}

void weir_mem_dump(int fd)
{
	struct line line = { .fd = fd };
	struct holding sum = { .bytes = UINT64_MAX };
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_acquire);
	dump_totals(&line);
	for (uint32_t i = 0; i < count && i < HEAPS_SHOWN; i++)
		dump_heap(&line, weir__homes[i]);
	dump_heading(&line);
	uint32_t index = 0;
	for (unsigned shown = 0; shown < POOLS_SHOWN; shown++) {
		index = largest(sum.bytes, index, &sum);
		if (index == 0)
			break;
		dump_pool(&line, index, &sum);
	}
}

/* ---- The first refusal ---------------------------------------------------------------------- */

static void dump_refusal(size_t bytes)
{
	struct line line = { .fd = STDERR_FILENO };
	begin(&line);
	put_number(&line, bytes, 0);
	put(&line, " bytes refused: ");
	put(&line, cause_name[atomic_load_explicit(&weir__refusal_cause, memory_order_relaxed)]);
	end(&line);
	weir_mem_dump(STDERR_FILENO);
}

static void keep_largest(size_t bytes)
{
	size_t largest = atomic_load_explicit(&weir__refused_bytes, memory_order_relaxed);

	while (bytes > largest &&
	       !atomic_compare_exchange_weak_explicit(&weir__refused_bytes, &largest, bytes,
						      memory_order_relaxed, memory_order_relaxed))
		;
}

void *weir__refused(size_t bytes)
{
	struct weir__home *home = weir__home_self();
	if (home != NULL && home->reclaiming)
		return NULL; /* a rule, not a want of memory */
	atomic_fetch_add_explicit(&weir__refusals, 1, memory_order_relaxed);
	keep_largest(bytes);
	if (weir__config.oom == WEIR__OOM_ERROR ||
	    atomic_exchange_explicit(&dumped, true, memory_order_relaxed))
		return NULL;
	dump_refusal(bytes);
	if (weir__config.oom == WEIR__OOM_ABORT)
		abort();
	return NULL;
}
