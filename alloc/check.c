/* SPDX-License-Identifier: MIT */
/*
 * check.c: debug levels: what is remembered of every block, and what is checked when it comes back.
 *
 *   1  whether it is out, and the size asked for: a block freed twice or with another size
 *   2  a pattern behind its end, and in it while free; freed blocks wait before they are used again
 *   3  how it was allocated and freed, and from that a report of what was never freed, at the end
 *      of the process too
 *
 * A note of 8 bytes for each object lies in an array beside the window, by unit and object, as the
 * bitmaps do. The level is fixed before the first heap; from level 1 on every call takes the slow
 * path. What is found is reported, counted, and the block kept out of circulation: nothing aborts.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"

enum {
	FREED_BYTE = 0xdf,
	FRESH_BYTE = 0xd0,
	NOTES_PER_UNIT = WEIR__BITMAP_WORDS * 64,
	LEAKS_SHOWN = 40,
};

size_t weir__notes_bytes(size_t units)
{
	return units * NOTES_PER_UNIT * sizeof(struct weir__note);
}

static struct weir__note *note_of(const struct weir__home *home, const void *block)
{
	size_t offset = (uintptr_t)block - home->heap.window;
	uint32_t unit = (uint32_t)(offset >> WEIR__UNIT_SHIFT);
	uint32_t first = weir__span_first(home, unit);
	uint64_t within = offset - ((size_t)first << WEIR__UNIT_SHIFT);
	uint64_t reciprocal = weir__pools[weir__unit_pool(weir__unit_at(home, unit))].reciprocal;
	uint32_t object = (uint32_t)((unsigned __int128)within * reciprocal >> 64);
	return &home->notes[(size_t)first * NOTES_PER_UNIT + object];
}

/* Not zero, and not the same in every process. */
static unsigned char canary(void)
{
	return (unsigned char)((uintptr_t)&weir__heap_none >> 12) | 1;
}

static bool is_filled(const unsigned char *p, size_t n, unsigned char byte)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != byte)
			return false;
	return true;
}

/* ---- Coming and going ----------------------------------------------------------------------- */

size_t weir__check_room(size_t size)
{
	bool grows = weir__config.debug >= 2 && size <= WEIR_CLASS_BYTES_MAX - WEIR__CANARY_BYTES;
	return grows ? size + WEIR__CANARY_BYTES : size;
}

void weir__check_alloc(void *block, size_t size, void *site)
{
	if (weir__config.debug == 0 || block == NULL)
		return;
	struct weir__home *home = weir__home_of(block);
	if (home == NULL || home->notes == NULL)
		return;
	size_t room = weir__pools[weir__span_pool(home, block)].object_bytes;
	struct weir__note *note = note_of(home, block);
	note->size = (uint32_t)size + 1;
	note->allocated = (uint16_t)(weir__config.debug >= 3 ? weir__trace_take(site) : 0);
	__atomic_store_n(&note->freed, 0, __ATOMIC_RELAXED);
	if (weir__config.debug >= 2) {
		weir__watch_room(block, room);
		memset(block, FRESH_BYTE, size);
		memset((char *)block + size, canary(), room - size);
	}
}

bool weir__check_is_out(const struct weir__home *home, const void *block)
{
	return home->notes != NULL && note_of(home, block)->size != 0;
}

size_t weir__check_size(const struct weir__home *home, const void *block)
{
	uint32_t size = home->notes == NULL ? 0 : note_of(home, block)->size;
	return size == 0 ? 0 : size - 1;
}

void weir__check_move(struct weir__home *home, void *from, void *to, bool moved)
{
	struct weir__note *a = note_of(home, from), *b = note_of(home, to);
	if (moved)
		*b = *a;
	(moved ? a : b)->size = 0;
}

void weir__check_received(const struct weir__home *home, void *block)
{
	size_t size = weir__check_size(home, block);
	if (weir__config.debug >= 2 && size < sizeof(struct weir__returned))
		memset((char *)block + size, canary(), sizeof(struct weir__returned) - size);
}

/* A second time changes nothing: then the first is what is wanted. */
void weir__check_freeing(const struct weir__home *home, const void *block, void *site)
{
	uint16_t *freed = &note_of(home, block)->freed;

	if (__atomic_load_n(freed, __ATOMIC_RELAXED) == 0)
		__atomic_store_n(freed, (uint16_t)weir__trace_take(site), __ATOMIC_RELAXED);
}

static void tell(const char *what, uint32_t trace)
{
	if (trace == 0 || write(STDERR_FILENO, what, strlen(what)) < 0)
		return;
	weir__trace_write(STDERR_FILENO, trace);
}

void weir__check_tell(const void *block)
{
	const struct weir__home *home = weir__home_of(block);

	if (home == NULL || home->notes == NULL || weir__span_pool(home, block) == 0)
		return;
	const struct weir__note *note = note_of(home, block);
	tell("  it was freed\n", __atomic_load_n(&note->freed, __ATOMIC_RELAXED));
	tell("  it was allocated\n", note->allocated);
}

