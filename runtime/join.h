/* SPDX-License-Identifier: MIT */
/*
 * join.h: how task.c reports the end of a task that somebody joins.
 */
#ifndef WEIR_JOIN_H
#define WEIR_JOIN_H

#include "runtime/wait.h"

/* weir__spawn() of a task whose function is weir__join_main, and its argument `join`. */
WEIR_MUST int weir__join_spawn(struct weir__scope *scope, struct weir__spawn *spawn,
			       struct weir_join *join);
int weir__join_main(void *join);

/* For a task that has never run. */
void weir__join_end(struct weir_join *join, int result);

/* What such a task really runs. */
weir_fn weir__join_fn(const struct weir_join *join);
static inline weir_fn weir__task_fn(const struct weir__task *task)
{
	weir_fn fn = task->fn == weir__census_main ? task->measured_fn : task->fn;

	return fn == weir__join_main ? weir__join_fn(task->arg) : fn;
}

#endif
