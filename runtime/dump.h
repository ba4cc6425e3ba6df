/* SPDX-License-Identifier: MIT */
/*
 * dump.h: all tasks of a runtime as text. Looking and writing are two steps: the workers stand
 * still only for the first.
 */
#ifndef WEIR_DUMP_H
#define WEIR_DUMP_H

#include "runtime/backtrace.h"
#include "runtime/capture.h"
#include "runtime/task.h"

/* A worker while it is looked at. */
struct weir__view {
	bool is_here; /* it stands still: what is its own may be read */
	/* of a worker that waits within a task's call, which is its running task: */
	const void *sp;
	unsigned frames;
	uintptr_t pcs[WEIR__FRAMES_MAX];
	/* of one that did not answer: what its thread was caught at, NULL for nothing */
	const struct weir__capture *capture;
};

/* Notes where the running task of the calling worker is. */
void weir__view_caller(struct weir__view *view, const struct weir__worker *self);

struct weir__dump;

/* NULL: no memory. */
WEIR_MUST struct weir__dump *weir__dump_new(const struct weir__runtime *runtime);

/*
 * With a view of each worker. Looks at what is here; takes no lock and no memory but from the
 * kernel, since a worker may have been caught within malloc(). Returns 0 or -ENOMEM.
 */
WEIR_MUST int weir__dump_take(struct weir__dump *dump, const struct weir__view *views);

/* Returns 0, or the -errno of writing. */
WEIR_MUST int weir__dump_write(const struct weir__dump *dump, const struct weir__view *views,
			       FILE *out);
void weir__dump_free(struct weir__dump *dump); /* accepts NULL */

#endif
