/* SPDX-License-Identifier: MIT */
/*
 * fresh.c: tasks that any worker may start (.any): queued where they were spawned, taken by who has
 * time.
 *
 * Only what has never run moves: it has no stack, no thread-local address in a register, nothing in
 * a heap but its record. Each worker has a queue, first in first out, under a lock that is held for
 * a few instructions. The worker itself takes from it when its run queue is empty, and one task a
 * reading of the clock when it is not; a worker with nothing to do takes half of another's, 16 at
 * most, and keeps all but the first where others may take them in turn.
 *
 * The hard idea is the one of parking (worker.c): a spawner queues, fences, and looks for a parked
 * worker; a worker publishes PARKED, fences, and looks for queued tasks. So a task is never left
 * beside an idle worker, and a spawn wakes one. tests/model/steal.pml.
 *
 * A task in a queue has WEIR__REMOTE_FRESH set. Until it is taken off, `worker` is nobody's to
 * read, and who cancels leaves the bit for the taker to find.
 */
#include "runtime/task.h"

enum { STEAL_MAX = 16 };

static void lock(struct weir__fresh *fresh)
{
	for (unsigned spins = 0;
	     atomic_flag_test_and_set_explicit(&fresh->lock, memory_order_acquire);)
		if (++spins % 64 == 0)
			weir__relax();
}

static void unlock(struct weir__fresh *fresh)
{
	atomic_flag_clear_explicit(&fresh->lock, memory_order_release);
}

void weir__fresh_init(struct weir__fresh *fresh)
{
	atomic_flag_clear(&fresh->lock);
	fresh->head = NULL;
	fresh->tail = &fresh->head;
	atomic_init(&fresh->count, 0);
}

/* Under the lock. */
static void append(struct weir__fresh *fresh, struct weir__task *first, struct weir__task *last,
		   uint32_t count)
{
	last->next = NULL;
	*fresh->tail = first;
	fresh->tail = &last->next;
	atomic_store_explicit(&fresh->count, weir__fresh_count(fresh) + count,
			      memory_order_relaxed);
}

/* Under the lock: takes the oldest `count` of them out; the last one's `next` is stale. */
static struct weir__task *detach(struct weir__fresh *fresh, uint32_t count,
				 struct weir__task **ret_last)
{
	struct weir__task *first = fresh->head, *last = first;

	for (uint32_t n = 1; n < count; n++)
		last = last->next;
	fresh->head = last->next;
	if (!fresh->head)
		fresh->tail = &fresh->head;
	atomic_store_explicit(&fresh->count, weir__fresh_count(fresh) - count,
			      memory_order_relaxed);
	*ret_last = last;
	return first;
}

/* From here on the task is this worker's, for good. */
static struct weir__task *claim(struct weir__worker *self, struct weir__task *task)
{
	task->worker = self;
	/* release: `worker` is there for who finds FRESH gone; acquire: what a canceller wrote */
	uint8_t bits = atomic_exchange_explicit(&task->remote, 0, memory_order_acq_rel);

	self->live++;
	if (bits & WEIR__REMOTE_CANCEL)
		weir__task_cancel(self, task);
	return task;
}

/* One parked worker, if there is any, comes to look. */
static void wake_one(struct weir__worker *self)
{
	struct weir__runtime *runtime = self->runtime;
	unsigned at = self->index;

	for (unsigned n = 1; n < runtime->workers_count; n++) {
		at = at + 1 < runtime->workers_count ? at + 1 : 0;
		if (weir__worker_wake_parked(runtime->workers[at]))
			return;
	}
}

void weir__fresh_push(struct weir__worker *self, struct weir__task *task)
{
	struct weir__fresh *fresh = &self->fresh;

	if (!atomic_load_explicit(&self->runtime->has_fresh, memory_order_relaxed))
		atomic_store_explicit(&self->runtime->has_fresh, true, memory_order_relaxed);
	lock(fresh);
	append(fresh, task, task, 1);
	unlock(fresh);
	/* pairs with the fence in settle(): the task is seen there, or its PARKED here */
	atomic_thread_fence(memory_order_seq_cst);
	wake_one(self);
}

struct weir__task *weir__fresh_take(struct weir__worker *self)
{
	struct weir__fresh *fresh = &self->fresh;
	struct weir__task *task = NULL, *last;

	lock(fresh);
	if (weir__fresh_count(fresh) > 0)
		task = detach(fresh, 1, &last);
	unlock(fresh);
	return task ? claim(self, task) : NULL;
}

/* Who was woken for a task, and has taken one or has others, wakes the next if there are more. */
static void pass_on(struct weir__worker *self)
{
	self->may_owe_fresh = false;
	if (!weir__fresh_anywhere(self->runtime))
		return;
	atomic_thread_fence(memory_order_seq_cst); /* as in weir__fresh_push() */
	wake_one(self);
}

static bool steal_from(struct weir__worker *self, struct weir__worker *victim)
{
	struct weir__task *first = NULL, *last;
	uint32_t count = weir__fresh_count(&victim->fresh);

	if (count == 0)
		return false;
	lock(&victim->fresh);
	count = (weir__fresh_count(&victim->fresh) + 1) / 2;
	count = count < STEAL_MAX ? count : STEAL_MAX;
	if (count > 0)
		first = detach(&victim->fresh, count, &last);
	unlock(&victim->fresh);
	if (!first)
		return false;
	struct weir__task *rest = first->next;
	self->counts.steals += count;
	weir__ready(self, claim(self, first), 0);
	if (count > 1) {
		lock(&self->fresh);
		append(&self->fresh, rest, last, count - 1);
		unlock(&self->fresh);
	}
	pass_on(self);
	return true;
}

bool weir__fresh_anywhere(const struct weir__runtime *runtime)
{
	if (!atomic_load_explicit(&runtime->has_fresh, memory_order_relaxed))
		return false;
	for (unsigned i = 0; i < runtime->workers_count; i++)
		if (weir__fresh_count(&runtime->workers[i]->fresh) > 0)
			return true;
	return false;
}

void weir__fresh_feed(struct weir__worker *self)
{
	const struct weir__runtime *runtime = self->runtime;
	unsigned at = self->index;
	struct weir__task *task;

	if (weir__fresh_count(&self->fresh) > 0) {
		task = self->fed ? NULL : weir__fresh_take(self);
		if (task) {
			weir__ready(self, task, 0);
			self->fed = task;
		}
		return;
	}
	if (self->runq_head || self->classes_waiting) {
		if (self->may_owe_fresh)
			pass_on(self);
		return;
	}
	for (unsigned n = 1; n < runtime->workers_count; n++) {
		at = at + 1 < runtime->workers_count ? at + 1 : 0;
		if (steal_from(self, runtime->workers[at]))
			return;
	}
}
