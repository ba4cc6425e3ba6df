/* SPDX-License-Identifier: MIT */
/*
 * room.c: the blocks of a channel: see room.h.
 */
#include "runtime/room.h"

enum {
	OWN_BYTES_MAX = 1024,	 /* items of so much in all are part of the channel */
	BLOCK_ITEMS = 8,	 /* in a block, */
	BLOCK_BYTES_MIN = 1024,	 /* but no less than so much, */
	BLOCK_BYTES_MAX = 16384, /* and no more, or one item */
	KEPT_BYTES = 8192,	 /* in spare blocks, beyond as much as is in use */
};

static void put_in(weir_chan *chan, struct weir__room_block *block)
{
	chan->put_block = block;
	weir__room_begin_put(chan, block);
}

static void get_from(weir_chan *chan, struct weir__room_block *block)
{
	chan->get_block = block;
	weir__room_begin_get(chan, block);
}

/* ---- Life -------------------------------------------------------------------------------------
 */

static size_t block_bytes(size_t item_bytes, size_t items)
{
	return sizeof(struct weir__room_block) + item_bytes * items;
}

/* As many items as make a good block and fill what the allocator gives for it. */
static size_t good_count(size_t item_bytes)
{
	size_t bytes = BLOCK_ITEMS * item_bytes;

	if (item_bytes == 0)
		return UINT16_MAX;
	if (item_bytes >= BLOCK_BYTES_MAX)
		return 1;
	if (bytes < BLOCK_BYTES_MIN)
		bytes = BLOCK_BYTES_MIN;
	if (bytes > BLOCK_BYTES_MAX)
		bytes = BLOCK_BYTES_MAX;
	size_t given = weir_class_size(weir_size_class(bytes));
	size_t count = (given - sizeof(struct weir__room_block)) / item_bytes;
	return count > 0 ? count : 1; /* the largest ones below fit but for the head */
}

weir_chan *weir__room_new(size_t item_bytes, uint32_t capacity)
{
	bool has_own = item_bytes <= OWN_BYTES_MAX && capacity <= UINT16_MAX &&
		       item_bytes * capacity <= OWN_BYTES_MAX;
	size_t count = has_own ? capacity : good_count(item_bytes);
	size_t own_bytes = has_own ? block_bytes(item_bytes, count) : 0;
	weir_chan *chan = weir_alloc_aligned(_Alignof(weir_chan), sizeof(weir_chan) + own_bytes);

	if (!chan)
		return NULL;
	memset(chan, 0, sizeof *chan);
	chan->item_bytes = item_bytes;
	chan->capacity = capacity;
	chan->block_items = (uint16_t)(count < capacity ? count : capacity);
	if (has_own) {
		chan->is_ring = true;
		put_in(chan, chan->own);
		get_from(chan, chan->own);
	}
	return chan;
}

void weir__room_free_blocks(struct weir__room_block *list)
{
	struct weir__room_block *next;

	for (; list; list = next) {
		next = list->next;
		weir_free(list);
	}
}

void weir__room_free(weir_chan *chan)
{
	if (chan->put_block && chan->put_block != chan->own) {
		chan->put_block->next = NULL;
		weir__room_free_blocks(chan->get_block);
	}
	weir__room_free_blocks(chan->spare);
	weir_free(chan);
}

/* ---- Spare blocks -----------------------------------------------------------------------------
 */

static void push_spare(weir_chan *chan, struct weir__room_block *block)
{
	block->next = chan->spare;
	chan->spare = block;
	chan->spares++;
}

static struct weir__room_block *pop_spare(weir_chan *chan)
{
	struct weir__room_block *block = chan->spare;

	chan->spare = block->next;
	chan->spares--;
	return block;
}

/* More than what is in use, and a little. Never the last one: the reserve. */
static bool has_surplus(const weir_chan *chan)
{
	uint64_t items = (uint64_t)chan->spares * chan->block_items;

	return chan->spares > 1 &&
	       items * chan->item_bytes > chan->count * chan->item_bytes + KEPT_BYTES;
}

int weir__room_make(weir_chan *chan)
{
	weir__unlock(&chan->lock);
	struct weir__room_block *block =
		weir_alloc(block_bytes(chan->item_bytes, chan->block_items));
	weir__lock(&chan->lock);
	if (!block)
		return -ENOMEM;
	if (!weir__room_is_there(chan)) {
		push_spare(chan, block);
		return 0;
	}
	weir__unlock(&chan->lock);
	weir_free(block);
	weir__lock(&chan->lock);
	return 0;
}

/* ---- From block to block ----------------------------------------------------------------------
 */

bool weir__room_next_put(weir_chan *chan)
{
	if (!chan->spare)
		return false;
	struct weir__room_block *block = pop_spare(chan);
	if (chan->put_block)
		chan->put_block->next = block;
	else
		get_from(chan, block);
	put_in(chan, block);
	chan->is_ring = chan->block_items == chan->capacity;
	return true;
}

struct weir__room_block *weir__room_next_get(weir_chan *chan, struct weir__room_block *surplus)
{
	struct weir__room_block *block = chan->get_block;

	if (block == chan->put_block) { /* full of what has been taken: nothing is in the channel */
		weir__room_begin_put(chan, block);
		weir__room_begin_get(chan, block);
		return surplus;
	}
	get_from(chan, block->next);
	push_spare(chan, block);
	while (has_surplus(chan)) {
		block = pop_spare(chan);
		block->next = surplus;
		surplus = block;
	}
	return surplus;
}
