/* SPDX-License-Identifier: MIT */
/*
 * quiet.c: sends of which the kernel says nothing unless they fail.
 *
 * Comes from: ring.c, which knows when the kernel has taken every entry and every failure has been
 * reaped. The hard idea: nothing is looked for in this list on the way of a request. A send enters
 * it with its entry, and the whole list ends with a turn; only a failure searches it.
 */
#include "io/quiet.h"

enum { LOUD_SENDS = 16 }; /* after one that its socket had no room for */

void weir__quiet_refuse(struct weir__quiet *quiet, struct weir__op *op)
{
	struct weir__op **at = &quiet->first;

	while (*at != op)
		at = &(*at)->queue_next;
	if (quiet->tail == &op->queue_next)
		quiet->tail = at;
	*at = op->queue_next;
	op->is_quiet = op->may_be_quiet = false;
	op->loud = LOUD_SENDS;
}

void weir__quiet_finish(struct weir__quiet *quiet)
{
	struct weir__op *next;

	*quiet->tail = NULL;
	quiet->tail = &quiet->first;
	for (struct weir__op *op = quiet->first; op; op = next) {
		next = op->queue_next;
		op->state = WEIR__OP_FREE;
		op->is_quiet = false;
		op->res = (int)op->len;
		op->done(op);
	}
}
