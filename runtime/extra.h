/* SPDX-License-Identifier: MIT */
/*
 * extra.h: what a task may own beside its record and its stack. Made at the first use of any of it,
 * so that a task that uses none pays one bit.
 */
#ifndef WEIR_EXTRA_H
#define WEIR_EXTRA_H

#include <stddef.h>

struct weir__worker;
struct weir__task;

/* The running task's alone. Lies at the beginning of its first chunk. */
struct weir__extra {
	char *room; /* [room, end) of the newest chunk is free; 16-byte aligned */
	char *end;
	struct weir__chunk *chunks;	 /* newest first, but for large blocks: they come second */
	struct weir__deferred *deferred; /* newest first */
	struct weir__value *values;
	size_t chunk_bytes; /* of the next one */
};

/*
 * The running task's function has returned: makes the deferred calls and gives back what it had.
 * Parks.
 */
void weir__extra_done(struct weir__worker *self, struct weir__task *task);

/*
 * The same, if it has any, for a function of the library's that others hear from before it returns:
 * what belongs to the task ends with the program's function, before anybody is told.
 */
void weir__extra_end(struct weir__worker *self);

#endif
