/* SPDX-License-Identifier: MIT */
/*
 * scope.c: structured concurrency: open, cancel, join.
 *
 * A task's scopes form a list, innermost first; each has its children. Cancelling a scope marks it
 * and everything inside it, so that a blocking call asks one byte of its task. Marking stops at
 * shields. The walk goes down to children and up again through their owners: depth costs no stack,
 * and breadth no list.
 */
#include "runtime/task.h"

#include <string.h>

#include "runtime/fatal.h"
#include "runtime/wait_kind.h"

/* ---- Cancellation ------------------------------------------------------- */

/* After the second request to stop the runtime shields cover nobody: what was marked is so again.
 */
enum { SOFT = 1, HARD = 2 };

static uint8_t level_of(const struct weir__worker *self)
{
	return atomic_load_explicit(&self->runtime->is_stopping_hard, memory_order_relaxed) ? HARD
											    : SOFT;
}

/*
 * Interrupts `task` unless a shield inside `outermost` covers it. Returns the scope to begin
 * marking with: the innermost that no such shield covers. `outermost` NULL: the whole task.
 */
static struct weir__scope *enter_task(struct weir__task *task, struct weir__scope *outermost,
				      uint8_t level)
{
	struct weir__scope *first = task->scope;

	for (struct weir__scope *scope = first; scope != outermost && level == SOFT;
	     scope = scope->parent)
		if (scope->is_shield)
			first = scope->parent;
	if (!outermost)
		task->base_cancelled = level & 3;
	if (first == task->scope && task->cancelled < level) {
		task->cancelled = level;
		weir__interrupt(task, -ECANCELED);
	}
	return first;
}

/* `child` or the next of its siblings that is to be cancelled here; others' workers are told. */
static struct weir__task *next_child(struct weir__worker *self, struct weir__task *child,
				     uint8_t level)
{
	for (; child; child = child->sibling_next) {
		if (!weir__runs_here(self, child))
			weir__task_cancel_remote(child);
		else if (child->base_cancelled < level)
			break;
	}
	return child;
}

/*
 * Marks the scopes of `top` up to `outermost` (NULL: the task itself) and all below them. `scope`
 * goes outwards through the scopes of `task`, down into the children of each that is not marked
 * yet, and from the last child back to its owner. Below a marked scope all is marked.
 */
static void cancel(struct weir__worker *self, struct weir__task *const top,
		   struct weir__scope *const outermost)
{
	const uint8_t level = level_of(self);
	struct weir__task *task = top;
	struct weir__scope *scope = enter_task(task, outermost, level);

	for (;;) {
		struct weir__task *child = NULL;

		if (!scope && task == top)
			return;
		if (!scope) {
			child = next_child(self, task->sibling_next, level);
			scope = task->owner;
			task = scope->task;
		} else if (scope->cancelled < level) {
			scope->cancelled = level;
			child = next_child(self, scope->children, level);
		}
		if (child) {
			task = child;
			scope = enter_task(child, NULL, level);
		} else if (task == top && scope == outermost) {
			return;
		} else {
			scope = scope->parent;
		}
	}
}

void weir__task_cancel(struct weir__worker *self, struct weir__task *task)
{
	if (task->base_cancelled < level_of(self))
		cancel(self, task, NULL);
}

void weir__scope_cancel(struct weir__worker *self, struct weir__scope *scope)
{
	if (scope->cancelled < level_of(self))
		cancel(self, scope->task, scope);
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
	if (scope->pending == 0 && scope->awaits) {
		scope->awaits = WEIR__AWAITS_NOTHING;
		weir__ready_before(self, scope->task, &self->runq_head);
	}
}

/* The opener is ready now: the end of the last child must not make it so again. */
static void abort_await(struct weir__task *task, int why)
{
	struct weir__scope *scope = task->wait;

	scope->awaits = WEIR__AWAITS_NOTHING;
	weir__ready(task->worker, task, why);
}

static void describe_await(const struct weir__task *task, char *ret, size_t cap)
{
	const struct weir__scope *scope = task->wait;

	snprintf(ret, cap, "%u tasks", scope->pending);
}
WEIR__WAIT_KIND(abort_await, "scope join", describe_await);

/* Parks until no child is left, or, with `interruptible`, until the opener is interrupted. */
static int await_children(struct weir__worker *self, struct weir__scope *scope, bool interruptible)
{
	int err = 0;

	while (scope->pending > 0 && err == 0) {
		scope->awaits = WEIR__AWAITS_CHILDREN;
		if (interruptible)
			err = weir__park(self, abort_await, scope);
		else
			weir__park_for(self, "scope join");
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
		task->cancelled &= HARD;
	scope->parent = task->scope;
	scope->children = NULL;
	scope->deadline_ns = deadline;
	scope->outer_deadline_ns = outer;
	scope->pending = 0;
	scope->error = 0;
	scope->cancelled = task->cancelled;
	scope->is_shield = is_shield;
	scope->awaits = WEIR__AWAITS_NOTHING;
	atomic_init(&scope->asked, WEIR__ASKED_NOT);
	scope->is_bound = 0;
	atomic_signal_fence(memory_order_release); /* for dump.c, which may interrupt us */
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
	atomic_store_explicit(&scope->asked, WEIR__ASKED_HANDLED, memory_order_relaxed);
	if (scope->awaits == WEIR__AWAITS_ASK) {
		scope->awaits = WEIR__AWAITS_NOTHING;
		weir__ready(self, scope->task, 0);
	}
}

void weir__scope_ask(struct weir__scope *scope)
{
	uint8_t not = WEIR__ASKED_NOT;

	if (!atomic_compare_exchange_strong_explicit(&scope->asked, &not, WEIR__ASKED_POSTED,
						     memory_order_relaxed, memory_order_relaxed))
		return;
	scope->ask.fn = cancel_asked;
	weir__worker_post(scope->task->worker, &scope->ask);
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
	if (scope->task->worker == self)
		weir__scope_cancel(self, scope);
	else
		weir__scope_ask(scope);
}

static inline void pop_scope(struct weir__task *task, struct weir__scope *scope)
{
	struct weir__scope *parent = scope->parent;

	task->scope = parent;
	task->cancelled = parent ? parent->cancelled : task->base_cancelled;
	task->deadline_ns = scope->outer_deadline_ns;
	scope->task = NULL;
}

/* The token's message may be on its way still, and it lies in the scope. */
static void unbind(struct weir__worker *self, struct weir__scope *scope)
{
	weir__token_unbind(scope);
	while (atomic_load_explicit(&scope->asked, memory_order_relaxed) == WEIR__ASKED_POSTED) {
		scope->awaits = WEIR__AWAITS_ASK;
		weir__park_for(self, "a canceller");
	}
}

static __attribute__((noinline)) void close_slow(struct weir__task *task, struct weir__scope *scope)
{
	struct weir__worker *self = task->worker;

	if (scope->pending > 0) {
		weir__scope_cancel(self, scope);
		await_children(self, scope, false);
	}
	if (scope->is_bound)
		unbind(self, scope);
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
	if (__builtin_expect(scope->pending | scope->is_bound, 0))
		close_slow(task, scope);
	else
		pop_scope(task, scope);
}
