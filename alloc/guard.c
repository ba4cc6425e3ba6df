/* SPDX-License-Identifier: MIT */
/*
 * guard.c: a few blocks, sampled, that lie alone between pages that cannot be touched.
 *
 * One block in so many bytes comes from a slot of two pages with a guard on either side, at the
 * upper end of it; when it is freed, its pages cannot be touched either until the slot is used
 * again, the one freed longest ago first. So a read or write past the block's end or after it was
 * freed is a fault on the spot, in production, at the price of two system calls for one allocation
 * in thousands. The fast path knows nothing of it: what is allocated is counted at the end of an
 * epoch, and when the count says so the low mark of one cache is raised, so that its next request
 * takes the slow path and is served from here.
 *
 * A block begins where its class would have it begin, so that the alignment that a class promises
 * holds; the bytes between what was asked for and the class's size are a pattern, looked at when
 * the block is freed. The table is written under the large blocks' lock and read without it by the
 * handler of the fault.
 */
#include <stdatomic.h>
#include <string.h>

#include "alloc/heap.h"

enum {
	SLOTS = 64,
	PAGE_BYTES = 4096,
	SLOT_BYTES = 2 * PAGE_BYTES,
	GUARD_BYTES = SLOT_BYTES, /* so that a class as large as a slot is aligned in it */
	STRIDE = SLOT_BYTES + GUARD_BYTES,
	AREA_BYTES = SLOTS * STRIDE + GUARD_BYTES,
	PATTERN = 0xc5,
};

enum state { EMPTY, USED, FREED };

static struct slot {
	enum state state;
	uint32_t index; /* of the pool */
	size_t size;	/* asked for */
	size_t room;
	void *allocated_by;
	void *freed_by;
} slots[SLOTS];

static char *_Atomic area; /* NULL: not mapped yet, or refused */
static bool is_refused;
static uint32_t cursor;
static _Atomic uint64_t samples;

/* ---- When ----------------------------------------------------------------------------------- */

static uint32_t random_next(struct weir__home *home)
{
	home->guard_random = home->guard_random * 1103515245u + 12345u + home->id;
	return home->guard_random >> 8;
}

/* Around the configured distance, so that no rhythm of the program is always missed. */
static int64_t next_distance(struct weir__home *home)
{
	uint64_t bytes = weir__config.guard_bytes;
	return (int64_t)(bytes / 2 + (bytes * (random_next(home) & 0xffff) >> 16));
}

/* The pool that exceeds the count is the one: pools are chosen by the bytes they hand out. */
void weir__guard_count(struct weir__home *home, uint32_t index, uint64_t bytes)
{
	if (weir__config.guard_bytes == 0 || home->mode != 0)
		return;
	if (bytes == 0) { /* out of use: the next that is in use is chosen instead */
		if (home->guard_index == index)
			home->guard_index = 0;
		return;
	}
	if (home->guard_left == 0) /* the first epoch */
		home->guard_left = next_distance(home);
	home->guard_left -= (int64_t)(bytes < INT64_MAX / 2 ? bytes : INT64_MAX / 2);
	if (home->guard_left <= 0 && home->guard_index == 0) {
		home->guard_left = next_distance(home);
		home->guard_index = index;
	}
	if (home->guard_index == index)
		home->heap.cache[index].low = (void **)UINTPTR_MAX;
}

/* ---- Slots ---------------------------------------------------------------------------------- */

static char *slot_begin(uint32_t i)
{
	return atomic_load_explicit(&area, memory_order_relaxed) + GUARD_BYTES + (size_t)i * STRIDE;
}

/* Where its block begins: as far up as the alignment of its class allows. */
static char *slot_block(uint32_t i)
{
	return slot_begin(i) + SLOT_BYTES - slots[i].room;
}

/* The slot that the address is in or, in a guard, the nearer one; SLOTS: none. */
static uint32_t slot_of(const void *address)
{
	/* acquire: pairs with the release in area_open() */
	uintptr_t first = (uintptr_t)atomic_load_explicit(&area, memory_order_acquire);
	uintptr_t offset = (uintptr_t)address - first;
	if (first == 0 || offset >= AREA_BYTES)
		return SLOTS;
	size_t i = offset < GUARD_BYTES / 2 ? 0 : (offset - GUARD_BYTES / 2) / STRIDE;
	return i < SLOTS ? (uint32_t)i : SLOTS - 1;
}

