/* SPDX-License-Identifier: MIT */
/*
 * broadcast.c: every item to every reader; who is too slow is told how much was missed.
 *
 * The ring is overwritten without asking: a sender never waits. A reader is a number, that of the
 * item it wants next; the broadcast does not know its readers. Who waits is given the item by its
 * sender.
 */
#include "runtime/wait.h"

#include <string.h>

struct weir_broadcast {
	struct weir__lock lock;
	bool is_closed;
	size_t item_bytes;
	size_t capacity;
	uint64_t sent;		  /* items so far: the next one's number */
	size_t at;		  /* its place in the ring */
	struct weir__waitq queue; /* of readers that have read everything */
	_Alignas(16) char items[];
};

struct reader {
	weir_broadcast *broadcast;
	uint64_t next;
	uint64_t missed;
};
_Static_assert(sizeof(struct reader) <= sizeof(struct weir_reader), "fits the public struct");

static const struct weir__about about = { "broadcast", NULL };

static struct reader *of(struct weir_reader *reader)
{
	return (struct reader *)(void *)reader;
}

weir_broadcast *weir_broadcast_new(size_t item_bytes, size_t capacity)
{
	size_t bytes;

	if (capacity == 0)
		capacity = 1;
	if (__builtin_mul_overflow(item_bytes, capacity, &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(weir_broadcast), &bytes))
		return NULL;
	weir_broadcast *broadcast = weir_alloc(bytes);
	if (!broadcast)
		return NULL;
	memset(broadcast, 0, sizeof *broadcast);
	broadcast->item_bytes = item_bytes;
	broadcast->capacity = capacity;
	return broadcast;
}

void weir_broadcast_free(weir_broadcast *broadcast)
{
	if (!broadcast)
		return;
	weir__waitq_done(&broadcast->lock, &broadcast->queue);
	weir_free(broadcast);
}

/* Under the lock. -EAGAIN: has read everything. */
static int take(struct reader *reader, void *ret)
{
	const weir_broadcast *from = reader->broadcast;
	uint64_t behind = from->sent - reader->next;

	if (behind == 0)
		return from->is_closed ? -EPIPE : -EAGAIN;
	if (behind > from->capacity) {
		reader->missed += behind - from->capacity;
		reader->next = from->sent - from->capacity;
		return -EOVERFLOW;
	}
	size_t at = from->at + (behind <= from->at ? 0 : from->capacity) - (size_t)behind;
	memcpy(ret, from->items + at * from->item_bytes, from->item_bytes);
	reader->next++;
	return 0;
}

/* For who waits: under the lock, since the broadcast may be gone when its task runs. */
static void serve(struct weir__waiter *waiter)
{
	waiter->result = take(waiter->object, waiter->item);
}

int weir_broadcast_send(weir_broadcast *broadcast, const void *item)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__release release;

	weir__lock(&broadcast->lock);
	if (broadcast->is_closed) {
		weir__unlock(&broadcast->lock);
		return -EPIPE;
	}
	memcpy(broadcast->items + broadcast->at * broadcast->item_bytes, item,
	       broadcast->item_bytes);
	broadcast->sent++;
	if (++broadcast->at == broadcast->capacity)
		broadcast->at = 0;
	weir__release_with(self, &broadcast->queue, 0, serve, &release);
	weir__unlock(&broadcast->lock);
	weir__release_end(self, &broadcast->lock, &release);
	return 0;
}

void weir_broadcast_close(weir_broadcast *broadcast)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__release release;

	weir__lock(&broadcast->lock);
	broadcast->is_closed = true;
	weir__release_begin(self, &broadcast->queue, -EPIPE, &release);
	weir__unlock(&broadcast->lock);
	weir__release_end(self, &broadcast->lock, &release);
}

/* ---- Readers ------------------------------------------------------------ */

void weir_reader_init(struct weir_reader *public_reader, weir_broadcast *broadcast)
{
	struct reader *reader = of(public_reader);

	weir__lock(&broadcast->lock);
	*reader = (struct reader){ .broadcast = broadcast, .next = broadcast->sent };
	weir__unlock(&broadcast->lock);
}

uint64_t weir_reader_missed(const struct weir_reader *reader)
{
	return ((const struct reader *)(const void *)reader)->missed;
}

int weir_reader_try_recv(struct weir_reader *public_reader, void *ret)
{
	struct reader *reader = of(public_reader);

	weir__lock(&reader->broadcast->lock);
	int err = take(reader, ret);
	weir__unlock(&reader->broadcast->lock);
	return err;
}

/* ---- Waiting, alone or in a select ---------------------------------------- */

static bool poll_case(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = weir_reader_try_recv(wanted->object_, wanted->item_);
	return wanted->result != -EAGAIN;
}

static bool enter_case(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	struct reader *reader = wanted->object_;
	weir_broadcast *from = reader->broadcast;

	(void)self;
	weir__lock(&from->lock);
	bool has_come = reader->next != from->sent || from->is_closed;
	if (!has_come) {
		waiter->object = reader;
		waiter->item = wanted->item_;
		weir__waitq_add(&from->lock, &from->queue, waiter);
	} else if (weir__claim_self(waiter)) {
		wanted->result = take(reader, wanted->item_);
	}
	weir__unlock(&from->lock);
	return has_come;
}

static const struct weir__waitable source = { .about = &about,
					      .poll = poll_case,
					      .enter = enter_case };

int weir_reader_recv(struct weir_reader *reader, void *ret)
{
	return weir__wait_for(&source, reader, ret, 0);
}

struct weir_case weir_case_reader(struct weir_reader *reader, void *ret)
{
	return (struct weir_case){ .source_ = &source, .object_ = reader, .item_ = ret };
}
