/* SPDX-License-Identifier: MIT */
/*
 * buffer_ring.c: lends pool blocks to the kernel and takes them back.
 *
 * Comes from: alloc (payloads). Goes to: ring.c, which finds the block by the id in a completion.
 *
 * A ring that runs dry ends every receive with ENOBUFS; so the number of buffers in circulation
 * doubles whenever that happens, but not for ever: buffers that a busy worker gets back within a
 * turn or two serve any number of connections, and each of theirs that arrives meanwhile can wait
 * in its socket. From `busy` on receives wait in line for a buffer to come back, and the number
 * grows only when none does, because tasks keep them all: else those might wait for each other.
 *
 * What a burst has added goes back when it was not missed for a while, and what only a load needs
 * when nothing arrives. The kernel has no call to
 * take a buffer out of a ring, so the ring is unregistered and a smaller one registered; an armed
 * receive finds the new one by its name when its data comes.
 */
#include "io/buffer_ring.h"

#include <limits.h>
#include <string.h>

/* In so many turns a task that was ready has run and its send is over, unless there are thousands.
 */
enum { DRY_TURNS_MAX = 32 };

static void release(struct weir__block *block);

void weir__buffer_ring_init(struct weir__buffer_ring *group, struct io_uring *uring,
			    const struct weir__driver *driver, uint16_t id, size_t bytes,
			    unsigned first, unsigned max,
			    void (*restart)(struct weir__buffer_ring *, struct weir__op *))
{
	memset(group, 0, sizeof *group);
	group->uring = uring;
	group->driver = driver;
	group->id = id;
	group->bytes = bytes;
	group->entries = 1;
	while (group->entries < max)
		group->entries *= 2;
	group->first = first < max ? first : max;
	group->busy = group->first;
	group->restart = restart;
	group->starved_tail = &group->starved;
}

/*
 * The ring's entries, and behind them the blocks. One piece: among bulk buffers, whose size they
 * have by default, the entries alone would keep all the memory of a span.
 */
static struct io_uring_buf_ring *table_new(const struct weir__buffer_ring *group)
{
	size_t entry = sizeof(struct io_uring_buf) + sizeof(struct weir__block);

	return weir_alloc_aligned(4096, group->entries * entry);
}

static int register_ring(struct weir__buffer_ring *group)
{
	struct io_uring_buf_ring *ring = group->table ? group->table : table_new(group);

	if (!ring)
		return -ENOMEM;
	struct io_uring_buf_reg reg = {
		.ring_addr = (uintptr_t)ring,
		.ring_entries = group->entries,
		.bgid = group->id,
	};
	group->table = ring;
	group->blocks = (struct weir__block *)(void *)&ring->bufs[group->entries];
	io_uring_buf_ring_init(ring);
	int err = io_uring_register_buf_ring(group->uring, &reg, 0);
	if (err < 0)
		return err;
	group->ring = ring;
	return 0;
}

static inline void lend(struct weir__buffer_ring *group, struct weir__block *block)
{
	io_uring_buf_ring_add(group->ring, block->base, (unsigned)group->bytes,
			      (unsigned short)block->id, (int)group->entries - 1, 0);
	io_uring_buf_ring_advance(group->ring, 1);
	group->in_ring++;
}

/* A block with a payload: a recycled id, or the next unused one. */
static struct weir__block *new_block(struct weir__buffer_ring *group)
{
	char *payload = weir_alloc(group->bytes);
	struct weir__block *block = group->free;

	if (!payload)
		return NULL;
	if (block)
		group->free = block->next;
	else
		block = &group->blocks[group->ids_used];
	unsigned id = block == &group->blocks[group->ids_used] ? group->ids_used++ : block->id;
	*block = (struct weir__block){
		.base = payload,
		.cap = group->bytes,
		.id = id,
		.release = release,
		.owner = group,
	};
	return block;
}

int weir__buffer_ring_fill(struct weir__buffer_ring *group)
{
	if (!group->ring) {
		int err = register_ring(group);
		if (err < 0)
			return err;
	}
	if (group->target < group->first)
		group->target = group->first;
	while (group->circulating < group->target) {
		struct weir__block *block = new_block(group);
		if (!block)
			break;
		group->circulating++;
		lend(group, block);
	}
	return group->in_ring > 0 ? 0 : -ENOMEM;
}

static struct weir__op *pop_starved(struct weir__buffer_ring *group)
{
	struct weir__op *op = group->starved;

