/* SPDX-License-Identifier: MIT */
/*
 * large.c: blocks above 16 MiB, each a mapping of its own.
 *
 * They are few and their pages cost milliseconds to touch, so a table under a lock, searched from
 * its end, is the whole registry; nothing is written into or around a block.
 */
#include <pthread.h>

#include "alloc/heap.h"

struct large {
	char *address;
	size_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct large *table;
static size_t table_count, table_room;
static uint64_t total_bytes;

static size_t page_up(size_t bytes)
{
	return (bytes + 4095) & ~(size_t)4095;
}

static bool table_grow(void)
{
	if (table_count < table_room)
		return true;
	size_t room = table_room == 0 ? 4096 / sizeof(*table) : table_room * 2;
	struct large *bigger = table_room == 0 ? weir__os_map(4096, 4096)
					       : weir__os_remap(table, table_room * sizeof(*table),
								room * sizeof(*table));
	if (bigger == NULL)
		return false;
	table = bigger;
	table_room = room;
	return true;
}

/* Under the lock. */
static struct large *find(const void *block)
{
	for (size_t i = table_count; i-- > 0;)
		if (table[i].address == block)
			return &table[i];
	return NULL;
}

static void *map(size_t bytes, size_t align)
{
	if (weir__config.huge_pages == WEIR__HUGE_NEVER)
		return weir__os_map(bytes, align);
	void *block = weir__os_map(bytes, align < WEIR__HUGE_BYTES ? WEIR__HUGE_BYTES : align);
	if (block != NULL)
		weir__os_huge_pages(block, bytes);
	return block;
}

void *weir__large_alloc(size_t size, size_t align)
{
	bool possible = align < PTRDIFF_MAX / 2 && size <= PTRDIFF_MAX - align - 4096;
	size_t bytes = page_up(size == 0 ? 1 : size);
	void *block = NULL;
	bool allowed = possible && weir__within_limit(weir__home_self(), bytes);
	pthread_mutex_lock(&lock);
	if (allowed && table_grow())
		block = map(bytes, align);
	if (block != NULL) {
		table[table_count++] = (struct large){ block, bytes };
		WEIR__ADD(total_bytes, bytes);
	}
	pthread_mutex_unlock(&lock);
	return block != NULL ? block : weir__refused(size);
}

bool weir__large_free(void *block)
{
	struct large gone = { NULL, 0 };
	pthread_mutex_lock(&lock);
	struct large *entry = find(block);
	if (entry != NULL) {
		gone = *entry;
		*entry = table[--table_count];
		WEIR__ADD(total_bytes, -(uint64_t)gone.bytes);
	}
	pthread_mutex_unlock(&lock);
	if (gone.address == NULL)
		return false;
	weir__os_unmap(gone.address, gone.bytes);
	return true;
}

size_t weir__large_size(const void *block)
{
	pthread_mutex_lock(&lock);
	struct large *entry = find(block);
	size_t bytes = entry == NULL ? 0 : entry->bytes;
	pthread_mutex_unlock(&lock);
	return bytes;
}

void *weir__large_realloc(void *block, size_t had, size_t size)
{
	bool possible = size <= PTRDIFF_MAX - 4096;
	size_t bytes = page_up(size);
	void *moved = NULL;
	if (!possible || (bytes > had && !weir__within_limit(weir__home_self(), bytes - had)))
		return weir__refused(size);
	pthread_mutex_lock(&lock);
	struct large *entry = find(block);
	if (entry != NULL)
		moved = weir__os_remap(block, entry->bytes, bytes);
	if (moved != NULL) {
		WEIR__ADD(total_bytes, bytes - entry->bytes);
		*entry = (struct large){ moved, bytes };
	}
	pthread_mutex_unlock(&lock);
	return moved != NULL ? moved : weir__refused(size);
}

uint64_t weir__large_bytes(void)
{
	return WEIR__GET(total_bytes);
}

void weir__large_lock(void)
{
	pthread_mutex_lock(&lock);
}

void weir__large_unlock(void)
{
	pthread_mutex_unlock(&lock);
}
