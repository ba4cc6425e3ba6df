/* SPDX-License-Identifier: MIT */
/*
 * scope.c: structured concurrency: open, cancel, join.
 *
 * A task's scopes form a list, innermost first; each has its children. Cancelling a scope marks it
 * and everything inside it, so that a blocking call asks one byte of its task. Marking stops at
 * shields. The walk over the tasks below uses a work list through the task records: depth costs no
 * stack.
 */
#include "runtime/task.h"

#include <string.h>

#include "runtime/fatal.h"

/* ---- Cancellation ------------------------------------------------------- */

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
 * Marks the scopes of `task` from `outermost` (NULL: the task itself) inwards, up to the outermost
 * shield inside it, and adds their children to the work.
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

/* ---- Children ----------------------------------------------------------- */

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

/* The opener is ready now: the end of the last child must not make it so again. */
static void abort_await(struct weir__task *task, int why)
{
	struct weir__scope *scope = task->wait;

	scope->is_awaited = 0;
	weir__ready(task->worker, task, why);
}

/* Parks until no child is left, or, with `interruptible`, until the opener is interrupted. */
static int await_children(struct weir__worker *self, struct weir__scope *scope, bool interruptible)
{
	int err = 0;

	while (scope->pending > 0 && err == 0) {
		scope->is_awaited = 1;
		err = weir__park(self, interruptible ? abort_await : NULL, scope);
	}
	return err;
}

/* ---- Public ------------------------------------------------------------- */

/* The deadline `timeout_ns` from now, if it is before `outer_ns`; that of WEIR_FOREVER never is. */
static inline int64_t shrink(struct weir__worker *self, int64_t outer_ns, int64_t timeout_ns,
			     int64_t now)
{
	if (now > self->now_ns)
		self->now_ns = now;
	return timeout_ns < outer_ns - self->now_ns ? self->now_ns + timeout_ns : outer_ns;
}

/* Reads the clock first, exactly only where that shows: nothing else has to survive the call. */
static inline void open_scope(struct weir__scope *scope, int64_t timeout_ns, bool is_shield)
{
	int64_t now = 0;

	if (timeout_ns < WEIR_SEC) {
		now = weir__clock_ns();
		timeout_ns = timeout_ns < 0 ? 0 : timeout_ns;
	} else if (timeout_ns != WEIR_FOREVER) {
		now = weir__clock_coarse_ns();
	}
	struct weir__worker *self = weir__worker_self();
	struct weir__task *task = self ? self->current : NULL;

	scope->task = task;
	if (!task)
		return;
	int64_t outer = task->deadline_ns;
	int64_t deadline = shrink(self, is_shield ? INT64_MAX : outer, timeout_ns, now);
	if (is_shield)
		task->cancelled = 0;
	scope->parent = task->scope;
	scope->children = NULL;
	scope->deadline_ns = deadline;
	scope->outer_deadline_ns = outer;
	scope->pending = 0;
	scope->error = 0;
	scope->cancelled = task->cancelled;
	scope->is_shield = is_shield;
	scope->is_awaited = 0;
	atomic_init(&scope->is_asked, 0);
	task->scope = scope;
	task->deadline_ns = deadline;
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

static void cancel_asked(struct weir__worker *self, struct weir__msg *msg)
{
	struct weir__scope *scope = (void *)((char *)msg - offsetof(struct weir__scope, ask));

	weir__scope_cancel(self, scope);
}

/*
 * From another worker the caller is, or was spawned below, a task of the scope: its end comes home
 * through the same inbox, behind this message, so the scope is still open when it is handled.
 */
void weir_scope_cancel(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__worker *self = weir__worker_self();

	if (!self || !scope->task)
		return;
	if (scope->task->worker == self) {
		weir__scope_cancel(self, scope);
	} else if (!atomic_exchange_explicit(&scope->is_asked, 1, memory_order_relaxed)) {
		scope->ask.fn = cancel_asked;
		weir__worker_post(scope->task->worker, &scope->ask);
	}
}

static inline void pop_scope(struct weir__task *task, struct weir__scope *scope)
{
	struct weir__scope *parent = scope->parent;

	task->scope = parent;
	task->cancelled = parent ? parent->cancelled : task->base_cancelled;
	task->deadline_ns = scope->outer_deadline_ns;
	scope->task = NULL;
}

static __attribute__((noinline)) void close_with_children(struct weir__task *task,
							  struct weir__scope *scope)
{
	weir__scope_cancel(task->worker, scope);
	await_children(task->worker, scope, false);
	pop_scope(task, scope);
}

void weir_scope_close(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__task *task = scope->task;

	if (!task)
		return;
	/* scopes are closed by their opener, in the reverse order of their opening */
	WEIR_ASSERT(task->scope == scope && task->worker->current == task);
	if (__builtin_expect(scope->pending > 0, 0))
		close_with_children(task, scope);
	else
		pop_scope(task, scope);
}
