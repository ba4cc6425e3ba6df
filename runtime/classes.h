/* SPDX-License-Identifier: MIT */
/*
 * classes.h: a run queue per class of tasks, and whose turn it is.
 *
 * The queue of the class that has its turn lies in the worker's runq_head and runq_tail, so that
 * who has one class pays one comparison; the queues of the others lie here.
 */
#ifndef WEIR_CLASSES_H
#define WEIR_CLASSES_H

#include <stdint.h>

struct weir__worker;
struct weir__task;

enum { WEIR__PRIORITIES = 4 }; /* enum weir_priority; the first is no class */

/* Owner only. */
struct weir__class {
	struct weir__task *head; /* while another class has its turn */
	struct weir__task **tail;
	uint64_t used; /* ns of running, over its shares; wraps, compared by difference */
	uint32_t shares;
};

/* Under the worker's configuration. The turn is that of the normal ones. */
void weir__classes_init(struct weir__worker *worker);

/* Queues a task that is not of the class that has its turn. */
void weir__class_ready(struct weir__worker *self, struct weir__task *task);

/*
 * The class that has its turn has run for so long: gives the turn to who has used the least of its
 * shares. Some class must have ready tasks. On the scheduler stack.
 */
void weir__class_next(struct weir__worker *self, int64_t ran_ns);

#endif
