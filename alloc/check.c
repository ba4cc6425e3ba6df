/* SPDX-License-Identifier: MIT */
/*
 * check.c: debug levels: what is remembered of every block, and what is checked when it comes back.
 *
 *   1  whether it is out, and the size asked for: a block freed twice or with another size
 *   2  a pattern behind its end, and in it while free; freed blocks wait before they are used again
 *   3  the place that allocated it, and from that a report of what was never freed
 *
 * A note of 8 bytes for each object lies in an array beside the window, by unit and object, as the
 * bitmaps do. The level is fixed before the first heap; from level 1 on every call takes the slow
 * path. What is found is reported, counted, and the block kept out of circulation: nothing aborts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"

enum {
	FREED_BYTE = 0xdf,
	FRESH_BYTE = 0xd0,
	NOTES_PER_UNIT = WEIR__BITMAP_WORDS * 64,
	SITES = 4096,
	LEAKS_SHOWN = 40,
};

static _Atomic(void *) sites[SITES]; /* [0] stays empty: no site */

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

/* ---- Sites ---------------------------------------------------------------------------------- */

static uint32_t site_id(void *site)
{
	uint32_t first = (uint32_t)((uintptr_t)site * 0x9e3779b97f4a7c15u >> 52);
	for (uint32_t tries = 0; tries < SITES; tries++) {
		uint32_t i = (first + tries) % SITES;
		if (i == 0)
			continue;
		void *there = atomic_load(&sites[i]);
		if (there == NULL && atomic_compare_exchange_strong(&sites[i], &there, site))
			return i;
		if (there == site)
			return i;
	}
	return 0;
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
	note->site = weir__config.debug >= 3 ? site_id(site) : 0;
	if (weir__config.debug >= 2) {
		weir__watch_room(block, room);
		memset(block, FRESH_BYTE, size);
		memset((char *)block + size, canary(), room - size);
	}
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

/* ---- What was never freed ------------------------------------------------------------------- */

struct leak {
	uint64_t blocks;
	uint64_t bytes;
};

static void count_unit(const struct weir__home *home, uint32_t unit, struct leak *by_site)
{
	uint32_t index = weir__unit_pool(weir__unit_at(home, unit));
	if (index == 0 || weir__span_first(home, unit) != unit)
		return; /* no span begins here */
	uint32_t objects = weir__pools[index].span_objects;
	for (uint32_t i = 0; i < objects; i++) {
		const struct weir__note *note = &home->notes[(size_t)unit * NOTES_PER_UNIT + i];
		if (note->size == 0)
			continue;
		by_site[note->site].blocks++;
		by_site[note->site].bytes += note->size - 1;
	}
}

static void print_site(int fd, uint32_t site, const struct leak *leak)
{
	char line[400];
	Dl_info info = { 0 };
	void *address = site == 0 ? NULL : atomic_load(&sites[site]);
	bool named = address != NULL && dladdr(address, &info) != 0 && info.dli_sname != NULL;
	int n = snprintf(line, sizeof(line), "weir: %lu blocks, %lu bytes, allocated at %p %s%s\n",
			 (unsigned long)leak->blocks, (unsigned long)leak->bytes, address,
			 named ? "in " : "", named ? info.dli_sname : "");
	if (n > 0 && write(fd, line, (size_t)n) < 0)
		return; /* nobody to tell */
}

uint64_t weir_mem_leaks(int fd)
{
	static struct leak by_site[SITES];
	uint64_t blocks = 0;
	pthread_mutex_lock(&weir__heaps_lock);
	memset(by_site, 0, sizeof(by_site));
	for (uint32_t h = 0; h < weir__home_count; h++)
		for (uint32_t unit = 0;
		     weir__homes[h]->notes != NULL && unit < weir__homes[h]->frontier; unit++)
			count_unit(weir__homes[h], unit, by_site);
	unsigned shown = 0;
	for (uint32_t i = 0; i < SITES; i++) {
		blocks += by_site[i].blocks;
		if (fd >= 0 && by_site[i].blocks > 0 && shown++ < LEAKS_SHOWN)
			print_site(fd, i, &by_site[i]);
	}
	pthread_mutex_unlock(&weir__heaps_lock);
	return blocks;
}