static bool area_open(void)
{
	if (is_refused || atomic_load_explicit(&area, memory_order_relaxed) != NULL)
		return !is_refused;
	char *mapped = weir__os_map(AREA_BYTES, SLOT_BYTES);
	is_refused = mapped == NULL || !weir__os_forbid(mapped, AREA_BYTES);
	if (!is_refused) /* release: who sees it sees it mapped */
		atomic_store_explicit(&area, mapped, memory_order_release);
	return !is_refused;
}

/* The next that is not in use: after a full round, the one freed longest ago. */
static uint32_t slot_take(void)
{
	for (uint32_t n = 0; n < SLOTS; n++) {
		uint32_t i = cursor++ % SLOTS;
		if (slots[i].state != USED && weir__os_allow(slot_begin(i), SLOT_BYTES))
			return i;
	}
	return SLOTS;
}

void *weir__guard_get(uint32_t index, size_t size, void *site)
{
	size_t room = weir__pools[index].object_bytes;
	char *block = NULL;
	if (room > SLOT_BYTES)
		return NULL;
	if (size == 0)
		size = 1;
	weir__large_lock();
	uint32_t i = area_open() ? slot_take() : SLOTS;
	if (i != SLOTS) {
		slots[i] = (struct slot){ USED, index, size, room, site, NULL };
		block = slot_block(i);
	}
	weir__large_unlock();
	if (block == NULL)
		return NULL;
	memset(block + size, PATTERN, room - size);
	atomic_fetch_add_explicit(&samples, 1, memory_order_relaxed);
	return block;
}

static bool is_written_past(const struct slot *slot, const char *block)
{
	for (size_t i = slot->size; i < slot->room; i++)
		if ((unsigned char)block[i] != PATTERN)
			return true;
	return false;
}

/* What is wrong with freeing it; NULL: nothing. */
static const char *objection(uint32_t i, uint32_t index, const void *block)
{
	const struct slot *slot = &slots[i];
	if (slot->state == EMPTY || block != slot_block(i))
		return "not a block";
	if (slot->state == FREED)
		return "freed twice";
	if (index != 0 && index != slot->index)
		return "not of this pool";
	return is_written_past(slot, block) ? "written past its end" : NULL;
}

bool weir__guard_put(uint32_t index, void *block, void *site)
{
	uint32_t i = slot_of(block);
	if (i == SLOTS)
		return false;
	weir__large_lock();
	const char *wrong = objection(i, index, block);
	bool over = wrong == NULL || (slots[i].state == USED && block == slot_block(i) &&
				      (index == 0 || index == slots[i].index));
	if (over) {
		slots[i].state = FREED;
		slots[i].freed_by = site;
		weir__os_purge(slot_begin(i), SLOT_BYTES);
		(void)weir__os_forbid(slot_begin(i), SLOT_BYTES);
	}
	weir__large_unlock();
	if (wrong != NULL)
		weir__report(wrong, block);
	return true;
}

size_t weir__guard_size(const void *block)
{
	uint32_t i = slot_of(block);
	bool used = i != SLOTS && slots[i].state == USED && block == slot_block(i);
	return used ? slots[i].size : 0;
}

/* ---- After a fault -------------------------------------------------------------------------- */

uint64_t weir__guard_samples(void)
{
	return atomic_load_explicit(&samples, memory_order_relaxed);
}

bool weir__guard_find(const void *address, struct weir__guarded *ret)
{
	uint32_t i = slot_of(address);
	if (i == SLOTS)
		return false;
	const struct slot *slot = &slots[i];
	if (slot->state == EMPTY)
		return false;
	*ret = (struct weir__guarded){ .block = slot_block(i),
				       .size = slot->size,
				       .is_freed = slot->state == FREED,
				       .allocated_by = slot->allocated_by,
				       .freed_by = slot->freed_by };
	return true;
}
