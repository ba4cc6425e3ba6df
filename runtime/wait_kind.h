/* SPDX-License-Identifier: MIT */
/*
 * wait_kind.h: what a parked task waits for, in words.
 *
 * A park costs nothing for this: the abort function says it all. Whoever parks tasks with one of
 *its own adds a line for it, anywhere in its file:
 *
 *	static void recv_abort(struct weir__task *task, int why) ...
 *	WEIR__WAIT_KIND(recv_abort, "recv", describe_recv);
 *
 * The linker gathers the lines into one table. A park without an abort function gives a static text
 * as its `wait` instead.
 */
#ifndef WEIR_WAIT_KIND_H
#define WEIR_WAIT_KIND_H

#include "runtime/section.h"
#include "runtime/task.h"

struct weir__wait_kind {
	weir__abort_fn abort;
	const char *label; /* "recv" */
	/*
	 * Writes what task->wait is, such as "connection 7 of 127.0.0.1:4711", or nothing; NULL:
	 * there is no more to say. Called on another thread while all workers stand still: looks at
	 * memory, takes no lock, does not park.
	 */
	void (*describe)(const struct weir__task *task, char *ret, size_t cap);
	/* Instead of `label`, where one function serves many kinds; on the same terms. */
	const char *(*label_of)(const struct weir__task *task);
};

#define WEIR__WAIT_KIND(abort_fn, text, describe_fn)                                               \
	static const struct weir__wait_kind abort_fn##_kind WEIR__IN_SECTION(weir_wait_kinds) = {  \
		.abort = (abort_fn), .label = (text), .describe = (describe_fn)                    \
	}

#endif
