/* SPDX-License-Identifier: MIT */
/*
 * room.h: a channel, and where it keeps its items.
 *
 * Items lie in a chain of blocks of one size, filled at its end and emptied at its start; an empty
 * block is kept for the end again. So a new channel costs the same whatever its capacity, memory
 * follows what is in it, no item is ever moved, and one in steady use allocates nothing. A channel
 * whose capacity fits into one block goes round in that (a ring), and has it from the start when it
 * is small.
 *
 * Blocks come from weir_alloc(), which may ask reclaimers, who may use channels: never under the
 * lock, then. But a receiver who lets a waiting sender's item in may find the last block full, and
 * can neither let go of the lock nor fail. Hence the reserve: a sender waits only while there is a
 * spare block. One is enough for any number of senders: as many items as it holds have to be
 * received before it is full, and they leave another one empty.
 */
#ifndef WEIR_ROOM_H
#define WEIR_ROOM_H

#include "runtime/wait.h"

#include <string.h>

struct weir__room_block {
	struct weir__room_block *next;
	_Alignas(16) char items[];
};

/*
 * Two cache lines: what every call changes, and what changes once in a block at most.
 *
 *   get_at, get_left   the oldest item, and how many places there are from it to the end of its
 *                      block; 0 only before the first block
 *   put_at, put_left   the next free place, and how many there are from it on
 *   get_block .. put_block   the chain: the blocks of the two; those between them are full
 */
struct weir_chan {
	_Alignas(64) struct weir__lock lock; /* first */
	bool is_closed;
	bool is_freed; /* by the program; the last of its users takes it away */
	uint16_t put_left;
	uint16_t get_left;
	uint32_t count;
	uint32_t users; /* calls that hold it; see channel.c */
	char *put_at;
	char *get_at;
	struct weir__waitq receivers; /* not empty only while count is 0 */
	struct weir__waitq senders;   /* not empty only while count is capacity */
	_Alignas(64) size_t item_bytes;
	uint32_t capacity;
	uint16_t block_items;
	bool is_ring; /* goes round in its one block, which is there */
	struct weir__room_block *put_block;
	struct weir__room_block *get_block;
	struct weir__room_block *spare; /* a list */
	uint32_t spares;
	struct weir__waitq drainers;   /* not empty only when closed */
	struct weir__room_block own[]; /* one, if it is small */
};
_Static_assert(sizeof(struct weir_chan) == 128, "two lines");

/* Gives an empty channel, or NULL: no memory. Freeing it takes the blocks as well. */
weir_chan *weir__room_new(size_t item_bytes, uint32_t capacity);
void weir__room_free(weir_chan *chan);

/* Takes a list of blocks. Without the lock. */
void weir__room_free_blocks(struct weir__room_block *list);

/*
 * Adds a spare block unless there is a place by then. Called with the lock held, it lets go of it
 * meanwhile: what was so before may be otherwise. Returns 0 or -ENOMEM.
 */
int weir__room_make(weir_chan *chan);

/* ---- With the lock held -----------------------------------------------------------------------
 */

/* The end of the last block. False: there is no spare one. */
bool weir__room_next_put(weir_chan *chan);

/* The first block is empty. Returns `surplus` and in front of it what is to be freed. */
struct weir__room_block *weir__room_next_get(weir_chan *chan, struct weir__room_block *surplus);

/* In a ring again and again: they leave the second line alone, which all read. */
static inline void weir__room_begin_put(weir_chan *chan, struct weir__room_block *block)
{
	chan->put_at = block->items;
	chan->put_left = chan->block_items;
}

static inline void weir__room_begin_get(weir_chan *chan, struct weir__room_block *block)
{
	chan->get_at = block->items;
	chan->get_left = chan->block_items;
}

/*
 * Whether there is a place for the next item; when the channel is full, for the one that a waiting
 * sender leaves with a receiver.
 */
static inline bool weir__room_is_there(const weir_chan *chan)
{
	return chan->is_ring || chan->spares > 0 ||
	       (chan->put_left > 0 && chan->count < chan->capacity);
}

/* A call for eight bytes would cost as much as the rest of the work. */
static inline void weir__room_copy(const weir_chan *chan, void *to, const void *from)
{
	if (chan->item_bytes == sizeof(uint64_t))
		memcpy(to, from, sizeof(uint64_t));
	else
		memcpy(to, from, chan->item_bytes);
}

/* False: there is no place. */
static inline bool weir__room_put(weir_chan *chan, const void *item)
{
	if (chan->put_left == 0) {
		if (chan->is_ring)
			weir__room_begin_put(chan, chan->put_block);
		else if (!weir__room_next_put(chan))
			return false;
	}
	weir__room_copy(chan, chan->put_at, item);
	chan->put_at += chan->item_bytes;
	chan->put_left--;
	chan->count++;
	return true;
}

/* The oldest item, of which there is one; blocks to free after the unlock are added to *surplus. */
static inline void weir__room_get(weir_chan *chan, void *ret, struct weir__room_block **surplus)
{
	weir__room_copy(chan, ret, chan->get_at);
	chan->get_at += chan->item_bytes;
	chan->count--;
	if (--chan->get_left == 0) {
		if (chan->is_ring)
			weir__room_begin_get(chan, chan->get_block);
		else
			*surplus = weir__room_next_get(chan, *surplus);
	}
}

#endif
