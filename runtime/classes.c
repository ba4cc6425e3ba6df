/* SPDX-License-Identifier: MIT */
/*
 * classes.c: priorities as shares of a worker's time.
 *
 * Each class counts the time its tasks have run, divided by its shares; the one with the smallest
 * count has the next turn. The loop decides between two readings of its clock (worker.c): that is
 * how long a turn is, about 20 us (an eighth of WEIR_SLICE_US) or one resumption, whatever takes
 * longer. A class that becomes ready after it was idle begins at the count that the running one has
 * at the end of its turn: it has no claim on the past. It cannot starve, for the counts of the
 * others grow while its own stands still.
 */
#include "runtime/task.h"

enum { SCALE = 1 << 10 }; /* nanoseconds are small against shares */

/* Half of what can be told from being ahead: months, which idle classes fall behind. */
static const uint64_t BEHIND_MAX = (uint64_t)1 << 62;

void weir__classes_init(struct weir__worker *worker)
{
	const struct weir__config *config = &worker->runtime->config;

	for (unsigned p = 0; p < WEIR__PRIORITIES; p++)
		worker->classes[p].tail = &worker->classes[p].head;
	worker->classes[WEIR_PRIORITY_HIGH].shares = (uint32_t)config->shares_high;
	worker->classes[WEIR_PRIORITY_NORMAL].shares = (uint32_t)config->shares_normal;
	worker->classes[WEIR_PRIORITY_BACKGROUND].shares = (uint32_t)config->shares_background;
	worker->priority = WEIR_PRIORITY_NORMAL;
}

/* Has used less of its shares. */
static bool is_behind(const struct weir__class *one, const struct weir__class *other)
{
	return (int64_t)(one->used - other->used) < 0;
}

/* The running task's next park or yield is the end of this turn. What ran counts for the pace. */
static void end_turn_soon(struct weir__worker *self)
{
	if (self->current)
		weir__slice_cut(self);
}

void weir__class_ready(struct weir__worker *self, struct weir__task *task)
{
	struct weir__class *class = &self->classes[task->priority];
	uint8_t bit = (uint8_t)(1u << task->priority);

	*class->tail = task;
	class->tail = &task->next;
	if (self->classes_waiting & bit)
		return;
	self->classes_waiting |= bit;
	self->classes_new |= bit;
	if (task->priority < self->priority)
		end_turn_soon(self);
}

/* The run queue goes back to its class, and that of `priority` becomes the run queue. */
static void give_turn(struct weir__worker *self, uint8_t priority)
{
	struct weir__class *old = &self->classes[self->priority];
	struct weir__class *new = &self->classes[priority];

	if (self->runq_head) {
		old->head = self->runq_head;
		old->tail = self->runq_tail;
		self->classes_waiting |= (uint8_t)(1u << self->priority);
	}
	self->runq_head = new->head;
	self->runq_tail = new->head ? new->tail : &self->runq_head;
	new->head = NULL;
	new->tail = &new->head;
	self->classes_waiting &= (uint8_t) ~(1u << priority);
	self->priority = priority;
}

/* Counts the turn; those that became ready in it, or far behind, are level with who had it. */
static void count_turn(struct weir__worker *self, int64_t ran_ns)
{
	struct weir__class *now = &self->classes[self->priority];

	now->used += (uint64_t)ran_ns * SCALE / now->shares;
	for (uint8_t p = WEIR_PRIORITY_HIGH; p <= WEIR_PRIORITY_BACKGROUND; p++)
		if (is_behind(&self->classes[p], now) &&
		    (self->classes_new & 1u << p || now->used - self->classes[p].used > BEHIND_MAX))
			self->classes[p].used = now->used;
	self->classes_new = 0;
}

void weir__class_next(struct weir__worker *self, int64_t ran_ns)
{
	uint8_t best = self->runq_head ? self->priority : 0;

	count_turn(self, ran_ns);
	for (uint8_t p = WEIR_PRIORITY_HIGH; p <= WEIR_PRIORITY_BACKGROUND; p++) {
		if (!(self->classes_waiting & 1u << p))
			continue;
		const struct weir__class *class = &self->classes[p];
		/* of equals the higher, which comes first, unless that has the turn */
		if (!best || is_behind(class, &self->classes[best]) ||
		    (class->used == self->classes[best].used && p < best))
			best = p;
	}
	if (best && best != self->priority)
		give_turn(self, best);
}

int weir_task_priority_set(enum weir_priority priority)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current || priority <= WEIR_PRIORITY_INHERIT ||
	    priority > WEIR_PRIORITY_BACKGROUND)
		return -EINVAL;
	self->current->priority = (uint8_t)priority;
	return 0;
}