/* Puts it into the quarantine and returns the one that has been there longest, or NULL. */
static void *wait_in_turn(struct weir__home *home, void *block)
{
	void **place = &home->quarantine[home->quarantine_next++ % WEIR__QUARANTINE];
	void *oldest = *place;
	*place = block;
	return oldest;
}

uint32_t weir__check_quarantined(const struct weir__home *home)
{
	uint64_t ever = home->quarantine_next;

	return ever < WEIR__QUARANTINE ? (uint32_t)ever : WEIR__QUARANTINE;
}

bool weir__check_free(struct weir__home *home, uint32_t index, void **block)
{
	struct weir__note *note = note_of(home, *block);
	size_t room = weir__pools[index].object_bytes;
	if (note->size == 0) {
		weir__report("freed twice", *block);
		return false;
	}
	size_t size = note->size - 1;
	note->size = 0;
	if (weir__config.debug < 2)
		return true;
	weir__watch_room(*block, room);
	if (!is_filled((unsigned char *)*block + size, room - size, canary())) {
		weir__report("written past its end", *block);
		return false;
	}
	memset(*block, FREED_BYTE, room);
	*block = wait_in_turn(home, *block);
	if (*block == NULL)
		return false;
	if (!is_filled(*block, weir__pools[weir__span_pool(home, *block)].object_bytes,
		       FREED_BYTE)) {
		weir__report("written to after it was freed", *block);
		return false;
	}
	return true;
}

/* Those that wait still: one that was written to is told of and never used again. */
static void look_at_quarantine(struct weir__home *home)
{
	for (uint32_t i = 0; i < WEIR__QUARANTINE; i++) {
		void *block = home->quarantine[i];
		if (block == NULL ||
		    is_filled(block, weir__pools[weir__span_pool(home, block)].object_bytes,
			      FREED_BYTE))
			continue;
		weir__report("written to after it was freed", block);
		home->quarantine[i] = NULL;
	}
}

/* ---- What was never freed ------------------------------------------------------------------- */

struct leak {
	uint64_t blocks;
	uint64_t bytes;
};

static void count_unit(const struct weir__home *home, uint32_t unit, struct leak *by_trace)
{
	uint32_t index = weir__unit_pool(weir__unit_at(home, unit));
	if (index == 0 || weir__span_first(home, unit) != unit)
		return; /* no span begins here */
	uint32_t objects = weir__pools[index].span_objects;
	size_t object_bytes = weir__pools[index].object_bytes;
	const char *span = (const char *)weir__unit_at(home, unit)->span;
	for (uint32_t i = 0; i < objects; i++) {
		const struct weir__note *note = &home->notes[(size_t)unit * NOTES_PER_UNIT + i];
		if (note->size == 0 || weir__remote_is_returning(span + i * object_bytes))
			continue;
		by_trace[note->allocated].blocks++;
		by_trace[note->allocated].bytes += note->size - 1;
	}
}

static void print_leak(int fd, uint32_t trace, const struct leak *leak)
{
	char line[120];
	int n = snprintf(line, sizeof(line), "weir: %lu blocks, %lu bytes, not freed%s\n",
			 (unsigned long)leak->blocks, (unsigned long)leak->bytes,
			 trace != 0		  ? ", allocated"
			 : weir__config.debug < 3 ? " (WEIR_MEM_DEBUG=3 says whose)"
						  : "");
	if (n > 0 && write(fd, line, (size_t)n) < 0)
		return; /* nobody to tell */
	weir__trace_write(fd, trace);
}

/* The most bytes first. */
static void print_leaks(int fd, struct leak *by_trace)
{
	for (unsigned shown = 0; shown < LEAKS_SHOWN; shown++) {
		uint32_t most = 0;
		for (uint32_t i = 1; i < WEIR__TRACES; i++)
			if (by_trace[i].bytes > by_trace[most].bytes || by_trace[most].blocks == 0)
				most = i;
		if (by_trace[most].blocks == 0)
			return;
		print_leak(fd, most, &by_trace[most]);
		by_trace[most] = (struct leak){ 0 };
	}
}

uint64_t weir_mem_leaks(int fd)
{
	static struct leak by_trace[WEIR__TRACES];
	uint64_t blocks = 0;
	pthread_mutex_lock(&weir__heaps_lock);
	memset(by_trace, 0, sizeof(by_trace));
	for (uint32_t h = 0; h < weir__home_count; h++) {
		struct weir__home *home = weir__homes[h];
		for (uint32_t unit = 0; home->notes != NULL && unit < home->frontier; unit++)
			count_unit(home, unit, by_trace);
		if (weir__config.debug >= 2)
			look_at_quarantine(home);
	}
	for (uint32_t i = 0; i < WEIR__TRACES; i++)
		blocks += by_trace[i].blocks;
	if (fd >= 0)
		print_leaks(fd, by_trace);
	pthread_mutex_unlock(&weir__heaps_lock);
	return blocks;
}

/* Behind the destructors of the program, which may free. */
__attribute__((destructor(101))) static void tell_at_the_end(void)
{
	if (weir__config.debug >= 3)
		(void)weir_mem_leaks(STDERR_FILENO);
}
