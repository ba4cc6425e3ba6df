/* SPDX-License-Identifier: MIT */
/*
 * turns.h: connections with large messages receive one after the other. Owner worker only.
 *
 * Multishot receives fill some 20 buffers before the first of them is looked at. Of 64 KB each that
 * is more than a core's cache holds, and what goes out again comes from far away: 2.4 us of 22 for
 * an echo. So where many connections have large messages a receive only waits until its socket is
 * readable, and then for its turn; the message is copied into a buffer that the one before it has
 * just left.
 */
#ifndef WEIR_TURNS_H
#define WEIR_TURNS_H

#include "io/io_internal.h"

enum { WEIR__TURNS_BUFFERS = 4 }; /* one filled, one sent, and two with tasks that take longer */

/* Receives whose sockets are readable, oldest first, through queue_next; each is_waiting. */
struct weir__turns {
	struct weir__op *first;
	struct weir__op **tail;
};

static inline void weir__turns_init(struct weir__turns *turns)
{
	turns->tail = &turns->first;
}

static inline void weir__turns_add(struct weir__turns *turns, struct weir__op *op)
{
	op->queue_next = NULL;
	op->is_waiting = true;
	*turns->tail = op;
	turns->tail = &op->queue_next;
}

/* Whether `op` was among them, and is no more. */
static inline bool weir__turns_forget(struct weir__turns *turns, struct weir__op *op)
{
	struct weir__op **at = &turns->first;

	while (*at && *at != op)
		at = &(*at)->queue_next;
	if (!*at)
		return false;
	*at = op->queue_next;
	if (!*at)
		turns->tail = at;
	op->is_waiting = false;
	return true;
}

/*
 * How many connections with messages that fill such buffers make it worth while: from there on
 * theirs are more than half of the core's own cache.
 */
unsigned weir__turns_crowd(size_t buffer_bytes);

#endif