	group->starved = op->queue_next;
	if (!group->starved)
		group->starved_tail = &group->starved;
	op->is_waiting = false;
	return op;
}

/* More in circulation than wanted: the payload goes back to the heap. */
static __attribute__((noinline)) void retire(struct weir__buffer_ring *group,
					     struct weir__block *block)
{
	group->circulating--;
	weir_free(block->base);
	block->base = NULL;
	block->next = group->free;
	group->free = block;
}

static void release(struct weir__block *block)
{
	struct weir__buffer_ring *group = block->owner;

	if (__builtin_expect(group->circulating > group->target, 0)) {
		retire(group, block);
		return;
	}
	lend(group, block);
}

/* To at most `most`, which may be below what it is already. */
static void double_target(struct weir__buffer_ring *group, unsigned most)
{
	unsigned want = group->target * 2 < most ? group->target * 2 : most;

	if (group->target < want)
		group->target = want;
}

int weir__buffer_ring_starve(struct weir__buffer_ring *group, struct weir__op *op)
{
	/* once per reap: what a whole batch of receives found missing is one event */
	if (group->grown_at != group->driver->enters) {
		double_target(group, group->busy);
		group->grown_at = group->driver->enters;
	}
	int err = weir__buffer_ring_fill(group);
	if (err < 0 && group->circulating == group->in_ring)
		return err;
	op->queue_next = NULL;
	op->is_waiting = true;
	*group->starved_tail = op;
	group->starved_tail = &op->queue_next;
	return 0;
}

bool weir__buffer_ring_feed(struct weir__buffer_ring *group, bool is_last)
{
	group->dry_turns = group->starved && group->in_ring == 0 ? group->dry_turns + 1 : 0;
	if (group->dry_turns > (is_last ? 0 : DRY_TURNS_MAX)) {
		double_target(group, group->entries);
		if (weir__buffer_ring_fill(group) < 0 && group->circulating > 0)
			return false; /* until a lease comes back */
		group->dry_turns = 0;
	}
	/* where none can come back any more all of them find that out: see starve() */
	for (unsigned n = group->circulating > 0 ? group->in_ring : UINT_MAX;
	     n > 0 && group->starved; n--)
		group->restart(group, pop_starved(group));
	return group->starved && group->in_ring > 0;
}

/* Every buffer that is in the kernel's ring: it has a payload and nobody holds it. */
static void retire_ring(struct weir__buffer_ring *group)
{
	if (io_uring_unregister_buf_ring(group->uring, group->id) < 0)
		return;
	for (unsigned id = 0; id < group->ids_used; id++) {
		struct weir__block *block = &group->blocks[id];
		if (block->base && block->refs == 0)
			retire(group, block);
	}
	group->in_ring = 0;
	group->ring = NULL;
}

/* The kernel has none of it, nor points a lease into it. */
static void forget_table(struct weir__buffer_ring *group)
{
	weir_free(group->table);
	group->table = NULL;
	group->blocks = NULL;
	group->free = NULL;
	group->ids_used = 0;
}

void weir__buffer_ring_shrink(struct weir__buffer_ring *group, bool kernel_is_still, bool is_idle)
{
	bool ran_dry = group->seen_at != group->grown_at && !is_idle;
	unsigned least = is_idle ? group->kept : group->first;
	unsigned next = is_idle ? 0 : group->target / 4;

	group->seen_at = group->grown_at;
	if (ran_dry || group->starved || group->target <= least)
		return;
	group->target = next > least ? next : least;
	if (!kernel_is_still || !group->ring || group->circulating <= group->target)
		return;
	retire_ring(group);
	/* without a ring the next receive finds none, and fills it again */
	if (group->target > 0 && weir__buffer_ring_fill(group) < 0) {
		if (!group->ring) /* refused: until then no lease comes back to it */
			group->target = 0;
		return;
	}
	if (group->circulating == 0)
		forget_table(group);
}

void weir__buffer_ring_forget(struct weir__buffer_ring *group, struct weir__op *op)
{
	struct weir__op **at = &group->starved;

	while (*at != op)
		at = &(*at)->queue_next;
	*at = op->queue_next;
	if (!*at)
		group->starved_tail = at;
	op->is_waiting = false;
}

/* The kernel holds no reference any more: its ring is gone. */
void weir__buffer_ring_close(struct weir__buffer_ring *group)
{
	for (unsigned id = 0; id < group->ids_used; id++)
		weir_free(group->blocks[id].base);
	weir_free(group->table);
	group->table = group->ring = NULL;
}
