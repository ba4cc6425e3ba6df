/* SPDX-License-Identifier: MIT */
/*
 * stall.h: tasks that hold their worker, so that everybody else on it waits.
 */
#ifndef WEIR_STALL_H
#define WEIR_STALL_H

#include "runtime/capture.h"
#include "runtime/task.h"

struct weir__stalls;

/* NULL: no memory. `captures` is borrowed: one for each worker. */
WEIR_MUST struct weir__stalls *weir__stalls_new(const struct weir__runtime *runtime,
						struct weir__capture *captures);
void weir__stalls_free(struct weir__stalls *stalls); /* accepts NULL */

/*
 * Looks at all workers, wakes those that sleep beside a message since the last look, reports and
 * counts those that have stalled. Returns whether any has done anything since the last look. Called
 * every weir__stalls_tick_ns().
 */
bool weir__stalls_look(struct weir__stalls *stalls);

/* The workers have stood still for us: what they did before does not count. */
void weir__stalls_forget(struct weir__stalls *stalls);

/* INT64_MAX: nobody wants to know. */
int64_t weir__stalls_tick_ns(const struct weir__runtime *runtime);

#endif
