/* SPDX-License-Identifier: MIT */
/*
 * scope.c: structured concurrency: open, cancel, join.
 *
 * A task's scopes form a list, innermost first; each has its children. Cancelling a scope marks it and
 * everything inside it, so that a blocking call asks one byte of its task. Marking stops at shields. The
 * walk over the tasks below uses a work list through the task records: depth costs no stack.
 */
#include "runtime/task.h"

#include <string.h>

#include "runtime/fatal.h"

/* ---- Cancellation ------------------------------------------------------------------------------- */

struct work {
	struct weir__task *head;
	struct weir__task **tail;
};

static void work_add(struct work *work, struct weir__task *task)
{
	task->cancel_next = NULL;
	*work->tail = task;
	work->tail = &task->cancel_next;
}

static void cancel_children(struct weir__worker *self, struct weir__scope *scope, struct work *work)
{
	for (struct weir__task *child = scope->children; child; child = child->sibling_next) {
		if (child->worker == self)
			work_add(work, child);
		else
			weir__task_cancel_remote(child);
	}
}

/*
 * Marks the scopes of `task` from `outermost` (NULL: the task itself) inwards, up to the outermost shield
 * inside it, and adds their children to the work.
 */
static void mark(struct weir__worker *self, struct weir__task *task, struct weir__scope *outermost,
		 struct work *work)
{
	struct weir__scope *first = task->scope;
	struct weir__scope *scope;

	for (scope = task->scope; scope != outermost; scope = scope->parent)
		if (scope->is_shield)
			first = scope->parent;
	for (scope = first;; scope = scope->parent) {
		if (!scope) {
			task->base_cancelled = 1;
			break;
		}
		if (!scope->cancelled) {
			scope->cancelled = 1;
			cancel_children(self, scope, work);
		}
		if (scope == outermost)
			break;
	}
	if (first == task->scope && !task->cancelled) {
		task->cancelled = 1;
		weir__interrupt(task, -ECANCELED);
	}
}

static void cancel_all(struct weir__worker *self, struct work *work)
{
	struct weir__task *task;

	while ((task = work->head) != NULL) {
		work->head = task->cancel_next;
		if (!work->head)
			work->tail = &work->head;
		mark(self, task, NULL, work);
	}
}

void weir__task_cancel(struct weir__worker *self, struct weir__task *task)
{
	struct work work = { NULL, &work.head };

	work_add(&work, task);
	cancel_all(self, &work);
}

void weir__scope_cancel(struct weir__worker *self, struct weir__scope *scope)
{
	struct work work = { NULL, &work.head };

	if (scope->cancelled)
		return;
	mark(self, scope->task, scope, &work);
	cancel_all(self, &work);
}

/* ---- Children ----------------------------------------------------------------------------------- */

void weir__scope_child_ended(struct weir__worker *self, struct weir__task *task)
{
	struct weir__scope *scope = task->owner;
	int result = task->result;

	*task->sibling_pprev = task->sibling_next;
	if (task->sibling_next)
		task->sibling_next->sibling_pprev = task->sibling_pprev;
	weir__task_free(task);
	scope->pending--;
	if (result < 0 && result != -ECANCELED && !scope->error) {
		scope->error = result;
		weir__scope_cancel(self, scope);
	}
	if (scope->pending == 0 && scope->is_awaited) {
		scope->is_awaited = 0;
		weir__ready(self, scope->task, 0);
	}
}

/* Parks until no child is left, or, with `interruptible`, until the opener is interrupted. */
static int await_children(struct weir__worker *self, struct weir__scope *scope, bool interruptible)
{
	int err = 0;

	while (scope->pending > 0 && err == 0) {
		scope->is_awaited = 1;
		err = weir__park(self, interruptible ? weir__abort_ready : NULL, scope);
		scope->is_awaited = 0;
	}
	return err;
}

/* ---- Public ------------------------------------------------------------------------------------- */

static void open_scope(struct weir__scope *scope, int64_t timeout_ns, bool is_shield)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__task *task = self ? self->current : NULL;

	memset(scope, 0, sizeof *scope);
	if (!task)
		return;
	scope->task = task;
	scope->parent = task->scope;
	scope->is_shield = is_shield;
	scope->cancelled = is_shield ? 0 : task->cancelled;
	scope->deadline_ns = is_shield ? INT64_MAX : task->deadline_ns;
	if (timeout_ns < WEIR_SEC) /* the clock is read only where its age matters */
		self->now_ns = weir__clock_ns();
	if (timeout_ns < 0)
		timeout_ns = 0;
	if (timeout_ns < scope->deadline_ns - self->now_ns)
		scope->deadline_ns = self->now_ns + timeout_ns;
	task->scope = scope;
	task->cancelled = scope->cancelled;
	task->deadline_ns = scope->deadline_ns;
}

void weir_scope_open(struct weir_scope *scope, int64_t timeout_ns)
{
	open_scope(weir__scope_of(scope), timeout_ns, false);
}

void weir_scope_open_shield(struct weir_scope *scope, int64_t timeout_ns)
{
	open_scope(weir__scope_of(scope), timeout_ns, true);
}

int weir_scope_wait(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__worker *self = weir__worker_self();

	if (!scope->task || !self || scope->task != self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err == 0)
		err = await_children(self, scope, true);
	if (err < 0) {
		weir__scope_cancel(self, scope);
		await_children(self, scope, false);
	}
	return scope->error ? scope->error : err;
}

void weir_scope_cancel(struct weir_scope *scope)
{
	struct weir__worker *self = weir__worker_self();

	if (self && weir__scope_of(scope)->task && weir__scope_of(scope)->task->worker == self)
		weir__scope_cancel(self, weir__scope_of(scope));
}

static void pop_scope(struct weir__task *task, struct weir__scope *scope)
{
	WEIR_ASSERT(task->scope == scope); /* scopes close in the reverse order of their opening */
	task->scope = scope->parent;
	if (task->scope) {
		task->cancelled = task->scope->cancelled;
		task->deadline_ns = task->scope->deadline_ns;
	} else {
		task->cancelled = task->base_cancelled;
		task->deadline_ns = task->owner ? task->owner->deadline_ns : INT64_MAX;
	}
	scope->task = NULL;
}

void weir_scope_close(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__task *task = scope->task;

	if (!task)
		return;
	if (scope->pending > 0) {
		weir__scope_cancel(task->worker, scope);
		await_children(task->worker, scope, false);
	}
	pop_scope(task, scope);
}
